"""States and checkpoints come back as they were, are replaced whole, run no code and fail with words that help."""

import enum
import json
import math
import os
import random
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from recparam.utils import storage


class Colour(enum.IntEnum):
    RED = 1


def example_tree() -> dict[Any, Any]:
    return {
        "state": {
            0: {"momentum_buffer": torch.randn(3, 2), "step": torch.tensor(7.0)},
            1: {"empty": torch.empty(0, 4)},
        },
        "1": torch.arange(3),
        1: torch.tensor([True, False]),
        "a/b": torch.ones(2, dtype=torch.bfloat16),
        "a": {"b": torch.zeros(2, dtype=torch.float64)},
        "rng": torch.get_rng_state(),
        "python": random.Random(0).getstate(),
        "limits": (math.inf, -math.inf, 1e-300, -0.0, 0.1, 1.0),
        "others": [None, True, 1, "text ü", [], {}, (), {"$type": "tuple", "value": 1}],
    }


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return math.copysign(1, a) == math.copysign(1, b) and a == b
    return bool(a == b)


def test_a_checkpoint_round_trips(tmp_path: Path) -> None:
    tree = example_tree()
    path = tmp_path / "deep" / "last.ckpt"
    storage.save_checkpoint(path, tree)
    assert same(storage.load_checkpoint(path), tree)
    assert same(torch.load(path, weights_only=True), tree)  # torch reads it without recparam


def test_numbers_of_numpy_and_parameters_become_plain(tmp_path: Path) -> None:
    scalars = [np.float32(0.1), np.int64(2**62), np.bool_(True), np.float64(math.inf), np.str_("a")]
    storage.save_checkpoint(tmp_path / "s", {"scalars": scalars, "p": torch.nn.Parameter(torch.ones(2))})
    found = storage.load_checkpoint(tmp_path / "s")
    assert same(found["scalars"], [scalar.item() for scalar in scalars])
    assert type(found["p"]) is torch.Tensor and not found["p"].requires_grad


def test_nan_round_trips(tmp_path: Path) -> None:
    storage.save_checkpoint(tmp_path / "c", {"loss": math.nan, "n": np.float32("nan")})
    assert all(map(math.isnan, storage.load_checkpoint(tmp_path / "c").values()))
    storage.save_state(tmp_path / "s", tensors={"x": torch.tensor([math.nan])}, meta={"loss": math.nan})
    tensors, meta = storage.load_state(tmp_path / "s")
    assert math.isnan(float(meta["loss"]))
    assert torch.isnan(tensors["x"]).all()


