"""The moving-balls video of App. D: coloured balls that take a full diameter per frame."""

import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["BallsVideo", "consecutive_pairs", "moving_balls"]

Background = Literal["black", "clutter"]
Colour = tuple[int, int, int]

# Pure primaries first (the paper's three balls), then colours that are still told apart from them.
PALETTE: tuple[Colour, ...] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 255),
    (255, 255, 255),
)

TURN = 2.0  # degrees; the undisturbed change of direction is uniform in [-TURN, TURN]
FULL_CIRCLE_TRIES = 100  # steps tried with every direction open before a ball counts as stuck
PLACEMENT_TRIES = 200  # places tried for one ball in the first frame
# Dead ends in a row without a new frame, and in one video, before the frame counts as too crowded.
DEAD_ENDS_IN_A_ROW, DEAD_ENDS = 200, 4000

# Clutter: disc colours and noise add up to at most 255, so that neither needs clipping.
CLUTTER_DISCS = 12
CLUTTER_DIAMETERS = (0.4, 1.2)  # in ball diameters
CLUTTER_COLOUR = 192
CLUTTER_NOISE = 64  # a power of two, so that its low bits are uniform


@dataclass(frozen=True, eq=False)
class BallsVideo:
    """A video of moving balls together with where they truly are.

    Attributes:
        frames: RGB images, ``(T, H, W, 3)``, uint8.
        centres: ``(T, balls, 2)``, float64; ``(x, y)`` of each ball in pixels. Pixel ``i`` has coordinate
            ``i`` (x counts columns, y counts rows), so the frame spans ``[-0.5, size - 0.5]``.
        size: side of the square frame in pixels.
        diameter: diameter of every ball in pixels, which is also the length of a step.
        colours: RGB of each ball, 0 to 255.
        background: ``"black"`` or ``"clutter"``.
        seed: the seed that reproduces the video.
    """

    frames: UInt8[np.ndarray, "time height width 3"] = field(repr=False)
    centres: Float[np.ndarray, "time balls 2"] = field(repr=False)
    size: int
    diameter: float
    colours: tuple[Colour, ...]
    background: Background
    seed: int


def moving_balls(
    frames: int = 900,
    *,
    size: int = 256,
    balls: int = 3,
    diameter: float | int = 32,
    colours: Sequence[Sequence[int]] | None = None,
    background: str = "black",
    seed: int = 0,
) -> BallsVideo:
    """One continuous video in which every ball moves exactly one diameter per frame.

    The direction of a ball is its previous direction plus U(-2, 2) degrees. The balls move one after another.
    A step is valid when the whole ball stays in the frame and its new centre is at least a diameter away from
    the *new* centres of the balls that have moved before it in this frame; paths between frames are not
    checked, and a ball may step to where a ball that is still to move has been. An invalid step is drawn
    again with the range doubled, up to +-180 degrees. A ball that finds no step in the full circle is a dead
    end: the video goes back by 1, 2, 1, 4, 1, 2, 1, 8, ... frames (until it gets beyond it), perhaps to
    new first places, and continues with fresh random numbers.

    Edges are anti-aliased by the approximate coverage ``clip(radius + 1/2 - distance, 0, 1)`` of each pixel,
    so that the centre of mass of a drawn ball is its true centre to well below a pixel. ``"clutter"`` draws,
    anew in every frame and behind the balls, coloured discs of random size, place and colour, and noise on
    every pixel. The motion does not depend on the background.

    Args:
        frames: number of frames ``T``.
        size: side of the square frame in pixels.
        balls: number of balls.
        diameter: diameter of each ball in pixels.
        colours: one RGB triple of whole numbers 0 to 255 per ball; by default red, green, blue, then yellow,
            magenta, cyan, white.
        background: ``"black"`` or ``"clutter"``.
        seed: whole number >= 0; the same seed gives the same bytes.

    Returns:
        The frames and the exact centres.

    Raises:
        ValueError: for sizes and counts that are not positive, a negative seed, colours that are not RGB, an
            unknown background, or balls that do not fit the frame or cannot keep moving in it.

    Example:
        >>> video = moving_balls(10, size=64, diameter=8, seed=1)
        >>> video.frames.shape, video.centres.shape
        ((10, 64, 64, 3), (10, 3, 2))
    """
    frames = _whole("frames", frames, 1)
    size = _whole("size", size, 1)
    balls = _whole("balls", balls, 1)
    seed = _whole("seed", seed, 0)
    diameter = _check_diameter(diameter, size, balls)
    palette = _check_colours(colours, balls)
    if background == "black":
        kind: Background = "black"
    elif background == "clutter":
        kind = "clutter"
    else:
        raise ValueError(f"Expected background to be 'black' or 'clutter'; got {background!r}.")

    motion_rng = np.random.default_rng(seed)
    (background_rng,) = motion_rng.spawn(1)
    centres = _motion(motion_rng, frames, size, balls, diameter)

    images = np.zeros((frames, size, size, 3), dtype=np.uint8)
    for image, places in zip(images, centres, strict=True):
        if kind == "clutter":
            _draw_clutter(image, diameter, background_rng)
        for (x, y), colour in zip(places, palette, strict=True):
            _draw_disc(image, x, y, diameter / 2, np.array(colour, dtype=np.float32))
    return BallsVideo(images, centres, size, diameter, palette, kind, seed)


