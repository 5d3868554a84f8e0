"""The losses and the curriculum of AURORA (Eqs. 1 to 4, arXiv 2412.03548), and terms that later work added."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
