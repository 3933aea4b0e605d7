"""JSON and safetensors files, each replaced as a whole: saved models and checkpoints alike.

A *state* is one safetensors file: named tensors, and everything else as JSON in its header. One file can be
replaced atomically, so a reader meets the old state or the new one and never a mixture, and nothing in it
can execute code when it is read.
"""

import contextlib
import json
import math
import os
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

FORMAT = "recparam-state"
FORMAT_VERSION = 1
_TAG = "$type"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class StorageError(ValueError):
    """A file cannot be read as a state: truncated, damaged, foreign, or written by a newer version."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hand out a temporary file beside `path` and put it in its place, whole, when the block succeeds.

    The content is flushed to the disk before the rename. After a failure, a full disk or a kill `path` is
    what it was before the block. The file has the permissions of the one it replaces, or those of the user's umask,
    whoever wrote it.

    Args:
        path: the file to create or replace; missing folders above it are created.

    Returns:
        A context manager that gives the path to write to.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path is a folder, expected a file to write: {path}. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = (path if path.exists() else temporary).stat().st_mode
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(mode))  # some writers make a private file of their own
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hand out a temporary folder beside `path` and put it in its place, whole, when the block succeeds.

    What was at `path` is removed only then; after a failure it is there as before.

    Args:
        path: the folder to create or replace; missing folders above it are created.

    Returns:
        A context manager that gives the folder to write into.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    temporary, former = (path.with_name(f".{path.name}.{mark}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(temporary, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove temporary files that a killed process left in `folder`; only for a folder nobody is writing to.

    Args:
        folder: the folder to clean; it need not exist.
    """
    for leftover in Path(folder).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def json_text(obj: object) -> str:
    """Return strict JSON, for people and other programs to read.

    NumPy scalars and arrays become numbers and lists, tuples become lists, paths become text. A float that is
    not finite becomes the text "nan", "inf" or "-inf", which `float` reads back: JSON has no such numbers.

    Args:
        obj: nested mappings with text keys, sequences, text, numbers, booleans and None.

    Returns:
        The text, indented, without a newline at its end.

    Raises:
        ValueError: a value that has no JSON form; the text says where it is.
    """
    return json.dumps(_plain(obj, "obj"), indent=2, allow_nan=False, ensure_ascii=False)


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write `json_text` atomically.

    Args:
        path: the file to create or replace.
        obj: see `json_text`.

    Raises:
        ValueError: a value that has no JSON form; the text says where it is.
        OSError: the file cannot be written.
    """
    text = json_text(obj)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_format(path: Path, content: Any, *, name: str, version: int, what: str) -> None:
    """Refuse a file of something else, or of a newer version.

    Args:
        path: the file, for messages.
        content: what was read from it.
        name: its "format" should be.
        version: the newest "format_version" that is understood.
        what: the file should be, for messages.

    Raises:
        StorageError: it is not that.
    """
    if not isinstance(content, dict) or content.get("format") != name:
        raise StorageError(f"{path}: not {what}. Check the path.")
    got = content.get("format_version")
    if not isinstance(got, int) or got > version:
        raise StorageError(f"{path}: expected format version {version} or older, got {got!r}. Update recparam.")


def save_state(
    path: str | os.PathLike[str], *, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write tensors and metadata as one safetensors file, atomically and durably.

    Args:
        path: the file to create or replace.
        tensors: named dense tensors of any shape and device; each is stored on its own, shared memory or not.
        meta: what else to keep: nested dicts, lists and tuples of text, numbers (infinite and NaN too),
            booleans, None and NumPy scalars. They come back as they were.

    Raises:
        ValueError: a value that cannot be stored; the text says where it is.
        OSError: the file cannot be written; the former file is still there.
    """
    found, skeleton = flatten(meta)
    if found:
        raise ValueError(
            f"meta: expected no tensors or arrays, got one at {sorted(found)[0]!r}. "
            "Pass it in `tensors`, or store the whole tree with `save_tree`."
        )
    _write(path, dict(tensors), skeleton)


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file written by `save_state`.

    Args:
        path: the file to read.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file is truncated, damaged, not a state, or of a newer format.
    """
    tensors, skeleton = _read(path)
    return tensors, unflatten({}, skeleton)


def save_tree(path: str | os.PathLike[str], tree: object) -> None:
    """Write a nested structure with tensors at its leaves, a checkpoint for example, as one state file.

    Args:
        path: the file to create or replace.
        tree: see `flatten`.

    Raises:
        ValueError: a value that cannot be stored; the text says where it is.
        OSError: the file cannot be written; the former file is still there.
    """
    _write(path, *flatten(tree))


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read a file written by `save_tree`.

    Args:
        path: the file to read.

    Returns:
        The structure, its tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file is truncated, damaged, not a state, or of a newer format.
    """
    tensors, skeleton = _read(path)
    try:
        return unflatten(tensors, skeleton)
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"{path}: its parts do not fit together ({error}). Restore it from a copy."
        ) from error


