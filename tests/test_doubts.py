"""No direction is claimed of an encoder or of scales that are not what the table takes them for."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds.doubts import FITTED, doubt_of_encoding, doubt_of_mode
from recparam.couplings import Coupling
from recparam.marginals import Marginal
from recparam.utils.checks import UninitialisedError

pytestmark = pytest.mark.filterwarnings("ignore")


class AlwaysDropout(nn.Module):
    """Dropout whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Own(nn.Module):
    """A user's own network, of which nothing is known in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def pairs(rows: int = 24) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    return x, x + 0.1


def model(net: nn.Module, scale: float | None = 1.0, marginal: Marginal | None = None) -> rp.RPM:
    torch.manual_seed(0)
    return rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.GaussianRBF(scale)), marginal=marginal)


IN_TRAINING = {
    "Dropout": lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)),
    "BatchNorm1d": lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
    "Own": Own,
}


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_direction_needs_evaluation_mode(name: str) -> None:
    x = pairs()
    trained = model(IN_TRAINING[name](), marginal=rp.DatasetMarginal(*x))
    for side in (None, "upper", "lower"):
        found = trained.train().elbo(*x, side=side)
        assert found.kind == "estimate"
        assert f"{name} is in training mode; call eval()" in repr(found)
        assert trained.infonce(*x).kind == trained.mutual_information(*x).lower.kind == "estimate"
        assert trained.log_marginal(*x).kind == "estimate"
    trained.eval()
    assert trained.elbo(*x).kind == "exact"
    assert trained.infonce(*x).kind == trained.mutual_information(*x).lower.kind == "lower"
    assert trained.elbo(*x).doubt is None


def test_modules_of_torch_and_of_the_library_that_do_the_same_in_both_modes_are_known() -> None:
    same = [rp.MLP(3, 2), nn.Linear(3, 2), nn.LayerNorm(3), nn.Dropout(0.0), nn.GRU(3, 2), rp.InfoNCEPrior(rp.Cosine())]
    assert doubt_of_mode(*same) is None
    for other in (nn.RReLU(), nn.GRU(3, 2, 2, dropout=0.1), nn.InstanceNorm1d(3, track_running_stats=True)):
        assert doubt_of_mode(other) is not None
        assert doubt_of_mode(other.eval()) is None
    x = pairs()
    assert model(rp.MLP(3, 2), marginal=rp.DatasetMarginal(*x)).elbo(*x).kind == "exact"


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 2), AlwaysDropout()), "its encoder is random"),
        (nn.BatchNorm1d(3, track_running_stats=False), "in other company"),
    ],
    ids=["always dropout", "batch norm without running statistics"],
)
def test_evaluation_mode_is_not_enough(net: nn.Module, reason: str) -> None:
    x = pairs()
    bad = model(net, marginal=rp.DatasetMarginal(*x)).eval()
    for found in (bad.elbo(*x), bad.log_marginal(*x), bad.decompose(*x, critic=rp.GaussianRBF(1.0)).kl):
        assert found.kind == "estimate"
        assert reason in repr(found)
    assert bad.match(*x).kind == "estimate"
    good = model(nn.Linear(3, 3)).eval()
    compared = rp.compare({"bad": bad, "good": good}, x)
    assert {compared.models["bad"].lower.kind, compared.models["bad"].upper.kind} == {"estimate"}


def test_an_estimator_with_a_random_encoder_bounds_nothing() -> None:
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0)).cumsum(0).numpy()
    net = nn.Sequential(nn.Linear(3, 2), AlwaysDropout())
    fitted = rp.RPMEstimator(encoder=net, latent_dim=2, max_steps=4, restarts=1, random_state=0).fit(x)
    found = fitted.elbo(x, side="upper")
    assert found.kind == "estimate"
    assert "its encoder is random" in repr(found)


def call(coupling: Coupling) -> rp.RPM:
    return rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(coupling))


WAITING = {
    "elbo": lambda c, x: call(c).eval().elbo(*x),
    "elbo, no grad": lambda c, x: torch.no_grad()(call(c).elbo)(*x),
    "log_marginal": lambda c, x: call(c).eval().log_marginal(*x),
    "infonce": lambda c, x: call(c).eval().infonce(*x),
    "rp.infonce": lambda c, x: rp.infonce(c.eval(), *x),
    "rp.infonce, no grad": lambda c, x: torch.no_grad()(rp.infonce)(c, *x),
    "mutual_information": lambda c, x: call(c).eval().mutual_information(*x),
    "decompose": lambda c, x: call(c).eval().decompose(*x),
    "match": lambda c, x: call(c).eval().match(*x),
    "predictive": lambda c, x: call(c).eval().predictive(*x),
    "log_ratio": lambda c, x: call(c).eval().prior.log_ratio(*x),
    "forward": lambda c, x: c.eval()(*x),
    "info_nce": lambda c, x: rp.losses.info_nce(c.eval(), *x),
    "nt_xent": lambda c, x: rp.losses.nt_xent(c.eval(), *x),
    "clip": lambda c, x: rp.losses.clip(c.eval(), *x),
    "cebra": lambda c, x: rp.losses.cebra(c.eval(), *x, negatives=x[1]),
    "cpc": lambda c, x: rp.losses.cpc([c.eval()], x[0], [x[1]]),
}


@pytest.mark.parametrize("make", [rp.GaussianRBF, rp.StepLength, lambda: rp.GaussianRBF() + rp.Bilinear(3, 3)])
@pytest.mark.parametrize("name", WAITING)
def test_evaluating_sets_nothing(name: str, make: type[Coupling]) -> None:
    coupling = make()
    before = {key: value.clone() for key, value in coupling.state_dict().items()}
    with pytest.raises(UninitialisedError, match=r"waits for data, which evaluating does not set.*initialise"):
        WAITING[name](coupling, pairs())
    assert not coupling.initialised
    assert all(torch.equal(value, coupling.state_dict()[key]) for key, value in before.items())


def test_scales_that_the_call_sets_leave_no_direction() -> None:
    x = pairs()
    of_losses = [
        lambda c: rp.losses.info_nce(c, *x),
        lambda c: rp.losses.nt_xent(c, *x),
        lambda c: rp.losses.clip(c, *x),
        lambda c: rp.losses.cpc([c], x[0], [x[1]]),
    ]
    for loss in of_losses:
        coupling = rp.StepLength()
        assert loss(coupling).mi.doubt == FITTED
        assert loss(coupling).mi.kind == "lower"
    coupling = rp.StepLength()
    assert rp.losses.cebra(coupling, *x, negatives=x[1]).elbo.kind == "estimate"
    assert rp.losses.cebra(coupling, *x, negatives=x[1]).elbo.kind == "upper"
    coupling = rp.GaussianRBF()
    assert (rp.infonce(coupling, *x).kind, rp.infonce(coupling, *x).kind) == ("estimate", "lower")
    of_elbo = call(rp.GaussianRBF())
    first, second = of_elbo.elbo(*x, side="lower"), of_elbo.elbo(*x, side="lower")
    assert (first.kind, second.kind) == ("estimate", "lower")
    assert "set by this call" in repr(first)


def test_a_held_bank_of_training_mode_is_an_estimate() -> None:
    x = pairs()
    trained = model(IN_TRAINING["BatchNorm1d"](), marginal=rp.DatasetMarginal(*x, hold=True)).train()
    with torch.no_grad():
        assert [trained.elbo(*x).kind for _ in range(2)] == ["estimate"] * 2


def test_lightning_s_sanity_check_sets_nothing(tmp_path: Path) -> None:
    """With batch norm in evaluation mode the latents of a fresh encoder are those of another scale."""
    pytest.importorskip("lightning")
    from lightning.pytorch import Trainer

    from recparam.training.lightning import RPMModule

    torch.manual_seed(0)
    x, x_prime = (100 + 50 * z for z in pairs(64))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x_prime), batch_size=64)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    starts = []
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}

    class Watched(RPMModule):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            starts.append(float(self.model.prior.coupling.lengthscale.detach()))

    module = Watched(model(net, None))
    with pytest.raises(UninitialisedError, match="evaluating does not set"):
        Trainer(**settings, default_root_dir=tmp_path).validate(deepcopy(module), loader, verbose=False)
    trainer = Trainer(**settings, default_root_dir=tmp_path, max_epochs=1, num_sanity_val_steps=2)
    trainer.fit(module, loader, loader)
    assert "validation_nats" in trainer.callback_metrics
    assert 0.5 < starts[0] < 5  # of latents that batch norm made of order one


def test_rounding_in_half_precision_is_no_doubt() -> None:
    latents = torch.linspace(1, 2, 20)[:, None]

    def rounded(rows: Tensor) -> list[Tensor]:
        return [1.004 * latents[rows]]

    assert doubt_of_encoding(rounded, [latents], half=True) is None
    assert doubt_of_encoding(rounded, [latents]) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert doubt_of_encoding(rounded, [latents]) is None
