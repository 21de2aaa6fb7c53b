"""The page of a build."""
