"""Images in memory: what is drawn, read, kept and handed out, and what is said when it cannot be."""

import hashlib
import io
import os
import pickle
import re
import tarfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from helpers import contents, tiny_network, write_folder, write_image
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10, MNIST, Imagenette

from course_utils import DataError, ImageData, data, evaluate, fit, load_data, load_folder, make_shapes

pytestmark = pytest.mark.sensitive


@pytest.fixture(autouse=True)
def data_directory(tmp_path, monkeypatch):
    """Keep caches and downloads of these tests in a directory of their own."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def wait_for_writing():
    for future in data._writing.values():
        future.result()


def cached(data_directory):
    wait_for_writing()
    return [path for path in (data_directory / "cache").glob("*.npy") if not path.name.endswith(".kept.npy")]


# ------------------------------------------------------------------ the built-in shapes


def test_same_seed_same_shapes():
    first, second, other = make_shapes(40, 32, 5), make_shapes(40, 32, 5), make_shapes(40, 32, 6)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, other.images)


def test_shapes_do_not_touch_the_random_numbers_of_others():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    make_shapes(10, 16, 0)
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()


@pytest.mark.parametrize("image_size", [8, 13, 32, 96, 224])
def test_shapes_at_any_size(image_size):
    shapes = make_shapes(23, image_size, 0)
    assert shapes.images.shape == (23, 3, image_size, image_size)
    assert shapes.images.dtype == torch.uint8
    assert shapes.images.is_contiguous(memory_format=torch.channels_last)
    assert shapes.labels.dtype == torch.int64
    assert len(shapes) == 23
    assert shapes.image_size == image_size
    assert len(set(shapes.classes)) == 10
    assert set(shapes.labels.tolist()) == set(range(10))
    # each image has two colours at least: something is drawn in it
    assert shapes.images.float().flatten(2).std(2).amax(1).min() > 15


def test_shapes_too_small_to_draw():
    with pytest.raises(DataError, match="at least 8 pixels a side, not 7"):
        make_shapes(10, 7, 0)


def test_shapes_take_about_a_second():
    start = time.process_time()
    train, val = load_data("shapes", 32)
    seconds = time.process_time() - start
    assert (len(train), len(val)) == (3000, 600)
    assert train.classes == val.classes
    assert torch.bincount(train.labels).tolist() == [300] * 10
    assert torch.bincount(val.labels).tolist() == [60] * 10
    assert seconds < 4


def test_train_and_val_shapes_share_no_image():
    train, val = load_data("shapes", 16)
    drawn = {image.tobytes() for image in train.images.numpy()}
    assert not drawn & {image.tobytes() for image in val.images.numpy()}


@pytest.fixture(scope="module")
def shapes():
    return load_data("shapes", 32)


def test_a_linear_model_fails_on_the_shapes(shapes):
    train, val = shapes
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    fit(model, train, val, epochs=5, learning_rate=0.01, precision="float32")
    accuracy = evaluate(model, val, precision="float32")["accuracy"]
    assert accuracy < 0.3


def test_a_small_network_does_well_on_the_shapes(shapes):
    train, val = shapes
    torch.manual_seed(0)
    layers, channels = [], 3
    for width in (16, 32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    history = fit(model, train, val, epochs=4, batch_size=32, learning_rate=0.05, precision="float32")
    assert history["val_accuracy"].iloc[-1] > 0.8
    assert history["seconds"].sum() < 30


# ------------------------------------------------------------------ batches


def numbered(count: int, image_size: int = 12, seed: int = 0) -> ImageData:
    """Return random images; `labels` number them, so that an order can be read from them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    return ImageData(images, torch.arange(count), [str(number) for number in range(count)], "numbered")


def order_of(batches) -> list[int]:
    return torch.cat([y for _, y in batches]).tolist()


