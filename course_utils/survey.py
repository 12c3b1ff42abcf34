"""The networks that the survey has built, from LeNet to ConvNeXt, for its last chapter and for yours.

A test checks that each is the same network as in its chapter: equal outputs for equal weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from course_utils.networks import head


def flat_size(features: nn.Module, channels: int, image_size: int) -> int:
    """Return how many numbers leave the convolutions for one image (channels, image_size, image_size).

    Raises:
        ValueError: the image is too small; the message has the least size that works.
    """
    for size in range(image_size, image_size + 256):
        try:
            flat = features(torch.zeros(1, channels, size, size)).numel()
        except RuntimeError:  # some layer has nothing left to look at
            continue
        if size == image_size:
            return flat
        raise ValueError(f"images of {image_size} px are too small for these layers: the least size is {size} px")
    raise ValueError("these layers do not fit each other at any size")


def lenet(image_size: int = 32, in_channels: int = 3, num_classes: int = 10) -> nn.Sequential:
    """LeNet with sigmoids and average pools: (N, in_channels, image_size, image_size) to (N, num_classes).

    Source: LeCun et al. 1998.
    """
    padding = 2 if image_size == 28 else 0
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
    )  # fmt: skip
    flat = flat_size(features, in_channels, image_size)
    return nn.Sequential(
        *features,
        nn.Linear(flat, 120), nn.Sigmoid(),
        nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, num_classes),
    )  # fmt: skip


def alexnet(
    image_size: int = 224,
    num_classes: int = 10,
    widths: tuple[int, ...] = (96, 256, 384, 384, 256),
    padding: int = 1,
) -> nn.Sequential:
    """AlexNet in one piece: (N, 3, image_size, image_size) to (N, num_classes).

    Widths (64, 192, 384, 256, 256) and padding 2 make torchvision's. Source: Krizhevsky et al. 2012.
    """
    a, b, c, d, e = widths
    features = nn.Sequential(
        nn.Conv2d(3, a, 11, stride=4, padding=padding), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(),
    )  # fmt: skip
    flat = flat_size(features, 3, image_size)
    return nn.Sequential(
        *features,
        nn.Linear(flat, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


VGG11 = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))  # convolutions, channels of each block


def vgg_block(convs: int, in_channels: int, out_channels: int, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions with ReLU, and a pool: (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
    layers = []
    for _ in range(convs):
        layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())
        in_channels = out_channels
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def vgg(
    architecture: tuple[tuple[int, int], ...] = VGG11,
    image_size: int = 224,
    num_classes: int = 10,
    norm: bool = False,
    hidden: int = 4096,
) -> nn.Sequential:
    """VGG from (convolutions, channels) of each block: (N, 3, image_size, image_size) to (N, num_classes).

    Source: Simonyan and Zisserman 2015.

    Raises:
        ValueError: nothing is left of the image; the message has the least size that works.
    """
    blocks, in_channels = [], 3
    for convs, out_channels in architecture:
        blocks.append(vgg_block(convs, in_channels, out_channels, norm))
        in_channels = out_channels
    side = image_size // 2 ** len(architecture)
    if side == 0:
        raise ValueError(
            f"images of {image_size} px are too small for {len(architecture)} "
            f"blocks: the least size is {2 ** len(architecture)} px"
        )
    return nn.Sequential(
        *blocks, nn.Flatten(),
        nn.Linear(in_channels * side**2, hidden), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(hidden, num_classes),
    )  # fmt: skip


NIN = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1))  # channels, kernel size, stride, padding


def nin_block(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, norm: bool = False
) -> nn.Sequential:
    """One convolution and two 1x1, each with ReLU: a small network at every place of the map."""
    layers = []
    for window in ((kernel_size, stride, padding), (1, 1, 0), (1, 1, 0)):
        layers.append(nn.Conv2d(in_channels, out_channels, *window))
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())
        in_channels = out_channels
    return nn.Sequential(*layers)


def nin(in_channels: int = 3, num_classes: int = 10, norm: bool = False) -> nn.Sequential:
    """Network in Network: (N, in_channels, H, W) to (N, num_classes).

    One map for each class, averaged; no linear layer. `norm` puts a batch norm behind each convolution. Source: Lin
    et al. 2014.
    """
    layers = []
    for out_channels, *window in NIN:
        layers += [nin_block(in_channels, out_channels, *window, norm), nn.MaxPool2d(3, 2)]
        in_channels = out_channels
    return nn.Sequential(
        *layers, nn.Dropout(0.5), nin_block(in_channels, num_classes, 3, 1, 1, norm),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def conv_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, norm: bool = False
) -> nn.Sequential:
    """Convolution, maybe batch norm, ReLU: (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=not norm)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.ReLU())


