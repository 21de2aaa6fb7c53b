"""Vision-language models: packing, attention, templates, log-probabilities, generation."""
