"""Image frames: how an image's pixels relate to what a model sees, with the exact inverse."""
