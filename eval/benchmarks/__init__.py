"""Public benchmarks: one file each, found by name through `eval.benchmarks.registry`."""
