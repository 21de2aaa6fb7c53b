"""Captions and answers as language: stems, what two texts differ in, whether a text is usable."""
