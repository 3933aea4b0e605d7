"""The losses people know: the same numbers as plain formulas and as their own packages, and what they bound."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from finite_world import FiniteWorld, random_base
from recparam.bounds import losses
from recparam.bounds.losses import Loss
from recparam.ops import DotProduct, Exchanged, pairwise_infonce

TAU = 0.7


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Z, Z_PRIME, NEGATIVES = draw(12, 3), draw(12, 3) + draw(12, 3, seed=1), draw(20, 3, seed=2)


def unit(z: Tensor) -> Tensor:
    return nn.functional.normalize(z, dim=1)


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target)


def plain_info_nce(z: Tensor, z_prime: Tensor) -> Tensor:
    return entropy(unit(z) @ unit(z_prime).T / TAU, torch.arange(len(z)))


def plain_moco(z: Tensor, z_prime: Tensor) -> Tensor:
    own = (unit(z) * unit(z_prime)).sum(1, keepdim=True)
    return entropy(torch.cat([own, unit(z) @ unit(NEGATIVES).T], 1) / TAU, torch.zeros(len(z), dtype=torch.long))


def plain_nt_xent(z: Tensor, z_prime: Tensor) -> Tensor:
    both = unit(torch.cat([z, z_prime]))
    logits = (both @ both.T / TAU).masked_fill(torch.eye(len(both), dtype=torch.bool), -math.inf)
    return entropy(logits, torch.arange(len(both)).roll(len(z)))


def plain_clip(z: Tensor, z_prime: Tensor) -> Tensor:
    logits, own = unit(z) @ unit(z_prime).T / TAU, torch.arange(len(z))
    return (entropy(logits, own) + entropy(logits.T, own)) / 2


def plain_cebra(z: Tensor, z_prime: Tensor) -> Tensor:
    own = (unit(z) * unit(z_prime)).sum(1) / TAU
    return ((unit(z) @ unit(NEGATIVES).T / TAU).logsumexp(1) - own).mean()


def plain_cebra_euclidean(z: Tensor, z_prime: Tensor) -> Tensor:
    others = (z[:, None] - NEGATIVES).square().sum(-1) / TAU
    return ((-others).logsumexp(1) + (z - z_prime).square().sum(1) / TAU).mean()


WEIGHTS = draw(2, 3, 3, seed=3)


def plain_cpc(context: Tensor, future: Tensor) -> Tensor:
    steps = [future, future.flip(1)]
    own = torch.arange(len(context))
    return torch.stack([entropy(context @ w @ z.T, own) for w, z in zip(WEIGHTS, steps, strict=True)]).mean()


def cosine() -> rp.Cosine:
    return rp.Cosine(TAU)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Loss], Callable[[Tensor, Tensor], Tensor]]] = {
    "InfoNCE": (lambda z, p: losses.info_nce(cosine(), z, p), plain_info_nce),
    "MoCo": (lambda z, p: losses.info_nce(cosine(), z, p, negatives=NEGATIVES), plain_moco),
    "NT-Xent": (lambda z, p: losses.nt_xent(cosine(), z, p), plain_nt_xent),
    "CLIP": (lambda z, p: losses.clip(cosine(), z, p), plain_clip),
    "CEBRA": (lambda z, p: losses.cebra(cosine(), z, p, NEGATIVES), plain_cebra),
    "CEBRA, Euclidean": (
        lambda z, p: losses.cebra(rp.GaussianRBF((TAU / 2) ** 0.5), z, p, NEGATIVES),
        plain_cebra_euclidean,
    ),
    "CPC": (
        lambda c, z: losses.cpc([rp.Bilinear(3, theta=w) for w in WEIGHTS], c, [z, z.flip(1)]),
        plain_cpc,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_the_formula_it_is_named_after(name: str) -> None:
    ours, plain = CASES[name]
    sides = [[side.clone().requires_grad_() for side in (Z, Z_PRIME)] for _ in range(2)]
    loss, expected = ours(*sides[0]), plain(*sides[1])
    loss.value.backward()
    expected.backward()
    torch.testing.assert_close(loss.value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.per_row.mean(), loss.value, rtol=0, atol=1e-12)
    for a, b in zip(*sides, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)
    steps = 2 if name == "CPC" else 1
    assert float(loss.elbo) == pytest.approx(steps * (loss.constant - expected.item()), abs=1e-12)
    assert loss.elbo.kind == ("upper" if name.startswith("CEBRA") else "estimate")
    assert (loss.mi is None) == name.startswith("CEBRA")
    text = str(loss)
    assert loss.prior in text and loss.negatives in text and f"{expected.item():.3f} nats" in text


def test_info_nce_is_the_package_s() -> None:
    peer = pytest.importorskip("info_nce")
    for negatives in (None, NEGATIVES):
        expected = peer.InfoNCE(temperature=TAU)(Z, Z_PRIME, negatives)
        loss = losses.info_nce(cosine(), Z, Z_PRIME, negatives=negatives)
        assert float(loss) == pytest.approx(expected.item(), abs=1e-9)


def test_nt_xent_is_that_of_pytorch_metric_learning() -> None:
    peer = pytest.importorskip("pytorch_metric_learning.losses")
    for loss, symmetric in ((losses.nt_xent, True), (losses.info_nce, False)):
        expected = peer.SelfSupervisedLoss(peer.NTXentLoss(temperature=TAU), symmetric=symmetric)(Z, Z_PRIME)
        assert float(loss(cosine(), Z, Z_PRIME)) == pytest.approx(expected.item(), abs=1e-9)


def test_cebra_is_cebra_s() -> None:
    peer = pytest.importorskip("cebra.models.criterions")
    expected = peer.FixedCosineInfoNCE(temperature=TAU)(unit(Z), unit(Z_PRIME), unit(NEGATIVES))[0]
    assert float(losses.cebra(cosine(), Z, Z_PRIME, NEGATIVES)) == pytest.approx(expected.item(), abs=1e-9)
    expected = peer.FixedEuclideanInfoNCE(temperature=TAU)(Z, Z_PRIME, NEGATIVES)[0]
    coupling = rp.GaussianRBF((TAU / 2) ** 0.5)
    assert float(losses.cebra(coupling, Z, Z_PRIME, NEGATIVES)) == pytest.approx(expected.item(), abs=1e-9)


def test_info_nce_is_the_model_s_training_objective() -> None:
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(cosine()))
    assert float(model.elbo(Z, Z_PRIME)) == pytest.approx(float(losses.info_nce(cosine(), Z, Z_PRIME).elbo), abs=1e-12)


def test_clip_of_two_widths_and_any_score() -> None:
    """The way back is the score with its sides exchanged, also where it is no matrix product."""
    wide = draw(12, 4, seed=5)
    theta = draw(3, 4, seed=6)
    logits, own = Z @ theta @ wide.T, torch.arange(12)
    expected = (entropy(logits, own) + entropy(logits.T, own)) / 2
    assert float(losses.clip(rp.Bilinear(3, 4, theta=theta), Z, wide)) == pytest.approx(expected.item(), abs=1e-12)
    far = DotProduct(weight=theta)
    back = pairwise_infonce(Exchanged(far), wide + 1e4, Z)
    dense = pairwise_infonce(Exchanged(far), wide + 1e4, Z, implementation="dense")
    torch.testing.assert_close(back, dense, rtol=1e-9, atol=1e-9)
    student = rp.StudentT(3.0, lengthscale=1.0)
    logits = student(Z[:, None], Z_PRIME)
    expected = (entropy(logits, own) + entropy(logits.T, own)) / 2
    assert float(losses.clip(student, Z, Z_PRIME)) == pytest.approx(expected.item(), abs=1e-12)


def test_what_cannot_be_scored_is_told_so() -> None:
    """Shapes and types, which the shape checks of the tests catch first, are in test_bad_types.py."""
    for loss in (losses.nt_xent, losses.clip, losses.info_nce):
        with pytest.raises(ValueError, match="at least 2 rows"):
            loss(cosine(), Z[:1], Z_PRIME[:1])
        with pytest.raises(ValueError, match="finite"):
            loss(cosine(), Z * math.nan, Z_PRIME)
    with pytest.raises(ValueError, match="a recparam Coupling for each future step"):
        losses.cpc([rp.Bilinear(3)], Z, [Z_PRIME, Z_PRIME])


# What the losses bound, in worlds of finitely many latents, every batch enumerated with its probability.


def table(seed: int, size: int = 2) -> tuple[Tensor, Tensor]:
    """A joint R(z, z') with a diagonal, and a random log f."""
    joint = random_base(torch.Generator().manual_seed(seed), size, size) + 0.5 * torch.eye(size)
    return joint / joint.sum(), 2 * draw(size, size, seed=seed + 50)


def information(joint: Tensor) -> float:
    return float((joint * (joint.log() - joint.sum(1, keepdim=True).log() - joint.sum(0).log())).nan_to_num().sum())


def mean_over_batches(joint: Tensor, rows: int, loss: Callable[[Tensor, Tensor], Loss]) -> float:
    """E[loss] over batches of independent pairs."""
    total, size = 0.0, joint.shape
    with torch.no_grad():
        for batch in itertools.product(itertools.product(range(size[0]), range(size[1])), repeat=rows):
            a, b = torch.tensor(batch).T
            if (mass := float(joint[a, b].prod())) > 0:
                total += mass * float(loss(torch.eye(size[0])[a], torch.eye(size[1])[b]))
    return total


@pytest.mark.parametrize("seed", range(4))
def test_log_b_less_the_loss_is_below_the_information(seed: int) -> None:
    joint, log_f = table(seed)
    f = rp.Bilinear(2, theta=log_f)
    for rows in (2, 3):
        for loss in (losses.nt_xent, losses.clip, losses.info_nce):
            value = math.log(rows) - mean_over_batches(joint, rows, lambda z, p, loss=loss: loss(f, z, p))
            assert value <= information(joint) + 1e-12


def test_nt_xent_with_its_own_constant_exceeds_the_information_of_views_that_can_be_told_apart() -> None:
    """Views that share nothing but say which they are: log(2B - 1) - loss is positive, log B - loss is not."""
    z, z_prime = torch.tensor([[1.0, 0.0]]).repeat(8, 1), torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    f = rp.Bilinear(2, theta=torch.tensor([[0.0, 20.0], [20.0, 0.0]]))
    loss = losses.nt_xent(f, z, z_prime)
    assert float(loss.elbo) == pytest.approx(math.log(15 / 8), abs=1e-6) and loss.elbo.kind == "estimate"
    assert loss.mi is not None and float(loss.mi) == pytest.approx(0, abs=1e-6) and loss.mi.kind == "lower"


def test_the_elbo_of_nt_xent_is_that_of_the_pair_in_random_order() -> None:
    """In a large batch log(2B - 1) - loss is E[log f - log E_m f], m the mixture of both views' R."""
    joint = torch.tensor([[6.0, 1.0, 1.0], [0.0, 3.0, 2.0], [1.0, 1.0, 5.0]])
    log_f = draw(3, 3, seed=9)
    ordered = (joint + joint.T) / (2 * joint.sum())
    log_z = (log_f.exp() @ ordered.sum(0)).log()
    expected = float((ordered * (log_f - log_z[:, None])).sum())
    one_way = joint / joint.sum()
    other = float((one_way * (log_f - (log_f.exp() @ one_way.sum(0)).log()[:, None])).sum())
    errors = []
    for copies in (5, 50):
        pairs = torch.tensor([(i, j) for i in range(3) for j in range(3) for _ in range(copies * int(joint[i, j]))])
        with torch.no_grad():
            loss = losses.nt_xent(rp.Bilinear(3, theta=log_f), *(torch.eye(3)[side] for side in pairs.T))
        errors.append(abs(float(loss.elbo) - expected))
    assert errors[1] < 2e-3 and errors[1] < errors[0] / 5 and abs(other - expected) > 0.02


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_of_clip_s_elbos_is_below_that_of_the_mixture_of_its_priors(seed: int) -> None:
    joint, log_f = table(seed, 3)
    product = joint.sum(1, keepdim=True) * joint.sum(0)
    there = log_f - (log_f.exp() @ joint.sum(0)).log()[:, None]
    back = log_f - (joint.sum(1) @ log_f.exp()).log()
    mixture = (there.exp() + back.exp()) / 2
    assert float((product * mixture).sum()) == pytest.approx(1)  # a normalised prior
    mean, mixed = float((joint * (there + back) / 2).sum()), float((joint * mixture.log()).sum())
    assert mean < mixed <= information(joint)


def test_cebra_is_above_the_elbo_and_bounds_no_information() -> None:
    joint, log_f = table(1)
    r, f = joint.sum(0), rp.Bilinear(2, theta=log_f)
    elbo = float((joint * (log_f - (log_f.exp() @ r).log()[:, None])).sum())
    pairs = torch.cartesian_prod(torch.arange(2), torch.arange(2))

    def value(coupling: rp.Bilinear, of: Tensor, count: int) -> float:
        total = 0.0
        for index in itertools.product(range(2), repeat=count):
            loss = losses.cebra(coupling, *(torch.eye(2)[side] for side in pairs.T), torch.eye(2)[list(index)])
            total += float(of.sum(0)[list(index)].prod()) * float((of.flatten() * loss.elbo.per_observation).sum())
        return total

    with torch.no_grad():
        values = [value(f, joint, count) for count in (1, 2, 6)]
        assert values[0] > values[1] > values[2] > elbo
        sharp = rp.Bilinear(2, theta=6 * torch.eye(2))
        dependent = torch.tensor([[0.45, 0.05], [0.05, 0.45]])
        assert value(sharp, dependent, 2) > information(dependent)


@pytest.mark.parametrize("seed", range(4))
def test_the_star_of_cpc_is_below_the_total_correlation(seed: int) -> None:
    """sum_k (ELBO of step k) <= total correlation, and each <= I(c; all of the future)."""
    generator = torch.Generator().manual_seed(seed)
    world = FiniteWorld(random_base(generator, 3, 3, 3), [torch.eye(3)] * 3)
    joint = world.joint()
    product = joint.sum((1, 2))[:, None, None] * joint.sum((0, 2))[:, None] * joint.sum((0, 1))
    correlation = float((joint * (joint / product).log()).nan_to_num().sum())
    information_of_all = information(joint.flatten(1))
    for scale in (0.3, 2.0):
        steps = []
        for pair in (joint.sum(2), joint.sum(1)):
            for log_f in (scale * torch.randn(3, 3, generator=generator), (pair / pair.sum(0)).log()):
                steps.append(float((pair * (log_f - (log_f.exp() @ pair.sum(0)).log()[:, None])).sum()))
        assert max(steps) <= information_of_all
        assert max(a + b for a in steps[:2] for b in steps[2:]) <= correlation
