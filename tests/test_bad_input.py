"""Bad input: which call, which error, which words. Every message names the argument and what came or what to do."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.ops import NonFiniteError
from recparam.priors import JointCategoricalPrior, Prior
from recparam.recognition import DensityError, RecognitionModel

ROOT = Path(__file__).resolve().parent.parent

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
    ("batch of one, infonce", lambda: dirac().infonce(x[:1], x[:1]), ValueError, "at least 2 rows.*got 1"),
    ("batch of one, start", lambda: rp.GaussianRBF()(x[:1], x[:1]), ValueError, "at least 2 rows.*lengthscale"),
    ("batch of none", lambda: dirac().elbo(x[:0], x[:0]), ValueError, r"at least one; got \[0, 0\]"),
    ("one observation", lambda: dirac().elbo(x), ValueError, "at least two observations.*got 1"),
    ("no observation", lambda: dirac().log_marginal(), ValueError, "at least two observations.*got 0"),
    ("three for two models", lambda: rp.RPM(two(), infonce()).elbo(x, x, x), ValueError, "2 observations.*got 3"),
    ("scalars", lambda: dirac().elbo(torch.tensor(1.0), torch.tensor(1.0)), ValueError, "at least one; got"),
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
    ("one latent", lambda: infonce().log_ratio(x), ValueError, "at least two latents"),
    ("latents of one row", lambda: infonce().log_ratio(x[:1], x[:1]), ValueError, "at least two latents"),
    ("no model of that index", lambda: rp.RPM(two(), infonce()).encode(x, index=2), ValueError, "0 to 1.*got 2"),
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
    ("temperature", lambda: rp.Cosine(temperature=0.0), ValueError, "temperature > 0; got 0"),
    ("bilinear of nothing", lambda: rp.Bilinear(0), ValueError, "dim and dim_prime >= 1; got 0"),
    ("theta", lambda: rp.Bilinear(2, theta=torch.zeros(3, 3)), ValueError, r"theta of shape \(2, 2\); got \(3, 3\)"),
    ("no dimensions", lambda: rp.OnDimensions(rp.Cosine(), []), ValueError, "dims as distinct"),
    ("twice the same", lambda: rp.OnDimensions(rp.Cosine(), [0, 0]), ValueError, r"dims.*\[0, 0\]"),
    ("negative index", lambda: rp.OnDimensions(rp.Cosine(), [0], dims_prime=[-1]), ValueError, r"dims_prime.*\[-1\]"),
    ("nothing to add", lambda: rp.CouplingSum([]), ValueError, "at least one coupling"),
    ("correlation", lambda: rp.JointGaussianPrior(2, correlation=1.0), ValueError, "between -1 and 1.*got 1"),
    ("prior of nothing", lambda: rp.JointGaussianPrior(0), ValueError, "dim >= 1; got 0"),
    ("table of one side", lambda: JointCategoricalPrior(3), ValueError, r"two sizes >= 1; got \(3,\)"),
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
    (
        "before any data",
        lambda: dirac(rp.InfoNCEPrior(rp.GaussianRBF())).predict(x, grid),
        ValueError,
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
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert type(caught.value) is error


# Wrong types, which the shape checks of the tests would catch before the library does: in a plain interpreter

PLAIN = {
    "model.elbo(x.numpy(), x)": "x as a tensor; got ndarray",
    "model.elbo(x, [[1.0, 2.0]])": "x_prime as a tensor; got list",
    "model.elbo(x, x, side='uper')": "side=None, 'upper' or 'lower'; got 'uper'",
    "model.elbo(x, x, rows=torch.arange(4.0))": "rows",
    "model.infonce(x, x, constant='loose')": "constant 'tight', 'paper' or a number of nats; got 'loose'",
    "model.predict(x, x, base='flat')": "base='uniform', a tensor or a callable; got 'flat'",
    "model.predict(x, x, base=torch.zeros(3))": "base of shape (4,), one log-density per grid point; got (3,)",
    "model.predict(x[0], x)": "z of shape",
    "rp.RPM(net, prior)": "recognition model such as rp.Deterministic(net)",
    "rp.RPM([rp.Deterministic(net), net], prior)": "recognition model such as rp.Deterministic(net)",
    "rp.RPM(rp.Deterministic(net), rp.GaussianRBF())": "such as rp.InfoNCEPrior(...); got GaussianRBF()",
    "rp.RPM(rp.Deterministic(net), prior, marginal='batch')": "such as rp.BatchMarginal(); got 'batch'",
    "rp.InfoNCEPrior(net)": "a recparam Coupling, as rp.GaussianRBF(); got Identity()",
    "rp.GaussianRBF(lengthscale=torch.ones(2, 2))": "a float or a vector (D,)",
    "rp.infonce(rp.Cosine(), x[0], x[0])": "z of shape",
    "rp.infonce(rp.Cosine(), x, x[:3])": "z_prime of shape (4, width) with at least one row; got (3, 2)",
}

SCRIPT = """
import json, sys
import torch
import recparam as rp
net, prior, x = torch.nn.Identity(), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)), torch.ones(4, 2)
model = rp.RPM(rp.Deterministic(net), prior)
said = {}
for call in json.loads(sys.stdin.read()):
    try:
        eval(call)
    except Exception as error:
        said[call] = [type(error).__name__, str(error)]
print(json.dumps(said))
"""


@cache
def said_to_users() -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        input=json.dumps(list(PLAIN)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "src",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("call", PLAIN)
def test_message_without_shape_checks(call: str) -> None:
    kind, text = said_to_users()[call]
    assert kind == "ValueError", text
    assert PLAIN[call] in text


def test_a_bad_call_leaves_the_model_as_it_was() -> None:
    model = dirac(rp.InfoNCEPrior(rp.GaussianRBF()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for batch in ((x, nan), (x, x[:3]), (x[:1], x[:1]), (x * 0, x * 0)):
        with pytest.raises(ValueError, match="Expected"):
            model.elbo(*batch)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
