"""Boxes to codes and back."""