def test_batches_in_order_without_a_generator():
    images = numbered(10)
    batches = list(images.batches(4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert order_of(batches) == list(range(10))
    for x, y in batches:
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x, images.images[y] / 255)


def test_a_generator_decides_the_order():
    images = numbered(50)
    first, again, other = (order_of(images.batches(7, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) == list(range(50))
    generator = torch.Generator().manual_seed(1)
    assert order_of(images.batches(7, generator)) != order_of(images.batches(7, generator))  # it moves on


def test_range_is_zero_to_one():
    images = numbered(2)
    images.images[0], images.images[1] = 0, 255
    ((x, _),) = images.batches(2)
    assert x[0].unique().tolist() == [0.0]
    assert x[1].unique().tolist() == [1.0]


def test_images_stay_as_they_are():
    images = numbered(6)
    before = images.images.clone()
    for x, _ in images.batches(3, torch.Generator().manual_seed(0), flip=True, crop=2):
        x.fill_(7)
    assert torch.equal(images.images, before)


def test_flip_mirrors_some_images_left_to_right():
    images = numbered(200)
    mirrored = 0
    for x, y in images.batches(64, torch.Generator().manual_seed(0), flip=True):
        assert x.is_contiguous(memory_format=torch.channels_last)
        for found, number in zip(x, y):
            plain = images.images[number] / 255
            mirror = torch.equal(found, plain.flip(-1))
            assert mirror or torch.equal(found, plain)
            mirrored += mirror
    assert 70 < mirrored < 130


def test_crop_shifts_each_image_by_its_own_offset():
    images, crop, seen = numbered(150), 3, set()
    for x, y in images.batches(64, torch.Generator().manual_seed(0), crop=crop):
        assert x.is_contiguous(memory_format=torch.channels_last)
        for found, number in zip(x, y):
            # a plain loop over every offset finds exactly one that gives this image
            padded = np.pad(images.images[number].numpy(), ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
            padded = torch.from_numpy(padded) / 255
            offsets = [
                (top, left)
                for top in range(2 * crop + 1)
                for left in range(2 * crop + 1)
                if torch.equal(found, padded[:, top : top + 12, left : left + 12])
            ]
            assert len(offsets) == 1
            seen |= set(offsets)
    assert len(seen) > 40  # of 49, the outermost ones among them
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(7))


def test_augmentation_follows_the_generator():
    images = numbered(30)

    def draw(seed):
        return torch.cat([x for x, _ in images.batches(8, torch.Generator().manual_seed(seed), flip=True, crop=2)])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_batches_of_another_size_are_pillows():
    images = make_shapes(6, 48, 0)
    (x, _), *rest = images.batches(6, image_size=20)
    assert not rest
    assert x.shape == (6, 3, 20, 20)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for found, image in zip(x, images.images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
        assert (found * 255).permute(1, 2, 0).numpy() == pytest.approx(np.asarray(picture), abs=1)
    smaller = images.resized(20)
    assert torch.equal(smaller.images.float() / 255, x)
    assert (smaller.image_size, smaller.classes, smaller.name) == (20, images.classes, "shapes")


def test_zoom_takes_a_random_part_of_each_image():
    # the value of a pixel tells its place: 4 x its row in red, 4 x its column in green
    row, column = torch.meshgrid(4 * torch.arange(60), 4 * torch.arange(60), indexing="ij")
    image = torch.stack([row, column, torch.zeros(60, 60)]).to(torch.uint8)
    images = ImageData(image.repeat(400, 1, 1, 1), torch.arange(400), list("ab"), "places")
    x = torch.cat([x for x, _ in images.batches(64, torch.Generator().manual_seed(0), zoom=0.25, image_size=30)])
    assert x.shape == (400, 3, 30, 30)
    assert x.is_contiguous(memory_format=torch.channels_last)
    places = 255 * x / 4
    # 30 pixels show a part: 29 steps between their middles
    height = 30 / 29 * (places[:, 0, -1] - places[:, 0, 0]).mean(1)
    width = 30 / 29 * (places[:, 1, :, -1] - places[:, 1, :, 0]).mean(1)
    share, aspect = height * width / 3600, width / height
    assert 0.2 < share.min() < 0.3
    assert 0.9 < share.max() <= 1.05  # wide parts of the whole area do not fit
    assert share.mean() == pytest.approx(0.625, abs=0.05)
    assert 0.7 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.45
    middle = places[:, :2].mean((2, 3))
    assert middle.min() < 20
    assert middle.max() > 40
    assert middle.mean() == pytest.approx(29.5, abs=1.5)


def test_zoom_of_the_whole_image_is_the_image():
    images = numbered(20)
    whole = torch.cat([x for x, _ in images.batches(8, zoom=1.0)])
    assert torch.equal(whole, images.images / 255)


@pytest.mark.parametrize("count", [1, 2, 10, 99, 100, 1000])
def test_subset_takes_each_image_once(count):
    subset = numbered(100, image_size=2).subset(count)
    numbers = subset.labels.tolist()
    assert len(subset) == min(count, 100)
    assert numbers == sorted(set(numbers))
    assert torch.equal(subset.images, numbered(100, image_size=2).images[subset.labels])


def test_subset_keeps_the_share_of_each_class():
    labels = torch.arange(10).repeat_interleave(50)  # sorted by class, as a folder is
    data_set = ImageData(torch.zeros(500, 3, 1, 1, dtype=torch.uint8), labels, list("abcdefghij"), "sorted")
    shares = torch.bincount(data_set.subset(100).labels, minlength=10)
    assert shares.min() >= 9
    assert shares.max() <= 11


# ------------------------------------------------------------------ folders of images


def test_a_folder_becomes_images(tmp_path):
    root = write_folder(tmp_path / "pets")
    train, val = load_data(str(root), 16)
    for part in (train, val):
        assert part.images.shape == (6, 3, 16, 16)
        assert part.images.dtype == torch.uint8
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        assert part.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert part.classes == ["cat", "dog"]
        assert part.name == "pets"
    assert not torch.equal(train.images, val.images)


def test_resize_and_centre_crop_are_pillows(tmp_path):
    path = write_image(tmp_path / "part" / "a" / "0.png", 1, size=(50, 40))
    write_image(tmp_path / "part" / "b" / "0.png", 2, size=(30, 60))
    found = load_folder(tmp_path / "part", 16, shortest_side=20)
    wide = Image.open(path).resize((25, 20), Image.Resampling.BILINEAR).crop((4, 2, 20, 18))
    assert np.array_equal(found.images[0].permute(1, 2, 0).numpy(), np.asarray(wide))
    tall = Image.open(tmp_path / "part" / "b" / "0.png").resize((20, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(found.images[1].permute(1, 2, 0).numpy(), np.asarray(tall.crop((2, 12, 18, 28))))


def test_an_image_of_the_right_size_is_only_cropped(tmp_path):
    path = write_image(tmp_path / "part" / "a" / "0.png", 1, size=(30, 20))
    write_image(tmp_path / "part" / "b" / "0.png", 2, size=(30, 20))
    found = load_folder(tmp_path / "part", 16)  # 1.25 times 16 is 20: nothing to resize
    assert np.array_equal(found.images[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(path))[2:18, 7:23])


def test_imagenette_class_names_are_words(tmp_path):
    for folder in ("n01440764", "n02979186"):
        write_image(tmp_path / "part" / folder / "0.png", 1)
    assert load_folder(tmp_path / "part", 16).classes == ["tench", "cassette player"]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("L", "png"), ("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png")),
        *(("LA", "png"), ("P", "png"), ("P", "gif"), ("1", "png")),
    ],
)
def test_images_of_other_kinds_become_rgb(tmp_path, mode, suffix):
    path = write_image(tmp_path / "part" / "a" / f"0.{suffix}", 1, size=(20, 20), mode=mode)
    write_image(tmp_path / "part" / "b" / "0.png", 2, size=(20, 20))
    with Image.open(path) as image:
        assert image.mode == mode  # the file is what this test says
        expected = np.asarray(image.convert("RGB"))[2:18, 2:18]
    found = load_folder(tmp_path / "part", 16).images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, expected)
    assert found.std() > 5


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "webp", "tiff", "PNG"])
def test_file_formats(tmp_path, suffix):
    write_image(tmp_path / "part" / "a" / f"0.{suffix}", 1)
    write_image(tmp_path / "part" / "b" / f"0.{suffix}", 1)
    assert len(load_folder(tmp_path / "part", 16)) == 2


