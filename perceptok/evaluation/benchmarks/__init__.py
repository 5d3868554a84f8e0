"""Benchmarks in their published layouts, and the one way in which answers to them are scored."""
