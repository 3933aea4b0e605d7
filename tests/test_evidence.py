"""The mutual information in one call: its sides, its determinism, and what it says of data it cannot take."""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.mutual_information import coordinates, critics, mixtures
from recparam.mutual_information.estimate import HeldOutBound
from recparam.mutual_information.permuted import permutation_p_value


def correlated(count: int, rho: float, *, seed: int = 0, dim: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, count, dim))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def estimate(x: np.ndarray, x_prime: np.ndarray, **options: object) -> rp.MutualInformationEstimate:
    half = len(x) // 2
    options = {"max_steps": 150, **options}
    return rp.estimate_mutual_information(
        x[:half], x_prime[:half], x_test=x[half:], x_prime_test=x_prime[half:], **options
    )  # pyright: ignore[reportArgumentType]


def test_a_gaussian_pair_with_heavy_marginals() -> None:
    """The MI is that of the Gaussian pair; its marginals are Cauchy-like after the map."""
    x, x_prime = correlated(2000, 0.8)
    truth = -0.5 * math.log(1 - 0.8**2)
    mi = estimate(np.sinh(2 * x), x_prime**3, max_steps=20)
    assert mi.upper is None and mi.lower.kind == "lower" and mi.estimate.kind == "estimate"
    assert mi.lower.of == mi.estimate.of == "mi"
    assert abs(float(mi.estimate) - truth) < 0.08
    assert float(mi.lower) < truth + 3 * mi.lower.standard_error
    assert "normal scores" in mi.critic  # chosen by held-out InfoNCE: others see the tails alone
    assert mi.candidates[mi.critic] == max(mi.candidates.values())


def fitting(x: np.ndarray, x_prime: np.ndarray, *, steps: int) -> critics.Fitting:
    pairs = torch.as_tensor(x), torch.as_tensor(x_prime)
    held = len(x) // 4
    generator = torch.Generator().manual_seed(0)
    return critics.Fitting(
        (pairs[0][held:], pairs[1][held:]), (pairs[0][:held], pairs[1][:held]), steps, 128, generator
    )


def test_networks_find_a_relation_without_correlation() -> None:
    """x'^2 = x + noise has no correlation for a Gaussian critic to find."""
    rng = np.random.default_rng(1)
    x_prime = rng.normal(size=(1000, 1))
    task = fitting(x_prime**2 + 0.3 * rng.normal(size=(1000, 1)), x_prime, steps=150)
    plain = tuple(coordinates.NormalScores(x) for x in task.pairs)
    left, right, rho = coordinates.canonical(plain[0](task.pairs[0]), plain[1](task.pairs[1]))
    maps = torch.nn.Sequential(plain[0], left), torch.nn.Sequential(plain[1], right)
    torch.manual_seed(0)
    base = critics.gaussian_critic("", maps, rho, task)
    assert float(base.value(*task.validation)) < 0.1
    assert float(critics.separable_critic("", maps, base, task).value(*task.validation).detach()) > 0.6


def test_networks_unwind_a_tangled_support() -> None:
    """Both sides of a Gaussian pair, turned by an angle that grows with the radius: the MI stays the same."""
    rng = np.random.default_rng(5)
    x, noise = rng.normal(size=(2, 2000, 3))
    x_prime = np.concatenate([0.8 * x[:, :2] + 0.6 * noise[:, :2], noise[:, 2:]], 1)
    task = fitting(wound(x, 0, 1), wound(x_prime, 1, 2), steps=500)
    plain = tuple(coordinates.NormalScores(side) for side in task.pairs)
    left, right, rho = coordinates.canonical(plain[0](task.pairs[0]), plain[1](task.pairs[1]))
    maps = torch.nn.Sequential(plain[0], left), torch.nn.Sequential(plain[1], right)
    torch.manual_seed(0)
    critic = critics.separable_critic("", maps, critics.gaussian_critic("", maps, rho, task), task)
    with torch.no_grad():
        assert float(critic.value(*task.validation)) > 0.77  # of 1.02 nats


