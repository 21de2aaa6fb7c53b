"""Benchmark runs: requests, responses, judges, scores."""
