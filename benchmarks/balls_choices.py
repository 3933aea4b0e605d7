"""How much each choice that the paper leaves open matters to the moving-balls experiment (docs/moving-balls.md).

Trains the Gaussian and the linear arm as the experiment does, with one choice changed at a time, and measures
the decoding error on a fresh video, in pixels of the paper's 256-pixel frame. What only concerns evaluation is
measured on one training. An interrupted run resumes when you repeat the command.

Run: python benchmarks/balls_choices.py --out runs/choices
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

import recparam as rp
from recparam.evaluation import LinearDecoder, distance_error
from recparam.experiments.balls.models import LATENT_DIM, PaperPixels, initial_encoder
from recparam.experiments.balls.settings import PAPER_TRAINING, TEST_SEED_OFFSET, VIDEOS, Run, Settings
from recparam.experiments.balls.training import train
from recparam.experiments.balls.videos import BallsVideo, moving_balls
from recparam.networks import recalibrate_batch_norm
from recparam.utils.storage import write_json

Unit = Literal["paper", "frame", "one"]
Theta = Literal["identity", "zeros", "random"]
Norm = Literal["recalibrated", "running", "batch"]
Colours = tuple[tuple[int, int, int], ...]

ARMS = ("gaussian", "linear", "untrained")
MIXED: Colours = ((255, 140, 0), (0, 150, 140), (150, 60, 200))
"""Orange, teal and purple: no ball owns a colour channel."""
AS_CHOSEN = "as chosen"


@dataclass(frozen=True)
class Variant:
    """One training with one choice changed.

    Args:
        name: row of the table.
        arms: those to which the choice applies.
        unit: of the latents; pixels of the paper's frame, pixels of the frame at hand, or frame widths.
        lengthscale: initial value in that unit; None sets it by the median heuristic.
        theta: initial value of the bilinear coupling.
        colours: of the balls; None takes the generator's own.
    """

    name: str
    arms: tuple[str, ...]
    unit: Unit = "paper"
    lengthscale: float | None = PAPER_TRAINING.lengthscale
    theta: Theta = "identity"
    colours: Colours | None = None


# What matters most comes first, so that a stopped command has it.
VARIANTS = (
    Variant(AS_CHOSEN, ARMS),
    Variant("latents in pixels of the small frame", ("gaussian", "linear"), unit="frame"),
    Variant("latents in frame widths, [0, 1]", ("gaussian", "linear"), unit="one"),
    Variant("orange, teal and purple balls", ARMS, colours=MIXED),
    Variant("lengthscale starts at the median distance", ("gaussian",), lengthscale=None),
    Variant("theta starts at zeros", ("linear",), theta="zeros"),
    Variant("theta starts at random entries of scale 1e-4", ("linear",), theta="random"),
)
EVALUATIONS = (
    "batch norm: running averages of training",
    "batch norm: left in training mode",
    "decoder fitted on the fresh video's first half, scored on its second",
)
ROWS = (AS_CHOSEN, *EVALUATIONS, *(variant.name for variant in VARIANTS[1:]))


def latent_scale(unit: Unit, settings: Settings) -> float:
    """Return how many of the unit one pixel of the frame is."""
    return {"paper": settings.scale, "frame": 1.0, "one": 1 / settings.size}[unit]


def coupling_of(variant: Variant, arm: str, *, seed: int) -> rp.Bilinear | rp.GaussianRBF:
    """Build the arm's coupling as the variant starts it."""
    if arm == "gaussian":
        return rp.GaussianRBF() if variant.lengthscale is None else rp.GaussianRBF(lengthscale=variant.lengthscale)
    if variant.theta == "identity":
        return rp.Bilinear(LATENT_DIM)
    noise = torch.randn(LATENT_DIM, LATENT_DIM, generator=torch.Generator().manual_seed(seed))
    return rp.Bilinear(LATENT_DIM, theta=noise * (1e-4 if variant.theta == "random" else 0.0))


def encode(net: PaperPixels, frames: Tensor, *, norm: Norm, settings: Settings) -> Tensor:
    """Return the latents of all frames; the encoder is left as it was."""
    net = copy.deepcopy(net).train(norm == "batch")
    with torch.no_grad():
        return torch.cat([net(chunk) for chunk in frames.split(2 * settings.batch_size)])


def decoding_error(z: Tensor, true: Tensor, z_scored: Tensor, true_scored: Tensor) -> float:
    """Return the mean distance in pixels of the frame, by a linear decoder fitted on the first two."""
    return float(distance_error(LinearDecoder().fit(z, true).predict(z_scored), true_scored).mean())


