"""Whether rewritten answers are still nearest to their own images, and what a model that sees says
of them.
"""
