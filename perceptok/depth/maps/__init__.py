"""Depth maps in files and arrays: what their numbers mean, and their way to nearness and back."""
