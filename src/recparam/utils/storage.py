"""Files that are replaced as a whole: saved models and checkpoints.

A *state* is one safetensors file: named tensors, and everything else as JSON in its header. A *checkpoint* is one
file of `torch.save` with tensors and plain values in nested dicts, lists and tuples; nothing else is read from it. One
file can be replaced atomically, so a reader meets the old content or the new one and never a mixture, and nothing in
it can execute code when it is read.
"""

import contextlib
import json
import math
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

FORMAT = "recparam-state"
FORMAT_VERSION = 1
_AGAIN = "Restore it from a copy or write it again."


class StorageError(ValueError):
    """A file cannot be read as a state or a checkpoint: truncated, damaged, foreign, or written by a newer version."""


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

    What was at `path` is removed only then; after a failure it is there as before. Its permissions stay.

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
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
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


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs in the settings of a run and its resumption, a phrase each; empty if nothing does."""
    names = sorted(before.keys() | now.keys())
    return [
        f"{n} was {before.get(n)!r} and is now {now.get(n)!r}" for n in names if before.get(n) != now.get(n)
    ]


def save_state(
    path: str | os.PathLike[str], *, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write tensors and metadata as one safetensors file, atomically and durably.

    Args:
        path: the file to create or replace.
        tensors: named dense tensors of any shape and device; each is stored on its own, shared memory or not.
        meta: what else to keep, as JSON: see `json_text`.

    Raises:
        ValueError: a value that cannot be stored; the text says where it is.
        OSError: the file cannot be written; the former file is still there.
    """
    text = json.dumps(_plain(meta, "meta"), allow_nan=False)
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
    data = _content(path)
    damaged = f"{path}: truncated, damaged or not a recparam state"
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise StorageError(f"{damaged} ({len(data)} bytes). {_AGAIN}")
    try:
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (ValueError, AttributeError) as error:
        raise StorageError(f"{damaged} (unreadable header). {_AGAIN}") from error
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
        meta = json.loads(header["meta"])
        whole = header["checksum"] == _checksum(tensors, header["meta"])
    except StorageError:
        raise
    except (SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{damaged} ({error}). {_AGAIN}") from error
    if not whole:
        raise StorageError(f"{damaged} (wrong checksum). {_AGAIN}")
    return tensors, meta


def save_checkpoint(path: str | os.PathLike[str], state: object) -> None:
    """Write what a run resumes from as one file of `torch.save`, atomically and durably.

    Args:
        path: the file to create or replace.
        state: nested dicts, lists and tuples of tensors, text, numbers, booleans and None. NumPy scalars become
            Python's, parameters tensors, and subclasses of dict dicts.

    Raises:
        ValueError: a value of another type, an enumeration's member for example; the text says where it is.
        OSError: the file cannot be written; the former file is still there.
    """
    # Through memory: writing to a file itself, torch hides a full disk behind an error of its own.
    buffer = BytesIO()
    torch.save(_safe(state, ""), buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: str | os.PathLike[str], *, map_location: Any = "cpu") -> Any:
    """Read a file written by `save_checkpoint`, with `torch.load(weights_only=True)`.

    Args:
        path: the file to read.
        map_location: where the tensors go, as in `torch.load`.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the file is truncated, damaged or not a checkpoint.
    """
    data = _content(path)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:  # torch itself does not compare the checksums
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        return torch.load(BytesIO(data), map_location=map_location, weights_only=True)
    except Exception as error:  # what torch raises for content that is not its own has no bounds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(f"{path}: truncated, damaged or not a checkpoint ({reason}). {_AGAIN}") from error


def _safe(value: Any, where: str) -> Any:
    """A nested structure with nothing in it but what `torch.load(weights_only=True)` reads."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, complex, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(_safe(item, _below(where, i)) for i, item in enumerate(value))
    if isinstance(value, Mapping):
        return {_safe(key, _below(where, key)): _safe(item, _below(where, key)) for key, item in value.items()}
    raise ValueError(
        f"{where or 'value'}: expected tensors, text, numbers, booleans, None, or dicts, lists and tuples of them, "
        f"got {type(value).__name__}. Convert it first (an enumeration's member to its value)."
    )


def _below(where: str, key: object) -> str:
    return f"{where}/{key}" if where else str(key)


def _content(path: str | os.PathLike[str]) -> bytes:
    """A whole file, read rather than mapped: one that shrinks under a mapping kills the process."""
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path}: no such file. Check the path, or whether the run has saved anything yet."
        )
    return Path(path).read_bytes()


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


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), crc)
        if tensors[name].numel():
            crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Some systems cannot open a folder: there the rename has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