def consecutive_pairs(
    video: BallsVideo,
) -> tuple[UInt8[np.ndarray, "pairs height width 3"], UInt8[np.ndarray, "pairs height width 3"]]:
    """All pairs of consecutive frames ``(x, x_prime)``, as views that share the video's memory.

    Args:
        video: a video of at least two frames.

    Returns:
        ``x`` and ``x_prime``, each ``(T - 1, H, W, 3)``; row ``i`` holds frames ``i`` and ``i + 1``.

    Raises:
        ValueError: if the video has a single frame.
    """
    if len(video.frames) < 2:
        raise ValueError("Expected video to have at least 2 frames; got 1, no pair. Use frames >= 2.")
    return video.frames[:-1], video.frames[1:]


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ValueError(f"Expected {name} to be a whole number >= {least}; got {value!r}.")
    return int(value)


def _check_diameter(diameter: float | int, size: int, balls: int) -> float:
    real = isinstance(diameter, numbers.Real) and not isinstance(diameter, bool)
    if not real or not math.isfinite(diameter) or diameter <= 0:
        raise ValueError(f"Expected diameter to be a positive finite number of pixels; got {diameter!r}.")
    diameter = float(diameter)
    remedy = "Use a larger size, a smaller diameter or fewer balls."
    if diameter > size:
        raise ValueError(f"A ball of diameter {diameter:g} does not fit a frame of size {size}. {remedy}")
    # The centre lives in a square of side size - diameter, whose diagonal must leave room for one step.
    if (size - diameter) * math.sqrt(2) <= diameter:
        raise ValueError(
            f"A ball of diameter {diameter:g} has no room for a step of that length in a frame of size "
            f"{size}. {remedy}"
        )
    # No packing of equal discs is denser than pi / sqrt(12); a necessary condition that costs nothing.
    if balls * math.pi * diameter**2 / 4 > size**2 * math.pi / math.sqrt(12):
        raise ValueError(f"{balls} balls of diameter {diameter:g} cannot fit in size {size}. {remedy}")
    return diameter


def _check_colours(colours: Sequence[Sequence[int]] | None, balls: int) -> tuple[Colour, ...]:
    if colours is None:
        if balls > len(PALETTE):
            raise ValueError(
                f"Default colours exist for {len(PALETTE)} balls; got balls={balls}. Give colours for all."
            )
        return PALETTE[:balls]
    wanted = f"Expected colours to be {balls} RGB triples of whole numbers 0 to 255, one per ball"
    parsed: list[Colour] = []
    try:
        for colour in colours:
            red, green, blue = (_whole("colour", channel, 0) for channel in colour)
            parsed.append((red, green, blue))
    except (TypeError, ValueError):
        raise ValueError(f"{wanted}; got {colours!r}.") from None
    if len(parsed) != balls or any(channel > 255 for colour in parsed for channel in colour):
        raise ValueError(f"{wanted}; got {colours!r}.")
    return tuple(parsed)


def _motion(
    rng: np.random.Generator, frames: int, size: int, balls: int, diameter: float
) -> Float[np.ndarray, "time balls 2"]:
    """Centres of all balls in all frames; dead ends are undone by going back."""
    centres = np.empty((frames, balls, 2))
    directions = np.empty((frames, balls))  # degrees
    t, furthest, in_a_row = 0, -1, 0
    for dead_ends in range(1, DEAD_ENDS + 1):
        while t < frames:
            if t == 0:
                moved = _first_places(rng, size, balls, diameter)
            else:
                moved = _step(rng, centres[t - 1], directions[t - 1], size, diameter)
            if moved is None:
                break
            centres[t], directions[t] = moved
            if t > furthest:
                furthest, in_a_row = t, 0
            t += 1
        else:
            return centres
        in_a_row += 1
        t = max(t - (in_a_row & -in_a_row), 0)  # the largest power of two that divides in_a_row
        if DEAD_ENDS_IN_A_ROW == in_a_row or dead_ends == DEAD_ENDS:
            break
    raise ValueError(
        f"{balls} balls of diameter {diameter:g} are too crowded to keep moving in a frame of size {size}. "
        "Use a larger size, a smaller diameter or fewer balls."
    )