def measure(variant: Variant, video: str, seed: int, arm: str, *, settings: Settings, folder: Path) -> dict[str, float]:
    """Train one arm as the variant says, and evaluate it in the ways that apply.

    Returns:
        Error in pixels of the paper's frame by row of the table.
    """

    def make(video_seed: int) -> BallsVideo:
        return moving_balls(
            settings.frames,
            size=settings.size,
            diameter=settings.diameter,
            background=video,
            colours=variant.colours,
            seed=video_seed,
        )

    training_video, fresh_video = make(seed), make(seed + TEST_SEED_OFFSET)
    frames, fresh = torch.from_numpy(training_video.frames), torch.from_numpy(fresh_video.frames)
    true = torch.from_numpy(training_video.centres.astype(np.float32))
    true_fresh = torch.from_numpy(fresh_video.centres.astype(np.float32))
    net = PaperPixels(initial_encoder(settings, seed).net, scale=latent_scale(variant.unit, settings))
    blocks = frames.split(2 * settings.batch_size)
    if arm != "untrained":
        recalibrate_batch_norm(net, blocks)
        model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(coupling_of(variant, arm, seed=seed)))
        train(model, frames, None, settings, Run(video, seed, arm), folder, 0, lambda epoch: None)
    calibrated = copy.deepcopy(net)
    recalibrate_batch_norm(calibrated, blocks)

    def errors() -> Iterator[tuple[str, float]]:
        z = encode(calibrated, frames, norm="recalibrated", settings=settings)
        z_fresh = encode(calibrated, fresh, norm="recalibrated", settings=settings)
        yield variant.name, decoding_error(z, true, z_fresh, true_fresh)
        if variant.name == AS_CHOSEN:
            norms: tuple[Norm, ...] = ("running", "batch")
            for name, norm in zip(EVALUATIONS, norms, strict=False):
                z_norm = encode(net, frames, norm=norm, settings=settings)
                z_norm_fresh = encode(net, fresh, norm=norm, settings=settings)
                yield name, decoding_error(z_norm, true, z_norm_fresh, true_fresh)
            half = len(fresh) // 2
            yield (
                EVALUATIONS[-1],
                decoding_error(z_fresh[:half], true_fresh[:half], z_fresh[half:], true_fresh[half:]),
            )

    return {name: error * settings.scale for name, error in errors()}


def table(found: dict[str, dict[str, float]], *, videos: list[str], seeds: list[int]) -> str:
    """Return the measured errors as markdown: one cell for each row, video and arm, with one number per seed."""
    columns = [(video, arm) for video in videos for arm in ARMS]
    lines = [
        "| choice | " + " | ".join(f"{video}, {arm}" for video, arm in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in ROWS:
        cells = []
        for video, arm in columns:
            keys = [f"{video}/{seed}/{arm}" for seed in seeds]
            cells.append(", ".join(f"{found[key][row]:.1f}" for key in keys if row in found.get(key, {})) or "-")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing in the folder, and write table and numbers after each training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for choices.md and choices.json")
    parser.add_argument("--size", type=int, default=64, help="frame width; balls are an eighth of it")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201], help="not those of the results")
    parser.add_argument("--videos", choices=VIDEOS, nargs="+", default=list(VIDEOS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(size=options.size, diameter=options.size / 8, epochs=options.epochs)
    identity = settings.identity()
    store = options.out / "choices.json"
    options.out.mkdir(parents=True, exist_ok=True)
    kept = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {"settings": identity, "errors_px": {}}
    if kept["settings"] != identity:
        raise SystemExit(f"{store} was measured with other settings; choose another --out.")
    found: dict[str, dict[str, float]] = kept["errors_px"]
    for video in options.videos:
        for variant in VARIANTS:
            for seed in options.seeds:
                for arm in variant.arms:
                    errors = found.setdefault(f"{video}/{seed}/{arm}", {})
                    if variant.name in errors:
                        continue
                    folder = options.out / "runs" / video / str(seed) / arm / str(VARIANTS.index(variant))
                    errors.update(measure(variant, video, seed, arm, settings=settings, folder=folder))
                    print(f"{video} seed {seed} {arm}: {variant.name}: {errors[variant.name]:.2f} px", flush=True)
                    write_json(store, {"settings": identity, "errors_px": found})
                    text = table(found, videos=options.videos, seeds=options.seeds)
                    (options.out / "choices.md").write_text(text, encoding="utf-8")
    print(table(found, videos=options.videos, seeds=options.seeds))


if __name__ == "__main__":
    main()