class Inception(nn.Module):
    """Four branches side by side, concatenated: (N, in_channels, H, W) to (N, out_channels, H, W).

    1x1; 1x1 and 3x3; 1x1 and 5x5; a 3x3 max pool and 1x1. Source: Szegedy et al. 2015.

    Args:
        in_channels: of the input.
        c1, c2, c3, c4: channels of the branches, the two in the middle as (reduced, out).
        norm: a batch norm behind each convolution.
        third_kernel: of the third branch; torchvision has 3.
    """

    def __init__(
        self, in_channels: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int,
        norm: bool = False, third_kernel: int = 5,
    ):  # fmt: skip
        super().__init__()
        conv = partial(conv_relu, norm=norm)
        self.branches = nn.ModuleList([
            conv(in_channels, c1, 1),
            nn.Sequential(conv(in_channels, c2[0], 1), conv(*c2, 3)),
            nn.Sequential(conv(in_channels, c3[0], 1), conv(*c3, third_kernel)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(in_channels, c4, 1)),
        ])  # fmt: skip
        self.out_channels = c1 + c2[1] + c3[1] + c4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


GOOGLENET = (  # c1, c2, c3, c4 of each block; a pool stands between the groups
    ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    (
        (192, (96, 208), (16, 48), 64), (160, (112, 224), (24, 64), 64), (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64), (256, (160, 320), (32, 128), 128),
    ),
    ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
)  # fmt: skip


def googlenet(
    num_classes: int = 10,
    groups: tuple = GOOGLENET,
    stem: tuple[int, int] = (64, 192),
    block=Inception,
    norm: bool = False,
) -> nn.Sequential:
    """GoogLeNet without its two helping outputs: (N, 3, H, W) to (N, num_classes).

    Args:
        num_classes: how many outputs.
        groups: the numbers of the blocks, see `GOOGLENET`.
        stem: channels of the stem's first and last convolution.
        block: `Inception`, or another with the same arguments and `out_channels`.
        norm: a batch norm behind each convolution, as in torchvision.

    Source: Szegedy et al. 2015.
    """
    first, last = stem
    layers = [
        conv_relu(3, first, 7, 2, norm), nn.MaxPool2d(3, 2, ceil_mode=True),
        conv_relu(first, first, 1, norm=norm), conv_relu(first, last, 3, norm=norm),
    ]  # fmt: skip
    in_channels = last
    for group in groups:
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for numbers in group:
            layers.append(block(in_channels, *numbers, norm=norm))
            in_channels = layers[-1].out_channels
    return nn.Sequential(*layers, *head(in_channels, num_classes))


class Residual(nn.Module):
    """The survey's residual block: relu(F(x) + x), with biased convolutions and a bare 1x1 shortcut.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up. With `paper=True` it is
    the block of He et al. 2016: no biases, and a norm on the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, paper: bool = False):
        super().__init__()
        bias = not paper
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=bias), nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=bias), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=bias))
            if paper:
                self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def stem7(out_channels: int, bias: bool = True) -> list[nn.Module]:
    """The stem of 2015: 7x7 of stride 2, norm, ReLU, pool; (N, 3, H, W) to (N, out_channels, H / 4, W / 4)."""
    return [
        nn.Conv2d(3, out_channels, 7, 2, 3, bias=bias), nn.BatchNorm2d(out_channels), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip


def survey_resnet(
    widths: tuple[int, ...] = (64, 128, 256, 512),
    depth: int = 2,
    num_classes: int = 10,
    block=Residual,
    paper: bool = False,
) -> nn.Sequential:
    """The survey's ResNet-18: (N, 3, H, W) to (N, num_classes); `paper=True` makes it the paper's.

    Args:
        widths: channels of each stage; each stage but the first halves the image.
        depth: blocks in each stage.
        num_classes: how many outputs.
        block: takes (in_channels, out_channels, stride, paper).
        paper: see `Residual`.

    Source: He et al. 2016.
    """
    layers, in_channels = stem7(widths[0], bias=not paper), widths[0]
    for stage, width in enumerate(widths):
        for number in range(depth):
            stride = 2 if stage > 0 and number == 0 else 1
            layers.append(block(in_channels, width, stride, paper))
            in_channels = width
    return nn.Sequential(*layers, *head(in_channels, num_classes))


class DenseBlock(nn.Module):
    """Convolutions that see everything before them: (N, in_channels, H, W) to (N, in_channels + convs * growth, H, W).

    Each adds `growth` maps behind its input. With `bottleneck` a 1x1 to 4 * growth maps comes before each 3x3, and
    no convolution has a bias, as in DenseNet-121. Source: Huang et al. 2017.
    """

    def __init__(self, convs: int, in_channels: int, growth: int, bottleneck: bool = False):
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(convs):
            channels, layers = in_channels + number * growth, []
            if bottleneck:
                layers = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1, bias=False)]
                channels = 4 * growth
            layers += [
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1, bias=not bottleneck),
            ]  # fmt: skip
            self.layers.append(nn.Sequential(*layers))
        self.out_channels = in_channels + convs * growth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def transition(in_channels: int, out_channels: int, bias: bool = True) -> nn.Sequential:
    """Norm, ReLU, 1x1, average pool: (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=bias), nn.AvgPool2d(2)
    )


