"""One arm of the experiment: its model, its training, and what is measured on the fresh video."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import CeilingWarning
from recparam.data.balls import BallsVideo, moving_balls
from recparam.evaluation import LinearDecoder, distance_error, matched_error
from recparam.experiments.balls.settings import TEST_SEED_OFFSET, TRAINED_ARMS, Run, Settings, training_of
from recparam.networks import CentreOfMassCNN, recalibrate_batch_norm
from recparam.ops import SquaredDistance, pairwise_logmeanexp
from recparam.ops.checks import check_finite
from recparam.storage import save_state
from recparam.training import Epoch, PairBatches, RPMModule, fit

COUPLED_ARMS = ("gaussian", "linear", "recipe")
"""The arms that are recognition parameterised models."""

LATENT_DIM = 6
BALLS = 3
GRID = 64
"""Points per side of the grid on which Figure 1D and E draw a density."""


class PaperPixels(nn.Module):
    """Express the encoder's coordinates in pixels of the paper's 256-pixel frame.

    The paper's learning rate and initial lengthscale are in pixels of its frame; in this unit they mean the
    same at every resolution.

    Args:
        net: encoder whose output is in pixels of the frames it is given.
        scale: pixels of the paper's frame per pixel of the frames.
    """

    def __init__(self, net: nn.Module, *, scale: float) -> None:
        super().__init__()
        self.net = net
        self.scale = scale

    def forward(self, frames: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "batch 6"]:
        """Return the centres of mass, in pixels of the paper's frame."""
        return self.net(frames) * self.scale


class SquaredError(NamedTuple):
    """Minus the mean squared error, in the form that training maximises."""

    value: Tensor
    ceiling: float | None = None


def supervised_objective(net: nn.Module, batch: tuple[Tensor, ...]) -> SquaredError:
    """Score the supervised arm: the same encoder and the same pairs, but told the true centres.

    Args:
        net: encoder.
        batch: frames and next frames, each (batch, height, width, channels), and their centres, each
            (batch, 6) in the encoder's unit.

    Returns:
        Minus the mean squared error over both frames of each pair, in squared pixels of the paper's frame.
    """
    frames, next_frames, centres, next_centres = batch
    predicted = net(torch.cat([frames, next_frames]))
    return SquaredError(-nn.functional.mse_loss(predicted, torch.cat([centres, next_centres])))


@dataclass(frozen=True)
class Videos:
    """The training video and the fresh one, with centres as (frames, 3, 2) pixels of the frames."""

    train: BallsVideo
    fresh: BallsVideo


def make_videos(settings: Settings, run: Run) -> Videos:
    """Generate the two videos of a run; equal for all arms of the same video and seed."""

    def video(seed: int) -> BallsVideo:
        return moving_balls(
            settings.frames, size=settings.size, diameter=settings.diameter, background=run.video, seed=seed
        )

    return Videos(video(run.seed), video(run.seed + TEST_SEED_OFFSET))


