"""Formats of other people: the array that is meant, as it was meant, or one sentence that says what is there."""

import io as streams
import zipfile
from pathlib import Path

import numpy as np
import pytest

from recparam.data import stored
from recparam.data.pairs import consecutive
from recparam.data.readers import read, read_spikes

X = np.random.default_rng(0).normal(size=(50, 4))
T = np.arange(50) * 0.02


def same(recording, values=X):
    np.testing.assert_allclose(np.asarray(recording[:], dtype=float), values, rtol=1e-6)
    return recording


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path}: Expected ") and len(text) < 900 and text.endswith(".")


# numpy


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "key"),
    [
        (dict(X=X, y=np.zeros((50, 1)), t=T), None),  # a column is a vector
        (dict(X=X, names=np.array([["a", "b"]]), day=np.datetime64("2024-01-01"), fs=30.0), None),
        (dict(X=X, meta=np.array([[{"a": 1}]], dtype=object)), None),
        (dict(X=X, none=X[:0], electrodes=np.arange(4)), None),
        (dict(A=X + 1, X=X), "X.npy"),
        (dict(A=X + 1, X=X), "/X"),
        ({"day 1/X": X, "day 2/X": X + 1}, "day 1/X"),
        ({"day 1/X": X, "day 2/X": X + 1}, "day 1"),
        ({"Größe": X, "b": X + 1}, "Größe"),
    ],
)
def test_the_array_of_an_archive_that_is_meant(tmp_path, arrays, key):
    same(read(npz(tmp_path / "a.npz", **arrays), key=key))


@pytest.mark.parametrize(
    ("arrays", "key", "message"),
    [
        (dict(A=X, B=X), None, r"got A \(50, 4\), B \(50, 4\)\. Give key="),
        (dict(X=X.T, t=T), None, r"X has as many columns as t has values: .*transposed.* Give key="),
        (dict(colormap=np.zeros((9, 3)), speed=T[:9]), None, r"colormap seems to be no data by its name\. Give key="),
        (dict(windows=np.zeros((9, 2)), lfp=T), None, r"lfp is longer than windows, which may not be the data"),
        (dict(trial=X, names=np.array(["a"])), "names", r"Expected names as an array of numbers; got text\. Choose"),
        (dict(X=X, meta=np.array([{"a": 1}])), "meta", "got Python objects, which may run code"),
        (dict(X=X, z=X + 1j), "z", "got complex numbers"),
        (dict(X=X[:0]), None, r"got empty, \(0, 4\)"),
        (dict(fs=30.0), None, "got a single number"),
        ({}, None, "got nothing"),
        ({f"key {k}": X for k in range(3000)}, None, r"key 7 \(50, 4\) and 2992 more\. Give key=\. Saved in files of"),
        ({f"key {k}": X for k in range(3000)}, "k", r"key= as one of its arrays, .* and 2992 more; got 'k'"),
    ],
)
def test_an_archive_without_the_array_that_is_meant_is_one_sentence(tmp_path, arrays, key, message):
    refused(npz(tmp_path / "a.npz", **arrays), message, key=key)


def test_a_series_of_single_numbers_has_a_column(tmp_path):
    np.save(tmp_path / "a.npy", X[:, 0])
    assert same(read(tmp_path / "a.npy"), X[:, :1]).notes == ("a has one number per row.",)
    same(read(npz(tmp_path / "a.npz", speed=X[:, 0], X=X), key="speed"), X[:, :1])


