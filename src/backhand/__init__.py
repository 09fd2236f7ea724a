"""Backpropagation by hand: write the backward pass yourself, know whether it is right, and train with it.

The names are imported when they are first used, so that `import backhand` alone does not wait for PyTorch;
they are listed in `__init__.pyi`.
"""

import lazy_loader

from . import rendering as _rendering  # noqa: F401  (says how a report is shown; no renderer is imported yet)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
