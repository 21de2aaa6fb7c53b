"""Intervals, significance, dependence on the image."""
