"""Boxes in files: COCO, LVIS, YOLO and others, and records of many images."""
