"""What a model wrote, taken apart: whole answers, and tokens as they arrive."""
