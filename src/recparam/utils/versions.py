"""The versions that a result depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("recparam", "torch", "lightning", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Return the versions of what the numbers may depend on, by name."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra, or recparam itself where it runs from a source tree
        return "not installed"
