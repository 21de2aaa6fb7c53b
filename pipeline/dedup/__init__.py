"""Deduplication, linked groups, decontamination against benchmarks."""
