"""HDF5 files: their data sets, through links of every kind, and the data frames that pandas writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data import stored
from recparam.data.recording import Recording
from recparam.data.stored import Stored, chosen, in_blocks, spooled
from recparam.utils.extras import optional

_FILLS = ("_FillValue", "missing_value")
_SCALE = (("scale_factor", 1.0), ("add_offset", 0.0))


def read_hdf5(path: Path, key: str | None) -> Recording:
    """The rows of a data set, or of a frame that pandas wrote.

    Raises:
        ValueError: Several data sets that might be meant, or one without rows of numbers.
        OSError: The file cannot be read.
    """
    key = None if key is None else key.strip("/") or None
    with opened(path) as file:
        found = list(_stored(file))
        if key is not None and (target := at_path(file, key)) is not None:  # links lead to what has another name, too
            found = list(_one(key, target)) or list(_stored(target, f"{key}/"))
            key = None if len(found) != 1 else found[0].name
        return chosen(found, key).recording()


def opened(path: Path) -> Any:
    """The file, to be closed.

    Raises:
        ValueError: Another format with the same ending.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(3)
    if start == b"CDF":
        raise ValueError("Expected HDF5, as netCDF 4; got netCDF 3. Convert it: nccopy -k nc4 OLD NEW.")
    return optional("h5py", "hdf5").File(path, "r")


