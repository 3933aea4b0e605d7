"""Outputs put on a sphere or on several: latents that are directions, for head directions, phases and poses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.networks.sizes import check_counts


def unit_vectors(z: Float[Tensor, "*batch D"], width: int) -> Float[Tensor, "*batch D"]:
    """Each group of `width` columns divided by its length, (..., D); a group of zeros stays zero."""
    return nn.functional.normalize(z.unflatten(-1, (-1, width)), dim=-1).flatten(-2)


class OnSphere(nn.Module):
    """A network whose outputs are points on spheres: each group of `width` columns is divided by its length.

        g(x) = (n_1 / |n_1|, ..., n_K / |n_K|),   (n_1, ..., n_K) = A (net(x) - b)

    The outputs of an untrained network lie on one side of the origin, so that their directions are an arc, and no small
    step makes a circle of an arc. So b and A are set from the first training batch: there the outputs have mean zero,
    unit variances and no correlations. They are no parameters and keep their values.

    Args:
        net: Maps (B, ...) to (B, features).
        features: Columns of the output, a multiple of width.
        width: Columns of each sphere: 2 for circles, where the cosine and sine of an angle are what comes out.

    Raises:
        ValueError: Numbers that are not positive, or features that are not a multiple of width.

    Example:
        >>> import torch
        >>> OnSphere(nn.Identity(), features=4, width=2).eval()(torch.tensor([[3.0, 4.0, 0.0, -2.0]]))
        tensor([[ 0.6000,  0.8000,  0.0000, -1.0000]])
    """

    centre: Tensor
    whitening: Tensor
    initialised_flag: Tensor

    def __init__(self, net: nn.Module, *, features: int, width: int) -> None:
        super().__init__()
        check_counts({"features": features, "width": width})
        if features % width:
            raise ValueError(f"Expected features as a multiple of width={width}; got {features}.")
        self.net, self.width = net, width
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))
        self.register_buffer("initialised_flag", torch.tensor(False))

    @torch.no_grad()
    def initialise(self, outputs: Float[Tensor, "N D"]) -> None:
        """Set b and A from outputs of `net`, once; fewer than ten rows for each column are too few, and set nothing.

        Directions in which the outputs do not vary keep their scale.
        """
        if self.initialised_flag or len(outputs) < 10 * outputs.shape[1]:
            return
        covariance = outputs.double().T.cov(correction=0).reshape(2 * (outputs.shape[1],))
        variances, axes = torch.linalg.eigh(covariance)
        scale = torch.where(variances > 1e-12 * variances[-1], variances, 1.0).rsqrt()
        self.centre.copy_(outputs.mean(0))
        self.whitening.copy_((axes * scale) @ axes.T)
        self.initialised_flag.fill_(True)

    def forward(self, x: Tensor) -> Float[Tensor, "batch out"]:
        """Map a batch onto the spheres."""
        outputs = self.net(x)
        if self.training:
            self.initialise(outputs.detach())
        # a copy, since a session's second part of a batch may set the matrix that the first has gone through
        return unit_vectors((outputs - self.centre) @ self.whitening.clone(), self.width)
