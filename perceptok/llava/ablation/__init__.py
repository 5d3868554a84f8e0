"""Ablations: what each part of the method is worth, as a grid of runs that share what they can."""
