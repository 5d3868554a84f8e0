"""A procedural world with exact ground truth: depth maps and colour images that need no download."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
