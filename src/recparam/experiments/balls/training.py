"""How an arm is trained: from one start or several, of which the evidence on a video of its own chooses, and the
best of those trained on shrunk frames is trained on with whole ones.
"""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound, CeilingWarning
from recparam.bounds.groups import gaussian_total_correlation, groups_of
from recparam.experiments.balls.models import PaperPixels, coupling_of, initial_encoder, order_of, supervised_objective
from recparam.experiments.balls.settings import FEWEST_PAIRS, RICHER_ARMS, Run, Settings, training_of
from recparam.model.sides import Against, sides_of_latents
from recparam.networks import recalibrate_batch_norm
from recparam.training import Epoch, PairBatches, RPMModule, TrainingDiverged, fit
from recparam.utils.checks import NonFiniteError, check_finite

SEEDS_BETWEEN_STARTS = 100_000
"""The initial encoder and the order of batches of start k are those of seed + k times this."""

TRIES = 3
"""How often training on whole frames is tried at most."""

LONGEST_ORDER = 2
"""Of the priors compared: how many earlier frames the evidence leaves to each of them."""


@dataclass(frozen=True)
class Start:
    """One training of an arm.

    Args:
        number: from 0.
        encoder: trained, in evaluation mode, batch norm recomputed on the training video.
        model: the model around it.
        prior: its prior.
        history: its epochs.
        evidence: on the video that chooses, nats; None where there is nothing to choose.
    """

    number: int
    encoder: nn.Module
    model: rp.RPM
    prior: rp.InfoNCEPrior
    history: list[Epoch]
    evidence: float | None


def train_starts(
    frames: UInt8[Tensor, "frames height width 3"],
    choosing: UInt8[Tensor, "frames height width 3"] | None,
    settings: Settings,
    run: Run,
    folder: Path,
    *,
    report: Callable[[Epoch], None],
) -> list[Start]:
    """Train an unsupervised arm from each of its starts.

    Args:
        frames: the training video.
        choosing: the video on which the evidence is taken; only for an arm of several starts.
        settings: of the experiment, or its coarse version if the videos are shrunk.
        run: which video, seed and arm.
        folder: where checkpoints are kept.
        report: called with the progress; epochs are counted over all starts.

    Returns:
        The starts that can be used, the best first: by the evidence, or as they come.

    Raises:
        TrainingDiverged: if no start ended well.
        NonFiniteError: if no start ended well.
    """
    starts: list[Start] = []
    failure: Exception | None = None
    for number in range(settings.starts_of(run.arm)):
        encoder = initial_encoder(settings, start_seed(run, number)).to(frames.device)
        counted = _counted(report, number * settings.epochs)
        place = start_folder(folder, run, number)
        try:
            starts.append(_trained(encoder, frames, choosing, settings, run, place, number, report=counted))
        except (TrainingDiverged, NonFiniteError) as error:
            failure = error
    if failure is not None and not starts:
        raise failure
    return sorted(starts, key=_worth, reverse=True)


def on_whole_frames(
    start: Start,
    frames: UInt8[Tensor, "frames height width 3"],
    choosing: UInt8[Tensor, "frames height width 3"],
    settings: Settings,
    run: Run,
    folder: Path,
    *,
    report: Callable[[Epoch], None],
) -> Start:
    """Train a start that saw shrunk frames on, on whole ones: its convolutions know no size of frames.

    The prior begins anew, since a width that fits what the encoder made of shrunk frames is too narrow for what it
    makes of whole ones at first. Training that turns NaN, or ends with less evidence than the start had, is taken
    back, and tried with a quarter of the rate.

    Args:
        start: of an arm of `RICHER_ARMS`.
        frames: the training video.
        choosing: the video on which the evidence is taken.
        settings: of the experiment.
        run: which video, seed and arm.
        folder: where checkpoints are kept.
        report: called with the progress; epochs are counted on from those of all starts.

    Returns:
        The start as it is now; of several tries the one with the most evidence.

    Raises:
        TrainingDiverged: if no try ended well.
        NonFiniteError: if no try ended well.
    """
    assert isinstance(start.encoder, PaperPixels) and start.evidence is not None
    further = replace(settings, epochs=settings.further_epochs_of(run.arm))
    counted = _counted(report, settings.epochs * settings.starts_of(run.arm))
    tried: list[Start] = []
    failure: Exception | None = None
    for number in range(TRIES):
        encoder = PaperPixels(deepcopy(start.encoder.net), scale=settings.scale)
        place = folder / (f"whole{number}" if number else "whole")
        try:
            found = _trained(
                encoder, frames, choosing, further, run, place, start.number, slower=4.0**number, report=counted
            )
        except (TrainingDiverged, NonFiniteError) as error:
            failure = error
            continue
        tried.append(replace(found, history=[*start.history, *found.history]))
        if _worth(found) >= start.evidence:
            break
    if failure is not None and not tried:
        raise failure
    return max(tried, key=_worth)


