"""Pieces of a self-contained HTML page: the frame, its style, tables and numbers as text."""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from recparam.utils.storage import replacing

Image = bytes | str | os.PathLike[str]
"""A PNG: its bytes, or the path of its file."""

DASH = "–"
"""Stands for a value that is missing or no finite number."""

_PNG = b"\x89PNG\r\n\x1a\n"

_CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #222;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #e2e2e2; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p, dl, .note { max-width: 46rem; }
figcaption { max-width: 54rem; }
.label { color: #555; font-size: 1.05rem; margin: 0 0 1rem; }
.note, figcaption { color: #555; font-size: .9rem; line-height: 1.5; }
figure { margin: 1rem 0 2rem; }
figure img { display: block; width: 100%; height: auto; }
figure.curves img { max-width: 760px; }
figcaption { margin-top: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0 .6rem;
  font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .32rem .9rem .32rem 0; text-align: right; white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; }
thead th { border-bottom: 1.5px solid #222; white-space: normal; vertical-align: bottom; line-height: 1.3; }
tbody td, tbody th { border-bottom: 1px solid #ececec; }
.text, th.text, td.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: break-word; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
.arms { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .95rem; }
.arms dd { margin: 0; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } main { max-width: none; } }
"""


def write_page(path: str | os.PathLike[str], *, title: str, parts: Iterable[str]) -> Path:
    """Write one HTML file that needs no other file, no network and no scripts.

    Args:
        path: the file to write; replaced as a whole, or not at all.
        title: of the page, as text.
        parts: HTML, in order; empty ones are left out.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written.
    """
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    with replacing(path) as file:
        file.write_text(page, encoding="utf-8")
    return Path(path)


def text(value: object) -> str:
    """Escape a value as text of a page or of an attribute."""
    return escape(str(value), quote=True)


def section(heading: str, body: str) -> str:
    """Put a heading, which is escaped, over a body, which is not."""
    return f"<section>\n<h2>{text(heading)}</h2>\n{body}\n</section>"


def png_source(image: Image, name: str) -> str:
    """Return an image as a data URL; `name` says in the error which one is no PNG."""
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    if not data.startswith(_PNG):
        raise ValueError(
            f"figures and curves: expected PNG images, got other content for {name!r}; "
            "pass the .png that save_figure returns first, not the .pdf"
        )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def pairs_table(values: Mapping[str, Any]) -> str:
    """Build a table of names and values, nested names joined by dots."""
    return table(["name", "value"], [[text(k), text(v)] for k, v in _flat(values)], left=2)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) or DASH
        else:
            yield name, DASH if value is None else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, right: int = 0) -> str:
    """Build a table from escaped cells; ``left`` columns are text, then come numbers, then ``right`` of text."""

    def cell(index: int, content: str, tag: str, scope: str = "") -> str:
        kind = ' class="text"' if index < left or index >= len(head) - right else ""
        return f"<{tag}{scope}{kind}>{content}</{tag}>"

    top = "".join(cell(i, text(name), "th", ' scope="col"') for i, name in enumerate(head))
    body = "\n".join(
        "<tr>"
        + cell(0, row[0], "th", ' scope="row"')
        + "".join(cell(i, content, "td") for i, content in enumerate(row[1:], start=1))
        + "</tr>"
        for row in rows
    )
    whole = f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="scroll">{whole}</div>'


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


def duration(seconds: float) -> str:
    """Format seconds in a unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