@pytest.mark.parametrize("in_memory", [10, 1 << 28])
def test_numpy_s_variants_come_back(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(stored, "IN_MEMORY", in_memory)
    np.save(tmp_path / "a.npy", np.asfortranarray(X).astype(">f8"))
    same(read(tmp_path / "a.npy"))
    with pytest.warns(UserWarning, match="format 3.0"):
        np.save(tmp_path / "a.npy", np.rec.fromarrays(X.T, names="a,b,c,λ"))
    assert same(read(tmp_path / "a.npy")).names == ("a", "b", "c", "λ")
    (tmp_path / "a.npy").rename(tmp_path / "b.npz")  # the content says what it is
    same(read(tmp_path / "b.npz"))
    npz(tmp_path / "c.npz", X=X).rename(tmp_path / "c.npy")
    same(read(tmp_path / "c.npy"))
    np.save(tmp_path / "a.npy", np.rec.fromarrays([np.arange(50), *X.T], names="index,a,b,c,d"))
    assert "index" in same(read(tmp_path / "a.npy")).notes[0]
    np.save(tmp_path / "a.npy", np.zeros(50, dtype=[("x", "f4"), ("part", "U5")]))
    refused(tmp_path / "a.npy", "records of numbers; got other values in part")


def test_archives_with_other_things_in_them(tmp_path):
    packed = streams.BytesIO()
    np.save(packed, X)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("readme.txt", "hello")
        archive.writestr("folder/X.npy", packed.getvalue())
    same(read(tmp_path / "a.npz"))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.rfind(mark)
        content[at + flags] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", r"folder/X\.npy \(encrypted\)|readme.*encrypted")
    (tmp_path / "a.npz").write_bytes(b"hello")
    refused(tmp_path / "a.npz", "a whole .npz file; got one that is damaged")


def test_a_sparse_matrix_is_read_as_a_dense_one(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    few = np.where(X > 0, X, 0)
    for matrix in (sparse.csr_matrix(few), sparse.coo_array(few)):
        sparse.save_npz(tmp_path / "a.npz", matrix)
        same(read(tmp_path / "a.npz"), few)


# MATLAB


def cells(*parts):
    cell = np.empty((1, len(parts)), dtype=object)
    for k, part in enumerate(parts):
        cell[0, k] = part
    return cell


def mat(path, **variables):
    pytest.importorskip("scipy.io").savemat(path, variables)
    return path


def mat73(path, **variables):
    """As MATLAB writes version 7.3: transposed, with its class as an attribute, cells as references into #refs#."""
    h5py = pytest.importorskip("h5py")
    number = iter(range(1000))

    def put(group, name, value):
        if isinstance(value, dict):
            inside = group.create_group(name)
            inside.attrs["MATLAB_class"] = np.bytes_("struct")
            for field, part in value.items():
                put(inside, field, part)
            return inside
        if isinstance(value, str):
            codes = np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None]
            made, kind = group.create_dataset(name, data=codes), "char"
        elif hasattr(value, "toarray"):
            made, kind = group.create_group(name), "double"
            made.attrs["MATLAB_sparse"] = np.uint64(value.shape[0])
            made["jc"] = value.indptr.astype(np.uint64)
            if value.nnz:
                made["data"], made["ir"] = value.data, value.indices.astype(np.uint64)
        else:
            value = np.asarray(value)
            value = value.reshape(1, 1) if value.ndim == 0 else value[None] if value.ndim == 1 else value
            if value.dtype == object:
                refs = group.file.require_group("#refs#")
                places = [put(refs, f"r{next(number)}", part).ref for part in value.ravel()]
                made = group.create_dataset(name, data=np.array([places], dtype=h5py.ref_dtype).T)
                kind = "cell"
            elif not value.size:
                made, kind = group.create_dataset(name, data=np.array(value.shape, np.uint64)), "double"
                made.attrs["MATLAB_empty"] = np.uint8(1)
            else:
                kind = "logical" if value.dtype == bool else "double"
                made = group.create_dataset(name, data=(value.astype(np.uint8) if value.dtype == bool else value).T)
        made.attrs["MATLAB_class"] = np.bytes_(kind)
        return made

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            put(file, name, value)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("write", [mat, mat73])
@pytest.mark.parametrize(
    ("variables", "key", "values"),
    [
        (dict(X=X, fs=30.0, t=T[:, None], name="rat", none=np.zeros((0, 4))), None, X),
        (dict(rec={"spikes": X, "fs": 30.0}), None, X),
        (dict(rec={"spikes": X, "pos": X[:, :2]}, A=X + 1), "rec.spikes", X),
        (dict(rec={"spikes": X, "pos": X[:, :2]}, A=X + 1), "rec/spikes", X),
        (dict(rec={"spikes": X, "pos": X[:, :2]}, A=X + 1), "spikes", X),
        (dict(a={"b": {"c": X, "d": "text"}}), "a.b.c", X),
        (dict(v=T[None], A=X), "v", T[:, None]),
        (dict(v=T[:, None], A=X), "v", T[:, None]),
        (dict(v=T[None]), None, T[:, None]),
        (dict(L=X > 0), None, X > 0),
        (dict(M=np.round(X * 100).astype(np.int16)), None, np.round(X * 100)),
        (dict(trials=cells(X[:10], X[10:11], X[11:])), None, X),
        (dict(trials=cells(X[:10], X[10:11], X[11:]), A=X), "trials", X),
        (dict(trials=cells(X[:10], X[10:11], X[11:]), A=X), "trials{3}", X[11:]),
        (dict(trials=cells(X)), None, X),
        (dict(trials=cells({"X": X, "fs": 30.0}, {"X": X + 1, "fs": 30.0})), "trials{1}.X", X),
        (dict(s={"trials": cells(X[:10], X[10:])}), "s.trials", X),
        (dict(trials=cells(X[:10], np.zeros((0, 0)), X[10:])), "trials", X),
        (dict(c=cells(cells(X[:10], X[10:]), cells(X + 1, X))), "c{1}", X),
        (dict(names=cells("a", "bc"), X=X), None, X),
    ],
)
def test_variables_of_matlab_come_back(tmp_path, write, variables, key, values):
    recording = same(read(write(tmp_path / "a.mat", **variables), key=key), values)
    if key in ("trials", "s.trials"):
        assert recording.sessions[-1] > 0 and "sessions" in recording.notes[0]


@pytest.mark.parametrize("write", [mat, mat73])
@pytest.mark.parametrize(
    ("variables", "key", "message"),
    [
        (dict(A=X, B=X), None, r"got A \(50, 4\), B \(50, 4\)\. Give key="),
        (dict(rec={"A": X, "B": X}), None, r"got rec\.A \(50, 4\), rec\.B \(50, 4\)\. Give key="),
        (dict(rec={"A": X, "B": X}), "rec", r"got rec\.A \(50, 4\), rec\.B \(50, 4\)\. Give key="),
        (dict(trials=cells(X[:10], X[10:]), X=X), None, r"(trials \(50, 4\), X|X \(50, 4\), trials).*Give key="),
        (dict(rec={"A": X}, name="rat"), "name", r"got text\. Choose another with key="),
        (dict(rec={"A": X}), "rec.C", r"key= as one of its arrays, rec\.A \(50, 4\); got 'rec\.C'"),
        (dict(spikes=cells(T[:, None], T[:9, None])), None, r"a cell of 2 vectors, as spike times are\. Bin them with"),
        (dict(trials=cells(X[:9].T, X[:7].T)), None, r"matrices with other columns each, \(4, 9\), \(4, 7\)\. Save"),
        (dict(X=X.T, t=T), None, r"X has as many columns as t has values"),
        (dict(none=np.zeros((0, 4))), None, "got empty"),
        (dict(c=cells(cells(X, X), cells(X, X))), None, r"got c\{1\} \(100, 4\), c\{2\} \(100, 4\)\. Give key="),
    ],
)
def test_other_variables_of_matlab_are_one_sentence(tmp_path, write, variables, key, message):
    refused(write(tmp_path / "a.mat", **variables), message, key=key)


@pytest.mark.parametrize("write", [mat, mat73])
def test_sparse_matrices_of_matlab_are_read_as_dense_ones(tmp_path, write):
    sparse = pytest.importorskip("scipy.sparse")
    few = np.where(X > 0, X, 0)
    same(read(write(tmp_path / "a.mat", S=sparse.csc_matrix(few))), few)


def test_arrays_of_structs_are_cells_of_their_fields(tmp_path):
    parts = np.array([(X[:20], 1.0), (X[20:], 2.0)], dtype=[("X", object), ("k", object)])
    same(read(mat(tmp_path / "a.mat", trials=parts)))
    assert read(tmp_path / "a.mat", key="trials.X").sessions[-1] == 1


def test_a_large_matrix_of_version_73_stays_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "IN_MEMORY", 10)
    assert same(read(mat73(tmp_path / "a.mat", X=X))).on_disk


