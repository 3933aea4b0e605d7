"""Finite samples, exactly: every value of the negatives, or every batch, is enumerated with its probability."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from finite_world import FiniteWorld, cells, multisets, random_base
from recparam.bounds import Bound, infinite_infonce, infonce
from recparam.marginals import Scored
from recparam.priors import JointCategoricalPrior, Prior
from recparam.recognition import recognise


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_world(seed: int, *, sizes: tuple[int, int] = (3, 3), sharpness: float = 3.0) -> FiniteWorld:
    generator = torch.Generator().manual_seed(seed)
    base = random_base(generator, *sizes)
    logits = [sharpness * torch.randn(x, z, generator=generator) for x, z in zip(sizes, (3, 2), strict=True)]
    return FiniteWorld(base, [table.softmax(-1) for table in logits])


def make_log_f(seed: int, world: FiniteWorld, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return scale * torch.randn(*world.joint().shape, generator=generator)


def library_infonce(
    world: FiniteWorld, log_f: Tensor, count: int, constant: str | float = "tight", *, shift: float = 0.0
) -> tuple[float, Bound]:
    """I_N through the library: its per-observation values at all (z, z'), for every value of N negatives."""
    joint, marginal = world.joint(), world.marginal(1)
    width, width_prime = joint.shape
    coupling = rp.Bilinear(width, width_prime, theta=log_f + shift)
    pairs = torch.cartesian_prod(torch.arange(width), torch.arange(width_prime))
    z, z_prime = torch.eye(width)[pairs[:, 0]], torch.eye(width_prime)[pairs[:, 1]]
    total, bound = 0.0, None
    with torch.no_grad():
        for choice in itertools.product(range(width_prime), repeat=count):
            index = list(choice)
            bound = infonce(coupling, z, z_prime, negatives=torch.eye(width_prime)[index], constant=constant)
            total += float(marginal[index].prod() * (joint.flatten() * bound.per_observation).sum())
    assert bound is not None
    return total, bound


def close(value: float | Tensor, expected: float | Tensor) -> None:
    assert float(value) == pytest.approx(float(expected), rel=0, abs=1e-10)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_finite_infonce_and_its_constants(seed: int, count: int) -> None:
    """Eq. 6: the exact expectation over R(z, z') and N negatives, with the paper's, the tight and any constant."""
    world = make_world(seed)
    log_f = make_log_f(seed, world)
    cases: list[tuple[str | float, float]] = [("paper", math.log(count)), ("tight", math.log(count + 1)), (0.25, 0.25)]
    for constant, nats in cases:
        value, bound = library_infonce(world, log_f, count, constant)
        close(value, world.finite_infonce(log_f, count, nats))
        assert bound.of == "mi" and bound.kind == "lower" and bound.ceiling == pytest.approx(nats)
        assert float(bound.per_observation.max()) <= nats
        close(sum(bound.terms.values()), bound.value)
    # Only ratios of f count: a factor changes nothing.
    close(library_infonce(world, log_f, count, shift=7.0)[0], library_infonce(world, log_f, count)[0])


def test_a_constant_above_the_tight_one_is_no_bound() -> None:
    """Eq. 6: log(N + 1) is the largest constant that is valid for every world, and the kind says so."""
    dependent = FiniteWorld(torch.eye(3) / 3, [torch.eye(3)] * 2)
    log_f = 50 * torch.eye(3)
    for count in (1, 2):
        # All of log(N + 1) but the chance of a negative equal to the positive: log(N + 1) is nearly reached ...
        value, bound = library_infonce(dependent, log_f, count, "tight")
        assert bound.kind == "lower" and value < math.log(3)
    # ... and with independent latents and a constant f, I_N(tight) is 0 = MI: any more would be too much.
    independent = FiniteWorld(torch.full((3, 3), 1 / 9), [torch.eye(3)] * 2)
    for count in (1, 3):
        close(library_infonce(independent, torch.zeros(3, 3), count, "tight")[0], 0.0)
        value, bound = library_infonce(independent, torch.zeros(3, 3), count, math.log(count + 1) + 0.01)
        assert value > 0.009 and bound.kind == "estimate"


@pytest.mark.parametrize("seed", range(6))
def test_infonce_is_below_the_mutual_information_for_every_f(seed: int) -> None:
    """Eq. 7: I_N <= MI (tight constant) and I_inf <= MI for random f, flat or overconfident."""
    world = make_world(seed)
    mi = float(world.mutual_information())
    for scale in (0.3, 2.0, 10.0):
        log_f = make_log_f(seed, world, scale)
        assert float(world.infinite_infonce(log_f)) <= mi + 1e-12
        for count in (1, 2, 3):
            tight = library_infonce(world, log_f, count)[0]
            assert tight <= min(mi, math.log(count + 1)) + 1e-12
            close(library_infonce(world, log_f, count, "paper")[0], tight - math.log((count + 1) / count))


@pytest.mark.parametrize("seed", range(4))
def test_at_the_optimal_f_infonce_grows_with_n_towards_the_mutual_information(seed: int) -> None:
    """Eq. 7: at f = R(z, z') / (R(z) R(z')), I_1 < I_2 < ... < I_inf = MI, with either constant."""
    world = make_world(seed)
    best = world.optimal_log_f()
    for constant in ("tight", "paper"):
        values = [library_infonce(world, best, count, constant)[0] for count in (1, 2, 3, 4)]
        values.append(float(world.infinite_infonce(best)))
        assert all(a < b for a, b in itertools.pairwise(values))
        close(values[-1], world.mutual_information())
    # Any other f, a function of z apart, is worse.
    z_only = make_log_f(seed, world)[:, :1]
    close(world.infinite_infonce(best + z_only), world.mutual_information())
    assert float(world.infinite_infonce(best + make_log_f(seed, world, 0.5))) < values[-1]


def test_at_a_random_f_the_order_of_eq_7_fails() -> None:
    """Eq. 7, as printed, fails off the optimum: I_N above I_inf, falling with N or first rising and then falling."""
    world = make_world(0)
    overconfident = make_log_f(0, world, 10.0)
    values = [library_infonce(world, overconfident, count)[0] for count in (1, 2, 3, 4)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert min(values) > float(world.infinite_infonce(overconfident))

    world = make_world(16, sharpness=6.0)
    mixed = make_log_f(16, world, 1.0) + 2 * world.optimal_log_f()
    values = [library_infonce(world, mixed, count)[0] for count in (1, 2, 3, 4)]
    assert values[0] < values[1] > values[2] > values[3] > float(world.infinite_infonce(mixed))


@pytest.mark.parametrize("count", [2, 3])
def test_negatives_from_the_batch_are_the_same_objective(count: int) -> None:
    """Eq. 6: over all batches of B pairs, the B - 1 other z' are the N negatives; so is the self-included ELBO."""
    world = make_world(3)
    log_f = make_log_f(3, world)
    joint = world.joint()
    pairs = torch.cartesian_prod(*(torch.arange(size) for size in joint.shape))
    z, z_prime = torch.eye(joint.shape[0])[pairs[:, 0]], torch.eye(joint.shape[1])[pairs[:, 1]]
    coupling = rp.Bilinear(*joint.shape, theta=log_f)
    prior = rp.InfoNCEPrior(coupling)
    direct, through_elbo = 0.0, 0.0
    for chosen, probability in multisets(len(pairs), count, joint.flatten()):
        direct += probability * float(infonce(coupling, z[chosen], z_prime[chosen]))
        through_elbo += probability * float(prior.log_ratio(z[chosen], z_prime[chosen]).detach().mean())
    expected = world.finite_infonce(log_f, count - 1, math.log(count))
    close(direct, expected)
    close(through_elbo, expected)


# From here on the batch is a sample of R_base, the latents are categorical, and every batch is enumerated, so
# that "holds in expectation" is a finite sum.


def build(world: FiniteWorld, prior: Prior) -> tuple[rp.RPM, list[Tensor]]:
    networks = [nn.Embedding.from_pretrained(table.log()) for table in world.recognition]
    return rp.RPM([rp.Categorical(network) for network in networks], prior), cells(world.base)[0]


def expectation(world: FiniteWorld, size: int, value: Callable[[list[int]], float], *, order: str = "none") -> float:
    """Mean of a function of a batch of independent cells; `order` says what the function tells apart."""
    probabilities = world.base.flatten()
    count = len(probabilities)
    if order == "none":
        batches = multisets(count, size, probabilities)
    elif order == "halves":  # the even places and the odd ones
        half = multisets(count, size // 2, probabilities)
        batches = [
            ([cell for pair in zip(even, odd, strict=True) for cell in pair], p * q)
            for (even, p), (odd, q) in itertools.product(half, half)
        ]
    else:
        every = [list(choice) for choice in itertools.product(range(count), repeat=size)]
        batches = [(choice, float(probabilities[choice].prod())) for choice in every]
    assert sum(probability for _, probability in batches) == pytest.approx(1.0)
    return sum(probability * value(batch) for batch, probability in batches if probability > 0)


def random_prior(name: str, seed: int, world: FiniteWorld) -> tuple[Prior, Tensor]:
    log_f = make_log_f(seed, world)
    if name == "infonce":
        return rp.InfoNCEPrior(rp.Bilinear(*log_f.shape, theta=log_f)), world.infonce_prior([log_f])
    if name == "optimal":
        return rp.OptimalPrior(), world.joint()
    prior = JointCategoricalPrior(*log_f.shape)
    with torch.no_grad():
        prior.logits.copy_(log_f)
    return prior, log_f.flatten().softmax(0).reshape(log_f.shape)


@pytest.mark.parametrize("name", ["infonce", "optimal", "table"])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_side_of_the_elbo_lies_on_its_side(name: str, seed: int) -> None:
    """The table of directions: the expected upper bound is above the exact ELBO, the expected lower one below."""
    world = make_world(seed, sizes=(2, 2))
    prior, table = random_prior(name, seed, world)
    model, observations = build(world, prior)
    truth = float(world.mean_elbo(table))

    def mean(side: rp.priors.Side, kind: str, size: int, order: str = "none") -> float:
        def value(batch: list[int]) -> float:
            bound = model.elbo(*(x[batch] for x in observations), side=side)
            assert bound.kind == kind
            assert bound.ceiling is None or float(bound) <= bound.ceiling + 1e-12
            return float(bound)

        with torch.no_grad():
            return expectation(world, size, value, order=order)

    assert mean("upper", "upper", 3) > truth + 1e-4
    if name == "infonce":  # needs two halves of the batch, and tells them apart
        assert mean("lower", "lower", 4, "halves") < truth - 1e-4
    else:
        assert mean("lower", "lower", 3) < truth - 1e-4
    if name == "table":
        assert mean(None, "lower", 3) < truth - 1e-4
    else:
        mean(None, "estimate", 3)


@pytest.mark.parametrize("name", ["infonce", "optimal", "table"])
def test_each_side_of_three_observations(name: str) -> None:
    """The table of directions for J = 3, with the total correlation for the MI."""
    generator = torch.Generator().manual_seed(0)
    tables = [(3 * torch.randn(2, 2, generator=generator)).softmax(-1) for _ in range(3)]
    base = random_base(generator, 2, 2, 2)
    base.view(-1)[[1, 2, 4, 7]] = 0.0  # four cells, in which every x_j takes both values
    world = FiniteWorld(base / base.sum(), tables)
    logits, log_f = 2 * torch.randn(2, 2, 2, generator=generator), 2 * torch.randn(2, 2, generator=generator)
    prior: Prior = rp.OptimalPrior()
    table = world.joint()
    if name == "infonce":
        prior, table = rp.InfoNCEPrior(rp.Bilinear(2, theta=log_f)), world.infonce_prior([log_f, log_f])
    elif name == "table":
        prior, table = JointCategoricalPrior(2, 2, 2), logits.flatten().softmax(0).reshape(2, 2, 2)
        with torch.no_grad():
            prior.logits.copy_(logits)
    model, observations = build(world, prior)
    truth, total_correlation = float(world.mean_elbo(table)), float(world.mutual_information())

    def mean(side: rp.priors.Side, kind: str) -> float:
        def value(batch: list[int]) -> float:
            bound = model.elbo(*(x[batch] for x in observations), side=side)
            assert (bound.of, bound.kind) == ("elbo", kind)
            if bound.ceiling is not None:
                assert bound.ceiling == pytest.approx(2 * math.log(2))
                assert float(bound) <= bound.ceiling + 1e-12
            return float(bound)

        return expectation(world, 2, value)

    with torch.no_grad():
        assert mean("upper", "upper") > truth + 1e-3
        if name == "infonce":
            assert mean(None, "estimate") < total_correlation - 1e-3
        else:
            assert mean("lower", "lower") < truth - 1e-3
        if name == "table":
            assert mean(None, "lower") < truth - 1e-3


@pytest.mark.parametrize(
    ("name", "side"),
    [("table", "upper"), ("table", "lower"), ("infonce", "upper"), ("optimal", "upper"), ("optimal", "lower")],
)
def test_unequal_weights_keep_the_directions(name: str, side: rp.priors.Side) -> None:
    """Fixed weights per place in the batch change the size of a bound, not its side or its ceiling."""
    world = make_world(0, sizes=(2, 2))
    weights = torch.tensor([0.6, 0.3, 0.1])
    prior, table = random_prior(name, 0, world)
    model, observations = build(world, prior)

    def value(batch: list[int]) -> float:
        bound = model.elbo(*(x[batch] for x in observations), side=side, weights=weights)
        if bound.ceiling is not None:
            assert bound.ceiling == pytest.approx(float(torch.special.entr(weights).sum()))
            assert float(bound) <= bound.ceiling + 1e-12
        return float(bound)

    with torch.no_grad():
        gap = expectation(world, 3, value, order="all") - float(world.mean_elbo(table))
    assert gap > 0 if side == "upper" else gap < 0


@pytest.mark.parametrize("seed", range(4))
def test_self_included_infonce_bounds_the_mutual_information_not_the_elbo(seed: int) -> None:
    """An overconfident f is flattered: the self-included value is above the ELBO, yet below the MI (Eq. 7)."""
    world = make_world(seed, sizes=(2, 2))
    log_f = make_log_f(seed, world, 10.0)
    coupling = rp.Bilinear(*log_f.shape, theta=log_f)
    model, observations = build(world, rp.InfoNCEPrior(coupling))

    def value(batch: list[int]) -> float:
        chosen = [x[batch] for x in observations]
        distributions = [model.encode(x, index=j) for j, x in enumerate(chosen)]
        particles = recognise(distributions)
        weights = torch.full((len(batch),), 1 / len(batch))
        recognised = rp.BatchMarginal().recognised(Scored(chosen, distributions, particles, weights), encode=list)
        bound = infinite_infonce(coupling, recognised)
        assert (bound.of, bound.kind) == ("mi", "lower")
        return float(bound)

    with torch.no_grad():
        self_included = expectation(world, 3, value)
    assert float(world.infinite_infonce(log_f)) < self_included < float(world.mutual_information())


@pytest.mark.parametrize("seed", [0, 1])
def test_mutual_information_from_batches_lies_between_its_bounds(seed: int) -> None:
    """Eq. 5: the expected lower and upper bounds of the MI, and the KL of Eq. 18, on their sides."""
    world = make_world(seed, sizes=(2, 2))
    prior, table = random_prior("table", seed, world)
    model, observations = build(world, prior)
    totals = {"lower": 0.0, "upper": 0.0, "kl": 0.0}
    with torch.no_grad():
        for batch, probability in multisets(4, 3, world.base.flatten()):
            chosen = [x[batch] for x in observations]
            mi, parts = model.mutual_information(*chosen), model.decompose(*chosen)
            assert mi.upper is not None and (mi.lower.kind, mi.upper.kind) == ("lower", "upper")
            assert parts.kl.kind == "lower"
            totals["lower"] += probability * float(mi.lower)
            totals["upper"] += probability * float(mi.upper)
            totals["kl"] += probability * float(parts.kl)
    assert totals["lower"] < float(world.mutual_information()) < totals["upper"]
    assert totals["kl"] < float(world.divergence(table))


def test_a_ceiling_holds_for_chosen_rows_or_is_not_given() -> None:
    """A few rows of a data set may exceed the ceiling of the whole; then none may be claimed."""
    one_hot = torch.eye(4)
    encoder = nn.Embedding.from_pretrained(30 * one_hot)
    x = torch.arange(4)
    data = rp.DatasetMarginal(x, x, weights=torch.tensor([0.97, 0.01, 0.01, 0.01]))
    tables = JointCategoricalPrior(4, 4)
    with torch.no_grad():
        tables.logits.copy_(torch.full((4, 4), -40.0).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(0.0)))
    priors: list[Prior] = [rp.OptimalPrior(), rp.InfoNCEPrior(rp.Bilinear(4, theta=30 * one_hot)), tables]
    for prior in priors:
        model = rp.RPM(rp.Categorical(encoder), prior, marginal=data)
        for rows in (torch.tensor([1]), torch.tensor([1, 2, 1])):
            bound = model.elbo(x[rows], x[rows], rows=rows)
            assert bound.ceiling is None or float(bound) <= bound.ceiling + 1e-9
        whole = model.elbo(x, x)
        assert whole.ceiling is not None and float(whole) <= whole.ceiling + 1e-9


def test_leaving_out_the_only_weighted_row_is_an_error() -> None:
    """Leave-one-out needs another row of positive weight; NaN is not a value."""
    world = make_world(0, sizes=(2, 2))
    model, observations = build(world, random_prior("infonce", 0, world)[0])
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert math.isfinite(float(model.elbo(*observations, weights=weights)))
    with pytest.raises(ValueError, match="weighted bank column"):
        model.elbo(*observations, weights=weights, side="upper")


def test_the_batch_objective_of_a_model_needs_deterministic_latents() -> None:
    """Eq. 6 through the model: the value of its latents; stochastic ones are refused."""
    world = make_world(0)
    prior = rp.InfoNCEPrior(rp.Bilinear(3, theta=torch.randn(3, 3)))
    x, x_prime = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 1, 0, 0])
    model = rp.RPM(rp.Deterministic(nn.Embedding.from_pretrained(torch.eye(3))), prior)
    close(model.infonce(x, x_prime).value.detach(), model.elbo(x, x_prime).value.detach())
    stochastic = rp.RPM(rp.Categorical(nn.Embedding.from_pretrained(world.recognition[0].log())), prior)
    with pytest.raises(ValueError, match="deterministic"):
        stochastic.infonce(x, x_prime)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-10])
def test_the_cosine_coupling_and_its_score_agree_at_any_scale(scale: float) -> None:
    """Numerator and denominator of Eq. 6 must see the same f, or a value may pass its ceiling."""
    z, z_prime = scale * torch.randn(5, 3), scale * torch.randn(5, 3)
    coupling = rp.Cosine(0.3)
    with torch.no_grad():
        torch.testing.assert_close(coupling(z, z_prime), coupling.score()(z, z_prime).diagonal())