def test_other_files_are_no_images(tmp_path):
    root = write_folder(tmp_path / "pets")
    (root / "train" / "README.txt").write_text("notes")
    (root / "train" / "cat" / "Thumbs.db").write_text("notes")
    assert len(load_folder(root / "train", 16)) == 6


# ------------------------------------------------------------------ what was decoded is kept


def forbid_decoding(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(data.Image, "open", refuse)


def count_decoding(monkeypatch):
    opened, real = [], Image.open
    monkeypatch.setattr(data.Image, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    return opened


def test_the_second_load_decodes_nothing(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets")
    first = load_data(str(root), 16)
    forbid_decoding(monkeypatch)
    for before, after in zip(first, load_data(str(root), 16)):
        assert torch.equal(before.images, after.images)
        assert torch.equal(before.labels, after.labels)
        assert before.classes == after.classes
        assert after.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("change", ["another size", "another resize", "new file", "file gone", "file replaced"])
def test_what_has_changed_is_decoded_again(tmp_path, monkeypatch, change):
    root = write_folder(tmp_path / "pets") / "train"
    before, options = load_folder(root, 16), (16,)
    match change:
        case "another size":
            options = (12, 20)
        case "another resize":
            options = (16, 24)
        case "new file":
            write_image(root / "cat" / "9.png", 77)
        case "file gone":
            (root / "cat" / "1.png").unlink()
        case "file replaced":
            write_image(root / "cat" / "1.png", 77)
    opened = count_decoding(monkeypatch)
    after = load_folder(root, *options)
    assert len(opened) == len(after)
    assert after.images.shape != before.images.shape or not torch.equal(after.images, before.images)


def test_a_file_replaced_by_one_of_the_same_size_is_decoded_again(tmp_path):
    root = write_folder(tmp_path / "pets") / "train"
    sizes = [write_image(root / "cat" / "9.bmp", 8).stat().st_size]
    before = load_folder(root, 16)
    sizes.append(write_image(root / "cat" / "9.bmp", 9).stat().st_size)
    assert sizes[0] == sizes[1]
    assert not torch.equal(load_folder(root, 16).images, before.images)


def test_two_halves_of_a_cache_that_do_not_fit_are_decoded_again(tmp_path, data_directory, monkeypatch):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    np.save(path.with_suffix(".kept.npy"), np.arange(4))
    opened = count_decoding(monkeypatch)
    assert torch.equal(load_folder(root, 16).images, before.images)
    assert len(opened) == 6


@pytest.mark.parametrize("keep", [0, 5, 60, 200, 0.5, -1])
@pytest.mark.parametrize("suffix", [".npy", ".kept.npy"])
def test_a_cache_that_was_cut_off_is_decoded_again(tmp_path, data_directory, monkeypatch, keep, suffix):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    path = path.with_suffix(suffix)
    whole = path.read_bytes()
    keep = int(keep * len(whole)) if isinstance(keep, float) else keep
    path.write_bytes(whole[:keep])
    if whole[:keep] != whole:
        opened = count_decoding(monkeypatch)
        after = load_folder(root, 16)
        assert len(opened) == 6
        assert torch.equal(after.images, before.images)
        wait_for_writing()
        assert path.read_bytes() == whole  # and kept again


def test_a_cache_of_garbage_is_decoded_again(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    path.write_bytes(b"not an array at all" * 9)
    assert torch.equal(load_folder(root, 16).images, before.images)


def test_no_half_written_cache_stands_under_the_final_name(tmp_path, data_directory, monkeypatch):
    root = write_folder(tmp_path / "pets") / "train"

    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.np, "save", full)
    assert len(load_folder(root, 16)) == 6
    wait_for_writing()
    assert not list((data_directory / "cache").glob("*.npy"))


def test_more_files_than_one_task_decodes(tmp_path):
    root = write_folder(tmp_path / "pets", count=70) / "train"
    (root / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 140 files could not be read as images:\n.*cat/0\.png"):
        load_folder(root, 16)
    pets = load_folder(root, 16, skip_broken=True)
    assert pets.labels.tolist() == [0] * 69 + [1] * 70
    first, last = (np.asarray(Image.open(root / name).resize((25, 20), Image.Resampling.BILINEAR)) for name in
                   ("cat/1.png", "dog/9.png"))  # fmt: skip
    for image, whole in ((pets.images[0], first), (pets.images[-1], last)):  # files are sorted by name: 9 is last
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(whole[2:18, 4:20].copy()))


def test_loading_again_waits_until_the_cache_is_written(tmp_path, data_directory, monkeypatch):
    root = write_folder(tmp_path / "pets") / "train"
    write = data._write_cache
    monkeypatch.setattr(data, "_write_cache", lambda *rest: (time.sleep(0.5), write(*rest)))
    before = load_folder(root, 16)
    assert not list((data_directory / "cache").glob("*.npy"))  # training may begin meanwhile
    forbid_decoding(monkeypatch)
    assert torch.equal(load_folder(root, 16).images, before.images)


def test_a_cache_that_cannot_be_written_is_told_and_training_goes_on(tmp_path, data_directory, capsys):
    root = write_folder(tmp_path / "pets") / "train"
    data_directory.write_text("a file where the directory should be")
    assert len(load_folder(root, 16)) == 6
    wait_for_writing()
    told = capsys.readouterr().out
    assert "could not be kept in" in told
    assert str(data_directory / "cache") in told
    assert "they stay in memory" in told


# ------------------------------------------------------------------ broken input


def test_unknown_name():
    with pytest.raises(DataError, match="no data set 'imagenete': use 'imagenette', 'cifar10', .* or a folder"):
        load_data("imagenete", 16)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_is_missing(tmp_path, part):
    root = write_folder(tmp_path / "pets")
    (root / part).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"pets has no folder '{part}': it needs train/ and val/"):
        load_data(str(root), 16)


def test_an_empty_class_folder_is_named(tmp_path):
    root = write_folder(tmp_path / "pets")
    (root / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"class folder .*train/bird holds no images: fill it or remove it"):
        load_data(str(root), 16)


@pytest.mark.parametrize(("count", "classes"), [(1, ("cat",)), (0, ())])
def test_fewer_than_two_classes(tmp_path, count, classes):
    root = write_folder(tmp_path / "pets", classes)
    (root / "train").mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=rf"train holds {count} class folder\(s\): a classifier needs at least two"):
        load_folder(root / "train", 16)


def test_different_classes_are_named(tmp_path):
    root = write_folder(tmp_path / "pets")
    write_image(root / "train" / "bird" / "0.png", 1)
    write_image(root / "val" / "fish" / "0.png", 1)
    before = contents(root)
    with pytest.raises(DataError, match="different classes: bird, fish in one of them only. Give both the same"):
        load_data(str(root), 16)
    assert contents(root) == before


def break_two(root):
    """Cut one image in half and put a text in the place of another."""
    cut = write_image(root / "train" / "cat" / "cut.jpg", 5, size=(64, 64))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text = root / "train" / "dog" / "text.jpg"
    text.write_text("this is not an image")
    return cut, text


def test_broken_images_are_named_and_counted(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets")
    cut, text = break_two(root)
    before = contents(root)
    with pytest.raises(DataError) as error:
        load_data(str(root), 16)
    told = str(error.value)
    assert "2 of 8 files could not be read as images" in told
    assert f"{cut} (" in told
    assert f"{text} (" in told
    assert "truncated" in told.lower()
    assert "0.png" not in told
    assert "pass skip_broken=True to go on without them" in told
    assert contents(root) == before
    assert not cached(data_directory)


def test_broken_images_are_left_out_when_asked(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "pets")
    whole = load_data(str(root), 16)[0]
    cut, text = break_two(root)
    before = contents(root)
    train, val = load_data(str(root), 16, skip_broken=True)
    told = capsys.readouterr().out
    assert "2 of 8 files could not be read as images" in told
    assert str(cut) in told
    assert str(text) in told
    assert "Going on without them" in told
    assert torch.equal(train.images, whole.images)
    assert torch.equal(train.labels, whole.labels)
    assert contents(root) == before
    forbid_decoding(monkeypatch)  # and from the cache just so
    again = load_data(str(root), 16, skip_broken=True)[0]
    assert "2 of 8 files" in capsys.readouterr().out  # and it is told each time
    assert torch.equal(again.images, whole.images)
    assert torch.equal(again.labels, whole.labels)


def test_skipping_once_does_not_hide_broken_images_later(tmp_path):
    root = write_folder(tmp_path / "pets")
    break_two(root)
    load_data(str(root), 16, skip_broken=True)
    with pytest.raises(DataError, match="2 of 8 files"):
        load_data(str(root), 16)


def test_a_class_of_broken_images_only(tmp_path):
    root = write_folder(tmp_path / "pets")
    for path in (root / "train" / "dog").iterdir():
        path.write_text("this is not an image")
    with pytest.raises(DataError, match=r"no image of the class folder .*train/dog could be read"):
        load_data(str(root), 16, skip_broken=True)


def test_many_broken_images_are_counted_and_twenty_named(tmp_path):
    for name in ("a", "b"):
        for number in range(15):
            path = tmp_path / "part" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("this is not an image")
    with pytest.raises(DataError, match="30 of 30 files") as error:
        load_folder(tmp_path / "part", 16)
    assert str(error.value).count(".jpg (") == 20


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tiff"])
def test_an_image_cut_off_anywhere_is_a_data_error(tmp_path, suffix):
    path = write_image(tmp_path / "part" / "a" / f"0.{suffix}", 1, size=(48, 40))
    write_image(tmp_path / "part" / "b" / "0.png", 2)
    whole = path.read_bytes()
    for length in [*range(0, 40, 3), *np.linspace(40, 0.9 * len(whole), 15).astype(int)]:
        path.write_bytes(whole[:length])
        os.utime(path, ns=(length, length))
        try:  # a decoder may fill in what is missing; it may not fail in a way of its own
            load_folder(tmp_path / "part", 16)
        except DataError as error:
            assert str(path) in str(error), length


# ------------------------------------------------------------------ Imagenette, as its publisher would send it


class Publisher(ThreadingHTTPServer):
    """A server on this machine that sends one archive, or only a part of it."""

    def __init__(self, archive: bytes):
        self.archive, self.sent_part, self.requests = archive, 1.0, 0
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.archive)))
        self.end_headers()
        self.wfile.write(self.server.archive[: int(self.server.sent_part * len(self.server.archive))])

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """Serve an edition of Imagenette with two classes and three images each."""
    write_folder(tmp_path / "publisher" / "imagenette2-160", ("n01440764", "n02102040"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "publisher" / "imagenette2-160", "imagenette2-160")
    server = Publisher(buffer.getvalue())
    server.digest = hashlib.md5(server.archive).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/imagenette2-160.tgz"
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {"160px": (url, server.digest)})
    monkeypatch.setattr(data, "IMAGENETTE_COUNTS", {"train": 6, "val": 6})
    # torchvision looks for its own samples, which end in .jpeg; these are .png
    monkeypatch.setattr("torchvision.datasets.imagenette.make_dataset", lambda *_, **__: [])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_imagenette_is_fetched_once(publisher, data_directory, capsys, monkeypatch):
    train, val = load_data("imagenette", 16)
    told = capsys.readouterr().out
    assert "fetching Imagenette (about 100 MB) from its publisher" in told
    assert str(data_directory / "imagenette2-160") in told
    assert train.name == val.name == "imagenette"
    assert train.classes == ["tench", "English springer"]
    assert (len(train), len(val)) == (6, 6)
    requests = publisher.requests
    forbid_decoding(monkeypatch)
    load_data("imagenette", 16)
    assert publisher.requests == requests
    assert "fetching" not in capsys.readouterr().out