def members(group: Any, prefix: str = "", seen: set[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """All that is in a group, through links, by name: each object once, or what a link to nothing leads to, as text."""
    h5py = optional("h5py", "hdf5")

    seen = {_place(group)} if seen is None else seen
    links = {name: group.get(name, getlink=True) for name in group}
    for name, link in sorted(links.items(), key=lambda item: not isinstance(item[1], h5py.HardLink)):  # stable
        item = at_path(group, name)
        if item is None:
            where = f"{getattr(link, 'filename', '')}:{getattr(link, 'path', '?')}".lstrip(":")
            yield prefix + name, f"a link to {where}, where there is nothing"
        elif (place := _place(item)) not in seen:
            seen.add(place)
            yield prefix + name, item
            if isinstance(item, h5py.Group) and not name.startswith("#"):
                yield from members(item, f"{prefix}{name}/", seen)


def at_path(group: Any, path: str) -> Any:
    """What is at a path, through links; None: nothing."""
    try:
        return group[path.strip("/")]
    except (KeyError, OSError, ValueError, RuntimeError):
        return None


def is_data(item: Any) -> bool:
    """Whether something is a data set, and neither a group nor a type."""
    return isinstance(item, optional("h5py", "hdf5").Dataset)


def _place(item: Any) -> tuple[Any, ...]:
    h5py = optional("h5py", "hdf5")

    info = h5py.h5o.get_info(item.id)
    return (info.fileno, info.addr) if hasattr(info, "addr") else (info.fileno, str(info.token))


def _stored(group: Any, prefix: str = "") -> Iterator[Stored]:
    """The data sets and frames of a group."""
    frames: list[str] = []
    for name, item in members(group, prefix):
        if any(name.startswith(frame) for frame in frames):
            continue
        found = list(_one(name, item))
        if found and not is_data(item) and not isinstance(item, str):
            frames.append(f"{name}/")
        yield from found


def _one(name: str, item: Any) -> Iterator[Stored]:
    """A data set, a frame, or a link to nothing, as something to choose; nothing of other groups."""
    if isinstance(item, str):
        yield wrong(name, item)
    elif is_data(item):
        yield data_set(name, item)
    elif hasattr(item, "keys"):
        yield from _frame(name, item)


def wrong(name: str, problem: str) -> Stored:
    """Something that holds no rows, and why."""

    def load() -> np.ndarray:
        raise ValueError(f"Expected {name} as an array of numbers; got {problem}.")

    return Stored(name, None, np.dtype("V"), load, problem)


def data_set(name: str, dataset: Any) -> Stored:
    """A data set; scale_factor, add_offset and _FillValue, as netCDF and xarray write them, are applied."""
    if problem := _no_rows(dataset):
        return wrong(name, problem)
    factor, offset = (number_of(dataset, attribute, neutral) for attribute, neutral in _SCALE)
    fills = [number_of(dataset, attribute, np.nan) for attribute in _FILLS]
    fills = [fill for fill in fills if fill == fill]
    notes = []
    if (factor, offset) != (1, 0):
        notes.append(f"{name} is read as its numbers times {factor:g}, plus {offset:g}, as its attributes say.")
    load = partial(scaled, dataset, factor, offset, fills) if notes or fills else partial(load_data_set, dataset)
    return Stored(name, dataset.shape, dataset.dtype, load, notes=tuple(notes))


def _no_rows(dataset: Any) -> str:
    """Why a data set holds no rows of numbers, as far as its type does not say."""
    h5py = optional("h5py", "hdf5")

    try:
        kind = dataset.dtype
    except TypeError:
        return "values of a type that numpy does not know"
    if dataset.shape is None:
        return "empty"
    if h5py.check_string_dtype(kind) is not None:
        return "text"
    if h5py.check_ref_dtype(kind) is not None:
        return "references to other objects"
    if h5py.check_vlen_dtype(kind) is not None:
        return "rows of different lengths. Save one array per row, or pad them."
    properties = dataset.id.get_create_plist()
    for code, _, _, label in map(properties.get_filter, range(properties.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            return f"numbers compressed by {label.decode() or code}, which is not installed. Import hdf5plugin."
    role = text_of(dataset, "CLASS")
    if role in ("PALETTE", "DIMENSION_SCALE"):
        return "a colour map" if role == "PALETTE" else "an axis of other data sets"
    if dataset.is_virtual:
        folder = Path(dataset.file.filename).parent
        for source in dataset.virtual_sources():
            if source.file_name not in (".", "") and not any(
                at.exists() for at in (folder / source.file_name, Path(source.file_name))
            ):
                return f"a virtual data set, of which the file {source.file_name} is missing"
    return ""


def text_of(item: Any, attribute: str) -> str:
    """An attribute as text; "": there is none."""
    with suppress(OSError, TypeError, KeyError, UnicodeDecodeError):
        value = item.attrs[attribute]
        return value.decode() if isinstance(value, bytes) else str(value)
    return ""


def number_of(item: Any, attribute: str, otherwise: float) -> float:
    """An attribute as a number, or another one where there is none."""
    with suppress(OSError, TypeError, KeyError, ValueError):
        return float(np.asarray(item.attrs[attribute]).reshape(-1)[0])
    return otherwise


def load_data_set(dataset: Any) -> np.ndarray:
    """The array; a large one stays on disk: mapped where it is contiguous, else in a temporary file."""
    h5py = optional("h5py", "hdf5")

    if dataset.nbytes <= stored.IN_MEMORY:
        return dataset[...]
    offset = dataset.id.get_offset()
    as_stored = dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
    if offset is None or dataset.external or dataset.is_virtual or not as_stored:
        return spooled(in_blocks(dataset))
    # The file of the data set, which is another one where a link led to it.
    return np.memmap(dataset.file.filename, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


def scaled(dataset: Any, factor: Any, offset: float, fills: Sequence[float] = ()) -> np.ndarray:
    """The array times a factor plus an offset, in floats; NaN where it holds a filling value."""
    wide = np.promote_types(dataset.dtype, np.float32)

    def blocks() -> Iterator[np.ndarray]:
        for block in in_blocks(dataset):
            filled = np.isin(block, fills)
            values = (block * np.asarray(factor, dtype=np.float64) + offset).astype(wide)
            values[filled] = np.nan
            yield values

    if fills and np.all(factor == 1) and offset == 0:
        if not any(np.isin(block, fills).any() for block in in_blocks(dataset)):
            return load_data_set(dataset)
    if dataset.nbytes > stored.IN_MEMORY:
        return spooled(blocks())
    return np.concatenate(list(blocks()))


# pandas


def _frame(name: str, group: Any) -> Iterator[Stored]:
    """What pandas wrote as a group: a series, a table, or a frame in blocks of columns of one type each."""
    if text_of(group, "pandas_type") == "series" and "values" in group:
        yield data_set(name, group["values"])
    elif getattr(at_path(group, "table"), "dtype", np.dtype("f8")).names is not None:
        yield _table(name, group["table"])
    elif "block0_values" in group and "axis0" in group:
        yield from _fixed(name, group)


def _fixed(name: str, group: Any) -> Iterator[Stored]:
    """A frame in pandas' fixed format."""
    numbers = range(sum(f"block{k}_values" in group for k in range(len(group))))
    values = [group[f"block{k}_values"] for k in numbers]
    if any(block.dtype.kind not in "biuf" or "date" in text_of(block, "value_type") for block in values):
        blocks = " or ".join(f"{name}/block{k}_values" for k in numbers if values[k].dtype.kind in "biuf")
        yield wrong(name, f"a data frame with columns that are no numbers. Choose a block, key={blocks}.")
        yield from (replace(data_set(f"{name}/block{k}_values", block), part=True) for k, block in enumerate(values))
        return
    columns = [texts(at_path(group, f"block{k}_items")) for k in numbers]
    width = sum(block.shape[1] for block in values)
    names = [one for block in columns for one in block or ()]
    order = texts(at_path(group, "axis0")) or []
    known = len(names) == width == len(set(names))
    places = [names.index(one) for one in order] if known and sorted(order) == sorted(names) else list(range(width))
    times, notes = _index(name, at_path(group, "axis1"), text_of(at_path(group, "axis1"), "kind"))
    yield Stored(
        name,
        (len(values[0]), width),
        np.result_type(*(block.dtype for block in values)),
        lambda: np.concatenate([block[...] for block in values], axis=1)[:, places],
        times=times,
        names=tuple(names[place] for place in places) if known else None,
        notes=notes,
    )


def _table(name: str, table: Any) -> Stored:
    """A frame in pandas' table format, whose columns have no names that can be read without unpickling."""
    fields = list(table.dtype.names)
    if "index" not in fields or len(fields) == 1:
        return data_set(name, table)
    fields.remove("index")
    if any("date" in text_of(table, f"{field}_dtype") for field in fields):
        return wrong(name, "a data frame with columns that are dates. Save it without them.")
    times, notes = _index(name, table.fields("index"), text_of(table, "index_kind"))
    one = data_set(name, table)
    return replace(one, load=lambda: table.fields(fields)[...], times=times, notes=(*one.notes, *notes))


def _index(name: str, index: Any, kind: str) -> tuple[Any, tuple[str, ...]]:
    """How to read times from the index of a frame, where it has dates, and what to say of another one."""
    if index is None:
        return None, ()
    values = index[...]
    if kind.startswith("datetime64"):
        unit = kind.partition("[")[2].rstrip("]") or "ns"
        return lambda: values.astype(np.int64).astype(f"datetime64[{unit}]"), ()
    if values.dtype.kind in "iu" and np.array_equal(values, np.arange(len(values))):
        return None, ()
    return None, (f"The index of {name} is no column, and left out.",)


def texts(items: Any) -> list[str] | None:
    """What a data set of text holds; None: it holds something else."""
    if items is None or items.dtype.kind not in "SO":
        return None
    with suppress(OSError, TypeError, UnicodeDecodeError):
        return [one.decode() if isinstance(one, bytes) else str(one) for one in items[...].reshape(-1).tolist()]
    return None
