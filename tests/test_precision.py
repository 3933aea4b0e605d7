"""What ends in a number is in single precision or better: under autocast, of encoders in half, and far from zero."""

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import losses
from recparam.couplings import Coupling
from recparam.ops import pairwise_contrast
from recparam.priors import Prior, Side
from recparam.testing import COUPLINGS, INPUT_WIDTH, MARGINALS, PRIORS

DIM, ROWS = 3, 24
HALF = [torch.bfloat16, torch.float16]


def pairs(width: int = DIM, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
    return z, z + 0.1 * torch.randn(rows, width, generator=torch.Generator().manual_seed(2))


def context(coupling: Coupling, z: Tensor) -> Tensor:
    """z, after steps towards it."""
    return torch.cat([z - 0.1 * k for k in reversed(range(coupling.order))], 1)


@pytest.mark.parametrize("name", COUPLINGS)
def test_autocast_changes_no_coupling(name: str) -> None:
    coupling = COUPLINGS[name](DIM)
    z, z_prime = pairs()
    z = context(coupling, z)
    plain = coupling(z, z_prime)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(coupling(z, z_prime), plain)
        torch.testing.assert_close(coupling.on_pairs(z, z_prime).diagonal(), plain)
    half = coupling(z.bfloat16(), z_prime.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, coupling(z.bfloat16().float(), z_prime.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", COUPLINGS)
def test_half_leaves_the_parameters_of_couplings(name: str, dtype: torch.dtype) -> None:
    coupling = COUPLINGS[name](DIM)
    z, z_prime = pairs()
    z = context(coupling, z)
    plain = coupling(z, z_prime)
    assert torch.equal(coupling.to(dtype)(z, z_prime), plain)
    assert coupling.double()(z.double(), z_prime.double()).dtype == torch.float64


def test_parameters_made_in_half_are_one_clear_error() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        coupling = rp.SeparableCritic(DIM)
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match=r"Expected parameters of SeparableCritic in single.*bfloat16.*float\(\)"):
        coupling(*pairs())
    with pytest.raises(ValueError, match="Expected parameters of InfoNCEPrior in single"):
        rp.InfoNCEPrior(coupling).log_ratio(*pairs())
    assert coupling.float()(*pairs()).dtype == torch.float32
    assert rp.Bilinear(DIM, theta=torch.eye(DIM).half())(*pairs()).dtype == torch.float32


Values = dict[str, Tensor]


def everything(prior: Callable[[], Prior], encoder: nn.Module, marginal: str, x: Tensor, y: Tensor) -> Values:
    """Numbers that a model can be asked for."""
    encoder = rp.Deterministic(encoder) if "infonce" in marginal else rp.EpsilonGaussian(encoder, epsilon=0.1)
    name = marginal.removesuffix(", infonce")
    rows = (x[:, :DIM], y[:, :DIM]) if name == "queue" else (x, y)
    model = rp.RPM(encoder, prior(), marginal=MARGINALS[name](*rows)).to(x.dtype).eval()

    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    found: Values = {}
    for side in (None, "upper", "lower"):
        try:
            found[f"elbo {side}"] = model.elbo(x, y, side=side, generator=draws()).per_observation
        except ValueError as error:  # no such side with this bank
            assert "side" in str(error)
    found["log_marginal"] = model.log_marginal(x, y, generator=draws()).per_observation
    found["mutual information"] = model.mutual_information(x, y, generator=draws()).estimate.per_observation
    found["matching"] = model.match(x, y, generator=draws()).log_prob()
    if "infonce" in marginal:
        found["infonce"] = model.infonce(x, y).per_observation
        found["prediction"] = model.predictive(x, y).mean()
        found["predict"] = model.predict(x[:, :DIM], y[:, :DIM])
    return found


MODELS = {
    **{f"{name}, infonce": lambda: rp.InfoNCEPrior(rp.GaussianRBF(0.5) + rp.Bilinear(DIM)) for name in MARGINALS},
    "data set": lambda: PRIORS["optimal"](DIM),
    "batch": lambda: PRIORS["joint gaussian"](DIM),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::recparam.bounds.CeilingWarning", "ignore:The lower bound is -inf")
def test_autocast_changes_nothing_that_a_model_says(name: str) -> None:
    """The encoder selects columns, which no precision rounds, so that every number has to be the same."""

    class Select(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :DIM]

    x, y = pairs(INPUT_WIDTH)
    seed = torch.get_rng_state()
    plain = everything(MODELS[name], Select(), name, x, y)
    torch.set_rng_state(seed)
    with torch.autocast("cpu", torch.bfloat16):
        half = everything(MODELS[name], Select(), name, x, y)
    for key, value in plain.items():
        assert half[key].dtype == torch.float32, key
        torch.testing.assert_close(half[key], value, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.filterwarnings("ignore::recparam.bounds.CeilingWarning", "ignore:The lower bound is -inf")
def test_models_in_half_precision_say_numbers_in_single(name: str, dtype: torch.dtype) -> None:
    x, y = (side.to(dtype) for side in pairs(INPUT_WIDTH))
    for key, value in everything(MODELS[name], nn.Linear(INPUT_WIDTH, DIM), name, x, y).items():
        assert value.dtype == torch.float32, key


LOSSES = {
    "info_nce": losses.info_nce,
    "moco": lambda f, z, z_prime: losses.info_nce(f, z, z_prime, negatives=z_prime),
    "nt_xent": losses.nt_xent,
    "clip": losses.clip,
    "cebra": lambda f, z, z_prime: losses.cebra(f, z, z_prime, z_prime),
    "cpc": lambda f, z, z_prime: losses.cpc([f], z, [z_prime]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_in_single_precision(name: str) -> None:
    z, z_prime = (side.bfloat16() for side in pairs())
    coupling = rp.LinearDynamics(DIM, covariance=0.1 * torch.eye(DIM))
    plain = LOSSES[name](coupling, z.float(), z_prime.float())
    with torch.autocast("cpu", torch.bfloat16):
        half = LOSSES[name](coupling, z, z_prime)
    assert half.value.dtype == torch.float32
    torch.testing.assert_close(half.per_row, plain.per_row, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [ROWS, 5])
@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_no_exact_value_of_an_encoder_in_half_is_above_its_ceiling(rows: int, scale: float) -> None:
    torch.manual_seed(0)
    x, y = pairs(INPUT_WIDTH, 200)
    model = rp.RPM(
        rp.Deterministic(rp.MLP(INPUT_WIDTH, DIM, hidden=(64,))),
        rp.InfoNCEPrior(rp.GaussianRBF(scale)),
        marginal=rp.DatasetMarginal(x, x + 1e-4 * y),
    ).eval()
    index = torch.arange(rows)
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bound = model.elbo(x[index], (x + 1e-4 * y)[index], rows=index)
    assert bound.kind == "exact"
    assert bound.value.dtype == torch.float32
    assert float(bound.per_observation.detach().max()) <= math.log(200) + 1e-6


def test_a_log_density_and_samples_of_a_model_in_half_precision() -> None:
    base = rp.GaussianMixtureBase.fit(pairs(INPUT_WIDTH)[0], components=2)
    marginal = rp.EstimatedMarginal(base, base, generator=torch.Generator().manual_seed(0))
    prior = rp.InfoNCEPrior(rp.GaussianRBF(0.5))
    model = rp.RPM(rp.Deterministic(nn.Linear(INPUT_WIDTH, DIM)), prior, marginal=marginal).bfloat16().eval()
    x, y = (side.bfloat16() for side in pairs(INPUT_WIDTH))
    assert model.log_prob(x, y).value.dtype == torch.float32
    drawn = model.sample(3, num_candidates=50, generator=torch.Generator().manual_seed(0))
    assert drawn.observations[0].dtype == torch.bfloat16


def far(coupling: Coupling, offset: float) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts, z' and a bank around an offset."""
    z, z_prime = (side + offset for side in pairs())
    return context(coupling, z), z_prime, pairs(rows=40)[0].flip(0) + offset


def contrasts(coupling: Coupling, z: Tensor, z_prime: Tensor, bank: Tensor) -> Tensor:
    scores = coupling.on_pairs(z, bank)
    return coupling(z, z_prime) - scores.logsumexp(1) + math.log(len(bank))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", COUPLINGS)
def test_far_from_zero_no_more_is_lost_than_the_inputs_lose(name: str, own: bool) -> None:
    coupling = COUPLINGS[name](DIM)
    if not coupling.initialised:
        coupling.initialise(*far(coupling, 0.0)[:2])
    z, z_prime, bank = far(coupling, 1e4)
    bank = z_prime if own else bank
    with torch.no_grad():
        positives = torch.arange(ROWS) if own else None
        got = pairwise_contrast(coupling.score(), coupling, z, z_prime, bank, positives=positives)
        coupling = copy.deepcopy(coupling).double()
        truth = contrasts(coupling, z.double(), z_prime.double(), bank.double())
        lost = torch.zeros_like(truth)
        for seed in range(8):  # to the next number of single precision, in either direction
            generator = torch.Generator().manual_seed(seed)
            up = torch.rand(z.shape, generator=generator) < 0.5
            moved = torch.where(up, z.nextafter(z + 1), z.nextafter(z - 1)).double()
            lost = torch.maximum(lost, (contrasts(coupling, moved, z_prime.double(), bank.double()) - truth).abs())
    torch.testing.assert_close(got.double(), truth, rtol=1e-5, atol=3 * float(lost.max()) + 1e-4)


@pytest.mark.parametrize("side", [None, "upper", "lower"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("name", ["bilinear", "linear dynamics", "gaussian"])
def test_a_data_set_says_far_from_zero_what_double_precision_says(name: str, offset: float, side: Side) -> None:
    couplings: dict[str, Coupling] = {
        "bilinear": rp.Bilinear(DIM, theta=0.01 * torch.eye(DIM)),
        "linear dynamics": rp.LinearDynamics(DIM, covariance=0.01 * torch.eye(DIM)),
        "gaussian": rp.GaussianRBF(0.5),
    }
    z, z_prime = (side + offset for side in pairs())

    def value(dtype: torch.dtype) -> Tensor:
        x, y = z.to(dtype), z_prime.to(dtype)
        prior = rp.InfoNCEPrior(copy.deepcopy(couplings[name])).to(dtype)
        model = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=rp.DatasetMarginal(x, y)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.elbo(x, y, side=side).per_observation.detach()

    truth, got = value(torch.float64), value(torch.float32)
    torch.testing.assert_close(got.double(), truth, rtol=1e-4, atol=1e-4)
    if side is None:
        assert float(got.max()) <= math.log(ROWS) + 1e-6


@pytest.mark.parametrize("name", ["bilinear", "gaussian", "student t"])
def test_partners_have_the_gradient_of_their_score(name: str) -> None:
    """A data set's rows are encoded again: z' has the gradient of log f alone, and the bank that of log Z."""
    made: dict[str, Coupling] = {
        "bilinear": rp.Bilinear(DIM),
        "gaussian": rp.GaussianRBF(1.0),
        "student t": rp.StudentT(2.0, lengthscale=1.0),
    }
    coupling = made[name].double()
    z, z_prime = (side.double().requires_grad_() for side in pairs())
    bank = z_prime.detach().clone().requires_grad_()
    over = pairwise_contrast(coupling.score(), coupling, z, z_prime, bank, positives=torch.arange(ROWS))
    expected = contrasts(coupling, z, z_prime, bank)
    torch.testing.assert_close(over, expected)
    for a, b in zip(*(torch.autograd.grad(v.sum(), (z, z_prime, bank)) for v in (over, expected)), strict=True):
        torch.testing.assert_close(a, b)
