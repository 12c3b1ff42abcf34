"""The survey's networks: the shapes of the sources, parameters and MACs, torchvision's outputs for equal weights."""

import pytest
import torch
import torchvision
from helpers import ROOT, chapter_definitions, copy_by_order, copy_state, randomise, same_state
from torch import nn

from course_utils import count, summarize
from course_utils.networks import draw_weights
from course_utils.summary import least_size

NAMES = {path.stem: chapter_definitions(path) for path in sorted((ROOT / "notebooks/survey").glob("*.ipynb"))}
ALEXNET, VGG = NAMES["01_lenet_alexnet"], NAMES["02_vgg"]
QUARTER = tuple((convs, channels // 4) for convs, channels in VGG["VGG11"])

# network, input, the sizes behind each convolution and pool, numbers of the linear layers, parameters, MACs
CONTRACTS = {
    "LeNet, 28 px": (
        lambda: ALEXNET["lenet"](28, 1), (1, 28, 28), (28, 14, 10, 5), (400, 120, 84, 10), 61_706, 416_520
    ),
    "LeNet, 32 px": (lambda: ALEXNET["lenet"](), (3, 32, 32), (28, 14, 10, 5), (400, 120, 84, 10), 62_006, 651_720),
    "AlexNet": (
        lambda: ALEXNET["alexnet"](), (3, 224, 224), (54, 26, 26, 12, 12, 12, 12, 5), (6400, 4096, 4096, 10),
        46_787_978, 1_005_890_688
    ),
    "AlexNet, 72 px": (
        lambda: ALEXNET["alexnet"](72), (3, 72, 72), (16, 7, 7, 3, 3, 3, 3, 1), (256, 4096, 4096, 10),
        21_622_154, 84_762_624
    ),
    "VGG-11": (
        lambda: VGG["vgg"](), (3, 224, 224), (224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14, 7),
        (25088, 4096, 4096, 10), 128_807_306, 7_605_035_008
    ),
    "a quarter of VGG-11": (
        lambda: VGG["vgg"](QUARTER), (3, 224, 224), (224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14, 7),
        (6272, 4096, 4096, 10), 43_093_610, 526_606_336
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTS)
def test_shapes_parameters_and_macs(name):
    make, shape, sizes, linear, parameters, macs = CONTRACTS[name]
    network = make()
    table = summarize(network, shape)
    maps = table[table["type"].str.contains("Conv2d|Pool2d") & ~table["type"].str.contains("Adaptive")]
    assert tuple(int(output.split(" x ")[-1]) for output in maps["output shape"]) == sizes
    ends = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert (ends[0].in_features, *(layer.out_features for layer in ends)) == linear
    assert count(network, shape) == {"parameters": parameters, "macs": macs}


def set_eps(network: nn.Module, eps: float) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return network


torchvision_models = torchvision.models
# ours with torchvision's numbers, torchvision's own
PARITY = {
    "AlexNet": (
        lambda: ALEXNET["alexnet"](224, 1000, (64, 192, 384, 256, 256), padding=2), torchvision_models.alexnet
    ),
    "VGG-11": (lambda: VGG["vgg"](num_classes=1000), torchvision_models.vgg11),
    "VGG-11, norm": (lambda: VGG["vgg"](num_classes=1000, norm=True), torchvision_models.vgg11_bn),
}  # fmt: skip


@pytest.mark.parametrize("name", PARITY)
@pytest.mark.parametrize("training", [False, True])
def test_the_same_outputs_as_torchvision(name, training):
    make, reference = PARITY[name]
    torch.manual_seed(0)
    ours, theirs = make(), randomise(reference())
    copy_by_order(theirs, ours)
    for network in (ours, theirs):
        network.train(training)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
    x = torch.rand(3, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 1e-3  # else 1e-4 says nothing
        torch.testing.assert_close(ours(x), expected, atol=1e-4, rtol=1e-4)


# what torchvision's has more of than ours, with the same number of classes, and why
DIFFERENCES = {
    "AlexNet": (
        lambda: ALEXNET["alexnet"](224, 1000), torchvision_models.alexnet,
        # widths 64, 192, 384, 256, 256 and padding 2, so 256 x 6 x 6 numbers are flattened, not 256 x 5 x 5
        (64 - 96) * (363 + 1) + (64 * 192 - 96 * 256) * 25 + (192 - 256) + (192 * 384 - 256 * 384) * 9
        + (384 * 256 - 384 * 384) * 9 + (256 - 384) + (256 * 256 - 384 * 256) * 9 + (9216 - 6400) * 4096
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_how_many_parameters_differ_from_torchvision(name):
    make, reference, difference = DIFFERENCES[name]
    theirs, ours = (sum(weight.numel() for weight in network.parameters()) for network in (reference(), make()))
    assert theirs - ours == difference


@pytest.mark.parametrize("name", CONTRACTS)
def test_gradients_reach_the_first_layer(name):
    make, shape, *_ = CONTRACTS[name]
    torch.manual_seed(0)
    network = draw_weights(make(), "kaiming")
    network(torch.rand(2, *shape)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert next(network.parameters()).grad.abs().max() > 0


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "image_size", "told"),
    [
        (ALEXNET["alexnet"], 64, "images of 64 px are too small for these layers: the least size is 65 px"),
        (ALEXNET["alexnet"], 32, "images of 32 px are too small for these layers: the least size is 65 px"),
        (ALEXNET["lenet"], 8, "images of 8 px are too small for these layers: the least size is 16 px"),
        (
            lambda size: VGG["vgg"](image_size=size),
            31,
            "images of 31 px are too small for 5 blocks: the least size is 32 px",
        ),
    ],
)
def test_an_image_that_is_too_small(make, image_size, told):
    with pytest.raises(ValueError, match=told):
        make(image_size)


@pytest.mark.parametrize(
    ("make", "least"), [(lambda: ALEXNET["alexnet"](65), 65), (lambda: VGG["vgg"](image_size=32), 32)]
)
def test_the_least_size(make, least):
    assert least_size(make()) == least


# ------------------------------------------------------------------ chapter 2


@pytest.mark.parametrize("weights", ["xavier", "kaiming"])
def test_the_weights_of_the_chapter_are_those_of_the_library(weights):
    networks = []
    for draw in (VGG["draw_weights"], draw_weights):
        torch.manual_seed(0)
        networks.append(draw(VGG["vgg"](QUARTER, 32, hidden=16), weights))
    assert same_state(*map(copy_state, networks))
