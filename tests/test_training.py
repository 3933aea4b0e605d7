"""Training resumes to the last bit, stops on NaN with a good checkpoint, and leaves the process as it was."""

import csv
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn

import recparam as rp
from recparam.training import (
    AtomicCheckpointIO,
    PairBatches,
    RPMModule,
    TrainingDiverged,
    TupleBatches,
    checkpoint_path,
    fit,
)
from recparam.training.lightning.isolation import isolated
from recparam.utils.storage import StorageError, load_checkpoint, save_checkpoint


class Toy(nn.Module):
    """An encoder with batch norm and dropout, and a bound that touches both of its views."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))
        self.calls = 0
        self.poison: Any = None  # poison(call) makes the bound, or with "gradient" its gradient, not finite

    def initialise(self, *observations: Tensor) -> None:
        with torch.no_grad():
            self.net[0].bias += observations[0].mean()

    def elbo(self, *observations: Tensor) -> Any:
        self.calls += 1
        z, z_prime = (self.net(x) for x in observations)
        value = -(z - z_prime - 1).square().mean()
        if self.poison is not None and (kind := self.poison(self.calls)):
            value = value + (0 * z.sum()).sqrt() if kind == "gradient" else value * float("nan")
        return SimpleNamespace(value=value, ceiling=1.5, kind="estimate", of="elbo")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 3, generator=generator)
    return x, x + 0.1 * torch.randn(13, 3, generator=generator)


def toy(**options: Any) -> RPMModule:
    torch.manual_seed(1)
    return RPMModule(Toy(), **({"lr": 0.05} | options))


def run(module: RPMModule, data: Any, folder: Path, **options: Any) -> Any:
    chosen = {"epochs": 4, "batch_size": 4, "seed": 3, "accelerator": "cpu", "progress": False} | options
    return fit(module, data, folder=folder, **chosen)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


OPTIONS: list[dict[str, Any]] = [
    {"optimiser": "sgd", "momentum": 0.9},
    {"optimiser": "adam", "schedule": "cosine"},
    {"optimiser": "adamw", "weight_decay": 0.1},
]


@pytest.mark.parametrize(
    ("options", "stopped_after"), [(OPTIONS[0], 1), (OPTIONS[1], 0), (OPTIONS[1], 3), (OPTIONS[2], 2)]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    options: dict[str, Any], stopped_after: int, data: Any, tmp_path: Path
) -> None:
    whole = toy(**options)
    history = run(whole, data, tmp_path / "whole")

    stopped = toy(**options)

    def interrupt(call: int) -> bool:
        if call == 3 * stopped_after + 2:  # within the following epoch
            raise KeyboardInterrupt
        return False

    stopped.model.poison = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(stopped, data, tmp_path / "parts")
    assert checkpoint_path(tmp_path / "parts").exists() == (stopped_after > 0)

    resumed = toy(**options)
    torch.rand(100)  # the caller's random state plays no part
    reported: list[Any] = []
    parts = run(resumed, data, tmp_path / "parts", report=reported.append)
    assert_same(weights(whole), weights(resumed))
    assert resumed.model.calls == 3 * (4 - stopped_after)
    assert [row["epoch"] for row in reported] == list(range(stopped_after + 1, 5))
    assert [(row["epoch"], row["bound_nats"]) for row in parts] == [
        (row["epoch"], row["bound_nats"]) for row in history
    ]
    text = (tmp_path / "parts" / "history.csv").read_text()
    table = list(csv.DictReader(text.splitlines()))
    assert [float(row["bound_nats"]) for row in table] == [row["bound_nats"] for row in history]
    assert all(float(row["ceiling_nats"]) == 1.5 and float(row["seconds"]) > 0 for row in table)


def test_a_terminated_run_resumes_and_does_not_look_successful(data: Any, tmp_path: Path) -> None:
    module = toy()
    module.model.poison = lambda call: call == 4 and signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(module, data, tmp_path)
    assert caught.value.code == 143
    whole, resumed = toy(), toy()
    run(whole, data, tmp_path / "whole")
    run(resumed, data, tmp_path)
    assert resumed.model.calls == 9
    assert_same(weights(whole), weights(resumed))


def test_a_finished_run_is_loaded_and_a_longer_one_continues(data: Any, tmp_path: Path) -> None:
    whole = toy()
    run(whole, data, tmp_path / "a", epochs=3)
    run(toy(), data, tmp_path / "b", epochs=2)
    again = toy()
    assert len(run(again, data, tmp_path / "b", epochs=2)) == 2
    assert again.model.calls == 0
    run(again, data, tmp_path / "b", epochs=3)
    assert_same(weights(whole), weights(again))
    with pytest.raises(ValueError, match="already holds 3 epochs, got 1"):
        run(toy(), data, tmp_path / "b", epochs=1)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=generator)
    return x, x + 0.2 * torch.randn(60, 2, generator=generator)


def real(**options: Any) -> RPMModule:
    torch.manual_seed(0)
    prior = rp.InfoNCEPrior(rp.GaussianRBF())
    return RPMModule(rp.RPM(recognition=rp.Deterministic(nn.Linear(2, 2)), prior=prior), **({"lr": 0.02} | options))


def test_the_real_model_trains_resumes_and_its_bound_rises(pair: Any, tmp_path: Path) -> None:
    whole, resumed = real(), real()
    history = run(whole, pair, tmp_path / "a", batch_size=20)
    assert history[-1]["bound_nats"] > history[0]["bound_nats"]
    assert all(row["bound_nats"] < row["ceiling_nats"] == pytest.approx(np.log(20)) for row in history)
    run(real(), pair, tmp_path / "b", epochs=2, batch_size=20)
    run(resumed, pair, tmp_path / "b", batch_size=20)
    assert_same(weights(whole), weights(resumed))


def test_a_network_that_turns_nan_stops_the_real_model_and_keeps_the_checkpoint(pair: Any, tmp_path: Path) -> None:
    good, module = real(label="the arm"), real(label="the arm")
    run(good, pair, tmp_path, epochs=1, batch_size=20)
    (net,) = (part for part in module.modules() if isinstance(part, nn.Linear))
    net.register_forward_hook(lambda *call: call[-1] * (np.nan if module.global_step == 4 else 1.0))
    with pytest.raises(TrainingDiverged, match=r"^the arm: .*network.* not finite at step 5 \(epoch 2\)") as caught:
        run(module, pair, tmp_path, batch_size=20)
    assert isinstance(caught.value.__cause__, rp.ops.NonFiniteError)
    assert (caught.value.label, caught.value.step, caught.value.epoch) == ("the arm", 5, 2)
    assert str(checkpoint_path(tmp_path)) in caught.value.__notes__[0]
    assert_same(weights(good), load_checkpoint(checkpoint_path(tmp_path))["state_dict"])


def test_the_seed_decides_the_run(data: Any, tmp_path: Path) -> None:
    modules = [toy(), toy(), toy()]
    for number, (module, seed) in enumerate(zip(modules, (3, 3, 4), strict=True)):
        run(module, data, tmp_path / str(number), seed=seed, epochs=2)
    assert_same(weights(modules[0]), weights(modules[1]))
    assert not torch.equal(modules[0].model.net[0].weight, modules[2].model.net[0].weight)


@pytest.mark.parametrize("kind", ["value", "gradient"])
def test_divergence_stops_before_the_step_and_keeps_the_checkpoint(kind: str, data: Any, tmp_path: Path) -> None:
    good = toy()
    run(good, data, tmp_path / "good", epochs=2)
    module = toy(label="the arm")
    seen: list[dict[str, Tensor]] = []

    def poison(call: int) -> str | None:
        if call == 8:
            seen.append({name: p.detach().clone() for name, p in module.named_parameters()})
            return kind
        return None

    module.model.poison = poison
    with pytest.raises(TrainingDiverged, match=r"^the arm: .* not finite at step 8 \(epoch 3\).*Lower `lr`") as caught:
        run(module, data, tmp_path / "bad")
    assert (caught.value.label, caught.value.step, caught.value.epoch) == ("the arm", 8, 3)
    assert str(checkpoint_path(tmp_path / "bad")) in caught.value.__notes__[0]
    assert_same(seen[0], dict(module.named_parameters()))
    assert_same(weights(good), load_checkpoint(checkpoint_path(tmp_path / "bad"))["state_dict"])


def test_parameters_that_overflow_in_the_last_step_reach_no_checkpoint(data: Any, tmp_path: Path) -> None:
    module = toy(optimiser="sgd", lr=3e38)
    module.model.elbo = lambda x, _: SimpleNamespace(value=3 * module.model.net[0].weight.sum(), ceiling=None)
    with pytest.raises(TrainingDiverged, match="a parameter is not finite at step 1 "):
        run(module, data, tmp_path, batch_size=13)
    assert not checkpoint_path(tmp_path).exists()


def test_a_checkpoint_is_read_by_plain_torch_and_by_lightning(data: Any, tmp_path: Path) -> None:
    module = toy(schedule="cosine")
    run(module, data, tmp_path, epochs=1)
    path = checkpoint_path(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    plain = torch.load(path, weights_only=True)
    assert torch.equal(plain["state_dict"]["model.net.0.weight"], module.model.net[0].weight)
    io = AtomicCheckpointIO()
    checkpoint = io.load_checkpoint(path, map_location=torch.device("meta"))
    assert checkpoint["state_dict"]["initialised"].is_meta
    assert checkpoint["global_step"] == 3
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    assert not path.exists()
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(StorageError, match="not the checkpoint of a run"):
        run(toy(schedule="cosine"), data, tmp_path, epochs=1)
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({}, path, storage_options={})


def test_a_write_that_fails_keeps_the_former_checkpoint(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy(), data, tmp_path, epochs=1)
    before = checkpoint_path(tmp_path).read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space"):
            run(toy(), data, tmp_path, epochs=2)
    assert checkpoint_path(tmp_path).read_bytes() == before
    assert len(run(toy(), data, tmp_path, epochs=2)) == 2


def test_another_run_in_the_folder_is_refused(data: Any, tmp_path: Path) -> None:
    run(toy(), data, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"holds another run: lr was 0.05 and is now 0.1, seed was 3 and is now 5"):
        run(toy(lr=0.1), data, tmp_path, seed=5)
    assert len(run(toy(lr=0.1), data, tmp_path, seed=5, resume=False, epochs=1)) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="expected a folder"):
        run(toy(), data, tmp_path / "file")


def test_an_objective_of_the_callers_own(data: Any, tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Any:
        return SimpleNamespace(value=-(model(batch[0]) - batch[1]).square().mean(), ceiling=None)

    torch.manual_seed(0)
    module = RPMModule(nn.Linear(3, 3), optimiser="sgd", lr=0.3, objective=objective)
    history = run(module, data, tmp_path, gradient_clip=1.0)
    assert history[-1]["bound_nats"] > history[0]["bound_nats"]
    assert history[-1]["ceiling_nats"] is None


def test_the_model_is_initialised_once_from_the_first_batch(data: Any, tmp_path: Path) -> None:
    calls: list[tuple[Tensor, ...]] = []
    for epochs in (1, 2):
        module = toy()
        module.model.initialise = lambda *batch: calls.append(batch)
        run(module, data, tmp_path, epochs=epochs)
    first = next(iter(TupleBatches(*data, batch_size=4, seed=3)))
    assert len(calls) == 1
    assert all(map(torch.equal, calls[0], first))


def test_the_cosine_schedule_ends_at_zero(data: Any, tmp_path: Path) -> None:
    run(toy(schedule="cosine", lr=0.5), data, tmp_path, epochs=2)
    state = load_checkpoint(checkpoint_path(tmp_path))
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)
    run(toy(schedule="constant", lr=0.5), data, tmp_path, epochs=1, resume=False)
    assert load_checkpoint(checkpoint_path(tmp_path))["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_process_is_left_as_it_was(data: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> list[Any]:
        levels = [logging.getLogger(name).level for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
        return [
            dict(os.environ),
            levels,
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
        ] + [
            torch.are_deterministic_algorithms_enabled(),
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
        ]

    module = toy()
    before = state()
    run(module, data, tmp_path / "a", epochs=1, deterministic=True, progress=True)
    assert state() == before
    module.model.poison = lambda call: signal.raise_signal(signal.SIGINT)
    before = state()
    with pytest.raises(KeyboardInterrupt):
        run(module, data, tmp_path / "b")
    assert state() == before
    out, err = capfd.readouterr()
    assert out + err == ""


def test_a_terminal_gets_one_line(
    data: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    history = run(toy(label="toy arm"), data, tmp_path, progress=True)
    err = capfd.readouterr().err
    assert f"epoch 4/4  {history[-1]['bound_nats']:.3f} of at most 1.500 nats" in err
    assert "toy arm" in err
    assert err.count("\n") == 1


def test_a_plain_trainer_can_use_the_module(data: Any, tmp_path: Path) -> None:
    module = toy()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.warns(FutureWarning, match="LeafSpec"), pytest.warns(PossibleUserWarning, match="no `val_dataloader`"):
        trainer.fit(module, TupleBatches(*data, batch_size=4, seed=0))
    assert set(trainer.callback_metrics) == {"bound_nats", "ceiling_nats"}
    assert trainer.callback_metrics["ceiling_nats"] == 1.5


def test_every_pair_appears_once_an_epoch_in_an_order_of_its_own() -> None:
    frames = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), dtype=np.uint8)
    frames.flags.writeable = False
    batches = PairBatches(frames, targets=torch.arange(12.0), batch_size=5, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) == 2  # 11 pairs: the last one would be alone
        for x, x_prime, t, t_prime in found:
            assert x.dtype == torch.uint8
            assert x.shape == (5, 2, 2)
            assert torch.equal(x[:, 0, 0] + 1, x_prime[:, 0, 0])
            assert torch.equal(x[:, 0, 0].float(), t)
            assert torch.equal(t + 1, t_prime)
        orders.append([int(t) for batch in found for t in batch[2]])
    assert orders[0] == orders[2] != orders[1]
    assert all(len(set(order)) == 10 for order in orders)
    assert [len(PairBatches(frames, batch_size=8, seed=0, least=least)) for least in (3, 4)] == [2, 1]
    chosen = PairBatches(torch.arange(9), pairs=torch.tensor([[0, 2, 4], [4, 6, 8]]), batch_size=2, seed=1)
    assert sorted(torch.stack(next(iter(chosen)), dim=1).tolist()) == [[0, 2, 4], [4, 6, 8]]


X = torch.zeros(6, 2)
NAN = torch.tensor([[0.0], [float("nan")], [1.0]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TupleBatches(X, X, batch_size=1, seed=0), "batch_size: expected at least 2, got 1"),
        (lambda: TupleBatches(X, X[:5], batch_size=2, seed=0), r"same number of rows, got \[6, 5\]"),
        (lambda: TupleBatches(X[:1], batch_size=2, seed=0), "at least 2 tuples, got 1"),
        (lambda: TupleBatches(X, batch_size=2, seed=-1), "seed: .* got -1"),
        (lambda: TupleBatches(NAN, NAN.numpy(), batch_size=2, seed=0), r"finite values in observations\[0\]; got 1"),
        (lambda: PairBatches(NAN.numpy(), batch_size=2, seed=0), "finite values in frames; got 1"),
        (
            lambda: PairBatches(X, targets=X[:5], batch_size=2, seed=0),
            "targets: expected one per frame, 6, got 5",
        ),
        (
            lambda: PairBatches(X, pairs=torch.tensor([[0, 1], [5, 6]]), batch_size=2, seed=0),
            "pairs: .* 0 to 6",
        ),
        (lambda: RPMModule(Toy(), optimiser="lion"), "optimiser: expected one of .*'sgd'"),
        (lambda: RPMModule(Toy(), lr=0.0), "lr: expected a positive"),
        (lambda: RPMModule(Toy(), momentum=0.5), "momentum: expected 0 with 'adam'"),
        (lambda: RPMModule(Toy(), weight_decay=-1.0), "weight_decay >= 0"),
        (lambda: run(toy(), (X, X), Path("unused"), epochs=0), "epochs: expected at least 1, got 0"),
        (lambda: run(toy(), (X, X), Path("unused"), batch_size=1), "batch_size: expected at least 2"),
        (lambda: run(toy(), (X, X), Path("unused"), batch_size=None), "batch_size: .* got None"),
        (lambda: run(toy(), iter([]), Path("unused"), batch_size=None), "data: expected"),
        (
            lambda: run(toy(), TupleBatches(X, X, batch_size=3, seed=0), Path("unused")),
            "that of the loader, 3",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    call: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        call()
    assert not list(tmp_path.iterdir())


def test_a_model_without_parameters_is_refused(data: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected parameters to train"):
        run(RPMModule(nn.Flatten()), data, tmp_path)


def lightning(module: RPMModule, tmp_path: Path, *, validation: Any = None, **settings: Any) -> Trainer:
    data = torch.randn(64, 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, data + 0.1), batch_size=32)
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    trainer = Trainer(**defaults | settings)
    with isolated():
        trainer.fit(module, loader, validation)
    return trainer


def small_model() -> rp.RPM:
    return rp.RPM(rp.Deterministic(rp.MLP(4, 2, hidden=(8,))), rp.InfoNCEPrior(rp.GaussianRBF()))


def test_lightning_is_told_the_bound_of_validation_batches(tmp_path: Path) -> None:
    x = torch.randn(30, 4)
    held_out = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x + 0.1), batch_size=20)
    module = RPMModule(small_model(), lr=1e-2)
    trainer = lightning(module, tmp_path, validation=held_out)
    with torch.no_grad():
        values = [float(module.model.eval().elbo(part, part + 0.1)) for part in (x[:20], x[20:])]
    logged = trainer.callback_metrics["validation_nats"]
    torch.testing.assert_close(float(logged), (20 * values[0] + 10 * values[1]) / 30, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_lightning_s_precision_is_passed_through(tmp_path: Path, precision: Any, dtype: torch.dtype) -> None:
    module = RPMModule(small_model(), lr=1e-2)
    trainer = lightning(module, tmp_path, precision=precision, max_epochs=10)
    assert all(parameter.dtype == dtype for parameter in module.parameters())
    assert float(trainer.callback_metrics["bound_nats"]) > 0.5


def test_tensorboard_is_a_logger_like_any_other(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an extra")
    from lightning.pytorch.loggers import TensorBoardLogger

    lightning(RPMModule(small_model()), tmp_path, logger=TensorBoardLogger(tmp_path))
    assert any("bound_nats" in file.read_bytes().decode("latin1") for file in tmp_path.rglob("events.out.tfevents*"))


WITHOUT_LIGHTNING = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
import numpy as np
import recparam as rp
import recparam.estimator, recparam.training
from recparam.cli import main

folder = sys.argv[1]
X = np.cumsum(np.random.default_rng(0).normal(size=(200, 3)), axis=0).astype(np.float32)
est = rp.RPMEstimator(max_steps=4, restarts=1, batch_size=32, random_state=0).fit(X, resume=folder + "/state")
assert est.transform(X).shape == (200, 2)
np.save(folder + "/x.npy", X)
few = ["--max-steps", "4", "--restarts", "1", "--batch-size", "32"]
assert main(["fit", folder + "/x.npy", "--out", folder + "/run", *few]) == 0
for get in (lambda: rp.RPMModule, lambda: recparam.training.fit, lambda: recparam.training.AtomicCheckpointIO):
    try:
        get()
    except ImportError as error:
        assert "lightning to be installed" in str(error) and "pip install 'recparam[lightning]'" in str(error), error
    else:
        raise AssertionError("no error")
assert main(["balls", "--out", folder + "/balls"]) == 2
"""


def test_all_but_the_trainer_works_without_lightning(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_LIGHTNING, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("recparam: Expected lightning") and last.endswith("pip install 'recparam[lightning]'.")
    assert not (tmp_path / "balls").exists()
