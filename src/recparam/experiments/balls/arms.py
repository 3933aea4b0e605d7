"""One arm of the experiment: its training, and what is measured on the fresh video."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import CeilingWarning
from recparam.evaluation import LinearDecoder, distance_error, matched_places, mcc
from recparam.experiments.balls.densities import predicted_density
from recparam.experiments.balls.models import initial_encoder, order_of
from recparam.experiments.balls.settings import (
    CHOOSING_SEED_OFFSET,
    RICHER_ARMS,
    TEST_SEED_OFFSET,
    Run,
    Settings,
)
from recparam.experiments.balls.training import (
    Start,
    encode,
    evidence,
    evidence_of_groups,
    on_whole_frames,
    shrunk,
    train,
    train_starts,
    windows,
)
from recparam.experiments.balls.videos import BallsVideo, moving_balls
from recparam.networks import recalibrate_batch_norm
from recparam.training import Epoch
from recparam.utils.checks import check_finite
from recparam.utils.storage import save_state

COUPLED_ARMS = ("gaussian", "linear", "recipe", *RICHER_ARMS)
"""The arms that are recognition parameterised models."""


@dataclass(frozen=True)
class Videos:
    """The training video and the fresh one, with centres as (frames, 3, 2) pixels of the frames."""

    train: BallsVideo
    fresh: BallsVideo


def make_videos(settings: Settings, run: Run) -> Videos:
    """Generate the two videos of a run; equal for all arms of the same video and seed."""
    return Videos(*(make_video(settings, run.video, run.seed + offset) for offset in (0, TEST_SEED_OFFSET)))


def make_video(settings: Settings, video: str, seed: int) -> BallsVideo:
    """Generate a video, as large as the experiment's, of a seed of its own."""
    return moving_balls(
        settings.frames, size=settings.size, diameter=settings.diameter, background=video, seed=seed
    )


