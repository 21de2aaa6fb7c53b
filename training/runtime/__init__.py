"""Where a training process runs: alone or as one of several workers."""
