"""File formats of depth maps, one module each."""
