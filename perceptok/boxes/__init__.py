"""Boxes and points <-> coordinate codes: image frames, the codec, metrics."""
