"""Everything the library ships passes the checks it offers to users, and the checks notice what is broken."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam import couplings, marginals, priors, recognition
from recparam.couplings import Coupling, Transition
from recparam.marginals import Recognised
from recparam.marginals import estimated as bases
from recparam.ops import BlockScore, Score, SquaredDistance
from recparam.priors import Prior
from recparam.recognition import Particles, posteriors
from recparam.recognition.posteriors import RecognitionPosterior
from recparam.testing import (
    COUPLINGS,
    INPUT_WIDTH,
    MARGINALS,
    POSTERIORS,
    PRIORS,
    RECOGNITION_MODELS,
    ConformanceError,
    check_coupling,
    check_marginal,
    check_posterior,
    check_prior,
    check_recognition,
)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings(name: str, dim: int) -> None:
    check_coupling(COUPLINGS[name], dim=dim)


def learned(module: nn.Module) -> set[str]:
    """The scalars and short vectors that a coupling or prior learns, as people read them, to three digits."""
    found: set[str] = set()
    for part in module.modules():
        if not isinstance(part, Coupling | Transition | Prior) or not getattr(part, "initialised", True):
            continue
        for name, value in part.named_parameters(recurse=False):
            if name.startswith("log_") and name != "log_diagonal":
                found.update(f"{number:.3g}" for number in value.detach().exp().flatten().tolist())
            elif value.ndim == 0:
                found.add(f"{value.item():.3g}")
    return found


TABLES: dict[str, Callable[[int], nn.Module]] = {**COUPLINGS, **PRIORS}


@pytest.mark.parametrize("name", TABLES)
def test_a_repr_names_the_class_and_its_numbers_or_what_will_set_them(name: str) -> None:
    module = TABLES[name](3)
    waits = any(isinstance(part, Coupling) and not part.initialised for part in module.modules())
    assert repr(module).startswith(f"{type(module).__name__}(")
    assert ("not initialised: takes its" in repr(module)) == waits
    order = module.order if isinstance(module, Coupling) else 1
    if isinstance(module, Coupling | Prior):
        module.initialise(torch.randn(8, 3 * order), torch.randn(8, 3))
    text = repr(module)
    assert "not initialised" not in text
    shown = set(re.findall(r"[-+.\w]+", text.replace("=", " ")))
    assert learned(module) <= shown


def test_a_repr_has_values_that_change_and_of_long_vectors_the_size() -> None:
    coupling = rp.GaussianRBF(lengthscale=1.5)
    assert repr(coupling) == "GaussianRBF(lengthscale=1.5)"
    with torch.no_grad():
        coupling.log_lengthscale += 1
    assert repr(coupling) == "GaussianRBF(lengthscale=4.08)"
    assert repr(rp.GaussianRBF(torch.ones(100))) == "GaussianRBF(lengthscale=<100>)"
    step = "StepLength(width=0.3, not initialised: takes its radius from the first training batch)"
    assert repr(rp.StepLength(width=0.3)) == step
    dynamics = rp.LinearDynamics(2, covariance=0.25 * torch.eye(2))
    assert repr(dynamics) == "LinearDynamics(dim=2, variances=[0.25, 0.25])"
    assert repr(rp.JointGaussianPrior(2)) == "JointGaussianPrior(dim=2, correlation=[0.5, 0.5])"
    assert "weights=[0.75, 0.25]" in repr(rp.Switching([dynamics, dynamics], weights=[3.0, 1.0]))


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name: str) -> None:
    latents = "categorical" if name == "joint categorical" else "gaussian"
    check_prior(PRIORS[name], recognition=RECOGNITION_MODELS[latents])


@pytest.mark.parametrize("name", RECOGNITION_MODELS)
def test_recognition_models(name: str) -> None:
    check_recognition(RECOGNITION_MODELS[name])


@pytest.mark.parametrize("name", MARGINALS)
def test_marginals(name: str) -> None:
    check_marginal(MARGINALS[name])


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors(name: str) -> None:
    latents = "categorical" if "categorical" in name else "gaussian"
    check_posterior(POSTERIORS[name], recognition=RECOGNITION_MODELS[latents])


@pytest.mark.parametrize(
    ("log_correction", "words"), [(0.5, "mean of R_phi / Q under Q is one"), (0.0, "a Dirac names the cure")]
)
def test_a_broken_posterior_is_noticed(log_correction: float, words: str) -> None:
    class Wrong(RecognitionPosterior):
        def forward(self, *args, **options) -> Particles:  # type: ignore[no-untyped-def]
            own = super().forward(*args, **options)
            return replace(own, log_correction=torch.full_like(own.log_weights, log_correction))

    with pytest.raises(ConformanceError, match=words):
        check_posterior(lambda dim, pairs: Wrong())


@pytest.mark.parametrize("latents", RECOGNITION_MODELS)
@pytest.mark.parametrize("name", [name for name in PRIORS if name.startswith("infonce")])
def test_infonce_goes_with_every_recognition_model(name: str, latents: str) -> None:
    model = rp.RPM(RECOGNITION_MODELS[latents](3), PRIORS[name](3))
    bound = model.elbo(torch.randn(6, INPUT_WIDTH), torch.randn(6, INPUT_WIDTH))
    assert bool(torch.isfinite(bound.value))


def concrete(module: object, base: type) -> set[type]:
    found = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)}
    return {kind for kind in found if not getattr(kind, "__abstractmethods__", None)}


def test_the_dictionaries_are_complete() -> None:
    built: list[object] = [make(3) for table in (COUPLINGS, PRIORS, RECOGNITION_MODELS) for make in table.values()]
    built += [make(torch.zeros(2, 1), torch.zeros(2, 1)) for make in MARGINALS.values()]
    built += [make(3, 6) for make in POSTERIORS.values()]
    expected = concrete(couplings, Coupling) | concrete(priors, Prior) | concrete(marginals, marginals.Marginal)
    expected |= concrete(bases, marginals.Marginal)
    expected |= concrete(recognition, recognition.RecognitionModel) | concrete(posteriors, posteriors.Posterior)
    assert {type(thing) for thing in built} == expected


@pytest.mark.parametrize("prior", ["infonce, bilinear", "infonce, gaussian rbf per dimension", "joint gaussian"])
def test_a_prior_of_another_width_is_an_error(prior: str) -> None:
    model = rp.RPM(RECOGNITION_MODELS["gaussian"](4), PRIORS[prior](3))
    with pytest.raises(ValueError, match=r"(?=.*3)(?=.*4)"):
        model.elbo(torch.randn(6, INPUT_WIDTH), torch.randn(6, INPUT_WIDTH))


# A lengthscale that comes from the data: neither the unit nor the origin of the latents matters


def latents() -> list[Tensor]:
    """Two batches of multiples of 2^-10, so that adding 1000 to them is exact in float32."""
    z = torch.randn(64, 3)
    pair = (z, z + 0.3 * torch.randn(64, 3))
    return [(t * 1024).round() / 1024 for t in pair]


def values(dim: int | None, batch: list[Tensor], *, explicit: bool) -> list[float]:
    """Every value that an ELBO can take, each from a fresh model."""
    found = []
    for side in (None, "upper", "lower"):
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(dim=dim)))
        if explicit:
            model.initialise(*batch)
        found.append(float(model.elbo(*batch, side=side).value.detach()))
    return found


@pytest.mark.parametrize("explicit", [False, True], ids=["first batch", "initialise"])
@pytest.mark.parametrize("dim", [None, 3], ids=["one", "per dimension"])
@pytest.mark.parametrize(("factor", "offset"), [(1000.0, 0.0), (1.0, 1000.0), (1e-3, 0.0), (1000.0, 1000.0)], ids=str)
def test_unit_and_origin_do_not_matter(factor: float, offset: float, dim: int | None, explicit: bool) -> None:
    batch = latents()
    moved = values(dim, [factor * z + offset for z in batch], explicit=explicit)
    plain = values(dim, batch, explicit=explicit)
    assert moved == pytest.approx(plain, rel=1e-5, abs=1e-5)
    assert abs(plain[0]) > 0.1


def test_a_given_lengthscale_is_not_invariant() -> None:
    """So the invariance above is the initialisation's doing."""
    z, z_prime = latents()
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    assert float(prior.log_ratio(1000 * z, 1000 * z_prime).mean().detach()) < -100


