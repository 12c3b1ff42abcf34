"""Images in memory: what is drawn, read, kept and handed out, and what is said when it cannot be."""

import hashlib
import io
import json
import os
import pickle
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from helpers import ROOT, contents, tiny_network, write_folder, write_image
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10, MNIST, Imagenette

from course_utils import DataError, ImageData, data, evaluate, fit, load_data, load_folder, make_shapes, pictures

pytestmark = pytest.mark.sensitive


@pytest.fixture(autouse=True)
def data_directory(tmp_path, monkeypatch):
    """Keep caches and downloads of these tests in a directory of their own."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def cached(data_directory):
    return list((data_directory / "cache").glob("*"))


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
    images = ImageData(image.repeat(400, 1, 1, 1), torch.arange(400), [], "places")
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


# ------------------------------------------------------------------ what a set of images may hold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floats_from_0_to_1_are_taken_as_they_are(dtype):
    images = numbered(20)
    floats = ImageData((images.images / 255).to(dtype), images.labels, images.classes, "floats")
    options = {"flip": True, "crop": 2, "zoom": 0.5, "image_size": 10}
    for chosen in ({}, options):
        ours = torch.cat([x for x, _ in floats.batches(8, torch.Generator().manual_seed(0), **chosen)])
        theirs = torch.cat([x for x, _ in images.batches(8, torch.Generator().manual_seed(0), **chosen)])
        assert ours.dtype == torch.float32
        # bytes are rounded once more where they are resized
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(0.004 if chosen else 0) + torch.finfo(dtype).eps)
    assert torch.equal(floats.resized(8).images.float() <= 1.0001, torch.ones(20, 3, 8, 8, dtype=torch.bool))


def test_batches_of_floats_leave_the_images_as_they_are():
    floats = ImageData(torch.rand(6, 3, 4, 4), torch.arange(6), [], "floats")
    before = floats.images.clone()
    for x, _ in floats.batches(6):
        x.fill_(7)
    assert torch.equal(floats.images, before)


FLOATS = torch.rand(4, 3, 2, 2)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (255 * torch.ones(4, 3, 2, 2), "the images of odd are floats from 255 to 255, but must lie between 0 and 1"),
        (FLOATS - 2, "floats from -[12].* divide by 255 what goes up to 255, and cut off .* images.clamp"),
        (FLOATS + 0.5 - FLOATS.min(), r"floats from 0\.5 to"),
        (torch.full((4, 3, 2, 2), torch.nan), "floats from nan to nan"),
        (torch.ones(4, 3, 2, 2).long(), r"images of odd are torch.int64: make them bytes .* images.to\(torch.uint8\)"),
        (torch.ones(4, 3, 2, 2).bool(), "images of odd are torch.bool"),
        (torch.ones(4, 3, 2, 2).to(torch.int8), "images of odd are torch.int8"),
        (torch.ones(4, 3, 2).byte(), r"must be a tensor of the shape \(N, C, H, W\), not \(4, 3, 2\)"),
        (np.ones((4, 3, 2, 2), np.uint8), r"must be a tensor of the shape \(N, C, H, W\), not ndarray"),
    ],
)
def test_other_images_are_refused(images, told):
    with pytest.raises(DataError, match=told):
        ImageData(images, torch.arange(4), list("abcd"), "odd")
    changed = ImageData(torch.ones(4, 3, 2, 2), torch.arange(4), list("abcd"), "odd")
    changed.images = images  # and where they come later
    with pytest.raises(DataError, match=told):
        next(changed.batches(2))


def test_images_changed_in_place_are_looked_at_again():
    floats = ImageData(torch.ones(4, 3, 2, 2), torch.arange(4), [], "floats")
    floats.images[3, 2, 1, 1] = 1.5
    with pytest.raises(DataError, match=r"floats from 1 to 1\.5"):
        next(floats.batches(2))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (torch.arange(1, 5), r"labels of odd go from 1 to 4, but there are 4 classes: .* from 0 to 3 \(subtract 1\)"),
        (
            torch.arange(4) - 1,
            "labels of odd go from -1 to 2, but there are 4 classes: they must be numbers from 0 to 3$",
        ),
        (torch.tensor([0, 1, 2, 255]), "labels of odd go from 0 to 255, but there are 4 classes"),
        (torch.arange(4).int(), r"not torch.int32 of the shape \(4,\): try labels.long\(\)"),
        (torch.arange(4).byte(), "not torch.uint8"),
        (torch.arange(4.0), "not torch.float32"),
        (torch.eye(4), r"not torch.float32 of the shape \(4, 4\)"),
        (torch.zeros(4, 1).long(), r"not torch.int64 of the shape \(4, 1\)"),
        ([0, 1, 2, 3], r"not list: try torch.tensor\(labels\)"),
        (torch.arange(3), "odd has 4 images but 3 labels"),
    ],
)
def test_other_labels_are_refused(labels, told):
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match=told):
        ImageData(images, labels, list("abcd"), "odd")
    changed = ImageData(images, torch.arange(4), list("abcd"), "odd")
    changed.labels = labels
    with pytest.raises(DataError, match=told):
        next(changed.batches(2))


def test_a_set_may_be_empty_and_classes_may_have_no_names():
    empty = ImageData(torch.zeros(0, 3, 2, 2), torch.zeros(0).long(), ["a"], "empty")
    assert list(empty.batches(2)) == []
    assert len(empty.digest()) == 16
    assert len(ImageData(torch.zeros(2, 3, 2, 2), torch.tensor([0, 9]), [], "no names")) == 2


def test_the_digest_is_of_the_content_whatever_the_layout():
    images = numbered(600)
    digest = images.digest()
    assert len(digest) == 16
    assert set(digest) <= set("0123456789abcdef")
    room = torch.zeros(600, 5, 12, 24, dtype=torch.uint8)
    room[:, 1:4, :, ::2] = images.images
    for same in (images.images.contiguous(), images.images.clone(), room[:, 1:4, :, ::2]):
        assert ImageData(same, images.labels.clone(), list(images.classes), "another name").digest() == digest
    every_other = ImageData(images.images[::2], images.labels[::2], images.classes, "half")
    copied = ImageData(every_other.images.clone(), every_other.labels.clone(), images.classes, "half")
    assert every_other.digest() == copied.digest()
    assert every_other.digest() != digest


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (599, 2, 11, 11), (300, 1, 5, 7)])
def test_every_pixel_counts_for_the_digest(place, layout):
    images = numbered(600)
    before = images.digest()
    images.images = images.images.contiguous(memory_format=layout)
    images.images[place] += 1
    assert images.digest() != before


def test_what_else_counts_for_the_digest():
    labels, black = torch.arange(4) % 2, torch.zeros(4, 3, 2, 6, dtype=torch.uint8)

    def digest(images=black, labels=labels, classes=("cat", "dog")):
        return ImageData(images, labels, list(classes), "pets").digest()

    found = [
        digest(), digest(labels=1 - labels), digest(classes=("dog", "cat")), digest(classes=("cat", "doc")),
        digest(classes=("cat", "dog", "")), digest(black.view(4, 3, 6, 2)), digest(black.view(4, 6, 2, 3)),
        digest(black.float()), digest(black.half()), digest(black.bfloat16()), digest(black[:2], labels[:2]),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    assert digest() == digest()


def test_the_digest_of_half_a_gigabyte_takes_less_than_a_second():
    # all rows are one in memory; the work is that of 464 MB
    images = torch.zeros(1, 96, 96, 3, dtype=torch.uint8).expand(16_800, -1, -1, -1).permute(0, 3, 1, 2)
    large = ImageData(images, torch.zeros(16_800).long(), ["a"], "large")
    start = time.process_time()
    large.digest()
    assert time.process_time() - start < 3  # of all cores together; here it was 0.3


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), r"\(red\) have 3 channel\(s\) .* \(grey\) 1: give both"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4), r"\(red\) have 1 channel\(s\) .* \(grey\) 3: give both"),
    ],
)
def test_training_and_validation_with_other_channels(ours, theirs, told):
    labels = torch.arange(2)
    with pytest.raises(DataError, match=told):
        data.check_pair(ImageData(ours, labels, ["a", "b"], "red"), ImageData(theirs, labels, ["a", "b"], "grey"))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (["a", "b"], ["b", "a"], "x and y have different classes: in another order"),
        (
            ["cat", "dog"],
            ["cat ", "dog"],
            "'cat', 'cat ' in one of them only. .* 'cat' and 'cat ' differ in spaces only",
        ),
        (["Cat", "dog"], ["cat", "dog"], "'Cat', 'cat' in one of them only. .* differ in capital letters only"),
        (["cat", "dog"], ["cat", "fish"], "'dog', 'fish' in one of them only. Give both the same folders.$"),
    ],
)
def test_training_and_validation_with_other_classes(ours, theirs, told):
    images, labels = torch.zeros(2, 3, 4, 4), torch.arange(2)
    with pytest.raises(DataError, match=told):
        data.check_pair(ImageData(images, labels, ours, "x"), ImageData(images, labels, theirs, "y"))
    data.check_pair(ImageData(images, labels, ours, "x"), ImageData(images[..., :2], labels, list(ours), "y"))


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

    monkeypatch.setattr(pictures.Image, "open", refuse)


def count_decoding(monkeypatch):
    opened, real = [], Image.open
    monkeypatch.setattr(pictures.Image, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
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


@pytest.mark.parametrize("part", range(3))
def test_a_cache_of_another_number_of_images_is_decoded_again(tmp_path, data_directory, monkeypatch, part):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    with open(path, "rb") as file:
        arrays = [np.load(file) for _ in range(3)]
    arrays[part] = arrays[part][:4]
    with open(path, "wb") as file:
        for array in arrays:
            np.save(file, array)
    opened = count_decoding(monkeypatch)
    assert torch.equal(load_folder(root, 16).images, before.images)
    assert len(opened) == 6


@pytest.mark.parametrize("keep", [0, 5, 60, 200, 0.5, 0.99, -1])
def test_a_cache_that_was_cut_off_is_decoded_again(tmp_path, data_directory, monkeypatch, keep):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    opened = count_decoding(monkeypatch)
    after = load_folder(root, 16)
    assert len(opened) == 6
    assert torch.equal(after.images, before.images)
    assert path.read_bytes() == whole  # and kept again


def test_a_cache_of_garbage_is_decoded_again(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets") / "train"
    before = load_folder(root, 16)
    (path,) = cached(data_directory)
    path.write_bytes(b"not an array at all" * 9)
    assert torch.equal(load_folder(root, 16).images, before.images)


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


def test_it_is_kept_when_loading_returns_and_by_no_thread(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets")
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    load_data(root, 16)
    assert {path.suffix for path in cached(data_directory)} == {".npy"}
    assert len(cached(data_directory)) == 2
    assert {thread for thread in threading.enumerate() if not thread.daemon} == before


def test_pixels_changed_in_place_are_not_kept(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets")
    sets = load_data(root, 16)
    whole = [part.images.clone() for part in sets]
    for part in sets:
        part.images[:] = 0
        part.labels[:] = 0
    forbid_decoding(monkeypatch)
    for _ in range(2):
        again = load_data(root, 16)
        for part, images in zip(again, whole):
            assert torch.equal(part.images, images)
            assert part.labels.tolist() == [0, 0, 0, 1, 1, 1]
            part.images[:] = 0


@pytest.mark.parametrize("change", ["new file", "other content", "another order of decoding"])
def test_what_is_replaced_is_removed(tmp_path, data_directory, monkeypatch, change):
    root = write_folder(tmp_path / "pets[1]")
    others = [write_folder(tmp_path / "elsewhere" / "pets[1]"), root, root]
    sizes = [(16, 20), (24, 30), (16, 24)]
    for other, size in zip(others, sizes):
        load_data(other, *size)
    beside = set(cached(data_directory))
    load_data(root, 16)
    assert len(cached(data_directory)) == 8
    first = set(cached(data_directory)) - beside
    match change:
        case "new file":
            for part in ("train", "val"):
                write_image(root / part / "cat" / "9.png", 77)
        case "other content":
            for part in ("train", "val"):
                write_image(root / part / "cat" / "1.png", 77)
        case "another order of decoding":
            monkeypatch.setattr(pictures, "DECODING", pictures.DECODING + 1)
    load_data(root, 16)
    assert beside < set(cached(data_directory))  # another folder, another size, another cut: still of use
    assert len(cached(data_directory)) == 8
    assert not first & set(cached(data_directory))


def test_what_the_first_edition_kept_is_removed(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets") / "train"
    folder = data_directory / "cache"
    folder.mkdir(parents=True)
    names = [f"pets-train-16-{'0a' * 8}.npy", f"pets-train-16-{'0a' * 8}.kept.npy"]
    others = [f"pets-train-32-{'0a' * 8}.npy", f"pets-val-16-{'0a' * 8}.npy", "pets-train-16-mine.npy"]
    for name in names + others:
        (folder / name).write_bytes(b"")
    load_folder(root, 16)
    assert {path.name for path in cached(data_directory)} > set(others)
    assert len(cached(data_directory)) == 4


def test_half_files_of_a_killed_process_are_removed_later(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets") / "train"
    load_folder(root, 16)
    (kept,) = cached(data_directory)
    killed, at_work = (kept.with_name(f"{kept.stem}.{name}.part") for name in ("killed", "working"))
    for part in (killed, at_work):
        part.write_bytes(b"half")
    os.utime(killed, (0, 0))
    write_image(root / "cat" / "9.png", 77)
    load_folder(root, 16)
    assert not killed.exists()
    assert at_work.exists()  # another process may be writing it
    assert not kept.exists()


def test_a_reader_never_sees_half_a_file(tmp_path, data_directory, monkeypatch):
    root, seen, written, save = write_folder(tmp_path / "pets") / "train", [], set(), np.save

    def look(file, array):
        save(file, array)
        seen.extend(path.suffix for path in cached(data_directory))
        written.add(os.fstat(file.fileno()).st_ino)

    monkeypatch.setattr(pictures.np, "save", look)
    load_folder(root, 16)
    assert set(seen) == {".part"}
    (kept,) = cached(data_directory)
    assert kept.suffix == ".npy"
    assert {kept.stat().st_ino} == written  # the whole file got another name; nothing was written under this one


LOAD = """
import sys
from course_utils import load_data
print(*(part.digest() for part in load_data(sys.argv[1], 64)))
"""


@pytest.mark.slow
def test_two_processes_at_once(tmp_path, data_directory):
    root = write_folder(tmp_path / "pets", count=40)
    command = [sys.executable, "-c", LOAD, str(root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    here = " ".join(part.digest() for part in load_data(root, 64))
    assert {text.strip() for text in told} == {here}
    assert [path.suffix for path in cached(data_directory)] == [".npy"] * 2


def test_two_processes_write_files_of_different_names(tmp_path, data_directory, monkeypatch):
    root, names, replace = write_folder(tmp_path / "pets"), [], os.replace
    monkeypatch.setattr(pictures.os, "replace", lambda part, path: names.append(part) or replace(part, path))
    monkeypatch.setattr(pictures.os, "getpid", lambda: 7)  # as in two containers that share a folder
    for _ in range(2):
        load_folder(root / "train", 16)
        (kept,) = cached(data_directory)
        kept.unlink()
    assert len(set(names)) == len(names) == 2


FORK = """
import os, signal, sys, threading
from course_utils import load_data
load_data(sys.argv[1], 32)
load_data("mnist", 28)  # with several threads
if (child := os.fork()) == 0:
    signal.alarm(20)  # ends a child that hangs
    load_data(sys.argv[2], 32)
    load_data(sys.argv[2], 32)
    load_data("mnist", 28)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_loads(tmp_path, data_directory):
    folders = [str(write_folder(tmp_path / name)) for name in ("one", "two")]
    write_mnist(data_directory, 40_000)  # PyTorch reads so many labels with more than one thread
    command, threads = [sys.executable, "-c", FORK, *folders], {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    assert done.stdout.strip() == "0", done.stderr
    assert len(cached(data_directory)) == 4


def fail_to_save(monkeypatch, error):
    """Let the disk fail in the middle of an array."""

    def fail(file, array):
        file.write(b"half")
        raise error

    monkeypatch.setattr(pictures.np, "save", fail)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError("4800 requested and 0 written"), "the disk is full"),  # NumPy's words for it
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_disk_that_fails_leaves_nothing_behind(tmp_path, data_directory, monkeypatch, capsys, error, why):
    root = write_folder(tmp_path / "pets")
    fail_to_save(monkeypatch, error)
    train, val = load_data(root, 16)
    assert (len(train), len(val)) == (6, 6)
    assert cached(data_directory) == []
    told = capsys.readouterr().out
    assert told.count("could not be kept") == 1  # one note for both parts
    assert f"could not be kept in {data_directory / 'cache'} ({why}); they stay in memory" in told
    assert "COURSE_DATA" in told


