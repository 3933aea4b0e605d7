"""One prior, one seed: an encoder trained on pairs of views, and what few labels can make of its latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import recparam as rp
from recparam.data.pairs import Views, views
from recparam.data.recording import Recording
from recparam.estimator import FitWarning
from recparam.experiments.few_shot.digits import Digits, encoder, moved, split_digits, view_maker
from recparam.experiments.few_shot.settings import PRIORS, Settings
from recparam.utils.seeds import seeded

SHOTS = (1, 5)


def coupling_of(prior: str, dim: int) -> rp.couplings.Coupling:
    """log f of a prior by name, its scales learned."""
    made = {
        "gaussian": rp.GaussianRBF,
        "laplace": rp.Laplace,
        "von-mises-fisher": lambda: rp.VonMisesFisher(dim),
        "bilinear": lambda: rp.Bilinear(dim),
        "separable": lambda: rp.SeparableCritic(dim),
    }
    return made[prior]()


def measure_arm(settings: Settings, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm and score its latents on held-out digits, as they are and each as a random view.

    Returns:
        Accuracies (shares of held-out digits), and of what was trained the evidence on held-out pairs of views, in
        nats: an estimate, an upper and a lower bound of ELBO - const. Arms of one seed share digits, views and
        labelled examples.
    """
    digits = split_digits(seed, settings.held_out)
    transform = view_maker(settings.shift, settings.turn)
    numbers: dict[str, Any] = {}
    if arm in PRIORS:
        estimator = _fit(settings, arm, seed, digits)
        numbers |= _evidence(estimator, views(Recording.of(digits.held_out_rows), transform))
        latents_of = partial(_latents, estimator)
    else:
        latents_of = _control(settings, arm, seed, digits.rows)
    for suffix, shown in {"": digits, "_moved": moved(digits, transform, seed)}.items():
        z, z_held_out = latents_of(shown.rows), latents_of(shown.held_out_rows)
        if arm == "von-mises-fisher":  # lengths say nothing under this prior
            z, z_held_out = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (z, z_held_out))
        found = accuracies(z, z_held_out, shown, seed=seed, draws=settings.draws)
        numbers |= {name + suffix: value for name, value in found.items()}
    return numbers


def _latents(estimator: rp.RPMEstimator, rows: Tensor) -> np.ndarray:
    return np.asarray(estimator.transform(Recording.of(rows)), dtype=np.float64)


def _fit(settings: Settings, arm: str, seed: int, digits: Digits) -> rp.RPMEstimator:
    recording = Recording.of(digits.rows)
    with seeded(seed):
        net, coupling = encoder(settings.latent_dim), coupling_of(arm, settings.latent_dim)
    estimator = rp.RPMEstimator(
        prior=rp.InfoNCEPrior(coupling),
        encoder=net,
        latent_dim=settings.latent_dim,
        max_steps=settings.steps,
        batch_size=settings.batch_size,
        restarts=settings.starts,
        random_state=seed,
        accelerator="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # of the bound, which is in the results
        return estimator.fit(recording, pairs=views(recording, view_maker(settings.shift, settings.turn)))


def _evidence(estimator: rp.RPMEstimator, pairs: Views) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rp.CeilingWarning)
        found = {name: float(estimator.elbo(pairs.recording, pairs=pairs, side=side)) for name, side in _SIDES.items()}
    return {**found, "validation_nats": float(estimator.validation_nats_), "bank": float(estimator.bank_size_)}


_SIDES: dict[str, Any] = {"elbo_nats": None, "elbo_upper_nats": "upper", "elbo_lower_nats": "lower"}


def _control(settings: Settings, arm: str, seed: int, rows: Tensor) -> Callable[[Tensor], np.ndarray]:
    """The latents of images under an arm that is not trained."""
    if arm == "pixels":
        return _pixels
    if arm == "pca":
        pca = PCA(settings.latent_dim, svd_solver="full").fit(_pixels(rows))
        return lambda images: pca.transform(_pixels(images))
    with seeded(seed):
        net = encoder(settings.latent_dim).eval()
    return lambda images: net(images).detach().double().numpy()


def _pixels(rows: Tensor) -> np.ndarray:
    return rows.flatten(1).double().numpy()


def accuracies(
    z: np.ndarray, z_held_out: np.ndarray, digits: Digits, *, seed: int, draws: int
) -> dict[str, float]:
    """Shares of held-out digits that are classified right, from few labels and from all.

    Args:
        z: Latents of the rows that labelled examples are drawn from, (N, D).
        z_held_out: Of those that are classified, (M, D).
        digits: The labels.
        seed: Of the examples, the same for all arms.
        draws: Sets of examples to average over.

    Returns:
        By the nearest mean of a class's examples, and by logistic regression on latents of unit variance.
    """
    scaler = StandardScaler().fit(z)
    unit, unit_held_out = scaler.transform(z), scaler.transform(z_held_out)
    classes = np.unique(digits.labels)
    numbers: dict[str, float] = {}
    for shots in SHOTS:
        rng = np.random.default_rng([seed, shots])
        nearest, regression = [], []
        for _ in range(draws):
            chosen = np.stack([rng.choice(np.flatnonzero(digits.labels == c), shots, replace=False) for c in classes])
            centres = z[chosen].mean(1)
            distance = np.square(z_held_out[:, None] - centres).sum(-1)
            nearest.append(float(np.mean(classes[distance.argmin(1)] == digits.held_out_labels)))
            fitted = _regression().fit(unit[chosen.ravel()], digits.labels[chosen.ravel()])
            regression.append(float(fitted.score(unit_held_out, digits.held_out_labels)))
        numbers[f"nearest_mean_{shots}"] = float(np.mean(nearest))
        numbers[f"regression_{shots}"] = float(np.mean(regression))
    whole = _regression().fit(unit, digits.labels)
    numbers["regression_all"] = float(whole.score(unit_held_out, digits.held_out_labels))
    return numbers


def _regression() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)