def _worth(start: Start) -> float:
    """Its evidence; least where that is NaN, as it is of latents that do not vary."""
    value = 0.0 if start.evidence is None else start.evidence
    return -math.inf if math.isnan(value) else value


def _trained(
    encoder: nn.Module,
    frames: Tensor,
    choosing: Tensor | None,
    settings: Settings,
    run: Run,
    folder: Path,
    number: int,
    *,
    slower: float = 1.0,
    report: Callable[[Epoch], None],
) -> Start:
    blocks = frames.split(2 * settings.batch_size)
    # Before training it serves the data-driven scales, which are set from latents in evaluation mode.
    recalibrate_batch_norm(encoder, blocks)
    prior = rp.InfoNCEPrior(coupling_of(run.arm)).to(frames.device)
    model = rp.RPM(rp.Deterministic(encoder), prior).train()
    history = train(model, frames, None, settings, run, folder, number, report, slower=slower)
    model.to(frames.device)
    recalibrate_batch_norm(encoder, blocks)
    model.eval()
    value = None
    if choosing is not None:
        z = encode(encoder, choosing, settings.batch_size)
        check_finite(f"the latents of {run}, start {number}", z)
        value = evidence_of_groups(prior, z)[0]
    return Start(number, encoder, model, prior, history, value)


