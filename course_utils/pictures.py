"""Files of pictures: found in folders, decoded to bytes of one size, and kept on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
import unicodedata
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets import Imagenette
from tqdm import tqdm

# a file with such an ending is meant as a picture: if it cannot be read, that is an error
IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
}  # fmt: skip
DECODING = 3  # one more when some file is decoded otherwise: what was kept before is then not used
LONGEST = 16  # times the shorter side; the ends of a longer image are cut off before it is resized
MOST_PIXELS = 10**9  # of a photograph; Pillow takes 4 GiB for so many
DARK = 2**14  # pixels of 16 bits that stay below it were most likely stored with fewer
BRIGHTEST = 2**16 - 1
HIDDEN = (".", "__MACOSX", "@eaDir")  # what macOS and network drives put between one's own files
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "icon\r"}
NO_PICTURE = "no picture"
IN_ICLOUD = "it lies in iCloud only: download it first, in the Finder with a right click and 'Download Now'"


class DataError(RuntimeError):
    """Something is wrong with the data; the message names it and says what to do."""


class Decoded(NamedTuple):
    """What became of a list of files.

    images: uint8, (kept, image_size, image_size, 3), of the files that have no problem.
    problems: (files,), text: "" where the file was read, NO_PICTURE where it is none, else what is wrong with it.
    brightest: (files,), the largest value of a file with 16 bits before it was scaled; BRIGHTEST for any other.
    """

    images: np.ndarray
    problems: np.ndarray
    brightest: np.ndarray


# ------------------------------------------------------------------ what lies in a folder


def class_files(root: Path) -> tuple[list[Path], list[Path], list[int]]:
    """Return the class folders under a folder, all files in them, and the number of the class of each.

    Raises:
        DataError: the folders are not laid out as one folder of images for each class.
    """
    folders, others = list_folder(root)
    loose = [file for file in others if _is_picture(file)]
    if loose and not folders:
        raise DataError(
            f"{root} holds {len(loose):,} image(s) but no class folders: make one for each class and move them there"
        )
    files, labels, names = [], [], {}
    for number, folder in enumerate(folders):
        inner, found = list_folder(folder)
        if nested := next(filter(_holds_pictures, inner), None):
            beside = "images and" if any(map(_is_picture, found)) else "no images but"
            raise DataError(
                f"the class folder {folder} holds {beside} a folder of images, {nested}, which would not be read: "
                f"move these images up into {folder}, or move the folder elsewhere"
            )
        if not found:
            raise DataError(f"the class folder {folder} holds no images: fill it or remove it")
        same = names.setdefault(" ".join(class_name(folder.name).split()), folder.name)
        if same != folder.name:
            raise DataError(
                f"{root} has two folders for one class, {ascii(same)} and {ascii(folder.name)}, which look the same: "
                "they differ only in spaces or in how Unicode writes an accent. Move all images into one of them."
            )
        files += found
        labels += [number] * len(found)
    if len(folders) < 2:
        raise DataError(f"{root} holds {len(folders)} class folder(s): a classifier needs at least two")
    if loose:
        print(f"{len(loose):,} image(s) directly in {root} are not used: they lie in no class folder.")
    return folders, files, labels


def class_name(folder: str) -> str:
    """Return Imagenette's first word for a WordNet number, any other folder name as it is."""
    return Imagenette._WNID_TO_CLASS.get(folder, (_plain_name(folder),))[0]


def _plain_name(name: str) -> str:
    """Return a name with each accented letter as one character: the same name on macOS and elsewhere."""
    return unicodedata.normalize("NFC", name)


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in a folder, each sorted by name; hidden ones and the system's left out.

    A place-holder of iCloud is hidden, but it stands for a file of one's own, so it is one of the files.

    Raises:
        DataError: the folder cannot be read, or a link in it leads back to where it lies.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            found = [(Path(entry), entry.is_dir(), entry.is_symlink()) for entry in entries]
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{error.filename} is a link that leads to itself: remove the link") from error
        raise DataError(f"the folder {folder} could not be read ({error})") from error
    for path, is_folder, is_link in found:
        hidden = path.name.startswith(HIDDEN)
        if is_folder and not hidden:
            if is_link and folder.resolve().is_relative_to(path.resolve()):
                raise DataError(f"{path} is a link to {path.resolve()}, the folder that it lies in: remove the link")
            folders.append(path)
        elif not is_folder and (_is_placeholder(path) or not hidden and path.name.lower() not in SYSTEM_FILES):
            files.append(path)

    def order(path: Path) -> tuple[str, str]:
        return _plain_name(path.name), path.name

    return sorted(folders, key=order), sorted(files, key=order)


def _is_picture(file: Path) -> bool:
    """Say whether a file is meant as a picture, or is one that Pillow knows whatever its name is."""
    if _meant_as_picture(file) or _is_placeholder(file):
        return True
    try:
        with _large_photographs(), Image.open(file) as image:
            return not _other_kind(file, image)
    except Exception:  # the reader of each format has errors of its own
        return False


