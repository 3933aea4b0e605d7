"""Bad input: which call, which error, which words. Every message names the argument and what came or what to do.

Wrong types, which the shape checks of the tests catch before the library does, are in test_bad_types.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound
from recparam.ops import NonFiniteError
from recparam.priors import JointCategoricalPrior, Prior
from recparam.recognition import DensityError, RecognitionModel
from recparam.utils import checks

x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
nan = x.clone()
nan[2, 0] = torch.nan
inf = x.clone()
inf[1] = -torch.inf
grid = torch.zeros(5, 2)


def net() -> nn.Module:
    return nn.Identity()


def infonce() -> rp.InfoNCEPrior:
    return rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))


def dirac(prior: Prior | None = None, **options: rp.DatasetMarginal) -> rp.RPM:
    return rp.RPM(rp.Deterministic(net()), infonce() if prior is None else prior, **options)


def noisy(prior: Prior | None = None, **options: rp.DatasetMarginal) -> rp.RPM:
    recognition = rp.EpsilonGaussian(net(), epsilon=0.1)
    return rp.RPM(recognition, infonce() if prior is None else prior, **options)


def two() -> list[RecognitionModel]:
    return [rp.Deterministic(net()), rp.Deterministic(net())]


def data() -> rp.DatasetMarginal:
    return rp.DatasetMarginal(x, x)


def unset() -> rp.RPM:
    return dirac(rp.InfoNCEPrior(rp.GaussianRBF()))


def linear() -> rp.RPM:
    return rp.RPM(rp.Deterministic(nn.Linear(2, 2)), rp.InfoNCEPrior(rp.Bilinear(2)))


def table() -> rp.RPM:
    return rp.RPM(rp.Categorical(net()), JointCategoricalPrior(2, 2))


def weights(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


Case = tuple[str, Callable[[], object], type[Exception], str]

OBSERVATIONS: list[Case] = [
    ("widths", lambda: dirac().elbo(x, torch.zeros(4, 3)), ValueError, "same width; got 2 and 3"),
    ("widths, own models", lambda: rp.RPM(two(), infonce()).elbo(x, grid[:4, :1]), ValueError, "got 2 and 1"),
    (
        "widths, bilinear",
        lambda: dirac(rp.InfoNCEPrior(rp.Bilinear(2, 3))).elbo(x, x),
        ValueError,
        r"\(2, 3\).*2 and 2",
    ),
    ("widths, infonce", lambda: dirac().infonce(x, torch.zeros(4, 3)), ValueError, "same width; got 2 and 3"),
    ("widths, joint prior", lambda: noisy(rp.JointGaussianPrior(3)).elbo(x, x), ValueError, r"width 3; got \[2, 2\]"),
    (
        "too narrow",
        lambda: dirac(rp.InfoNCEPrior(rp.OnDimensions(rp.Cosine(), [5]))).elbo(x, x),
        ValueError,
        "widths 2",
    ),
    ("rows differ", lambda: dirac().elbo(x, x[:3]), ValueError, r"same number of rows.*\[4, 3\]"),
    ("batch of one", lambda: dirac().elbo(x[:1], x[:1]), ValueError, "at least 2.*no negative.*got 1"),
    ("batch of one, mi", lambda: dirac().mutual_information(x[:1], x[:1]), ValueError, "at least 2.*no negative"),
    ("batch of one, infonce", lambda: dirac().infonce(x[:1], x[:1]), ValueError, "at least 2.*no negative.*got 1"),
    ("batch of one, start", lambda: rp.GaussianRBF()(x[:1], x[:1]), ValueError, "at least 2 rows.*lengthscale"),
    ("batch of none", lambda: dirac().elbo(x[:0], x[:0]), ValueError, r"at least one; got \[0, 0\]"),
    ("one observation", lambda: dirac().elbo(x), ValueError, "at least two observations.*got 1"),
    ("no observation", lambda: dirac().log_marginal(), ValueError, "at least two observations.*got 0"),
    ("three for two models", lambda: rp.RPM(two(), infonce()).elbo(x, x, x), ValueError, "2 observations.*got 3"),
    ("scalars", lambda: dirac().elbo(torch.tensor(1.0), torch.tensor(1.0)), ValueError, "at least one; got"),
    ("batch of one, no lengthscale", lambda: unset().elbo(x[:1], x[:1]), ValueError, "at least 2.*no negative"),
    ("batch of one, no lengthscale, infonce", lambda: unset().infonce(x[:1], x[:1]), ValueError, "no negative"),
    ("batch of one, critic", lambda: rp.infonce(rp.GaussianRBF(), x[:1], x[:1]), ValueError, "gives the negatives"),
    ("double for float", lambda: linear().elbo(x.double(), x.double()), ValueError, r"x of .*32,.*64.*x\.to\(torch"),
    ("whole for float", lambda: linear().encode(x.long()), ValueError, "x of dtype torch.float32.*got torch.int64"),
    ("half for float", lambda: linear().elbo(x, x.half()), ValueError, "torch.float32.*Linear; got torch.float16"),
    (
        "bytes for a convolution",
        lambda: rp.Deterministic(nn.Sequential(nn.Conv1d(2, 1, 1), nn.Flatten()))(x[:, :, None].byte()),
        ValueError,
        "x of dtype torch.float32.*got torch.uint8",
    ),
    (
        "float for double",
        lambda: rp.Deterministic(nn.Linear(2, 2).double())(x),
        ValueError,
        "torch.float64.*got torch.float32",
    ),
    (
        "latents for a coupling",
        lambda: dirac(rp.InfoNCEPrior(rp.Bilinear(2))).elbo(x.double(), x.double()),
        ValueError,
        "z of dtype torch.float32, as the parameters of Bilinear; got torch.float64",
    ),
    (
        "scalar to encode",
        lambda: dirac().encode(torch.tensor(1.0)),
        ValueError,
        r"batch first; got a scalar.*x\[None\]",
    ),
    ("whole numbers", lambda: dirac().elbo(x.long(), x.long()), ValueError, "floating-point.*int64.*float"),
    ("NaN in x", lambda: dirac().elbo(nan, x), NonFiniteError, "finite values in x; got 1 .*row 2"),
    ("NaN in x_prime", lambda: dirac().elbo(x, nan), NonFiniteError, "finite values in x_prime; got 1 .*row 2"),
    ("infinity in x", lambda: dirac().log_marginal(inf, x), NonFiniteError, "finite values in x; got 2 .*row 1"),
    ("infinity in x_prime", lambda: dirac().infonce(x, inf), NonFiniteError, "finite values in x_prime"),
    ("infinity in the third", lambda: dirac().elbo(x, x, inf), NonFiniteError, "finite values in observation 2"),
    ("NaN at the start", lambda: dirac().initialise(x, nan), NonFiniteError, "finite values in x_prime"),
    ("NaN to encode", lambda: dirac().encode(nan), NonFiniteError, "finite values in x; got"),
    ("NaN latents", lambda: infonce().log_ratio(x, nan), NonFiniteError, "finite values in z_prime"),
    ("NaN in the data set", lambda: dirac(marginal=rp.DatasetMarginal(x, nan)).elbo(x, x), NonFiniteError, "x_prime"),
    ("NaN in weights' data", lambda: rp.DatasetMarginal(nan, x), NonFiniteError, "x of the DatasetMarginal; got 1 NaN"),
    ("one latent", lambda: infonce().log_ratio(x), ValueError, "at least two latents"),
    ("latents of one row", lambda: infonce().log_ratio(x[:1], x[:1]), ValueError, "at least two latents"),
    ("no model of that index", lambda: rp.RPM(two(), infonce()).encode(x, index=2), ValueError, "0 to 1.*got 2"),
    ("index below zero", lambda: rp.RPM(two(), infonce()).encode(x, index=-1), ValueError, "index >= 0; got -1"),
    ("index below zero, shared", lambda: dirac().encode(x, index=-1), ValueError, "index >= 0; got -1"),
    ("no samples", lambda: noisy().elbo(x, x, num_samples=0), ValueError, "num_samples >= 1; got 0"),
    ("constant latents", lambda: rp.GaussianRBF()(x * 0, x * 0), ValueError, "differ between observations.*encoder"),
]

WEIGHTS_AND_ROWS: list[Case] = [
    ("weights' shape", lambda: dirac().elbo(x, x, weights=torch.ones(3)), ValueError, r"weights of shape \(4,\)"),
    ("negative", lambda: dirac().elbo(x, x, weights=weights(1, 1, 1, -1)), ValueError, "weights.*not negative"),
    ("all zero", lambda: dirac().elbo(x, x, weights=torch.zeros(4)), ValueError, "weights.*positive sum"),
    ("NaN", lambda: dirac().elbo(x, x, weights=weights(1, 1, 1, torch.nan)), ValueError, "weights.*finite"),
    ("of the data set", lambda: rp.DatasetMarginal(x, x, weights=weights(1, 1)), ValueError, r"shape \(4,\).*\(2,\)"),
    ("data set's rows", lambda: rp.DatasetMarginal(x, x[:3]), ValueError, r"same number of rows.*\[4, 3\]"),
    ("data set of one row", lambda: rp.DatasetMarginal(x[:1], x[:1]), ValueError, "at least 2"),
    ("data set of one view", lambda: rp.DatasetMarginal(x), ValueError, "at least two observations.*got 1"),
    ("more views", lambda: dirac(marginal=data()).elbo(x, x, x), ValueError, "2 observations.*got 3"),
    ("rows of a batch", lambda: dirac().elbo(x, x, rows=torch.arange(4)), ValueError, "rows=None.*DatasetMarginal"),
    ("too few", lambda: dirac(marginal=data()).elbo(x, x, rows=torch.arange(3)), ValueError, "rows as 4.*0 to 3"),
    ("outside", lambda: dirac(marginal=data()).elbo(x, x, rows=torch.arange(1, 5)), ValueError, "rows as 4.*0 to 3"),
    ("below", lambda: dirac(marginal=data()).elbo(x, x, rows=torch.arange(-1, 3)), ValueError, "rows as 4.*0 to 3"),
    (
        "other rows",
        lambda: dirac(marginal=data()).elbo(x, x, rows=torch.tensor([0, 1, 3, 2])),
        ValueError,
        "Expected x to be rows `rows` of the DatasetMarginal; got other values.*rows=None",
    ),
    (
        "rows of another tuple",
        lambda: dirac(marginal=data()).elbo(x[:2], x[1:3], rows=torch.arange(2)),
        ValueError,
        "Expected x_prime to be rows",
    ),
    (
        "rows in another dtype",
        lambda: dirac(marginal=data()).elbo(x.double(), x.double(), rows=torch.arange(4)),
        ValueError,
        "x to be rows.*dtype",
    ),
    ("data set of scalars", lambda: rp.DatasetMarginal(x.sum(), x.sum()), ValueError, r"number of rows.*\[0, 0\]"),
]

PARAMETERS: list[Case] = [
    ("epsilon zero", lambda: rp.EpsilonGaussian(net(), epsilon=0.0), ValueError, "epsilon > 0.*variance.*got 0"),
    ("epsilon negative", lambda: rp.EpsilonGaussian(net(), epsilon=-1.0), ValueError, "epsilon > 0.*got -1"),
    ("epsilon NaN", lambda: rp.EpsilonGaussian(net(), epsilon=float("nan")), ValueError, "epsilon > 0.*got nan"),
    ("lengthscale zero", lambda: rp.GaussianRBF(lengthscale=0.0), ValueError, "lengthscale > 0.*got 0"),
    ("lengthscale negative", lambda: rp.GaussianRBF(lengthscale=-2.0), ValueError, "lengthscale > 0.*got -2"),
    ("lengthscale infinite", lambda: rp.GaussianRBF(lengthscale=float("inf")), ValueError, "finite.*got inf"),
    ("one of several", lambda: rp.GaussianRBF(lengthscale=weights(1, 0)), ValueError, "lengthscale > 0"),
    ("lengthscale and dim", lambda: rp.GaussianRBF(lengthscale=torch.ones(2), dim=3), ValueError, r"\(3,\).*\(2,\)"),
    ("dim zero", lambda: rp.GaussianRBF(dim=0), ValueError, "dim >= 1; got 0"),
    ("temperature", lambda: rp.Cosine(temperature=0.0), ValueError, "temperature > 0.*got 0"),
    ("bilinear of nothing", lambda: rp.Bilinear(0), ValueError, "dim >= 1; got 0"),
    ("theta", lambda: rp.Bilinear(2, theta=torch.zeros(3, 3)), ValueError, r"theta of shape \(2, 2\); got \(3, 3\)"),
    ("theta NaN", lambda: rp.Bilinear(2, theta=nan[1:3]), NonFiniteError, "values in theta.*row 1"),
    ("no dimensions", lambda: rp.OnDimensions(rp.Cosine(), []), ValueError, "dims as distinct"),
    ("twice the same", lambda: rp.OnDimensions(rp.Cosine(), [0, 0]), ValueError, r"dims.*\[0, 0\]"),
    ("negative index", lambda: rp.OnDimensions(rp.Cosine(), [0], dims_prime=[-1]), ValueError, r"dims_prime.*\[-1\]"),
    ("nothing to add", lambda: rp.CouplingSum([]), ValueError, "at least one coupling"),
    ("correlation", lambda: rp.JointGaussianPrior(2, correlation=1.0), ValueError, "between -1 and 1.*got 1"),
    ("prior of nothing", lambda: rp.JointGaussianPrior(0), ValueError, "dim >= 1; got 0"),
    ("table of one side", lambda: JointCategoricalPrior(3), ValueError, r"two sizes >= 1; got \(3,\)"),
    ("table of nothing", lambda: JointCategoricalPrior(3, 0), ValueError, r"sizes\[1\] >= 1; got 0"),
    ("no recognition", lambda: rp.RPM([], infonce()), ValueError, "recognition model such as rp.Deterministic"),
]

NETWORKS: list[Case] = [
    ("odd width", lambda: rp.Gaussian(nn.Linear(2, 3))(x), ValueError, "even width.*got width 3"),
    ("not a matrix", lambda: rp.Deterministic(nn.Unflatten(1, (2, 1)))(x), ValueError, r"\(4, width\).*\(4, 2, 1\)"),
    ("rows lost", lambda: rp.Deterministic(nn.Flatten(0))(x), ValueError, r"net\(x\) of shape.*got \(8,\)"),
    ("a tuple", lambda: rp.Deterministic(nn.LSTM(2, 2))(x), ValueError, r"net\(x\) of shape.*got tuple"),
    ("NaN comes out", lambda: rp.Categorical(nn.Threshold(9, torch.nan))(x), NonFiniteError, "recognition network"),
]


def density(name: str) -> str:
    """The message names the prior, the equation and the cure."""
    return rf"^{name}.*rp\.EpsilonGaussian\(net, epsilon=\.\.\.\) \(Eq\. 46\)"


DENSITIES: list[Case] = [
    ("optimal", lambda: dirac(rp.OptimalPrior()).elbo(x, x), DensityError, density("OptimalPrior")),
    ("joint", lambda: dirac(rp.JointGaussianPrior(2)).elbo(x, x), DensityError, density("JointGaussianPrior")),
    ("table", lambda: dirac(JointCategoricalPrior(2, 2)).elbo(x, x), DensityError, density("JointCategoricalPrior")),
    ("likelihood", lambda: dirac(rp.OptimalPrior()).log_marginal(x, x), DensityError, density("OptimalPrior")),
    ("mi", lambda: dirac(rp.JointGaussianPrior(2)).mutual_information(x, x), DensityError, density("JointGaussian")),
    ("latents", lambda: rp.JointGaussianPrior(2).log_ratio(x, x), DensityError, density("JointGaussianPrior")),
    ("a critic's bound", lambda: dirac(rp.OptimalPrior()).elbo(x, x), DensityError, "mutual_information.*InfoNCE"),
    ("split", lambda: dirac().decompose(x, x), DensityError, r"rp\.EpsilonGaussian.*Eq\. 46"),
    ("a Dirac's own", lambda: rp.Dirac(x).log_prob(x), DensityError, r"Eq\. 38.*rp\.EpsilonGaussian.*Eq\. 46"),
    ("table of reals", lambda: noisy(JointCategoricalPrior(2, 2)).elbo(x, x), ValueError, "one-hot.*rp.Categorical"),
    (
        "reals of a table",
        lambda: rp.RPM(rp.Categorical(net()), rp.JointGaussianPrior(2)).elbo(x, x),
        ValueError,
        "continuous latents.*categorical",
    ),
]

SIDES: list[Case] = [
    ("small bank", lambda: dirac().elbo(x[:3], x[:3], side="lower"), ValueError, "at least 4.*side='lower'.*got 3"),
    (
        "optimal, independent bank",
        lambda: noisy(rp.OptimalPrior(), marginal=data()).elbo(x + 1, x, side="lower"),
        ValueError,
        "side=None.*got 'lower'.*BatchMarginal",
    ),
    (
        "joint, independent bank",
        lambda: noisy(rp.JointGaussianPrior(2), marginal=data()).elbo(x + 1, x, side="lower"),
        ValueError,
        "side='upper' or None.*got 'lower'.*BatchMarginal",
    ),
    (
        "one weighted row",
        lambda: dirac().elbo(x, x, weights=weights(1, 0, 0, 0), side="upper"),
        ValueError,
        "row 0 has none.*at least two",
    ),
]

CONTRASTS: list[Case] = [
    ("NaN in z", lambda: rp.infonce(rp.Cosine(), nan, x), NonFiniteError, "finite values in z; got"),
    ("NaN in z_prime", lambda: rp.infonce(rp.Cosine(), x, nan), NonFiniteError, "finite values in z_prime"),
    ("NaN negatives", lambda: rp.infonce(rp.Cosine(), x, x, negatives=nan), NonFiniteError, "in negatives"),
    ("no negatives", lambda: rp.infonce(rp.Cosine(), x, x, negatives=grid[:0]), ValueError, "negatives.*at least one"),
    ("no row left", lambda: rp.infonce(rp.Cosine(), x[:1], x[:1]), ValueError, "at least 2 rows.*got 1"),
    (
        "NaN constant",
        lambda: dirac().infonce(x, x, constant=float("nan")),
        ValueError,
        "finite number of nats; got nan",
    ),
    ("another prior", lambda: noisy(rp.JointGaussianPrior(2)).infonce(x, x), ValueError, "InfoNCE.*JointGaussianPrior"),
    ("three views", lambda: dirac().infonce(x, x, x), ValueError, "two observations.*3"),
    ("noisy latents", lambda: noisy().infonce(x, x), ValueError, "deterministic recognition.*recparam.infonce"),
]

PREDICTIONS: list[Case] = [
    ("grid's width", lambda: dirac().predict(x, torch.zeros(5, 3)), ValueError, "same width; got 2 and 3"),
    ("empty grid", lambda: dirac().predict(x, grid[:0]), ValueError, "grid of shape.*at least one row"),
    ("NaN in z", lambda: dirac().predict(nan, grid), NonFiniteError, "finite values in z; got"),
    ("NaN in the grid", lambda: dirac().predict(x, nan), NonFiniteError, "finite values in grid"),
    ("base's shape", lambda: dirac().predict(x, grid, base=lambda g: g), ValueError, r"base of shape \(5,\).*\(5, 2\)"),
    ("base NaN", lambda: dirac().predict(x, grid, base=grid[:, 0] * torch.nan), ValueError, "base without NaN"),
    ("base infinite", lambda: dirac().predict(x, grid, base=-grid[:, 0].log()), ValueError, r"without NaN and \+inf"),
    ("base zero", lambda: dirac().predict(x, grid, base=grid[:, 0].log()), ValueError, "base above -inf at some"),
    ("z far away", lambda: dirac().predict(x * 1e30, grid), ValueError, "z within reach.*row 0.*overflows"),
    (
        "z not one-hot",
        lambda: table().predict(torch.full((1, 2), 0.5), torch.eye(2)),
        ValueError,
        r"one-hot rows in z for JointCategoricalPrior.*torch\.eye",
    ),
    ("grid not one-hot", lambda: table().predict(torch.eye(2), torch.ones(1, 2)), ValueError, "one-hot rows in grid"),
    (
        "before any data",
        lambda: dirac(rp.InfoNCEPrior(rp.GaussianRBF())).predict(x, grid),
        checks.UninitialisedError,
        r"lengthscale.*initialise\(x, x_prime\)",
    ),
    ("no conditional", lambda: dirac(rp.OptimalPrior()).predict(x, grid), ValueError, "OptimalPrior.*rp.InfoNCEPrior"),
]

TABLES = {
    "observations": OBSERVATIONS,
    "weights": WEIGHTS_AND_ROWS,
    "parameters": PARAMETERS,
    "networks": NETWORKS,
    "densities": DENSITIES,
    "sides": SIDES,
    "contrasts": CONTRASTS,
    "predictions": PREDICTIONS,
}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [pytest.param(*case, id=f"{table}: {name}") for table, cases in TABLES.items() for name, *case in cases],
)
def test_message(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert type(caught.value) is error


def test_a_bad_call_leaves_the_model_as_it_was() -> None:
    model = dirac(rp.InfoNCEPrior(rp.GaussianRBF()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in ((x, nan), (x, x[:3]), (x[:1], x[:1]), (x * 0, x * 0)):
        with pytest.raises(ValueError, match="Expected"):
            model.elbo(*batch)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_adding_what_is_no_coupling_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        rp.GaussianRBF() + 3  # type: ignore[operator]


def test_errors_of_the_network_that_are_not_about_dtypes_pass_through() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear().encode(torch.ones(4, 3))
    casts_first = nn.Sequential(Cast(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        rp.Deterministic(casts_first)(x.double())


def test_bytes_are_welcome_where_the_network_takes_them() -> None:
    model = rp.RPM(rp.Deterministic(nn.Sequential(Cast(), nn.Linear(2, 2))), infonce())
    frames = torch.tensor([[0, 255], [3, 4]], dtype=torch.uint8)
    assert torch.equal(model.elbo(frames, frames).value, model.elbo(frames.float(), frames.float()).value)


class Cast(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames.float()


def test_rows_that_the_data_set_holds_are_taken_in_any_order_and_integer_dtype() -> None:
    model = dirac(marginal=data())
    whole = model.elbo(x, x)
    for dtype in (torch.int64, torch.int32):
        order = torch.tensor([2, 0], dtype=dtype)
        part = model.elbo(x[[2, 0]], x[[2, 0]], rows=order)
        assert part.kind == whole.kind == "exact"
        torch.testing.assert_close(part.per_observation, whole.per_observation[[2, 0]])


def test_base_may_be_zero_on_part_of_the_grid() -> None:
    base = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
    predicted = dirac().predict(x, x, base=base)
    assert bool((predicted[:, 1] == 0).all())
    torch.testing.assert_close(predicted.sum(-1), torch.ones(4))


def test_a_vacuous_lower_bound_warns_and_says_what_to_raise() -> None:
    far = 100 * torch.arange(8.0)[:, None].expand(8, 2)
    with pytest.warns(UserWarning, match="larger bank.*longer lengthscale") as caught:
        bound = dirac().elbo(far, far, side="lower")
    assert float(bound) == -torch.inf
    assert len(caught) == 1


def test_calling_the_model_is_its_elbo() -> None:
    model, options = noisy(), {"side": "upper", "weights": weights(1, 2, 3, 4), "num_samples": 3}
    called, named = (
        method(x, x, generator=torch.Generator().manual_seed(5), **options) for method in (model, model.elbo)
    )
    assert torch.equal(called.value, named.value)
    assert called.kind == named.kind == "upper"


def test_the_standard_error_holds_the_error_of_the_bank() -> None:
    """Its ratio to the spread over draws of rows and bank; with the bank taken as fixed it was 0.6 to 2.6."""
    wide, rows = rp.InfoNCEPrior(rp.GaussianRBF(3.0)), 64
    for bank in (None, 40):
        found = []
        for seed in range(120):
            z, noise = torch.randn(2, rows + (bank or 0), 1, generator=torch.Generator().manual_seed(seed))
            z_prime = 0.8 * z + 0.6 * noise
            marginal = None if bank is None else rp.DatasetMarginal(z[rows:], z_prime[rows:])
            with torch.no_grad():
                bound = rp.RPM(rp.Deterministic(nn.Identity()), wide, marginal=marginal).elbo(z[:rows], z_prime[:rows])
            found.append([float(bound), bound.standard_error])
        values, errors = np.array(found).T
        assert 0.85 < values.std() / errors.mean() < 1.15


def test_the_influence_of_a_bank_is_the_derivative_in_its_weights() -> None:
    z, bank = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(1.0).double())
    scores = -0.5 * torch.cdist(z, bank).square()
    model = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=rp.DatasetMarginal(bank, bank))
    influence = model.elbo(z, z, side="upper").influence()
    assert influence is not None and influence[1] is None
    torch.testing.assert_close(influence[0], 1 / 9 - scores.softmax(1).mean(0))
    own = rp.RPM(rp.Deterministic(nn.Identity()), prior).elbo(z, bank)
    found = own.settled().influence()
    assert found is not None and found[1] is not None
    torch.testing.assert_close(found[0], 1 / 9 - scores.softmax(1).mean(0))
    torch.testing.assert_close(rp.infonce(prior.coupling, z, bank).influence(), found)
    assert own.settled().standard_error == pytest.approx(own.standard_error)


def test_standard_error_counts_the_weights() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    equal = Bound(values.mean(), values, "elbo", "estimate")
    assert equal.standard_error == pytest.approx(float(values.std()) / 2)
    explicit = Bound(values.mean(), values, "elbo", "estimate", weights=torch.full((4,), 0.25))
    assert explicit.standard_error == pytest.approx(equal.standard_error)
    first_three = Bound(values[:3].mean(), values, "elbo", "estimate", weights=weights(1, 1, 1, 0) / 3)
    assert first_three.standard_error == pytest.approx(float(values[:3].std()) / 3**0.5)
    one = Bound(values[0], values, "elbo", "estimate", weights=weights(1, 0, 0, 0))
    assert one.standard_error != one.standard_error
    given = weights(0.7, 0.1, 0.1, 0.1)
    model = dirac()
    for bound in (
        model.elbo(x, x, weights=given),
        model.log_marginal(x, x, weights=given),
        model.mutual_information(x, x, weights=given).lower,
        model.mutual_information(x, x, weights=given).estimate,
        noisy().decompose(x, x, weights=given).kl,
    ):
        assert bound.weights is not None
        torch.testing.assert_close(bound.weights, given)


def test_finite_arrays_are_read_in_blocks_and_the_first_bad_row_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.memmap(tmp_path / "frames", dtype=np.float32, mode="w+", shape=(20, 3))
    sizes: list[int] = []
    isfinite = np.isfinite
    monkeypatch.setattr(checks, "_BLOCK", 12)
    monkeypatch.setattr(np, "isfinite", lambda block: sizes.append(block.size) or isfinite(block))
    checks.check_finite("frames", frames)
    assert max(sizes) == 12
    assert sum(sizes) == frames.size
    frames[[9, 17], 1] = np.nan
    for held in (frames, torch.from_numpy(np.array(frames))):
        with pytest.raises(NonFiniteError, match="finite values in frames; got 2 .*row 9"):
            checks.check_finite("frames", held)
