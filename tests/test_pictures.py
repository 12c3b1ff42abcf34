"""A folder of someone's own photographs: every kind of picture, every way to lay out folders, uneven classes."""

import io
import struct
import unicodedata
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_network, write_folder, write_image
from PIL import Image, ImageCms, TiffImagePlugin, features

from course_utils import DataError, ImageData, data, fit, load_data, load_folder, pictures

RED, WHITE = (220, 20, 30), (255, 255, 255)


@pytest.fixture(autouse=True)
def data_directory(tmp_path, monkeypatch):
    """Keep the caches of these tests in a directory of their own."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def decode(content: Image.Image | bytes, name: str, size: int = 16, shortest_side: int = 16, **options) -> np.ndarray:
    """Write a picture under a name into a temporary class folder; return its decoded bytes (size, size, 3)."""
    path = data.data_directory().parent / "part" / "a" / name
    write_image(path.parent.parent / "b" / "0.png", 1)
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, Image.Image):
        content.save(path, **options)
    else:
        path.write_bytes(content)
    return load_folder(path.parent.parent, size, shortest_side).images[0].permute(1, 2, 0).numpy()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode: str, left, right) -> Image.Image:
    """Return 16 x 16 pixels with one colour in the left half and another in the right."""
    image = Image.new(mode, (16, 16), left)
    image.paste(right, (8, 0, 16, 16))
    return image


# ------------------------------------------------------------------ kinds of pictures


def test_transparent_pixels_become_white():
    found = decode(halves("RGBA", (0, 0, 0, 0), (*RED, 255)), "0.png")
    assert (found[:, :8] == WHITE).all()
    assert (found[:, 8:] == RED).all()


def test_half_transparent_pixels_are_half_white():
    assert decode(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "0.png") == pytest.approx(127)
    assert decode(Image.new("LA", (16, 16), (0, 0)), "0.png") == pytest.approx(255)


@pytest.mark.parametrize("name", ["0.png", "0.gif"])
def test_the_transparent_colour_of_a_palette_becomes_white(name):
    image = halves("P", 0, 1)
    image.putpalette([0, 0, 0, *RED])
    found = decode(image, name, transparency=0)
    assert (found[:, :8] == WHITE).all()
    assert (found[:, 8:] == RED).all()


def test_a_colour_that_stands_for_transparent_becomes_white():
    found = decode(halves("RGB", (0, 0, 0), RED), "0.png", transparency=(0, 0, 0))
    assert (found[:, :8] == WHITE).all()
    assert (found[:, 8:] == RED).all()


def test_opaque_pixels_keep_each_value():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([every, every.T, 255 - every, np.full_like(every, 255)], -1)
    assert (decode(Image.fromarray(picture), "0.png") == picture[..., :3]).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_its_colours(kind):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # a JPEG of it is written inverted, as Adobe does
    content = encoded(cmyk, kind)
    assert (b"Adobe" in content) == (kind == "JPEG")
    assert np.abs(decode(content, "0.jpg").astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"), [("L", 77, (77,) * 3), ("1", 1, WHITE), ("YCbCr", (255, 128, 128), WHITE)]
)
def test_other_modes(mode, pixel, expected):
    image = Image.new(mode, (16, 16), pixel)
    # Pillow before 13 writes an uncompressed TIFF in YCbCr that it cannot read
    content = encoded(image, "TIFF", compression="tiff_lzw") if mode == "YCbCr" else encoded(image, "PNG")
    assert (decode(content, "0.png") == expected).all()


@pytest.mark.parametrize("name", ["0.png", "0.tif", "big-endian.tif", "32.tif"])
def test_16_bits_are_scaled_and_not_clipped(name):
    values = (257 * np.arange(256)).reshape(16, 16)
    kind = {"big-endian.tif": ">u2", "32.tif": np.int32}.get(name, np.uint16)
    found = decode(Image.fromarray(values.astype(kind)), name)
    assert (found == np.arange(256).reshape(16, 16, 1)).all()


@pytest.mark.parametrize("pixels", [np.float32([[0.5]]), np.int32([[70_000]]), np.int32([[-1]])])
def test_pixels_without_a_known_white_are_told(pixels):
    with pytest.raises(DataError, match=r"a/0\.tif \(its pixels are 32-bit numbers: save it with 8 or 16 bits\)"):
        decode(Image.fromarray(pixels), "0.tif")


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """Return values (16, 16, C) as a PNG with 16 bits, which Pillow can write for one channel only."""
    kind = {2: 4, 3: 2, 4: 6}[values.shape[-1]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    header = b"".join(side.to_bytes(4, "big") for side in (16, 16)) + bytes([16, kind, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_colours_of_16_bits(capsys):
    values = np.arange(256).reshape(16, 16, 1).repeat(3, 2) * 257
    assert (decode(sixteen_bit_png(values), "0.png") == np.arange(256).reshape(16, 16, 1)).all()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "big-endian.tif", "32.tif", "colour.png", "alpha.png"])
def test_16_bits_that_hold_fewer_are_told_with_their_range(capsys, kind, bits):
    highest = 2**bits - 1
    values = np.full((16, 16), highest // 2)
    values[0, 0] = highest
    dtype = {"big-endian.tif": ">u2", "32.tif": np.int32}.get(kind, np.uint16)
    if kind == "colour.png":
        content = sixteen_bit_png(np.stack([values, values // 2, 0 * values], -1))
    elif kind == "alpha.png":
        content = sixteen_bit_png(np.stack([values, values, values, np.full_like(values, 65535)], -1))
    else:
        content = encoded(Image.fromarray(values.astype(dtype)), Path(kind).suffix[1:].replace("tif", "tiff"))
    for _ in range(2):  # decoded, and from what was kept
        decode(content, "0.tif")
        told = capsys.readouterr().out
        assert "1 picture(s) under" in told
        assert f"have pixels of 16 bits, but none above {highest:,} of 65,535, such as" in told
        assert "a/0.tif: they are nearly black" in told
        assert f"gives {bits} bits, multiply the pixels by {2 ** (16 - bits)}" in told


@pytest.mark.parametrize("highest", [0, 2**14, 65535])
def test_16_bits_that_are_used_are_not_told(capsys, highest):
    decode(Image.fromarray(np.full((16, 16), highest, np.uint16)), "0.png")
    decode(Image.new("RGB", (16, 16), (9, 9, 9)), "1.png")  # dark, with 8 bits
    assert capsys.readouterr().out == ""


def test_a_file_that_says_how_many_bits_it_holds_is_scaled_by_that(capsys):
    values = np.linspace(0, 4095, 256).round().astype(int)
    assert (
        decode(b"P5 16 16 4095\n" + values.astype(">u2").tobytes(), "0.pgm").reshape(256, 3)[:, 0] == range(256)
    ).all()
    # a TIFF whose values take 12 bits each: two of them are three bytes
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    tags = [(256, 16), (257, 16), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 384)]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + 384) + packed.astype(np.uint8).tobytes()
    content += struct.pack("<H", len(tags)) + entries + bytes(4)
    assert (decode(content, "0.tif").reshape(256, 3)[:, 0] == range(256)).all()
    assert capsys.readouterr().out == ""


def test_more_kinds_that_are_read():
    red = Image.new("RGB", (16, 16), RED)
    lab = Image.new("LAB", (16, 16), (255, 128, 128))  # white
    assert decode(encoded(lab, "TIFF"), "0.tif") == pytest.approx(255, abs=1)
    left = halves("1", 0, 1)
    found = decode(encoded(left, "TIFF", compression="group4"), "0.tif")
    assert (found[:, :8] == 0).all() and (found[:, 8:] == 255).all()
    with_profile = encoded(red, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert (decode(with_profile, "0.png") == RED).all()
    assert (decode(encoded(red, "PNG") + b"what a phone wrote behind it", "0.png") == RED).all()
    several = encoded(red, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))], quality=100)
    assert np.abs(decode(several, "0.jpg").astype(int) - RED).max() < 8
    assert np.abs(decode(encoded(red, "JPEG", quality=100) + b"more", "1.jpg").astype(int) - RED).max() < 8


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif():
    found = decode(encoded(Image.new("RGB", (16, 16), RED), "AVIF", quality=100), "0.avif")
    assert np.abs(found.astype(int) - RED).max() < 8


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_a_moving_picture_gives_its_first(kind):
    first, second = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), (0, 0, 255))
    options = {} if kind != "webp" else {"lossless": True}
    found = decode(first, f"0.{kind}", save_all=True, append_images=[second], **options)
    assert (found == RED).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_photograph_is_turned_upright(kind, turn):
    upright = halves("RGB", RED, (0, 200, 0))
    upright.paste((0, 0, 200), (0, 8, 8, 16))
    lying = upright.rotate({1: 0, 3: 180, 6: 90, 8: -90}[turn])  # as the sensor saw it
    exif = Image.Exif()
    exif[0x0112] = turn
    found = decode(lying, f"0.{kind}", exif=exif).astype(int)
    for row, column in ((3, 3), (3, 12), (12, 3), (12, 12)):
        assert found[row, column] == pytest.approx(np.array(upright.getpixel((column, row))), abs=12)


def test_a_tall_photograph_that_lies_is_cropped_as_a_tall_one():
    lying = Image.new("RGB", (64, 16), WHITE)
    lying.paste(RED, (24, 0, 40, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (decode(lying, "0.png", exif=exif) == RED).all()


@pytest.mark.parametrize("notes", [b"no notes", b"MM\0*\0\0\0\x08\0\x05" + b"\xff" * 40])
def test_damaged_notes_in_a_photograph_do_no_harm(notes):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = decode(Image.new("RGB", (16, 16), RED), "0.png", exif=b"Exif\0\0" + notes)
    assert (found == RED).all()
    assert not told


# ------------------------------------------------------------------ odd sizes, odd files


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 10_000)])
def test_tiny_and_thin_pictures_take_little_memory(size, monkeypatch):
    resize, largest = Image.Image.resize, []
    monkeypatch.setattr(Image.Image, "resize", lambda im, to, *rest: largest.append(max(to)) or resize(im, to, *rest))
    found = decode(Image.new("RGB", size, RED), "0.png", 128, 160)
    assert found.shape == (128, 128, 3)
    assert (found == RED).all()
    assert max(largest) <= 16 * 160


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_of_a_thin_picture_is_kept(turned):
    picture = Image.new("RGB", (10_000, 2), WHITE)
    picture.paste(RED, (4999, 0, 5001, 2))
    found = decode(picture.transpose(Image.Transpose.ROTATE_90) if turned else picture, "0.png")
    assert (found[6:10, 6:10] == RED).all()


@pytest.mark.parametrize(("kind", "name"), [("PNG", "0.jpg"), ("JPEG", "0.png"), ("WEBP", "0.jpg"), ("JPEG", "0.jfif")])
def test_a_suffix_may_be_wrong(kind, name):
    content = encoded(Image.new("RGB", (16, 16), RED), kind, quality=100)
    assert np.abs(decode(content, name).astype(int) - RED).max() < 8


@pytest.mark.parametrize("name", ["empty.jpg", "text.png", "photo.HEIC"])
def test_files_that_cannot_be_read_are_named(name):
    with pytest.raises(
        DataError, match=rf"1 of 2 files could not be read as images:\n.*a/{name} \((?s:.*)save as JPEG"
    ):
        decode(b"" if name == "empty.jpg" else b"no picture", name)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_photograph_that_was_cut_off_is_named(keep):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, "JPEG")
    with pytest.raises(DataError, match=r"a/0\.jpg \(.*truncated"):
        decode(content[: int(keep * len(content))], "0.jpg")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {"compression": "tiff_adobe_deflate"})])
def test_a_picture_with_a_hole_is_named_and_not_black(kind, options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    whole = encoded(noise, kind, **options)
    middle = len(whole) // 3
    with pytest.raises(DataError, match=r"a/0\.png \("):
        decode(whole[:middle] + bytes(200) + whole[middle + 200 :], "0.png")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EOFError(), "EOFError"),
        (RuntimeError("decoding failed"), "decoding failed"),
        (MemoryError(), "there was not enough memory to decode it"),
    ],
)
def test_whatever_a_reader_raises_is_told_with_the_file(error, told, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(pictures, "_to_rgb", fail)
    with pytest.raises(DataError, match=rf"a/0\.png \({told}\)"):
        decode(Image.new("RGB", (16, 16)), "0.png")


def test_a_picture_too_large_to_decode_is_named(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 3000)  # more than the other picture has
    with pytest.raises(DataError, match=r"a/0\.png \(.*exceeds limit"):
        decode(Image.new("RGB", (64, 64)), "0.png")


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        ((12_000, 9_000), "jpg"),
        ((18_000, 10_000), "png"),
    ],
)
def test_photographs_of_many_megapixels_are_photographs(size, kind):
    photograph = Image.new("1" if kind == "png" else "L", size, 1 if kind == "png" else 255)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert (decode(photograph, f"0.{kind}") == 255).all()
    assert not told
    assert Image.MAX_IMAGE_PIXELS == limit  # for others it stays as it was


def test_pillow_warns_of_no_photograph_that_is_taken(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 6000)  # Pillow would warn from half of it on
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        decode(Image.new("RGB", (64, 64)), "0.png")
    assert not told


def test_what_pillow_says_about_large_pictures_is_for_others_as_before(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode(Image.new("RGB", (64, 64)), "0.png")
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_link_to_nowhere_is_named(tmp_path):
    root = write_folder(tmp_path / "pets") / "train"
    (root / "cat" / "9.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"1 of 7 files could not be read as images:\n.*cat/9\.jpg \(.*No such file"):
        load_folder(root, 16)
    assert len(load_folder(root, 16, skip_broken=True)) == 6


def test_ordinary_pictures_are_decoded_as_they_always_were(tmp_path):
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).resize((500, 331))
    for name in ("0.jpg", "0.png"):
        decode(photograph, name)
        with Image.open(tmp_path / "part" / "a" / name) as image:
            image.draft("RGB", (40, 40))
            small = image.resize([round(side * 40 / min(image.size)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (small.width - 32) // 2, (small.height - 32) // 2
        expected = np.asarray(small.crop((left, top, left + 32, top + 32)))
        assert np.array_equal(decode(photograph, name, 32, 40), expected)
        (tmp_path / "part" / "a" / name).unlink()


@pytest.mark.parametrize("change", ["DECODING", "PIL"])
def test_what_was_decoded_otherwise_is_not_used(tmp_path, monkeypatch, change):
    other_pillow = SimpleNamespace(__version__="0.1")
    root = write_folder(tmp_path / "pets") / "train"
    load_folder(root, 16)
    monkeypatch.setattr(pictures, change, getattr(pictures, change) + 1 if change == "DECODING" else other_pillow)
    decoded, real = [], pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda *rest: decoded.append(1) or real(*rest))
    load_folder(root, 16)
    load_folder(root, 16)
    assert decoded == [1]


# ------------------------------------------------------------------ folders


@pytest.mark.parametrize("deep", ["more", "more/and/more"])
def test_a_nested_folder_is_named(tmp_path, deep):
    root = write_folder(tmp_path / "pets")
    cat = root / "train" / "cat"
    write_image(cat / deep / "1.jpg", 1)
    with pytest.raises(DataError) as error:
        load_data(root, 16)
    told = f"the class folder {cat} holds images and a folder of images, {cat / 'more'}, which would not be read"
    assert str(error.value).startswith(f"{told}: move these images up into {cat}")


def test_a_class_folder_of_folders_says_so(tmp_path):
    write_folder(tmp_path / "train" / "pets")  # one folder too many: train/pets/train/cat/0.png
    with pytest.raises(
        DataError, match=r"class folder .*train/pets holds no images but a folder of images, .*pets/tra"
    ):
        load_folder(tmp_path / "train", 16)


def test_nested_folders_without_images_do_no_harm(tmp_path):
    root = write_folder(tmp_path / "pets") / "train"
    (root / "cat" / "notes").mkdir()
    (root / "cat" / "notes" / "day 1.txt").write_text("it slept")
    assert len(load_folder(root, 16)) == 6


def test_hidden_files_and_folders_are_ignored(tmp_path, capsys):
    root = write_folder(tmp_path / "pets") / "train"
    for folder in (".ipynb_checkpoints", "__MACOSX/cat", "cat/.ipynb_checkpoints", "cat/__MACOSX"):
        write_image(root / folder / "0.png", 1)
    for hidden in ("cat/._0.jpg", "._1.jpg", ".DS_Store"):
        (root / hidden).write_bytes(b"\0\5\x16\7 of macOS")
    found = load_folder(root, 16)
    assert (found.classes, len(found)) == (["cat", "dog"], 6)
    assert capsys.readouterr().out == ""


ENDINGS = {
    "a.jp2": "JPEG2000", "b.ppm": "PPM", "c.jpe": "JPEG", "d.tga": "TGA", "e": "JPEG", "f.jpg!large": "JPEG",
    "g.jpeg?w=640": "PNG", "h.JPG ": "JPEG", "i.pcx": "PCX", "j.sgi": "SGI", "k.dds": "DDS", "l.qoi": "QOI",
    "m.2": "WEBP", "n.bin": "BMP", "o.png_": "GIF",
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), ENDINGS.items())
def test_other_endings_are_read(capsys, name, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    found = decode(encoded(Image.new("RGB", (16, 16), RED), kind), name)
    assert np.abs(found.astype(int) - RED).max() < 16
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "kind"), [("c.jpe", "JPEG"), ("b.ppm", "PPM"), ("e", "PNG"), ("i.pcx", "PCX")])
def test_broken_files_with_other_endings_are_named(name, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(DataError, match=rf"1 of 2 files could not be read as images:\n.*a/{name} \("):
        decode(content[: len(content) // 2], name)


def preview_tiff() -> bytes:
    """Return what a camera's raw file begins with: a small preview, marked as reduced."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    return encoded(Image.new("RGB", (16, 16)), "TIFF", tiffinfo=tags)