@pytest.mark.parametrize("dim", [None, 3], ids=["one", "per dimension"])
def test_the_lengthscale_is_set_once_and_saved(dim: int | None) -> None:
    z, z_prime = latents()
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(dim=dim)))
    coupling = model.prior.coupling
    assert not coupling.initialised
    model.initialise(z, z_prime)
    lengthscale = coupling.lengthscale.detach().clone()
    assert lengthscale.shape == (() if dim is None else (dim,))
    model.initialise(100 * z, 100 * z_prime)
    model.elbo(100 * z, 100 * z_prime)
    assert torch.equal(coupling.lengthscale.detach(), lengthscale)

    other = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(dim=dim)))
    other.load_state_dict(model.state_dict())
    assert other.prior.coupling.initialised
    other.initialise(100 * z, 100 * z_prime)
    assert torch.equal(other.prior.coupling.lengthscale.detach(), lengthscale)
    unset = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(dim=dim)))
    other.load_state_dict(unset.state_dict())
    assert not other.prior.coupling.initialised


def test_the_lengthscale_is_the_median_distance_between_different_observations() -> None:
    z, z_prime = latents()
    coupling = rp.GaussianRBF()
    coupling.initialise(z, z_prime)
    distances = [float((a - b).norm()) for i, a in enumerate(z) for j, b in enumerate(z_prime) if i != j]
    lengthscale = float(coupling.lengthscale.detach())
    assert sum(d < lengthscale for d in distances) / len(distances) == pytest.approx(0.5, abs=1e-3)


