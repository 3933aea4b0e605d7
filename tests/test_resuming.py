"""Fits that are killed and resume: the same weights to the last bit, other data refused, a full disk survived."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recparam as rp
from recparam.cli import main
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.pairs import views
from recparam.data.recording import Recording
from recparam.data.windows import windowed
from recparam.estimator import FitWarning, resuming
from recparam.training.optimise import Optimisation
from recparam.utils.storage import StorageError, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")


def data(rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(rows, 2)), axis=0))
    return np.tanh(place @ rng.normal(size=(2, 6))).astype(np.float32)


X = data()


def estimator(**settings: Any) -> rp.RPMEstimator:
    plain = {"lag": 1, "max_steps": 60, "restarts": 3, "batch_size": 64, "dropout": 0.2, "random_state": 0}
    return rp.RPMEstimator(**{"accelerator": "cpu"} | plain | settings)


@pytest.fixture(autouse=True)
def every_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is written at each validation: these fits take no ten seconds."""
    monkeypatch.setattr(resuming, "_SECONDS", 0.0)
    monkeypatch.setattr(resuming, "_SHARE", 1e6)


class Killed(Exception):
    pass


def fit_until(validation: int, est: rp.RPMEstimator, folder: Path, rows: Any = X, **options: Any) -> None:
    """Fit, and stop at a validation before its state is written: what is on the disk is that of the one before."""
    validations: Iterator[int] = iter(range(1, 10_000))
    write = resuming.Checkpoint.write

    def stopping(self: Any, state: Any, *, now: bool = False) -> None:
        if not now and next(validations) == validation:
            raise Killed
        write(self, state, now=now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming.Checkpoint, "write", stopping)
        with pytest.raises(Killed):
            est.fit(rows, **options, resume=folder)


def weights(est: rp.RPMEstimator) -> dict[str, torch.Tensor]:
    return est.model_.state_dict()


def assert_same(one: rp.RPMEstimator, other: rp.RPMEstimator) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    assert one.history_ == other.history_ and one.restarts_ == other.restarts_
    assert one.validation_nats_ == other.validation_nats_
    assert one.score(X) == other.score(X)


