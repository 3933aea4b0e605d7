"""A joint is recovered where only the two marginals can be sampled: the worked example, made small."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def load() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "stitching.py"
    spec = importlib.util.spec_from_file_location("stitching", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


stitching = load()


def test_the_true_density_is_that_of_the_pairs() -> None:
    line = torch.linspace(-6, 6, 601)
    grid = torch.cartesian_prod(line, line)
    p = stitching.true_log_prob(grid[:, :1], grid[:, 1:]).exp() * 0.02**2
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    x, x_prime = stitching.draw_pairs(100_000, torch.Generator().manual_seed(0))
    for power in (1, 2):
        for column, drawn in enumerate((x, x_prime)):
            moment = float((p * grid[:, column] ** power).sum())
            assert moment == pytest.approx(float((drawn**power).mean()), abs=0.02)
    assert float((p * grid.prod(1)).sum()) == pytest.approx(float((x * x_prime).mean()), abs=0.02)


def test_the_joint_is_stitched_together() -> None:
    x, x_prime = stitching.draw_pairs(3000, torch.Generator().manual_seed(0))
    model = stitching.train(x, x_prime, steps=250)
    drawn, table = stitching.compare(model, num=1500, num_candidates=8000, seed=0)
    for name in ("correlation of x and x'", "correlation of E[x'|x] and x'"):
        truth, stitched, apart = table[name]
        error = (1 - truth**2) / min(1500, drawn.effective_size) ** 0.5
        # four standard errors of a correlation, and what three thousand pairs teach
        assert abs(stitched - truth) < 4 * error + 0.03, name
        assert abs(apart) < 0.1 < abs(truth) - 0.3, name
    truth, stitched, apart = table["log P(x, x') of new pairs"]
    assert truth - 0.2 < stitched < truth + 0.02
    assert apart < truth - 0.9
    # the more nats x and x' share, the fewer candidates are plausible
    assert 1000 < drawn.effective_size < 8000 / 2
