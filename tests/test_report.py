import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recparam.experiments.balls.arm_style import ARM_ORDER, arm_title
from recparam.experiments.balls.report import write_report
from recparam.runs.latents import Latents
from recparam.runs.report import write_run_report

HOSTILE = "<script>alert('x')</script> & \"quoted\""


def png() -> bytes:
    """Return a PNG of one grey pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def results(arms: tuple[str, ...] = ARM_ORDER) -> dict[str, Any]:
    return {
        "format": 1,
        "preset": "quick",
        "label": HOSTILE,
        "size_px": 64,
        "diameter_px": 8.0,
        "seeds": [0, 7],
        "videos": ["black"],
        "arms": list(arms),
        "seconds": 123.4,
        "versions": {"torch": "2.13.0"},
        "settings": {"epochs": 30, "recipe": {"lr": 0.02, "lengthscale": None}},
        "runs": [
            {
                "video": "black",
                "seed": 7,
                "arm": arm,
                "bound_nats": 2.91234 if arm in ("gaussian", "linear", "recipe") else None,
                "bound_kind": "estimate",
                "bound_of": "elbo",
                "ceiling_nats": 3.4012,
                "heldout_bound_nats": -0.51237,
                "heldout_ceiling_nats": 3.4012,
                "seconds": 12.3,
            }
            for arm in arms
        ],
        "summary": {
            "black": {
                arm: {
                    "mean_px": 0.5 * 2**index,
                    "low_px": 0.4,
                    "high_px": 0.6,
                    "per_ball_px": [1.25, 2.5, 3.75],
                    "matched_mean_px": None,
                    "mean_256_px": 2.0 * 2**index,
                }
                for index, arm in enumerate(arms)
            }
        },
    }


class Page(HTMLParser):
    """Collects tags, links and table rows, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def page(tmp_path: Path, **changes: Any) -> tuple[Page, str]:
    arguments = {"title": "Moving balls", "results": results(), "figures": {"black": png()}} | changes
    text = write_report(tmp_path / "report.html", **arguments).read_text(encoding="utf-8")
    return Page(text), text


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "curves.png"
    file.write_bytes(png())
    found, text = page(tmp_path, curves=file, captions={"black": "A caption."})
    assert len(found.links) == 2
    for link in found.links:
        head, _, body = link.partition(",")
        assert head == "data:image/png;base64" and base64.b64decode(body, validate=True) == png()
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "A caption." in found.words


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    data = results((HOSTILE,))
    data["failed"] = [{"video": HOSTILE, "seed": 0, "arm": "linear", "message": HOSTILE}]
    data["summary"] = {HOSTILE: data["summary"]["black"]}
    data["runs"][0] |= {"video": HOSTILE, "bound_of": HOSTILE, "bound_kind": HOSTILE}
    data["preset"] = HOSTILE
    found, text = page(
        tmp_path,
        title=HOSTILE,
        results=data,
        figures={HOSTILE: png()},
        curves={HOSTILE: png()},
        captions={HOSTILE: HOSTILE},
        settings={HOSTILE: [HOSTILE]},
        versions={HOSTILE: HOSTILE},
    )
    assert "script" not in found.tags and "<script" not in text
    assert found.words.count(HOSTILE) >= 16  # read back, it is the text that went in


def test_errors_of_all_arms_are_tabulated_in_order(tmp_path: Path) -> None:
    found, _ = page(tmp_path)
    rows = [row for row in found.rows if len(row) == 10 and row[0] in {"arm", *map(arm_title, ARM_ORDER)}]
    assert rows[0][:5] == ["arm", "mean (px)", "95% interval", "× supervised", "at 256 px"]
    assert [row[0] for row in rows[1:]] == [arm_title(arm) for arm in ARM_ORDER]
    assert rows[6] == ["Gaussian", "16.0", "0.400 to 0.600", "32.0", "64.0", "1.25", "2.50", "3.75", "–", "–"]


def test_bounds_say_what_they_are(tmp_path: Path) -> None:
    found, _ = page(tmp_path)
    row = next(row for row in found.rows if len(row) == 10 and row[1] == "Gaussian")
    assert row == ["black", "Gaussian", "ELBO", "estimate", "7", "2.912", "3.401", "−0.5124", "3.401", "12.3"]


def test_no_remark_where_all_values_keep_below_their_ceiling(tmp_path: Path) -> None:
    data = results(("gaussian",))
    data["runs"][0]["bound_nats"] = 3.4015  # rounding
    found, _ = page(tmp_path, results=data)
    assert not any("remark" in row for row in found.rows) and "single precision lost" not in found.words


def test_values_above_their_ceiling_are_marked_in_words(tmp_path: Path) -> None:
    data = results(("gaussian", "linear", "recipe"))
    data["runs"][1]["heldout_bound_nats"] = 131072.0
    data["runs"][2] |= {"bound_nats": 21723.8, "heldout_bound_nats": 3.41}
    found, _ = page(tmp_path, results=data)
    head, *rows = [row for row in found.rows if len(row) == 11]
    assert head[-1] == "remark"
    remarks = {row[1]: row[-1] for row in rows}
    assert remarks == {
        "Gaussian": "",
        "linear": "held out above its ceiling: single precision lost, not a bound",
        "recipe": "training and held out above their ceilings: single precision lost, not a bound",
    }
    assert "in exact arithmetic no value exceeds its ceiling" in " ".join(found.words.split())


def test_arms_and_terms_are_defined(tmp_path: Path) -> None:
    found, _ = page(tmp_path)
    for words in ("settings this library recommends", "the mean centre of the training video", "R(z′)the density of"):
        assert words in found.words


def test_settings_versions_and_seeds_are_shown(tmp_path: Path) -> None:
    found, _ = page(tmp_path)
    assert ["epochs", "30"] in found.rows and ["recipe.lengthscale", "–"] in found.rows
    assert ["torch", "2.13.0"] in found.rows
    assert "seeds 0, 7" in found.words and "2 min" in found.words


def test_partial_results_still_make_a_page(tmp_path: Path) -> None:
    data = results(("gaussian",))
    data["runs"][0] |= {"bound_nats": None, "heldout_bound_nats": float("nan")}
    data["summary"]["black"]["gaussian"] |= {"low_px": None, "high_px": None}
    found, _ = page(tmp_path, results=data, figures={})
    row = next(row for row in found.rows if row[0] == "Gaussian")
    assert row[1:4] == ["0.500", "–", "–"]
    assert "Bounds" not in found.words and "img" not in found.tags
    empty, _ = page(tmp_path, results={}, figures={})
    assert empty.rows == []


def test_a_failure_leaves_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'black'.*\.png"):
        write_report(path, title="t", results=results(), figures={"black": b"%PDF-1.4"})
    assert path.read_text(encoding="utf-8") == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dims", [2, 7])
def test_a_run_s_page_escapes_text_and_needs_no_prediction(tmp_path: Path, dims: int) -> None:
    rng = np.random.default_rng(0)
    latents = Latents(z=rng.normal(size=(40, dims)), sessions=np.arange(40) // 20, held_out=np.arange(40) % 20 > 9)
    bound = {"of": "elbo", "kind": "estimate", "value_nats": 1.23456, "low_nats": None, "high_nats": None}
    path = write_run_report(
        tmp_path / "report.html",
        title=HOSTILE,
        description=HOSTILE,
        bound=bound | {"ceiling_nats": 3.0, "pairs": 18, "blocks": None},
        history=[{"step": step, "bound_nats": 0.1 * step, "validation_nats": 0.1 * step} for step in range(3)],
        latents=latents,
        labels={HOSTILE: latents.z[:, 0]},
        data={HOSTILE: HOSTILE},
        settings={},
        versions={},
    )
    found = Page(path.read_text(encoding="utf-8"))
    assert "script" not in found.tags and found.words.count(HOSTILE) == 6
    assert found.rows[1] == ["ELBO − const", "estimate", "1.235", "–", "3.000", "18", "–"]
    words = " ".join(found.words.split())
    assert "less its constant: 1.235 of at most 3.000 nats per pair" in words and "Nothing is drawn" in words
    assert ("The first 6 of 7 latents are drawn." in words) == (dims == 7) and "a session ends." in words
    assert "R² = 1.00 on the 20 held-out rows" in words and "Settings" not in words
