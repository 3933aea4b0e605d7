"""The package as a whole: what importing it does, what it offers, who may import whom."""

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError

import recparam as rp

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str) -> Any:
    """Run code in a fresh interpreter and return the JSON that it prints on its last line."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "src")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_light() -> None:
    loaded = run_python("import sys, json, recparam; dir(recparam); print(json.dumps(sorted(sys.modules)))")
    heavy = {"torch", "lightning", "matplotlib", "numpy", "scipy", "sklearn", "rich", "tyro", "safetensors", "jinja2"}
    assert not heavy & set(loaded)
    assert [name for name in loaded if name.startswith("recparam.")] == []


SNAPSHOT = """
import importlib.util, json, logging, os, pkgutil, signal, sys, warnings
import lightning.pytorch, matplotlib, matplotlib.pyplot, numpy, rich, scipy, sklearn, torch, tyro

def snapshot():
    return {
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "validate": torch.distributions.Distribution._validate_args,
        "torch generator": torch.get_rng_state().sum().item(),
        "numpy generator": numpy.random.get_state()[1].tolist(),
        "numpy errors": numpy.geterr(),
        "backend": matplotlib.get_backend(),
        "rc": str(matplotlib.rcParams),
        "environment": dict(os.environ),
        "warnings": [str(entry) for entry in warnings.filters],
        "root logger": [logging.root.level, str(logging.root.handlers)],
        "lightning logger": logging.getLogger("lightning.pytorch").level,
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
    }

before = snapshot()
import recparam
names = [module.name for module in pkgutil.walk_packages(recparam.__path__, "recparam.")]
optional = {"recparam.ops.triton_kernels": "triton"}  # the home of an optional dependency needs it
for name in names:
    if not name.endswith("__main__") and importlib.util.find_spec(optional.get(name, name)):
        importlib.import_module(name)
after = snapshot()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""


def test_import_of_every_module_changes_no_global_state() -> None:
    assert run_python(SNAPSHOT) == []


@pytest.mark.parametrize("name", rp.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(rp, name) is not None
    assert name in dir(rp)


def test_dir_lists_the_public_names_alone() -> None:
    code = "import json, recparam, recparam.model, recparam.ops; print(json.dumps([dir(recparam), recparam.__all__]))"
    listed, public = run_python(code)
    assert set(listed) == set(public) and "RPMModule" in listed
    assert not {"model", "bounds", "lazy_loader", "version"} & set(listed)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="recparam attribute RPN"):
        _ = rp.RPN


def test_version_is_the_installed_one() -> None:
    assert rp.__version__ == version("recparam")


def test_types_are_shipped() -> None:
    assert files("recparam").joinpath("py.typed").is_file()


def test_a_wheel_builds_with_all_that_is_needed_and_no_more(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", "built", "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "built").glob("recparam-*-py3-none-any.whl")
    with ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    sources = (ROOT / "src").rglob("*")
    endings = (".py", ".pyi", ".c", ".h", ".typed", ".html", ".css")
    wanted = {p.relative_to(ROOT / "src").as_posix() for p in sources if p.suffix in endings}
    assert packed == wanted
    assert {"recparam/py.typed", "recparam/ops/native.c", "recparam/networks/fused/rows.h"} <= packed


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert paper["title"] == "InfoNCE is variational inference in a recognition parameterised model"
    assert [author["family-names"] for author in paper["authors"]] == ["Aitchison", "Ganev"]


def test_floors_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_shape_checks_are_on_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        rp.ops.pairwise_logsumexp(rp.ops.DotProduct(), torch.zeros(3), torch.zeros(4, 2))
