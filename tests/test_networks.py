"""The networks: shapes, counts, timm's ResNets, and the chapters' own code."""

import copy

import pytest
import timm
import torch
from helpers import ROOT, chapter_definitions, copy_by_order, randomise
from torch import nn

from course_utils import count, networks

pytestmark = pytest.mark.sensitive

# network -> (parameters, MACs) at 128 px
PINNED = {
    "plain_cnn()": (395_674, 20_646_400),
    "plain_cnn(convs_per_stage=4)": (2_755_642, 162_204_160),
    "residual_net()": (2_800_202, 164_497_920),
    "resnet18()": (11_200_874, 670_438_400),
    "resnet34()": (21_309_034, 1_274_418_176),
    "resnet50()": (23_547_754, 1_412_845_568),
    "resnet101()": (42_539_882, 2_624_999_424),
    "resnet152()": (58_183_530, 3_837_153_280),
}

# What a chapter defines must be what course_utils defines.
# (chapter, expression in the chapter's names, the same network in `networks`)
CHAPTERS = ("01_plain_cnn", "02_residual_block", "03_stem", "04_bottleneck")
SAME = [
    ("01_plain_cnn", "make_cnn(norm=True)", "plain_cnn()"),
    ("02_residual_block", "conv_norm(3, 8, kernel_size=5, stride=2)", "conv_norm(3, 8, kernel_size=5, stride=2)"),
    ("02_residual_block", "plain_net(1)", "plain_cnn()"),
    ("02_residual_block", "plain_net(4)", "plain_cnn(convs_per_stage=4)"),
    ("02_residual_block", "make_shortcut(16, 32, 2)", "make_shortcut(16, 32, 2)"),
    ("02_residual_block", "ResidualBlock(16, 16)", "ResidualBlock(16, 16)"),
    ("02_residual_block", "ResidualBlock(16, 32, stride=2)", "ResidualBlock(16, 32, stride=2)"),
    ("02_residual_block", "residual_net(2)", "residual_net()"),
    ("02_residual_block", "residual_net(4)", "residual_net(blocks_per_stage=4)"),
    ("03_stem", "make_stem()", "make_stem()"),
    ("03_stem", "resnet18()", "resnet18()"),
    (
        "03_stem",
        "ResNet((2, 2, 2, 2), (32, 64, 128, 256), (16, 16, 32))",
        "ResNet(networks.ResidualBlock, (2, 2, 2, 2), (32, 64, 128, 256), (16, 16, 32))",
    ),
    ("04_bottleneck", "Bottleneck(64, 64)", "Bottleneck(64, 64)"),
    ("04_bottleneck", "Bottleneck(64, 128, stride=2)", "Bottleneck(64, 128, stride=2)"),
    ("04_bottleneck", "ResNet(*family[18])", "resnet18()"),
    ("04_bottleneck", "ResNet(*family[34])", "resnet34()"),
    ("04_bottleneck", "ResNet(*family[50])", "resnet50()"),
    ("04_bottleneck", "ResNet(*family[101])", "resnet101()"),
    ("04_bottleneck", "ResNet(*family[152])", "resnet152()"),
]


def build(expression: str) -> nn.Module:
    return eval(f"networks.{expression}", {"networks": networks})


@pytest.mark.parametrize("expression", PINNED)
def test_parameters_macs_and_shape_are_pinned(expression):
    model = build(expression)
    parameters, macs = PINNED[expression]
    assert count(model, (3, 128, 128)) == {"parameters": parameters, "macs": macs}
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


def test_plain_cnn_by_hand():
    sizes, channels = (64, 32, 16, 8, 4), (3, 16, 32, 64, 128, 256)
    weights = [9 * a * b for a, b in zip(channels, channels[1:])]
    assert weights == [432, 4_608, 18_432, 73_728, 294_912]
    parameters = sum(weights) + sum(2 * width for width in channels[1:]) + 256 * 10 + 10
    macs = sum(size * size * weight for size, weight in zip(sizes, weights)) + 256 * 10
    assert count(networks.plain_cnn(), (3, 128, 128)) == {"parameters": parameters, "macs": macs}
    assert (parameters, macs) == PINNED["plain_cnn()"]


