"""Training and test data: procedural scenes with exact ground truth."""