OTHER_FILES = {
    "notes.txt": b"it slept",
    "labels.csv": b"a,b\n1,2\n",
    "IMG_1.jpg.json": b"{}",
    "film.mpg": b"\0\0\1\xb3\x10\0\x10\0",
    "table.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "logo.eps": encoded(Image.new("RGB", (4, 4)), "EPS"),
    "IMG_2.DNG": preview_tiff(),
    "paper.pdf": encoded(Image.new("RGB", (4, 4)), "PDF"),
    "empty": b"",
    "drawing.svg": b"<svg/>",
}


def test_files_that_are_no_pictures_are_named_and_counted(tmp_path, capsys, monkeypatch):
    root = write_folder(tmp_path / "pets") / "train"
    whole = load_folder(root, 16)
    for name, content in OTHER_FILES.items():
        (root / "dog" / name).write_bytes(content)
    (root / "cat" / "0 notes").write_text("they are before the pictures")
    assert capsys.readouterr().out == ""
    found = load_folder(root, 16)
    told = capsys.readouterr().out
    assert told.startswith(f"{len(OTHER_FILES) + 1} file(s) under {root} are no pictures that can be read; going on wi")
    for name in OTHER_FILES:
        assert f"  {root / 'dog' / name}\n" in told
    assert torch.equal(found.images, whole.images)
    assert torch.equal(found.labels, whole.labels)
    monkeypatch.setattr(pictures, "_decode", None)
    assert load_folder(root, 16).digest() == whole.digest()  # and from what was kept just so
    assert capsys.readouterr().out == told


