"""HTML pages of results: one file each, with tables, figures and cases to step through."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
