"""Arguments of a wrong type, in a plain interpreter: here the shape checks of the tests would catch them first."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PLAIN = {
    "rp.choose_latent_dim([[0.0]], x)": "estimator as an rp.RPMEstimator; got list. Use rp.choose_latent_dim(rp.",
    "rp.choose_latent_dim(rp.RPMEstimator(), x, dims=3)": "dims as several numbers of latents; got 3",
    "rp.Groups(rp.Cosine(), 3)": "groups as lists of dimensions, such as [[0, 1], [2, 3]]; got 3",
    "rp.Groups(rp.Cosine(), [[0]], rest='all')": "rest=None or 'free'; got 'all'",
    "rp.Groups(torch.nn.Identity(), [[0]])": "coupling as a recparam Coupling, such as rp.Cosine(); got Identity()",
    "rp.After(rp.Cosine(), rp.Cosine())": "transition as a recparam transition, such as rp.ConstantVelocity()",
    "rp.AtLag(3, 2)": "coupling as a recparam Coupling, such as rp.Cosine(); got 3",
    "rp.InfoNCEPrior(rp.Cosine(), first=3)": "first as a recparam Coupling of order 1",
    "rp.StepLength('far')": "radius > 0, a finite number; got 'far'",
    "model.elbo(x.numpy(), x)": "x as a tensor; got ndarray",
    "model.elbo(x, [[1.0, 2.0]])": "x_prime as a tensor; got list",
    "model.elbo(x, x, side='uper')": "side=None, 'upper' or 'lower'; got 'uper'",
    "model.elbo(x, x, expectation='exact')": "expectation='sampled' or 'analytic'; got 'exact'. Use",
    "model.elbo(x, x, weights=[1, 1, 1, 1])": "weights as a tensor; got list. Use torch.as_tensor",
    "model.elbo(x, x, num_samples=1.5)": "a whole number num_samples >= 1; got 1.5",
    "model.elbo(x, x, num_samples=True)": "a whole number num_samples >= 1; got True",
    "model.encode([[1.0, 2.0]])": "x as a tensor; got list. Use torch.as_tensor",
    "model.encode(x.numpy())": "x as a tensor; got ndarray. Use torch.as_tensor",
    "model.encode(x, index=0.5)": "a whole number index >= 0; got 0.5",
    "model.match(x, x.numpy())": "x_prime as a tensor; got ndarray",
    "model.match(x, x, weights=[1, 1, 1, 1])": "weights as a tensor; got list",
    "model.match(x, x).log_f([0, 1, 2, 3])": "indices as a tensor; got list",
    "model.match(x, x).log_prob(torch.zeros(4))": "indices as whole numbers",
    "model.match(x, x).places(torch.zeros(4, 2).long())": "targets as whole numbers of shape (4,)",
    "__import__('recparam.model.calibration').model.calibration.retrieval(3)": (
        "places as of model.match(x, x_prime).places()"
    ),
    "model.match(x, x).top_k(2.5)": "a whole number k >= 1; got 2.5",
    "model.initialise(x, x.numpy())": "x_prime as a tensor; got ndarray",
    "held.elbo(x, x, rows=torch.arange(4.0))": "rows as 4 indices from 0 to 3, one per scored observation; got torch.f",
    "held.elbo(x, x, rows=torch.ones(4, dtype=torch.bool))": "rows as 4 indices from 0 to 3",
    "held.elbo(x, x, rows=[0, 1, 2, 3])": "rows as a tensor; got list. Use torch.as_tensor",
    "rp.DatasetMarginal([1.0, 2.0], [1.0, 2.0])": "x of the DatasetMarginal as a tensor; got list. Use torch.as_tensor",
    "rp.DatasetMarginal(x, x.numpy())": "x_prime of the DatasetMarginal as a tensor; got ndarray",
    "rp.DatasetMarginal(x, x, weights=[1, 1, 1, 1])": "weights as a tensor; got list",
    "rp.EstimatedMarginal(draw, 3)": "the base of x_prime with `sample` and `log_prob`, such as rp.GaussianMixtureBase",
    "rp.EstimatedMarginal(draw, draw, num_samples=0.5)": "a whole number num_samples >= 1; got 0.5",
    "rp.EstimatedMarginal(draw, lambda n, generator: [[1.0]])": "samples of the base of x_prime as a tensor; got list",
    "rp.GaussianMixtureBase.fit(x.numpy())": "x as a tensor; got ndarray",
    "model.infonce(x, x, constant='loose')": "constant 'tight', 'paper' or a number of nats; got 'loose'",
    "model.predict(x, x, base='flat')": "base='uniform', a tensor or a callable that returns one; got 'flat'",
    "model.predict(x, x, base=torch.zeros(3))": "base of shape (4,), one log-density per grid point; got (3,)",
    "model.predict(x, x, base=None)": "base='uniform', a tensor or a callable that returns one; got None",
    "model.predict(x, x, base=[0.0] * 4)": "got [0.0, 0.0, 0.0, 0.0]. Use torch.as_tensor",
    "model.predict(x, x, base=lambda g: 0.0)": "a callable that returns one; got 0.0",
    "model.predict([[1.0, 2.0]], x)": "z as a tensor; got list. Use torch.as_tensor",
    "model.predict(x, x.numpy())": "grid as a tensor; got ndarray. Use torch.as_tensor",
    "model.predict(x[0], x)": "z of shape",
    "rp.RPM(net, prior)": "recognition model such as rp.Deterministic(net)",
    "rp.RPM([rp.Deterministic(net), net], prior)": "recognition model such as rp.Deterministic(net)",
    "rp.RPM(rp.Deterministic(net), rp.GaussianRBF())": "such as rp.InfoNCEPrior(...); got GaussianRBF(not",
    "rp.RPM(rp.Deterministic(net), prior, marginal='batch')": "such as rp.BatchMarginal(); got 'batch'",
    "rp.RPM(rp.Deterministic(net), prior, posterior=3)": "such as rp.AmortisedPosterior(net), or None; got 3",
    "rp.PairPosterior(4, [2, 2], family='normal')": "family as one of gaussian, full gaussian, categorical; got 'nor",
    "rp.PairPosterior(4, 2)": "widths as a sequence of at least two whole numbers; got 2",
    "rp.AmortisedPosterior(3)": "net as a torch module of x and x_prime, such as rp.MLP(8, 4); got 3",
    "rp.Deterministic(3)": "net as a torch module, such as torch.nn.Linear(4, 2); got 3",
    "rp.Deterministic(net)(x.numpy())": "x as a tensor; got ndarray",
    "rp.EpsilonGaussian(net, epsilon='x')": "epsilon > 0, a finite variance; got 'x'",
    "rp.GaussianRBF(lengthscale='a')": "lengthscale > 0 and finite, a float or a vector (D,); got 'a'",
    "rp.GaussianRBF(dim=2.5)": "a whole number dim >= 1; got 2.5",
    "rp.GaussianRBF(lengthscale=1.0)([1.0], x)": "z as a tensor; got list",
    "rp.Cosine('a')": "temperature > 0, a finite number; got 'a'",
    "rp.Bilinear(2.5)": "a whole number dim >= 1; got 2.5",
    "rp.Bilinear(2, 2.5)": "a whole number dim_prime >= 1; got 2.5",
    "rp.Bilinear(2, theta=[[1, 0], [0, 1]])": "theta as a tensor; got list. Use torch.as_tensor",
    "rp.Bilinear(2, theta=torch.eye(2).long())": "floating-point values in theta; got torch.int64. Use theta.float()",
    "rp.CouplingSum(rp.Cosine())": "couplings as a sequence of at least one coupling, such as [rp.Cosine()]; got Cos",
    "rp.CouplingSum([rp.Cosine(), 3])": "couplings as a sequence of at least one coupling",
    "rp.OnDimensions(rp.Cosine(), 0)": "dims as distinct indices >= 0, at least one, such as [0, 1]; got 0",
    "rp.OnDimensions(rp.Cosine(), [0.5])": "dims as distinct indices >= 0, at least one, such as [0, 1]; got [0.5]",
    "rp.OnDimensions(3, [0])": "coupling as a recparam Coupling, such as rp.Cosine(); got 3",
    "rp.JointGaussianPrior(2.5)": "a whole number dim >= 1; got 2.5",
    "rp.JointGaussianPrior(2, correlation='a')": "correlation between -1 and 1, exclusive; got 'a'",
    "rp.JointCategoricalPrior(2.5, 3)": "a whole number sizes[0] >= 1; got 2.5",
    "prior.log_ratio(x, x.numpy())": "z_prime as a tensor; got ndarray. Use torch.as_tensor",
    "rp.infonce(rp.Cosine(), x, [[1.0, 2.0]])": "z_prime as a tensor; got list. Use torch.as_tensor",
    "rp.infonce(rp.Cosine(), x, x, negatives=x.numpy())": "negatives as a tensor; got ndarray",
    "rp.infonce(rp.Cosine(), x, x, constant=None)": "'tight', 'paper' or a finite number of nats; got None",
    "rp.InfoNCEPrior(net)": "a recparam Coupling, as rp.GaussianRBF(); got Identity()",
    "rp.GaussianRBF(lengthscale=torch.ones(2, 2))": "a float or a vector (D,)",
    "rp.infonce(rp.Cosine(), x[0], x[0])": "z of shape",
    "rp.losses.info_nce(rp.Cosine(), x, x[:3])": "z_prime of shape (4, width) with at least one row; got (3, 2)",
    "rp.losses.info_nce(net, x, x)": "coupling as a recparam Coupling, such as rp.Cosine(); got Identity()",
    "rp.losses.nt_xent(rp.Cosine(), x, x[:3])": "z_prime of shape (4, 2) with at least one row; got (3, 2)",
    "rp.losses.nt_xent(rp.Cosine(), x, x[:, :1])": "z_prime of shape (4, 2) with at least one row; got (4, 1)",
    "rp.losses.nt_xent(rp.Cosine(), [[1.0]], x)": "z as a tensor; got list",
    "rp.losses.clip(rp.Cosine(), x, x[:3])": "z_prime of shape (4, width) with at least one row; got (3, 2)",
    "rp.losses.cebra(rp.Cosine(), x, x, x[:, :1])": "negatives of shape (rows, 2) with at least one row; got (4, 1)",
    "rp.losses.cpc([rp.Cosine()], x, [x[:3]])": "future[0] of shape (4, width) with at least one row; got (3, 2)",
    "rp.losses.cpc(rp.Cosine(), x, [x])": "couplings as a list, one for each future step; got Cosine(temperature=0.1)",
    "rp.infonce(rp.Cosine(), x, x[:3])": "z_prime of shape (4, width) with at least one row; got (3, 2)",
    "consecutive(recording, lag=1.5)": "a whole number lag >= 1; got 1.5",
    "consecutive(recording, seconds='1', rate=1)": "seconds > 0, a finite number of seconds; got '1'",
    "consecutive(recording).split('a')": "fraction between 0 and 1; got 'a'",
    "consecutive(recording).split(gap=0.5)": "a whole number gap >= 0; got 0.5",
    "aligned(recording, recording, lag=0.5)": "a whole number lag >= 0; got 0.5",
    "views(recording, 3)": "transform as a function of rows and a generator; got 3",
    "views(recording, lambda rows, generator: None).tensors()": "a view of each of 3 rows, as a tensor; got NoneType",
}

SCRIPT = """
import json, sys
import torch
import recparam as rp
from recparam.data.pairs import aligned, consecutive, views
from recparam.data.recording import Recording
recording = Recording.of([[1.0], [2.0], [3.0]])
net, prior, x = torch.nn.Identity(), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)), torch.ones(4, 2)
model = rp.RPM(rp.Deterministic(net), prior)
draw = lambda n, generator: torch.zeros(n, 2)
held = rp.RPM(rp.Deterministic(net), prior, marginal=rp.DatasetMarginal(x, x))
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
