"""Approximate posteriors Q(z_1..z_J | x_1..x_J)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import Distribution

from recparam.recognition import Particles, recognise


class RecognitionPosterior(nn.Module):
    """The paper's choice: Q is the recognition model itself.

    Equation: 14

        Q(z, z'|x, x') = R_phi(z|x) R_phi(z'|x')

    so that log R_phi R_phi' - log Q vanishes from the ELBO.
    """

    def forward(
        self,
        distributions: Sequence[Distribution],
        *,
        num_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Particles:
        """Latents that stand for the expectation under Q; see `recparam.recognition.recognise`."""
        return recognise(distributions, num_samples=num_samples, generator=generator)
