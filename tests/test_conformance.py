"""Everything the library ships passes the checks it offers to users, and the checks notice what is broken."""

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam import couplings, marginals, priors, recognition
from recparam.couplings import Coupling
from recparam.ops import BlockScore, Score, SquaredDistance
from recparam.priors import Prior
from recparam.testing import (
    COUPLINGS,
    INPUT_WIDTH,
    MARGINALS,
    PRIORS,
    RECOGNITION_MODELS,
    ConformanceError,
    check_coupling,
    check_marginal,
    check_prior,
    check_recognition,
)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", COUPLINGS)
def test_couplings(name: str, dim: int) -> None:
    check_coupling(COUPLINGS[name], dim=dim)


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
    expected = concrete(couplings, Coupling) | concrete(priors, Prior) | concrete(marginals, marginals.Marginal)
    expected |= concrete(recognition, recognition.RecognitionModel)
    assert {type(thing) for thing in built} == expected


@pytest.mark.parametrize("prior", ["infonce, bilinear", "infonce, gaussian rbf per dimension", "joint gaussian"])
def test_a_prior_of_another_width_is_an_error(prior: str) -> None:
    model = rp.RPM(RECOGNITION_MODELS["gaussian"](4), PRIORS[prior](3))
    with pytest.raises(ValueError, match=r"(?=.*3)(?=.*4)"):
        model.elbo(torch.randn(6, INPUT_WIDTH), torch.randn(6, INPUT_WIDTH))


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
    def kind(self, side: priors.Side, situation: marginals.Situation) -> priors.Kind:
        return "lower"


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