def test_an_optimiser_continues_from_its_stored_state(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.Adam(net.parameters(), lr=0.1, amsgrad=True)

    def step(net: torch.nn.Linear, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        optimiser.step()

    net, optimiser = build()
    step(net, optimiser)
    storage.save_checkpoint(tmp_path / "s", {"net": net.state_dict(), "optimiser": optimiser.state_dict()})
    step(net, optimiser)
    again, its_optimiser = build()
    state = storage.load_checkpoint(tmp_path / "s")
    again.load_state_dict(state["net"])
    its_optimiser.load_state_dict(state["optimiser"])
    step(again, its_optimiser)
    assert torch.equal(net.weight, again.weight)


def test_a_state_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    tensors = {
        "tied": weight,
        "weight": weight,
        "transposed": weight.T,
        "row": weight[1],
        "p": torch.nn.Parameter(weight),
    }
    storage.save_state(tmp_path / "s", tensors=tensors, meta={"epoch": 3})
    with safe_open(tmp_path / "s", framework="pt") as file:
        assert set(file.keys()) == set(tensors)
        assert torch.equal(file.get_tensor("transposed"), weight.T)
        assert json.loads(file.metadata()["meta"]) == {"epoch": 3}
    loaded, _ = storage.load_state(tmp_path / "s")
    loaded["row"].zero_()
    assert torch.equal(loaded["weight"], weight)


def test_a_failed_write_leaves_the_former_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    storage.save_state(path, tensors={"x": torch.zeros(2)}, meta={"epoch": 1})

    def full_disk(tensors: object, filename: Path, metadata: object) -> None:
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            storage.save_state(path, tensors={"x": torch.ones(2)}, meta={"epoch": 2})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            storage.save_state(path, tensors={"x": torch.ones(2)}, meta={"epoch": 2})
    assert storage.load_state(path)[1] == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".s.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "s").write_bytes(b"whole")
    storage.remove_leftovers(tmp_path)
    storage.remove_leftovers(tmp_path / "missing")
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_every_truncation_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    storage.save_state(path, tensors={"x": torch.randn(5)}, meta={"epoch": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(storage.StorageError, match="truncated"):
            storage.load_state(path)
    for position in range(len(whole) - 20, len(whole)):  # the numbers themselves
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(storage.StorageError, match="checksum"):
            storage.load_state(path)


def test_a_checkpoint_that_is_truncated_or_damaged_is_noticed(tmp_path: Path) -> None:
    path, tree = tmp_path / "c", {"x": torch.randn(300), "epochs": [1, 2.5, "three", None]}
    storage.save_checkpoint(path, tree)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(storage.StorageError, match="truncated"):
            storage.load_checkpoint(path)
    harmless = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            found = storage.load_checkpoint(path)
        except storage.StorageError as error:
            assert "damaged" in str(error) and str(error).endswith("Restore it from a copy or write it again.")
        else:  # a byte of the container that says nothing: padding, dates
            assert same(found, tree)
            harmless += 1
    assert harmless < len(whole) / 2
    start = whole.index(tree["x"].numpy().tobytes())
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 1]) + whole[start + 1 :])  # which torch.load alone accepts
    assert not torch.equal(torch.load(path, weights_only=True)["x"], tree["x"])
    with pytest.raises(storage.StorageError, match="checksum"):
        storage.load_checkpoint(path)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_checkpoint_of_something_else_is_refused_and_no_code_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        storage.load_checkpoint("missing")
    torch.save({"x": Code()}, "code")
    torch.save({"x": Code()}, "old", _use_new_zipfile_serialization=False)
    np.savez("arrays.npz", x=np.zeros(2))
    storage.save_state("state", tensors={}, meta={})
    Path("text").write_text("text")
    for name in ("code", "old", "arrays.npz", "state", "text"):
        with pytest.raises(storage.StorageError, match="not a checkpoint"):
            storage.load_checkpoint(name)
    assert not Path("ran").exists()


def test_a_checkpoint_that_fails_to_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    storage.save_checkpoint(path, {"epoch": 1})

    def full_disk(filename: Path, data: Any) -> None:
        with filename.open("wb") as file:
            file.write(bytes(data)[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space"):
            storage.save_checkpoint(path, {"epoch": 2})
    assert storage.load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_reading_the_wrong_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        storage.load_state(tmp_path / "missing")
    torch.save({"x": torch.zeros(1)}, tmp_path / "pickled")
    with pytest.raises(storage.StorageError, match="not a recparam state"):
        storage.load_state(tmp_path / "pickled")
    storage.save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(storage.StorageError, match="expected the format"):
        storage.load_state(tmp_path / "foreign")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FORMAT_VERSION", 2)
        storage.save_state(tmp_path / "newer", tensors={}, meta={})
    with pytest.raises(storage.StorageError, match="got 2. Update recparam"):
        storage.load_state(tmp_path / "newer")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [1, Colour.RED]}, "a/1: .*got Colour"),
        ({"f": print}, "f: .*got builtin_function"),
        ({Colour.RED: 1}, "got Colour"),
        ({"n": np.zeros(2)}, "n: .*got ndarray"),
        ({"d": np.datetime64(0, "s")}, "d: .*got datetime"),
        ({"s": {1, 2}}, "s: .*got set"),
    ],
)
def test_what_cannot_be_stored_is_named(tree: dict[Any, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        storage.save_checkpoint(tmp_path / "s", tree)
    assert not list(tmp_path.iterdir())


def test_meta_takes_no_tensors_tensors_are_dense_and_folders_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a dense tensor"):
        storage.save_state(tmp_path / "s", tensors={"s": torch.eye(2).to_sparse()}, meta={})
    with pytest.raises(ValueError, match=r"meta\['x'\]: .*Tensor"):
        storage.save_state(tmp_path / "s", tensors={}, meta={"x": torch.zeros(1)})
    with pytest.raises(IsADirectoryError, match="is a folder"):
        storage.save_state(tmp_path, tensors={}, meta={})


def test_ordered_dicts_come_back_as_dicts(tmp_path: Path) -> None:
    storage.save_checkpoint(tmp_path / "s", OrderedDict(a=torch.ones(1)))
    assert type(storage.load_checkpoint(tmp_path / "s")) is dict


def test_write_json_is_strict_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    storage.write_json(path, {"old": 1})
    storage.write_json(
        path, {"error": np.float32(0.5), "list": (1, np.arange(2)), "bad": math.nan, "where": Path("a")}
    )
    result = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result == {"error": 0.5, "list": [1, [0, 1]], "bad": "nan", "where": "a"}
    with pytest.raises(ValueError, match=r"obj\['a'\]\[1\]: .*Tensor"):
        storage.write_json(path, {"a": [0, torch.zeros(1)]})
    with pytest.raises(ValueError, match="text as keys"):
        storage.write_json(path, {1: 2})
    assert json.loads(path.read_text()) == result


@pytest.mark.parametrize(("umask", "wanted"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_of_the_umask_or_of_the_one_it_replaces(
    tmp_path: Path, umask: int, wanted: int
) -> None:
    before = os.umask(umask)
    try:
        storage.save_state(tmp_path / "new", tensors={"a": torch.zeros(2)}, meta={})
        (tmp_path / "old").write_bytes(b"")
        (tmp_path / "old").chmod(0o640)
        storage.save_state(tmp_path / "old", tensors={"a": torch.zeros(2)}, meta={})
        for _ in range(2):
            with storage.replacing_folder(tmp_path / "folder") as folder:
                storage.write_json(folder / "file.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == wanted
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "folder" / "file.json").stat().st_mode) == wanted
    (tmp_path / "folder").chmod(0o750)
    with storage.replacing_folder(tmp_path / "folder"):
        pass
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