def test_broken_files_and_other_files_are_counted_apart(tmp_path, capsys):
    root = write_folder(tmp_path / "pets") / "train"
    (root / "cat" / "notes.txt").write_text("it slept")
    (root / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 6 files could not be read as images"):
        load_folder(root, 16)
    assert load_folder(root, 16, skip_broken=True).labels.tolist() == [0, 0, 0, 1, 1]


def test_a_class_without_a_picture_is_told_with_what_it_holds(tmp_path):
    root = write_folder(tmp_path / "pets") / "train"
    for number in range(3):
        (root / "dog" / f"{number}.png").rename(root / "dog" / f"{number}.crw")
        (root / "dog" / f"{number}.crw").write_bytes(b"a raw format that Pillow does not know")
    with pytest.raises(DataError, match=r"no image of the class folder .*/dog could be read: it holds 3 .* '0.crw'"):
        load_folder(root, 16)


@pytest.mark.parametrize("name", [".IMG_1.jpg.icloud", ".IMG 2.HEIC.icloud"])
def test_a_place_holder_of_icloud_is_named(tmp_path, name):
    root = write_folder(tmp_path / "pets") / "train"
    (root / "cat" / name).write_bytes(b"bplist00")
    with pytest.raises(DataError, match=rf"1 of 7 files .*\n.*cat/{name} \(it lies in iCloud only: download it first"):
        load_folder(root, 16)
    assert len(load_folder(root, 16, skip_broken=True)) == 6
    (root / "cat" / name).rename(root / "cat" / ".notes.txt.icloud")
    assert len(load_folder(root, 16)) == 6


def test_what_systems_put_into_folders_is_ignored(tmp_path, capsys):
    root = write_folder(tmp_path / "pets") / "train"
    for name in ("Thumbs.db", "desktop.ini", "Icon\r", ".DS_Store", "._0.png", ".hidden.jpg"):
        (root / "cat" / name).write_bytes(b"of the system")
    write_image(root / "cat" / "@eaDir" / "0.jpg", 1)
    assert len(load_folder(root, 16)) == 6
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["0.ppm", "0"])
def test_pictures_with_other_endings_count_wherever_they_lie(tmp_path, name, capsys):
    picture = encoded(Image.new("RGB", (16, 16)), "PPM")
    root = write_folder(tmp_path / "pets") / "train"
    (root / name).write_bytes(picture)
    assert len(load_folder(root, 16)) == 6
    assert "1 image(s) directly in" in capsys.readouterr().out
    (root / "cat" / "more").mkdir()
    (root / "cat" / "more" / name).write_bytes(picture)
    with pytest.raises(DataError, match="cat holds images and a folder of images"):
        load_folder(root, 16)


