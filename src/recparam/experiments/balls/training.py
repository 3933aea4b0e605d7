"""How an arm is trained: from one start or several, of which the evidence on a video of its own chooses."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound, CeilingWarning
from recparam.experiments.balls.models import coupling_of, initial_encoder, order_of, supervised_objective
from recparam.experiments.balls.settings import RICHER_ARMS, Run, Settings, training_of
from recparam.networks import recalibrate_batch_norm
from recparam.ops.checks import NonFiniteError, check_finite
from recparam.sides import Against, sides_of_latents
from recparam.training import Epoch, PairBatches, RPMModule, TrainingDiverged, fit

SEEDS_BETWEEN_STARTS = 100_000
"""The initial encoder and the order of batches of start k are those of seed + k times this."""

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
        settings: of the experiment.
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
    blocks = frames.split(2 * settings.batch_size)
    for number in range(settings.starts_of(run.arm)):
        encoder = initial_encoder(settings, start_seed(run, number)).to(frames.device)
        # Before training it serves the data-driven scales, which are set from latents in evaluation mode.
        recalibrate_batch_norm(encoder, blocks)
        prior = rp.InfoNCEPrior(coupling_of(run.arm))
        model = rp.RPM(rp.Deterministic(encoder), prior)

        def counted(epoch: Epoch, before: int = number * settings.epochs) -> None:
            report({**epoch, "epoch": int(epoch["epoch"] or 0) + before})

        try:
            history = train(model, frames, None, settings, run, start_folder(folder, run, number), number, counted)
            model.to(frames.device)
            recalibrate_batch_norm(encoder, blocks)
            model.eval()
            value = None
            if choosing is not None:
                z = encode(encoder, choosing, settings.batch_size)
                check_finite(f"the latents of {run}, start {number}", z)
                value = float(evidence(prior, z)[0])
        except (TrainingDiverged, NonFiniteError) as error:
            failure = error
            continue
        starts.append(Start(number, encoder, model, prior, history, value))
    if failure is not None and not starts:
        raise failure
    return sorted(starts, key=lambda start: -(start.evidence or 0.0))


def train(
    model: nn.Module,
    frames: Tensor,
    targets: Tensor | None,
    settings: Settings,
    run: Run,
    folder: Path,
    start: int,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train on random windows of consecutive frames, from the last finished epoch if there is one.

    Args:
        model: an RPM, or with targets an encoder.
        frames: the training video.
        targets: true centres of each frame, for the supervised arm.
        settings: of the experiment.
        run: which video, seed and arm.
        folder: where checkpoints are kept.
        start: number of the start.
        report: called with the progress.
    """
    training = training_of(run.arm)
    module = RPMModule(
        model,
        optimiser=training.optimiser,
        lr=training.lr,
        momentum=training.momentum,
        schedule=training.schedule,
        objective=None if targets is None else supervised_objective,
        label=str(run),
    )
    # The seed, not the arm, decides the order: all arms of a seed see the same batches.
    seed = start_seed(run, start)
    order = order_of(model)
    batches = PairBatches(
        frames, pairs=windows(len(frames), order), targets=targets, batch_size=settings.batch_size, seed=seed
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


def start_seed(run: Run, start: int) -> int:
    """Seed of a start."""
    return run.seed + start * SEEDS_BETWEEN_STARTS


def start_folder(folder: Path, run: Run, start: int) -> Path:
    """Folder of a start: that of the run where it is the only one."""
    return folder / f"start{start}" if run.arm in RICHER_ARMS else folder


def windows(frames: int, order: int) -> Tensor:
    """Indices of all stretches of order + 1 consecutive frames, (frames - order, order + 1)."""
    return torch.arange(frames - order)[:, None] + torch.arange(order + 1)


def encode(encoder: nn.Module, frames: Tensor, batch_size: int) -> Float[Tensor, "frames 6"]:
    """Latents of all frames, on the CPU; batch norm is as the encoder's mode has it."""
    with torch.no_grad():
        return torch.cat([encoder(chunk).cpu() for chunk in frames.split(2 * batch_size)])


def evidence(prior: rp.InfoNCEPrior, z: Float[Tensor, "frames 6"]) -> tuple[Bound, Bound]:
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
        warnings.simplefilter("ignore", CeilingWarning)  # each value is shown beside its ceiling
        estimate, upper = sides_of_latents(
            prior.cpu(), seen, Against(), labels=None, context=LONGEST_ORDER, sides=(None, "upper")
        )
    return estimate, upper
