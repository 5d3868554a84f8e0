"""Layouts of procedural scenes, and the objects that they place."""