def wound(x: np.ndarray, first: int, second: int) -> np.ndarray:
    angle, wound = (x**2).sum(1) / 3, x.copy()
    wound[:, first] = np.cos(angle) * x[:, first] + np.sin(angle) * x[:, second]
    wound[:, second] = np.cos(angle) * x[:, second] - np.sin(angle) * x[:, first]
    return wound


def test_the_mixture_density_follows_sharp_edges() -> None:
    """A uniform x' around x: the density ratio is a box, its mean logarithm is known, and Gaussians lose much of it."""
    rng = np.random.default_rng(2)
    width = 0.1
    x = rng.uniform(size=(1500, 1))
    task = fitting(x, x + rng.uniform(-width, width, size=x.shape), steps=250)
    truth = width - math.log(2 * width)
    maps = coordinates.Standard(task.pairs[0]), coordinates.Standard(task.pairs[1])
    single = torch.nn.Sequential(maps[0], coordinates.AsGiven()), torch.nn.Sequential(maps[1], coordinates.AsGiven())
    torch.manual_seed(0)
    critic = critics.mixture_critic("", single, task)
    with torch.no_grad():
        assert abs(float(critic.value(*task.validation)) - truth) < 0.15


def test_independent_columns_and_many_dimensions_show_nothing() -> None:
    rng = np.random.default_rng(3)
    mi = estimate(rng.normal(size=(300, 20)), rng.normal(size=(300, 20)), max_steps=5)
    assert float(mi.lower) < 0.03


def test_the_lower_bound_lies_below_the_truth_over_samples() -> None:
    truth = -0.5 * math.log(1 - 0.9**2)
    values = [float(estimate(*correlated(600, 0.9, seed=s), max_steps=5).lower) for s in range(6)]
    assert np.mean(values) < truth + 3 * np.std(values) / math.sqrt(len(values))
    assert np.mean(values) > truth - 0.15