def test_no_network_and_no_data(publisher, data_directory, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError) as error:
        load_data("imagenette", 16)
    told = str(error.value)
    assert "Imagenette could not be fetched" in told
    assert "Name or service not known" in told
    assert f"put the unpacked folder at {data_directory / 'imagenette2-160'}" in told
    assert "COURSE_DATA" in told
    assert "scale = 'smoke'" in told


def test_the_way_out_without_network_works(publisher, data_directory, tmp_path, monkeypatch):
    data_directory.mkdir()
    (tmp_path / "publisher" / "imagenette2-160").rename(data_directory / "imagenette2-160")
    assert len(load_data("imagenette", 16)[0]) == 6
    assert publisher.requests == 0


@pytest.mark.parametrize("sent_part", [0.0, 0.3, 0.99])
def test_a_download_that_is_cut_off(publisher, data_directory, sent_part):
    publisher.sent_part = sent_part
    with pytest.raises(DataError) as error:
        load_data("imagenette", 16)
    told = str(error.value)
    archive = data_directory / "imagenette2-160.tgz"
    assert f"delete {archive} and run this again" in told
    assert not (data_directory / "imagenette2-160").exists()  # nothing half unpacked
    # the way out that the message names
    archive.unlink(missing_ok=True)
    publisher.sent_part = 1.0
    assert len(load_data("imagenette", 16)[0]) == 6