@pytest.mark.parametrize(("link", "target"), [("cat/more", "cat"), ("cat/more", "."), ("bird", "."), ("bird", "..")])
def test_a_link_to_the_folder_it_lies_in_is_told(tmp_path, link, target):
    root = write_folder(tmp_path / "pets") / "train"
    (root / link).symlink_to(root / target, target_is_directory=True)
    with pytest.raises(DataError) as error:
        load_folder(root, 16)
    assert str(error.value) == (
        f"{root / link} is a link to {(root / target).resolve()}, the folder that it lies in: remove the link"
    )


@pytest.mark.parametrize("link", ["cat/0", "bird", "cat/0.jpg"])
def test_a_link_to_itself_is_told(tmp_path, link):
    root = write_folder(tmp_path / "pets") / "train"
    (root / link).symlink_to(root / link)
    with pytest.raises(DataError, match=f"^{root / link} is a link that leads to itself: remove the link$"):
        load_folder(root, 16)


def test_links_that_lead_elsewhere_are_followed(tmp_path):
    root = write_folder(tmp_path / "pets") / "train"
    (root / "dog").rename(tmp_path / "dogs")
    (root / "dog").symlink_to(tmp_path / "dogs", target_is_directory=True)
    assert load_folder(root, 16).classes == ["cat", "dog"]


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def test_an_accent_written_in_two_ways_is_one_class(tmp_path):
    root = write_folder(tmp_path / "pets", ("cafe", "cafz", NFC))
    (root / "val" / NFC).rename(root / "val" / NFD)
    train, val = load_data(root, 16)
    assert train.classes == val.classes == ["cafe", "cafz", NFC]  # in one order, too
    assert load_folder(root / "val", 16).labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    first = np.asarray(Image.open(root / "val" / NFD / "0.png").resize((25, 20), Image.Resampling.BILINEAR))[2:18, 4:20]
    assert np.array_equal(val.images[6].permute(1, 2, 0), first)


