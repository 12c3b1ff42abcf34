"""The recipes of chapter 5: a network, its data, how it is trained, and the marks that it is to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.data import ImageData, load_data
from course_utils.evaluation import choose_device
from course_utils.networks import ResidualBlock, ResNet, conv_norm, head
from course_utils.optimizers import muon
from course_utils.records import checkpoint_path, save_record
from course_utils.settings import Settings
from course_utils.training import fit

REFERENCE_GFLOPS = 90.0  # the machine for which the marks give their times


@dataclass(frozen=True)
class Recipe:
    """One way to train one network.

    Attributes:
        name: of the record and the command.
        data: a name for `load_data`.
        network: makes the network, (N, C, H, W) to (N, 10), for the training images.
        image_sizes: pixels in training, one number an epoch; the last is that of validation as well.
        stored_size: pixels of the training images in memory, from which they are resized.
        marks: (accuracy in 0..1, seconds on the machine of reference), to be passed in that time.
        options: for `fit`.
    """

    name: str
    data: str
    network: Callable[[ImageData], nn.Module]
    image_sizes: tuple[int, ...]
    stored_size: int
    marks: tuple[tuple[float, float], ...]
    options: dict


def short_net(
    train: ImageData | None = None,
    depths: tuple[int, ...] = (1, 1, 1),
    widths: tuple[int, ...] = (64, 128, 256),
) -> ResNet:
    """A ResNet for short training: a fixed first layer and a pool as its stem, few blocks, none starts at zero.

    Args:
        train: images from which the first layer is made, see `whiten`; without them it stays random, for counting.
        depths: blocks in each stage.
        widths: channels that leave each stage; the stem has half of the first.
    """
    net = ResNet(ResidualBlock, depths, widths, stem_widths=(widths[0] // 2,))
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            nn.init.ones_(module.branch[-1][1].weight)
    first = nn.Conv2d(3, widths[0] // 2, 3, 2, padding=1, bias=False)
    net.stem = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
    if train is not None:
        whiten(first, train)
    return net


def digit_net(train: ImageData | None = None) -> nn.Sequential:
    """A small residual net for images of one channel: (N, 1, H, W) to (N, 10).

    Args:
        train: not looked at.
    """
    blocks = [ResidualBlock(16, 32, stride=2), ResidualBlock(32, 64, stride=2)]
    for block in blocks:
        nn.init.ones_(block.branch[-1][1].weight)
    return nn.Sequential(conv_norm(1, 16, stride=2), *blocks, *head(64, 10))


class PooledBlock(nn.Module):
    """A convolution and a max pool, then a second convolution with a shortcut around it.

    (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2), rounded down. Norm and ReLU work on the halved
    maps only. Source: the groups of Jordan 2024, with a shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.entry = nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(out_channels), nn.ReLU())
        self.branch = conv_norm(out_channels, out_channels, activation=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        x = self.entry(x)
        return torch.relu(x + self.branch(x))


def pooled_net(train: ImageData | None = None, widths: tuple[int, ...] = (64, 128, 256)) -> nn.Sequential:
    """A net for images of 32 px, where no pixel is to spare: (N, 3, H, W) to (N, 10).

    Args:
        train: images from which the first layer is made, see `whiten`; without them it stays random, for counting.
        widths: channels that leave each block.
    """
    first = nn.Conv2d(3, 24, 2, bias=False)  # as many maps as a patch of 2 x 2 has directions, times two signs
    if train is not None:
        whiten(first, train, image_size=32)
    blocks = [PooledBlock(a, b) for a, b in zip((24, *widths), widths)]
    return nn.Sequential(first, nn.ReLU(), *blocks, *head(widths[-1], 10))


def whiten(convolution: nn.Conv2d, train: ImageData, image_size: int = 64) -> None:
    """Give a first convolution fixed weights that whiten the patches it sees.

    Its maps, two for each of the patches' main directions, one with either sign, are uncorrelated and have
    about the same size. No norm is needed behind it. Source: Jordan 2024.

    Args:
        convolution: (in_channels, an even number of maps, k, k), at most 2 * in_channels * k * k maps; it needs no
            bias and is not trained any more.
        train: images; 512 of them, at `image_size` pixels, are looked at.
    """
    count, _, size, _ = convolution.weight.shape
    x, _ = next(train.batches(512, image_size=image_size))
    patches = F.unfold(x, size).permute(0, 2, 1).flatten(0, 1)
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    filters = (directions / (variances + 5e-4).sqrt()).T.flip(0)[: count // 2]
    convolution.weight.data = torch.cat([filters, -filters]).view_as(convolution.weight).contiguous()
    convolution.weight.requires_grad_(False)


def sizes(epochs: int, first: int, last: int, step: int = 16) -> tuple[int, ...]:
    """Return one image size for each epoch, growing from first to last in steps of equal length."""
    all_sizes = range(first, last + 1, step)
    return tuple(all_sizes[epoch * len(all_sizes) // epochs] for epoch in range(epochs))


def matmul_gflops(size: int = 2048, repeats: int = 10, device: str | torch.device = "cpu") -> float:
    """Return the speed of a float32 matrix product (size, size) in GFLOPS: the best of some, all cores at work."""
    a, b = torch.rand(2, size, size, device=device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def passed_at(history: pd.DataFrame, accuracy: float) -> float | None:
    """Return the seconds of training after which an accuracy (0..1) was first reached, None if never."""
    reached = history["seconds"].cumsum()[history["val_accuracy"] >= accuracy]
    return float(reached.iloc[0]) if len(reached) else None


def race(recipe: Recipe, seed: int = 0, device: str = "auto") -> pd.DataFrame:
    """Train a recipe, write its record, and return its marks, one a row, and when each was passed.

    Columns: accuracy (%), allowed (s), passed (s), scaled (s): the time passed, times the speed of this
    machine's matrix product (the mean of one before and one after), divided by that of the reference.
    Decoding and validation are not part of the time. A checkpoint is kept where `checkpoint_path` says.

    Args:
        recipe: one of `RECIPES`.
        seed: of the weights, the order and the augmentation.
        device: as in `fit`.
    """
    chosen = choose_device(device)
    scale = "smoke" if recipe.data == "shapes" else "page"
    start = time.perf_counter()
    train, val = load_data(recipe.data, recipe.stored_size, recipe.stored_size)
    loading = time.perf_counter() - start
    if val.image_size != recipe.image_sizes[-1]:
        val = val.resized(recipe.image_sizes[-1])
    torch.manual_seed(seed)
    net = recipe.network(train)
    before = matmul_gflops(device=chosen)
    history = fit(
        net, train, val, epochs=len(recipe.image_sizes), image_sizes=recipe.image_sizes, seed=seed, device=device,
        checkpoint=checkpoint_path(recipe.name, seed, "race", scale), **recipe.options,
    )  # fmt: skip
    gflops = (before, matmul_gflops(device=chosen))
    history.attrs["provenance"] |= {"matmul_gflops": gflops, "loading_seconds": loading}
    options = {name: getattr(value, "__name__", value) for name, value in recipe.options.items()}
    table = {"image_sizes": recipe.image_sizes, "stored_size": recipe.stored_size, **options}
    settings = Settings(scale, {name: (value,) * 3 for name, value in table.items()})
    save_record("race", recipe.name, recipe.name, net, train, val, history, settings, seed)
    factor = sum(gflops) / 2 / REFERENCE_GFLOPS
    rows = []
    for accuracy, allowed in recipe.marks:
        passed = passed_at(history, accuracy)
        scaled = passed * factor if passed else None
        rows.append(
            {"accuracy (%)": 100 * accuracy, "allowed (s)": allowed, "passed (s)": passed, "scaled (s)": scaled}
        )
    return pd.DataFrame(rows)


def faster_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return `muon` with a higher rate for the convolutions, for one or a few epochs."""
    return muon(model, rate=0.08)


SHORT = {"batch_size": 128, "flip": True, "label_smoothing": 0.1, "optimizers": muon}
IMAGENETTE_83 = Recipe(
    "imagenette-83", "imagenette", short_net, (48, 64, 64, 80, 96), 160, ((0.8313, 360), (0.8313, 240)), SHORT
)
IMAGENETTE_87 = Recipe(
    "imagenette-87", "imagenette", short_net, sizes(16, 64, 128), 160, ((0.8743, 1500),), SHORT | {"zoom": 0.5}
)
WIDE = partial(short_net, widths=(96, 192, 384))
IMAGENETTE_90 = Recipe(
    "imagenette-90", "imagenette", WIDE, sizes(28, 64, 128), 160, ((0.9, 3600),), SHORT | {"zoom": 0.35}
)
DEEPER = partial(short_net, depths=(2, 2, 2), widths=(96, 192, 384))
IMAGENETTE_FIVE = Recipe(  # the leaderboard's rules: five epochs, all at 128 px
    "imagenette-five", "imagenette", DEEPER, 5 * (128,), 160, ((0.8743, 6000),), SHORT | {"batch_size": 64}
)
CIFAR = SHORT | {"batch_size": 256, "crop": 2}
CIFAR10_87 = Recipe("cifar10-87", "cifar10", pooled_net, 6 * (32,), 32, ((0.87, 240),), CIFAR)
WIDER = partial(pooled_net, widths=(64, 256, 256))
CIFAR10_93 = Recipe("cifar10-93", "cifar10", WIDER, 13 * (32,), 32, ((0.93, 2400),), CIFAR)
DIGITS = {"batch_size": 256, "optimizers": faster_muon}
MNIST_98 = Recipe("mnist-98", "mnist", digit_net, (22,), 28, ((0.9866, 15),), DIGITS)
MNIST_99 = Recipe("mnist-99", "mnist", digit_net, (24, 24, 24, 28, 28), 28, ((0.993, 90),), DIGITS | {"crop": 1})
SMOKE = Recipe("smoke", "shapes", short_net, (24, 32, 32), 32, ((0.5, 60),), SHORT)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        IMAGENETTE_83,
        IMAGENETTE_87,
        IMAGENETTE_90,
        IMAGENETTE_FIVE,
        CIFAR10_87,
        CIFAR10_93,
        MNIST_98,
        MNIST_99,
        SMOKE,
    )
}
