"""Inference: questions about images in, answers with depth map, boxes and points in the image's pixels out."""
