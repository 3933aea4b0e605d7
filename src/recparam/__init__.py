"""Recognition-parameterised models in PyTorch.

Top-level names load on first use, so that `import recparam` is quick and has no side effect. `__init__.pyi` lists them.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

try:
    __version__ = version("recparam")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    """The public names, and no module that happens to be loaded."""
    return sorted(__all__)
