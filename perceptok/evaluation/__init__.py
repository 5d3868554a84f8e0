"""Answers read, benchmarks scored, evidence checked, and pages to look at."""
