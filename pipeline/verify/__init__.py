"""Whether written answers are nearest to their own images, and what a model that sees says."""
