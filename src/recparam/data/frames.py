"""Frames of videos and of images: resized while they are decoded, kept in a file without a name, in one range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recparam.data.recording import Recording
from recparam.data.stored import in_blocks, spooled

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LONGEST_SIDE = 128  # pixels; more would cost time and disk, and few encoders resolve it

_BITS = (8, 10, 12, 14, 16, 32)  # that cameras have


@dataclass(frozen=True)
class Wide:
    """Frames with more than 8 bits, before their range is known: whole numbers, or floats."""

    recording: Recording
    whole: bool


def resized(height: int, width: int, size: int | None) -> tuple[int, int]:
    """Height and width of frames whose longer side is to have `size` pixels; None: at most 128.

    Raises:
        ValueError: No whole number of pixels.
    """
    longest = max(height, width)
    wanted = min(longest, LONGEST_SIDE) if size is None else size
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise ValueError(f"Expected size as a whole number of pixels >= 1; got {size!r}.")
    return max(1, round(height * wanted / longest)), max(1, round(width * wanted / longest))


def shrunk(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (H, W, C) of bytes or of wider numbers, each pixel the mean of those that it covers."""
    if picture.shape[:2] == (height, width):
        return picture
    channels = [picture[..., k] for k in range(picture.shape[-1])]
    shrunken = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BOX)) for c in channels]
    return np.stack(shrunken, axis=-1)


def note(frames: np.ndarray, before: tuple[int, int]) -> str:
    """What was done to frames that were of another height and width before."""
    count, height, width, channels = frames.shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    smaller = "" if (height, width) == before else f", resized from {before[1]}x{before[0]}; size= chooses"
    return f"{count} frames of {width}x{height} in {kind}{smaller}"


def in_one_range(frames: Sequence[Recording | Wide], paths: Sequence[Path]) -> list[Recording]:
    """Frames of sessions; those with more than 8 bits as single precision, divided by one number for all of them.

    Whole numbers are divided by the most of the fewest bits, as cameras have them, that hold all of them, so that 12
    bits which are stored in 16 use the range. Other numbers, where they leave 0 to 1, are brought to it from their own.

    Raises:
        ValueError: Some sessions of 8 bits and others of more, or values that are not finite.
    """
    wide = [one for one in frames if isinstance(one, Wide)]
    if not wide:
        return [one for one in frames if isinstance(one, Recording)]
    if len({one.whole if isinstance(one, Wide) else None for one in frames}) > 1:
        kinds = [f"{path.name} of {_kind(one)}" for path, one in zip(paths, frames, strict=True)]
        raise ValueError(f"Expected sessions with frames of one kind; got {', '.join(kinds[:4])}. Convert some.")
    ends = [(block.min(), block.max()) for one in wide for block in _blocks(one)]
    low, high = (float(end) for end in (min(low for low, _ in ends), max(high for _, high in ends)))
    if not np.isfinite([low, high]).all():
        raise ValueError("Expected finite numbers in frames; got NaN or infinity. Impute them.")
    if wide[0].whole and low >= 0:
        bits = next(bits for bits in _BITS if high < 2**bits)
        low, high = 0.0, float(2**bits - 1)
        said = f"values are divided by {high:g}, the most of {bits} bits, which hold all of them"
    elif 0 <= low and high <= 1:
        low, high = 0.0, 1.0
        said = "values are floats in 0 to 1, as they were"
    else:
        said = f"values of {low:g} to {high:g}, the range of all frames, are read as 0 to 1"
    found = []
    for one in wide:
        recording = Recording.of(
            spooled(((block - low) / ((high - low) or 1.0)).astype(np.float32) for block in _blocks(one)),
            times=one.recording.times,
        )
        recording.notes = (*one.recording.notes, said)
        found.append(recording)
    return found


def _kind(frames: Recording | Wide) -> str:
    return "8 bits" if isinstance(frames, Recording) else "more bits" if frames.whole else "floats"


def _blocks(frames: Wide) -> Iterator[np.ndarray]:
    yield from in_blocks(frames.recording._blocks[0])
