"""The survey's networks: the shapes of the sources, parameters and MACs, torchvision's outputs for equal weights."""

from functools import partial
from inspect import isfunction

import pytest
import torch
import torchvision
from helpers import ROOT, chapter_definitions, copy_by_order, copy_state, randomise, same_state
from torch import nn

from course_utils import ImageData, count, fit, summarize, survey
from course_utils.networks import draw_weights
from course_utils.summary import least_size

pytestmark = pytest.mark.sensitive

NAMES = {path.stem: chapter_definitions(path) for path in sorted((ROOT / "notebooks/survey").glob("*.ipynb"))}
ALEXNET, VGG, NIN, GOOGLENET, RESNET, DENSENET, AFTER = (
    NAMES[name]
    for name in (
        "01_lenet_alexnet",
        "02_vgg",
        "03_nin",
        "04_googlenet",
        "05_resnet",
        "06_densenet",
        "07_after_resnet",
    )  # fmt: skip
)
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
    "NiN": (
        lambda: NIN["nin"](), (3, 224, 224),
        (54, 54, 54, 26, 26, 26, 26, 12, 12, 12, 12, 5, 5, 5, 5), (), 2_015_398, 830_041_864
    ),
    "NiN, MNIST": (
        lambda: NIN["nin"](1), (1, 224, 224),
        (54, 54, 54, 26, 26, 26, 26, 12, 12, 12, 12, 5, 5, 5, 5), (), 1_992_166, 762_297_352
    ),
    "GoogLeNet": (
        lambda: GOOGLENET["googlenet"](), (3, 96, 96),
        (48, 24, 24, 24, *(12,) * 15, *(6,) * 36, *(3,) * 15), (1024, 10), 5_983_802, 290_516_992
    ),
    "ResNet-18": (
        lambda: RESNET["survey_resnet"](), (3, 224, 224),
        (112, 56, *(56,) * 4, *(28,) * 5, *(14,) * 5, *(7,) * 5), (512, 10), 11_184_650, 1_813_566_464
    ),
    "DenseNet": (
        lambda: DENSENET["densenet"](), (3, 224, 224),
        (112, 56, *(56,) * 5, *(28,) * 6, *(14,) * 6, *(7,) * 5), (248, 10), 764_498, 781_418_416
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
    assert (*(layer.in_features for layer in ends[:1]), *(layer.out_features for layer in ends)) == linear
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
    "GoogLeNet": (
        lambda: torchvisions_googlenet(),
        lambda: torchvision_models.googlenet(aux_logits=False, transform_input=False, init_weights=False),
    ),
    "ResNet-18": (lambda: RESNET["survey_resnet"](num_classes=1000, paper=True), torchvision_models.resnet18),
    "DenseNet-121": (
        lambda: DENSENET["densenet"]((6, 12, 24, 16), bottleneck=True, num_classes=1000),
        torchvision_models.densenet121,
    ),
    "ResNeXt-50": (lambda: survey.resnext50(1000), torchvision_models.resnext50_32x4d),
    "MobileNetV2": (lambda: survey.inverted_net(num_classes=1000), torchvision_models.mobilenet_v2),
    "EfficientNet-B0": (
        lambda: survey.inverted_net(survey.EFFICIENTNET_B0, nn.SiLU, gate=True, num_classes=1000),
        torchvision_models.efficientnet_b0,
    ),
    "ConvNeXt-Tiny": (lambda: survey.convnext_tiny(1000), lambda: in_our_order(torchvision_models.convnext_tiny())),
}  # fmt: skip


def torchvisions_googlenet() -> nn.Sequential:
    """Our GoogLeNet with what torchvision's has otherwise: norm of its own eps, 3x3 for 5x5, the last pool 2x2."""
    block = partial(GOOGLENET["Inception"], third_kernel=3)
    network = set_eps(GOOGLENET["googlenet"](1000, block=block, norm=True), 1e-3)
    [layer for layer in network if isinstance(layer, nn.MaxPool2d)][-1].kernel_size = 2
    return network


