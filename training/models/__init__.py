"""Vision-language model families: packing, attention, chat templates, log-probabilities,
generation.
"""
