"""Images as frames: those of a folder in the order of their numbers, and the pages of a file."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from recparam.data.frames import IMAGES, VIDEOS, Wide, note, resized, shrunk
from recparam.data.recording import Recording
from recparam.data.stored import spooled
from recparam.utils.extras import MissingExtra, optional

_TIFF = (".tif", ".tiff")
_GREY = ("1", "L", "LA", "La", "I", "F")  # modes of Pillow, without the width of wider ones
_REDUCED, _ORIENTATION = 254, 274  # tags of TIFF


@dataclass(frozen=True)
class _Kind:
    """What a first look at the pages of a file says: their height and width, whether they are grey, and wide."""

    height: int
    width: int
    grey: bool
    wide: bool
    whole: bool
    notes: tuple[str, ...] = ()


def read_images(path: Path, *, size: int | None = None, grey: bool | None = None) -> Recording | Wide:
    """Images as frames (T, H, W, C): the pages of a file, or the images of a folder with all of their pages.

    The images of a folder are in the order of their names (frame 2 before frame 10); hidden files are passed over.
    Cameras' orientation is honoured, and transparent pixels are black.

    Args:
        path: A file of several pages, or a folder of images of one size.
        size: Pixels of the longer side; None: those of the images, at most 128.
        grey: One channel instead of three; None: where all images are grey.

    Returns:
        Bytes, with the times of an animation; or wider frames, whose range is not known yet.

    Raises:
        ValueError: No images, images of different sizes or widths, damaged ones, or a file of one page.
    """
    paths = _images(path) if path.is_dir() else [path]
    kinds = [_kind(one) for one in paths]
    first = kinds[0]
    for one, kind in zip(paths, kinds, strict=True):
        if (kind.height, kind.width) != (first.height, first.width):
            raise ValueError(
                f"Expected images of one size; got {first.width}x{first.height} in {paths[0].name} and "
                f"{kind.width}x{kind.height} in {one.name}. Crop or resize them."
            )
        if kind.wide != first.wide:
            raise ValueError(
                f"Expected images with as many bits each; got {_bits(first)} in {paths[0].name} and {_bits(kind)} in "
                f"{one.name}. Convert some."
            )
    colours = {kind.grey for kind in kinds}
    grey = colours == {True} if grey is None else grey
    before, after = (first.height, first.width), resized(first.height, first.width, size)
    durations: list[float] = []
    frames = spooled(
        _finished(picture, before, after, grey, one)[None] for one in paths for picture in _pages(one, durations)
    )
    if path.is_file() and len(frames) == 1:
        raise ValueError("Expected an image of several pages, or a folder of images; got a file of one page.")
    timed = path.is_file() and len(durations) == len(frames) and min(durations) > 0
    recording = Recording.of(frames, times=np.cumsum([0.0, *durations[:-1]]) / 1000 if timed else None)
    notes = [note(frames, before), *(said for kind in kinds for said in kind.notes)]
    if len(colours) > 1:
        notes.append("grey and colour images together")
    if len(frames) > len(paths) > 1:
        notes.append(f"all pages of {len(paths)} files, as frames that follow each other")
    for said in dict.fromkeys([*notes, *_numbering(paths)]):
        recording.noted(said)
    return Wide(recording, whole=all(kind.whole for kind in kinds)) if first.wide else recording


def _images(folder: Path) -> list[Path]:
    seen = [one for one in folder.iterdir() if not one.name.startswith(".") and not one.is_dir()]
    paths = sorted((one for one in seen if one.suffix.lower() in IMAGES), key=_natural)
    if paths:
        return paths
    videos = [one.name for one in seen if one.suffix.lower() in VIDEOS]
    inside = [one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
    advice = "Choose another."
    if videos or inside:
        advice = "Give the videos: each is a session." if videos else f"Choose a folder in it, as {inside[0]}."
    raise ValueError(f"Expected a folder of images ({', '.join(IMAGES)}); got none in it. {advice}")


def _bits(kind: _Kind) -> str:
    return "8 bits" if not kind.wide else "more" if kind.whole else "floats"


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _numbering(paths: Sequence[Path]) -> Iterator[str]:
    """What the numbers in the names of images say against their order: those that are missing or come twice."""
    if len(paths) < 2:
        return
    texts = [re.split(r"\d+", path.stem) for path in paths]
    other = next((k for k, text in enumerate(texts) if text != texts[0]), None)
    if other is not None:
        yield f"names of several kinds, in their own order: {paths[other - 1].name} is followed by {paths[other].name}"
        return
    numbers = np.array([[int(part) for part in re.findall(r"\d+", path.stem)] for path in paths], dtype=object)
    varying = [k for k in range(numbers.shape[1]) if len(set(numbers[:, k])) > 1] if numbers.size else []
    if len(varying) > 1 or (not numbers.size and len({path.stem for path in paths}) == len(paths)):
        return  # dates and times, or no numbers
    counted = [row[varying[0]] if varying else row for row in numbers]
    steps = [int(b - a) for a, b in pairwise(counted)] if varying else [0] * (len(paths) - 1)
    if 0 in steps:
        place = steps.index(0)
        yield f"numbers that come twice: {paths[place].name} is followed by {paths[place + 1].name}"
    usual = max(sorted(Counter(steps).items()), key=lambda step: step[1])[0]
    jumps = [k for k, step in enumerate(steps) if step > usual > 0]
    if jumps:
        missing = sum(steps[k] // usual - 1 for k in jumps)
        yield (
            f"{missing} frames are missing by their numbers, the first between {paths[jumps[0]].name} and "
            f"{paths[jumps[0] + 1].name}; the rows around a missing frame are taken for neighbours"
        )


# Pages


def _kind(path: Path) -> _Kind:
    with _whole(path):
        with _tiff(path) as series:
            if series:
                (_, height, width, channels), _ = _axes(series[0])
                kind = np.dtype(series[0].dtype)
                return _Kind(height, width, channels == 1, kind not in (np.uint8, np.bool_), kind.kind in "biu")
        with ExitStack() as opened:
            if path.suffix.lower() in _TIFF:  # where Pillow warns of what is cut off
                opened.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("error", message="Corrupt EXIF|Truncated", category=UserWarning)
            image = opened.enter_context(Image.open(path))
            _check_all_pages(path, image)
            deep = any(";16" in str(tile) for tile in image.tile)
            # Of a PNG Pillow would decode all to know that there is no orientation.
            turned = image.getexif().get(_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
            shown = image if turned == 1 else ImageOps.exif_transpose(image)
            height, width, mode = shown.height, shown.width, image.mode
            wide = mode.startswith(("I", "F"))
            notes = []
            if deep and not wide:
                notes.append("16 bits per colour, read as 8")
            if turned != 1:
                notes.append("turned as the orientation in the file says")
            if _transparent(image):
                notes.append("transparent pixels are black")
            if mode not in ("1", "L", "RGB") and not wide and not _transparent(image):
                notes.append(f"{'indexed colours' if mode == 'P' else mode} read as red, green and blue")
            return _Kind(height, width, mode.split(";")[0] in _GREY, wide, not mode.startswith("F"), tuple(notes))


def _pages(path: Path, durations: list[float]) -> Iterator[np.ndarray]:
    """The pages (H, W, C) of a file, bytes or wider numbers; the milliseconds that each is shown are appended."""
    with _whole(path):
        with _tiff(path) as series:
            for one in series:
                yield from _tiff_pages(one, path)
            if series:
                return
        with Image.open(path) as image:
            for page in ImageSequence.Iterator(image):
                # A preview, or a smaller copy of the page before.
                if page.tell() and (image.format == "MPO" or getattr(page, "tag_v2", {}).get(_REDUCED, 0) & 1):
                    continue
                yield _as_array(page)
                durations.append(float(page.info.get("duration", 0)))  # known once it is decoded


def _as_array(page: Image.Image) -> np.ndarray:
    page = ImageOps.exif_transpose(page)
    if _transparent(page):
        grey = page.mode in ("LA", "La")
        opaque = Image.new("RGBA", page.size, "black")
        page = Image.alpha_composite(opaque, page.convert("RGBA")).convert("L" if grey else "RGB")
    elif page.mode == "1":
        page = page.convert("L")
    elif page.mode not in ("L", "RGB") and not page.mode.startswith(("I", "F")):
        page = page.convert("RGB")
    array = np.asarray(page)
    return array.reshape(*array.shape[:2], -1)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _finished(
    picture: np.ndarray, before: tuple[int, int], after: tuple[int, int], grey: bool, path: Path
) -> np.ndarray:
    """A page in the size and with the channels that are wanted; wider numbers in single precision."""
    if picture.shape[:2] != before:
        height, width = picture.shape[:2]
        raise ValueError(
            f"Expected pages of one size; got {before[1]}x{before[0]} and {width}x{height} in {path.name}. Save those "
            "of one size."
        )
    if picture.dtype == np.uint8 and picture.shape[-1] in (1, 3):
        if grey and picture.shape[-1] == 3:
            picture = np.asarray(Image.fromarray(picture).convert("L"))[..., None]
        elif not grey and picture.shape[-1] == 1:
            picture = np.repeat(picture, 3, axis=-1)
        return shrunk(picture, *after)
    picture = picture.astype(picture.dtype if picture.dtype == np.uint8 else np.float32)
    if grey and picture.shape[-1] > 1:
        picture = picture.mean(-1, keepdims=True).astype(picture.dtype)
    elif not grey and picture.shape[-1] == 1:
        picture = np.repeat(picture, 3, axis=-1)
    return shrunk(picture, *after)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of what comes of a damaged image that it is damaged."""
    try:
        yield
    except (OSError, SyntaxError, EOFError, ValueError, UserWarning, Image.DecompressionBombError) as error:
        if str(error).startswith("Expected"):
            raise
        if isinstance(error, UnidentifiedImageError) and _starts(path) in (b"II", b"MM"):
            optional("tifffile", "images", needed_by=f"{path.name}, a TIFF that Pillow does not read,")
        raise ValueError(f"Expected whole images; got {path.name}, which is damaged ({error}).") from error


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


