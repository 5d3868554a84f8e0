"""Fine-tuning: configuration, samples, losses, trainer."""
