"""What the CPU's tests hold, on a GPU where there is one: the same checks there, and the same values as here."""

from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.experiments.balls.run import run_experiment
from recparam.experiments.balls.settings import Settings
from recparam.testing import (
    COUPLINGS,
    INPUT_WIDTH,
    MARGINALS,
    POSTERIORS,
    PRIORS,
    RECOGNITION_MODELS,
    check_coupling,
    check_marginal,
    check_posterior,
    check_prior,
    check_recognition,
)
from recparam.training import RPMModule, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DIM = 3


def on_gpu(of: Any) -> Any:
    return deepcopy(of).to(GPU)


def seeded(device: torch.device | None = None) -> torch.Generator:
    return torch.Generator(device or "cpu").manual_seed(0)


def near(got: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert got.device.type == GPU.type and got.dtype == expected.dtype
    torch.testing.assert_close(got.detach().cpu(), expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings_conform(name: str) -> None:
    with torch.device(GPU):
        check_coupling(COUPLINGS[name])


@pytest.mark.parametrize("name", PRIORS)
def test_priors_conform(name: str) -> None:
    latents = "categorical" if name == "joint categorical" else "gaussian"
    with torch.device(GPU):
        check_prior(PRIORS[name], recognition=RECOGNITION_MODELS[latents])


@pytest.mark.parametrize("name", [*RECOGNITION_MODELS, *MARGINALS, *POSTERIORS])
def test_the_rest_conforms(name: str) -> None:
    with torch.device(GPU):
        if name in RECOGNITION_MODELS:
            check_recognition(RECOGNITION_MODELS[name])
        elif name in MARGINALS:
            check_marginal(MARGINALS[name])
        else:
            latents = RECOGNITION_MODELS["categorical" if "categorical" in name else "gaussian"]
            check_posterior(POSTERIORS[name], recognition=latents)


@pytest.mark.parametrize("side", [None, "upper", "lower"])
@pytest.mark.parametrize("name", COUPLINGS)
def test_evidence_of_windows_and_its_gradients_are_those_of_the_cpu(name: str, side: Any) -> None:
    torch.manual_seed(0)
    windows = list(torch.randn(6, 40, INPUT_WIDTH))
    model = rp.RPM(RECOGNITION_MODELS["deterministic"](DIM), rp.InfoNCEPrior(COUPLINGS[name](DIM)))
    model.initialise(*windows)
    other = on_gpu(model)
    found = []
    for each, device in ((model, "cpu"), (other, GPU)):
        bound = each.elbo(*(x.to(device) for x in windows), side=side)
        bound.value.backward()
        found.append([bound.value, bound.per_observation, *(p.grad for p in each.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 2
    for here, there in zip(*found, strict=True):
        near(there, here, 2e-4)


@pytest.mark.parametrize("name", ["joint gaussian", "optimal", "infonce, gaussian rbf"])
def test_bounds_of_pairs_are_those_of_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, INPUT_WIDTH)
    pair = x, x + 0.3 * torch.randn(50, INPUT_WIDTH)
    model = rp.RPM(RECOGNITION_MODELS["gaussian"](DIM).eval(), PRIORS[name](DIM))
    model.initialise(*pair)
    other, there = on_gpu(model), [side.to(GPU) for side in pair]
    ask: list[Callable[[rp.RPM, Any], rp.Bound]] = [lambda m, p: m.mutual_information(*p, num_samples=1).estimate]
    if name != "optimal":
        ask += [lambda m, p: m.elbo(*p, num_samples=1), lambda m, p: m.log_marginal(*p, num_samples=4)]
    for each in ask:  # the draws differ between devices: what they average does not
        cpu = torch.stack([each(model, pair).value.detach() for _ in range(100)])
        gpu = torch.stack([each(other, there).value.detach() for _ in range(100)])
        assert gpu.device.type == GPU.type
        noise = float((cpu.var() + gpu.var().cpu()).div(100).sqrt())
        assert abs(float(cpu.mean() - gpu.mean().cpu())) < 5 * noise + 1e-4


def test_matching_prediction_and_samples() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, DIM)
    pair = x, x + 0.2 * torch.randn(60, DIM)
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=0.4)))
    other, there = on_gpu(model), [side.to(GPU) for side in pair]
    matched, expected = other.match(*there), model.match(*pair)
    near(matched.log_prob(), expected.log_prob())
    near(matched.entropy(), expected.entropy())
    assert torch.equal(matched.top_k(3).indices.cpu(), expected.top_k(3).indices)
    assert matched.sample_pairs(4, generator=seeded(GPU))[0].device.type == GPU.type
    grid = torch.cartesian_prod(*[torch.linspace(-3, 3, 8)] * DIM)
    near(other.predict(there[0], grid.to(GPU)), model.predict(x, grid))
    here, away = model.predictive(x, pair[1]), other.predictive(there[0], there[1])
    near(away.mean(), here.mean())
    near(away.covariance(), here.covariance())
    near(away.rank_probability(there[1]), here.rank_probability(pair[1]))
    assert away.sample(5, generator=seeded(GPU)).latents.device.type == GPU.type
    path = rp.trajectories(other.prior, grid.to(GPU), 4, num=3, generator=seeded(GPU))
    assert path.shape == (3, 4, DIM) and path.device.type == GPU.type
    assert len(rp.draw_prior(other.prior, grid.to(GPU)).axes) > 0


