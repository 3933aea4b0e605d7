"""P_ij and P(j|i): equal to the tables of the finite world, streamed, and what is drawn from them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.model.calibration import retrieval
from recparam.ops import (
    BlockScore,
    DotProduct,
    GaussianDensity,
    ParticleScore,
    Score,
    SquaredDistance,
    pack_particles,
    pairwise_entropy,
    pairwise_logsumexp,
    pairwise_places,
    pairwise_scores,
    pairwise_topk,
)
from test_finite_world import PRIORS, SEEDS, close, make_case, make_coupling, make_prior
from test_kernel import Largest

PLAIN = {**os.environ, "PYTHONPATH": str(Path(rp.__file__).parent.parent)}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def all_columns(matching: rp.Matching) -> Tensor:
    return torch.arange(len(matching.columns)).expand(len(matching), -1)


# The finite world


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_tables_are_those_of_the_world(seed: int, prior_name: str) -> None:
    """Eqs. 30-34 and 48: F, P_ij and P(j|i) of every prior, and sum_ij P_ij = 1."""
    case = make_case(seed)
    prior, table = make_prior(prior_name, case)
    world = case.world
    x, x_prime = case.observations
    matching = case.model(prior).match(x, x_prime)
    assert matching.kind == "exact"
    everything = all_columns(matching)
    evidence = world.evidence(table)
    base, base_prime = world.base_marginal(0), world.base_marginal(1)
    close(matching.log_f(everything).exp(), (evidence / (base[:, None] * base_prime))[x][:, x_prime])

    p_ij = matching.log_joint(everything).exp()
    weights = case.base.flatten()
    close(p_ij, weights[:, None] * weights * matching.log_f(everything).exp())
    close(p_ij.sum(), 1.0)
    close(torch.tensor(matching.total), 1.0)
    tallied = torch.zeros(len(base), len(x)).index_add(0, x, p_ij)  # rows of one x, then of one x'
    close(torch.zeros(len(base_prime), len(base)).index_add(0, x_prime, tallied.T).T, evidence)

    p_j = matching.log_prob(everything).exp()
    close(p_j.sum(1), torch.ones(len(x)))
    of_value = torch.zeros(len(base_prime), len(x)).index_add(0, x_prime, p_j.T).T
    close(of_value, (evidence / evidence.sum(1, keepdim=True))[x])
    close(matching.entropy(), torch.special.entr(p_j).sum(1))
    if prior_name not in ("table",):  # P(z) = R(z), and so P(x) = R_base(x)
        close(p_ij.sum(1), weights)


@pytest.mark.parametrize("prior_name", PRIORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mean_log_f_of_partners_is_the_log_marginal(seed: int, prior_name: str) -> None:
    """Eqs. 50 and 51."""
    case = make_case(seed)
    model = case.model(make_prior(prior_name, case)[0])
    matching, bound = model.match(*case.observations), model.log_marginal(*case.observations)
    close(matching.log_f(), bound.per_observation)
    weighted = case.base.flatten() > 0
    close((matching.weights * matching.log_f())[weighted].sum(), bound.value)
    close(matching.log_prob(), matching.log_prob(all_columns(matching)).diagonal())


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_deterministic_encoders(seed: int) -> None:
    """Eq. 51 with one latent to a row, where the score is a matrix product with biases."""
    case = make_case(seed, deterministic=True)
    coupling, log_f = make_coupling("bilinear", case.widths)
    model = case.model(rp.InfoNCEPrior(coupling))
    x, x_prime = case.observations
    matching = model.match(x, x_prime)
    place, place_prime = (model.encode(v, index=j).mean.argmax(1) for j, v in enumerate(case.observations))
    f = log_f.detach().exp()[place][:, place_prime]
    weights = case.base.flatten()
    f = f / (f @ weights)[:, None]
    close(matching.log_f(all_columns(matching)).exp(), f)
    close(matching.log_prob(all_columns(matching)).exp(), f * weights)
    close(torch.tensor(matching.total), 1.0)
    close(matching.log_f(), model.elbo(x, x_prime).per_observation)


def test_chosen_rows_of_a_data_set() -> None:
    """F of some rows is that of the whole; P(j|i) is that of the rows given."""
    case = make_case(1)
    rows = torch.tensor([5, 0, 11, 7])
    chosen = [x[rows] for x in case.observations]
    for prior_name in PRIORS:
        model = case.model(make_prior(prior_name, case)[0])
        whole, part = model.match(*case.observations), model.match(*chosen, rows=rows)
        columns = all_columns(part)
        close(part.log_f(columns), whole.log_f(all_columns(whole))[rows][:, rows])
        p = whole.log_prob(all_columns(whole)).exp()[rows][:, rows]
        close(part.log_prob(columns).exp(), p / p.sum(1, keepdim=True))
        assert part.kind == "exact"


# Batches and draws


def gaussian_model(prior: Any, **options: Any) -> rp.RPM:
    torch.manual_seed(0)
    return rp.RPM(rp.Gaussian(nn.Linear(2, 4)), prior, **options)


def test_a_batch_is_an_estimate_that_still_sums_to_one_under_infonce() -> None:
    x, x_prime = draw(9, 2), draw(9, 2, seed=1)
    prior = rp.InfoNCEPrior(rp.Bilinear(2))
    model = rp.RPM(rp.Deterministic(nn.Identity()), prior)
    matching = model.match(x, x_prime)
    assert matching.kind == "estimate" and repr(matching) == "Matching(9 x 9 rows, estimate)"
    close(torch.tensor(matching.total), 1.0)
    close(matching.log_f(), model.log_marginal(x, x_prime).per_observation)
    drawn = gaussian_model(prior).match(x, x_prime, num_samples=4, generator=seeded())
    assert drawn.kind == "estimate" and drawn.score == ParticleScore(drawn.score.score, 4, 4)  # type: ignore[attr-defined]
    close(torch.tensor(drawn.total), 1.0)


@pytest.mark.parametrize("prior_name", ["infonce", "optimal", "gaussian"])
def test_draws_of_the_latents_approach_the_expectation(prior_name: str) -> None:
    """F of Gaussian latents, R(z) known: against an integral on a grid, and better with more draws."""
    prior = {
        "infonce": lambda: rp.InfoNCEPrior(rp.GaussianRBF(1.0)),
        "optimal": rp.OptimalPrior,
        "gaussian": lambda: rp.JointGaussianPrior(1, correlation=0.6),
    }[prior_name]()
    x, x_prime = draw(4, 1), draw(4, 1, seed=1)
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [0.0]]))
        net.bias.zero_()
    model = rp.RPM(rp.Gaussian(net), prior, marginal=rp.DatasetMarginal(x, x_prime))
    grid = torch.linspace(-7, 7, 561)
    r, r_prime = (model.encode(v).log_prob(grid[:, None, None]).T.exp().detach() for v in (x, x_prime))  # (4, G)
    step = grid[1] - grid[0]
    marginal, marginal_prime = r.mean(0), r_prime.mean(0)
    if prior_name == "infonce":
        f = (-0.5 * (grid[:, None] - grid) ** 2).exp()
        ratio = f / (f * marginal_prime * step).sum(1, keepdim=True)
    else:
        joint = r.T @ r_prime / 4
        if isinstance(prior, rp.JointGaussianPrior):
            joint = prior.log_prob(grid[:, None, None], grid[None, :, None]).exp().detach()
        ratio = joint / (marginal[:, None] * marginal_prime)
    truth = r @ ratio @ r_prime.T * step**2
    errors = []
    for count in (4, 1000):
        matching = model.match(x, x_prime, num_samples=count, generator=seeded(3))
        assert matching.kind == "estimate"
        errors.append(float((matching.log_f(all_columns(matching)).exp() / truth - 1).abs().max()))
    assert errors[1] < 0.15 and errors[1] < errors[0]


def test_a_matching_outlives_training() -> None:
    coupling = rp.Bilinear(2)
    for prior in (rp.InfoNCEPrior(coupling), rp.JointGaussianPrior(2)):
        matching = gaussian_model(prior).match(draw(5, 2), draw(5, 2, seed=1), generator=seeded())
        before = matching.log_f()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.mul_(3)
        assert torch.equal(before, matching.log_f())


# Selection, draws, retrieval


def model_of(count: int, *, lengthscale: float = 0.5, weights: Tensor | None = None) -> tuple[rp.Matching, Tensor]:
    """A matching with weights, and its P(j|i) from a dense table."""
    x, x_prime = draw(count, 2), draw(count, 2, seed=1)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale))
    marginal = rp.DatasetMarginal(x, x_prime, weights=weights)
    matching = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=marginal).match(x, x_prime)
    return matching, (SquaredDistance(torch.tensor(lengthscale))(x, x_prime) + matching.weights.log()).softmax(1)


@pytest.mark.parametrize("weighted", [False, True])
def test_best_rows_places_and_entropy_against_the_dense_table(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recparam.ops.score_matrix.BLOCK", 100)
    weights = torch.rand(30, generator=seeded(4)) if weighted else None
    if weights is not None:
        weights[7] = 0.0
    matching, p = model_of(30, weights=weights)
    best = matching.top_k(5)
    expected = p.topk(5, 1)
    assert torch.equal(best.indices, expected.indices)
    torch.testing.assert_close(best.log_probs, expected.values.log())
    places = matching.places()
    own = p.diagonal()[:, None]
    assert torch.equal(places.above, (p > own).sum(1)) and places.size == (29 if weighted else 30)
    assert torch.equal(places.tied, (p == own).sum(1))
    torch.testing.assert_close(matching.entropy(), torch.special.entr(p).sum(1))
    for k in (1, 5):
        hit = (matching.top_k(k).indices == torch.arange(30)[:, None]).any(1)
        kept = torch.ones(30).bool() if weights is None else weights > 0
        assert torch.equal(hit[kept], (places.above < k)[kept])


def test_draws_follow_the_probabilities() -> None:
    matching, p = model_of(6, weights=torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0, 1.0]))
    count = 40_000
    drawn = matching.sample(count, generator=seeded())
    share = torch.stack([torch.bincount(row, minlength=6) for row in drawn.indices]) / count
    assert float((share - p).abs().max()) < 5 * 0.5 / count**0.5
    torch.testing.assert_close(drawn.log_probs.exp(), p.gather(1, drawn.indices))

    pairs = matching.sample_pairs(count, generator=seeded(1))
    joint = torch.bincount(6 * pairs.rows + pairs.columns, minlength=36).reshape(6, 6) / count
    truth = matching.log_joint(all_columns(matching)).exp()
    assert float(((joint - truth).abs() / (truth / count).sqrt().clamp_min(1e-3)).max()) < 5
    assert bool((joint[:, 2] == 0).all()) and bool((joint[2] == 0).all())
    again = matching.sample_pairs(count, generator=seeded(1))
    assert torch.equal(pairs.rows, again.rows) and torch.equal(pairs.columns, again.columns)


def test_retrieval_counts_ties_by_their_expectation() -> None:
    """Four candidates: one partner alone in front, one alone in the third place, one of three that tie behind one."""
    places = rp.ops.Places(torch.tensor([0, 2, 1]), torch.tensor([1, 1, 3]), 4)
    result = retrieval(places, at=(1, 2, 3))
    assert result.recall == pytest.approx((1 / 3, (1 + 1 / 3) / 3, (2 + 2 / 3) / 3))
    assert result.median_rank == 3.0 and result.mean_reciprocal_rank == pytest.approx(
        (1 + 1 / 3 + (1 / 2 + 1 / 3 + 1 / 4) / 3) / 3
    )
    assert result.chance == (0.25, 0.5, 0.75) and result.chance_rank == 2.5 and (result.size, result.count) == (4, 3)


def test_retrieval_of_an_encoder_that_says_nothing_is_chance() -> None:
    """All latents alike: every candidate ties, and no metric pretends otherwise."""
    x = torch.zeros(50, 2)
    matching = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(1.0))).match(x, x)
    result = retrieval(matching.places(), at=(1, 5))
    assert result.recall == pytest.approx(result.chance) and result.median_rank == result.chance_rank == 25.5
    matched, _ = model_of(50)
    informed = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(0.1))).match(
        draw(50, 2), draw(50, 2) + 0.01 * draw(50, 2, seed=2)
    )
    assert retrieval(informed.places()).recall[0] > 0.9
    assert retrieval(matched.places()).recall[0] < 0.2  # independent rows


def test_no_matrix_of_all_pairs_is_ever_made() -> None:
    n = 1500
    x, x_prime = draw(n, 2), draw(n, 2, seed=1)
    for recognition in (rp.Deterministic(nn.Identity()), rp.EpsilonGaussian(nn.Identity(), epsilon=0.1)):
        for prior in (rp.InfoNCEPrior(rp.GaussianRBF(0.5)), rp.JointGaussianPrior(2)):
            if isinstance(prior, rp.JointGaussianPrior) and isinstance(recognition, rp.Deterministic):
                continue
            model = rp.RPM(recognition, prior)
            with Largest() as largest:
                matching = model.match(x, x_prime, generator=seeded())
                matching.top_k(3), matching.places(), matching.entropy(), matching.sample(2), matching.sample_pairs(9)
                matching.log_f(), matching.log_joint(), matching.log_prob()
            assert n < largest.entries <= n * n / 2


# The operations


@dataclass
class Groups:
    score: Score
    z: Tensor
    a: Tensor
    bank: Tensor
    b: Tensor

    @property
    def packed(self) -> tuple[Score, Tensor, Tensor]:
        score = ParticleScore(self.score, len(self.z), len(self.bank))
        return score, pack_particles(self.z, self.a), pack_particles(self.bank, self.b)

    def dense(self) -> Tensor:
        total = torch.zeros(self.z.shape[1], self.bank.shape[1])
        for z, a in zip(self.z, self.a, strict=True):
            for bank, b in zip(self.bank, self.b, strict=True):
                total = total + (self.score(z, bank) + a[:, None] + b).exp()
        return total.log()


SCORES: dict[str, Callable[[], Score]] = {
    "dot": DotProduct,
    "far from the origin": lambda: DotProduct(scale=torch.tensor(3.0)),
    "distance": lambda: SquaredDistance(torch.tensor(0.7)),
    "callable": lambda: BlockScore(lambda a, b: -torch.cdist(a, b)),
    "density": GaussianDensity,
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("s", "t"), [(1, 1), (2, 3), (3, 1), (1, 2)])
def test_groups_against_dense_sums(name: str, s: int, t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recparam.ops.score_matrix.BLOCK", 100)
    bank = draw(t, 13, 3, seed=1)
    if name == "density":
        bank = torch.cat([bank, bank.abs() + 0.5], -1)
    if name == "far from the origin":
        bank = bank + 100
    of = Groups(SCORES[name](), draw(s, 11, 3), draw(s, 11, seed=2), bank, draw(t, 13, seed=3))
    if name == "far from the origin":
        of.a = of.a - of.score(of.z.flatten(0, 1), bank[0]).amax(1).reshape(s, 11)
    packed, truth = of.packed, of.dense()
    torch.testing.assert_close(packed[0](*packed[1:]), truth)
    torch.testing.assert_close(pairwise_logsumexp(*packed), truth.logsumexp(1))
    torch.testing.assert_close(pairwise_scores(*packed, torch.arange(11)[:, None] + torch.arange(2)), truth.gather(
        1, torch.arange(11)[:, None] + torch.arange(2)))  # fmt: skip
    weights = draw(13, seed=5)
    best, expected = pairwise_topk(*packed, 4, log_weights=weights), (truth + weights).log_softmax(1).topk(4, 1)
    assert torch.equal(best.indices, expected.indices)
    torch.testing.assert_close(best.log_probs, expected.values)


@pytest.mark.parametrize(("columns", "k"), [(7, 7), (100, 1), (1003, 3), (1003, 200), (1003, 1003)])
def test_the_best_of_long_rows_are_those_of_a_sort(columns: int, k: int) -> None:
    """Groups of columns of any size, some left over, and fewer columns of weight than are asked for."""
    z, bank, weights = draw(5, 3), draw(columns, 3, seed=1), draw(columns, seed=2)
    weights[:3] = -torch.inf
    found = pairwise_topk(DotProduct(), z, bank, k, log_weights=weights)
    values, order = (z @ bank.T + weights).log_softmax(1).sort(1, descending=True)
    torch.testing.assert_close(found.log_probs, values[:, :k])
    kept = min(k, columns - 3)
    assert torch.equal(found.indices[:, :kept], order[:, :kept])
    assert all(len(row.unique()) == k for row in found.indices)


def test_results_of_many_blocks_leave_no_holes_in_memory() -> None:
    """Small results that lie between blocks would keep each block's memory."""
    program = """
import resource, torch
from recparam.ops import SquaredDistance, pairwise_entropy, pairwise_places, pairwise_sample, pairwise_topk
torch.set_num_threads(1)
score, z, bank = SquaredDistance(torch.tensor(1.0)), torch.randn(5000, 4), torch.randn(6000, 4)
def run(z):
    pairwise_topk(score, z, bank, 10), pairwise_places(score, z, bank, torch.arange(len(z)))
    pairwise_entropy(score, z, bank), pairwise_sample(score, z, bank, 2)
run(z[:200])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(z)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=PLAIN)
    assert int(done.stdout) < 20 * 1024  # KiB


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1e3])
def test_entropy_against_a_dense_oracle(dtype: torch.dtype, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one column has nearly all, and with a column of no weight."""
    monkeypatch.setattr("recparam.ops.score_matrix.BLOCK", 100)
    z, bank, weights = draw(17, 4).to(dtype), draw(23, 4, seed=1).to(dtype), draw(23, seed=2)
    weights[3] = -torch.inf
    score = DotProduct(scale=torch.tensor(scale))
    log_p = (score(z.double(), bank.double()) + weights).log_softmax(1)
    truth = -(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0)).sum(1)
    value = pairwise_entropy(score, z, bank, log_weights=weights.to(torch.promote_types(dtype, torch.float32)))
    assert value.dtype == dtype and bool((value >= 0).all())
    tolerance = {torch.float32: 1e-3 if scale == 1e3 else 1e-5, torch.float64: 1e-11, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(value.double(), truth, rtol=tolerance, atol=tolerance)


def test_a_sharp_row_keeps_the_digits_of_a_small_entropy() -> None:
    """Two columns 20 nats apart, at a height where a difference of sums would be rounded to nothing."""
    value = pairwise_entropy(DotProduct(), torch.tensor([[1e6]]), torch.tensor([[1.0], [1 - 2e-5]]))
    p = torch.tensor(-20.0).sigmoid()
    truth = torch.special.entr(p) + torch.special.entr(1 - p)
    torch.testing.assert_close(value[0], truth, rtol=1e-6, atol=0)


def test_places_with_ties_and_columns_of_no_weight() -> None:
    bank = torch.tensor([[1.0], [3.0], [2.0], [1.0], [3.0]])
    weights = torch.tensor([0.0, 0.0, 0.0, 0.0, -torch.inf])
    places = pairwise_places(DotProduct(), torch.ones(3, 1), bank, torch.tensor([3, 1, 4]), log_weights=weights)
    assert places.above.tolist() == [2, 0, 4] and places.tied.tolist() == [2, 1, 1] and places.size == 4


# Bad input


def match(prior: Any = None, **options: Any) -> Any:
    model = rp.RPM(
        options.pop("recognition", rp.Deterministic(nn.Identity())),
        prior or rp.InfoNCEPrior(rp.GaussianRBF(1.0)),
        **options.pop("model", {}),
    )
    return model.match(*options.pop("data", (torch.zeros(4, 2), torch.ones(4, 2))), **options)


class Stranger(rp.InfoNCEPrior.__bases__[0]):  # a prior of a user's, with no pairwise form
    needs_density = False

    def _terms(self, latents: Any, recognised: Any, side: Any) -> Any:
        raise NotImplementedError

    def kind(self, side: Any, situation: Any) -> Any:
        return "estimate"


def many() -> Any:
    x = draw(4000, 2)
    return match(rp.OptimalPrior(), recognition=rp.EpsilonGaussian(nn.Identity(), epsilon=1.0), data=(x, x))


def neighbours() -> Any:
    labels = rp.Labels(times=torch.arange(4.0))
    return match(
        rp.OptimalPrior(),
        recognition=rp.EpsilonGaussian(nn.Identity(), epsilon=1.0),
        model={"marginal": rp.BatchMarginal(exclude_within=0.5)},
        labels=labels,
    )


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: match(data=(torch.zeros(4, 2), torch.ones(3, 2))), "the same number of rows"),
    (lambda: match(data=(torch.zeros(4, 2) * torch.nan, torch.ones(4, 2))), "finite values in x"),
    (lambda: match(num_samples=0), "num_samples >= 1"),
    (lambda: match(weights=torch.zeros(4)), "weights of shape (4,)"),
    (lambda: match(rp.JointGaussianPrior(2)), "EpsilonGaussian"),
    (lambda: match(rp.InfoNCEPrior(rp.Bilinear(3))), "widths (3, 3)"),
    (lambda: match(Stranger()), "a score of two latents and a term of each"),
    (many, "4000 x 4000 latents and a bank of 4000 rows"),
    (neighbours, "exclude_within=None for the optimal prior"),
    (lambda: match().log_f(torch.tensor([0, 1])), "indices of shape (4,) or (4, k)"),
    (lambda: match().log_prob(torch.tensor([0, 1, 2, 4])), "indices from 0 to 3"),
    (lambda: match().top_k(5), "k of at most 4"),
    (lambda: match().sample(0), "num >= 1"),
    (lambda: match().sample_pairs(0), "num >= 1"),
    (lambda: retrieval(match().places(), at=()), "at as whole numbers"),
    (lambda: retrieval(match().places(), at=(0,)), "at as whole numbers"),
    (lambda: ParticleScore(DotProduct(), 2, 1)(torch.zeros(2, 5), torch.zeros(2, 3)), "rows of 2 latents"),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()


def test_no_pair_of_any_probability_is_said_and_nothing_drawn() -> None:
    nothing = rp.Matching(
        BlockScore(lambda a, b: a * b.T - torch.inf), torch.zeros(3, 1), torch.zeros(3, 1), torch.ones(3) / 3,
        torch.ones(3) / 3, "estimate",
    )  # fmt: skip
    with pytest.raises(ValueError, match="a pair of positive probability"):
        nothing.sample_pairs(2)
