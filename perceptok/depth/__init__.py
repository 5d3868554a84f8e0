"""Depth maps to codes and back."""