def test_a_download_with_a_wrong_checksum(publisher, data_directory):
    publisher.archive = bytes([publisher.archive[0] ^ 1]) + publisher.archive[1:]
    with pytest.raises(DataError, match="its checksum is wrong, delete .*imagenette2-160.tgz and run this again"):
        load_data("imagenette", 16)
    assert not (data_directory / "imagenette2-160").exists()


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_unpacking_that_was_cut_off(publisher, data_directory, part):
    load_data("imagenette", 16)
    root = data_directory / "imagenette2-160"
    (root / part / "n02102040" / "2.png").unlink()
    before = contents(root)
    with pytest.raises(DataError) as error:
        load_data("imagenette", 16)
    told = str(error.value)
    assert f"{root}/{part} holds 5 of 6 files: the unpacking was cut off" in told
    assert f"Delete {root} and run this again" in told
    assert contents(root) == before


def test_large_images_take_the_large_edition(tmp_path, data_directory, monkeypatch):
    monkeypatch.setattr(data, "IMAGENETTE_COUNTS", {"train": 6, "val": 6})
    small = write_folder(data_directory / "imagenette2-160", ("n01440764", "n02102040"))
    large = write_folder(data_directory / "imagenette2-320", ("n01440764", "n02102040"))
    assert data._imagenette(160) == small
    assert data._imagenette(161) == large
    assert data._imagenette(280) == large


