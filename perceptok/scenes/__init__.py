"""A procedural world with exact truth: depth maps and colour pictures that need no download."""
