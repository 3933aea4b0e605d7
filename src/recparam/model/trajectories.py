"""Trajectories of a prior: latents drawn one after another from P(z_1) and P(z_{t+1} | z_1, ..., z_t)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.couplings.chains import chain_steps
from recparam.model.prediction import Prediction
from recparam.priors import InfoNCEPrior, ParametricPrior, Prior
from recparam.utils.checks import check_count, check_finite, check_matrix, explain_dtype


@torch.no_grad()
def trajectories(
    prior: Prior,
    base: Float[Tensor, "M D"],
    steps: int,
    *,
    num: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "num steps D"]:
    """Draw trajectories of a prior, each latent one of a base.

        z_1 ~ R(z),   z_{t+1} ~ R(z_{t+1}) f(z_{t-p+1}, ..., z_t, z_{t+1}) / Z

    A step with fewer than p latents before it is drawn as `InfoNCEPrior` scores it: from the factors that read so
    few, else from `first`, and else from R. A prior with a density of its own is drawn on the base as on an even grid,
    z_1 from its marginal there; the densities of all M^2 pairs are held.

    See also: Eq. 21

    Args:
        prior: An InfoNCE prior, whose R(z) is spread evenly over the base, or one with a density of two latents.
        base: The latents that can be drawn, shape (M, D): an encoder's, or a grid for a uniform R.
        steps: Length T of each trajectory.
        num: How many.
        generator: Source of randomness; None uses torch's global one.

    Returns:
        Shape (num, T, D).

    Raises:
        ValueError: A prior without conditionals or without its lengthscale set, a base of another width or dtype or
            out of the prior's reach, or counts below one (two for steps; more than the prior's order, where no step
            before has a coupling).
        NonFiniteError: The base holds NaN or infinity.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> grid = torch.linspace(-3, 3, 7)[:, None]
        >>> near = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=0.1))
        >>> path = rp.trajectories(near, grid, 4, generator=torch.Generator().manual_seed(0))
        >>> bool((path == path[:, :1]).all())
        True
    """
    check_count("steps", steps, least=2)
    check_count("num", num)
    check_matrix("base", base)
    check_finite("base", base)
    if not base.is_floating_point():
        raise ValueError(f"Expected base as floating-point latents; got {base.dtype}. Use base.float().")
    if isinstance(prior, InfoNCEPrior):
        return _of_chain(prior, base, steps, num, generator)
    if isinstance(prior, ParametricPrior):
        return _of_density(prior, base, steps, num, generator)
    raise ValueError(
        f"Expected prior as rp.InfoNCEPrior(...) or one with a density of its own; got {type(prior).__name__}, whose "
        f"P(z'|z) is that of the recognised pairs. Draw pairs from the data."
    )


def _of_chain(
    prior: InfoNCEPrior, base: Tensor, steps: int, num: int, generator: torch.Generator | None
) -> Tensor:
    by_index = {step.index: step for step in chain_steps(prior.coupling, prior.first, steps)}
    prior.check_widths([base.shape[1]] * steps)
    for step in by_index.values():
        step.coupling.check_initialised()
    path: list[Tensor] = []
    for index in range(steps):
        step = by_index.get(index)
        if step is None:
            place = torch.randint(len(base), (num,), generator=generator, device=base.device)
            path.append(base[place])
            continue
        predicted = Prediction(step.coupling.score(), step.context(path), base)
        try:
            path.append(predicted.sample(generator=generator).latents[:, 0])
        except RuntimeError as error:
            explain_dtype(error, "base", base, step.coupling)
            raise
    return torch.stack(path, 1)


def _of_density(
    prior: ParametricPrior, base: Tensor, steps: int, num: int, generator: torch.Generator | None
) -> Tensor:
    table = prior.log_conditional(base, base, base.new_zeros(len(base))).double()
    marginal = table.logsumexp(1)
    if not bool(marginal.logsumexp(0).isfinite()):
        raise ValueError(
            f"Expected a base within reach of {type(prior).__name__}; got one whose pairs have no finite density. "
            f"Move the base, or rescale it."
        )
    place = torch.multinomial(marginal.softmax(0), num, replacement=True, generator=generator)
    path = [place]
    for _ in range(steps - 1):
        place = torch.multinomial(table[place].softmax(1), 1, generator=generator)[:, 0]
        path.append(place)
    return base[torch.stack(path, 1)]
