"""Color images of procedural scenes: materials, light, and the ground truth of what is seen."""