# HDF5


def h5(path, build):
    with pytest.importorskip("h5py").File(path, "w") as file:
        build(file)
    return path


@pytest.mark.parametrize("in_memory", [10, 1 << 28])
@pytest.mark.parametrize("kind", [">f8", "<f4", ">i2", "f2", "?"])
def test_data_sets_of_every_storage_come_back(tmp_path, monkeypatch, in_memory, kind):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(stored, "IN_MEMORY", in_memory)
    values = (X > 0 if kind == "?" else np.round(X * 100)).astype(kind)
    layout = h5py.VirtualLayout(shape=values.shape, dtype=kind)
    layout[:25] = h5py.VirtualSource(tmp_path / "plain.h5", "X", shape=values.shape)[:25]
    layout[25:] = h5py.VirtualSource(tmp_path / "plain.h5", "X", shape=values.shape)[25:]
    builds = {
        "plain.h5": lambda f: f.create_dataset("X", data=values),
        "chunked.h5": lambda f: f.create_dataset("X", data=values, chunks=(7, 3), compression="gzip", shuffle=True),
        "outside.h5": lambda f: f.create_dataset(
            "X", data=values, external=[(str(tmp_path / "raw.bin"), 100, values.nbytes)]
        ),
        "virtual.h5": lambda f: f.create_virtual_dataset("X", layout),
        "linked.h5": lambda f: f.__setitem__("data", h5py.ExternalLink("plain.h5", "/X")),
    }
    for name, build in builds.items():
        same(read(h5(tmp_path / name, build)), values)
    same(read(tmp_path / "linked.h5", key="data"), values)
    with h5py.File(tmp_path / "block.h5", "w", userblock_size=1024) as file:
        file["X"] = values
    recording = same(read(tmp_path / "block.h5"), values)
    assert recording.on_disk == (in_memory == 10)
    (tmp_path / "plain.h5").unlink()
    refused(tmp_path / "virtual.h5", "virtual data set, of which the file .*plain.h5 is missing")
    refused(tmp_path / "linked.h5", r"got a link to plain\.h5:/X, where there is nothing")


