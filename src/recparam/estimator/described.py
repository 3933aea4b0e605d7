"""What a fitted estimator says of itself."""

from __future__ import annotations

from typing import Any

from recparam.estimator.names import describe_prior
from recparam.estimator.predicted import COLUMNS
from recparam.estimator.spheres import spheres_text


def described(estimator: Any) -> str:
    """The shape of the data, encoder, prior with its equation, latents, pairs, bank and training, one per line."""
    last, prior = estimator.history_[-1], estimator.prior_
    chosen = next(start for start in estimator.restarts_ if start["chosen"])
    encoders: list[str] = []
    marks = ("", "'") if estimator.session_shapes_ is None else [f" {k}" for k in range(len(estimator._shapes))]
    for mark, shape, spec in zip(marks, estimator._shapes, estimator._specs, strict=False):
        encoders += [f"{'rows' + mark:<8} {' x '.join(map(str, shape))}", f"{'encoder' + mark:<8} {spec.text}"]
    return "\n".join(
        (
            *encoders,
            f"prior    {describe_prior(estimator.prior, prior)}",
            f"latents  {estimator.latent_dim}, {'Gaussian' if prior.needs_density else 'points'}"
            f"{spheres_text(estimator._specs[0].spheres)}",
            f"pairs    {estimator._paired}, bank of {estimator.bank_size_}",
            f"training {last['step']} steps, seed {chosen['seed']}, best of {len(estimator.restarts_)} choice(s) and "
            f"start(s), held-out bound {estimator.validation_nats_:.3f} nats",
            *_compared(estimator),
        )
    )


def _compared(estimator: Any) -> list[str]:
    """What was compared, and by what."""
    shares: dict[str, float] = {}
    for start in estimator.restarts_:
        if start["predicted_share"] is not None:
            shares[start["choice"]] = start["predicted_share"]
    ranked = sorted(shares.items(), key=lambda found: -found[1])
    shape = estimator._shapes[0]
    what = "hidden columns" if len(shape) == 1 and shape[0] >= COLUMNS else "neighbouring rows"
    return [f"compared {choice}: predicts {share:.3f} of {what}" for choice, share in ranked]
