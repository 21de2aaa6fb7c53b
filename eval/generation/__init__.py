"""Answers of a model: what it is shown, generated in batches, kept."""