@pytest.fixture(scope="module")
def whole() -> rp.RPMEstimator:
    """A fit that nothing interrupts, and that knows of no checkpoint."""
    return estimator().fit(X)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a fit that was killed early; not to be changed."""
    folder = tmp_path_factory.mktemp("begun") / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "_SECONDS", 0.0)
        fit_until(3, estimator(), folder)
    return folder


# In the first start, in the second, soon after the choice, and near the end.
@pytest.mark.parametrize("validation", [2, 8, 17, 22])
def test_a_fit_that_resumes_ends_with_the_same_bits(validation: int, whole: rp.RPMEstimator, tmp_path: Path) -> None:
    fit_until(validation, estimator(), tmp_path / "state")
    assert_same(estimator().fit(X, resume=tmp_path / "state"), whole)


def kinds() -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """What is fitted, options of `fit`, and settings: one of each kind of data that pairs are declared on."""
    other = np.tanh(X[:, :3] @ np.arange(9.0).reshape(3, 3).astype(np.float32))
    channels = own_channels([X[:200], other[:180]])
    position = np.concatenate([X[:200, 0], X[:180, 0]])
    return {
        "sessions": ([X[:150], X[150:]], {}, {"lag": [1, 3]}),
        "windows": (windowed(Recording.of(X), before=4), {}, {"encoder": "temporal", "lag": 5}),
        "another modality": (X, {"X_prime": other}, {}),
        "views": (X, {"pairs": views(Recording.of(X), _jittered)}, {}),
        "own channels": (channels, {"pairs": nearest(channels, position)}, {}),
    }


def _jittered(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("kind", ["sessions", "windows", "another modality", "views", "own channels"])
def test_every_kind_of_data_resumes_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    rows, options, settings = kinds()[kind]
    settings = {"max_steps": 40, "restarts": 2} | settings
    uninterrupted = estimator(**settings).fit(rows, **options)
    fit_until(5, estimator(**settings), tmp_path / "state", rows, **options)
    resumed = estimator(**settings).fit(rows, **options, resume=tmp_path / "state")
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(uninterrupted)[name]), name
    assert resumed.history_ == uninterrupted.history_


def test_a_fit_may_be_killed_again_and_again(whole: rp.RPMEstimator, tmp_path: Path) -> None:
    for validation in (3, 5, 9):
        fit_until(validation, estimator(), tmp_path / "state")
    assert_same(estimator().fit(X, resume=tmp_path / "state"), whole)


def test_a_fit_that_is_done_is_not_done_again(
    whole: rp.RPMEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(estimator().fit(X, resume=tmp_path / "state"), whole)

    def stepping(*args: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Optimisation, "_take_step", stepping)
    assert_same(estimator().fit(X, resume=tmp_path / "state"), whole)


def test_a_fit_without_a_seed_resumes_with_its_own(tmp_path: Path) -> None:
    fit_until(9, estimator(window=1, random_state=None), tmp_path / "state")
    seed = load_checkpoint(tmp_path / "state" / "fit.ckpt")["facts"]["seed"]
    resumed = estimator(window=1, random_state=None).fit(X, resume=tmp_path / "state")
    assert [start["seed"] for start in resumed.restarts_] == [seed, seed + 1, seed + 2]


def test_a_network_of_ones_own_and_draws_of_latents_resume(tmp_path: Path) -> None:
    def make() -> rp.RPMEstimator:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 4))
        return estimator(encoder=net, prior="joint-gaussian", restarts=1, max_steps=40)

    unbroken = make().fit(X)
    fit_until(15, make(), tmp_path / "state")
    assert_same(make().fit(X, resume=tmp_path / "state"), unbroken)


@pytest.mark.parametrize(
    ("settings", "rows", "words"),
    [
        ({"lag": 2}, X, "choices was .*lag 1.* and is now .*lag 2"),
        ({"learning_rate": 1e-3}, X, "learning_rate was 0.003 and is now 0.001"),
        ({"prior": "linear"}, X, "prior was 'gaussian' and is now 'linear'"),
        ({"max_steps": 70}, X, "max_steps was 60 and is now 70"),
        ({"random_state": 1}, X, "seed was"),
        ({}, X + 1, "data was '400 x 6, 318 pairs, checksum"),
        ({}, X[:300], "is now '300 x 6, 238 pairs"),
    ],
)
def test_another_fit_is_refused_and_its_state_left_alone(
    settings: dict[str, Any], rows: np.ndarray, words: str, begun: Path
) -> None:
    before = (begun / "fit.ckpt").read_bytes()
    with pytest.raises(ValueError, match=words):
        estimator(**settings).fit(rows, resume=begun)
    assert (begun / "fit.ckpt").read_bytes() == before


def test_what_is_no_state_is_refused(begun: Path, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="resume=.*something else"):
        estimator().fit(X, resume=tmp_path / "papers")
    with pytest.raises(ValueError, match="resume=.*something else"):
        estimator().fit(X, resume=tmp_path / "papers" / "thesis.tex")
    file = tmp_path / "state" / "fit.ckpt"
    shutil.copytree(begun, tmp_path / "state")
    content, tree = file.read_bytes(), load_checkpoint(file)
    file.write_bytes(content[:-20])
    with pytest.raises(StorageError, match="truncated"):
        estimator().fit(X, resume=tmp_path / "state")
    save_checkpoint(file, tree | {"format_version": 99})
    with pytest.raises(StorageError, match="got 99. Update"):
        estimator().fit(X, resume=tmp_path / "state")
    save_checkpoint(file, {"weights": 1})
    with pytest.raises(StorageError, match="not the state of a fit"):
        estimator().fit(X, resume=tmp_path / "state")


# --- a full disk ----------------------------------------------------------------------------------------------------


def full(*args: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_former_state_and_the_fit_continues(
    whole: rp.RPMEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_until(9, estimator(), tmp_path / "state")
    before = (tmp_path / "state" / "fit.ckpt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.warns(FitWarning, match="continues.*No space left"):
            resumed = estimator().fit(X, resume=tmp_path / "state")
    assert_same(resumed, whole)
    assert (tmp_path / "state" / "fit.ckpt").read_bytes() == before
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["fit.ckpt"]
    assert_same(estimator().fit(X, resume=tmp_path / "state"), whole)


# --- the command ----------------------------------------------------------------------------------------------------

QUICK = ["--max-steps", "60", "--restarts", "2", "--batch-size", "64", "--dropout", "0.2", "--accelerator", "cpu"]
CHILD = """
import sys, torch
from recparam.cli import main
from recparam.data.recording import Recording
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.pairs import views
from recparam.data.windows import windowed
from recparam.estimator import resuming
resuming._SECONDS, resuming._SHARE = 0.0, 1e6
torch.set_num_threads(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run of them that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "data.npy", X)
    assert main(["fit", str(folder / "data.npy"), "--out", str(folder / "whole"), *QUICK]) == 0
    return folder


