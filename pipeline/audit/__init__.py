"""The shortcut audit: what gives an edited side away without what it shows."""
