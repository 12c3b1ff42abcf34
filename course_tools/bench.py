"""The three speeds that the course promises, each as a ratio of two things measured in one run.

The two sides take turns, so that a busy machine slows both; each ratio is the median over the turns.
"""

import io
import statistics
import tempfile
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from course_tools.runs import environment
from course_utils import data, networks
from course_utils.training import fit

BATCH = 128


def _seconds(work) -> float:
    """Seconds of a call, or those that it returns, where it measures a part of itself."""
    start = time.perf_counter()
    measured = work()
    return time.perf_counter() - start if measured is None else measured


def _take_turns(ours, theirs, turns: int) -> tuple[float, float, float]:
    """Medians over turns, after one to warm up: our seconds, their seconds, theirs over ours."""
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(turns + 1)][1:]
    return tuple(statistics.median(values) for values in zip(*((a, b, b / a) for a, b in pairs), strict=True))


def _images(count: int, image_size: int) -> data.ImageData:
    return data.make_shapes(count, image_size, seed=0)


def _loop(model: nn.Module, train: data.ImageData, layout: torch.memory_format = torch.channels_last) -> None:
    """The bare training loop of chapter 1, one epoch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=-(-len(train) // BATCH))
    model.train()
    loss_sum = 0.0
    for x, y in train.batches(BATCH, torch.Generator().manual_seed(0)):
        loss = F.cross_entropy(model(x.contiguous(memory_format=layout)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.item() * len(y)


def _fit(model: nn.Module, train: data.ImageData, **options) -> float:
    """Seconds of training in one epoch of `fit`, as it says itself; validation is not part of the loop."""
    with redirect_stdout(io.StringIO()):
        history = fit(model, train, _images(10, 128), epochs=1, learning_rate=0.01, batch_size=BATCH, **options)
    return history["seconds"].sum()


def fit_against_loop(turns: int, count: int) -> float:
    """Images per second of `fit` over those of the bare loop: same batches, float32, same layout."""
    train = _images(count, 128)
    ours, theirs = networks.plain_cnn(), networks.plain_cnn().to(memory_format=torch.channels_last)
    options = {"precision": "float32", "device": "cpu"}
    a, b, ratio = _take_turns(lambda: _fit(ours, train, **options), lambda: _loop(theirs, train), turns)
    print(f"  fit {count / a:.0f} images/s, bare loop {count / b:.0f} images/s")
    return ratio


@contextmanager
def _folder(per_class: int):
    """A folder of JPEG images in train/ and val/: links to Imagenette's where it is there, else drawn ones."""
    source = data.data_directory().resolve() / "imagenette2-160"
    with tempfile.TemporaryDirectory() as name, environment(COURSE_DATA=f"{name}/decoded"):
        root = Path(name) / "images"
        if source.is_dir():
            for folder in sorted(source.glob("*/*")):
                target = root / folder.relative_to(source)
                target.mkdir(parents=True)
                for file in sorted(folder.iterdir())[:per_class]:
                    (target / file.name).symlink_to(file)
        else:
            print("  (no Imagenette under COURSE_DATA: drawn images instead)")
            drawn = _images(10 * min(per_class, 200), 160)
            for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
                part = "val" if number >= 7 * len(drawn) // 10 else "train"
                target = root / part / str(label)
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(target / f"{number}.jpg", quality=85)
        yield root


def _load(root: Path) -> tuple[data.ImageData, data.ImageData]:
    with redirect_stderr(io.StringIO()):
        return data.load_data(str(root), 128)


def data_against_loader(turns: int, per_class: int) -> tuple[float, float, float]:
    """Images per second over those of DataLoader with 2 workers: later epochs, first epoch; GiB in memory."""
    steps = [transforms.ToTensor(), transforms.CenterCrop(128)]
    with _folder(per_class) as root:
        parts = [ImageFolder(root / part, transforms.Compose(steps)) for part in ("train", "val")]
        count = sum(map(len, parts))

        def load_theirs() -> None:
            for part in parts:
                for _ in DataLoader(part, BATCH, shuffle=True, num_workers=2):
                    pass

        def read(sets: tuple) -> None:
            for part in sets:
                for _ in part.batches(BATCH, torch.Generator().manual_seed(0)):
                    pass

        def decode() -> None:
            with tempfile.TemporaryDirectory() as cache, environment(COURSE_DATA=cache):
                read(_load(root))  # which keeps it for the next time, too: a part of the first epoch

        sets = _load(root)
        memory = sum(part.images.nbytes for part in sets) / 2**30
        # Five epochs, so that both sides take times of the same order
        later, _, later_ratio = _take_turns(lambda: read(sets * 5), load_theirs, turns)
        first, theirs, first_ratio = _take_turns(decode, load_theirs, turns)
    print(f"  {count} images: later epochs {5 * count / later:.0f} images/s, first {count / first:.0f} images/s,")
    print(f"  DataLoader {count / theirs:.0f} images/s; {memory:.2f} GiB in memory")
    return 5 * later_ratio, first_ratio, memory


def training_against_defaults(turns: int, count: int) -> float:
    """Training images per second of ResNet-18 at 128 px in `fit` over those of a plain loop."""
    train = _images(count, 128)
    ours, theirs = networks.resnet18(), networks.resnet18()
    # What plain PyTorch is given: contiguous memory, as ToTensor and DataLoader make it
    plain = torch.contiguous_format
    a, b, ratio = _take_turns(lambda: _fit(ours, train, device="cpu"), lambda: _loop(theirs, train, plain), turns)
    print(f"  fit {count / a:.1f} images/s, plain PyTorch {count / b:.1f} images/s")
    return ratio


def bench(quick: bool = False) -> int:
    """Print the ratios and their bounds; 1 when one misses its bound. Runs on 2 cores of the CPU."""
    torch.set_num_threads(2)
    turns = 3 if quick else 9
    print("fit against the bare loop of chapter 1")
    rows = [("fit / bare loop", fit_against_loop(turns, 640 if quick else 2560), 0.97)]
    print("data path against DataLoader (decode, ToTensor, CenterCrop, 2 workers)")
    later, first, memory = data_against_loader(3, 50 if quick else 10**6)
    rows += [("data, later epochs / DataLoader", later, 10), ("data, first epoch / DataLoader", first, 1)]
    rows += [("1 GiB / memory of the images", 1 / memory, 1)]
    print("training ResNet-18 at 128 px against plain PyTorch defaults")
    rows += [("fit / plain PyTorch", training_against_defaults(turns, 128), 1.5)]
    print(f"\n{'ratio':34} {'measured':>8} {'at least':>8}")
    for name, ratio, bound in rows:
        print(f"{name:34} {ratio:8.2f} {bound:8.2f}  {'ok' if ratio >= bound else 'MISSED'}")
    return int(any(ratio < bound for _, ratio, bound in rows))
