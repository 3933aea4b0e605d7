"""Frames of a video with their times, as the file shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.frames import Wide, note, resized
from recparam.data.recording import Recording
from recparam.data.stored import spooled
from recparam.utils.extras import optional

_MISSING_SECONDS = 1.0  # by which a file without a count of its frames may end early
_ATTACHED = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC
_AGAIN = "Copy or export it again."


def read_video(path: Path, *, size: int | None = None, grey: bool | None = None) -> Recording | Wide:
    """The frames (T, H, W, C) of a video as it is shown, turned as the file says, with their times in seconds.

    Frames are decoded one by one and kept in a temporary file that vanishes with the recording. They are bytes, and
    more only of grey videos with more bits.

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
    notes: list[str] = []
    try:
        with av.open(str(path)) as container:
            streams = [one for one in container.streams.video if not _is_cover(one)]
            if not streams:
                raise ValueError("Expected a video; got a file without pictures.")
            stream = streams[0]
            if len(streams) > 1:
                notes.append(f"the first of {len(streams)} video streams; the others are not read")
            stream.thread_type = "AUTO"
            plain = str(stream.format.name)
            bits = max((component.bits for component in stream.format.components), default=8)
            grey = plain.startswith("gray") if grey is None else grey
            wide = plain.startswith("gray") and bits > 8
            if bits > 8 and not wide:
                notes.append(f"{bits} bits per colour, read as 8")
            if any(component.is_alpha for component in stream.format.components):
                notes.append("transparency is not read")
            if (aspect := stream.sample_aspect_ratio) not in (None, 0, 1):
                ratio = f"{aspect.numerator}/{aspect.denominator}"
                notes.append(f"pixels are shown {ratio} as wide as high, and read as square")
            height, width = resized(stream.height, stream.width, size)
            kind = "gray16le" if wide else "gray" if grey else "rgb24"
            pictures = _decoded(container, stream, height, width, kind, times, notes)
            frames = spooled(np.repeat(one, 3, axis=-1) if wide and not grey else one for one in pictures)
            before = (stream.height, stream.width)
            _check_whole(container, stream, times)
    except av.error.FFmpegError as error:
        raise ValueError(f"Expected a whole video; got one that is damaged or cut off ({error}). {_AGAIN}") from error
    turned = frames.shape[1:3] == (width, height) and width != height
    seconds = np.array(times, dtype=np.float64)  # NaN where the file has none
    known = bool((np.diff(seconds) > 0).all()) and bool(np.isfinite(seconds).all())
    if not known:
        notes.append("no times: those of the file are missing or do not increase")
    recording = Recording.of(frames, times=seconds if known else None)
    for said in (note(frames, before[::-1] if turned else before), *dict.fromkeys(notes)):
        recording.noted(said)
    return Wide(recording, whole=True) if wide else recording


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a picture attached to sound."""
    return bool(int(getattr(stream, "disposition", 0)) & _ATTACHED)


def _decoded(
    container: Any, stream: Any, height: int, width: int, kind: str, times: list[float | None], notes: list[str]
) -> Iterator[np.ndarray]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"Expected a whole video; got one that is cut off after {len(times)} frames. {_AGAIN}")
        for frame in packet.decode():
            times.append(frame.time)
            picture = frame.reformat(width=width, height=height, format=kind, interpolation="AREA").to_ndarray()
            yield _shown(picture.reshape(height, width, -1), frame, notes)[None]


def _shown(picture: np.ndarray, frame: Any, notes: list[str]) -> np.ndarray:
    """A picture turned and mirrored as the file's display matrix says, which takes (column, row) to where it is shown.

    The matrix holds a, b, u, c, d, v, x, y, w of column' = a column + c row, row' = b column + d row.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if (a, b, c, d) == (65536, 0, 0, 65536):
        return picture
    if not (b == c == 0 and a and d) and not (a == d == 0 and b and c):
        notes.append("turned by other than quarters when shown, read as stored")
        return picture
    notes.append("turned or mirrored as the file says that it is shown")
    across, down = (a, d) if a else (c, b)
    picture = picture if a else picture.transpose(1, 0, 2)
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _check_whole(container: Any, stream: Any, times: list[float | None]) -> None:
    """Raise `ValueError` if a file that does not count its frames ends long before it says it does."""
    if stream.frames or container.duration is None or len(container.streams) > 1 or times[-1] is None:
        return
    if container.duration / 1e6 - times[-1] > _MISSING_SECONDS + 1 / float(stream.average_rate or 1):
        raise ValueError(
            f"Expected a whole video of {container.duration / 1e6:g} s; got one that is cut off after "
            f"{times[-1]:g} s. {_AGAIN}"
        )
