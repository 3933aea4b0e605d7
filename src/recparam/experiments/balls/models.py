"""What is trained: the encoder, and for each arm the model around it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

import recparam as rp
from recparam.couplings import Coupling
from recparam.experiments.balls.settings import RICHER_ARMS, Settings, training_of
from recparam.networks import CentreOfMassCNN
from recparam.utils.seeds import seeded

BALLS = 3
LATENT_DIM = 2 * BALLS
OBJECTS = tuple((2 * ball, 2 * ball + 1) for ball in range(BALLS))
"""The latents of each map of the encoder: its centre of mass, x and y."""


class PaperPixels(nn.Module):
    """Express the encoder's coordinates in pixels of the paper's 256-pixel frame.

    The paper's learning rate and initial lengthscale are in pixels of its frame; in this unit they mean the
    same at every resolution.

    Args:
        net: encoder whose output is in pixels of its input frames.
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


def initial_encoder(settings: Settings, seed: int) -> PaperPixels:
    """Build the encoder that all arms of a seed start from."""
    with seeded(seed):
        net = CentreOfMassCNN(in_channels=3, maps=BALLS)
    return PaperPixels(net, scale=settings.scale)


def coupling_of(arm: str) -> Coupling:
    """What an arm assumes of the centres: log f.

    Raises:
        ValueError: an arm that has no prior.
    """
    lengthscale = training_of(arm).lengthscale
    if arm == "linear":
        return rp.Bilinear(LATENT_DIM)
    if arm in ("gaussian", "recipe"):
        return rp.GaussianRBF() if lengthscale is None else rp.GaussianRBF(lengthscale=lengthscale)
    if arm in RICHER_ARMS:
        # Of velocity alone, all latents are one object.
        return rp.Groups(_coupling_of_object(arm), (range(LATENT_DIM),) if arm == "velocity" else OBJECTS)
    raise ValueError(f"Expected an arm with a prior; got {arm!r}. Supervised and untrained arms have none.")


def order_of(model: nn.Module) -> int:
    """How many earlier frames a model's prior reads; 1 for a model without one, which is trained on pairs, too."""
    prior = model.prior if isinstance(model, rp.RPM) else None
    return prior.order if isinstance(prior, rp.InfoNCEPrior) else 1


def _coupling_of_object(arm: str) -> Coupling:
    """An object moves by a learned length in any direction, keeps its velocity, or both."""
    if arm == "steps":
        return rp.StepLength()
    velocity = rp.After(rp.ConstantVelocity(), rp.GaussianRBF())
    return velocity if arm == "velocity" else velocity + rp.StepLength()