def shrunk(frames: UInt8[Tensor, "frames height width 3"], factor: int) -> UInt8[Tensor, "frames low narrow 3"]:
    """Frames whose pixels are the means of factor x factor pixels."""
    if factor == 1:
        return frames
    size = (len(frames), frames.shape[1] // factor, frames.shape[2] // factor, 3)
    small = torch.empty(size, dtype=torch.uint8, device=frames.device)
    for k, frame in enumerate(frames):
        blocks = frame.unflatten(0, (-1, factor)).unflatten(2, (-1, factor))
        small[k] = blocks.float().mean((1, 3)).round_().to(torch.uint8)
    return small


def _counted(report: Callable[[Epoch], None], before: int) -> Callable[[Epoch], None]:
    return lambda epoch: report({**epoch, "epoch": int(epoch["epoch"] or 0) + before})


def train(
    model: nn.Module,
    frames: Tensor,
    targets: Tensor | None,
    settings: Settings,
    run: Run,
    folder: Path,
    start: int,
    report: Callable[[Epoch], None],
    *,
    slower: float = 1.0,
) -> list[Epoch]:
    """Train on random windows of consecutive frames, from the last finished epoch if there is one.

    Args:
        model: an RPM, or with targets an encoder. The richer priors maximise `rp.elbo_of_groups`.
        frames: the training video.
        targets: true centres of each frame, for the supervised arm.
        settings: of the experiment.
        run: which video, seed and arm.
        folder: where checkpoints are kept.
        start: number of the start.
        report: called with the progress.
        slower: by what the arm's learning rate is divided.
    """
    training = training_of(run.arm)
    objective = None
    if run.arm in RICHER_ARMS:
        assert isinstance(model, rp.RPM)
        # A module with an objective of its own does not initialise the model.
        some = windows(len(frames), order_of(model))[:: max(1, len(frames) // (2 * settings.batch_size))]
        model.initialise(*(frames[place] for place in some.unbind(1)))
        objective = elbo_of_objects
    module = RPMModule(
        model,
        optimiser=training.optimiser,
        lr=training.lr / slower,
        momentum=training.momentum,
        schedule=training.schedule,
        objective=objective if targets is None else supervised_objective,
        label=str(run),
    )
    # The seed, not the arm, decides the order: all arms of a seed see the same batches.
    seed = start_seed(run, start)
    order = order_of(model)
    batches = PairBatches(
        frames,
        pairs=windows(len(frames), order),
        targets=targets,
        batch_size=settings.batch_size,
        seed=seed,
        least=FEWEST_PAIRS if objective is not None else 2,
    )
    return fit(
        module,
        batches,
        epochs=settings.epochs,
        folder=folder,
        seed=seed,
        gradient_clip=training.gradient_clip,
        progress=False,
        report=report,
        accelerator="gpu" if frames.device.type == "cuda" else "cpu",
    )


def elbo_of_objects(model: rp.RPM, batch: tuple[Tensor, ...]) -> Bound:
    """`rp.elbo_of_groups` of the maps of the encoder.

    Args:
        model: with a deterministic encoder and a prior of `RICHER_ARMS`.
        batch: frames of each place of the windows, (batch, height, width, 3).
    """
    assert isinstance(model.prior, rp.InfoNCEPrior)
    return rp.elbo_of_groups(model.prior, *model.encode(torch.cat(batch)).mean.chunk(len(batch)))


def start_seed(run: Run, start: int) -> int:
    """Seed of a start."""
    return run.seed + start * SEEDS_BETWEEN_STARTS


def start_folder(folder: Path, run: Run, start: int) -> Path:
    """Folder of a start: that of the run where it is the only one."""
    return folder / f"start{start}" if run.arm in RICHER_ARMS else folder


def windows(frames: int, order: int) -> Tensor:
    """Indices of all segments of order + 1 consecutive frames, (frames - order, order + 1)."""
    return torch.arange(frames - order)[:, None] + torch.arange(order + 1)


def encode(encoder: nn.Module, frames: Tensor, batch_size: int) -> Float[Tensor, "frames 6"]:
    """Latents of all frames, on the CPU; batch norm is as the encoder's mode has it."""
    with torch.no_grad():
        return torch.cat([encoder(chunk).cpu() for chunk in frames.split(2 * batch_size)])


def evidence(prior: rp.InfoNCEPrior, z: Float[Tensor, "frames dim"]) -> tuple[Bound, Bound]:
    """The mean over a video of log P(z_{t+1} | z_1, ..., z_t) - log R(z_{t+1}), nats, on one bank of all frames.

    Every prior predicts the same frames, from the third on, whether it reads one earlier frame or two.

    Args:
        prior: its coupling has an order of at most `LONGEST_ORDER`.
        z: latents of the frames in order, on the CPU.

    Returns:
        The estimate, which is at most the log of the number of frames predicted, and an upper bound in expectation.
    """
    seen = [z[k : len(z) - LONGEST_ORDER + k] for k in range(LONGEST_ORDER + 1)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # each value is shown with its ceiling
        estimate, upper = sides_of_latents(
            prior.cpu(), seen, Against(), labels=None, context=LONGEST_ORDER, sides=(None, "upper")
        )
    return estimate, upper


def evidence_of_groups(prior: rp.InfoNCEPrior, z: Float[Tensor, "frames 6"]) -> tuple[float, float]:
    """`evidence` where the objects are independent a priori, as in `rp.elbo_of_groups`, and its ceiling; nats."""
    groups, one = groups_of(prior)
    parts = [evidence(one, z[:, group])[0] for group in groups]
    value = sum(float(part) for part in parts) - float(gaussian_total_correlation(z[LONGEST_ORDER:], groups))
    return value, sum(part.ceiling or 0.0 for part in parts)
