"""Banks: who is left out for whom, how old rows are, and the queue."""

import math

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.marginals.bank import Queries
from recparam.recognition import recognise


def model(marginal: object = None, **coupling: float) -> rp.RPM:
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    return rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=marginal)  # pyright: ignore[reportArgumentType]


def pairs(count: int, width: int = 2) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    return x, x + 0.3 * torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(x: Tensor, x_prime: Tensor, left: Tensor) -> Tensor:
    """log f - log mean f over the columns where `left` is False."""
    log_f = -0.5 * torch.cdist(x, x_prime).square()
    kept = log_f.masked_fill(left, -torch.inf)
    return log_f.diagonal() - kept.logsumexp(1) + (~left).sum(1).log()


@pytest.mark.parametrize("side", [None, "upper"])
def test_rows_within_the_window_are_left_out_of_the_batch(side: str | None) -> None:
    x, x_prime = pairs(12)
    times = torch.linspace(0, 11, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    sessions = torch.arange(12) % 2
    near = ((times[:, None] - times).abs() <= 2.5) & (sessions[:, None] == sessions)
    own = torch.eye(12, dtype=torch.bool)
    left = near & ~own if side is None else near | own
    bound = model(rp.BatchMarginal(exclude_within=2.5)).elbo(
        x, x_prime, side=side, labels=rp.Labels(times=times, sessions=sessions)
    )
    torch.testing.assert_close(bound.per_observation, by_hand(x, x_prime, left))
    assert bool((bound.per_observation - model().elbo(x, x_prime, side=side).per_observation).abs().max() > 0.01)


def test_rows_of_one_identity_are_left_out_together() -> None:
    x, x_prime = pairs(8)
    identities = torch.tensor([0, 0, 1, 2, 3, 4, 5, 5])
    labels = rp.Labels(identities=identities)
    same = identities[:, None] == identities
    upper = model().elbo(x, x_prime, side="upper", labels=labels)
    torch.testing.assert_close(upper.per_observation, by_hand(x, x_prime, same))
    kept = model().elbo(x, x_prime, labels=labels)
    torch.testing.assert_close(kept.per_observation, by_hand(x, x_prime, torch.zeros_like(same)))


def test_a_window_makes_a_data_set_a_sample() -> None:
    x, x_prime = pairs(10)
    labels = rp.Labels(times=torch.arange(10))
    marginal = rp.DatasetMarginal(x, x_prime, labels=labels, exclude_within=1.0)
    rows = torch.tensor([7, 2, 4])
    upper = model(marginal).elbo(x[rows], x_prime[rows], rows=rows, side="upper")
    left = (torch.arange(10)[:, None] - torch.arange(10)).abs() <= 1
    torch.testing.assert_close(upper.per_observation, by_hand(x, x_prime, left)[rows])
    assert upper.kind == "upper"
    assert model(rp.DatasetMarginal(x, x_prime, labels=labels)).elbo(x, x_prime).kind == "exact"
    assert model(marginal).elbo(x, x_prime).kind == "estimate"


def test_a_bank_knows_its_size_source_age_and_entropy() -> None:
    distributions = model().recognition[0].encode_many(*pairs(4))  # pyright: ignore[reportCallIssue]
    bank = rp.Bank(distributions, recognise(distributions), age=torch.tensor([0, 0, 3, 5]), source="queue")
    assert (bank.size, bank.staleness, bank.entropy) == (4, 2.0, pytest.approx(math.log(4)))
    assert "4 rows from the queue, 2.0 steps old" in repr(bank)
    assert bank.left_out(Queries(torch.arange(4)), keep_own=False) is None
    uneven = rp.Bank(distributions, recognise(distributions), weights=torch.tensor([0.5, 0.5, 0, 0]).double())
    assert uneven.entropy == pytest.approx(math.log(2))


def test_the_queue_holds_the_last_batches_and_grows_old() -> None:
    queue = rp.QueueMarginal(6, widths=[2, 2]).double()
    fitted = model(queue)
    batches = [pairs(4) for _ in range(3)]
    batches = [(x + k, x_prime + k) for k, (x, x_prime) in enumerate(batches)]
    for k, (x, x_prime) in enumerate(batches):
        bound = fitted.elbo(x, x_prime)
        bank = torch.cat([x_prime] + [b for _, b in batches[:k]][::-1])[: 4 + 6]
        if k < 2:  # not full before the third
            log_f = -0.5 * torch.cdist(x, bank).square()
            expected = log_f.diagonal() - log_f.logsumexp(1) + math.log(len(bank))
            torch.testing.assert_close(bound.per_observation, expected)
            assert bound.ceiling == pytest.approx(math.log(len(bank)))
        assert bound.kind == "estimate"
    assert sorted(queue.age.tolist()) == [1, 1, 1, 1, 2, 2]
    newest = queue.get_buffer("latents_1")[queue.age == 1]
    assert {tuple(row) for row in newest.tolist()} == {tuple(row) for row in batches[2][1].tolist()}


def test_the_queue_is_not_touched_by_evaluation_and_is_part_of_the_state() -> None:
    fitted = model(rp.QueueMarginal(6, widths=[2, 2]).double())
    x, x_prime = pairs(4)
    fitted.elbo(x, x_prime)
    state = {name: value.clone() for name, value in fitted.state_dict().items()}
    assert any(name.startswith("marginal.latents") for name in state)
    with torch.no_grad():
        fitted.elbo(x, x_prime)
    fitted.eval().elbo(x, x_prime)
    for name, value in fitted.state_dict().items():
        torch.testing.assert_close(value, state[name], equal_nan=True)
    other = model(rp.QueueMarginal(6, widths=[2, 2]).double())
    other.load_state_dict(state)
    torch.testing.assert_close(other.eval().elbo(x, x_prime).value, fitted.elbo(x, x_prime).value)


def test_no_gradient_reaches_the_queue_and_it_reaches_the_encoder() -> None:
    net = nn.Linear(2, 2)
    fitted = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.Bilinear(2)), marginal=rp.QueueMarginal(8, widths=[2, 2]))
    for _ in range(2):
        bound = fitted.elbo(torch.randn(4, 2), torch.randn(4, 2))
    bound.value.backward()
    assert net.weight.grad is not None
    assert bool((net.weight.grad != 0).any())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(lambda: rp.Labels(), "identities=, sessions= or times=", id="no label"),
        pytest.param(lambda: rp.Labels(identities=torch.zeros(3)), "identities as whole", id="identities"),
        pytest.param(lambda: rp.Labels(times=torch.tensor([0.0, torch.nan])), "times.*row 1", id="times"),
        pytest.param(
            lambda: rp.Labels(times=torch.zeros(2), sessions=torch.zeros(3).long()), "one length", id="length"
        ),
        pytest.param(lambda: rp.BatchMarginal(exclude_within=-1.0), "exclude_within >= 0", id="negative window"),
        pytest.param(
            lambda: model(rp.BatchMarginal(exclude_within=1.0)).elbo(*pairs(4)), "times= in the labels", id="no times"
        ),
        pytest.param(
            lambda: model(rp.BatchMarginal(exclude_within=9.0)).elbo(
                *pairs(4), side="upper", labels=rp.Labels(times=torch.arange(4))
            ),
            "row 0 has none",
            id="nothing left",
        ),
        pytest.param(
            lambda: model().elbo(*pairs(4), labels=rp.Labels(times=torch.arange(3))),
            "4 scored rows",
            id="labels' length",
        ),
        pytest.param(
            lambda: rp.DatasetMarginal(*pairs(4), exclude_within=1.0), "labels= with times", id="data set, no times"
        ),
        pytest.param(
            lambda: model(rp.QueueMarginal(4, widths=[2, 2])).elbo(*pairs(4), side="upper"),
            "side=None",
            id="queue side",
        ),
        pytest.param(lambda: model(rp.QueueMarginal(4, widths=[3, 3])).elbo(*pairs(4)), "widths", id="queue widths"),
        pytest.param(
            lambda: rp.RPM(
                rp.EpsilonGaussian(nn.Identity(), epsilon=0.1),
                rp.InfoNCEPrior(rp.Cosine()),
                marginal=rp.QueueMarginal(4, widths=[2, 2]),
            ).elbo(*pairs(4)),
            "deterministic",
            id="queue of stochastic latents",
        ),
        pytest.param(lambda: rp.QueueMarginal(0, widths=[2, 2]), "size >= 1", id="queue size"),
    ],
)
def test_bad_input(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words):
        call()


