"""Asking a model: pictures and prompts in, answers with depth, boxes and points in the image's own pixels out."""
