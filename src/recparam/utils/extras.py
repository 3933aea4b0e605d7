"""Optional dependencies, which the extras of the package install."""

from importlib import import_module
from typing import Any


class MissingExtra(ImportError, ValueError):
    """An optional dependency is not installed; the text says how to install it."""


def optional(module: str, extra: str, *, needed_by: str = "such a file") -> Any:
    """An optional dependency.

    Args:
        module: its name.
        extra: the extra of recparam that installs it.
        needed_by: what needs it, for the message.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"Expected {module} to be installed, which {needed_by} needs; got {error}. "
            f"Run pip install 'recparam[{extra}]'."
        ) from error
