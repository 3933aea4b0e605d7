"""What experiments share: cells that are kept, folders that are refused, processes, averages over seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recparam.cli import main
from recparam.evaluation import interval_text
from recparam.experiments.folder import OutputFolderError
from recparam.experiments.grid import Experiment, run_grid
from recparam.experiments.outcome import seeds_from
from recparam.experiments.ranks import rank_correlation
from recparam.training import TrainingDiverged

IDENTITY = {"experiment": "toy", "offset": 10}


def measure(arm: str, seed: int, *, log: Path, offset: int = 10) -> dict[str, Any]:
    """Numbers that tell which cell they are of; the file `log` has one line per call."""
    with log.open("a") as file:
        file.write(f"{arm} {seed}\n")
    if (log.parent / "killed").exists() and (arm, seed) == ("a", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if (log.parent / "unexpected").exists():
        raise KeyError(arm)
    if (log.parent / "broken").exists() and arm == "b/two":
        raise TrainingDiverged("the bound", label=arm, step=1, epoch=1, lr=1.0)
    return {"score": offset + seed, "note": arm, "nothing": None}


def run(tmp_path: Path, **options: Any) -> Any:
    kept = {"identity": IDENTITY} | {name: options.pop(name) for name in ("identity", "conclude") if name in options}
    experiment = Experiment(partial(measure, log=tmp_path / "log"), arms=("a", "b/two"), **kept)
    return run_grid(experiment, out=tmp_path / "out", say=lambda _: None, **({"seeds": (0, 1), "jobs": 0} | options))


def test_cells_are_measured_once_and_averaged_over_seeds(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert not first.failed and first.results["arms"] == ["a", "b/two"]
    assert first.results["summary"]["b/two"]["score"]["mean"] == 10.5
    assert first.results["summary"]["a"]["score"]["low"] < 10.5
    (tmp_path / "out/runs/a/seed1.json").unlink()  # as if the command had been interrupted
    again = run(tmp_path, seeds=(0, 1, 2))
    assert (tmp_path / "log").read_text().splitlines() == ["a 0", "b/two 0", "a 1", "b/two 1", "a 1", "a 2", "b/two 2"]
    assert json.loads((tmp_path / "out/results.json").read_text())["runs"] == again.results["runs"]
    assert [(each["arm"], each["seed"]) for each in again.results["runs"]] == [
        (arm, seed) for arm in ("a", "b/two") for seed in (0, 1, 2)
    ]


def test_a_cell_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    outcome = run(tmp_path)
    assert [str(cell) for cell in outcome.failed] == ["b/two seed 0", "b/two seed 1"]
    assert outcome.results["arms"] == ["a"] and len(outcome.results["failed"]) == 2
    (tmp_path / "broken").unlink()
    assert not run(tmp_path).failed


def test_other_settings_and_other_experiments_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    for identity in ({**IDENTITY, "offset": 11}, {**IDENTITY, "experiment": "another"}):
        with pytest.raises(OutputFolderError, match="Choose another --out"):
            run(tmp_path, identity=identity)


def test_what_is_concluded_of_all_cells_is_in_the_results(tmp_path: Path) -> None:
    outcome = run(tmp_path, conclude=lambda results: {"cells": len(results["runs"])})
    assert outcome.results["cells"] == json.loads((tmp_path / "out/results.json").read_text())["cells"] == 4


def test_rank_correlation_over_the_arms_that_have_both_numbers() -> None:
    sign = {0: 1, 1: -1}
    cells = [(seed, k, arm) for seed in sign for k, arm in enumerate("abcd")]
    runs: list[dict[str, Any]] = [{"arm": arm, "seed": seed, "x": k, "y": sign[seed] * k**3} for seed, k, arm in cells]
    runs += [{"arm": "e", "seed": 0, "x": -9.0}]
    assert rank_correlation(runs[:4] + runs[-1:], "x", "y") == {"mean": 1.0, "lowest": 1.0, "highest": 1.0}
    assert rank_correlation(runs[4:], "x", "y") == {"mean": -1.0, "lowest": -1.0, "highest": -1.0}
    assert rank_correlation(runs, "x", "y") == {"mean": 0.0, "lowest": -1.0, "highest": 1.0}
    assert rank_correlation(runs[:2], "x", "y") is None  # two arms have no ranks to speak of


def test_processes_measure_the_same_and_one_that_is_killed_takes_no_others_with_it(tmp_path: Path) -> None:
    (tmp_path / "killed").touch()
    outcome = run(tmp_path, seeds=range(3), jobs=2)
    assert 1 <= len(outcome.failed) <= 2 and all("Repeat the command" in text for text in outcome.failed.values())
    assert len(outcome.results["runs"]) >= 4
    other = tmp_path / "other"
    other.mkdir()
    alone = {(each["arm"], each["seed"]): each for each in run(other, seeds=range(3)).results["runs"]}
    for each in outcome.results["runs"]:
        assert {**each, "cpu_seconds": 0} == {**alone[each["arm"], each["seed"]], "cpu_seconds": 0}
    (tmp_path / "killed").unlink()
    assert len(run(tmp_path, seeds=range(3)).results["runs"]) == 6


def test_an_unexpected_error_names_its_cell(tmp_path: Path) -> None:
    (tmp_path / "unexpected").touch()
    with pytest.raises(RuntimeError, match="a seed 0 stopped on an unexpected error"):
        run(tmp_path)


SLOW = """
import sys, time
from pathlib import Path
from recparam.experiments.grid import Experiment, run_grid

def measure(arm, seed):
    while True:
        with Path(sys.argv[1], f"beat-{arm}").open("a") as file:
            file.write(".")
        time.sleep(0.05)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_grid(Experiment(measure, {"experiment": "slow"}, "ab"), seeds=(0,), out=folder / "out", jobs=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_the_command(tmp_path: Path, how: str) -> None:
    def beats() -> list[int]:
        return [path.stat().st_size for path in sorted(tmp_path.glob("beat-*"))]

    (tmp_path / "slow.py").write_text(SLOW)
    command = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while len(beats()) < 2:
            assert command.poll() is None
            time.sleep(0.1)
        if how == "Ctrl-C":
            os.killpg(command.pid, signal.SIGINT)  # as a terminal does
        else:
            os.kill(command.pid, getattr(signal, how))
        command.wait(20)
        time.sleep(2)
        last = beats()
        time.sleep(0.5)
        assert beats() == last
        assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["settings.json"]
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)


def test_seeds_and_texts() -> None:
    assert seeds_from(3, 2) == (3, 4)
    with pytest.raises(ValueError, match="seeds must be at least 1; got 0"):
        seeds_from(0, 0)
    assert interval_text(1.0, None, None) == "1.000"
    assert interval_text(1.0, 0.5, 1.5, 1) == "1.0 (0.5 to 1.5)"


def test_the_group_has_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["experiments", "--help"])
    assert stopped.value.code == 0
    assert "balls" in capsys.readouterr().out
    assert main(["experiments", "balls", "--seeds", "0"]) == 2