def test_same_seed_same_numbers_and_no_trace_in_the_callers_generator() -> None:
    x, x_prime = correlated(300, 0.7)
    before = torch.random.get_rng_state()
    first, again = (estimate(x, x_prime, max_steps=20) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert float(first.lower) == float(again.lower) and first.candidates == again.candidates


def test_lists_vectors_and_tensors_are_the_same_data() -> None:
    x, x_prime = correlated(200, 0.7)
    values = [
        float(rp.estimate_mutual_information(a, b, max_steps=5).lower)
        for a, b in (
            (x, x_prime),
            (x[:, 0].tolist(), x_prime[:, 0].tolist()),
            (torch.as_tensor(x), torch.as_tensor(x_prime)),
        )
    ]
    assert values == pytest.approx([values[0]] * 3, abs=1e-5)


def test_a_known_conditional_gives_both_sides() -> None:
    """Above and below the truth, in the mean over samples; and the two change places if the own pair's place does."""
    rho = 0.9
    truth = -0.5 * math.log(1 - rho**2)

    def log_conditional(x: torch.Tensor, x_prime: torch.Tensor) -> torch.Tensor:
        variance = 1 - rho**2
        return (-0.5 * (x_prime - rho * x).square() / variance - 0.5 * math.log(2 * math.pi * variance)).sum(-1)

    lowers, uppers = [], []
    for seed in range(40):
        x, x_prime = correlated(90, rho, seed=seed)
        mi = rp.estimate_mutual_information(x, x_prime, log_conditional=log_conditional, bank_size=10)
        assert mi.upper is not None and (mi.lower.kind, mi.upper.kind) == ("lower", "upper")
        lowers.append(float(mi.lower))
        uppers.append(float(mi.upper))
    error = np.std(lowers) / math.sqrt(len(lowers))
    assert np.mean(lowers) < truth - 2 * error
    error = np.std(uppers) / math.sqrt(len(uppers))
    assert np.mean(uppers) > truth + 2 * error


def test_the_bank_limits_the_value() -> None:
    x, x_prime = correlated(900, 0.99999)
    with pytest.warns(rp.CeilingWarning, match="bank_size") as caught:
        mi = estimate(x, x_prime, bank_size=4, max_steps=5)
    assert len(caught) == 1
    assert mi.lower.ceiling is not None and abs(mi.lower.ceiling - math.log(4)) < 0.1
    assert float(mi.lower) <= mi.lower.ceiling + 1e-6


@pytest.mark.parametrize(
    ("x", "of"),
    [
        ("normal", lambda x: x),
        ("uniform", lambda x: x),
        ("row numbers", lambda x: x),
        ("five columns", lambda x: x),
        ("normal", lambda x: 2 - 3 * x),
        ("normal", np.exp),
        ("normal", lambda x: np.concatenate([np.cos(np.arange(300.0) ** 2)[:, None], x], 1)),
    ],
)
def test_equal_sides_are_at_the_ceiling_and_it_is_said(x: str, of: Callable[[np.ndarray], np.ndarray]) -> None:
    """The MI is infinite, or as large as a row number's: the bound may only say that it is more than the bank shows."""
    rng = np.random.default_rng(7)
    data = {
        "normal": rng.normal(size=(300, 1)),
        "uniform": rng.uniform(size=(300, 1)),
        "row numbers": rng.permutation(300).astype(float)[:, None],
        "five columns": rng.normal(size=(300, 5)),
    }[x]
    with pytest.warns(rp.CeilingWarning, match=r"100 pairs in a bank.*Use a larger bank_size or test set"):
        mi = rp.estimate_mutual_information(data, of(data), max_steps=2)
    assert mi.lower.ceiling is not None and mi.lower.ceiling - math.log(2) < float(mi.lower) <= mi.lower.ceiling + 1e-6
    assert float(mi.estimate) <= 2 * math.log(100) + 1e-5


def test_no_ceiling_is_spoken_of_well_below_it() -> None:
    mi = estimate(*correlated(600, 0.95), max_steps=5)  # warnings are errors
    assert mi.lower.ceiling is not None and float(mi.lower) < mi.lower.ceiling - 2


def test_the_printed_error_has_the_spread_between_critics() -> None:
    mi = estimate(*correlated(300, 0.8), max_steps=20)
    bounds = [bound for bound in (mi.lower, mi.estimate) if isinstance(bound, HeldOutBound)]
    assert len(bounds) == 2 and mi.averaged >= 3
    for bound in bounds:
        rows = replace(bound, spread=0.0).standard_error
        assert bound.spread > 0
        assert 0.5 < rows / (float(bound.per_observation.std()) / math.sqrt(150)) < 1.5  # as members of the bank, too
        assert bound.standard_error == pytest.approx(math.hypot(rows, bound.spread), rel=1e-4)
        assert f"{bound} +- {bound.standard_error:.3f}" in str(mi)


def test_the_mean_critic_is_the_mean_log_f() -> None:
    """Of a Gaussian critic in double precision and networks in single, alone and on blocks."""
    x, x_prime = correlated(300, 0.8)
    task = fitting(x, x_prime, steps=1)
    maps = tuple(coordinates.Standard(side) for side in task.pairs)
    left, right, rho = coordinates.canonical(maps[0](task.pairs[0]), maps[1](task.pairs[1]))
    maps = torch.nn.Sequential(maps[0], left), torch.nn.Sequential(maps[1], right)
    base = critics.gaussian_critic("", maps, rho, task)
    parts = [base, critics.separable_critic("", maps, base, task), critics.mixture_critic("", maps, task)]
    mean = critics.mean_critic(parts, task.pairs[0][:1], task.pairs[1][:1])
    pairs = task.validation

    def log_f(critic: critics.Critic) -> torch.Tensor:
        return critic.coupling(critic.encoders[0](pairs[0]), critic.encoders[1](pairs[1])).double()

    with torch.no_grad():
        wanted = torch.stack([log_f(part) for part in parts]).mean(0)
        torch.testing.assert_close(log_f(mean), wanted, rtol=1e-5, atol=1e-5)
        block = mean.coupling.score()(mean.encoders[0](pairs[0]), mean.encoders[1](pairs[1]))
        torch.testing.assert_close(block.diag(), wanted, rtol=1e-5, atol=1e-5)


def product(x: torch.Tensor, x_prime: torch.Tensor) -> torch.Tensor:
    return (x * x_prime).sum(1)


def test_the_permutation_test_is_exact_without_dependence_and_finds_it_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    values = []
    for seed in range(600):
        x, x_prime = torch.randn(2, 12, 1, generator=generator)
        values.append(permutation_p_value(product, x, x_prime, 19, seed=seed))
    for level in (0.05, 0.1, 0.5):  # four standard errors
        assert abs(np.mean(np.array(values) <= level) - level) < 4 * math.sqrt(level * (1 - level) / 600)
    x, noise = torch.randn(2, 100, 1, generator=generator)
    assert permutation_p_value(product, x, x + noise, 199) == 1 / 200
    assert permutation_p_value(lambda x, x_prime: 0.3 * torch.ones(len(x)), x, x + noise, 199) == 1


def test_shifts_keep_the_level_in_series_and_permutations_do_not() -> None:
    """Two independent AR(1) series with a memory of about twenty rows.

    Their mean product varies 4.4 times as much as that of independent rows, so that permutations reject about
    P(normal > 1.64 / 4.4) = 36 % and not 5 % of them.
    """
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 120, 700))
    series = np.zeros_like(noise)
    for t in range(1, noise.shape[2]):
        series[:, :, t] = 0.95 * series[:, :, t - 1] + noise[:, :, t]
    pairs = torch.as_tensor(series[:, :, 300:, None])
    found: dict[bool, float] = {}
    for shifts in (True, False):
        values = [permutation_p_value(product, *pair, 19, shifts=shifts) for pair in zip(*pairs, strict=True)]
        found[shifts] = float(np.mean(np.array(values) <= 0.05))
    assert found[True] < 0.13  # four standard errors above 5 %
    assert found[False] > 0.18  # four below 36 %


