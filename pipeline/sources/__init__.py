"""One module per source format: native records in, candidates out."""
