"""Perception tokens: depth maps and boxes as discrete tokens for multimodal language models.

The names that most programs use stand here; everything else is in the packages (`perceptok.depth`, `perceptok.boxes`,
...). Each is imported on first use, so that `import perceptok` costs next to nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
