"""How files are turned into rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recparam.data.recording import Recording


@dataclass(frozen=True)
class Reading:
    """How files are turned into rows; the same for every command on a run.

    Args:
        key: Name of the array in files that hold several.
        size: Longer side of frames in pixels.
        grey: Whether frames lose their colour.
    """

    key: str | None = None
    size: int | None = None
    grey: bool | None = None

    def read(self, paths: Sequence[Path]) -> "Recording":
        """Read files, each one a session.

        Raises:
            ValueError: No files, or files that cannot be read.
        """
        from recparam.data.readers import read  # not above: the command line builds this object to print its help

        if not paths:
            raise ValueError("Expected DATA, at least one file; got none.")
        return read(list(paths), key=self.key, size=self.size, grey=self.grey)
