"""A bank of the rows of all processes, and banks joined from chunks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

from recparam.data.labels import Labels
from recparam.marginals.bank import Bank
from recparam.ops.collectives import exchange, gather_rows, processes, rank
from recparam.recognition import Dirac, Particles


def bank_of_all_processes(
    distributions: Sequence[Distribution],
    particles: Particles,
    *,
    weights: Tensor,
    labels: Labels | None = None,
    exclude_within: float | None = None,
) -> tuple[Bank, Tensor, Tensor]:
    """The bank that all processes of the default group make with their rows, differentiable.

    Each process gives its rows, and the weights that its own mean has; the share of a process in the whole is
    that of its rows. See `recparam.ops.collectives` for the gradient.

    Args:
        distributions: R_phi(z_j|x_j) of this process's rows, batch shape (n,).
        particles: Their latents (S, n, D_j).
        weights: Weight of each of its rows, shape (n,), summing to one.
        labels: Who its rows are.
        exclude_within: As in `Bank`.

    Returns:
        The bank of N rows in the order of the ranks; the index of this process's rows in it, shape (n,); and
        their weights times n W / N for W processes, shape (n,), so that the mean over processes of weighted sums is
        the weighted mean over all rows.

    Raises:
        ValueError: Labels that other processes have not, or distributions other than Dirac, diagonal Gaussian and
            categorical.
    """
    count, world, here = len(weights), processes(), rank()
    given = () if labels is None else (labels.identities, labels.sessions, labels.times)
    known = [part is not None for part in given] or [False] * 3
    equal = bool((weights == weights[0]).all())
    table = exchange("BatchMarginal", [count, equal, *known], like=weights)
    if not bool((table[:, 2:] == table[here, 2:]).all()):
        raise ValueError(
            "Expected labels= of the same kind on every process; got identities, sessions or times on some."
        )
    total, start = int(table[:, 0].sum()), int(table[:here, 0].sum())

    # One exchange of one matrix: parameters, latents that are not determined by them, weights.
    own_weights = weights * (count / total)
    parts = [part for d in distributions for part in _parameters(d)]
    if not particles.exact:
        parts += [latents.movedim(1, 0) for latents in particles.latents]
    matrix = gather_rows(torch.cat([part.reshape(count, -1) for part in [*parts, own_weights]], 1))
    columns = matrix.split([part[0].numel() for part in parts] + [1], 1)
    all_parts = iter([c.reshape(total, *p.shape[1:]).to(p.dtype) for c, p in zip(columns, parts, strict=False)])
    all_distributions = [_like(d, all_parts) for d in distributions]
    if particles.exact:  # the bank enumerates for itself
        latents = tuple(d.mean[None] for d in all_distributions)
    else:
        latents = tuple(part.movedim(0, 1) for part in all_parts)
    flat = torch.zeros_like(latents[0][..., 0])
    bank = Bank(
        all_distributions,
        Particles(latents, flat, exact=particles.exact),
        weights=None if bool(table[:, 1].all()) else columns[-1][:, 0].to(weights.dtype),
        labels=None if labels is None else labels.map(lambda part: gather_rows(part)),
        exclude_within=exclude_within,
    )
    own = torch.arange(start, start + count, device=weights.device)
    return bank, own, bank.weights[own] * world


def joined(parts: Sequence[Sequence[Distribution]]) -> list[Distribution]:
    """One distribution over all rows for each observation, of those of consecutive chunks of rows.

    Args:
        parts: For each chunk, R_phi(z_j|x_j) for each observation j.

    Raises:
        ValueError: Distributions other than Dirac, diagonal Gaussian and categorical.
    """
    held: list[Distribution] = []
    for chunks in zip(*parts, strict=True):
        parameters = zip(*(_parameters(d) for d in chunks), strict=True)
        held.append(_like(chunks[0], iter([torch.cat(values) for values in parameters])))
    return held


def _parameters(distribution: Distribution) -> list[Tensor]:
    """What determines a distribution, each with the rows first."""
    if isinstance(distribution, Dirac):
        return [distribution.loc]
    if isinstance(distribution, OneHotCategorical):
        return [distribution.logits]
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return [distribution.base_dist.loc, distribution.base_dist.scale]
    raise ValueError(
        f"Expected Dirac, diagonal Gaussian or categorical recognition distributions where the bank is held or that of "
        f"several processes; got {type(distribution).__name__}. Use hold=False or "
        f"rp.BatchMarginal(across_processes=False)."
    )


def _like(distribution: Distribution, parameters: Iterator[Tensor]) -> Distribution:
    """A distribution of the same kind with other parameters."""
    if isinstance(distribution, Dirac):
        return Dirac(next(parameters))
    if isinstance(distribution, OneHotCategorical):
        return OneHotCategorical(logits=next(parameters), validate_args=False)
    normal = Normal(next(parameters), next(parameters), validate_args=False)
    return Independent(normal, 1, validate_args=False)
