"""The integrated module: multimodal models that learn perception tokens, write them, and answer from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