def flatten(tree: object) -> tuple[dict[str, Tensor], Any]:
    """Split a nested structure into its tensors and a JSON skeleton that says where they belong.

    Args:
        tree: dicts (keys: text, numbers, booleans, None), lists and tuples of tensors, NumPy arrays and
            scalars, text, integers, floats (infinite and NaN too), booleans and None. Subclasses of dict come
            back as dict.

    Returns:
        The tensors by unique name, and the skeleton, which strict JSON can hold.

    Raises:
        ValueError: a value of another type, an enumeration's member for example; the text says where it is.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(tree, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """Rebuild the structure that `flatten` split.

    Args:
        tensors: the tensors by name.
        skeleton: the JSON skeleton.

    Returns:
        The structure.

    Raises:
        KeyError: a tensor that the skeleton names is missing.
    """
    if isinstance(skeleton, list):
        return [unflatten(tensors, item) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _TAG not in skeleton:
        return {key: unflatten(tensors, value) for key, value in skeleton.items()}
    kind, value = skeleton[_TAG], skeleton["value"]
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        return tensors[value].numpy()
    if kind == "float":
        return _NON_FINITE[value]
    if kind == "numpy":
        return np.dtype(skeleton["dtype"]).type(unflatten(tensors, value))
    if kind == "tuple":
        return tuple(unflatten(tensors, item) for item in value)
    if kind == "dict":
        return {unflatten(tensors, key): unflatten(tensors, item) for key, item in value}
    raise StorageError(f"unknown kind of value {kind!r} in a state. Read it with the version that wrote it.")


def _encode(value: object, where: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Enum):
        raise _unsupported(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
            raise _unsupported(value, where)
        name = where or "value"
        while name in tensors:  # the keys 1 and "1", or "a/b" and a nested b, give the same path
            name += "'"
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        return {_TAG: kind, "value": name}
    if isinstance(value, np.generic):  # before float: numpy.float64 is one
        if value.dtype.kind not in "biufU":
            raise _unsupported(value, where)
        dtype = "str" if value.dtype.kind == "U" else value.dtype.name
        return {_TAG: "numpy", "dtype": dtype, "value": _encode(value.item(), where, tensors)}
    if type(value) in (int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": str(value)}
    if type(value) is list:
        return [_encode(item, _below(where, i), tensors) for i, item in enumerate(value)]
    if type(value) is tuple:
        return {
            _TAG: "tuple",
            "value": [_encode(item, _below(where, i), tensors) for i, item in enumerate(value)],
        }
    if isinstance(value, Mapping):
        items = [(key, _encode(item, _below(where, key), tensors)) for key, item in value.items()]
        if all(type(key) is str and key != _TAG for key, _ in items):
            return dict(items)
        for key, _ in items:
            if not (key is None or type(key) in (bool, int, float, str)):
                raise _unsupported(key, _below(where, key))
        return {_TAG: "dict", "value": [[_encode(key, where, tensors), item] for key, item in items]}
    raise _unsupported(value, where)


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where}: expected text as keys, got {key!r}. Write str({key!r}) instead.")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise ValueError(
        f"{where}: a value of type {type(value).__name__} has no JSON form. Convert it to numbers or text."
    )


def _below(where: str, key: object) -> str:
    return f"{where}/{key}" if where else str(key)


def _unsupported(value: object, where: str) -> ValueError:
    return ValueError(
        f"{where or 'value'}: expected tensors, NumPy numbers, text, numbers, booleans, None, or dicts, "
        f"lists and tuples of them, got {type(value).__name__}. "
        "Convert it first (an enumeration's member to its value)."
    )


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), crc)
        if tensors[name].numel():
            crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _write(path: str | os.PathLike[str], tensors: dict[str, Tensor], skeleton: Any) -> None:
    stored: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(
                f"tensors[{name!r}]: expected a dense tensor, got {type(tensor).__name__}"
                f"{f' of layout {tensor.layout}' if isinstance(tensor, Tensor) else ''}. Convert it first."
            )
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        # safetensors refuses tensors that share memory, and tied weights do.
        if plain.untyped_storage().data_ptr() in memory:
            plain = plain.clone()
        memory.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    text = json.dumps(skeleton, allow_nan=False)
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "meta": text,
        "checksum": _checksum(stored, text),
    }
    with replacing(path) as temporary:
        try:
            save_file(stored, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(
                f"{path}: cannot be written ({error}). Check the free space and the permissions."
            ) from error


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file. Check the path, or whether the run has saved anything yet."
        )
    # Read whole rather than mapped: a file that shrinks under a mapping kills the process.
    data = path.read_bytes()
    damaged = f"{path}: truncated, damaged or not a recparam state"
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise StorageError(f"{damaged} ({len(data)} bytes). Restore it from a copy or write it again.")
    try:
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (ValueError, AttributeError) as error:
        raise StorageError(
            f"{damaged} (unreadable header). Restore it from a copy or write it again."
        ) from error
    if header.get("format") != FORMAT:
        raise StorageError(
            f"{path}: expected the format {FORMAT!r}, got {header.get('format')!r}. "
            "Only files that recparam saved can be read here."
        )
    try:
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise StorageError(
                f"{path}: expected format version {FORMAT_VERSION} or older, got {version}. Update recparam."
            )
        tensors = load(data)
        skeleton = json.loads(header["meta"])
        whole = header["checksum"] == _checksum(tensors, header["meta"])
    except StorageError:
        raise
    except (SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{damaged} ({error}). Restore it from a copy or write it again.") from error
    if not whole:
        raise StorageError(f"{damaged} (wrong checksum). Restore it from a copy or write it again.")
    return tensors, skeleton


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Some systems cannot open a folder: there the rename has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