def test_tensorfloat_does_not_round_scores_and_stays_as_it_was() -> None:
    torch.manual_seed(0)
    z, bank = torch.randn(300, 20) * 2, torch.randn(400, 20) * 2
    exact = rp.ops.pairwise_logsumexp(rp.ops.DotProduct(), z.double(), bank.double()).float()
    torch.set_float32_matmul_precision("high")
    try:
        found = rp.ops.pairwise_logsumexp(rp.ops.DotProduct(), z.to(GPU), bank.to(GPU))
        best = rp.ops.pairwise_topk(rp.ops.DotProduct(), z.to(GPU), bank.to(GPU), 3).log_probs
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    near(found, exact, 3e-6)
    near(best, rp.ops.pairwise_topk(rp.ops.DotProduct(), z, bank, 3).log_probs, 1e-5)


def test_large_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sides = torch.randn(700, 5), torch.randn(900, 5)
    found = []
    for size in (1 << 26, 1 << 14):
        monkeypatch.setattr("recparam.ops.blocked._GPU_BLOCK", size)
        monkeypatch.setattr("recparam.ops.score_matrix.GPU_BLOCK", size)
        for kind in (rp.ops.SquaredDistance, rp.ops.AbsoluteDistance):
            score = kind(torch.tensor(1.5, device=GPU))
            z, bank = (side.to(GPU).requires_grad_() for side in sides)
            value = rp.ops.pairwise_logsumexp(score, z, bank)
            found.append([value, *torch.autograd.grad(value.square().sum(), (z, bank))])
    for one, other in zip(found[0] + found[1], found[2] + found[3], strict=True):
        near(other, one.detach().cpu(), 1e-4)


def test_the_encoder_for_images_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (5, 3, 40, 33), dtype=torch.uint8)
    net = rp.CentreOfMassCNN()
    other = on_gpu(net)
    for mode in (True, False):
        found = []
        for each, x in ((net.train(mode), frames), (other.train(mode), frames.to(GPU))):
            each.zero_grad()
            places = each(x)
            places.square().sum().backward()
            found.append([places, *(p.grad for p in each.parameters())])
        for there, here in zip(found[1], found[0], strict=True):
            near(there, here, 2e-3 * (1 + float(here.detach().abs().max())))


def test_a_fit_is_read_where_there_is_no_gpu(tmp_path: Path) -> None:
    z = reflected_walk(np.random.default_rng(0), 1500, step=0.08)
    x = np.tanh(z @ np.random.default_rng(1).normal(size=(2, 6))).astype(np.float32)
    fitted = quick(latent_dim=2, max_steps=150, accelerator="gpu").fit(x[:1000])
    value = fitted.score(x[1000:])
    assert value > 0.5
    fitted.save(tmp_path / "model")
    loaded = rp.RPMEstimator.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.transform(x), fitted.transform(x), rtol=1e-4, atol=1e-4)
    assert loaded.score(x[1000:]) == pytest.approx(value, abs=1e-3)
    assert fitted.partial_fit(x[:1000]).score(x[1000:]) > 0.5
    for precision in ("bf16-mixed", "16-mixed"):
        assert quick(latent_dim=2, max_steps=100, accelerator="gpu", precision=precision).fit(x).score(x) > 0.3


def test_training_goes_as_on_the_cpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, INPUT_WIDTH)
    start = rp.RPM(rp.Deterministic(nn.Linear(INPUT_WIDTH, DIM)), rp.InfoNCEPrior(rp.GaussianRBF()))
    ends = []
    for accelerator in ("cpu", "gpu"):
        module = RPMModule(deepcopy(start), optimiser="sgd", lr=0.05)
        options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "seed": 0, "progress": False}
        fit(module, (x, x + 0.1), folder=tmp_path / accelerator, accelerator=accelerator, **options)
        ends.append({name: p.detach().cpu() for name, p in module.model.named_parameters()})
    for name, here in ends[0].items():
        torch.testing.assert_close(ends[1][name], here, rtol=1e-3, atol=1e-4)


def test_fitted_bases_stay_where_their_data_is() -> None:
    x = torch.randn(400, 2, generator=seeded()).to(GPU)
    state = torch.cuda.get_rng_state() if GPU.type == "cuda" else None
    bases: list[Any] = [rp.GaussianMixtureBase.fit(x, components=3)]
    if find_spec("zuko") is not None:
        bases.append(rp.FlowBase.fit(x, steps=50))
    for base in bases:
        assert bool(base.log_prob(x).isfinite().all()) and base.log_prob(x).device.type == GPU.type
        assert base.sample(7, generator=seeded(GPU)).shape == (7, 2)
    assert state is None or torch.equal(state, torch.cuda.get_rng_state())


def test_mutual_information_of_tensors_on_the_gpu() -> None:
    z = torch.randn(2, 1500, 1, generator=seeded())
    x, y = z[0].to(GPU), (0.9 * z[0] + 0.19**0.5 * z[1]).to(GPU)
    found = rp.estimate_mutual_information(x[:1000], y[:1000], x_test=x[1000:], x_prime_test=y[1000:], random_state=0)
    assert abs(float(found.estimate) - 0.83) < 0.25


def test_the_moving_balls_run_there(tmp_path: Path) -> None:
    settings = Settings(size=20, diameter=3.0, frames=41, epochs=2, batch_size=8, videos=("black",), starts=2)
    outcome = run_experiment(settings, tmp_path / "out", jobs=0)
    assert not outcome.failed and len(outcome.results["runs"]) == len(settings.arms)