def test_ctrl_c_while_it_is_kept_leaves_nothing_behind(tmp_path, data_directory, monkeypatch):
    fail_to_save(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        load_folder(write_folder(tmp_path / "pets") / "train", 16)
    assert cached(data_directory) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_device_is_told(tmp_path, data_directory, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "open", lambda path, mode: open("/dev/full" if "x" in mode else path, "rb+"), False)
    assert len(load_folder(write_folder(tmp_path / "pets", count=40) / "train", 64)) == 80
    assert "(the disk is full)" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_told_once_and_training_goes_on(tmp_path, data_directory, capsys):
    root = write_folder(tmp_path / "pets")
    data_directory.write_text("a file where the directory should be")
    for _ in range(2):
        assert len(load_data(root, 16)[0]) == 6
    told = capsys.readouterr().out
    assert told.count("could not be kept in") == 1
    assert str(data_directory / "cache") in told
    assert "they stay in memory" in told


def test_a_cache_that_can_only_be_read(tmp_path, data_directory, monkeypatch, capsys):
    root = write_folder(tmp_path / "pets")
    before = load_data(root, 16)
    forget = contents(data_directory)

    def refuse(path, mode):
        if "r" not in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode)

    monkeypatch.setattr(pictures, "open", refuse, False)
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        assert torch.equal(load_data(root, 16)[0].images, before[0].images)  # it is read
    write_image(root / "train" / "cat" / "1.png", 77)
    assert not torch.equal(load_data(root, 16)[0].images, before[0].images)
    assert contents(data_directory) == forget
    assert capsys.readouterr().out.count("(Permission denied); they stay in memory") == 1


