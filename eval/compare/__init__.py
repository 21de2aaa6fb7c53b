"""Finished evaluations side by side."""
