"""Tasks: what is asked of a picture with depth or boxes, and the record that comes of it."""
