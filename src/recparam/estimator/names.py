"""The estimator's short names: priors by name, and encoders by name or by the shape of the data."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recparam.couplings import (
    After,
    Bilinear,
    ConstantVelocity,
    Cosine,
    Coupling,
    Directions,
    GaussianRBF,
    LinearAR,
    Transition,
)
from recparam.data.pairs import as_tensor
from recparam.data.recording import Recording
from recparam.estimator.spheres import check_spheres, onto_spheres, surround
from recparam.model import RPM
from recparam.networks import (
    MLP,
    CentreOfMassCNN,
    ConvEncoder,
    ForegroundCNN,
    Pooled,
    SmoothedMLP,
    Standardised,
    TemporalConv,
)
from recparam.networks.per_session import PerSession
from recparam.priors import InfoNCEPrior, JointGaussianPrior, Prior
from recparam.recognition import Deterministic, Gaussian, RecognitionModel

PRIORS: dict[str, Callable[[int], Prior]] = {
    "gaussian": lambda dim: InfoNCEPrior(GaussianRBF()),
    "linear": lambda dim: InfoNCEPrior(Bilinear(dim)),
    "cosine": lambda dim: InfoNCEPrior(Cosine()),
    "circle": lambda dim: InfoNCEPrior(Directions(dim, width=2)),
    "sphere": lambda dim: InfoNCEPrior(Directions(dim)),
    "torus": lambda dim: InfoNCEPrior(Directions(dim, width=2)),
    "velocity": lambda dim: InfoNCEPrior(After(ConstantVelocity(), GaussianRBF())),
    "ar2": lambda dim: InfoNCEPrior(After(LinearAR(2, dim), GaussianRBF())),
    "joint-gaussian": lambda dim: JointGaussianPrior(dim),
}
"""Constructors of priors, by short name; each takes the number of latents."""

MEANINGS = {
    "gaussian": "P(z'|z) = R(z') exp(-|z - z'|^2 / (2 theta^2)) / Z(z): what follows is near (Eqs. 21, 27)",
    "linear": "P(z'|z) = R(z') exp(z^T theta z') / Z(z): the usual InfoNCE coupling (Eqs. 8, 21)",
    "cosine": "P(z'|z) = R(z') exp(cos(z, z') / tau) / Z(z): only the direction of z matters (Eq. 21)",
    "circle": "P(z'|z) = R(z') exp(kappa cos(angle from z to z')) / Z(z), z on the unit circle (Eq. 21)",
    "sphere": "P(z'|z) = R(z') exp(kappa z . z') / Z(z), z on the unit sphere (Eq. 21)",
    "torus": "P(z'|z) = R(z') exp(sum_k kappa_k cos(angle from z_k to z'_k)) / Z(z), z_k on a circle each (Eq. 21)",
    "velocity": "P(z''|z, z') = R(z'') exp(-|2 z' - z - z''|^2 / (2 theta^2)) / Z: latents keep their velocity",
    "ar2": "P(z''|z, z') = R(z'') exp(-|A_1 z' + A_2 z + b - z''|^2 / (2 theta^2)) / Z: a learned linear AR(2)",
    "joint-gaussian": "P(z) = N(0, I), P(z'|z) = N(rho z, 1 - rho^2) in each dimension: a density of its own (Eq. 9)",
}
"""What each short name says about the latents."""

PLACES = ("centre-of-mass", "foreground")  # encoders whose latents are x and y of each object, in pixels
ENCODERS = ("auto", "mlp", "smoothed", "temporal", "conv", *PLACES)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "MLP": MLP,
    "SmoothedMLP": SmoothedMLP,
    "TemporalConv": TemporalConv,
    "ConvEncoder": ConvEncoder,
    "CentreOfMassCNN": CentreOfMassCNN,
    "ForegroundCNN": ForegroundCNN,
}
"""The library's own networks, which a saved model may name."""

_SIDE = 50  # pixels of the longer side of frames as encoders read them
_ROUNDED = 1e-4  # of what a column varies by, from which it is centred in double precision
_STATISTICS_ROWS = 10_000  # rows from which columns are standardised