def resnet_by_hand(bottleneck: bool, depths: tuple[int, ...], image_size: int = 128) -> tuple[int, int]:
    """Return (parameters, MACs) from the papers' tables alone."""
    totals = [0, 0]

    def conv(kernel_size: int, in_channels: int, out_channels: int, size: int) -> None:
        weight = kernel_size**2 * in_channels * out_channels
        totals[0] += weight + 2 * out_channels
        totals[1] += weight * size**2

    size = image_size // 2
    for in_channels, out_channels in ((3, 32), (32, 32), (32, 64)):
        conv(3, in_channels, out_channels, size)
    size, channels = size // 2, 64
    for stage, depth in enumerate(depths):
        inner = 64 * 2**stage
        out_channels = 4 * inner if bottleneck else inner
        for number in range(depth):
            before = size
            if stage and number == 0:
                size //= 2
            if bottleneck:
                conv(1, channels, inner, before)
                conv(3, inner, inner, size)
                conv(1, inner, out_channels, size)
            else:
                conv(3, channels, inner, size)
                conv(3, inner, inner, size)
            if channels != out_channels:
                conv(1, channels, out_channels, size)
            channels = out_channels
    return totals[0] + channels * 10 + 10, totals[1] + channels * 10


@pytest.mark.parametrize(
    ("expression", "bottleneck", "depths"),
    [
        ("resnet18()", False, (2, 2, 2, 2)),
        ("resnet34()", False, (3, 4, 6, 3)),
        ("resnet50()", True, (3, 4, 6, 3)),
        ("resnet101()", True, (3, 4, 23, 3)),
        ("resnet152()", True, (3, 8, 36, 3)),
    ],
)
def test_resnets_by_hand(expression, bottleneck, depths):
    assert resnet_by_hand(bottleneck, depths) == PINNED[expression]


@pytest.mark.parametrize(("ours", "theirs"), [("resnet18()", "resnet18d"), ("resnet50()", "resnet50d")])
def test_same_outputs_as_timm(ours, theirs):
    torch.manual_seed(0)
    reference = randomise(timm.create_model(theirs, num_classes=10)).eval()
    model = build(ours)
    copy_by_order(reference, model)
    model.eval()
    x = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        expected, found = reference(x), model(x)
    assert (expected[0] - expected[1]).abs().max() > 0.01  # the image matters
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18d", "resnet50d"])
def test_same_gradients_as_timm(name):
    reference = randomise(timm.create_model(name, num_classes=10)).train()
    model = build(f"{name[:-1]}()")
    copy_by_order(reference, model)
    model.train()
    x, y = torch.rand(4, 3, 64, 64), torch.tensor([1, 2, 3, 4])
    for network in (reference, model):
        nn.functional.cross_entropy(network(x), y).backward()
    for theirs, ours in zip(reference.parameters(), model.parameters()):
        assert (theirs.grad - ours.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-9
    # what batch norm has learned from the batch, too
    for theirs, ours in zip(reference.buffers(), model.buffers()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("block", [networks.ResidualBlock, networks.Bottleneck])
class TestBlock:
    x = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(1))

    def test_a_new_block_is_the_identity_and_a_relu(self, block):
        new = block(16, 16).eval()
        assert len(new.shortcut) == 0
        assert torch.equal(new(self.x), self.x.relu())
        # in training too: a scale of zero silences whatever the norm finds
        assert torch.equal(new.train()(self.x), self.x.relu())

    @pytest.mark.parametrize(("out_channels", "stride"), [(32, 1), (16, 2), (32, 2)])
    def test_a_new_block_of_another_shape_is_its_shortcut(self, block, out_channels, stride):
        new = block(16, out_channels, stride).eval()
        expected = self.x
        if stride == 2:
            expected = nn.functional.avg_pool2d(expected, 2, 2, ceil_mode=True, count_include_pad=False)
        if out_channels != 16:
            conv, norm = new.shortcut[-1]
            expected = norm(nn.functional.conv2d(expected, conv.weight))
        found = new(self.x)
        size = 9 if stride == 1 else 5
        assert found.shape == (2, out_channels, size, size)
        torch.testing.assert_close(found, expected.relu())

    def test_the_branch_learns_although_it_starts_silent(self, block):
        new = block(16, 16)
        new(self.x).sum().backward()
        assert new.branch[-1][1].weight.grad.abs().max() > 0

    def test_the_sum_passes_the_relu_not_the_branch(self, block):
        # a branch that can only add is a slip: here it must be able to take away
        new = randomise(block(16, 16)).eval()
        with torch.no_grad():
            change = new(self.x.abs() + 5) - (self.x.abs() + 5)
        assert change.min() < 0 < change.max()

    def test_only_the_last_norm_starts_at_zero(self, block):
        norms = [module for module in block(16, 32, 2).modules() if isinstance(module, nn.BatchNorm2d)]
        silent = [norm for norm in norms if not norm.weight.any()]
        assert len(silent) == 1
        assert silent[0].num_features == 32


def test_where_the_stride_is():
    basic, bottleneck = networks.ResidualBlock(8, 8, 2), networks.Bottleneck(8, 8, 2)
    assert [conv.stride[0] for conv in basic.branch.modules() if isinstance(conv, nn.Conv2d)] == [2, 1]
    assert [conv.stride[0] for conv in bottleneck.branch.modules() if isinstance(conv, nn.Conv2d)] == [1, 2, 1]


@pytest.mark.parametrize("image_size", [33, 47, 97, 129])
@pytest.mark.parametrize("expression", ["plain_cnn()", "residual_net()", "resnet18()", "resnet50()"])
def test_odd_image_sizes_work(expression, image_size):
    with torch.no_grad():
        assert build(expression).eval()(torch.zeros(1, 3, image_size, image_size + 2)).shape == (1, 10)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9, 13])