def test_what_was_decoded_and_what_was_kept_have_one_digest(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets")
    before = [part.digest() for part in load_data(root, 16)]
    forbid_decoding(monkeypatch)
    assert [part.digest() for part in load_data(root, 16)] == before
    assert before[0] != before[1]


# ------------------------------------------------------------------ broken input


@pytest.mark.parametrize("name", ["pets", "imagenette", "cifar10", "mnist"])
def test_the_two_sizes_swapped(tmp_path, data_directory, monkeypatch, name):
    write_folder(tmp_path / "pets")
    write_mnist(data_directory)
    (data_directory / "cifar-10-batches-py").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="shortest_side=48 is less than image_size=64, .* Were the two swapped"):
        load_data(name, 64, 48)


@pytest.mark.parametrize("sizes", [(0,), (-4,), (16.0,), ("16",), (None,), (16, 0), (16, 20.5)])
def test_sizes_that_are_none(tmp_path, sizes):
    root = write_folder(tmp_path / "pets")
    with pytest.raises(DataError, match=r"(image_size|shortest_side) must be a whole number of pixels, 1 or more, not"):
        load_data(root, *sizes)


def test_sizes_may_be_equal_and_may_be_numpys(tmp_path):
    root = write_folder(tmp_path / "pets")
    assert load_data(root, 16, 16)[0].images.shape[-1] == 16
    assert load_data(root, np.int64(16), np.int32(20))[0].images.shape[-1] == 16