@dataclass(frozen=True)
class EncoderSpec:
    """A network that can be built again from a description: what a saved model holds of its encoder.

    Args:
        network: Its name in `NETWORKS`, or the path of the class of a custom module.
        arguments: Of its constructor; None for a custom module, which is not built from a description.
        standardised: Shapes of the mean and scale that standardise its input; None where the input is used as it is.
        dropout: Dropout on the inputs in training, a share, where they are standardised.
        spheres: Outputs of each sphere that they are put on; empty: they may be anywhere.
        pool: Factor and sides of frames that are averaged over patches first; None: they are not.
    """

    network: str
    arguments: dict[str, Any] | None = None
    standardised: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    dropout: float = 0.0
    spheres: tuple[int, ...] = ()
    pool: tuple[int, tuple[int, int]] | None = None

    def build(self) -> nn.Module:
        """A network with weights drawn from torch's global generator."""
        assert self.arguments is not None
        net = NETWORKS[self.network](**self.arguments)
        if self.standardised is not None:
            mean, scale = self.standardised
            net = Standardised(net, mean=torch.zeros(mean), scale=torch.ones(scale), dropout=self.dropout)
        return net if self.pool is None else Pooled(net, factor=self.pool[0], shape=self.pool[1])

    @property
    def dropout_share(self) -> float:
        """Dropout, wherever the network has it."""
        return self.dropout or (self.arguments or {}).get("dropout", 0.0)

    @property
    def text(self) -> str:
        """One line that describes it."""
        if self.arguments is None:
            return f"{self.network} (custom)"
        inside = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        how = ""
        if self.standardised is not None:
            frames = self.standardised[1] == ()  # which have one scale
            how = f", of {'frames centred by the mean' if frames else 'data standardised by the fitted rows'}"
        dropout = f", dropout of {self.dropout:.0%} on the inputs" if self.dropout else ""
        pool = "" if self.pool is None else f", of means over {self.pool[0]} x {self.pool[0]} pixels"
        return f"{self.network}({inside}){pool}{how}{dropout}"


def unknown_name(name: str, value: object, known: Iterable[str]) -> str:
    """The text of the error for an unknown short name: the known names, and the closest one."""
    known = list(known)
    close = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Expected {name} as one of {', '.join(map(repr, known))}; got {value!r}.{hint}"


def make_prior(prior: object, dim: int) -> Prior:
    """The prior of a short name, or a copy of a prior.

    Raises:
        ValueError: An unknown name (the closest is suggested), no prior, or a number of latents that it cannot have.
    """
    if isinstance(prior, Prior):
        made = copy.deepcopy(prior)
    elif not isinstance(prior, str):
        wrap = ""
        if isinstance(prior, Coupling):
            wrap = " Wrap it: rp.InfoNCEPrior(coupling)."
        elif isinstance(prior, Transition):
            wrap = " Wrap it: rp.InfoNCEPrior(rp.After(transition, rp.GaussianRBF()))."
        raise ValueError(
            f"Expected prior as a short name ({', '.join(map(repr, PRIORS))}) or a recparam prior; got {prior!r}.{wrap}"
        )
    elif prior not in PRIORS:
        raise ValueError(unknown_name("prior", prior, PRIORS))
    else:
        check_spheres(prior, dim)
        made = PRIORS[prior](dim)
    if dim < 2 and isinstance(made, InfoNCEPrior) and isinstance(made.coupling, Cosine):
        raise ValueError(
            "Expected latent_dim >= 2 with the cosine prior, under which a latent is a direction; got 1. "
            "Use prior='gaussian', or more latents."
        )
    made.check_widths([dim] * (made.order + 1))
    return made


def describe_prior(prior: object, made: Prior) -> str:
    """What a prior means, in one line."""
    if isinstance(prior, str):
        return f"{prior}: {MEANINGS[prior]}"
    if isinstance(made, InfoNCEPrior):
        return f"{type(made).__name__}({type(made.coupling).__name__}) (given): {made.formula()}"
    return f"{type(made).__name__} (given)"


