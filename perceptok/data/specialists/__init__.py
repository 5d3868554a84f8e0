"""Vision specialists: networks that see depth or boxes, behind one protocol."""
