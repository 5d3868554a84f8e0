"""How good predicted boxes are, and what they look like."""