def test_the_counts_are_those_of_imagenette():
    assert data.IMAGENETTE_COUNTS == {"train": 9469, "val": 3925}
    assert re.fullmatch("[0-9a-f]{32}", Imagenette._ARCHIVES["160px"][1])


def test_tiny_network_sees_a_folder(tmp_path):
    train, val = load_data(str(write_folder(tmp_path / "pets")), 16)
    history = fit(tiny_network(2), train, val, epochs=1, batch_size=4, precision="float32")
    assert len(history) == 1


# ------------------------------------------------------------------ MNIST and CIFAR-10


def write_mnist(root):
    """Write MNIST's four files with five and three images, whose pixels have the value of their number."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        pixels = np.arange(count, dtype=np.uint8).repeat(28 * 28).tobytes()
        header = b"".join(number.to_bytes(4, "big") for number in (2051, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = b"".join(number.to_bytes(4, "big") for number in (2049, count)) + bytes(range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def test_mnist_has_one_channel(data_directory):
    write_mnist(data_directory)
    train, val = load_data("mnist", 28)
    assert (train.images.shape, val.images.shape) == ((5, 1, 28, 28), (3, 1, 28, 28))
    assert (train.images == torch.arange(5).view(5, 1, 1, 1)).all()
    assert (train.labels.tolist(), train.name) == ([0, 1, 2, 3, 4], "mnist")
    assert train.classes[3] == "3 - three"
    x, y = next(train.batches(4, torch.Generator().manual_seed(0), flip=True, crop=2, image_size=20))
    assert x.shape == (4, 1, 20, 20)
    assert (255 * x).round().int().flatten(1).unique(dim=1).flatten().tolist() == y.tolist()
    assert load_data("mnist", 14)[0].images.shape == (5, 1, 14, 14)


@pytest.fixture
def cifar10_publisher(tmp_path, monkeypatch):
    """An archive like CIFAR-10's with 4 images in each of its six files, behind a mirror that has none."""
    folder = tmp_path / "publisher" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    sums = {}
    for number, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]):
        content = {"data": np.full((4, 3072), number, np.uint8), "labels": [0, 1, 2, 3]}
        if name == "batches.meta":
            content = {"label_names": list("abcdefghij")}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    archive = tmp_path / "publisher" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[n, s] for n, s in sums.items() if n.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    server = Publisher(archive.read_bytes())
    url = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
    monkeypatch.setattr(data, "CIFAR10_MIRRORS", ("http://127.0.0.1:9/cifar-10-python.tar.gz", url))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_cifar10_comes_from_the_next_mirror(cifar10_publisher, data_directory, capsys):
    train, val = load_data("cifar10", 32)
    told = capsys.readouterr().out
    assert "http://127.0.0.1:9/cifar-10-python.tar.gz did not give CIFAR-10" in told
    assert f"{data_directory / 'cifar-10-batches-py'} is not there yet; fetching cifar10 (about 170 MB)." in told
    assert "trying its first publisher, which is slow" in told
    assert (train.images.shape, val.images.shape) == ((20, 3, 32, 32), (4, 3, 32, 32))
    assert train.images[:, 0, 0, 0].tolist() == [n for n in range(5) for _ in range(4)]
    assert (train.classes, train.name, val.labels.tolist()) == (list("abcdefghij"), "cifar10", [0, 1, 2, 3])
    requests = cifar10_publisher.requests
    assert len(load_data("cifar10", 32)[0]) == 20
    assert cifar10_publisher.requests == requests  # it is not fetched again
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "file"), [("cifar10", "cifar-10-python.tar.gz"), ("mnist", "MNIST/raw")])
def test_no_network_and_no_cifar10_or_mnist(name, file, cifar10_publisher, data_directory, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(data, "CIFAR10_MIRRORS", ("http://127.0.0.1:9/a.tar.gz", "http://127.0.0.1:9/b.tar.gz"))
    with pytest.raises(DataError) as error:
        load_data(name, 32)
    told = str(error.value)
    assert f"{name} could not be fetched" in told
    assert f"put {file}" in told
    assert str(data_directory) in told
    assert "COURSE_DATA" in told


def test_cifar10_as_a_folder_of_images(data_directory):
    write_folder(data_directory / "cifar10")
    train, val = load_data("cifar10", 32)
    assert (train.images.shape, train.classes, val.name) == ((6, 3, 32, 32), ["cat", "dog"], "cifar10")
