"""The command line: exit codes and messages."""

import subprocess
import sys
from pathlib import Path

import pytest

from recparam.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "seeds must be at least 1; got 0"),
        (["--seed", "-1"], "seed must not be negative; got -1"),
        (["--epochs", "0"], "epochs must be at least 1; got 0"),
        (["--size", "-64"], "size must be at least 1; got -64"),
        (["--diameter", "0"], "diameter must be at least 1; got 0"),
        (["--batch-size", "1"], "no negative"),
        (["--frames", "20"], "frames must be at least 31"),
        (["--arms", "gausian"], "Did you mean 'gaussian'?"),
        (["--arms"], "arms must name at least one"),
        (["--videos", "blakc"], "Did you mean 'black'?"),
        (["--size", "16", "--diameter", "20"], "diameter"),
        (["--jobs", "-1"], "jobs must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["balls", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("recparam: ") and "Traceback" not in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("words", [["bals"], ["balls", "--seed", "x"], ["balls", "--preset", "large"], []])
def test_words_that_do_not_parse_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    capsys.readouterr()


def test_an_output_folder_that_is_a_file_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    assert main(["balls", "--out", str(out)]) == 2
    assert "is a file" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_ctrl_c_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import recparam.experiments.balls.run as run

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_experiment", interrupted)
    assert main(["balls"]) == 130
    assert "same command to resume" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import recparam

    assert main(["version"]) == 0
    assert capsys.readouterr().out.strip() == recparam.__version__


def test_help_and_typing_errors_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from recparam.cli import main\n"
        "assert main(['balls', '--arms', 'x']) == 2\n"
        "try: main(['fit', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(sorted({'torch', 'lightning', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
