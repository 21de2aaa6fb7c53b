"""Does the model look at the image? Paired scores, dependency, hallucination, intervals."""
