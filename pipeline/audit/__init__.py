"""The shortcut audit: can the original be told from the edited side without looking at what it
shows?
"""
