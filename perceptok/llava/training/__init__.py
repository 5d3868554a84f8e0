"""Fine-tuning: the recipe, batches, losses, checkpoints and reports of a run."""
