"""The contrastive losses people know, each with the prior that it scores and what it bounds (docs/losses.md).

Every function returns what its peer returns, to rounding, with the P(z'|z) that it is minus a bound of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.bounds.bound import Bound, Of
from recparam.bounds.doubts import prepared
from recparam.bounds.objectives import check_contrasted, infonce_of
from recparam.bounds.scalar import Scalar
from recparam.couplings import Coupling
from recparam.couplings.base import check_is_coupling
from recparam.ops import Exchanged, pairwise_contrast, pairwise_infonce
from recparam.ops.collectives import Share
from recparam.ops.precision import at_least_single
from recparam.priors import InfoNCEPrior, Kind
from recparam.utils.checks import check_finite, check_matrix


@dataclass(frozen=True)
class Loss(Scalar):
    """A contrastive loss in nats, to be minimised, and the model behind it.

    It goes where a scalar tensor goes: `loss.backward()`, `loss.item()`, `loss + penalty`, `f"{loss:.3f}"`.

    Args:
        value: What the peer returns, a scalar; differentiable.
        per_row: The loss of each anchor, shape (A,), whose mean is the value; of several processes, of this one's.
        name: Of the loss.
        prior: P(z'|z), with the values of the coupling.
        marginal: Whose distribution R(z') is.
        negatives: Which terms the denominator has.
        constant: Nats; less the loss it is ELBO - const, per step for CPC.
        elbo: ELBO - const under that prior.
        mi: A lower bound on the mutual information; None where the loss bounds none.

    Where torch.distributed has set up several processes, B counts the rows of all of them, as in `RPM.elbo`: negatives
    that the batch gives are gathered, and every process has to make the same calls. The mean of the values over
    processes is that over all rows, and so is its gradient after DDP's averaging, whatever the sizes of their batches.
    `negatives=` stay each process's own. `across_processes=False` keeps to this process.

    Directions hold in expectation over independent rows, for parameters that do not depend on the scored rows: those of
    a training step that sets the coupling's scales are estimates.
    """

    value: Tensor
    per_row: Tensor
    name: str
    prior: str
    marginal: str
    negatives: str
    constant: float
    elbo: Bound
    mi: Bound | None

    def __str__(self) -> str:
        """The loss, its prior, marginal and negatives, and what it bounds, a line each."""
        lines = {
            "prior": self.prior,
            "R": self.marginal,
            "negatives": self.negatives,
            "constant": f"{self.constant:.3f} nats",
            "bounds": "; ".join(str(bound) for bound in (self.elbo, self.mi) if bound is not None),
        }
        head = f"{self.name}: {float(self):.3f} nats, the mean of {len(self.per_row)} rows"
        return "\n".join([head, *(f"  {name:<10} {text}" for name, text in lines.items())])

    __repr__ = __str__


def info_nce(
    coupling: Coupling,
    z: Float[Tensor, "B D"],
    z_prime: Float[Tensor, "B D2"],
    *,
    negatives: Float[Tensor, "N D2"] | None = None,
    across_processes: bool = True,
) -> Loss:
    """InfoNCE as a cross entropy; with a queue of `negatives`, the loss of MoCo. See also: Eq. 6.

        loss = -mean_i log [ f(z_i, z'_i) / (f(z_i, z'_i) + sum_n f(z_i, n)) ]

    Args:
        coupling: log f; `rp.Cosine(temperature)` is the usual one.
        z: Queries (B, D).
        z_prime: Their positives (B, D').
        negatives: Shape (N, D'), shared by all rows; None uses the positives of the other rows.
        across_processes: Whether the other rows are those of all processes; see `Loss`.

    Raises:
        ValueError: Shapes do not fit, no negative is left, or inputs are not finite.
    """
    check_is_coupling("coupling", coupling)
    check_contrasted(z, z_prime, negatives)
    return _info_nce(coupling, z, z_prime, Share.of(z, across_processes=across_processes), negatives)


def _info_nce(coupling: Coupling, z: Tensor, z_prime: Tensor, share: Share, negatives: Tensor | None = None) -> Loss:
    """`info_nce` of checked pairs, whose share in the rows of all processes is known."""
    bound = infonce_of(coupling, z, z_prime, share, negatives=negatives, constant=0.0)
    count = share.total - 1 if negatives is None else len(negatives)
    return _loss(
        "InfoNCE",
        -bound.per_observation,
        coupling,
        share,
        marginal="of z', which the negatives are drawn from",
        negatives=f"{count} " + ("positives of the other rows" if negatives is None else "rows of `negatives`"),
        constant=math.log(count + 1),
        doubt=bound.doubt,
    )


def nt_xent(
    coupling: Coupling, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D"], *, across_processes: bool = True
) -> Loss:
    """NT-Xent, the loss of SimCLR (Chen et al., 2020): both views are anchors, and both views' rows the negatives.

        loss = -mean_a log [ f(a, p(a)) / sum_{b != a} f(a, b) ],    a, b among z_1..z_B, z'_1..z'_B

    p(a) is the other view of a. The 2B - 2 negatives are B - 1 of each view, so that R is the mixture of both
    views' R, and the pair that is scored comes in random order: another model than Eq. 21, unless both views have one
    law. log(2B - 1) - loss estimates its ELBO, and where latents tell which view they are of it exceeds the MI between
    the views; log B - loss never does, as the terms of one's own view only add to the denominator.

    Args:
        coupling: log f; `rp.Cosine(temperature)` is SimCLR's.
        z: One view (B, D), B >= 2.
        z_prime: The other (B, D).
        across_processes: Whether the B rows are those of all processes; see `Loss`.

    Raises:
        ValueError: Shapes do not fit, fewer than two rows, or inputs are not finite.
    """
    z, z_prime, share = _checked(coupling, z, z_prime, one_width=True, across_processes=across_processes)
    count = share.total
    both, other = torch.cat([z, z_prime]), torch.cat([z_prime, z])
    doubt = prepared(coupling, both, other, share)
    bank = torch.cat([share.gathered(z), share.gathered(z_prime)])
    first, second = share.places(z.device), count + share.places(z.device)
    own, columns = torch.cat([first, second]), torch.arange(2 * count, device=z.device)

    def itself(rows: slice) -> Tensor:
        return own[rows, None] == columns

    positives = torch.cat([second, first])
    over = pairwise_infonce(coupling.score(), both, bank, positives=positives, leave_out=itself)
    constant = math.log(2 * count - 1)
    return _loss(
        "NT-Xent",
        constant - over,
        coupling,
        share,
        marginal="the mixture of both views, 1/2 R_1(z') + 1/2 R_2(z')",
        negatives=f"{2 * count - 2} rows of both views, all but the anchor and its other view",
        constant=constant,
        doubt=doubt,
        lower=math.log(count),
    )


def clip(
    coupling: Coupling, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"], *, across_processes: bool = True
) -> Loss:
    """The loss of CLIP (Radford et al., 2021): InfoNCE from z to z' and from z' to z, averaged.

        loss = (loss(z -> z') + loss(z' -> z)) / 2

    Each direction has a prior of its own, R(z) R(z') f / Z(z) and R(z) R(z') f / Z'(z'). By Jensen's inequality
    the mean of the two ELBOs is at most the ELBO under the mixture of the two priors.

    Args:
        coupling: log f; `rp.Cosine(temperature)` is CLIP's, with a learned temperature.
        z: Latents of one modality (B, D), B >= 2.
        z_prime: Of the other (B, D').
        across_processes: Whether the B rows are those of all processes; see `Loss`.

    Raises:
        ValueError: Shapes do not fit, fewer than two rows, or inputs are not finite.
    """
    z, z_prime, share = _checked(coupling, z, z_prime, across_processes=across_processes)
    doubt = prepared(coupling, z, z_prime, share)
    score, own = coupling.score(), share.places(z.device)
    there = pairwise_infonce(score, z, share.gathered(z_prime), positives=own)
    back = pairwise_infonce(Exchanged(score), z_prime, share.gathered(z), positives=own)
    constant = math.log(share.total)
    return _loss(
        "CLIP",
        constant - 0.5 * (there + back),
        coupling,
        share,
        prior=f"1/2 R(z) R(z') f(z, z') / Z(z) + 1/2 R(z) R(z') f(z, z') / Z'(z'), {coupling.formula()}",
        marginal="of z' for Z(z), of z for Z'(z'), each from its own encoder",
        negatives=f"{share.total - 1} other rows of the other modality, in either direction",
        constant=constant,
        doubt=doubt,
    )


def cebra(
    coupling: Coupling,
    z: Float[Tensor, "B D"],
    z_prime: Float[Tensor, "B D2"],
    negatives: Float[Tensor, "N D2"],
    *,
    across_processes: bool = True,
) -> Loss:
    """The loss of CEBRA (Schneider et al., 2023): the positive is not among the terms of the denominator.

        loss = mean_i [ log sum_n f(z_i, n) - log f(z_i, z'_i) ]

    The mean of f over the negatives is unbiased for Z(z), so that log N - loss is an upper bound on ELBO - const
    (Jensen), and bounds no mutual information. CEBRA-Time takes z' some steps after z.

    Args:
        coupling: log f; `rp.Cosine(tau)` on unit vectors, or `rp.GaussianRBF((tau / 2) ** 0.5)` for its
            `distance="euclidean"`, which is the squared distance.
        z: Reference (B, D).
        z_prime: Positives (B, D').
        negatives: Drawn apart from them, shape (N, D').
        across_processes: Whether the mean is over the rows of all processes; see `Loss`.

    Raises:
        ValueError: Shapes do not fit, or inputs are not finite.
    """
    z, z_prime, share = _checked(coupling, z, z_prime, least=1, across_processes=across_processes)
    coupling.check_widths(z.shape[1], z_prime.shape[1])
    check_matrix("negatives", negatives, width=z_prime.shape[1])
    check_finite("negatives", negatives)
    negatives = at_least_single(negatives)
    doubt = prepared(coupling, z, z_prime, share)
    over = pairwise_contrast(coupling.score(), coupling, z, z_prime, negatives)
    return _loss(
        "CEBRA",
        math.log(len(negatives)) - over.to(z.dtype),
        coupling,
        share,
        marginal="of z', which the negatives are drawn from",
        negatives=f"{len(negatives)} rows of `negatives`, without the positive",
        constant=math.log(len(negatives)),
        doubt=doubt,
        kept=False,
    )


def cpc(
    couplings: Sequence[Coupling] | nn.ModuleList,
    context: Float[Tensor, "B C"],
    future: Sequence[Float[Tensor, "B _D"]],
    *,
    across_processes: bool = True,
) -> Loss:
    """The loss of contrastive predictive coding (van den Oord et al., 2018), the mean over K future steps.

        loss = mean_k loss_k,   loss_k = -mean_i log [ f_k(c_i, z_{i,t+k}) / sum_j f_k(c_i, z_{j,t+k}) ]

    c is a learned summary of the observations up to t. The prior is a star, P(z_{t+1}..z_{t+K}|c) =
    prod_k R(z_{t+k}) f_k / Z_k(c): given c the steps are independent. K (log B - loss) estimates its ELBO - const and
    is at most the total correlation of (c, z_{t+1}, .., z_{t+K}); log B - loss is at most I(c; z_{t+1}..z_{t+K}).

    Args:
        couplings: log f_k for k = 1..K; `rp.Bilinear(C, D)` is CPC's.
        context: c, shape (B, C), B >= 2.
        future: z_{t+k} for each k, shape (B, D).
        across_processes: Whether the B rows are those of all processes; see `Loss`.

    Raises:
        ValueError: As many couplings as futures are not given, shapes do not fit, or inputs are not finite.
    """
    if not isinstance(couplings, Sequence | nn.ModuleList):
        raise ValueError(f"Expected couplings as a list, one for each future step; got {couplings!r}.")
    parts = [f for f in couplings if isinstance(f, Coupling)]
    if not parts or not len(parts) == len(couplings) == len(future):
        raise ValueError(
            f"Expected a recparam Coupling for each future step, at least one; got {len(parts)} couplings and "
            f"{len(future)} futures."
        )
    check_matrix("context", context)
    for k, z in enumerate(future):
        check_matrix(f"future[{k}]", z, rows=len(context))
        check_contrasted(context, z, None)
    share = Share.of(context, across_processes=across_processes)
    steps = [_info_nce(f, context, z, share) for f, z in zip(parts, future, strict=True)]
    per_row = torch.stack([step.per_row for step in steps]).mean(0)
    formulas = dict.fromkeys(f.expression(["c"], "z_{t+k}") for f in parts)
    return _loss(
        "CPC",
        per_row,
        parts[0],
        share,
        prior="P(z_{t+1}..z_{t+K}|c) = prod_k R(z_{t+k}) f_k(c, z_{t+k}) / Z_k(c), log f_k = " + " | ".join(formulas),
        marginal="of z_{t+k}, at each k",
        negatives=f"{share.total - 1} other rows at the same k, K = {len(parts)}",
        constant=math.log(share.total),
        doubt=next((step.elbo.doubt for step in steps if step.elbo.doubt), None),
        steps=len(parts),
    )


def _loss(
    name: str,
    per_row: Tensor,
    coupling: Coupling,
    share: Share,
    *,
    marginal: str,
    negatives: str,
    constant: float,
    doubt: str | None,
    prior: str | None = None,
    lower: float | None = None,
    kept: bool = True,
    steps: int = 1,
) -> Loss:
    """A loss with its bounds; `kept` says whether the positive is in the denominator, `lower` is the MI's constant."""
    share = replace(share, rows=len(per_row), total=share.total * len(per_row) // share.rows)  # anchors
    weights = share.weights(per_row)

    def bound(of: Of, nats: float, kind: Kind, ceiling: float | None, times: int = 1) -> Bound:
        rows = times * (nats - per_row)
        return Bound(share.mean(rows), rows, of, "estimate" if doubt else kind, ceiling, weights=weights, doubt=doubt)

    elbo = bound("elbo", constant, "estimate" if kept else "upper", steps * constant if kept else None, steps)
    nats = constant if lower is None else lower
    mi = bound("mi", nats, "lower", nats) if kept else None
    prior = InfoNCEPrior(coupling).formula() if prior is None else prior
    return Loss(share.mean(per_row), per_row, name, prior, marginal, negatives, constant, elbo, mi)


def _checked(
    coupling: Coupling, z: Tensor, z_prime: Tensor, *, across_processes: bool, one_width: bool = False, least: int = 2
) -> tuple[Tensor, Tensor, Share]:
    """Both sides, in single precision or better, and their share in the rows of all processes."""
    check_is_coupling("coupling", coupling)
    check_matrix("z", z)
    check_matrix("z_prime", z_prime, rows=len(z), width=z.shape[1] if one_width else None)
    for label, value in (("z", z), ("z_prime", z_prime)):
        check_finite(label, value)
    share = Share.of(z, across_processes=across_processes)
    if share.total < least:
        raise ValueError(f"Expected at least {least} rows, so that there are negatives; got {len(z)}.")
    return at_least_single(z), at_least_single(z_prime), share
