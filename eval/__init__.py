"""Does the model look at the image? Paired log-likelihoods, dependency on the image, and
hallucination, with intervals.
"""