# TIFF, whose wider numbers, floats and stacks of ImageJ Pillow does not know


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """The series of pages of a TIFF that tifffile reads; none where Pillow has to, as of indexed colours."""
    tifffile = None
    if path.suffix.lower() in _TIFF:
        with suppress(MissingExtra):
            tifffile = optional("tifffile", "images")
    if tifffile is None:
        yield []
        return
    with ExitStack() as opened:
        series = []
        with suppress(Exception):  # damaged files, and packings that need more than tifffile, raise nearly anything
            file = opened.enter_context(tifffile.TiffFile(path))
            page = file.pages[0]
            page.asarray()
            known = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
            turned = getattr(page.tags.get(_ORIENTATION), "value", 1) != 1
            if known and not turned and not page.extrasamples:
                series = [one for one in file.series if not one.keyframe.is_reduced]
        yield series


def _axes(series: Any) -> tuple[tuple[int, int, int, int], str]:
    """Shape (T, H, W, C) of the pages of a TIFF, and its axes in that order."""
    axes, sizes = series.axes, dict(zip(series.axes, series.shape, strict=True))
    frames = [axis for axis in axes if axis not in "SCYX" and sizes[axis] > 1]
    colours = "S" if not frames and sizes.get("C", 1) > 4 else "SC"  # a stack that calls its pages channels
    frames += ["C"] if colours == "S" else []
    channels = [axis for axis in axes if axis in colours]
    if len(frames) > 1 or len([axis for axis in channels if sizes[axis] > 1]) > 1:
        raise ValueError(f"Expected pages that are frames in time; got axes {axes} of {series.shape}. Save one plane.")
    count = int(np.prod([sizes[axis] for axis in frames], dtype=int))
    depth = int(np.prod([sizes[axis] for axis in channels], dtype=int))
    others = "".join(axis for axis in axes if axis not in f"{colours}YX")
    return (count, sizes["Y"], sizes["X"], depth), f"{others}YX{''.join(channels)}"


