"""Perception tokens in a language model's vocabulary."""
