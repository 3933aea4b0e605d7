"""Priors of latents on circles and spheres: the numbers of latents they can have, and their encoders."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.networks import CentreOfMassCNN, ForegroundCNN, OnSphere, Standardised
from recparam.priors import InfoNCEPrior, Prior

_ROWS = 1000


def check_spheres(prior: str, dim: int) -> None:
    """Raise `ValueError` for a number of latents that the prior with this name cannot have."""
    if prior == "circle" and dim != 2:
        other = "prior='torus' for several circles" if dim > 2 and dim % 2 == 0 else "prior='sphere' from 3 on"
        raise ValueError(
            f"Expected latent_dim=2 with prior='circle', the cosine and sine of an angle; got {dim}. Use "
            f"latent_dim=2, or {other}."
        )
    if prior == "torus" and dim % 2:
        raise ValueError(
            f"Expected an even latent_dim with prior='torus', a cosine and a sine for each circle; got {dim}. Use "
            f"latent_dim={dim + 1} for {(dim + 1) // 2} circle(s)."
        )
    if prior == "sphere" and dim < 3:
        raise ValueError(
            f"Expected latent_dim >= 3 with prior='sphere', the coordinates of a point on it; got {dim}. Use "
            "latent_dim=3, or prior='circle' with latent_dim=2."
        )


def spheres_of(prior: Prior) -> tuple[int, ...]:
    """Latents of each sphere that a prior takes latents to be on; empty: they may be anywhere."""
    return prior.coupling.spheres if isinstance(prior, InfoNCEPrior) else ()


def onto_spheres(net: nn.Module, widths: tuple[int, ...]) -> nn.Module:
    """A network whose outputs are put on spheres of so many latents; the layer that standardises stays the first.

    Raises:
        ValueError: The network gives places in pixels, which are no directions.
    """
    if not widths:
        return net
    inner = net.net if isinstance(net, Standardised) else net
    if isinstance(inner, CentreOfMassCNN | ForegroundCNN):
        raise ValueError(
            "Expected encoder='conv' or a torch module with latents on circles or spheres; got "
            f"{type(inner).__name__}, whose latents are places in pixels. Use encoder='conv', or prior='gaussian'."
        )
    wrapped = OnSphere(inner, features=sum(widths), width=widths[0])
    if not isinstance(net, Standardised):
        return wrapped
    net.net = wrapped
    return net


@torch.no_grad()
def surround(net: Standardised, rows: Float[Tensor, "N ..."]) -> None:
    """Let the outputs of an untrained network surround the origin, for which a session's part of a batch may be small.

    Args:
        net: Its `OnSphere` is set.
        rows: Training rows, of which a thousand are used; NaN is put at the mean.
    """
    rows = rows[:: max(1, len(rows) // _ROWS)]
    net.train()(torch.where(rows.isnan(), net.mean, rows))


def spheres_text(widths: tuple[int, ...]) -> str:
    """Where latents are, after the word "points"; empty for those that may be anywhere."""
    if not widths:
        return ""
    kind = "circle" if widths[0] == 2 else "sphere"
    return f" on a {kind}" if len(widths) == 1 else f" on {len(widths)} {kind}s"