# Rows that are not independent of each other bound nothing but what Jensen's inequality does


@pytest.mark.parametrize("labels", ["window", "identities"])
def test_dependent_rows_prove_leave_one_out_alone(labels: str) -> None:
    x, x_prime = pairs(8)
    given = rp.Labels(times=torch.arange(8)) if labels == "window" else rp.Labels(identities=torch.arange(8) // 2)
    fitted = model(rp.BatchMarginal(exclude_within=1.0 if labels == "window" else None))
    assert fitted.elbo(x, x_prime, side="upper", labels=given).kind == "upper"
    assert fitted.elbo(x, x_prime, side="lower", labels=given).kind == "estimate"
    assert fitted.mutual_information(x, x_prime, labels=given).lower.kind == "estimate"
    assert model().mutual_information(x, x_prime, labels=rp.Labels(identities=torch.arange(8))).lower.kind == "lower"


def test_copies_of_a_batch_fool_the_self_included_value() -> None:
    """Why it is no bound then: a block of copies, left out of each other's mean, looks like information."""
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(40):
        x = torch.randn(2, 1, generator=generator, dtype=torch.float64).repeat_interleave(32, 0)
        noise = torch.randn(2, 1, generator=generator, dtype=torch.float64).repeat_interleave(32, 0)
        x_prime = 0.9 * x + math.sqrt(1 - 0.81) * noise
        labels = rp.Labels(times=torch.arange(64) // 32 * 10)
        coupling = rp.GaussianRBF(lengthscale=math.sqrt(0.19))
        net = rp.RPM(
            [rp.Deterministic(nn.Identity()), rp.Deterministic(nn.Identity())],
            rp.InfoNCEPrior(coupling),
            marginal=rp.BatchMarginal(exclude_within=5.0),
        )
        values.append(float(net.mutual_information(0.9 * x, x_prime, labels=labels).lower))
    assert sum(values) / len(values) > 1.1  # the truth is -1/2 log(1 - 0.81) = 0.83


def test_the_module_s_call_passes_labels_on() -> None:
    x, x_prime = pairs(6)
    labels = rp.Labels(identities=torch.tensor([0, 1, 2, 0, 1, 2]))
    called = model()(x, x_prime, labels=labels, side="upper")
    torch.testing.assert_close(called.value, model().elbo(x, x_prime, labels=labels, side="upper").value)
    assert float(called) != pytest.approx(float(model()(x, x_prime, side="upper")))


def test_a_data_set_s_rows_keep_the_gradient_of_what_is_scored() -> None:
    x, x_prime = pairs(6)
    query = x_prime.clone().requires_grad_()
    model(rp.DatasetMarginal(x, x_prime)).elbo(x, query).value.backward()
    assert query.grad is not None
    assert bool((query.grad != 0).any())