def initial_encoder(settings: Settings, seed: int) -> PaperPixels:
    """Build the encoder that all arms of a seed start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CentreOfMassCNN(in_channels=3, maps=BALLS)
    return PaperPixels(net, scale=settings.scale)


def rpm(net: nn.Module, arm: str) -> rp.RPM:
    """Build the recognition parameterised model of an unsupervised arm around its encoder."""
    lengthscale = training_of(arm).lengthscale
    coupling: nn.Module
    if arm == "linear":
        coupling = rp.Bilinear(LATENT_DIM)
    elif lengthscale is None:
        coupling = rp.GaussianRBF()
    else:
        coupling = rp.GaussianRBF(lengthscale=lengthscale)
    return rp.RPM(recognition=rp.Deterministic(net), prior=rp.InfoNCEPrior(coupling))


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
        The numbers of the run, and its arrays: decoded and true centres of the fresh video in pixels, and for
        the unsupervised trained arms the predicted density of Figure 1D and E.

    Raises:
        TrainingDiverged: if the training turned NaN.
        NonFiniteError: if the trained encoder's latents are not finite.
    """
    begin = time.perf_counter()
    videos = make_videos(settings, run)
    true_train = torch.from_numpy(np.asarray(videos.train.centres, dtype=np.float32))
    true_fresh = torch.from_numpy(np.asarray(videos.fresh.centres, dtype=np.float32))
    arrays: dict[str, NDArray[Any]] = {"centres": true_fresh.numpy()}

    if run.arm == "constant":
        decoded = true_train.mean(0, keepdim=True).expand_as(true_fresh)
        arrays["decoded"] = decoded.numpy()
        numbers = _numbers(run, decoded, true_fresh)
        return numbers | {"seconds": round(time.perf_counter() - begin, 3)}, arrays

    frames = torch.as_tensor(videos.train.frames).to(device)
    fresh = torch.as_tensor(videos.fresh.frames).to(device)
    encoder = initial_encoder(settings, run.seed).to(device)
    model = rpm(encoder, run.arm) if run.arm in COUPLED_ARMS else None
    # Before training it serves the data-driven lengthscale, which is set from latents in evaluation mode.
    recalibrate_batch_norm(encoder, frames.split(2 * settings.batch_size))
    history: list[Epoch] = []
    if run.arm in TRAINED_ARMS:
        targets = true_train.flatten(1) * settings.scale if model is None else None
        waited = time.perf_counter()
        history = train(model or encoder, frames, targets, settings, run, folder, report=report)
        # A resumed run counts the epochs of the runs before it, too.
        begin += time.perf_counter() - waited - sum(float(epoch["seconds"] or 0) for epoch in history)
        encoder.to(device)
        recalibrate_batch_norm(encoder, frames.split(2 * settings.batch_size))

    encoder.eval()
    z_train = _encode(encoder, frames, settings.batch_size)
    z_fresh = _encode(encoder, fresh, settings.batch_size)
    check_finite(f"the latents of {run}", z_train)
    check_finite(f"the latents of {run}", z_fresh)
    decoder = LinearDecoder().fit(z_train, true_train)
    decoded = torch.as_tensor(decoder.predict(z_fresh), dtype=torch.float32)
    arrays |= {"decoded": decoded.numpy(), "latents": z_fresh.numpy()}
    numbers = _numbers(run, decoded, true_fresh)
    numbers["matched_error_px"] = float(matched_error(z_train, true_train, z_fresh, true_fresh).mean())
    if run.arm == "supervised":
        direct = z_fresh.reshape(true_fresh.shape) / settings.scale
        numbers["direct_error_px"] = float(distance_error(direct, true_fresh).mean())
    if model is not None:
        numbers |= {"bound_nats": history[-1]["bound_nats"], "ceiling_nats": history[-1]["ceiling_nats"]}
        numbers |= _heldout_bound(model.to(device).eval(), fresh, settings.batch_size)
        arrays |= predicted_density(model.cpu(), decoder, z_train, z_fresh, decoded, true_fresh, size=settings.size)
    numbers["seconds"] = round(time.perf_counter() - begin, 3)
    save_state(folder / "model.safetensors", tensors=(model or encoder).state_dict(), meta={"run": str(run)})
    return numbers, arrays


