"""Which candidates are kept: thresholds, sampling, other thresholds tried out."""