def choose_encoder(
    encoder: object, *, shape: tuple[int, ...], latent_dim: int, density: bool, dropout: float, of: str = "X"
) -> EncoderSpec:
    """Which network encodes rows of a shape.

    Args:
        encoder: "auto", another short name, or a module.
        of: Name of the data, for messages.
        shape: Shape of a row.
        latent_dim: Number of latents.
        density: Whether the network returns log-variances after the means.
        dropout: On the inputs, a share.

    Raises:
        ValueError: An unknown name, or a network that does not take such rows.
    """
    if isinstance(encoder, nn.Module):
        return EncoderSpec(f"{type(encoder).__module__}.{type(encoder).__qualname__}")
    if not isinstance(encoder, str):
        raise ValueError(
            f"Expected encoder as {', '.join(map(repr, ENCODERS))} or a torch module that maps (B, ...) to "
            f"(B, {latent_dim}); got {encoder!r}."
        )
    if encoder not in ENCODERS:
        raise ValueError(unknown_name("encoder", encoder, ENCODERS))
    if encoder == "auto":
        encoder = "mlp" if len(shape) == 1 else "conv"
    out = latent_dim * (2 if density else 1)
    windows, frames = ((2,), "(N, W, D), as recparam.data.windows makes them,"), ((2, 3), "(N, H, W) or (N, H, W, C)")
    wanted = {"mlp": ((1,), "(N, D)"), "smoothed": windows, "temporal": windows, "conv": frames}
    wanted |= dict.fromkeys(PLACES, frames)
    if len(shape) not in wanted[encoder][0]:
        raise ValueError(
            f"Expected {of} of shape {wanted[encoder][1]} for encoder={encoder!r}; got rows of shape {shape}. "
            f"Reshape {of}, or give a torch module as encoder."
        )
    if encoder in ("mlp", "smoothed") and latent_dim > shape[-1]:
        raise ValueError(
            f"Expected latent_dim <= {shape[-1]}, the number of columns of {of}; got {latent_dim} latents of "
            f"{shape[-1]} feature(s). Use fewer latents."
        )
    if encoder == "mlp":
        return EncoderSpec("MLP", {"in_features": shape[0], "out_features": out}, (shape, shape), dropout)
    if encoder in ("smoothed", "temporal"):
        arguments: dict[str, Any] = {"in_features": shape[-1], "window": shape[0], "out_features": out}
        if encoder == "smoothed":  # which takes columns from whole windows
            return EncoderSpec("SmoothedMLP", arguments | {"dropout": dropout}, (shape[-1:], shape[-1:]))
        return EncoderSpec("TemporalConv", arguments, (shape, shape), dropout)
    factor = -(-max(shape[:2]) // _SIDE)
    height, width = (-(-side // factor) for side in shape[:2])
    sides = (height, width)
    pool, pooled = (None if factor == 1 else (factor, sides)), (*sides, *shape[2:])
    channels = shape[-1] if len(shape) == 3 else 1
    if encoder == "conv":
        arguments = {"height": height, "width": width, "in_channels": channels, "out_features": out}
        return EncoderSpec("ConvEncoder", arguments, (pooled, ()), dropout, pool=pool)
    if latent_dim % 2 or density:
        raise ValueError(
            f"Expected an even latent_dim (x and y of each object) and a prior without a density of its own for "
            f"encoder={encoder!r}; got latent_dim={latent_dim}. Use prior='gaussian', and two latents for each object."
        )
    arguments = {"in_channels": channels, "maps": latent_dim // 2, "pixel": factor}
    if encoder == "foreground":
        return EncoderSpec("ForegroundCNN", {"height": height, "width": width} | arguments, pool=pool)
    return EncoderSpec("CentreOfMassCNN", arguments, (pooled, ()), pool=pool)


def make_network(
    spec: EncoderSpec, encoder: object, *, rows: Callable[[], Tensor] | None, restart: int
) -> nn.Module:
    """A network to train, its weights drawn from torch's global generator.

    Args:
        spec: The encoder.
        encoder: The module, where the encoder is a custom one.
        rows: Returns training rows to standardise the encoder's input by; None: a saved state will set that.
        restart: From 0. A custom module keeps its weights in restart 0; in others they are drawn again.
    """
    if spec.arguments is None:
        assert isinstance(encoder, nn.Module)
        net = copy.deepcopy(encoder)
        for module in net.modules() if restart else ():
            draw = getattr(module, "reset_parameters", None)
            if callable(draw):
                draw()
    else:
        net = spec.build()
    inner = onto_spheres(net.net if isinstance(net, Pooled) else net, spec.spheres)
    if isinstance(net, Pooled):
        net.net = inner
    else:
        net = inner
    if isinstance(inner, ForegroundCNN) and rows is not None:
        inner.set_from(rows())
    elif isinstance(inner, Standardised) and rows is not None:
        sample = rows()
        inner.set_from(sample.flatten(0, sample.ndim - 1 - inner.mean.ndim))
        if spec.spheres:
            surround(inner, sample)
    return net


def make_model(nets: Sequence[nn.Module], prior: Prior, *, row_shapes: Sequence[tuple[int, ...]] | None) -> RPM:
    """A model of one network for x and x', of one for each, or, with row shapes, of one for each session.

    The prior is copied.
    """
    nets = nets if row_shapes is None else [PerSession(nets, row_shapes=row_shapes)]
    models = [recognition(prior, net) for net in nets]
    return RPM(models if len(models) > 1 else models[0], copy.deepcopy(prior))


def recognition(prior: Prior, net: nn.Module) -> RecognitionModel:
    """R_phi(z|x) of a network: Gaussian where the prior needs densities, a point elsewhere."""
    return Gaussian(net) if prior.needs_density else Deterministic(net)


def sample_rows(recording: Recording, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "sampled ..."]:
    """Evenly spaced rows of those of a recording: enough for their means; in double precision where it is needed."""
    step = max(1, math.ceil(len(rows) / _STATISTICS_ROWS))
    double = recording.loses_digits(rows, least=_ROUNDED)
    sample = as_tensor(recording[rows[::step]], double=double)
    return sample if double else sample.float()