def _holds_pictures(folder: Path) -> bool:
    """Say whether there is a picture in a folder, however deep; links inside it are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        if any(_is_picture(Path(place, name)) for name in files if not name.startswith(HIDDEN)):
            return True
    return False


def _meant_as_picture(file: Path) -> bool:
    return file.suffix.strip().lower() in IMAGE_SUFFIXES


def _is_placeholder(file: Path) -> bool:
    return file.name.startswith(".") and file.suffix == ".icloud" and _meant_as_picture(file.with_suffix(""))


def _other_kind(file: Path, image: Image.Image) -> bool:
    """Say whether Pillow knows a file but has no picture of it: a film, a table, a drawing, a raw photograph."""
    if image.format in ("MPEG", "BUFR", "GRIB", "HDF5", "WMF", "EPS"):
        return True
    # a camera's raw file begins with a small preview, marked as such
    return not _meant_as_picture(file) and image.format == "TIFF" and bool(image.tag_v2.get(254, 0) & 1)


# ------------------------------------------------------------------ from files to bytes


def read_pictures(
    root: Path, files: list[Path], image_size: int, shortest_side: int, skip_broken: bool, directory: Path
) -> Decoded:
    """Decode the files of a folder, or read what was decoded before and kept in a directory; say what is left out.

    Raises:
        DataError: pictures that cannot be read, unless they may be skipped.
    """
    kept_in = _cache_path(directory, root, files, image_size, shortest_side)
    kept = _read_cache(kept_in, len(files), image_size)
    if kept and (skip_broken or not _broken(files, kept)):  # what was broken may have been mended since
        _tell(root, files, kept, skip_broken)
        return kept
    decoded = _decode(files, image_size, shortest_side, f"decoding {root.name}")
    _tell(root, files, decoded, skip_broken)
    _write_cache(kept_in, decoded)
    return decoded


def _broken(files: list[Path], decoded: Decoded) -> list[str]:
    """Return the pictures that could not be read, each with the reason."""
    return [f"{file} ({why})" for file, why in zip(files, decoded.problems) if why not in ("", NO_PICTURE)]


def _tell(root: Path, files: list[Path], decoded: Decoded, skip_broken: bool) -> None:
    """Say which files are left out and which are dark by mistake; stop at broken ones unless they may be skipped."""

    def named(found: list[str]) -> str:
        return "\n  ".join(found[:20] + ["..."] * (len(found) > 20))

    others = [str(file) for file, why in zip(files, decoded.problems) if why == NO_PICTURE]
    if others:
        print(f"{len(others)} file(s) under {root} are no pictures that can be read; going on without them:")
        print(f"  {named(others)}")
    if broken := _broken(files, decoded):
        message = f"{len(broken)} of {len(files) - len(others)} files could not be read as images:\n  {named(broken)}"
        if not skip_broken:
            raise DataError(
                f"{message}\nMend, save as JPEG or remove them, or pass skip_broken=True to go on without them."
            )
        print(f"{message}\nGoing on without them.")
    dark = [number for number, brightest in enumerate(decoded.brightest) if 0 < brightest < DARK]
    if dark:
        highest = max(decoded.brightest[dark].tolist())
        bits = highest.bit_length()
        print(
            f"{len(dark)} picture(s) under {root} have pixels of 16 bits, but none above {highest:,} of 65,535, such "
            f"as {files[dark[0]]}: they are nearly black. If the camera gives {bits} bits, multiply the pixels by "
            f"{2 ** (16 - bits)} and save them again."
        )


def _decode(files: list[Path], image_size: int, shortest_side: int, title: str) -> Decoded:
    """Decode files into `image_size` squares, on all cores, with a progress bar that has this title."""
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)

    def decode(number: int) -> tuple[str, int]:
        file = files[number]
        if _is_placeholder(file):
            return IN_ICLOUD, BRIGHTEST
        try:
            with Image.open(file) as image:
                if _other_kind(file, image):
                    return NO_PICTURE, BRIGHTEST
                image.draft("RGB", (shortest_side, shortest_side))
                rgb, brightest = _to_rgb(image)
                longest = LONGEST * min(rgb.size)
                if max(rgb.size) > longest:
                    rgb = _centre(rgb, min(rgb.width, longest), min(rgb.height, longest))
                scale = shortest_side / min(rgb.size)
                if scale != 1:
                    rgb = rgb.resize([round(side * scale) for side in rgb.size], Image.Resampling.BILINEAR)
                images[number] = _centre(rgb, image_size, image_size)
                return "", brightest
        except MemoryError:
            return "there was not enough memory to decode it", BRIGHTEST
        except Exception as error:  # the reader of each format has errors of its own
            other = isinstance(error, UnidentifiedImageError) and not _meant_as_picture(file)
            return NO_PICTURE if other else str(error) or type(error).__name__, BRIGHTEST

    # PIL decodes without holding Python's lock; a task is many images, since each task costs time too
    parts = [range(start, min(start + 64, len(files))) for start in range(0, len(files), 64)]
    found: list[tuple[str, int]] = []
    with (
        _large_photographs(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(files), desc=title, leave=False) as bar,
    ):
        for some in pool.map(lambda part: [decode(number) for number in part], parts):
            found += some
            bar.update(len(some))
    problems, brightest = zip(*found)
    kept = [number for number, problem in enumerate(problems) if not problem]
    if len(kept) < len(files):
        for place, number in enumerate(kept):  # moved up in place: a copy would take the memory twice
            images[place] = images[number]
    return Decoded(images[: len(kept)], np.array(problems, dtype=str), np.array(brightest))


@contextmanager
def _large_photographs() -> Iterator[None]:
    """Let Pillow open photographs of up to MOST_PIXELS; of damaged notes in a file it says nothing."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # it warns from here on and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> tuple[Image.Image, int]:
    """Return an opened image as RGB with 8 bits, and its largest value if it has 16: see `Decoded`.

    It is upright as its camera notes, and on white where it is transparent.

    Raises:
        ValueError: its pixels are numbers for which no one says what is black and what white.
    """
    brightest, stored = BRIGHTEST, str(getattr(image, "tile", ""))  # how the pixels lie in the file, gone once loaded
    image.load()
    with suppress(Exception):  # a damaged note leaves the image as it lies
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":  # 16 and 32 bits, which PIL would clip
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > BRIGHTEST:
            raise ValueError("its pixels are 32-bit numbers: save it with 8 or 16 bits")
        white = 2**12 - 1 if "I;12" in stored else BRIGHTEST
        brightest = int(values.max()) if white == BRIGHTEST else BRIGHTEST
        image = Image.fromarray((values / (white / 255)).round().astype(np.uint8))
    elif ";16" in stored:  # of such colours Pillow keeps the upper 8 bits
        brightest = 256 * max(high for _, high in image.convert("RGB").getextrema()) + 255
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB"), brightest


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut `width` x `height` pixels out of the middle of an image."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


