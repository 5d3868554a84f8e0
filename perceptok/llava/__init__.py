"""The integrated module: multimodal models that learn perception tokens, write them, and answer from them."""