def test_p_values_of_the_whole() -> None:
    x, x_prime = correlated(240, 0.6)
    mi = estimate(x, x_prime, max_steps=5, permutations=39)  # of the library's critics
    assert mi.p_value == 1 / 40 and "p = 0.025 if" in str(mi)
    apart = estimate(x, correlated(240, 0.6, seed=9)[1], critic=rp.Bilinear(1), permutations=19)
    assert apart.p_value is not None and apart.p_value > 0.05
    assert estimate(x, x_prime, critic=rp.Bilinear(1)).p_value is None
    series = estimate(x, x_prime, critic=rp.Bilinear(1), permutations=99, series=True)
    assert series.p_value == 0.01 and series.lower.kind == "estimate"  # neighbours are no independent negatives
    known = rp.estimate_mutual_information(x, x_prime, log_conditional=lambda a, b: (a * b).sum(-1), permutations=19)
    assert known.p_value == 0.05 and known.lower.kind == "lower"


def test_a_coupling_of_the_callers_is_trained() -> None:
    """On the sphere the cosine with the right temperature is the family of the density ratio."""
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(1500, 3, generator=generator), dim=1)
    z_prime = torch.nn.functional.normalize(z + 0.3 * torch.randn(1500, 3, generator=generator), dim=1)
    coupling = rp.Cosine(temperature=0.4)
    mi = rp.estimate_mutual_information(z, z_prime, critic=coupling, max_steps=150)
    assert mi.critic == "Cosine" and 0.05 < float(coupling.temperature.detach()) < 0.2
    assert float(mi.lower) > 1.3


def test_normal_scores_are_ranks() -> None:
    x = torch.tensor([[3.0], [1.0], [2.0], [2.0]], dtype=torch.float64)
    scores = coordinates.NormalScores(x)(x)[:, 0]
    expected = torch.special.ndtri(torch.tensor([3.5, 0.5, 2.0, 2.0], dtype=torch.float64) / 4)
    assert torch.allclose(scores, expected)
    between = coordinates.NormalScores(x)(torch.tensor([[2.5], [-9.0], [9.0]], dtype=torch.float64))[:, 0]
    assert scores[2] < between[0] < scores[0] and between[1] == scores[1] and between[2] == scores[0]
    constant = coordinates.NormalScores(torch.ones(3, 1))
    assert torch.equal(constant(torch.ones(3, 1)), torch.zeros(3, 1))


def test_canonical_coordinates_are_white_and_paired() -> None:
    x, x_prime = (torch.as_tensor(a) for a in correlated(500, 0.6, dim=3))
    left, right, rho = coordinates.canonical(x, x_prime)
    u, v = left(x).double(), right(x_prime).double()
    assert torch.allclose(u.T @ u / 500, torch.eye(3, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(u.T @ v / 500, torch.diag(rho.double()), atol=1e-5)


def test_the_mixture_coupling_is_the_density_it_says() -> None:
    """Over v it integrates to one, and the two ways of forming it agree."""
    coupling = mixtures.MixtureCoupling(1, components=3)
    z = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.cat([z.unflatten(1, (3, 3))[..., :2], z.unflatten(1, (3, 3))[..., 2:].log_softmax(1)], -1).flatten(1)
    grid = torch.linspace(-60, 60, 100001, dtype=torch.float64)
    z_prime = torch.stack([grid, torch.zeros_like(grid)], 1)
    mass = coupling(z[:, None], z_prime).exp().sum(1) * (grid[1] - grid[0])
    assert torch.allclose(mass, torch.ones(4, dtype=torch.float64), atol=1e-5)
    whole = coupling(z[:, None], z_prime[::100][None])
    assert torch.allclose(whole, coupling(z[:, None], z_prime)[:, ::100], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": np.zeros((5, 2, 2))}, r"Expected x of shape \(N,\) or \(N, D\); got \(5, 2, 2\)"),
        ({"x": [["a"]]}, "Expected x as numbers"),
        ({"x": np.full((60, 1), np.nan)}, "x"),
        ({"x": np.zeros((59, 1))}, "one row per pair; got 59 and 60"),
        ({"x": np.zeros((5, 1)), "x_prime": np.zeros((5, 1))}, "at least 6 pairs"),
        ({"x": np.zeros((12, 1)), "x_prime": np.zeros((12, 1))}, "at least 20 pairs"),
        ({"x_test": np.zeros((9, 1))}, "x_test and x_prime_test together"),
        ({"x_test": np.zeros((9, 2)), "x_prime_test": np.zeros((9, 1))}, "Expected x_test of width 1"),
        ({"x_test": np.zeros((9, 1)), "x_prime_test": np.zeros((8, 1))}, "got 9 and 8 rows"),
        ({"critic": rp.Cosine(), "log_conditional": lambda x, x_prime: x}, "got both"),
        ({"max_steps": 0}, "max_steps"),
        ({"bank_size": 1}, "bank_size"),
        ({"random_state": -1}, "random_state"),
        ({"permutations": 0}, "permutations"),
        ({"permutations": 20, "series": True}, r"permutations < 20, the number of test pairs, of a series; got 20"),
    ],
)
def test_bad_input(change: dict[str, object], words: str) -> None:
    given: dict[str, object] = {"x": np.zeros((60, 1)), "x_prime": np.zeros((60, 1)), **change}
    x, x_prime = given.pop("x"), given.pop("x_prime")
    with pytest.raises(ValueError, match=words):
        rp.estimate_mutual_information(x, x_prime, **given)  # pyright: ignore[reportArgumentType]


def test_constant_data_carry_no_information() -> None:
    mi = rp.estimate_mutual_information(np.zeros(60), np.ones(60), max_steps=5)
    assert float(mi.lower) == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_the_sphere_s_truth_is_reached_and_its_latents_found() -> None:
    """Pairs of a von Mises-Fisher distribution: benchmarks/sphere.py, with half of its pairs."""
    path = Path(__file__).parent.parent / "benchmarks" / "sphere.py"
    spec = importlib.util.spec_from_file_location("sphere", path)
    assert spec is not None and spec.loader is not None
    sphere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sphere)
    found = sphere.run(5, kappa=10.0, pairs=20000, steps=1000, batch_size=512)
    assert abs(float(found.lower) - sphere.truth(10.0)) < 0.02 + 2 * found.lower.standard_error
    assert found.decoded > 0.99 > 0.8 > found.untrained
