"""Self-contained HTML pages: templates, which are files of the package, filled in with values as text."""

import base64
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recparam.utils.storage import replacing

Image = bytes | str | os.PathLike[str]
"""A PNG: its bytes, or the path of its file."""

DASH = "–"
"""In place of a value that is missing or no finite number."""

_PNG = b"\x89PNG\r\n\x1a\n"


def write_page(path: str | os.PathLike[str], template: str, values: Mapping[str, Any]) -> Path:
    """Write one HTML file that needs no other file, no network and no scripts.

    Args:
        path: the file to write; replaced as a whole, or not at all.
        template: a template that extends `plots/page.html`, by its path in the package.
        values: what it shows, by name, all text escaped: `title`, `details` (tables of names and values, by their
            headings), and what its own blocks ask for.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recparam", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"flat": _flat, "number": number}
    page = environment.get_template(template).render(values)
    with replacing(path) as file:
        file.write_text(page, encoding="utf-8")
    return Path(path)


def png_source(image: Image, name: str) -> str:
    """Return an image as a data URL; `name` says in the error which one is no PNG."""
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    if not data.startswith(_PNG):
        raise ValueError(
            f"Expected figures and curves as PNG images; got other content for {name!r}. Pass the .png that "
            "save_figure returns first, not the .pdf."
        )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and values as text, nested names joined by dots."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or DASH
        else:
            yield name, DASH if value is None else str(value)


def finite(value: object) -> bool:
    """Say whether a value is a number, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """Format to significant digits without an exponent; a dash for what is not a finite number."""
    if not finite(value):
        return DASH
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    # A proper minus sign lines up with the digits; beyond six places nothing is measured.
    return f"{value:.{min(places, 6)}f}".replace("-", "−")


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """Format an interval; a dash where an end of it is not a finite number."""
    return f"{number(low, digits)} to {number(high, digits)}" if finite(low) and finite(high) else DASH


def duration(seconds: float) -> str:
    """Format seconds in a unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