def run_arm(
    settings: Settings,
    run: Run,
    folder: Path,
    *,
    device: torch.device,
    report: Callable[[Epoch], None],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Train and measure one arm.

    Args:
        settings: of the experiment.
        run: which video, seed and arm.
        folder: where checkpoints are kept.
        device: where to compute.
        report: called with the progress of training.

    Returns:
        The numbers of the run, and its arrays: decoded and true centres of the fresh video in pixels, its latents,
        the places read from one latent each, and for the unsupervised trained arms the predicted density of
        Figure 1D and E.

    Raises:
        TrainingDiverged: if the training turned NaN, from each start.
        NonFiniteError: if the trained encoder's latents are not finite.
    """
    begin = time.perf_counter()
    videos = make_videos(settings, run)
    true_train = torch.from_numpy(np.asarray(videos.train.centres, dtype=np.float32))
    true_fresh = torch.from_numpy(np.asarray(videos.fresh.centres, dtype=np.float32))

    if run.arm == "constant":
        decoded = true_train.mean(0, keepdim=True).expand_as(true_fresh)
        numbers = _numbers(run, decoded, true_fresh) | {"seconds": round(time.perf_counter() - begin, 3)}
        return numbers, {"centres": true_fresh.numpy(), "decoded": decoded.numpy()}

    frames = torch.as_tensor(videos.train.frames).to(device)
    fresh = torch.as_tensor(videos.fresh.frames).to(device)
    starts: list[Start] = []
    history: list[Epoch] = []
    waited = time.perf_counter()
    of_starts: list[dict[str, Any]] = []
    found: _Measured | None = None
    encoder: nn.Module
    if run.arm in RICHER_ARMS:
        third = torch.as_tensor(make_video(settings, run.video, run.seed + CHOOSING_SEED_OFFSET).frames).to(device)
        factor, coarse = settings.shrinking, settings.coarse
        small, small_fresh = shrunk(frames, factor), shrunk(fresh, factor)
        starts = train_starts(small, shrunk(third, factor), coarse, run, folder, report=report)
        history = [epoch for start in starts for epoch in start.history]
        # Coordinates are those of middles of pixels.
        true_small, true_small_fresh = ((true - (factor - 1) / 2) / factor for true in (true_train, true_fresh))
        measured = [
            _Measured(start.encoder, small, small_fresh, true_small, true_small_fresh, coarse, run)
            for start in starts
        ]
        of_starts = [_of_start(start, each, factor) for start, each in zip(starts, measured, strict=True)]
        of_starts.sort(key=lambda each: each["start"])
        if factor == 1:
            found = measured[0]
        else:
            starts[0] = on_whole_frames(starts[0], frames, third, settings, run, folder, report=report)
            history += starts[0].history[settings.epochs :]
        encoder = starts[0].encoder
    elif run.arm in COUPLED_ARMS:
        starts = train_starts(frames, None, settings, run, folder, report=report)
        history = starts[0].history
        encoder = starts[0].encoder
    else:
        encoder = initial_encoder(settings, run.seed).to(device)
        if run.arm == "supervised":
            history = train(encoder, frames, true_train.flatten(1) * settings.scale, settings, run, folder, 0, report)
            encoder.to(device)
        recalibrate_batch_norm(encoder, frames.split(2 * settings.batch_size))
        encoder.eval()
    # A resumed run counts the epochs of the runs before it, too.
    begin += time.perf_counter() - waited if history else 0.0
    begin -= sum(float(epoch["seconds"] or 0) for epoch in history)

    if found is None:
        found = _Measured(encoder, frames, fresh, true_train, true_fresh, settings, run)
    numbers, arrays = found.numbers(), found.arrays()
    if run.arm == "supervised":
        direct = found.z_fresh.reshape(true_fresh.shape) / settings.scale
        numbers["direct_error_px"] = float(distance_error(direct, true_fresh).mean())
    if starts:
        model = starts[0].model
        numbers |= {"bound_nats": starts[0].history[-1]["bound_nats"]}
        numbers |= {"ceiling_nats": starts[0].history[-1]["ceiling_nats"]}
        numbers |= _heldout_bound(model.to(device), fresh, settings.batch_size)
        numbers |= _evidence(starts[0].prior, found.z_fresh)
        if run.arm in RICHER_ARMS:
            value, ceiling = evidence_of_groups(starts[0].prior, found.z_fresh)
            numbers |= {"groups_evidence_nats": value, "groups_evidence_ceiling_nats": ceiling}
            numbers |= {"start": starts[0].number, "starts": of_starts}
        arrays |= predicted_density(
            model.cpu(), found.decoder, found.z_train, found.z_fresh, found.decoded, true_fresh, size=settings.size
        )
    numbers["seconds"] = round(time.perf_counter() - begin, 3)
    kept = starts[0].model if starts else encoder
    save_state(folder / "model.safetensors", tensors=kept.state_dict(), meta={"run": str(run)})
    return numbers, arrays


class _Measured:
    """What an encoder makes of both videos, and how well it is decoded."""

    def __init__(
        self,
        encoder: nn.Module,
        frames: Tensor,
        fresh: Tensor,
        true_train: Tensor,
        true_fresh: Tensor,
        settings: Settings,
        run: Run,
    ) -> None:
        self.run, self.true_fresh = run, true_fresh
        self.z_train = encode(encoder.to(frames.device), frames, settings.batch_size)
        self.z_fresh = encode(encoder, fresh, settings.batch_size)
        check_finite(f"the latents of {run}", self.z_train)
        check_finite(f"the latents of {run}", self.z_fresh)
        self.decoder = LinearDecoder().fit(self.z_train, true_train)
        self.decoded = torch.as_tensor(self.decoder.predict(self.z_fresh), dtype=torch.float32)
        self.matched = matched_places(self.z_train, true_train, self.z_fresh)

    def numbers(self) -> dict[str, Any]:
        return _numbers(self.run, self.decoded, self.true_fresh) | {
            "matched_error_px": float(distance_error(self.matched, self.true_fresh).mean()),
            "mcc": mcc(self.z_fresh, self.true_fresh.flatten(1)),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "centres": self.true_fresh.numpy(),
            "decoded": self.decoded.numpy(),
            "latents": self.z_fresh.numpy(),
            "matched": self.matched.astype(np.float32),
        }


def _of_start(start: Start, found: _Measured, factor: int) -> dict[str, Any]:
    """What a start is worth as it was chosen, errors in pixels of whole frames."""
    numbers = found.numbers()
    return {
        "start": start.number,
        "choosing_evidence_nats": start.evidence,
        "evidence_nats": float(evidence(start.prior, found.z_fresh)[0]),
        "groups_evidence_nats": evidence_of_groups(start.prior, found.z_fresh)[0],
        **{name: numbers[name] * factor for name in ("error_px", "matched_error_px")},
        "mcc": numbers["mcc"],
    }


def _evidence(prior: rp.InfoNCEPrior, z_fresh: Tensor) -> dict[str, Any]:
    estimate, upper = evidence(prior, z_fresh)
    return {
        "evidence_nats": float(estimate),
        "evidence_upper_nats": float(upper),
        "evidence_ceiling_nats": estimate.ceiling,
    }


def _numbers(run: Run, decoded: Tensor, true: Tensor) -> dict[str, Any]:
    per_ball = distance_error(decoded, true)
    missing = (
        "matched_error_px",
        "mcc",
        "bound_nats",
        "bound_kind",
        "bound_of",
        "ceiling_nats",
        "heldout_bound_nats",
        "heldout_ceiling_nats",
        "evidence_nats",
        "evidence_upper_nats",
        "evidence_ceiling_nats",
        "groups_evidence_nats",
        "groups_evidence_ceiling_nats",
        "start",
        "starts",
    )
    return {
        "video": run.video,
        "seed": run.seed,
        "arm": run.arm,
        "error_px": float(per_ball.mean()),
        "error_per_ball_px": [float(error) for error in per_ball],
        **dict.fromkeys(missing),
    }


def _heldout_bound(model: rp.RPM, fresh: Tensor, batch_size: int) -> dict[str, Any]:
    """Average the bound over blocks of the training batch's size, so that its ceiling is the training's.

    A last block that is not full would have a lower ceiling, and is left out.
    """
    places = windows(len(fresh), order_of(model))
    # Random blocks, as in training: the pairs of a segment of video are easier or harder to tell apart.
    shuffled = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    blocks = [places[rows].to(fresh.device) for rows in shuffled.split(batch_size) if len(rows) == batch_size]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # the report shows each value with its ceiling
        bounds = [model.elbo(*(fresh[column] for column in block.unbind(1))) for block in blocks]
    return {
        "heldout_bound_nats": sum(float(bound.value) for bound in bounds) / len(bounds),
        "heldout_ceiling_nats": bounds[0].ceiling,
        "bound_kind": bounds[0].kind,
        "bound_of": bounds[0].of,
    }
