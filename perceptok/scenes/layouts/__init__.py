"""Layouts of procedural scenes, one module each, and the parts that they are built from."""