def in_our_order(convnext: nn.Module) -> nn.Module:
    """torchvision's ConvNeXt as a network whose parameters have the order and the shapes of ours."""
    for block in [module for module in convnext.modules() if hasattr(module, "layer_scale")]:
        block.layer_scale.data.uniform_(0.5, 1.5)  # 1e-6 would hide the branch
        scale = block._parameters.pop("layer_scale")
        block.register_module("last", nn.ParameterList([scale]))
        type(block).layer_scale = property(lambda self: self.last[0])
        for linear in (block.block[3], block.block[5]):
            linear.weight.data = linear.weight.data[..., None, None]
            linear.forward = lambda x, of=linear: torch.nn.functional.linear(x, of.weight[..., 0, 0], of.bias)
    return convnext


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
            if isinstance(module, (nn.Dropout, torchvision.ops.StochasticDepth)):
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
    "GoogLeNet": (
        lambda: GOOGLENET["googlenet"](1000),
        lambda: torchvision_models.googlenet(aux_logits=False, init_weights=False),
        # a norm has two numbers for a map where a bias is one; 3x3 instead of 5x5 in the third branch
        sum(
            c1 + sum(c2) + sum(c3) + c4 - (25 - 9) * c3[0] * c3[1]
            for group in GOOGLENET["GOOGLENET"] for c1, c2, c3, c4 in group
        ) + 64 + 64 + 192
    ),
    "ResNet-18": (
        lambda: RESNET["survey_resnet"](num_classes=1000), torchvision_models.resnet18,
        # no biases in front of norms: one in the stem, four in each stage, and one in three shortcuts, which get norms
        -64 - 4 * (64 + 128 + 256 + 512) + (128 + 256 + 512) * (2 - 1)
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


SMALL = {
    name: partial(survey.backbone, AFTER[block])
    for name, block in (
        ("basic", "basic_block"), ("gate", "se_block"), ("inverted", "inverted_residual"),
        ("ConvNeXt", "convnext_slot"),
    )
} | {"ResNeXt": lambda: survey.backbone(partial(AFTER["resnext_block"], groups=4))}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_the_first_layer_of_the_small_networks(name):
    torch.manual_seed(0)
    network = SMALL[name]()
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert next(network.parameters()).grad.abs().max() > 0


# a chapter's own code, and what course_utils.survey keeps of it
SAME = [
    ("01_lenet_alexnet", "lenet", {}), ("01_lenet_alexnet", "lenet", {"image_size": 28, "in_channels": 1}),
    ("01_lenet_alexnet", "alexnet", {"image_size": 72}), ("02_vgg", "vgg", {"image_size": 72, "norm": True}),
    ("03_nin", "nin", {}), ("03_nin", "nin", {"in_channels": 1, "norm": True}),
    ("04_googlenet", "googlenet", {}), ("04_googlenet", "googlenet", {"norm": True}),
    ("05_resnet", "survey_resnet", {}), ("05_resnet", "survey_resnet", {"widths": (8, 16), "paper": True}),
    ("06_densenet", "densenet", {}), ("06_densenet", "densenet", {"blocks": (2, 3), "bottleneck": True}),
    ("06_densenet", "transition", {"in_channels": 8, "out_channels": 4}),
    ("07_after_resnet", "basic_block", {"in_channels": 8, "out_channels": 16, "stride": 2}),
    ("07_after_resnet", "resnext_block", {"in_channels": 8, "out_channels": 32, "groups": 4}),
    ("07_after_resnet", "se_block", {"in_channels": 32, "out_channels": 32}),
    ("07_after_resnet", "inverted_residual", {"in_channels": 8, "out_channels": 8, "gate": True}),
    ("07_after_resnet", "inverted_residual", {"in_channels": 8, "out_channels": 16, "stride": 2, "expansion": 1}),
    ("07_after_resnet", "convnext_block", {"channels": 8, "scale": 0.5}),
]  # fmt: skip


def test_every_network_of_the_module_is_compared_with_its_chapter():
    shared = {name for names in NAMES.values() for name in names if hasattr(survey, name)}
    functions = {name for name in shared if isfunction(getattr(survey, name)) and name not in ("head", "partial")}
    # parts of the others, and what is compared below
    assert functions - {name for _, name, _ in SAME} == {
        "flat_size", "vgg_block", "nin_block", "conv_relu", "stem7", "brick", "backbone",
    }  # fmt: skip


@pytest.mark.parametrize(("chapter_name", "name", "options"), SAME)
def test_a_chapter_and_the_module_build_the_same_network(chapter_name, name, options):
    networks = []
    for make in (NAMES[chapter_name][name], getattr(survey, name)):
        torch.manual_seed(0)
        networks.append(randomise(make(**options)).eval())
    assert same_state(*map(copy_state, networks))
    first = next(layer for layer in networks[0].modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)))
    channels = getattr(first, "in_channels", None) or first.num_features
    size = options.get("image_size", 72 if channels < 4 else 8)
    size = 32 if name == "lenet" and "image_size" not in options else size
    x = torch.rand(2, channels, size, size)
    with torch.no_grad():
        assert torch.equal(networks[0](x), networks[1](x))


def test_the_backbone_of_the_chapter_and_of_the_module():
    networks = []
    for make in (AFTER["backbone"], survey.backbone):
        torch.manual_seed(0)
        networks.append(make(survey.basic_block, (8, 16, 32), (1, 2, 1)).eval())
    x = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(networks[0](x), networks[1](x))


# ------------------------------------------------------------------ what the chapters say of their blocks