def _tiff_pages(series: Any, path: Path) -> Iterator[np.ndarray]:
    shape, order = _axes(series)
    pages = [page for page in series.pages if page]
    ends = [sum(place) for page in pages for place in zip(page.dataoffsets, page.databytecounts, strict=True)]
    ends += [] if series.dataoffset is None else [series.dataoffset + series.nbytes]
    if max(ends) > path.stat().st_size:
        raise ValueError(f"Expected whole images; got {path.name}, which is cut off. Copy it again.")
    stack = series.asarray(out="memmap")
    stack = stack.transpose([series.axes.index(axis) for axis in order])
    for index in np.ndindex(stack.shape[: order.index("Y")]):
        page = stack[index].reshape(shape[1:])
        yield (page * np.uint8(255) if page.dtype == bool else page)


def _check_all_pages(path: Path, image: Image.Image) -> None:
    """Raise where Pillow sees fewer pages than ImageJ wrote."""
    if image.format != "TIFF":
        return
    count = getattr(image, "n_frames", 1)
    said = re.search(r"ImageJ=.*?images=(\d+)", str(getattr(image, "tag_v2", {}).get(270, "")), re.DOTALL)
    if said and int(said[1]) > count:
        optional("tifffile", "images", needed_by=f"{path.name}, a stack of ImageJ,")