def densenet(
    blocks: tuple[int, ...] = (4, 4, 4, 4),
    growth: int = 32,
    channels: int = 64,
    bottleneck: bool = False,
    num_classes: int = 10,
) -> nn.Sequential:
    """DenseNet: (N, 3, H, W) to (N, num_classes). Each transition halves the channels and the image.

    Args:
        blocks: convolutions, or bottlenecks, in each dense block.
        growth: maps that each of them adds.
        channels: of the stem.
        bottleneck: see `DenseBlock`; with blocks (6, 12, 24, 16) this is DenseNet-121.
        num_classes: how many outputs.

    Source: Huang et al. 2017.
    """
    bias = not bottleneck
    layers = stem7(channels, bias)
    for number, convs in enumerate(blocks):
        layers.append(DenseBlock(convs, channels, growth, bottleneck))
        channels = layers[-1].out_channels
        if number < len(blocks) - 1:
            layers.append(transition(channels, channels // 2, bias))
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *head(channels, num_classes))


def brick(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    """The ladder's brick with groups and a choice of activation: convolution, batch norm, activation.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([activation()] if activation else []))


class Around(nn.Module):
    """A shortcut around a branch: F(x) + x, the same shape in and out; with `last`, an activation behind the sum.

    Where stride or channels change, the shortcut is a 1x1 convolution with norm, as in the paper's ResNet. Without
    `project` there is no shortcut in that place, as in MobileNetV2.
    """

    def __init__(
        self, branch: nn.Module, in_channels: int, out_channels: int, stride: int = 1,
        project: bool = True, last: type[nn.Module] | None = nn.ReLU,
    ):  # fmt: skip
        super().__init__()
        self.branch, self.last = branch, last() if last else nn.Identity()
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = brick(in_channels, out_channels, 1, stride, activation=None) if project else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        y = self.branch(x)
        return self.last(y if self.shortcut is None else y + self.shortcut(x))


def basic_block(in_channels: int, out_channels: int, stride: int = 1) -> Around:
    """Two 3x3 convolutions and a shortcut. Source: He et al. 2016."""
    branch = nn.Sequential(
        brick(in_channels, out_channels, 3, stride), brick(out_channels, out_channels, 3, activation=None)
    )
    return Around(branch, in_channels, out_channels, stride)


def resnext_block(in_channels: int, out_channels: int, stride: int = 1, groups: int = 32, inner: float = 0.5) -> Around:
    """1x1, a 3x3 in groups, 1x1, and a shortcut. Source: Xie et al. 2017.

    Args:
        in_channels, out_channels, stride: of the block.
        groups: of the 3x3 convolution; 1 makes it an ordinary bottleneck.
        inner: channels of the 3x3 convolution, as a share of `out_channels`.
    """
    width = round(inner * out_channels)
    branch = nn.Sequential(
        brick(in_channels, width), brick(width, width, 3, stride, groups), brick(width, out_channels, activation=None)
    )
    return Around(branch, in_channels, out_channels, stride)


class SqueezeExcitation(nn.Module):
    """One factor from 0 to 1 for each map, from the means of all maps: (N, channels, H, W) to the same.

    Source: Hu et al. 2018.
    """

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1), activation(), nn.Conv2d(hidden, channels, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, channels, H, W)."""
        return x * self.gate(x)


def se_block(in_channels: int, out_channels: int, stride: int = 1, reduction: int = 16) -> Around:
    """The basic block with a gate at the end of its branch. Source: Hu et al. 2018."""
    block = basic_block(in_channels, out_channels, stride)
    block.branch.append(SqueezeExcitation(out_channels, max(1, out_channels // reduction)))
    return block


def inverted_residual(
    in_channels: int, out_channels: int, stride: int = 1, expansion: int = 6, kernel_size: int = 3,
    activation: type[nn.Module] = nn.ReLU6, gate: bool = False,
) -> Around:  # fmt: skip
    """1x1 up, a depthwise convolution, 1x1 down without activation. Source: Sandler et al. 2018.

    Args:
        in_channels, out_channels, stride: of the block.
        expansion: channels in the middle, as a multiple of `in_channels`; 1 leaves the first 1x1 out.
        kernel_size, activation: of the middle.
        gate: squeeze and excitation in the middle, to a quarter of `in_channels` (Tan and Le 2019).
    """
    inner, layers = expansion * in_channels, []
    if expansion != 1:
        layers.append(brick(in_channels, inner, activation=activation))
    layers.append(brick(inner, inner, kernel_size, stride, inner, activation))
    if gate:
        layers.append(SqueezeExcitation(inner, max(1, in_channels // 4), activation))
    layers.append(brick(inner, out_channels, activation=None))
    return Around(nn.Sequential(*layers), in_channels, out_channels, stride, project=False, last=None)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels at each place: (N, C, H, W) to the same. Source: Ba et al. 2016."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """One learned factor for each map, small at the start. Source: Touvron et al. 2021."""

    def __init__(self, channels: int, start: float = 1e-6):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, channels, H, W)."""
        return self.scale * x


def convnext_block(channels: int, scale: float = 1e-6) -> Around:
    """Depthwise 7x7, norm, 1x1 to four times the channels, GELU, 1x1 back, scale. Source: Liu et al. 2022."""
    branch = nn.Sequential(
        nn.Conv2d(channels, channels, 7, padding=3, groups=channels), ChannelNorm(channels, eps=1e-6),
        nn.Conv2d(channels, 4 * channels, 1), nn.GELU(), nn.Conv2d(4 * channels, channels, 1),
        LayerScale(channels, scale),
    )  # fmt: skip
    return Around(branch, channels, channels, last=None)


def patchify(in_channels: int, out_channels: int, side: int) -> list[nn.Module]:
    """Cut the map into squares of `side` places, and turn each into one: (N, out_channels, H / side, W / side)."""
    return [nn.Conv2d(in_channels, out_channels, side, side), ChannelNorm(out_channels, eps=1e-6)]


def resnext50(num_classes: int = 10) -> nn.Sequential:
    """ResNeXt-50 (32x4d): (N, 3, H, W) to (N, num_classes). Source: Xie et al. 2017."""
    layers, in_channels = stem7(64, bias=False), 64
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (256, 512, 1024, 2048))):
        for number in range(depth):
            layers.append(resnext_block(in_channels, width, 2 if stage > 0 and number == 0 else 1))
            in_channels = width
    return nn.Sequential(*layers, *head(in_channels, num_classes))


# expansion, channels, blocks, stride of the first, kernel size
MOBILENET_V2 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3),
)  # fmt: skip
EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip


def inverted_net(
    stages: tuple = MOBILENET_V2, activation: type[nn.Module] = nn.ReLU6, gate: bool = False, num_classes: int = 10
) -> nn.Sequential:
    """MobileNetV2, or with `EFFICIENTNET_B0`, SiLU and gates EfficientNet-B0: (N, 3, H, W) to (N, num_classes).

    Sources: Sandler et al. 2018; Tan and Le 2019.
    """
    layers, in_channels = [brick(3, 32, 3, 2, activation=activation)], 32
    for expansion, channels, blocks, stride, kernel_size in stages:
        for number in range(blocks):
            layers.append(inverted_residual(
                in_channels, channels, stride if number == 0 else 1, expansion, kernel_size, activation, gate
            ))  # fmt: skip
            in_channels = channels
    layers.append(brick(in_channels, 1280, activation=activation))
    end = head(1280, num_classes)
    end.insert(2, nn.Dropout(0.2))
    return nn.Sequential(*layers, *end)


def convnext_tiny(num_classes: int = 10) -> nn.Sequential:
    """ConvNeXt-Tiny: (N, 3, H, W) to (N, num_classes). Source: Liu et al. 2022."""
    widths, layers = (96, 192, 384, 768), patchify(3, 96, 4)
    for stage, (depth, width) in enumerate(zip((3, 3, 9, 3), widths)):
        if stage > 0:
            before = widths[stage - 1]
            layers += [ChannelNorm(before, eps=1e-6), nn.Conv2d(before, width, 2, 2)]
        layers += [convnext_block(width) for _ in range(depth)]
    pool, flatten, linear = head(width, num_classes)
    return nn.Sequential(*layers, pool, ChannelNorm(width, eps=1e-6), flatten, linear)


def backbone(
    block: Callable[[int, int, int], nn.Module],
    widths: tuple[int, ...] = (16, 32, 64),
    depths: tuple[int, ...] = (2, 2, 2),
    num_classes: int = 10,
) -> nn.Sequential:
    """A small network for small images, with one slot for a block: (N, 3, H, W) to (N, num_classes).

    Args:
        block: makes a module from (in_channels, out_channels, stride).
        widths: channels of each stage; each halves the image, the first in the stem.
        depths: blocks in each stage.
        num_classes: how many outputs.
    """
    layers, in_channels = [brick(3, widths[0], 3, 2)], widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for number in range(depth):
            layers.append(block(in_channels, width, 2 if stage > 0 and number == 0 else 1))
            in_channels = width
    return nn.Sequential(*layers, *head(in_channels, num_classes))