def train(
    model: nn.Module,
    frames: Tensor,
    targets: Tensor | None,
    settings: Settings,
    run: Run,
    folder: Path,
    *,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train one arm on random pairs of consecutive frames, from its last finished epoch if there is one."""
    training = training_of(run.arm)
    module = RPMModule(
        model,
        optimiser=training.optimiser,
        lr=training.lr,
        momentum=training.momentum,
        objective=None if targets is None else supervised_objective,
        label=str(run),
    )
    # The seed, not the arm, decides the order: all arms of a seed see the same batches.
    batches = PairBatches(frames, targets=targets, batch_size=settings.batch_size, seed=run.seed)
    return fit(
        module,
        batches,
        epochs=settings.epochs,
        folder=folder,
        seed=run.seed,
        progress=False,
        report=report,
        accelerator="gpu" if frames.device.type == "cuda" else "cpu",
    )


def _encode(encoder: nn.Module, frames: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(chunk).cpu() for chunk in frames.split(2 * batch_size)])


def _numbers(run: Run, decoded: Tensor, true: Tensor) -> dict[str, Any]:
    per_ball = distance_error(decoded, true)
    return {
        "video": run.video,
        "seed": run.seed,
        "arm": run.arm,
        "error_px": float(per_ball.mean()),
        "error_per_ball_px": [float(error) for error in per_ball],
        "matched_error_px": None,
        "bound_nats": None,
        "bound_kind": None,
        "bound_of": None,
        "ceiling_nats": None,
        "heldout_bound_nats": None,
        "heldout_ceiling_nats": None,
    }


def _heldout_bound(model: rp.RPM, fresh: Tensor, batch_size: int) -> dict[str, Any]:
    """Average the bound over blocks of the training batch's size, so that its ceiling is the training's.

    A last block that is not full would have a lower ceiling, and is left out.
    """
    # Random blocks, as in training: the pairs of a stretch of video are easier or harder to tell apart.
    order = torch.randperm(len(fresh) - 1, generator=torch.Generator().manual_seed(0)).to(fresh.device)
    blocks = [block for block in order.split(batch_size) if len(block) == batch_size]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # the report shows each value beside its ceiling
        bounds = [model.elbo(fresh[block], fresh[block + 1]) for block in blocks]
    return {
        "heldout_bound_nats": sum(float(bound.value) for bound in bounds) / len(bounds),
        "heldout_ceiling_nats": bounds[0].ceiling,
        "bound_kind": bounds[0].kind,
        "bound_of": bounds[0].of,
    }


def predicted_density(
    model: rp.RPM,
    decoder: LinearDecoder,
    z_train: Float[Tensor, "train dim"],
    z_fresh: Float[Tensor, "fresh dim"],
    decoded: Float[Tensor, "fresh balls 2"],
    true: Float[Tensor, "fresh balls 2"],
    *,
    size: int,
) -> dict[str, NDArray[Any]]:
    """Return the model's density of the next place of ball 0, for one frame of the fresh video.

    The grid covers the frame in true coordinates of ball 0. It is carried into latent space by inverting the
    linear decoder y = A z + b with the coordinates of the other balls held at their decoded values in the
    current frame. On it, f / Z under a uniform base (the paper's picture of Eq. 26) and the same times an
    estimate of R(z'). See also: Eq. 26.

    Args:
        model: trained model, on the CPU.
        decoder: fitted linear decoder from latents to true coordinates.
        z_train: latents of the training video, from which R(z') is estimated.
        z_fresh: latents of the fresh video.
        decoded: decoded centres of the fresh video, pixels.
        true: true centres of the fresh video, pixels.
        size: width of a frame in pixels.

    Returns:
        `density_uniform` and `density_marginal`, (GRID, GRID) with rows along y, each summing to 1 over the
        frame; `density_axis`, the grid's coordinates in pixels; `density_frame`, the index of the frame.
    """
    # The frame whose ball 0 is nearest the middle: a prediction cut off by the frame would be harder to read.
    # The last frame has no next place.
    middle = torch.full((2,), (size - 1) / 2)
    frame = int((true[:-1, 0] - middle).norm(dim=-1).argmin())
    axis = torch.linspace(0, size - 1, GRID)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    places = decoded[frame].flatten().repeat(GRID * GRID, 1)
    places[:, 0] = x.flatten()
    places[:, 1] = y.flatten()
    # From the current latents, so that what the decoder cannot see (collapsed latents) stays where it is.
    step = (places - decoded[frame].flatten()).double()
    latents = z_fresh[frame].double() + step @ torch.linalg.pinv(decoder_matrix(decoder)).mT
    base = torch.from_numpy(log_density(z_train.numpy(), latents.numpy()))
    base = (base - base.max()).float()  # far from the data it is so low that single precision would flatten it
    latents = latents.float()
    z = z_fresh[frame : frame + 1]
    with torch.no_grad():
        uniform = model.predict(z, latents, base="uniform").reshape(GRID, GRID)
        marginal = model.predict(z, latents, base=base).reshape(GRID, GRID)
    return {
        "density_uniform": uniform.numpy(),
        "density_marginal": marginal.numpy(),
        "density_axis": axis.numpy(),
        "density_frame": np.asarray(frame),
    }


def decoder_matrix(decoder: LinearDecoder) -> Tensor:
    """Return A of the decoder's y = A z + b, in double precision."""
    return torch.as_tensor(decoder.weight).double()


def log_density(
    data: Float[np.ndarray, "data dim"], points: Float[np.ndarray, "points dim"]
) -> Float[np.ndarray, " points"]:
    """Return a kernel estimate of the log-density of the data at the points, in nats, up to a constant.

    Gaussian kernels with the covariance of the data scaled by Scott's rule n^(-1 / (d + 4)). Directions in
    which the data hardly vary (a collapsed latent) are given a floor instead of a singular kernel.
    """
    count, dim = data.shape
    mean = data.mean(0)
    values, vectors = np.linalg.eigh(np.cov(data.astype(np.float64), rowvar=False))
    spread = np.sqrt(np.maximum(values, max(values.max() * 1e-8, 1e-12)))
    bandwidth = count ** (-1 / (dim + 4))
    whiten = vectors / (spread * bandwidth)
    kernel = SquaredDistance(torch.ones((), dtype=torch.float64))
    centres = torch.from_numpy((data - mean) @ whiten)
    return pairwise_logmeanexp(kernel, torch.from_numpy((points - mean) @ whiten), centres).numpy()