@pytest.mark.parametrize(("first", "second"), [(NFC, NFD), ("cat", "cat "), ("a cat", "a  cat")])
def test_two_folders_of_one_class_are_told(tmp_path, first, second):
    root = write_folder(tmp_path / "pets", (first, second))
    with pytest.raises(DataError) as error:
        load_data(root, 16)
    assert ascii(first) in str(error.value)
    assert ascii(second) in str(error.value)
    assert "two folders for one class" in str(error.value)


@pytest.mark.parametrize(
    ("other", "why"), [("cat ", "spaces only"), (" cat", "spaces only"), ("Cat", "capital letters")]
)
def test_class_names_that_look_alike_are_quoted(tmp_path, other, why):
    root = write_folder(tmp_path / "pets")
    (root / "val" / "cat").rename(root / "val" / other)
    with pytest.raises(DataError) as error:
        load_data(root, 16)
    assert f"'cat', {other!r} in one of them only" in str(error.value)
    assert f"'cat' and {other!r} differ in {why}" in str(error.value)


def test_names_with_capitals_and_signs(tmp_path):
    root = write_folder(tmp_path / "Pets", ("Cat", "$5", "dog [1]", "{x}", "50 %"))
    for part in ("train", "val"):
        (root / part / "Cat" / "1.png").rename(root / part / "Cat" / "1.PNG")
    for _ in range(2):
        train, val = load_data(root, 16)
        assert train.classes == val.classes == ["$5", "50 %", "Cat", "dog [1]", "{x}"]
        assert len(train) == 15


