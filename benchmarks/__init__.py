"""Benchmarks: speed beside what a user would run instead, as ratios from one run on one machine."""