def test_numbers_of_fewer_bits_than_their_bytes_are_not_mapped(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(stored, "IN_MEMORY", 10)
    values = np.arange(200, dtype=np.uint16).reshape(50, 4)
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        place = h5py.h5d.create(file.id, b"X", kind, h5py.h5s.create_simple(values.shape))
        place.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    same(read(tmp_path / "a.h5"), values)


def test_types_cycles_and_other_files_do_no_harm(tmp_path):
    h5py = pytest.importorskip("h5py")

    def build(file):
        file["X"], file["a type"] = X, np.dtype("f8")
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["text"], file["other"] = h5py.ExternalLink("a.txt", "/X"), h5py.ExternalLink("b.h5", "/")
        h5py.h5d.create(file.id, b"t", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((50, 4)))

    (tmp_path / "a.txt").write_text("hello")
    h5(tmp_path / "b.h5", lambda file: file.__setitem__("back", h5py.ExternalLink("a.h5", "/")))
    same(read(h5(tmp_path / "a.h5", build)))
    same(read(tmp_path / "a.h5", key="/"))
    same(read(tmp_path / "b.h5"))
    same(read(tmp_path / "b.h5", key="back/X"))
    refused(tmp_path / "a.h5", "got a link to /b, where there is nothing", key="a")
    refused(tmp_path / "a.h5", "got values of a type that numpy does not know", key="t")


def linked(file):
    h5py = pytest.importorskip("h5py")
    file["raw/X"] = X
    file["again"] = file["raw/X"]
    file["current"] = h5py.SoftLink("/raw/X")
    file["raw/up"] = h5py.SoftLink("/")  # a circle
    file["gone"] = h5py.SoftLink("/nothing")
    file["away"] = h5py.ExternalLink("nothing.h5", "/X")


def test_links_lead_to_one_data_set(tmp_path):
    path = h5(tmp_path / "a.h5", linked)
    for key in (None, "raw/X", "/raw/X", "again", "current", "raw", "raw/up/current", "X"):
        same(read(path, key="again" if key == "X" else key))
    assert read(path).notes[0].startswith("Not read: away (a link to nothing.h5:/X, where there is nothing), gone (a ")
    refused(path, r"got a link to nothing\.h5:/X, where there is nothing\. Choose another", key="away")
    refused(path, r"got a link to /nothing, where there is nothing", key="gone")


def vlen(file):
    h5py = pytest.importorskip("h5py")
    ragged = file.create_dataset("ragged", (2,), dtype=h5py.vlen_dtype(float))
    ragged[0], ragged[1] = T[:3], T[:5]


@pytest.mark.parametrize(
    ("build", "key", "message"),
    [
        (lambda f: f.create_dataset("X", data=pytest.importorskip("h5py").Empty("f8")), None, "got empty"),
        (lambda f: f.create_dataset("X", data=3.0), None, "got a single number"),
        (lambda f: f.create_dataset("X", data=[b"a", b"b"]), None, "got text"),
        (lambda f: f.create_dataset("X", data=["a", "b"]), None, "got text"),
        (lambda f: f.create_dataset("X", data=X + 1j), None, "got complex numbers"),
        (vlen, None, "got rows of different lengths"),
        (lambda f: f.create_dataset("X", data=f.create_group("g").ref), None, "got references to other objects"),
        (lambda f: f.create_group("g"), None, "got nothing"),
        (lambda f: [f.create_dataset(f"{s}/X", data=X) for s in "ab"], None, r"a/X \(50, 4\), b/X \(50, 4\)\. Give"),
        (lambda f: [f.create_dataset(f"g/{s}", data=X) for s in "ab"], "g", r"g/a \(50, 4\), g/b \(50, 4\)\. Give key"),
        (lambda f: [f.create_dataset(n, data=d) for n, d in (("X", X.T), ("t", T))], None, "X has as many columns as"),
        (lambda f: [f.create_dataset(n, data=d) for n, d in (("roi_index", X[:9]), ("F", T))], None, "by its name"),
        (lambda f: [f.create_dataset(n, data=d) for n, d in (("index", X), ("F", X[:0]))], None, "by its name"),
    ],
)
def test_other_data_sets_are_one_sentence(tmp_path, build, key, message):
    refused(h5(tmp_path / "a.h5", build), message, key=key)


def test_colour_maps_and_axes_are_no_data(tmp_path):
    def build(file):
        file["X"], file["palette"], file["x"] = X, np.zeros((256, 3), np.uint8), np.zeros((50, 2))
        file["palette"].attrs["CLASS"] = np.bytes_("PALETTE")
        file["x"].make_scale("x")

    same(read(h5(tmp_path / "a.h5", build)))


@pytest.mark.parametrize("in_memory", [10, 1 << 28])
def test_packed_numbers_are_unpacked(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(stored, "IN_MEMORY", in_memory)

    def build(file, lost=False):
        made = file.create_dataset("T", data=np.where((np.arange(50) == 3)[:, None] & lost, -99, np.round(X * 100)))
        made.attrs.update(scale_factor=0.01, add_offset=20.0, _FillValue=-99 if lost else -999)

    recording = same(read(h5(tmp_path / "a.nc", build)), np.round(X * 100) * 0.01 + 20)
    assert recording.notes == ("T is read as its numbers times 0.01, plus 20, as its attributes say.",)
    path = h5(tmp_path / "b.nc", lambda file: build(file, lost=True))
    if in_memory == 10:
        with pytest.raises(ValueError, match="NaN or infinity in row 3"):
            read(path)[:]
    else:
        refused(path, "NaN or infinity in column 0, .* first in row 3")
    (tmp_path / "c.nc").write_bytes(b"CDF\x01")
    refused(tmp_path / "c.nc", "netCDF 3. Convert it: nccopy")


def fixed(file):
    """What `DataFrame.to_hdf` writes of two columns of floats around one of whole numbers."""
    group = file.create_group("df")
    group["axis0"], group["axis1"] = [b"a", b"k", b"b"], np.arange(50) * 20_000_000
    group["axis1"].attrs["kind"] = "datetime64"
    group["block0_items"], group["block0_values"] = [b"a", b"b"], X[:, :2]
    group["block1_items"], group["block1_values"] = [b"k"], np.arange(50)[:, None]


def test_frames_of_pandas_come_back(tmp_path):
    path = h5(tmp_path / "a.h5", fixed)
    for key in (None, "df"):
        recording = same(read(path, key=key), np.c_[X[:, 0], np.arange(50), X[:, 1]])
        assert recording.names == ("a", "k", "b")
        np.testing.assert_allclose(recording.times, T)
    same(read(path, key="df/block0_values"), X[:, :2])
    with pytest.importorskip("h5py").File(path, "r+") as file:
        file["df/block2_values"] = file["df/axis1"][...][:, None]
        file["df/block2_values"].attrs["value_type"] = "datetime64[ns]"
    refused(path, r"a data frame with columns that are no numbers\. Choose a block, key=df/block0_values")

    def table(file):
        rows = np.zeros(50, [("index", "i8"), ("values_block_0", "f8", 4)])
        rows["index"], rows["values_block_0"] = np.arange(50) * 20_000_000, X
        file["df_with_missing/table"] = rows
        file["df_with_missing/table"].attrs["index_kind"] = "datetime64[ns]"

    for key in (None, "df_with_missing"):
        np.testing.assert_allclose(same(read(h5(tmp_path / "b.h5", table), key=key)).times, T)


# Neurodata Without Borders


def series(file, name, data, **attributes):
    group = file.create_group(name)
    group.attrs["neurodata_type"] = attributes.pop("kind", "TimeSeries")
    rate, stamps = attributes.pop("rate", None), attributes.pop("timestamps", None)
    group.create_dataset("data", data=data).attrs.update(attributes)
    if rate:
        group["starting_time"] = 12.5
        group["starting_time"].attrs["rate"] = rate
    elif stamps is not None:
        group["timestamps"] = stamps


def units(file):
    file["units/id"], file["units/spike_times"] = [7, 8, 9], np.arange(6.0)
    file["units/spike_times_index"], file["units/waveform_mean"] = [2, 2, 6], np.zeros((3, 40))


@pytest.mark.parametrize("in_memory", [10, 1 << 28])
def test_series_have_times_and_units(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(stored, "IN_MEMORY", in_memory)
    path = h5(tmp_path / "a.nwb", lambda f: series(f, "acquisition/pos", X, rate=50.0))
    recording = same(read(path))
    np.testing.assert_allclose(recording.times, 12.5 + T)
    assert set(consecutive(recording, seconds=0.1).lag.tolist()) == {5}

    def build(file):
        data = np.round(X * 1000).astype("i2")
        series(file, "acquisition/lfp", data, timestamps=T, conversion=2e-3, offset=1.0, unit="V")
        file["acquisition/lfp/channel_conversion"] = [1.0, 2.0, 3.0, 4.0]

    recording = same(read(h5(tmp_path / "b.nwb", build)), np.round(X * 1000) * 2e-3 * np.arange(1, 5) + 1)
    np.testing.assert_allclose(recording.times, T)
    assert recording.notes[0].startswith("acquisition/lfp in V: its numbers times a factor per channel, plus 1")
    path = h5(tmp_path / "c.nwb", lambda f: series(f, "processing/F", X.T, timestamps=T))
    assert "transposed" in same(read(path)).notes[0]


def test_the_series_that_is_meant_is_asked_for(tmp_path):
    def build(file):
        series(file, "acquisition/lfp", X, rate=50.0)
        series(file, "processing/behavior/Position/place", X[:, :2], timestamps=T)
        series(file, "processing/behavior/speed", X[:, 0])
        place = file["processing/behavior/Position/place"]
        file["processing/behavior/speed/timestamps"] = pytest.importorskip("h5py").SoftLink(f"{place.name}/timestamps")
        file["intervals/trials/start_time"] = np.arange(3.0)

    path = h5(tmp_path / "a.nwb", build)
    refused(path, r"got acquisition/lfp \(50, 4\), processing/behavior/Position/place \(50, 2\), .* Give key=")
    for key in ("acquisition/lfp", "acquisition/lfp/data", "/acquisition/lfp", "lfp", "acquisition"):
        assert same(read(path, key=key)).times is not None
    for key in ("place", "processing/behavior/Position"):
        np.testing.assert_allclose(same(read(path, key=key), X[:, :2]).times, T)
    np.testing.assert_allclose(same(read(path, key="speed"), X[:, :1]).times, T)
    same(read(path, key="intervals/trials/start_time"), np.arange(3.0)[:, None])
    refused(path, r"Expected key= as one of its arrays, acquisition/lfp \(50, 4\), .*; got 'pose'", key="pose")


def test_links_of_series_that_lead_to_nothing_are_said(tmp_path):
    h5py = pytest.importorskip("h5py")

    def build(file, lost):
        series(file, "acquisition/lfp", X, timestamps=T)
        del file[f"acquisition/lfp/{lost}"]
        file[f"acquisition/lfp/{lost}"] = h5py.ExternalLink("raw.nwb", "/x")

    recording = same(read(h5(tmp_path / "a.nwb", lambda file: build(file, "timestamps"))))
    assert recording.times is None and recording.notes == (
        "The times of acquisition/lfp are a link to nothing, and unknown.",
    )
    refused(h5(tmp_path / "b.nwb", lambda file: build(file, "data")), "got a link to data that are not there")


def test_spike_times_are_no_rows(tmp_path):
    path = h5(tmp_path / "a.nwb", units)
    for key in (None, "units", "units/spike_times"):
        refused(path, r"got spike times of 3 units\. Bin them: bin_spikes\(read_spikes\(FILE\), width=", key=key)
    found = read_spikes(path)
    assert {name: times.tolist() for name, times in found.items()} == {"7": [0, 1], "8": [], "9": [2, 3, 4, 5]}
    path = h5(tmp_path / "b.nwb", lambda file: (units(file), series(file, "acquisition/pos", X, rate=50.0)))
    refused(path, r"Expected one series, or key= to choose; got acquisition/pos \(50, 4\), units \(spike times of 3")
    same(read(path, key="acquisition/pos"))
    with pytest.raises(ValueError, match=r"b\.nwb: Expected spike_times and .* in acquisition; got none"):
        read_spikes(path, key="acquisition")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda f: series(f, "pos", X, timestamps=np.arange(60.0)), "got 60 timestamps for 50 rows"),
        (lambda f: series(f, "pos", X, timestamps=np.r_[T[:25], T[:25]]), "times that increase within a session"),
        (lambda f: series(f, "notes", np.array([b"a"]), timestamps=T[:1]), "got text"),
        (lambda f: series(f, "i", np.zeros(3, int), timestamps=T[:3], kind="IndexSeries"), "images of another series"),
        (lambda f: f.create_dataset("somewhere/X", data=X), "got nothing"),
        (
            lambda f: (
                series(f, "video", np.zeros((0, 0, 0)), timestamps=T),
                f.__setitem__("video/external_file", [b"a.mp4"]),
            ),
            r"frames that are in other files, a\.mp4\. Read these",
        ),
    ],
)
def test_other_series_are_one_sentence(tmp_path, build, message):
    refused(h5(tmp_path / "a.nwb", build), message)