def test_a_1x1_convolution_is_a_linear_layer_at_each_pixel():
    conv, linear = nn.Conv2d(5, 7, 1), nn.Linear(5, 7)
    linear.load_state_dict({"weight": conv.weight[..., 0, 0], "bias": conv.bias})
    x = torch.rand(2, 5, 4, 3)
    torch.testing.assert_close(conv(x), linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_inception_concatenates_its_branches_in_order():
    block = GOOGLENET["Inception"](2, 2, (2, 2), (2, 2), 2)
    assert block.out_channels == 8
    for number in range(4):
        block.branches[number] = nn.Sequential(*[nn.Identity() for _ in range(number)], Times(number + 1))
    x = torch.rand(1, 2, 4, 4)
    assert torch.equal(block(x), torch.cat([x, 2 * x, 3 * x, 4 * x], dim=1))


class Times(nn.Module):
    """Multiply by a number."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.number * x


def test_the_shape_checks_of_the_source():
    assert RESNET["Residual"](3, 3)(torch.rand(4, 3, 6, 6)).shape == (4, 3, 6, 6)
    assert RESNET["Residual"](3, 6, stride=2)(torch.rand(4, 3, 6, 6)).shape == (4, 6, 3, 3)
    dense = DENSENET["DenseBlock"](2, 3, 10)(torch.rand(4, 3, 8, 8))
    assert dense.shape == (4, 23, 8, 8)
    assert DENSENET["transition"](23, 10)(dense).shape == (4, 10, 4, 4)


def test_a_dense_block_keeps_its_input():
    x = torch.rand(2, 3, 8, 8)
    for bottleneck in (False, True):
        assert torch.equal(DENSENET["DenseBlock"](4, 3, 10, bottleneck)(x)[:, :3], x)


def test_the_channels_of_densenet():
    channels = [64]
    for layer in DENSENET["densenet"]():
        if isinstance(layer, DENSENET["DenseBlock"]):
            channels.append(layer.out_channels)
        elif isinstance(layer, nn.Sequential):  # a transition
            channels.append(layer[2].out_channels)
    assert channels == [64, 192, 96, 224, 112, 240, 120, 248]


def test_a_bias_in_front_of_a_norm_does_nothing():
    torch.manual_seed(0)
    block, x = RESNET["Residual"](4, 4), torch.rand(3, 4, 6, 6)
    before = block(x)
    for layer in block.branch:
        if isinstance(layer, nn.Conv2d):
            layer.bias.data += 3
    torch.testing.assert_close(block(x), before, atol=1e-5, rtol=1e-5)


def test_groups_are_a_block_diagonal_matrix():
    grouped, whole = nn.Conv2d(8, 8, 3, groups=4, bias=False), nn.Conv2d(8, 8, 3, bias=False)
    whole.weight.data.zero_()
    for group in range(4):
        part = slice(2 * group, 2 * group + 2)
        whole.weight.data[part, part] = grouped.weight.data[part]
    x = torch.rand(2, 8, 5, 5)
    torch.testing.assert_close(grouped(x), whole(x))


def test_squeeze_and_excitation_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.ops.SqueezeExcitation(8, 2)
    ours = AFTER["SqueezeExcitation"](8, 2)
    copy_by_order(theirs, ours)
    x = torch.rand(2, 8, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_where_the_shape_changes_an_inverted_residual_has_no_shortcut():
    same, other = AFTER["inverted_residual"](8, 8), AFTER["inverted_residual"](8, 12)
    x = torch.rand(2, 8, 6, 6)
    for block in (same, other):
        block.eval().branch[-1][1].weight.data.zero_()
    assert torch.equal(same(x), x) and not other(x).any()


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
    ("make", "least"),
    [
        (lambda: ALEXNET["alexnet"](65), 65), (lambda: VGG["vgg"](image_size=32), 32),
        (lambda: NIN["nin"](), 67), (lambda: GOOGLENET["googlenet"](), 31), (lambda: DENSENET["densenet"](), 29),
        (lambda: RESNET["survey_resnet"](), 1),
    ],
)  # fmt: skip
def test_the_least_size(make, least):
    assert least_size(make()) == least


def some_images(channels: int = 3, size: int = 32, classes: int = 10) -> ImageData:
    labels = torch.arange(20) % classes
    return ImageData(
        torch.zeros(20, channels, size, size, dtype=torch.uint8), labels, list("abcdefghij")[:classes], "x"
    )


@pytest.mark.parametrize(
    ("make", "data", "told"),
    [
        (NIN["nin"], some_images(), "images of 32 px are too small for this network: it takes 67 px or more"),
        (DENSENET["densenet"], some_images(size=16), "images of 16 px are too small for this network: it takes 29 px"),
        (NIN["nin"], some_images(1, 72), "the images have 1 channel, and the network expects another number"),
        (lambda: NIN["nin"](1), some_images(3, 72), "the images have 3 channels, and the network expects another"),
        (lambda: GOOGLENET["googlenet"](7), some_images(), "but the data has 10 classes.*Set num_classes=10"),
        (RESNET["survey_resnet"], some_images(classes=3), "but the data has 3 classes.*Set num_classes=3"),
    ],
)
def test_images_that_do_not_fit_the_network(make, data, told):
    with pytest.raises(ValueError, match=told):
        fit(make(), data, data, epochs=1, batch_size=10, learning_rate=0.1)


# ------------------------------------------------------------------ chapter 2


@pytest.mark.parametrize("weights", ["xavier", "kaiming"])
def test_the_weights_of_the_chapter_are_those_of_the_library(weights):
    networks = []
    for draw in (VGG["draw_weights"], draw_weights):
        torch.manual_seed(0)
        networks.append(draw(VGG["vgg"](QUARTER, 32, hidden=16), weights))
    assert same_state(*map(copy_state, networks))
