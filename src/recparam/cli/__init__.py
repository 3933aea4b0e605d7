"""The command line; `recparam` on the shell is `main`."""

from recparam.cli.app import main

__all__ = ["main"]