@pytest.mark.parametrize(("value", "folder"), [
    ("~/pictures", "home/pictures"), ('"{}/a b"', "a b"), ("'{}/a b'", "a b"), (' "~/x" ', "home/x"), ("{}", ""),
    ("$HOME/x", "home/x"), ("${{HOME}}/x", "home/x"), ("{}/it's", "it's"), ('"~"', "home"),
])  # fmt: skip
def test_course_data_is_read_as_a_shell_would(tmp_path, monkeypatch, value, folder):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("COURSE_DATA", value.format(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert data.data_directory() == tmp_path / folder
    load_folder(write_folder(tmp_path / "pets") / "train", 16)
    assert len(cached(tmp_path / folder)) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "pets", "cache", folder}


@pytest.mark.parametrize("value", ["", '""', " "])
def test_an_empty_course_data_is_none(monkeypatch, value):
    monkeypatch.setenv("COURSE_DATA", value)
    assert str(data.data_directory()) == "data"


@pytest.fixture
def little_memory(monkeypatch):
    """Let this machine have 1 MiB."""
    monkeypatch.setattr(data.os, "sysconf", {"SC_PHYS_PAGES": 256, "SC_PAGE_SIZE": 4096}.__getitem__)


ROOM = r"take 0\.[08] GiB of memory at 300 px, .* This machine has 0\.0 GiB in all. Choose a smaller image_size"


def test_more_images_than_memory(tmp_path, data_directory, little_memory, monkeypatch):
    root = write_folder(tmp_path / "pets")
    assert len(load_data(root, 64)[0]) == 6
    with pytest.raises(DataError, match=rf"the 6 images of {root}/train {ROOM}"):
        load_data(root, 300)
    with pytest.raises(DataError, match=rf"the 3,000 images of shapes {ROOM}"):
        load_data("shapes", 300)
    write_mnist(data_directory)
    with pytest.raises(DataError, match="the 5 images of mnist take"):
        load_data("mnist", 500)
    with pytest.raises(DataError, match="the 10 images of shapes take"):
        make_shapes(10, 16, 0).resized(400)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("another matter"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_the_system_refuses(tmp_path, monkeypatch, error):
    root = write_folder(tmp_path / "pets")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(data, "read_pictures", refuse)
    monkeypatch.setattr(data, "_resize", refuse)
    expected = (type(error), "^another matter$") if "another" in str(error) else (DataError, "GiB of memory at 2?16 px")
    for work in (lambda: load_folder(root / "train", 216), lambda: make_shapes(10, 8, 0).resized(16)):
        with pytest.raises(expected[0], match=expected[1]):
            work()


def test_a_set_that_no_machine_can_hold():
    with pytest.raises(DataError, match="the 3,000 images of shapes take 838,191.6 GiB of memory at 316228 px"):
        load_data("shapes", 316_228)


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
    with pytest.raises(DataError, match="different classes: 'bird', 'fish' in one of them only. Give both the same"):
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
    assert capsys.readouterr().out == told  # and it is told each time
    assert torch.equal(again.images, whole.images)
    assert torch.equal(again.labels, whole.labels)


def test_skipping_once_does_not_hide_broken_images_later(tmp_path):
    root = write_folder(tmp_path / "pets")
    break_two(root)
    load_data(str(root), 16, skip_broken=True)
    with pytest.raises(DataError, match="2 of 8 files"):
        load_data(str(root), 16)


def test_what_was_skipped_is_tried_again_when_nothing_may_be_skipped(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "pets") / "train"
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_to_rgb", lambda image: 1 / 0)
        with pytest.raises(DataError, match=r"no image of the class folder .*cat could be read: it holds 3 file\(s\)"):
            load_folder(root, 16, skip_broken=True)
    assert len(load_folder(root, 16)) == 6  # such as after chmod, which leaves size and time as they were


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


def certificate():
    reason = ssl.SSLCertVerificationError(
        1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get"
    )
    return urllib.error.URLError(reason)


@pytest.mark.parametrize("name", ["imagenette", "cifar10", "mnist"])
@pytest.mark.parametrize(
    ("error", "told", "not_told"),
    [
        (
            certificate(),
            "run 'Install Certificates.command' .* pip install certifi.* SSL_CERT_FILE",
            "If there is no net",
        ),
        (
            OSError(28, "No space left on device"),
            "The disk is full: make room, and run this again",
            "If there is no net",
        ),
        (
            PermissionError(13, "Permission denied"),
            "cannot be written to. Choose another folder with COURSE_DATA",
            "no net",
        ),
        (urllib.error.URLError("Name or service not known"), "If there is no network, put", "ertificate"),
    ],
)
def test_the_advice_fits_the_error(publisher, cifar10_publisher, monkeypatch, name, error, told, not_told):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=told) as raised:
        load_data(name, 32)
    assert not_told not in str(raised.value)
    assert "Without data, set scale = 'smoke'" in str(raised.value)


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
def test_an_unpacking_that_was_cut_off(publisher, data_directory, tmp_path, part):
    load_data("imagenette", 16)
    root = data_directory / "imagenette2-160"
    (root / part / "n02102040" / "2.png").unlink()
    before = contents(root)
    with pytest.raises(DataError) as error:
        load_data("imagenette", 16)
    told = str(error.value)
    assert f"{root}/{part} holds 5 of 6 images: the unpacking was cut off, or some were removed" in told
    assert f"Move {root} elsewhere and run this again" in told
    assert "elete" not in told
    assert contents(root) == before
    root.rename(tmp_path / "elsewhere")  # the way out that the message names
    assert len(load_data("imagenette", 16)[0]) == 6


@pytest.mark.parametrize("part", ["train", "val"])
def test_notes_of_macos_are_no_images_of_imagenette(publisher, data_directory, part):
    load_data("imagenette", 16)
    folder = data_directory / "imagenette2-160" / part / "n02102040"
    (folder / "2.png").unlink()
    for name in ("._2.png", "._1.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"\0\5\x16\7 of macOS")
    with pytest.raises(DataError, match=f"{part} holds 5 of 6 images"):
        load_data("imagenette", 16)


def test_imagenette_one_folder_too_deep(publisher, data_directory, tmp_path):
    root = data_directory / "imagenette2-160"
    root.mkdir(parents=True)
    (tmp_path / "publisher" / "imagenette2-160").rename(root / "imagenette2-160")
    before = contents(root)
    with pytest.raises(DataError) as error:
        load_data("imagenette", 16)
    told = f"Imagenette lies one folder too deep: move what {root / 'imagenette2-160'} holds up into {root}"
    assert str(error.value) == told
    assert contents(root) == before
    assert publisher.requests == 0
    for part in ("train", "val"):  # the way out
        (root / "imagenette2-160" / part).rename(root / part)
    assert len(load_data("imagenette", 16)[0]) == 6


def test_course_data_names_imagenette_itself(publisher, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "publisher" / "imagenette2-160"))
    with pytest.raises(DataError, match=f"set it to the folder that holds it, {tmp_path / 'publisher'}$"):
        load_data("imagenette", 16)
    assert publisher.requests == 0


def test_large_images_take_the_large_edition(tmp_path, data_directory, monkeypatch):
    monkeypatch.setattr(data, "IMAGENETTE_COUNTS", {"train": 6, "val": 6})
    small = write_folder(data_directory / "imagenette2-160", ("n01440764", "n02102040"))
    large = write_folder(data_directory / "imagenette2-320", ("n01440764", "n02102040"))
    assert data._imagenette(160) == small
    assert data._imagenette(161) == large
    assert data._imagenette(280) == large


def test_the_counts_are_those_of_imagenette():
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").rglob("*.json")]
    sets = [record["data"] for record in records if record["data"]["name"] == "imagenette"]
    for part, count in data.IMAGENETTE_COUNTS.items():
        assert max(found[part] for found in sets) == count  # some runs take a part of it, none has more


def test_tiny_network_sees_a_folder(tmp_path):
    train, val = load_data(str(write_folder(tmp_path / "pets")), 16)
    history = fit(tiny_network(2), train, val, epochs=1, batch_size=4, precision="float32")
    assert len(history) == 1


# ------------------------------------------------------------------ MNIST and CIFAR-10


def write_mnist(root, train=5):
    """Write MNIST's four files with five and three images, whose pixels have the value of their number."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", 3)):
        pixels = np.arange(count).astype(np.uint8).repeat(28 * 28).tobytes()
        header = b"".join(number.to_bytes(4, "big") for number in (2051, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = b"".join(number.to_bytes(4, "big") for number in (2049, count)) + bytes(
            number % 10 for number in range(count)
        )
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


@pytest.mark.parametrize("place", ["", "cifar10"])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_as_torchvision_keeps_it(cifar10_publisher, tmp_path, data_directory, place, packed):
    name = "cifar-10-python.tar.gz" if packed else "cifar-10-batches-py"
    (data_directory / place).mkdir(parents=True)
    (tmp_path / "publisher" / name).rename(data_directory / place / name)
    train, val = load_data("cifar10", 32)
    assert (train.images.shape, len(val), train.name) == ((20, 3, 32, 32), 4, "cifar10")
    assert cifar10_publisher.requests == 0


def test_an_empty_folder_is_not_cifar10(cifar10_publisher, data_directory):
    (data_directory / "cifar10").mkdir(parents=True)
    assert len(load_data("cifar10", 32)[0]) == 20


def test_a_folder_cifar10_with_other_names_is_told_and_nothing_is_fetched(cifar10_publisher, data_directory):
    write_folder(data_directory / "cifar10")
    for part, other in (("train", "training"), ("val", "test")):
        (data_directory / "cifar10" / part).rename(data_directory / "cifar10" / other)
    with pytest.raises(DataError, match="It has a folder 'training': if that is meant, rename it to 'train'"):
        load_data("cifar10", 32)
    assert cifar10_publisher.requests == 0


def test_a_folder_one_level_too_deep_is_told(tmp_path):
    root = write_folder(tmp_path / "pets" / "pets")
    with pytest.raises(DataError, match=f"Its folder 'pets' has both: use {root}"):
        load_data(tmp_path / "pets", 16)


def test_mnist_in_a_folder_of_its_own(data_directory):
    write_mnist(data_directory / "mnist")
    assert len(load_data("mnist", 28)[0]) == 5


def test_shortest_side_counts_for_cifar10_and_mnist(cifar10_publisher, data_directory):
    write_mnist(data_directory)
    (data_directory / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(
        b"".join(number.to_bytes(4, "big") for number in (2051, 5, 28, 28))
        + np.arange(5 * 784, dtype=np.uint8).tobytes()
    )
    whole, cut = load_data("mnist", 28)[0].images, load_data("mnist", 20, 28)[0]
    assert torch.equal(cut.images, whole[..., 4:24, 4:24])
    assert cut.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(load_data("mnist", 20, 24)[0].images, load_data("mnist", 24)[0].images[..., 2:22, 2:22])
    assert load_data("cifar10", 24, 32)[0].images.shape == (20, 3, 24, 24)
