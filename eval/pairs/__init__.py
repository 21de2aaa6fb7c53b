"""Contrast scores on MVC pairs."""
