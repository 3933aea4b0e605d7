"""Readers: what was written comes back, large files stay on disk, a bad file is one sentence that begins with it."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recparam.data import stored
from recparam.data.pairs import consecutive
from recparam.data.readers import read, read_columns

VALUES = np.arange(15.0).reshape(5, 3)


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def write_video(path, frames=40, *, size=(48, 64), options=None, pix_fmt="yuv420p"):
    """A block of light that moves from the left to the right."""
    av = pytest.importorskip("av")
    height, width = size
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            left = round(number * (width - 8) / frames)
            picture[:, left : left + 8, 0] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


# Arrays


def test_arrays_come_back(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    np.savez_compressed(tmp_path / "b.npz", values=VALUES, times=np.arange(5), sessions=np.zeros((), int))
    np.savez(tmp_path / "c.npz", values=VALUES, truth=VALUES[:, :2])
    np.testing.assert_array_equal(read(tmp_path / "a.npy")[:], VALUES)
    np.testing.assert_array_equal(read(str(tmp_path / "b.npz"))[:], VALUES)
    np.testing.assert_array_equal(read(tmp_path / "c.npz", key="truth")[:], VALUES[:, :2])


@pytest.mark.parametrize("order", ["C", "F"])
def test_larger_arrays_stay_on_disk(tmp_path, monkeypatch, order):
    monkeypatch.setattr(stored, "IN_MEMORY", 100)
    values = np.asarray(np.random.default_rng(0).normal(size=(50, 3)), order=order)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", other=np.ones(7), values=values)
    np.savez_compressed(tmp_path / "c.npz", values=values)
    for name, on_disk in [("a.npy", True), ("b.npz", True), ("c.npz", False)]:
        recording = read(tmp_path / name)
        assert recording.on_disk == on_disk
        np.testing.assert_array_equal(recording[:], values)


def test_several_files_are_sessions(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    np.save(tmp_path / "b.npy", VALUES[:3])
    recording = read([tmp_path / "a.npy", tmp_path / "b.npy"])
    assert recording.sessions.tolist() == [0] * 5 + [1] * 3
    assert 4 not in consecutive(recording).first
    np.save(tmp_path / "c.npy", VALUES[:, :2])
    with pytest.raises(ValueError, match=r"a\.npy, .*c\.npy: .*got \(3,\) in session 0 and \(2,\) in session 1"):
        read([tmp_path / "a.npy", tmp_path / "c.npy"])


@pytest.mark.parametrize("name", ["objects.npy", "objects.npz"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    objects = np.array([[Trap(), 1], [2, 3]], dtype=object)
    np.save(name, objects) if name.endswith("npy") else np.savez(name, x=objects)
    with pytest.raises(ValueError, match=rf"^{name}: Expected .* numbers; got Python objects, which may run code"):
        read(name)
    assert not Path("trapped").exists()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "z.npz", "x.mat"])
@pytest.mark.parametrize("in_memory", [10, 1 << 28])
def test_a_file_that_is_cut_off_is_one_sentence(tmp_path, monkeypatch, name, part, in_memory):
    monkeypatch.setattr(stored, "IN_MEMORY", in_memory)
    path = tmp_path / name
    values = np.random.default_rng(0).normal(size=(200, 5))
    if name == "x.npy":
        np.save(path, values)
    elif name == "x.mat":
        pytest.importorskip("scipy.io").savemat(path, {"values": values})
    else:
        (np.savez if name == "x.npz" else np.savez_compressed)(path, values=values)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ValueError, match=rf"{name}: Expected .*; got (one|another|a).*(Copy|Give key)"):
        read(path)


def test_a_changed_byte_of_an_archive_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, values=np.random.default_rng(0).normal(size=(200, 5)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz: Expected a whole \.npz file; got one that is damaged"):
        read(path)


def test_an_archive_of_other_files_is_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"Expected readme\.txt as an array of numbers; got no array that numpy saved"):
        read(tmp_path / "x.npz")


def test_matlab_s_matrices_come_back(tmp_path):
    io = pytest.importorskip("scipy.io")
    io.savemat(tmp_path / "x.mat", {"spikes": VALUES, "rate": 30.0, "t": np.arange(5), "name": "rat"})
    np.testing.assert_array_equal(read(tmp_path / "x.mat")[:], VALUES)
    np.testing.assert_array_equal(read(tmp_path / "x.mat", key="spikes")[:], VALUES)


def test_hierarchical_files_come_back(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["session/spikes"] = VALUES
        file["session/time"] = np.arange(5)
        file["packed"] = np.zeros(3)
    with h5py.File(tmp_path / "x.nwb", "w") as file:
        file["acquisition/lfp/data"] = VALUES
        file["acquisition/lfp/timestamps"] = np.arange(5) / 10
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file["spikes"] = VALUES.T
    np.testing.assert_array_equal(read(tmp_path / "x.h5")[:], VALUES)
    np.testing.assert_array_equal(read(tmp_path / "x.mat")[:], VALUES)
    np.testing.assert_allclose(read(tmp_path / "x.nwb").times, [0, 0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(stored, "IN_MEMORY", 10)
    recording = read(tmp_path / "x.h5", key="/session/spikes")
    assert recording.on_disk
    np.testing.assert_array_equal(recording[:], VALUES)
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.h5").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"x\.h5: Expected a file that can be read"):
        read(tmp_path / "x.h5")


# Tables


def test_tables_come_back_with_their_names(tmp_path):
    (tmp_path / "x.csv").write_text('speed,"head angle",mouse\n1,2.5,a\n3,-4e1,b\n', encoding="utf-8-sig")
    recording = read(tmp_path / "x.csv", key="head angle, speed")
    assert recording.names == ("head angle", "speed")
    assert recording[:].tolist() == [[2.5, 1], [-40, 3]]
    (tmp_path / "plain.csv").write_text("1,2\n3,4\n")
    assert read(tmp_path / "plain.csv")[:].tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path / "plain.csv").names is None


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("a;b\n1,5;2\n-,5;1,5e3\n", "a b", [[1.5, 2], [-0.5, 1500]]),
        ("1,5;2,5\n3,5;4,5\n", None, [[1.5, 2.5], [3.5, 4.5]]),
        ("a\tb\n1\t2\n", "a b", [[1, 2]]),
        ("sep=;\na;b\n1;2\n", "a b", [[1, 2]]),
        ("\n# rig 2\n# 30 Hz\na,b\n1,2\n", "a b", [[1, 2]]),
        ("# rig 2\n1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("# a,b\n1,2\n", "a b", [[1, 2]]),
        (",a,b\n0,1,2\n1,3,4\n", "a b", [[1, 2], [3, 4]]),
        (",0,1\n1,5,2\n2,3,4\n", "0 1", [[5, 2], [3, 4]]),
        ("0,1\n0.5,1.5\n2.5,3\n", "0 1", [[0.5, 1.5], [2.5, 3]]),
        ("0,1\n2,3\n", None, [[0, 1], [2, 3]]),
        ("a,b,\n1,2,\n3,4,\n", "a b", [[1, 2], [3, 4]]),
        ("1,2,\n3,4,\n", None, [[1, 2], [3, 4]]),
        ("x,y,x,y\n1,2,3,4\n", "x y x y", [[1, 2, 3, 4]]),
        ('"a",b\n"1", "2"\n', "a b", [[1, 2]]),
        ('"two\nlines"\n1\n2\n', "two\nlines", [[1], [2]]),
        ("a,b\n1,2\n\n3,4\n\n", "a b", [[1, 2], [3, 4]]),
        ("a\r\n1\r\n2\r\n", "a", [[1], [2]]),
        ("a,b\r1,2\r", "a b", [[1, 2]]),
        ("1 2  3\n4 5 6\n", None, [[1, 2, 3], [4, 5, 6]]),
        ("  a    b\n 1.5   2\n", "a b", [[1.5, 2]]),
        ("1,5 2,5\n3,5 4,5\n", None, [[1.5, 2.5], [3.5, 4.5]]),
        ("a|b\n1|2\n", "a b", [[1, 2]]),
        ("a,b\nmV,s\n1,2\n", "a b", [[1, 2]]),
        ("a,b\n,mV\n1,2\n", "a b", [[1, 2]]),
        ("s,x,x\np,nose,tail\n,x,x\n0,1,2\n1,3,4\n", "s_p x_nose_x x_tail_x", [[0, 1, 2], [1, 3, 4]]),
        (",nose,nose\n,x,y\n0,1,2\n1,3,4\n", "nose_x nose_y", [[1, 2], [3, 4]]),
        (",3,7\n0,1.5,2.5\n1,3.5,4.5\n2,1.5,2.5\n", "3 7", [[1.5, 2.5], [3.5, 4.5], [1.5, 2.5]]),
        ("a,b\n1,2\n,\n,\n", "a b", [[1, 2]]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_no_cell_of_a_table_is_lost_shifted_or_repeated(tmp_path, text, names, values, encoding):
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    recording = read(tmp_path / "x.csv")
    assert recording[:].tolist() == values
    names = None if names is None else tuple(name.replace("_", " ") for name in names.split(" "))
    assert recording.names == names


def test_what_might_be_meant_otherwise_is_noted(tmp_path):
    (tmp_path / "x.csv").write_text(";0;1\n0;1,5;2\n1;3;4\n")
    recording = read(tmp_path / "x.csv")
    assert recording[:].tolist() == [[1.5, 2], [3, 4]]
    first, commas, index = recording.notes
    assert "first line, , 0, 1, is taken as names" in first and "decimal" in commas and "left out" in index


def test_a_number_for_missing_ones_is_noted(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n-9999,2\n3,-999\n" + "2,500\n" * 3)
    (note,) = read(tmp_path / "x.csv").notes
    assert note.startswith("Column 'a' holds -9999 in 1 of 6 rows, far outside of its other numbers")


def test_tables_of_text_files_come_back(tmp_path):
    np.savetxt(tmp_path / "x.txt", VALUES)
    np.testing.assert_array_equal(read(tmp_path / "x.txt")[:], VALUES)
    assert list(read_columns(tmp_path / "x.txt")) == ["0", "1", "2"]


def test_a_name_with_a_comma_is_a_key(tmp_path):
    (tmp_path / "x.tsv").write_text("x, mm\ty\tz\n1\t2\t3\n")
    assert read(tmp_path / "x.tsv", key="x, mm")[:].tolist() == [[1]]
    assert read(tmp_path / "x.tsv", key='z, "x, mm"')[:].tolist() == [[3, 1]]


def test_columns_are_numbers_with_nan_or_text(tmp_path):
    (tmp_path / "x.csv").write_text(",day,speed\n0,mon,1\n1,tue,\n")
    found = read_columns(tmp_path / "x.csv")
    assert list(found) == ["day", "speed"] and found["day"].tolist() == ["mon", "tue"]
    np.testing.assert_array_equal(found["speed"], [1, np.nan])
    (tmp_path / "x.csv").write_text("day,day\nmon,1\n")
    with pytest.raises(ValueError, match=r"x\.csv: Expected columns with names of their own; got 'day' twice"):
        read_columns(tmp_path / "x.csv")
    np.savez(tmp_path / "x.npz", a=VALUES, b=np.array(["mon", "tue"]))
    assert read_columns(tmp_path / "x.npz")["b"].tolist() == ["mon", "tue"]


def test_columns_of_frames_on_disk_come_back(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pandas.DataFrame(VALUES, columns=["a", "b", "c"])
    table.to_parquet(tmp_path / "x.parquet")
    recording = read(tmp_path / "x.parquet", key="c,a")
    assert recording.names == ("c", "a")
    np.testing.assert_array_equal(recording[:], VALUES[:, [2, 0]])


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("a,b\n1,x\n", None, r"columns of numbers; got 'x' in column 'b' of line 2\. Choose columns with key="),
        ("a,b\n1,2\n3,\n4,NA\n", None, r"NaN or infinity in column 1 \('b'\), first in row 1 of 3"),
        ("a,b\n1,2\n3,nan\n", None, r"NaN or infinity in column 1 \('b'\), first in row 1 of 2"),
        ("a,b\n1,2\n3\n", None, r"2 columns in each row; got 1 in line 3"),
        ("a,b\n1,2\n", "c,a", r"key= as columns of a, b; got c\."),
        ("a,b\n1,2\n3,4,5,6\n", None, r"2 columns in each row; got 4 in line 3"),
        ("a,b,c\n1,.1,.2,.3\n", None, r"3 columns in each row; got 4 in line 2"),
        ("Session 12\n1,2\n", None, r"1 column in each row; got 2 in line 2"),
        ("1,2\n3,4,5\n", None, r"2 columns in each row; got 3 in line 2"),
        ("a,b\n1,2\n3,\"4\n5,6\n", None, "quotes or cells that do not end"),
        ("a,b\n1_000,2\n", None, "'1_000' in column 'a' of line 2"),
        ('a,b\n"1,234",2\n', None, "'1,234' in column 'a' of line 2"),
        ("a;b\n1.5;2,5\n", None, "one decimal sign"),
        ("a,b\nN/A,1\n", None, r"NaN or infinity in column 0 \('a'\)"),
        (",a\n5,1\n7,2\n", None, "a name for each column; got none for the first"),
        ("a,,b\n1,2,3\n", None, "a name for each column; got none for column 1"),
        ("a,a\n1,2\n", "a", "names of single columns; got 'a'"),
        ("2019,2020,2021\n.1,.2,.3\n", None, "names or numbers in the first row; got 2019, 2020, 2021"),
        (",,\n1,2,3\n", None, "got empty cells"),
        ("3,7,12\n.1,.2,.3\n.1,.2,.3\n.1,.2,.3\n", None, "names or numbers in the first row; got 3, 7, 12"),
        ("a\n1\n\n3\n", None, r"NaN or infinity in column 0 \('a'\), first in row 1 of 3"),
        ("a,b\n1,2\n,\n3,4\n", None, r"NaN or infinity in column 0 \('a'\), column 1 \('b'\), first in row 1 of 3"),
        ("a,b\nx,\ny,1\n", None, "got 'x' in column 'a' of line 2"),
        ("a,b\n1,2\n", "a,a", "names of single columns; got 'a'"),
        ("a,b\n1,2\n", "", "as columns of a, b; got ''"),
        (",".join(f"c{k}" for k in range(3000)) + "\n", "z", r"columns of c0, .*, c7 and 2992 more; got z\."),
        ("", None, "got an empty file"),
        ("# only this\n", None, "got an empty file"),
        ("a,b\n", None, "0 samples"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path, text, key, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.csv: Expected .*{message}"):
        read(tmp_path / "x.csv", key=key)


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    for content in (gzip.compress(b"a,b\n1,2\n"), "Zeit \u00b5s,b\n1,2\n".encode("latin-1")):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.csv: Expected a table of text in UTF-8; got other bytes"):
            read(tmp_path / "x.csv")


# Frames


def test_videos_come_back_with_their_times(tmp_path):
    recording = read(write_video(tmp_path / "x.mp4"))
    assert recording.shape == (40, 48, 64, 3) and recording.dtype == np.uint8
    np.testing.assert_allclose(recording.times, np.arange(40) / 20)
    assert recording.notes == ("40 frames of 64x48 in colour",)
    red = recording[:][..., 0].astype(float).sum(1)
    centres = (red * np.arange(64)).sum(1) / red.sum(1)
    np.testing.assert_allclose(centres, 3.5 + np.round(np.arange(40) * 56 / 40), atol=1)
    assert len(consecutive(recording, seconds=0.1)) == 38


def test_videos_are_resized_where_they_are_large_or_asked_to_be(tmp_path):
    path = write_video(tmp_path / "x.avi", 3, size=(120, 256))
    assert read(path).shape == (3, 60, 128, 3)
    assert read(path).notes == ("3 frames of 128x60 in colour, resized from 256x120; size= chooses",)
    assert read(path, size=32, grey=True).shape == (3, 15, 32, 1)
    assert read(path, size=256).shape == (3, 120, 256, 3)


def test_long_videos_need_no_memory(tmp_path):
    assert read(write_video(tmp_path / "x.mkv")).on_disk


@pytest.mark.parametrize(
    ("name", "options"), [("x.mp4", {}), ("x.mov", {"movflags": "faststart"}), ("x.avi", {}), ("x.mkv", {})]
)
def test_a_video_that_is_cut_off_is_one_sentence(tmp_path, name, options):
    path = write_video(tmp_path / name, 80, options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name}: Expected a whole video.*; got one that is .*cut off"):
        read(path)


def test_what_is_no_video_is_one_sentence(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "x.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(ValueError, match=r"x\.mp4: Expected a whole video; got one that is damaged"):
        read(tmp_path / "x.mp4")


def test_folders_of_images_come_back_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        Image.fromarray(np.full((6, 8, 3), number * 20, np.uint8)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    recording = read(tmp_path)
    assert recording.shape == (3, 6, 8, 3)
    assert recording[:][:, 0, 0, 0].tolist() == [20, 180, 200]
    assert read(tmp_path, size=4, grey=True).shape == (3, 3, 4, 1)


def test_a_wrong_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="Expected a folder of images .*; got none in it"):
        read(tmp_path)
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "a.png")
    assert read(tmp_path).shape == (1, 6, 8, 1)
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"one size; got 8x6 in a\.png and 9x6 in b\.png"):
        read(tmp_path)
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"as many bits each; got 8 bits in a\.png and more in b\.png"):
        read(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (6, 8), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    for length in (20, len(whole) - 30):
        (tmp_path / "b.png").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"whole images; got b\.png, which is damaged"):
            read(tmp_path)


# Whatever it is


def test_a_missing_dependency_says_how_to_install_it(tmp_path, monkeypatch):
    for name, module, extra in [("x.mp4", "av", "video"), ("x.h5", "h5py", "hdf5"), ("x.parquet", "pandas", "tables")]:
        (tmp_path / name).write_bytes(b"")
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ValueError, match=rf"{name}: Expected {module} .*pip install 'recparam\[{extra}\]'"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.npy", {}, "got a path at which there is nothing"),
        ("x.md", {}, r"Expected one of \.npy, \.npz, .*; got '\.md'"),
        ("x.npy", {"key": "a"}, "got key='a' with a single one"),
        ("x.npy", {"size": 4}, "size= and grey= with videos and folders of images; got an array"),
        ("two.npz", {}, r"Expected one array .* got a \(5, 3\), b \(5, 3\), c \(5,\)\. Give key="),
        ("two.npz", {"key": "d"}, r"key= as one of its arrays, a \(5, 3\), .*; got 'd'"),
        (".", {"key": "a"}, "got key='a' with frames"),
        (".", {"size": 0}, "got none in it"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, name, options, message):
    np.save(tmp_path / "x.npy", VALUES)
    (tmp_path / "x.md").write_text("1")
    np.savez(tmp_path / "two.npz", a=VALUES, b=VALUES, c=VALUES[:, 0])
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, **options)


def test_no_paths_are_one_sentence():
    with pytest.raises(ValueError, match="got none"):
        read([])