def test_a_command_that_was_killed_resumes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), *QUICK]
    command = [sys.executable, "-c", CHILD, str(torch.get_num_threads()), *words]
    source = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": source}
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if "step 12 " in line:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume", "--seed", "1"]) == 2
    assert "seed was" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert "step 4 " not in capsys.readouterr().err  # what was done is not done again
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    new, old = (rp.RPMEstimator.load(place / name) for place, name in ((tmp_path, "run"), (folder, "whole")))
    assert_same(new, old)


@pytest.mark.parametrize("fails", ["recparam.utils.storage.save_file", "os.replace", "os.fsync"])
def test_a_full_disk_leaves_the_former_run_and_the_fit_is_kept(
    fails: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "whole", tmp_path / "run")
    before = contents(tmp_path)
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), *QUICK, "--overwrite"]
    from recparam.runs import fits

    save_run = fits.save_run

    def on_a_full_disk(*args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(fails, full)
            return save_run(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fits, "save_run", on_a_full_disk)
        assert main([*words, "--lag", "2"]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("recparam: ") and "No space left" in printed and "--resume" in printed
    assert {name: data for name, data in contents(tmp_path).items() if not name.startswith("run.partial")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.partial"]
    monkeypatch.setattr(Optimisation, "_take_step", full)  # no step is left
    assert main([*words, "--lag", "2", "--resume"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert rp.RPMEstimator.load(tmp_path / "run").lag == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ["--prior", "gausian"],
        ["--dropout", "2"],
        ["--restarts", "0"],
        ["--encoder", "temporal"],
        ["--encoder", "mpl"],
        ["--latent-dim", "99"],
        ["--lag", "9999"],
        ["--validation-fraction", "0.999"],
    ],
)
def test_settings_that_cannot_be_fitted_leave_an_interrupted_fit(
    wrong: list[str], folder: Path, tmp_path: Path
) -> None:
    state = tmp_path / "run.partial" / "fit.ckpt"
    state.parent.mkdir()
    state.write_text("of a fit")
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), "--overwrite", *QUICK, *wrong]
    assert main(words) == 2
    assert state.read_text() == "of a fit"


def test_overwrite_replaces_an_interrupted_fit_even_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "fit.ckpt").write_text("damaged")
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), *QUICK]
    assert main([*words, "--resume"]) == 2
    assert main([*words, "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same(rp.RPMEstimator.load(tmp_path / "run"), rp.RPMEstimator.load(folder / "whole"))


def test_ctrl_c_says_how_to_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), *QUICK]
    take_step = Optimisation._take_step

    def interrupted(self: Optimisation, batch: Any) -> Any:
        if self.step == at:
            raise KeyboardInterrupt
        return take_step(self, batch)

    monkeypatch.setattr(Optimisation, "_take_step", interrupted)
    at = 0
    assert main(words) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    at = 9
    assert main(words) == 130
    assert "--resume" in capsys.readouterr().err
    at = -1
    assert main([*words, "--resume"]) == 0
    assert_same(rp.RPMEstimator.load(tmp_path / "run"), rp.RPMEstimator.load(folder / "whole"))