def test_size_formula(kernel_size, stride, size):
    padding = kernel_size // 2
    expected = (size + 2 * padding - kernel_size) // stride + 1
    found = networks.conv_norm(3, 4, kernel_size, stride)(torch.zeros(1, 3, size, size)).shape
    assert found == (1, 4, expected, expected)
    assert expected == -(-size // stride)  # as the docstring says: divided, rounded up


def test_activation_sizes_of_the_plain_cnn():
    x, sizes = torch.zeros(1, 3, 128, 128), []
    for layer in networks.plain_cnn()[:5]:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]


def test_stem_divides_by_four():
    stem = networks.make_stem()
    assert stem(torch.zeros(1, 3, 128, 128)).shape == (1, 64, 32, 32)
    assert [conv.stride[0] for conv in stem.modules() if isinstance(conv, nn.Conv2d)] == [2, 1, 1]


def test_number_of_classes():
    for name in ("plain_cnn", "residual_net", "resnet18", "resnet50"):
        assert getattr(networks, name)(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_depths_and_widths_must_go_together():
    with pytest.raises(ValueError):
        networks.ResNet(networks.ResidualBlock, (2, 2), (64, 128, 256))


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_chapter_is_compared(name):
    assert (ROOT / "notebooks" / "ladder" / f"{name}.ipynb").is_file()
    assert any(name == row[0] for row in SAME), f"say in SAME which networks {name} defines"


@pytest.mark.parametrize(("name", "in_chapter", "here"), SAME)
def test_chapters_define_the_same_networks(name, in_chapter, here):
    names = chapter_definitions(ROOT / "notebooks" / "ladder" / f"{name}.ipynb")
    torch.manual_seed(0)
    theirs = eval(in_chapter, names)
    torch.manual_seed(0)
    ours = build(here)
    for expected, found in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(expected, found)  # the same start, too
    copy_by_order(randomise(theirs), ours)
    x = torch.rand(2, next(theirs.parameters()).shape[1], 64, 64)
    for mode in (True, False):  # training first: then the running statistics are compared as well
        with torch.no_grad():
            expected, found = theirs.train(mode)(x), ours.train(mode)(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_comparison_sees_another_network():
    # the same weights in the same order, the shortcut forgotten: outputs must differ
    ours = randomise(networks.residual_net((8, 16), 1))
    other = copy.deepcopy(ours)
    other[0].forward = lambda x: torch.relu(other[0].branch(x))
    x = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(ours.eval()(x), other.eval()(x), atol=1e-3)


@pytest.mark.parametrize(("weights", "variance"), [("xavier", 2 / (9 * 64 + 9 * 128)), ("kaiming", 2 / (9 * 64))])
def test_weights_are_drawn_with_the_variance_of_their_start(weights, variance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Conv2d(8, 8, 1, bias=False), nn.Linear(99, 9))
    nn.init.ones_(model[1].bias)
    before = [weight.clone() for weight in model.parameters()]
    assert networks.draw_weights(model, weights) is model
    drawn = model[0].weight
    assert drawn.var().item() == pytest.approx(variance, rel=0.02) and abs(drawn.mean().item()) < 1e-3
    assert (drawn.abs().max() < (3 * variance) ** 0.5 * 1.001) == (weights == "xavier")  # uniform, or normal
    assert model[0].bias.abs().max() == model[3].bias.abs().max() == 0
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters())]
    assert changed == [True, True, False, False, True, True, True]  # norms stay as they are


def test_unknown_weights():
    with pytest.raises(ValueError, match="unknown weights 'zero': choose xavier or kaiming"):
        networks.draw_weights(nn.Linear(2, 2), "zero")
