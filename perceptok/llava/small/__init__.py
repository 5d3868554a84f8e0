"""A small LLaVA of real pretrained parts that trains on two cores, and the demonstration with it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
