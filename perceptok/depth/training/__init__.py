"""Training a depth codec."""