def test_images_next_to_the_class_folders_are_counted(tmp_path, capsys):
    root = write_folder(tmp_path / "pets") / "train"
    for number in range(3):
        write_image(root / f"{number}.jpg", number)
    assert len(load_folder(root, 16)) == 6
    assert capsys.readouterr().out == f"3 image(s) directly in {root} are not used: they lie in no class folder.\n"


def test_images_without_class_folders(tmp_path):
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.jpg", number)
    with pytest.raises(DataError, match=r"photos holds 3 image\(s\) but no class folders: make one for each class"):
        load_folder(tmp_path / "photos", 16)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"the folder .*photos could not be read \(.*No such file"):
        load_folder(tmp_path / "photos", 16)


@pytest.mark.parametrize(
    ("part", "other"), [("val", "test"), ("val", "valid"), ("val", "Validation"), ("train", "training")]
)
def test_a_part_under_another_name_is_not_used_but_told(tmp_path, part, other):
    root = write_folder(tmp_path / "pets")
    (root / part).rename(root / other)
    with pytest.raises(DataError) as error:
        load_data(root, 16)
    assert f"{root} has no folder '{part}'" in str(error.value)
    assert f"It has a folder '{other}': if that is meant, rename it to '{part}'" in str(error.value)


def test_a_folder_is_a_path_or_a_text(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(root)
    first, *others = (load_data(name, 16)[0] for name in (root, str(root), "~/pets", ".", Path()))
    for other in others:
        assert torch.equal(first.images, other.images)
        assert other.name == first.name == "pets"


# ------------------------------------------------------------------ few images, uneven classes


def test_one_image_a_class_is_enough(tmp_path):
    train, val = load_data(write_folder(tmp_path / "pets", count=1), 16)
    assert (len(train), len(val)) == (2, 2)
    assert len(fit(tiny_network(2), train, val, epochs=1, precision="float32")) == 1


def test_one_image_in_all_is_told(tmp_path):
    train, val = load_data(write_folder(tmp_path / "pets", count=1), 16)
    with pytest.raises(ValueError, match="there is 1 training image: batch norm needs at least two"):
        fit(tiny_network(2), train.subset(1), val, epochs=1, precision="float32")


def labelled(*labels: int) -> ImageData:
    return ImageData(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), torch.tensor(labels), list("abc"), "letters")


def test_rare_classes_weigh_more():
    uneven = labelled(0, 0, 0, 0, 0, 0, 1, 1, 1, 2)
    weights = uneven.class_weights()
    assert (weights.dtype, weights.shape) == (torch.float32, (3,))
    assert weights.tolist() == pytest.approx([10 / (3 * 6), 10 / (3 * 3), 10 / 3])
    assert weights[uneven.labels].mean().item() == pytest.approx(1)
    assert labelled(0, 1, 2).class_weights().tolist() == [1, 1, 1]


def test_a_class_without_images_has_no_weight():
    with pytest.raises(DataError, match="letters has no image of b, c among its 2, so there is no weight for it: take"):
        labelled(0, 0).class_weights()
