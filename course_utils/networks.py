"""The networks that the chapters have built, for later chapters to import.

A test checks that each is the same network as in its chapter: equal outputs for equal weights.
"""

from __future__ import annotations

import torch
from torch import nn


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, activation: bool = True
) -> nn.Sequential:
    """The brick of every network here: convolution, batch norm, ReLU.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up. The convolution has no
    bias, since the norm that follows has one. Source: Ioffe and Szegedy 2015.
    """
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activation else []))


def head(in_channels: int, num_classes: int) -> nn.Sequential:
    """Global average pooling and one linear layer: (N, in_channels, H, W) to (N, num_classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))


def draw_weights(model: nn.Module, weights: str) -> nn.Module:
    """Draw the weights of all convolutions and linear layers anew, set their biases to zero; return the network.

    Args:
        model: any network; norms and other parameters stay as they are.
        weights: "xavier" (uniform; Glorot and Bengio 2010) or "kaiming" (normal, by inputs, for ReLU; He et al. 2015).

    Raises:
        ValueError: no such start.
    """
    if weights not in ("xavier", "kaiming"):
        raise ValueError(f"unknown weights '{weights}': choose xavier or kaiming")
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if weights == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def plain_cnn(
    widths: tuple[int, ...] = (16, 32, 64, 128, 256), convs_per_stage: int = 1, num_classes: int = 10
) -> nn.Sequential:
    """A plain CNN: (N, 3, H, W) to (N, num_classes). Each stage halves the image once.

    Chapter 1 has one convolution a stage (stride 2); chapter 2 deepens it with further ones of
    stride 1.
    """
    layers, in_channels = [], 3
    for width in widths:
        for number in range(convs_per_stage):
            layers.append(conv_norm(in_channels, width, stride=2 if number == 0 else 1))
            in_channels = width
    return nn.Sequential(*layers, *head(in_channels, num_classes))


def make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Carry `x` past a block in the shape that the block's output has; nothing to do is no layer.

    Average pooling where the stride is 2, then a 1x1 convolution with norm where the channels
    change. Source: He et al. 2019, "ResNet-D".
    """
    layers = []
    if stride != 1:
        layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
    if in_channels != out_channels:
        layers.append(conv_norm(in_channels, out_channels, kernel_size=1, activation=False))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(F(x) + x), the block of ResNet-18 and -34.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up. The stride is
    in the first convolution. The last norm's scale starts at zero, so that a new block starts as its
    shortcut alone. Source: He et al. 2016; zero start: Goyal et al. 2017.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(in_channels, out_channels, stride=stride),
            conv_norm(out_channels, out_channels, activation=False),
        )
        self.shortcut = make_shortcut(in_channels, out_channels, stride)
        nn.init.zeros_(self.branch[-1][1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 down to a quarter of the width, 3x3, 1x1 up again, and a shortcut: the block of ResNet-50.

    (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up. The stride is
    in the 3x3 convolution. The last norm's scale starts at zero. Source: He et al. 2016.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        inner = out_channels // 4
        self.branch = nn.Sequential(
            conv_norm(in_channels, inner, kernel_size=1),
            conv_norm(inner, inner, stride=stride),
            conv_norm(inner, out_channels, kernel_size=1, activation=False),
        )
        self.shortcut = make_shortcut(in_channels, out_channels, stride)
        nn.init.zeros_(self.branch[-1][1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, in_channels, H, W)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def residual_net(
    widths: tuple[int, ...] = (16, 32, 64, 128, 256), blocks_per_stage: int = 2, num_classes: int = 10
) -> nn.Sequential:
    """The first residual net, chapter 2: (N, 3, H, W) to (N, num_classes).

    Each stage is a block of stride 2 and then blocks of stride 1.
    """
    blocks, in_channels = [], 3
    for width in widths:
        for number in range(blocks_per_stage):
            blocks.append(ResidualBlock(in_channels, width, stride=2 if number == 0 else 1))
            in_channels = width
    return nn.Sequential(*blocks, *head(in_channels, num_classes))


def make_stem(widths: tuple[int, ...] = (32, 32, 64)) -> nn.Sequential:
    """Plain convolutions, the first of stride 2, and a max pool: (N, 3, H, W) to (N, widths[-1], H / 4, W / 4).

    Source: He et al. 2019, "ResNet-C".
    """
    layers, in_channels = [], 3
    for number, width in enumerate(widths):
        layers.append(conv_norm(in_channels, width, stride=2 if number == 0 else 1))
        in_channels = width
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


class ResNet(nn.Module):
    """A ResNet with the three-convolution stem and average-pooled shortcuts ("ResNet-D").

    (N, 3, H, W) to (N, num_classes); every stage but the first halves the image once more.

    Args:
        block: `ResidualBlock` or `Bottleneck`.
        depths: blocks in each stage.
        widths: channels that leave each stage.
        stem_widths: channels of the stem's convolutions.
        num_classes: how many outputs.

    Source: He et al. 2016 and He et al. 2019.
    """

    def __init__(
        self,
        block: type[nn.Module],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        stem_widths: tuple[int, ...] = (32, 32, 64),
        num_classes: int = 10,
    ):
        super().__init__()
        self.stem = make_stem(stem_widths)
        stages, in_channels = [], stem_widths[-1]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block(in_channels, width, stride))
                in_channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = head(in_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 3, H, W)."""
        return self.head(self.stages(self.stem(x)))


BASIC_WIDTHS, BOTTLENECK_WIDTHS = (64, 128, 256, 512), (256, 512, 1024, 2048)


def resnet18(num_classes: int = 10) -> ResNet:
    """ResNet-18: basic blocks, 2-2-2-2."""
    return ResNet(ResidualBlock, (2, 2, 2, 2), BASIC_WIDTHS, num_classes=num_classes)


def resnet34(num_classes: int = 10) -> ResNet:
    """ResNet-34: basic blocks, 3-4-6-3."""
    return ResNet(ResidualBlock, (3, 4, 6, 3), BASIC_WIDTHS, num_classes=num_classes)


def resnet50(num_classes: int = 10) -> ResNet:
    """ResNet-50: bottlenecks, 3-4-6-3."""
    return ResNet(Bottleneck, (3, 4, 6, 3), BOTTLENECK_WIDTHS, num_classes=num_classes)


def resnet101(num_classes: int = 10) -> ResNet:
    """ResNet-101: bottlenecks, 3-4-23-3."""
    return ResNet(Bottleneck, (3, 4, 23, 3), BOTTLENECK_WIDTHS, num_classes=num_classes)


def resnet152(num_classes: int = 10) -> ResNet:
    """ResNet-152: bottlenecks, 3-8-36-3."""
    return ResNet(Bottleneck, (3, 8, 36, 3), BOTTLENECK_WIDTHS, num_classes=num_classes)
