"""Encoders of fitted estimators through torch.export, with a batch of any size."""

from typing import Any

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.data.pairs import as_tensor

RNG = np.random.default_rng(0)
VECTORS = np.tanh(np.cumsum(RNG.normal(size=(80, 6)), axis=0) / 5)
FRAMES = RNG.integers(0, 256, size=(80, 12, 10, 3), dtype=np.uint8)

CASES: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "mlp": ({"encoder": "mlp", "dropout": 0.3}, VECTORS),
    "mlp with log-variances": ({"encoder": "mlp", "prior": "joint-gaussian"}, VECTORS),
    "conv, colour": ({"encoder": "conv"}, FRAMES),
    "conv, grey, pooled": ({"encoder": "conv"}, np.repeat(np.repeat(FRAMES[..., 0], 5, 1), 6, 2)),
    "centre-of-mass": ({"encoder": "centre-of-mass"}, FRAMES),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning", "ignore::recparam.bounds.CeilingWarning")
def test_an_exported_encoder_gives_the_latents_of_transform_for_any_batch(case: str) -> None:
    settings, rows = CASES[case]
    est = rp.RPMEstimator(max_steps=3, restarts=1, batch_size=16, random_state=0, **settings).fit(rows)
    batch = torch.export.Dim("batch")
    program = torch.export.export(est.encoder_, (as_tensor(rows[:2]),), dynamic_shapes=({0: batch},))
    run = program.module()
    for size in (1, 3, 7):
        z = run(as_tensor(rows[:size])).detach().numpy()[:, :2]
        np.testing.assert_allclose(z, est.transform(rows[:size]), rtol=0, atol=1e-6)
    assert np.ptp(est.transform(rows), axis=0).min() > 1e-3  # nor is it one latent for all
