"""Decoding held to the grammar of perception tokens: every block and every tuple that is generated is whole."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
