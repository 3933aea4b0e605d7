"""Frames of videos and of folders of images: bytes, resized while they are decoded, kept in a file without a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from PIL import Image

from recparam.data.recording import Recording
from recparam.utils.extras import optional

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")
IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
LONGEST_SIDE = 128  # pixels; more would cost time and disk, and few encoders resolve it

_MISSING_SECONDS = 1.0  # by which a file without a count of its frames may end early
_WIDE_MODES = ("I", "F")  # of images with more than 8 bits


def read_video(path: Path, *, size: int | None = None, grey: bool | None = None) -> Recording:
    """The frames (T, H, W, C) of a video as bytes, with their times in seconds.

    Frames are decoded one by one and kept in a temporary file that vanishes with the recording.

    Args:
        path: A file that FFmpeg reads.
        size: Pixels of the longer side; None: those of the video, at most 128.
        grey: One channel instead of three; None: as the video.

    Returns:
        The recording, with times where all frames have one.

    Raises:
        ValueError: PyAV is missing, the file is damaged or cut off, or it has no frames.
    """
    av = optional("av", "video")
    times: list[float | None] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("Expected a video; got a file without pictures.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            grey = str(stream.format.name).startswith("gray") if grey is None else grey
            height, width = _resized(stream.height, stream.width, size)
            frames = _spooled(_decoded(container, stream, height, width, grey, times))
            _check_whole(container, stream, times)
            before = (stream.height, stream.width)
    except av.error.FFmpegError as error:
        raise ValueError(f"Expected a whole video; got one that is damaged or cut off ({error}). {_AGAIN}") from error
    seconds = np.array(times, dtype=np.float64)  # NaN where the file has none
    known = bool((np.diff(seconds) > 0).all()) and bool(np.isfinite(seconds).all())
    return Recording.of(frames, times=seconds if known else None).noted(_note(frames, before))


def read_images(folder: Path, *, size: int | None = None, grey: bool | None = None) -> Recording:
    """The images of a folder as frames (T, H, W, C) of bytes, in the order of their names (frame 2 before frame 10).

    Args:
        folder: Holds images of one size.
        size: Pixels of the longer side; None: those of the images, at most 128.
        grey: One channel instead of three; None: as the first image.

    Raises:
        ValueError: No images, images of different sizes, of more than 8 bits, or damaged ones.
    """
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=_natural)
    if not paths:
        raise ValueError(f"Expected a folder of images ({', '.join(IMAGES)}); got none in it.")
    with _opened(paths[0]) as first:
        before = (first.height, first.width)
        grey = first.mode in ("1", "L", "LA") if grey is None else grey
    frames = _spooled(_images(paths, before, _resized(*before, size), grey))
    return Recording.of(frames).noted(_note(frames, before))


_AGAIN = "Copy or export it again."


def _decoded(
    container: Any, stream: Any, height: int, width: int, grey: bool, times: list[float | None]
) -> Iterator[np.ndarray]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"Expected a whole video; got one that is cut off after {len(times)} frames. {_AGAIN}")
        for frame in packet.decode():
            times.append(frame.time)
            picture = frame.reformat(
                width=width, height=height, format="gray" if grey else "rgb24", interpolation="AREA"
            ).to_ndarray()
            yield picture.reshape(height, width, -1)


def _check_whole(container: Any, stream: Any, times: list[float | None]) -> None:
    """Raise `ValueError` if a file that does not count its frames ends long before it says it does."""
    if stream.frames or container.duration is None or len(container.streams) > 1 or times[-1] is None:
        return
    if container.duration / 1e6 - times[-1] > _MISSING_SECONDS + 1 / float(stream.average_rate or 1):
        raise ValueError(
            f"Expected a whole video of {container.duration / 1e6:g} s; got one that is cut off after "
            f"{times[-1]:g} s. {_AGAIN}"
        )


def _images(paths: list[Path], before: tuple[int, int], after: tuple[int, int], grey: bool) -> Iterator[np.ndarray]:
    for path in paths:
        with _opened(path) as image:
            if (image.height, image.width) != before:
                raise ValueError(
                    f"Expected images of one size; got {before[1]}x{before[0]} in {paths[0].name} and "
                    f"{image.width}x{image.height} in {path.name}. Crop or resize them."
                )
            try:
                height, width = after
                picture = image.convert("L" if grey else "RGB").resize((width, height), Image.Resampling.BOX)
            except (OSError, SyntaxError) as error:
                raise ValueError(f"Expected whole images; got {path.name}, which is damaged ({error}).") from error
        yield np.asarray(picture).reshape(*after, -1)


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"Expected whole images; got {path.name}, which is damaged ({error}).") from error
    if image.mode.startswith(_WIDE_MODES):
        image.close()
        raise ValueError(
            f"Expected images of 8 bits; got {path.name} of mode {image.mode}. Save them as an array, in a .npy file."
        )
    return image


def _spooled(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Frames written to a temporary file, as an array that is mapped to it: a long video needs no memory."""
    count, shape = 0, ()
    with TemporaryFile() as file:
        for frame in frames:
            file.write(frame.tobytes())
            count, shape = count + 1, frame.shape
        if not count:
            raise ValueError("Expected a video with frames; got none.")
        file.flush()
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(count, *shape))


def _resized(height: int, width: int, size: int | None) -> tuple[int, int]:
    longest = max(height, width)
    wanted = min(longest, LONGEST_SIDE) if size is None else size
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise ValueError(f"Expected size as a whole number of pixels >= 1; got {size!r}.")
    return max(1, round(height * wanted / longest)), max(1, round(width * wanted / longest))


def _note(frames: np.ndarray, before: tuple[int, int]) -> str:
    count, height, width, channels = frames.shape
    resized = "" if (height, width) == before else f", resized from {before[1]}x{before[0]}; size= chooses"
    return f"{count} frames of {width}x{height} in {'grey' if channels == 1 else 'colour'}{resized}"


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
