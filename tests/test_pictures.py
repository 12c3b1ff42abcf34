"""A folder of someone's own photographs: every kind of picture, every way to lay out folders, uneven classes."""

import io
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny_network, write_folder, write_image
from PIL import Image

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
    kind = "TIFF" if mode == "YCbCr" else "PNG"
    assert (decode(encoded(Image.new(mode, (16, 16), pixel), kind), "0.png") == expected).all()


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
