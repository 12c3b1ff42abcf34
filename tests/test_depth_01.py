"""Depth, chapter 1: the networks of He et al. 2016a, and what the chapter measures in them, on cases made by hand."""

import pytest
import torch
from helpers import ROOT, chapter_definitions, copy_state, randomise, same_state
from torch import nn
from torch.nn import functional as F

from course_utils import count, evaluate, load_data

pytestmark = pytest.mark.sensitive

NAMES = chapter_definitions(ROOT / "notebooks/depth/01_why_depth_is_hard.ipynb")
KINDS = ("plain", "residual", "pre-activation", "relu-on-branch")
# parameters and MACs at 32 px; 269,722 and 853,018 are what common implementations have
CONTRACTS = {8: (75_290, 12_239_488), 20: (269_722, 40_551_040), 32: (464_154, 68_862_592), 56: (853_018, 125_485_696)}


def make(depth: int, kind: str, **options) -> nn.Sequential:
    return NAMES["new_network"](depth, kind, **options)


@pytest.fixture(scope="module")
def shapes():
    train, _ = load_data("shapes", 16)
    return train.subset(40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", CONTRACTS)
def test_every_kind_has_the_parameters_and_macs_of_the_paper(depth, kind):
    parameters, macs = CONTRACTS[depth]
    network = NAMES["cifar_net"](depth, kind)
    assert count(network, (3, 32, 32)) == {"parameters": parameters, "macs": macs}
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_without_norm_there_are_biases_and_no_norms():
    network = make(20, "residual", norm=False)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert all(layer.bias is not None for layer in network.modules() if isinstance(layer, nn.Conv2d))


def test_the_stages_halve_the_map_and_double_the_channels():
    _, outputs = NAMES["outputs_of_blocks"](make(20, "residual"), torch.rand(2, 3, 32, 32))
    sizes = [(16, 32)] * 3 + [(32, 16)] * 3 + [(64, 8)] * 3
    assert [tuple(output.shape) for output in outputs] == [(2, c, side, side) for c, side in sizes]


@pytest.mark.parametrize("depth, kind", [(2, "plain"), (10, "plain"), (21, "residual"), (20, "dense")])
def test_other_depths_and_kinds_are_refused(depth, kind):
    with pytest.raises(ValueError, match=f"no {kind} network of {depth} layers"):
        NAMES["cifar_net"](depth, kind)


def test_the_shortcut_by_hand():
    x = torch.arange(18.0).view(1, 2, 3, 3)
    out = NAMES["option_a"](x, 3, 2)
    assert out.tolist() == [[[[0, 2], [6, 8]], [[9, 11], [15, 17]], [[0, 0], [0, 0]]]]
    assert torch.equal(NAMES["option_a"](x, 2, 1), x)


def formula(kind: str, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A block of stride 1 written out with functions."""

    def norm(x, layer):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + layer.eps).sqrt() * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)

    def conv(x, layer):
        return F.conv2d(x, layer.weight, padding=1)

    if kind == "pre-activation":
        y = conv(F.relu(norm(x, block.norm1)), block.conv1)
        return x + conv(F.relu(norm(y, block.norm2)), block.conv2)
    y = norm(conv(F.relu(norm(conv(x, block.conv1), block.norm1)), block.conv2), block.norm2)
    return {"plain": F.relu(y), "residual": F.relu(y + x), "relu-on-branch": F.relu(y) + x}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_its_formula(kind):
    torch.manual_seed(0)
    block = randomise(NAMES["Block"](4, 4, 1, kind, True))
    x = torch.randn(3, 4, 5, 5)
    assert torch.allclose(block(x), formula(kind, block, x), atol=1e-5)
    assert kind in repr(block)  # or a checkpoint could not tell one kind from another


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_with_a_zero_branch_pass_on_what_they_get(kind):
    network = make(20, kind, norm=False, zero_start=True)
    assert all(block.conv1.weight.any() and not block.conv2.weight.any() for block in NAMES["blocks_of"](network))
    x = torch.rand(2, 3, 16, 16)
    _, outputs = NAMES["outputs_of_blocks"](network, x)
    before = network[0](x) if kind == "pre-activation" else network[0](x).relu()
    for number, output in enumerate(outputs):
        if kind == "plain":
            assert not output.any()
            continue
        if number in (3, 6):  # a stage begins
            before = torch.cat([before[:, :, ::2, ::2], torch.zeros_like(before[:, :, ::2, ::2])], dim=1)
        assert torch.equal(output, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_zero_branch_is_the_identity(kind):
    torch.manual_seed(0)
    block = NAMES["Block"](2, 2, 1, kind, False)
    nn.init.zeros_(block.conv2.weight), nn.init.zeros_(block.conv2.bias)
    x = torch.rand(1, 2, 3, 3) + 0.1  # a block's input is positive, except before a pre-activation
    jacobian = torch.autograd.functional.jacobian(block, x).view(18, 18)
    assert torch.equal(jacobian, torch.zeros(18, 18) if kind == "plain" else torch.eye(18))


def test_a_seed_decides_the_weights():
    first, again, other = (copy_state(make(8, "plain", seed=seed)) for seed in (0, 0, 1))
    assert same_state(first, again) and not same_state(first, other)
    assert same_state(first, copy_state(make(8, "residual", seed=0)))  # the same start for every kind


class Scale(NAMES["Block"]):
    """A block of one channel whose convolutions multiply by 2 and 3."""

    def __init__(self, kind):
        super().__init__(1, 1, 1, kind, False)
        for layer, factor in ((self.conv1, 2.0), (self.conv2, 3.0)):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
            layer.weight.data[0, 0, 1, 1] = factor


def test_signal_and_gradient_by_layer_by_hand():
    # one pixel: 6, then 42 with a shortcut; the loss of logits (v, 0) and class 1 is log(1 + exp(v))
    network = nn.Sequential(Scale("plain"), Scale("residual"), nn.Flatten(), nn.Linear(1, 2))
    network[-1].weight.data, network[-1].bias.data = torch.tensor([[0.01], [0.0]]), torch.zeros(2)
    found = NAMES["look_inside"](network, torch.ones(1, 1, 1, 1), torch.tensor([1]))
    assert found["signal"].tolist() == pytest.approx([6, 42])
    slope = 0.01 * torch.tensor(0.42).sigmoid().item()  # of the loss, by what leaves the second block
    # the second block: out = 6 w + 6 at w = 2 times 3; the first: out = 3 w, and then times 7
    assert found["gradient"].tolist() == pytest.approx([slope * 7 * 3, slope * 3 * 6])
    backward = NAMES["gradients_at_blocks"](network, torch.ones(1, 1, 1, 1), torch.tensor([1]))
    assert [g.item() for g in backward] == pytest.approx([slope * 7, slope])


def test_the_kept_direction_is_that_of_the_last_gradient_in_the_last_stage():
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    backward = NAMES["gradients_at_blocks"](make(14, "residual"), x, y)
    assert [tuple(gradient.shape[1:]) for gradient in backward] == [(16, 16, 16)] * 2 + [(32, 8, 8)] * 2 + [
        (64, 4, 4)
    ] * 2
    first, last = backward[-2:]
    cosine = ((first * last).sum() / first.norm() / last.norm()).item()
    assert 0.1 < cosine < 0.99
    found = NAMES["kept_direction"](make(14, "residual"), x, y)
    assert found == pytest.approx([cosine, 1], rel=1e-4)


def test_root_mean_square_and_mean_are_over_all_features():
    network = nn.Sequential(Scale("relu-on-branch"), nn.Flatten(), nn.Linear(4, 2))
    x = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
    assert NAMES["look_inside"](network, x, torch.tensor([0]))["signal"].item() == pytest.approx(7 / 2**0.5)
    assert NAMES["means_of_blocks"](network, x) == pytest.approx([3.5])
    assert NAMES["means_of_blocks"](network, -x) == pytest.approx([-0.5])  # the branch cannot follow below zero


def test_likeness_by_hand():
    network = nn.Sequential(Scale("plain"))
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    copies = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2)
    found = NAMES["alike"](network, x, copies)
    half = 0.5**0.5
    # own: 1 and half; other: 0 and half. Times 6, nothing changes
    assert found["own"].tolist() == pytest.approx([(1 + half) / 2] * 2)
    assert found["other"].tolist() == pytest.approx([half / 2] * 2, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "pre-activation"])
def test_directions_are_as_long_as_the_filters(kind):
    network = randomise(make(8, kind))
    first, again, other = (NAMES["filter_direction"](network, seed) for seed in (1, 1, 2))
    for weight, direction, same, another in zip(network.parameters(), first, again, other, strict=True):
        assert torch.equal(direction, same) and direction.shape == weight.shape
        if weight.dim() == 1:
            assert not direction.any()
            continue
        assert torch.allclose(direction.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1), rtol=1e-4)
        assert not torch.allclose(direction, another)


def test_the_middle_of_a_slice_is_the_network_and_it_is_left_as_it_was(shapes):
    network = randomise(make(8, "residual"))
    before = copy_state(network)
    losses = NAMES["loss_slice"](network, shapes, [-0.5, 0.0, 0.5])
    assert same_state(before, copy_state(network)) and network.training
    assert losses[1, 1].item() == evaluate(network, shapes)["loss"]
    first, second = (NAMES["filter_direction"](network, seed) for seed in (1, 2))
    for weight, u, v in zip(network.parameters(), first, second, strict=True):
        weight.data += 0.5 * u - 0.5 * v
    assert losses[2, 0].item() == pytest.approx(evaluate(network, shapes)["loss"], rel=1e-4)  # rows: the first one


def test_the_first_steps_are_those_of_sgd(shapes):
    class Settings:
        batch_size, watched_steps = 16, 4

    code = NAMES["first_steps"]
    code.__globals__.update(settings=Settings, train=shapes, device=torch.device("cpu"))
    found = code(make(8, "residual"), 0.05)

    network, losses, ratios = make(8, "residual"), [], []
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    batches = [batch for _ in range(2) for batch in shapes.batches(16, generator)][:4]  # 40 images: 3 an epoch
    for x, y in batches:
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        norms = [block.conv1.weight.grad.norm() for block in NAMES["blocks_of"](network)]
        losses.append(loss.item()), ratios.append((norms[0] / norms[-1]).item())
        optimizer.step()
    assert found["loss"].tolist() == pytest.approx(losses, rel=1e-4)
    assert found["ratio"].tolist() == pytest.approx(ratios, rel=1e-3)
    assert len(code(make(8, "residual", norm=False), 1e6)) < 4  # the loss is not finite any more