# ------------------------------------------------------------------ what was decoded is kept


def _cache_path(directory: Path, root: Path, files: list[Path], image_size: int, shortest_side: int) -> Path:
    """Return where the decoded files of a folder are kept: another name as soon as one of them has changed."""

    def digest(*what: object) -> str:
        return hashlib.sha256(repr(what).encode()).hexdigest()

    place = root.resolve()
    listing = [(str(file.relative_to(root)), *_state(file)) for file in files]
    asked = digest(str(place), image_size, shortest_side)[:8]
    state = digest(DECODING, PIL.__version__, listing)[:16]
    return directory / f"{place.parent.name}-{place.name}-{image_size}-{asked}-{state}.npy"


def _read_cache(path: Path, count: int, image_size: int) -> Decoded | None:
    """Return what was decoded of `count` files; None if there is no whole file of it."""
    try:
        with open(path, "rb") as file:
            decoded = Decoded(*(np.load(file) for _ in Decoded._fields))
    except (OSError, ValueError, EOFError):
        return None  # absent, or cut off by a crash: decode again
    images, problems, brightest = decoded
    fits = images.dtype == np.uint8 and images.shape == ((problems == "").sum(), image_size, image_size, 3)
    return decoded if fits and len(problems) == len(brightest) == count else None


def _write_cache(path: Path, decoded: Decoded) -> None:
    """Keep what was decoded, and remove what the same folder had before; say so once if that is not possible."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")  # another process may write the same
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "xb") as file:
                for array in decoded:
                    np.save(file, array)
            os.replace(part, path)  # complete or absent, never half
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        _remove_replaced(path)
    except OSError as error:
        # NumPy gives no number when the disk is full in the middle of an array
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT)
        _tell_not_kept(path.parent, "the disk is full" if full else error.strerror)


@cache
def _tell_not_kept(folder: Path, why: str) -> None:
    """Print it once for each folder, although training and validation images are kept one after the other."""
    print(
        f"The decoded images could not be kept in {folder} ({why}); they stay in memory and are decoded again "
        "next time. To keep them, make room there, or set COURSE_DATA to a folder that can be written to."
    )


def _remove_replaced(path: Path) -> None:
    """Remove what was kept of the same folder at the same size, and half files that a killed process left."""
    asked = path.stem.rsplit("-", 1)[0]
    first_edition = re.compile(re.escape(asked.rsplit("-", 1)[0]) + r"-[0-9a-f]{16}(\.kept)?\.npy")  # nothing reads it
    for other in path.parent.iterdir():
        with suppress(OSError):  # another process may have removed it, or still read it
            if first_edition.fullmatch(other.name):
                other.unlink()
            elif other.name.startswith(f"{asked}-") and other != path:
                at_work = other.suffix == ".part" and time.time() - other.stat().st_mtime < 3600
                if not at_work:
                    other.unlink()


def _state(file: Path) -> tuple[int, int]:
    """Return the size of a file and when it was changed, (0, 0) of a link to nowhere: it is told when it is decoded."""
    try:
        state = file.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns
