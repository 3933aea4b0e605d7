"""Models compared on the same targets: on which side each number errs, who is comparable, and what is refused."""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld, standard
from quick_fits import quick
from recparam.comparison import Evidence, comparison, values_of
from recparam.couplings import Coupling
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.evaluation.series import around, mean_error
from recparam.ops import NonFiniteError

WORLD = standard(1, rho=0.9)


WORLD_OF_TWO = standard(2, rho=0.8)


def draws(rows: int, *, seed: int = 0, steps: int = 2, world: GaussianWorld = WORLD) -> tuple[Tensor, ...]:
    return tuple(world.sample(rows, torch.Generator().manual_seed(seed), steps=steps))


def identity(coupling: Coupling, **options: Any) -> rp.RPM:
    return rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(coupling, **options)).double()


def rbf(lengthscale: float) -> rp.GaussianRBF:
    coupling = rp.GaussianRBF(1.0).double()
    with torch.no_grad():
        coupling.log_lengthscale.fill_(math.log(lengthscale))
    return coupling


@pytest.mark.parametrize("other_rows", [False, True])
def test_the_sides_enclose_what_is_known(other_rows: bool) -> None:
    """Over many small banks: swapped directions would put the truth outside."""
    scales = (1.0, 3.0)
    models = {f"{s}": identity(rbf(s)) for s in scales}
    found: dict[str, list[list[float]]] = {name: [] for name in models}
    lows, highs, truth = [], [], WORLD.rbf(1.0) - WORLD.rbf(3.0)
    for seed in range(20):
        bank = draws(16, seed=1000 + seed) if other_rows else None
        compared = rp.compare(models, draws(16, seed=seed), bank=bank)
        difference = compared.difference("1.0", "3.0")
        assert difference.proved and difference.low is not None and difference.high is not None
        lows.append(difference.low)
        highs.append(difference.high)
        for name, evidence in compared.models.items():
            assert evidence.lower is not None and evidence.upper is not None
            assert (evidence.lower.kind, evidence.upper.kind) == ("lower", "upper")
            found[name].append([float(evidence.lower), float(evidence.upper)])
    for scale in scales:
        values = np.array(found[f"{scale}"])
        mean, error = values.mean(0), values.std(0) / math.sqrt(len(values))
        assert mean[0] - 3 * error[0] < WORLD.rbf(scale) < mean[1] + 3 * error[1]
    sides = np.array([lows, highs])
    mean, error = sides.mean(1), sides.std(1) / math.sqrt(len(lows))
    assert mean[0] + 1.5 * error[0] < truth < mean[1] + 1.5 * error[1]  # were they swapped, the low end would be above


def test_the_better_of_two_priors_is_told_by_the_bounds_and_in_either_order() -> None:
    data, bank = draws(400), draws(400, seed=1)
    right, wide = identity(rbf(0.46)), identity(rbf(4.0))
    for models in ({"right": right, "wide": wide}, {"wide": wide, "right": right}):
        compared = rp.compare(models, data, bank=bank)
        (difference,) = compared.differences
        assert (difference.better, difference.basis) == ("right", "bounds")
        assert compared.ranking == ["right", "wide"]
        assert difference.verdict == "right above wide, by the bounds"
    itself = rp.compare([right, right], data).differences[0]
    assert itself.mean == 0 and itself.better is None and itself.verdict == "a tie: equal up to rounding"
    assert itself.low is not None and itself.high is not None and itself.low < 0 < itself.high


def test_differences_are_paired() -> None:
    """What makes a segment hard for both cancels; a row counts as a negative of the others as well as for itself."""
    data = draws(300, steps=2)
    models = {"a": identity(rbf(0.46)), "b": identity(rbf(0.5))}
    compared = rp.compare(models, data)
    a, b = (values_of(compared[name].estimate) for name in models)
    difference = compared.difference("a", "b")
    z, z_prime = data
    columns = []
    for scale in (0.46, 0.5):
        scores = -0.5 * ((z[:, None, 0] - z_prime[None, :, 0]) / scale).square()
        column = 1 - scores.softmax(1).sum(0)
        columns.append(column * (1 + column.square().mean()).sqrt())  # more where few rows of the bank count
    influence = a - b + (columns[0] - columns[1]).numpy()
    expected = around(float((a - b).mean()), mean_error(influence), count=300)
    assert tuple(difference.paired.interval) == pytest.approx(tuple(expected.interval), abs=1e-6)
    assert difference.mean == pytest.approx(float((a - b).mean()))
    intervals = compared["a"].interval.interval, difference.paired.interval
    spread, paired = (cast(float, high) - mean for mean, _, high in intervals)
    assert paired < spread / 3
    back = compared.difference("b", "a")
    assert back.mean == -difference.mean and back.low == -(difference.high or 0)


class First(nn.Module):
    """One of two dimensions that are exchangeable."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.dimension : self.dimension + 1]


def alike(coupling: Coupling) -> dict[str, rp.RPM]:
    return {f"{k}": rp.RPM(rp.Deterministic(First(k)), rp.InfoNCEPrior(coupling)) for k in (0, 1)}


def series(rows: int, memory: float, generator: torch.Generator) -> Tensor:
    noise = math.sqrt(1 - memory**2) * torch.randn(rows + 200, 2, generator=generator)
    return torch.from_numpy(lfilter([1.0], [1.0, -memory], noise.numpy(), axis=0)[200:].copy())


@pytest.mark.parametrize(
    ("coupling", "rows", "bank", "memory"),
    [
        (rp.GaussianRBF(1.0), 200, None, None),
        (rp.Bilinear(1, theta=torch.tensor([[0.5]])), 1000, 50, None),
        (rp.GaussianRBF(0.7), 500, None, 0.9),
        (rp.Laplace(0.6), 300, 60, None),
    ],
)
def test_no_winner_of_two_models_that_are_equal_by_symmetry(
    coupling: Coupling, rows: int, bank: int | None, memory: float | None
) -> None:
    """Of 40 draws; with the bank taken as fixed 10 to 70 % of them had a winner, most of them by the bounds."""
    winners, covered, of = 0, 0, 40
    for seed in range(of):
        generator = torch.Generator().manual_seed(seed)
        if memory is not None:
            x = series(rows + 1, memory, generator)
            data, others = (x[:-1], x[1:]), None
        else:
            data, others = (
                None if count is None else tuple(part.float() for part in WORLD_OF_TWO.sample(count, generator))
                for count in (rows, bank)
            )
        difference = rp.compare(alike(coupling), data, bank=others).difference("0", "1")
        _, low, high = difference.paired.interval
        winners += difference.better is not None
        covered += low is None or high is None or low <= 0 <= high
    assert winners <= 2 and covered >= 0.9 * of


def test_a_bank_of_which_few_rows_count_declares_nothing_and_says_so() -> None:
    coupling = rp.Bilinear(1, theta=torch.tensor([[2.0]]))
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    compared = rp.compare(alike(coupling), (x, 0.8 * x + 0.6 * x.flip(0)))
    (difference,) = compared.differences
    assert difference.better is None and "tails are too heavy, since 0 rests on" in difference.verdict
    assert (compared["0"].effective or 1) < 0.5
    assert difference.facts()["heavy_tails"] in str(compared)


def test_too_few_independent_blocks_decide_nothing_and_say_how_many_they_are() -> None:
    x = series(501, 0.99, torch.Generator().manual_seed(1))
    (difference,) = rp.compare(alike(rp.GaussianRBF(1.0)), (x[:-1], x[1:])).differences
    assert difference.better is None and difference.paired.interval[1:] == (None, None)
    words = f"not decided: {difference.paired.blocks} independent blocks of rows, of 15 that it needs"
    assert difference.verdict == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rp.GaussianRBF(1.0), rp.GeneralisedNormal(2.0, lengthscale=2**0.5)),
        (rp.GaussianRBF(0.1), rp.LinearDynamics(3, covariance=0.01 * torch.eye(3))),
        (rp.GaussianRBF(1.0), rp.Groups(rp.GaussianRBF(1.0), [[0], [1], [2]])),
    ],
)
def test_two_spellings_of_one_model_are_a_tie(one: Coupling, other: Coupling) -> None:
    models = {f"{c}": rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(c)) for c in (one, other)}
    for seed in range(10):
        z, noise = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(seed))
        (difference,) = rp.compare(models, (z, 0.8 * z + 0.6 * noise)).differences
        assert difference.tie and difference.better is None
        assert difference.verdict == "a tie: equal up to rounding"


VELOCITY = rp.After(rp.ConstantVelocity(), rbf(0.5))


def log_means(log_f: Callable[..., Tensor], z: list[Tensor], t: int, order: int) -> Tensor:
    rows = len(z[0])
    before = [z[t - k] for k in range(order, 0, -1)]
    values = []
    for i in range(rows):
        every = torch.stack([log_f(*(b[i] for b in before), z[t][j]) for j in range(rows)])
        values.append(every[i] - every.exp().mean().log())
    return torch.stack(values)


def near(now: Tensor, after: Tensor) -> Tensor:
    return -0.5 * (after - now).square().sum() / 0.7**2


def steady(before: Tensor, now: Tensor, after: Tensor) -> Tensor:
    return -0.5 * (after - 2 * now + before).square().sum() / 0.5**2


def test_priors_of_other_orders_score_the_same_steps() -> None:
    z = list(draws(9, steps=4))
    models = {"near": identity(rbf(0.7)), "steady": identity(VELOCITY)}
    compared = rp.compare(models, tuple(z))
    assert (compared.steps, compared.context) == (2, 2)
    assert compared.targets == "log P(x_3, x_4|x_1, x_2) - const"
    expected = {
        "near": log_means(near, z, 2, 1) + log_means(near, z, 3, 1),
        "steady": log_means(steady, z, 2, 2) + log_means(steady, z, 3, 2),
    }
    for name, value in expected.items():
        torch.testing.assert_close(compared[name].estimate.per_observation, value, rtol=0, atol=1e-9)
        assert compared[name].estimate.ceiling == pytest.approx(2 * math.log(9))
        assert not compared[name].left_out
    # Not what each makes of the whole window, where one of them has a step more.
    assert float(compared["near"].estimate) != pytest.approx(float(models["near"].elbo(*z)))


def test_the_first_steps_are_had_where_they_are_asked_for() -> None:
    z = list(draws(9, steps=3))
    models = {"near": identity(rbf(0.7)), "steady": identity(VELOCITY), "both": identity(VELOCITY, first=rbf(0.7))}
    compared = rp.compare(models, tuple(z), context=1)
    for name, model in models.items():
        torch.testing.assert_close(compared[name].estimate.per_observation, model.elbo(*z).per_observation)
    assert [compared[name].left_out for name in models] == [0, 1, 0]
    assert "steady leaves 1 of the 2 steps at R(z)" in str(compared)


def test_a_bank_of_other_windows_is_the_same_for_all_orders() -> None:
    z, bank = draws(6, steps=3), draws(8, seed=1, steps=3)
    compared = rp.compare({"near": identity(rbf(0.7)), "steady": identity(VELOCITY)}, z, bank=bank)
    for name, log_f, order in (("near", near, 1), ("steady", steady, 2)):
        values = []
        for i in range(6):
            before = [z[2 - k][i] for k in range(order, 0, -1)]
            own = log_f(*before, z[2][i])
            every = torch.stack([own, *(log_f(*before, other) for other in bank[2])])
            values.append(own - every.exp().mean().log())
        torch.testing.assert_close(compared[name].estimate.per_observation, torch.stack(values), rtol=0, atol=1e-9)
        assert compared[name].estimate.ceiling == pytest.approx(math.log(9))


def test_windows_of_a_recording_stay_in_their_session_and_are_those_of_a_tuple() -> None:
    rng = np.random.default_rng(0)
    sessions = [rng.normal(size=(7, 2)), rng.normal(size=(5, 2)), rng.normal(size=(2, 2))]
    models = {
        "near": rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(0.7))),
        "steady": rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(VELOCITY)).float(),
    }
    found = rp.compare(models, sessions, window=3)
    assert found.rows == 5 + 3
    parts = [torch.from_numpy(np.float32(np.stack([s[t : len(s) - 2 + t] for t in range(3)]))) for s in sessions[:2]]
    windows = torch.cat(parts, 1)
    told = rp.compare(models, tuple(windows))
    for name in models:
        torch.testing.assert_close(found[name].estimate.per_observation, told[name].estimate.per_observation)
        # Rows of a series are not independent, which a recording knows and a tuple does not.
        assert (found[name].upper or found[name].estimate).kind == "estimate"
        assert (told[name].upper or found[name].estimate).kind == "upper"
    assert found.differences[0].basis != "bounds" and "no bounds" in str(found)
    other = rp.compare(models, sessions, window=3, bank=[rng.normal(size=(9, 2))])
    assert (other["near"].upper or other["near"].estimate).kind == "upper"
    VELOCITY.double()


def test_two_at_their_ceiling_are_not_told_apart() -> None:
    x = torch.randperm(40, generator=torch.Generator().manual_seed(0)).double()[:, None]  # a trend would be one block
    models = {"sharp": identity(rbf(0.1)), "sharper": identity(rbf(0.05)), "wide": identity(rbf(9.0))}
    with pytest.warns(rp.CeilingWarning, match=r"sharp and sharper are both at their ceiling of 3\.689"):
        compared = rp.compare(models, (x, x + 0.01))
    assert compared.difference("sharp", "sharper").verdict == "hidden by the ceiling"
    assert compared.difference("sharp", "wide").better == "sharp"


def test_a_stochastic_encoder_is_no_fair_match_but_its_lower_bound_counts() -> None:
    data = draws(300)
    noisy = rp.RPM(rp.EpsilonGaussian(nn.Identity(), epsilon=0.05), rp.InfoNCEPrior(rbf(0.46))).double()
    compared = rp.compare({"noisy": noisy, "right": identity(rbf(0.46)), "wide": identity(rbf(6.0))}, data)
    assert [e.fair for e in compared.models.values()] == [False, True, True]
    assert "gap that depends on the prior" in str(compared)
    one = compared.difference("noisy", "right")
    assert one.high is None and one.low is not None and one.better is None
    assert one.verdict == "not comparable: the ELBO of noisy is not the evidence"
    # Its evidence is at least its lower bound, which is more than the other can have.
    assert compared.difference("noisy", "wide").verdict == "noisy above wide, by the bounds"
    assert compared.difference("wide", "noisy").better == "noisy"


def test_training_mode_and_weights_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).double()
    model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rbf(0.7)))
    net[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = draws(30)
    first, second = (rp.compare([model, identity(rbf(0.7))], data).facts() for _ in range(2))
    assert first == second  # no dropout
    assert net[0].training and not net[1].training and net[2].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.fixture(scope="module")
def walk() -> np.ndarray:
    rng = np.random.default_rng(0)
    place = np.sin(0.1 * np.cumsum(rng.normal(size=(260, 2)), axis=0))
    return np.tanh(place @ rng.normal(size=(2, 6))) + 0.05 * rng.normal(size=(260, 6))


@pytest.fixture(scope="module")
def fitted(walk: np.ndarray) -> dict[str, rp.RPMEstimator]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        priors = ("gaussian", "linear", "joint-gaussian")
        return {prior: quick(prior=prior, max_steps=25).fit(walk[:200]) for prior in priors}


def test_estimators_are_scored_as_they_score(walk: np.ndarray, fitted: dict[str, rp.RPMEstimator]) -> None:
    compared = rp.compare(fitted, walk[200:])
    assert compared.rows == 59
    for name, estimator in fitted.items():
        assert float(compared[name].estimate) == pytest.approx(estimator.score(walk[200:]), abs=1e-6)
        assert compared[name].bank == estimator.bank_size_
        assert compared[name].fair == (name != "joint-gaussian")
        lower, upper = compared[name].lower, compared[name].upper
        assert lower is not None and upper is not None
        assert lower.kind == upper.kind == "estimate"  # a bank of a series proves no side
    assert all(difference.basis != "bounds" for difference in compared.differences)
    pairs = consecutive(Recording.of(walk), lag=1).where(np.arange(205, 250))
    assert rp.compare(fitted, walk, pairs=pairs).rows == 45


def test_estimators_beside_models_share_a_bank(walk: np.ndarray, fitted: dict[str, rp.RPMEstimator]) -> None:
    gaussian = fitted["gaussian"]
    models = {"estimator": gaussian, "model": gaussian.model_, "linear": fitted["linear"]}
    compared = rp.compare(models, walk[200:], window=2, bank=walk[:200])
    assert compared.difference("estimator", "model").mean == 0
    pairs = consecutive(Recording.of(walk[200:]))
    by_pairs = rp.compare(models, walk[200:], pairs=pairs, bank=consecutive(Recording.of(walk[:200])))
    assert by_pairs.facts()["models"] == compared.facts()["models"]


def test_facts_are_json_and_the_picture_shows_every_row(fitted: dict[str, rp.RPMEstimator], walk: np.ndarray) -> None:
    from recparam.utils.storage import json_text

    compared = rp.compare(fitted, walk[200:])
    assert "null" in json_text(compared.facts())
    figure = compared.figure()
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["gaussian", "linear", "joint-gaussian (*)"]
    assert len(right.get_yticklabels()) == 3


def unset() -> rp.RPM:
    return rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF()))


def two() -> list[rp.RPM]:
    return [identity(rbf(0.7)), identity(rbf(0.5))]


X, Y = draws(12)
NAN = X.clone()
NAN[3] = torch.nan
ROWS = np.random.default_rng(0).normal(size=(60, 6))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: rp.compare([identity(rbf(0.7))], (X, Y)), "at least two models"),
        (lambda _: rp.compare({"a": two()[0], "b": nn.Identity()}, (X, Y)), "Identity as 'b'"),  # pyright: ignore
        (lambda _: rp.compare(two(), (X, Y[:5])), r"same number of rows.*\[12, 5\]"),
        (lambda _: rp.compare(two(), (X,)), "at least two observations"),
        (lambda _: rp.compare(two(), X), "window="),
        (lambda _: rp.compare(two(), (X, Y), window=2), "with a tuple"),
        (lambda _: rp.compare(two(), (NAN, Y)), "x of data; got 1 NaN"),
        (lambda _: rp.compare(two(), (X, Y), bank=(X, NAN)), "x_prime of bank; got 1 NaN"),
        (lambda _: rp.compare(two(), (X, Y), bank=(X, Y, X)), "bank of 2 observations"),
        (lambda _: rp.compare(two(), (X, Y), bank=(X, Y), exclude_within=1.0), "exclude_within"),
        (lambda _: rp.compare([*two(), unset()], (X, Y)), "lengthscale is set"),
        (lambda _: rp.compare([two()[0], identity(VELOCITY)], (X, Y)), "at least 3 observations.*got 2"),
        (lambda _: rp.compare(two(), (X, Y, X), context=3), "context from 1 to 2"),
        (lambda _: rp.compare(two(), [ROWS[:3], ROWS[3:7]], window=5), "at most 4 rows.*session"),
        (lambda _: rp.compare(two(), (X, Y), labels=rp.Labels(times=torch.arange(5.0))), "labels of the 12"),
        (
            lambda _: rp.compare([two()[0], rp.RPM(rp.Gaussian(nn.Identity()), rp.OptimalPrior())], (X, Y)),
            "optimal prior in model 2",
        ),
        (lambda fits: rp.compare([fits["gaussian"], two()[0]], ROWS), "window="),
        (lambda fits: rp.compare([fits["gaussian"], fits["linear"]], ROWS[:, :3]), "6"),
        (lambda fits: rp.compare([fits["gaussian"], rp.RPMEstimator()], ROWS), "not fitted"),
        (lambda fits: rp.compare([fits["gaussian"], fits["linear"]], ROWS, context=1), "keep a bank of their own"),
        (lambda fits: rp.compare([fits["gaussian"], quick(max_steps=5, lag=2).fit(ROWS)], ROWS), "one lag"),
        (lambda fits: rp.compare([fits["gaussian"], quick(max_steps=5).fit(ROWS)], ROWS), "one bank_size"),
    ],
)
@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
def test_bad_input_is_named(call: Any, words: str, fitted: dict[str, rp.RPMEstimator]) -> None:
    with pytest.raises(ValueError, match=words):
        call(fitted)


def test_values_that_are_no_numbers_are_an_error() -> None:
    bound = identity(rbf(0.7)).elbo(X, Y)
    lost = rp.Bound(bound.value, bound.per_observation * torch.nan, "elbo", "estimate")
    with pytest.raises(ValueError, match="finite values of b; got 12"):
        comparison({"a": Evidence(bound), "b": Evidence(lost)}, targets="", bank="")
    with pytest.raises(ValueError, match="the same rows"):
        comparison({"a": Evidence(bound), "b": Evidence(two()[0].elbo(X[:5], Y[:5]))}, targets="", bank="")
    with pytest.raises(NonFiniteError):
        rp.compare([*two(), rp.RPM(rp.Deterministic(nn.Threshold(9, torch.nan)), rp.InfoNCEPrior(rbf(1.0)))], (X, Y))