# Broken objects, one property each


class Broken(Coupling):
    """A one-parameter RBF; subclasses break one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.3))

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return -0.5 * ((z - z_prime) / self.log_scale.exp()).square().sum(-1)

    def score(self) -> Score:
        return SquaredDistance(self.log_scale.exp())

    def _check_widths(self, width: int, width_prime: int) -> None:
        if width != width_prime:
            raise ValueError(f"Expected equal widths; got {width} and {width_prime}.")


class OtherScore(Broken):
    def score(self) -> Score:
        return SquaredDistance(2 * self.log_scale.exp())


class DeadScore(Broken):
    def score(self) -> Score:
        return SquaredDistance(self.log_scale.detach().exp())


class Unused(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))


class Forgetful(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = float(torch.rand(()))

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.hidden * super()._log_f(z, z_prime)

    def score(self) -> Score:
        scale = (self.log_scale.exp() / self.hidden**0.5).reshape(1)
        return SquaredDistance(scale)


class Overflowing(Broken):
    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return super()._log_f(z, z_prime) - (z - z_prime).square().sum(-1).exp()

    def score(self) -> Score:
        return BlockScore(lambda z, bank: self._log_f(z[:, None], bank[None]))


class Careless(Broken):
    def _check_widths(self, width: int, width_prime: int) -> None:
        if width != width_prime:
            raise ValueError("These latents do not fit.")


def test_the_plain_one_passes() -> None:
    check_coupling(lambda dim: Broken())


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (OtherScore, "equals forward"),
        (DeadScore, "same gradients"),
        (Unused, "parameter idle"),
        (Forgetful, "restores the values"),
        (Overflowing, "finite at scale"),
        (Careless, "about widths"),
    ],
)
def test_broken_couplings_are_found(broken: type[Broken], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_coupling(lambda dim: broken())


class Mislabelled(rp.OptimalPrior):
    def direction(self, recognised: Recognised, side: priors.Side) -> priors.Direction:
        return replace(super().direction(recognised, side), kind="lower")


def test_a_mislabelled_prior_is_found() -> None:
    with pytest.raises(ConformanceError, match="upper bound is of that kind"):
        check_prior(lambda dim: Mislabelled())


def test_a_recognition_model_that_ignores_its_input_is_found() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUT_WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).detach()

    with pytest.raises(ConformanceError, match="parameter net.layer.weight"):
        check_recognition(lambda dim: rp.EpsilonGaussian(Constant(), epsilon=0.1))