def test_what_pynwb_writes_comes_back(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    from datetime import UTC, datetime

    file = pynwb.NWBFile(
        session_description="a session", identifier="id", session_start_time=datetime(2024, 1, 1, tzinfo=UTC)
    )
    place = pynwb.behavior.SpatialSeries(
        name="place", data=X[:, :2], timestamps=T, reference_frame="a corner", conversion=0.01
    )
    behaviour = file.create_processing_module(name="behavior", description="behaviour")
    behaviour.add(pynwb.behavior.Position(spatial_series=place))
    file.add_acquisition(pynwb.TimeSeries(name="lfp", data=X, unit="V", rate=50.0, starting_time=1.0))
    file.add_acquisition(pynwb.TimeSeries(name="twin", data=X + 1, unit="V", timestamps=place))
    for times in (T[:3], T[3:9]):
        file.add_unit(spike_times=times)
    with pynwb.NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
        io.write(file)
    refused(tmp_path / "a.nwb", "Give key=, or bin the spikes")
    np.testing.assert_allclose(same(read(tmp_path / "a.nwb", key="lfp")).times, 1 + T)
    np.testing.assert_allclose(same(read(tmp_path / "a.nwb", key="place"), X[:, :2] * 0.01).times, T)
    np.testing.assert_allclose(same(read(tmp_path / "a.nwb", key="twin"), X + 1).times, T)
    np.testing.assert_allclose(read_spikes(tmp_path / "a.nwb")["1"], T[3:9])


def test_a_file_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"a\.nwb: "):
        read_spikes(Path(tmp_path / "a.nwb"))
