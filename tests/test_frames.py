"""Frames as they are shown: pages, wide pixels in one range, orientation, and what names and files say, said."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from recparam.data.readers import read

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 6, 8)).astype(np.uint8)
DEEP = RNG.integers(0, 4096, (5, 6, 8)).astype(np.uint16)
DEEP[0, 0, 0] = 4000
COLOUR = RNG.integers(0, 256, (5, 6, 8, 3)).astype(np.uint8)


def saved(path, pages, **options):
    """Pages as one file, by Pillow."""
    images = [page if isinstance(page, Image.Image) else Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=len(images) > 1, append_images=images[1:], **options)
    return path


def folder(path, pages, name="{}.png", **options):
    path.mkdir()
    for k, page in enumerate(pages):
        saved(path / name.format(k), [page], **options)
    return path


def without_tifffile(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)


# Pages


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_all_pages_of_a_tiff_are_frames(tmp_path, monkeypatch, alone, compression):
    if alone:
        without_tifffile(monkeypatch)
    recording = read(saved(tmp_path / "a.TIF", BYTES, compression=compression))
    np.testing.assert_array_equal(recording[:][..., 0], BYTES)
    assert recording.shape == (5, 6, 8, 1) and recording.notes == ("5 frames of 8x6 in grey",)
    np.testing.assert_array_equal(read(saved(tmp_path / "b.tiff", COLOUR, compression=compression))[:], COLOUR)
    deep = read(saved(tmp_path / "c.tif", DEEP, compression=compression))
    np.testing.assert_allclose(deep[:][..., 0], DEEP / 4095, rtol=1e-6)
    assert deep.notes[1] == "values are divided by 4095, the most of 12 bits, which hold all of them"
    saved(tmp_path / "d.tif", [Image.fromarray(page).convert("P") for page in BYTES])
    assert read(tmp_path / "d.tif").notes[1] == "indexed colours read as red, green and blue"
    np.testing.assert_array_equal(read(tmp_path / "d.tif", grey=True)[:][..., 0], BYTES)


@pytest.mark.parametrize(
    ("pages", "values", "said"),
    [
        (DEEP.astype(">u2"), DEEP / 4095, "the most of 12 bits"),
        (np.stack([DEEP] * 3, -1), np.stack([DEEP] * 3, -1) / 4095, "the most of 12 bits"),
        ((DEEP * 16).astype(np.uint16), DEEP * 16 / 65535, "the most of 16 bits"),
        ((DEEP / 4096).astype(np.float32), DEEP / 4096, "floats in 0 to 1, as they were"),
        (DEEP / 10, (DEEP - DEEP.min()) / np.ptp(DEEP), "the range of all frames"),
        (DEEP.astype(np.int16) - 500, (DEEP - DEEP.min()) / np.ptp(DEEP), "the range of all frames"),
    ],
)
def test_wide_pixels_of_a_stack_are_in_one_range(tmp_path, pages, values, said):
    tifffile = pytest.importorskip("tifffile")
    photometric = "rgb" if pages.ndim == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric=photometric, byteorder=">")
    recording = read(tmp_path / "a.tif")
    assert recording.dtype == np.float32 and said in recording.notes[1]
    np.testing.assert_allclose(recording[:], values.reshape(*values.shape[:3], -1), atol=1e-6)


def packed(pages):
    """A TIFF of 12 bits per pixel, two pixels in three bytes, as cameras write it."""
    content, link = bytearray(b"II*\0\0\0\0\0"), 4
    for page in pages.astype(int):
        at, pairs = len(content), page.reshape(-1, 2)
        for a, b in pairs:
            content += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        struct.pack_into("<I", content, link, len(content))
        size = 3 * len(pairs)
        tags = {256: page.shape[1], 257: page.shape[0], 258: 12, 259: 1, 262: 1, 273: at, 277: 1, 278: 6, 279: size}
        content += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in tags)
        link = len(content)
        content += bytes(4)
    return bytes(content)


def test_twelve_bits_are_unpacked(tmp_path):
    (tmp_path / "a.tif").write_bytes(packed(DEEP))
    recording = read(tmp_path / "a.tif")
    np.testing.assert_allclose(recording[:][..., 0], DEEP / 4095, rtol=1e-6)


def test_what_only_tifffile_reads_says_how_to_install_it(tmp_path, monkeypatch):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", DEEP / 10)
    without_tifffile(monkeypatch)
    with pytest.raises(ValueError, match=r"a\.tif: Expected tifffile .*pip install 'recparam\[images\]'"):
        read(tmp_path / "a.tif")


def test_stacks_of_imagej_are_frames_in_time_or_one_sentence(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    for axes in ("TYX", "ZYX", "CYX"):
        tifffile.imwrite(tmp_path / "a.tif", BYTES, imagej=True, metadata={"axes": axes})
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[:][..., 0], BYTES)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([BYTES, BYTES], 1), imagej=True, metadata={"axes": "TCYX"})
    assert read(tmp_path / "a.tif").shape == (5, 6, 8, 2)
    assert read(tmp_path / "a.tif", grey=True).shape == (5, 6, 8, 1)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([BYTES, BYTES], 1), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match="pages that are frames in time; got axes TZYX"):
        read(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:  # each page a series of its own
        for page in BYTES:
            file.write(page, contiguous=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[:][..., 0], BYTES)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(BYTES[0])
        file.write(BYTES[1, :3])
    with pytest.raises(ValueError, match="pages of one size; got 8x6 and 8x3"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_pages_of_an_animation_are_frames_with_times(tmp_path, kind):
    options = {"lossless": True} if kind == "webp" else {}
    recording = read(saved(tmp_path / f"a.{kind}", COLOUR, duration=50, **options))
    np.testing.assert_allclose(recording.times, np.arange(5) * 0.05)
    assert recording.shape == COLOUR.shape
    if kind != "gif":  # which has 256 colours
        np.testing.assert_array_equal(recording[:], COLOUR)


def test_pages_of_several_files_follow_each_other(tmp_path):
    recording = read(folder(tmp_path / "a", [BYTES[0]]).parent / "a")
    saved(tmp_path / "a" / "1.tif", BYTES[1:])
    recording = read(tmp_path / "a")
    np.testing.assert_array_equal(recording[:][..., 0], BYTES)
    assert recording.notes[1] == "all pages of 2 files, as frames that follow each other"


@pytest.mark.parametrize("cut", [0, 100, -60])
def test_damaged_and_single_images_are_one_sentence(tmp_path, cut):
    path = saved(tmp_path / "a.tif", BYTES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tif: Expected whole images; got a\.tif, which is (damaged|cut off)"):
        read(path)
    with pytest.raises(ValueError, match=r"Expected an image of several pages, or a folder of images"):
        read(saved(tmp_path / "b.png", BYTES[:1]))


# Folders


def test_hidden_files_and_other_things_are_passed_over(tmp_path):
    path = folder(tmp_path / "a", COLOUR, "Frame{}.PNG")
    for name in ("._Frame0.PNG", ".DS_Store", "Thumbs.db", "notes.txt"):
        (path / name).write_bytes(b"no image")
    (path / "more.png").mkdir()
    recording = read(path)
    np.testing.assert_array_equal(recording[:], COLOUR)
    assert recording.notes == ("5 frames of 8x6 in colour",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["f1", "f2", "f3", "f10"], "6 frames are missing by their numbers, the first between f3.png and f10.png"),
        (["f1", "f2", "f4"], "1 frames are missing by their numbers, the first between f2.png and f4.png"),
        (["f010", "f020", "f040", "f050"], "1 frames are missing"),
        (["f1", "f01"], "numbers that come twice"),
        (["a1", "a2", "b1"], "names of several kinds, in their own order: a2.png is followed by b1.png"),
        (["f00", "f10", "f20"], None),
        (["day 2 f1", "day 2 f2"], None),
        (["2024-01-01 10-00-09", "2024-01-01 10-01-01"], None),
        (["x²1", "x²2"], None),
    ],
)
def test_what_numbers_in_names_say_is_said(tmp_path, names, said):
    for name, page in zip(names, BYTES, strict=False):
        saved(tmp_path / f"{name}.png", [page])
    notes = read(tmp_path).notes[1:]
    assert notes == () if said is None else said in notes[0]


def test_orientation_alpha_and_colours_are_honoured_and_said(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    turned = read(folder(tmp_path / "a", np.repeat(BYTES[..., None] // 64 * 64, 3, -1), "{}.tif", exif=exif))
    np.testing.assert_array_equal(turned[:][0], np.rot90(np.repeat(BYTES[0][..., None] // 64 * 64, 3, -1), -1))
    assert turned.notes[1] == "turned as the orientation in the file says"
    clear = np.concatenate([COLOUR, np.zeros_like(COLOUR[..., :1])], -1)
    clear[:, :3, :, 3] = 255
    recording = read(folder(tmp_path / "b", clear))
    np.testing.assert_array_equal(recording[:], np.where(np.arange(6)[None, :, None, None] < 3, COLOUR, 0))
    assert recording.notes[1] == "transparent pixels are black"
    recording = read(folder(tmp_path / "c", [Image.fromarray(one).convert("CMYK") for one in COLOUR], "{}.tif"))
    np.testing.assert_array_equal(recording[:], COLOUR)
    assert recording.notes[1] == "CMYK read as red, green and blue"
    for first, later in ((BYTES[0], COLOUR[0]), (COLOUR[0], BYTES[0])):  # colour is kept, whichever comes first
        path = folder(tmp_path / f"mixed{first.ndim}", [first, later])
        assert read(path).shape == (2, 6, 8, 3) and read(path).notes[1] == "grey and colour images together"
    assert read(folder(tmp_path / "d", [BYTES[0] > 128])).shape == (1, 6, 8, 1)


def test_sessions_of_wide_pixels_share_one_range(tmp_path):
    low = (DEEP // 8).astype(np.uint16)
    both = read([folder(tmp_path / "a", DEEP), folder(tmp_path / "b", low)])
    np.testing.assert_allclose(both[:][..., 0], np.concatenate([DEEP, low]) / 4095, rtol=1e-6)
    with pytest.raises(ValueError, match=r"sessions with frames of one kind; got a of more bits, c of 8 bits\. Con"):
        read([tmp_path / "a", folder(tmp_path / "c", BYTES)])
    assert read(tmp_path / "a", grey=False, size=4).shape == (5, 3, 4, 3)


def test_colours_of_16_bits_in_a_png_are_said_to_be_read_as_8(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOUR[0].astype(np.uint16) * 257)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "0.png").write_bytes(png)
    recording = read(tmp_path)
    np.testing.assert_array_equal(recording[:], COLOUR[:1])
    assert recording.notes[1] == "16 bits per colour, read as 8"


def test_a_folder_of_other_things_says_what_to_give(tmp_path):
    (tmp_path / "session 1").mkdir()
    with pytest.raises(ValueError, match=r"got none in it\. Choose a folder in it, as session 1"):
        read(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"got none in it\. Give the videos: each is a session"):
        read(tmp_path)


# Videos


def picture(k, height, width):
    """Red at the top left, green at the right."""
    shown = np.zeros((height, width, 3), np.uint8)
    shown[: height // 3, : width // 4, 0] = 200
    shown[:, -8:, 1] = 200
    return shown


def grey_picture(k, height, width):
    return (np.arange(height * width).reshape(height, width) % 4096).astype(np.uint16)


def video(
    path, *, size=(48, 64), codec="mpeg4", pixels="yuv420p", streams=1, times=None, draw=picture, turn=None, **more
):
    av = pytest.importorskip("av")
    kind = "rgb24" if draw is picture else "gray16le"
    with av.open(str(path), "w") as container:
        made = [container.add_stream(codec, rate=20) for _ in range(streams)]
        for stream in made:
            stream.height, stream.width, stream.pix_fmt = *size, pixels
            for name, value in more.items():
                setattr(stream.codec_context, name, value)
            if turn is not None:
                if not hasattr(stream, "set_display_rotation"):
                    pytest.skip("PyAV too old to write a turn")
                stream.set_display_rotation(turn[0], hflip=turn[1])
        for k in range(len(times or range(8))):
            frame = av.VideoFrame.from_ndarray(draw(k, *size), format=kind)
            frame.pts = k if times is None else times[k]
            for stream in made:
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_videos_are_turned_as_they_are_shown(tmp_path, degrees, mirrored):
    recording = read(video(tmp_path / "a.mp4", turn=(degrees, mirrored)))
    shown = np.rot90(picture(0, 48, 64), degrees // 90)  # counter-clockwise
    shown = shown[:, ::-1] if mirrored else shown
    assert recording.shape == (8, *shown.shape)
    assert np.abs(recording[:][0].astype(int) - shown).mean() < 5
    assert (len(recording.notes) > 1) == (degrees != 0 or mirrored)
    assert read(tmp_path / "a.mp4", size=32).shape[1:3] == tuple(side // 2 for side in shown.shape[:2])


def test_what_a_video_holds_besides_is_said(tmp_path):
    from fractions import Fraction

    path = video(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(4, 3), streams=2)
    assert read(path).notes[1:] == (
        "the first of 2 video streams; the others are not read",
        "pixels are shown 4/3 as wide as high, and read as square",
    )
    assert read(video(tmp_path / "a.mkv", size=(47, 63), codec="ffv1", pixels="bgr0")).shape == (8, 47, 63, 3)
    deep = read(video(tmp_path / "b.mkv", codec="ffv1", pixels="yuv420p10le"))
    assert deep.dtype == np.uint8 and deep.notes[1] == "10 bits per colour, read as 8"
    turned = read(video(tmp_path / "c.mp4", turn=(45, False)))
    assert turned.notes[1] == "turned by other than quarters when shown, read as stored"


@pytest.mark.parametrize("pixels", ["gray12le", "gray16le"])
def test_grey_videos_of_more_bits_keep_them(tmp_path, pixels):
    path = video(tmp_path / "a.mkv", codec="ffv1", pixels=pixels, draw=grey_picture)
    recording = read(path)
    assert recording.dtype == np.float32 and recording.shape == (8, 48, 64, 1)
    at = grey_picture(0, 48, 64)
    if pixels == "gray16le":
        np.testing.assert_allclose(recording[:][0, ..., 0], at / 4095, rtol=1e-5)
    assert len(np.unique(recording[:][0])) > 256 / 2
    assert read(path, grey=False).shape == (8, 48, 64, 3)


def test_uneven_times_of_a_video_are_kept(tmp_path):
    from fractions import Fraction

    times = [0, 50, 100, 400, 450, 500, 900, 950]
    recording = read(video(tmp_path / "a.mkv", times=times, time_base=Fraction(1, 1000)))
    np.testing.assert_allclose(recording.times, np.array(times) / 1000, atol=1e-3)


def test_files_without_pictures_are_one_sentence(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="Expected a video; got a file without pictures"):
        read(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="Expected a whole video; got one that is damaged"):
        read(tmp_path / "b.mp4")