def _first_places(
    rng: np.random.Generator, size: int, balls: int, diameter: float
) -> tuple[list[tuple[float, float]], list[float]] | None:
    low, high = diameter / 2 - 0.5, size - 0.5 - diameter / 2
    places: list[tuple[float, float]] = []
    for _ in range(balls):
        for _ in range(PLACEMENT_TRIES):
            x, y = float(rng.uniform(low, high)), float(rng.uniform(low, high))
            if _free(x, y, places, diameter):
                places.append((x, y))
                break
        else:
            return None
    return places, rng.uniform(0.0, 360.0, balls).tolist()


def _step(
    rng: np.random.Generator,
    centres: Float[np.ndarray, "balls 2"],
    directions: Float[np.ndarray, " balls"],
    size: int,
    diameter: float,
) -> tuple[list[tuple[float, float]], list[float]] | None:
    """The next places and directions, or None at a dead end."""
    low, high = diameter / 2 - 0.5, size - 0.5 - diameter / 2
    places: list[tuple[float, float]] = []
    turned: list[float] = []
    for (x, y), direction in zip(centres.tolist(), directions.tolist(), strict=True):
        for turn in _ranges():
            angle = direction + rng.uniform(-turn, turn)
            new_x = x + diameter * math.cos(math.radians(angle))
            new_y = y + diameter * math.sin(math.radians(angle))
            inside = low <= new_x <= high and low <= new_y <= high
            if inside and _free(new_x, new_y, places, diameter):
                places.append((new_x, new_y))
                turned.append(angle % 360.0)
                break
        else:
            return None
    return places, turned


def _ranges() -> Iterator[float]:
    """Half-widths of the turn in degrees: doubled after each collision, then the full circle many times."""
    turn = TURN
    while turn < 180.0:
        yield turn
        turn *= 2
    for _ in range(FULL_CIRCLE_TRIES):
        yield 180.0


def _free(x: float, y: float, others: list[tuple[float, float]], diameter: float) -> bool:
    return all(math.hypot(x - other_x, y - other_y) >= diameter for other_x, other_y in others)


def _draw_clutter(
    image: UInt8[np.ndarray, "height width 3"], diameter: float, rng: np.random.Generator
) -> None:
    size = len(image)
    places = rng.uniform(-0.5, size - 0.5, (CLUTTER_DISCS, 2))
    radii = rng.uniform(*CLUTTER_DIAMETERS, CLUTTER_DISCS) * diameter / 2
    colours = rng.integers(0, CLUTTER_COLOUR, (CLUTTER_DISCS, 3)).astype(np.float32)
    for (x, y), radius, colour in zip(places, radii, colours, strict=True):
        _draw_disc(image, x, y, radius, colour)
    # The noise goes on top of the discs, since a flat patch of colour would give a disc away.
    # Drawn eight bytes at a time, which is seven times faster than byte by byte.
    words = rng.integers(0, 2**64, -(-image.size // 8), dtype=np.uint64)
    image += words.view(np.uint8)[: image.size].reshape(image.shape) & (CLUTTER_NOISE - 1)


def _draw_disc(
    image: UInt8[np.ndarray, "height width 3"],
    x: float,
    y: float,
    radius: float,
    colour: Float[np.ndarray, "rgb"],
) -> None:
    """Paint an anti-aliased disc over ``image``, touching only its bounding box."""
    height, width = image.shape[:2]
    left, right = max(math.floor(x - radius), 0), min(math.ceil(x + radius) + 1, width)
    top, bottom = max(math.floor(y - radius), 0), min(math.ceil(y + radius) + 1, height)
    dx = np.arange(left, right, dtype=np.float32) - np.float32(x)
    dy = np.arange(top, bottom, dtype=np.float32) - np.float32(y)
    distance = np.sqrt(dx[None, :] ** 2 + dy[:, None] ** 2)
    coverage = np.clip(np.float32(radius + 0.5) - distance, 0.0, 1.0)[..., None]
    patch = image[top:bottom, left:right]
    patch[...] = np.rint(patch + coverage * (colour - patch))
