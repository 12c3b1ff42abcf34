"""Parameters and multiply-accumulates, against sums done by hand."""

from contextlib import contextmanager

import pytest
import torch
import torchvision
from helpers import copy_state, new_tiny_network, same_state
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_utils import count, summarize
from course_utils.summary import least_size, running_costs

# (network, input shape, parameters, MACs, output shape), each worked out by hand
CASES = {
    # 3 to 4 channels, 3x3, padding 1, 8x8 positions; a bias adds parameters, not MACs
    "convolution with bias": (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8), 3 * 4 * 9 + 4, 8 * 8 * 3 * 4 * 9, "4 x 8 x 8"),
    "convolution without bias": (
        nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 8, 8), 3 * 4 * 9, 8 * 8 * 3 * 4 * 9, "4 x 8 x 8"
    ),
    # floor((7 + 0 - 3) / 2) + 1 = 3
    "stride and no padding": (nn.Conv2d(2, 5, 3, stride=2), (2, 7, 7), 2 * 5 * 9 + 5, 3 * 3 * 2 * 5 * 9, "5 x 3 x 3"),
    # each output sees 4 / 2 = 2 input channels
    "groups": (
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (4, 5, 5), 6 * 2 * 9, 5 * 5 * 6 * 2 * 9, "6 x 5 x 5"
    ),
    "one channel a group": (
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), (8, 4, 6), 8 * 9, 4 * 6 * 8 * 9, "8 x 4 x 6"
    ),
    "oblong kernel": (nn.Conv2d(1, 2, (1, 3), bias=False), (1, 4, 9), 6, 4 * 7 * 2 * 3, "2 x 4 x 7"),
    "linear": (nn.Linear(12, 7), (12,), 12 * 7 + 7, 12 * 7, "7"),
    "linear without bias": (nn.Linear(12, 7, bias=False), (12,), 12 * 7, 12 * 7, "7"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_single_layer(name):
    layer, shape, parameters, macs, output = CASES[name]
    table = summarize(layer, shape)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["parameters"], row["MACs"], row["output shape"]) == (parameters, macs, output)
    assert row["type"] == type(layer).__name__
    assert count(layer, shape) == {"parameters": parameters, "macs": macs}


def test_rows_stand_in_the_order_in_which_layers_run():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    table = summarize(model, (3, 6, 6))
    assert list(table.columns) == ["layer", "type", "output shape", "parameters", "MACs"]
    assert list(table["layer"]) == ["0", "1", "2", "3", "4", "5"]
    assert list(table["type"]) == ["Conv2d", "BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert list(table["output shape"]) == ["4 x 3 x 3", "4 x 3 x 3", "4 x 3 x 3", "4 x 1 x 1", "4", "2"]
    assert list(table["parameters"]) == [3 * 4 * 9 + 4, 4 + 4, 0, 0, 0, 4 * 2 + 2]
    assert list(table["MACs"]) == [3 * 3 * 3 * 4 * 9, 0, 0, 0, 0, 8]


class Branches(nn.Module):
    """Layers that are defined in one order and run in another, inside a module of their own."""

    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(4, 4, 1, bias=False)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())

    def forward(self, x):
        x = self.first(x)
        return self.second(x) + x


def test_nested_modules_and_order_of_running():
    table = summarize(nn.Sequential(Branches(), nn.Conv2d(4, 1, 1, bias=False)), (3, 5, 5))
    assert list(table["layer"]) == ["0.first.0", "0.first.1", "0.second", "1"]
    assert list(table["MACs"]) == [25 * 3 * 4 * 9, 0, 25 * 4 * 4, 25 * 4]


def test_two_networks_side_by_side_in_one_class_name():
    # the counter names layers from the class down; a class inside itself must not confuse it
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4, bias=False)), nn.Sequential(nn.Linear(4, 5, bias=False)))
    assert list(summarize(model, (3,))["MACs"]) == [12, 20]


def test_a_layer_used_twice_stands_once_with_the_work_of_both():
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    table = summarize(nn.Sequential(layer, nn.ReLU(), layer), (4, 6, 6))
    assert list(table["type"]).count("Conv2d") == 1
    assert table["parameters"].sum() == 4 * 4 * 9
    assert table["MACs"].sum() == 2 * 36 * 4 * 4 * 9


# ------------------------------------------------------------------ layers that are called by function


@contextmanager
def matrix_products():
    """Attention as matrix products: with gradients there is no fast path, and the kernel is the plain one."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def whole(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """What all of a network has, without a look at its parts."""
    with matrix_products(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape, device=next(model.parameters()).device))
    return {"parameters": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2}


def sums(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    table = summarize(model, shape)
    return {"parameters": table["parameters"].sum(), "macs": table["MACs"].sum()}


# torchvision's own parameters, and operations in thousands of millions at 224 px
@pytest.mark.parametrize(
    ("name", "parameters", "giga"),
    [("resnet18", 11689512, 1.814), ("vit_b_16", 86567656, 17.564), ("swin_t", 28288354, 4.491),
     ("swin_v2_t", 28351570, None), ("googlenet", 13004888, 1.498)],
)  # fmt: skip
def test_the_table_holds_all_of_a_network(name, parameters, giga):
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):  # shapes only, no numbers
        model = getattr(torchvision.models, name)(weights=None, **options)
    found = sums(model, (3, 224, 224))
    assert found == count(model, (3, 224, 224)) == whole(model, (3, 224, 224))
    assert found["parameters"] == parameters
    assert giga is None or found["macs"] / 1e9 == pytest.approx(giga, abs=0.0006)


class Attention(nn.Module):
    """Five values of width 6 that look at each other; the second projection is called by function."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(5, 6))
        self.enter, self.leave = nn.Linear(6, 18), nn.Linear(6, 4, bias=False)

    def forward(self, x):
        query, key, value = self.enter(x + self.places).chunk(3, dim=-1)
        x = F.scaled_dot_product_attention(query, key, value)
        return F.linear(x, self.leave.weight), "something else"


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x):
        return self.attention(x)[0].mean(1)


def test_what_lies_in_no_layer_has_a_row_of_its_own():
    table = summarize(Tokens(), (5, 6))
    assert table.values.tolist() == [
        ["attention.enter", "Linear", "5 x 18", 6 * 18 + 18, 5 * 6 * 18],
        ["attention.leave", "Linear", "not called", 6 * 4, 0],
        # the places; 5 x 5 products of width 6 and what is taken with them; the second projection
        ["attention", "Attention", "5 x 4", 5 * 6, 5 * 5 * 6 + 5 * 5 * 6 + 5 * 6 * 4],
    ]


class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_pytorchs_own_attention(frozen):
    """Without gradients it would take a way that the counter does not see."""
    model = Multihead().requires_grad_(not frozen)
    rows = summarize(model, (5, 6)).set_index("layer")
    assert list(rows.index) == ["inner.out_proj", "inner"]
    assert list(rows["parameters"]) == [6 * 6 + 6, 3 * (6 * 6 + 6)]
    assert list(rows["MACs"]) == [0, 5 * 6 * 18 + 2 * 2 * 5 * 5 * 3 + 5 * 6 * 6]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_transformer_of_pytorchs_own():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    assert sums(model, (7, 8)) == whole(model, (7, 8))
    assert sums(model, (7, 8))["macs"] == 2 * (7 * 8 * 24 + 2 * 7 * 7 * 8 + 7 * 8 * 8 + 2 * 7 * 8 * 16)


def test_the_way_of_attention_stays_when_the_network_fails():
    with pytest.raises(RuntimeError):
        summarize(nn.Sequential(Multihead(), nn.Linear(7, 1)), (5, 6))
    assert torch.backends.mha.get_fastpath_enabled()


class Reused(nn.Module):
    """One layer under two names, a weight that two layers share, a block that runs twice, one that never runs."""

    def __init__(self):
        super().__init__()
        self.block = Attention()
        self.again = self.block.enter
        self.tied = nn.Linear(18, 6, bias=False)
        self.other = nn.Linear(18, 6)
        self.other.weight = self.tied.weight
        self.idle = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        self.block(x)
        return self.block(self.other(self.again(self.tied(self.again(x)))))[0]


def test_what_is_shared_or_idle_is_counted_once():
    model = Reused()
    assert sums(model, (5, 6)) == whole(model, (5, 6))
    rows = summarize(model, (5, 6)).set_index("layer")
    assert "idle.1" not in rows.index and rows.loc["idle.0", "output shape"] == "not called"
    assert rows.loc["block.enter", "MACs"] == 4 * 5 * 6 * 18
    assert (rows.loc["tied", "parameters"], rows.loc["other", "parameters"]) == (18 * 6, 6)


class Residual(nn.Module):
    """A scale of its own and outputs in a dictionary, as segmentation networks have them; nothing is multiplied."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4, 1, 1)), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return {"out": x + self.scale * self.layer(x), "aux": None}


def test_parameters_of_a_whole_network():
    rows = summarize(Residual(), (4, 3, 3)).values.tolist()
    assert rows[1] == ["", "Residual", "4 x 3 x 3", 4, 0] and len(rows) == 2


@pytest.mark.parametrize("training", [True, False])
def test_mode_weights_and_statistics_stay(training):
    model = new_tiny_network().train(training)
    before = copy_state(model)
    summarize(model, (3, 16, 16))
    count(model, (3, 16, 16))
    assert same_state(copy_state(model), before)
    assert all(module.training == training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_frozen_norm_stays_frozen():
    model = new_tiny_network().train()
    model[1].eval()
    summarize(model, (3, 16, 16))
    assert model.training
    assert not model[1].training


def test_a_network_without_parameters():
    table = summarize(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), (3, 4, 4))
    assert list(table["output shape"]) == ["3 x 2 x 2", "12"]
    assert count(nn.Flatten(), (3, 4, 4)) == {"parameters": 0, "macs": 0}


def test_nothing_stays_behind_when_the_network_fails():
    model = new_tiny_network().train()
    with pytest.raises(RuntimeError):
        summarize(model, (4, 16, 16))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_one_image_counts_the_same_in_any_memory_layout():
    model = new_tiny_network()
    plain = count(model, (3, 17, 23))
    assert plain == count(model.to(memory_format=torch.channels_last), (3, 17, 23))
    # 9x12 and 5x6 positions, halves rounded up
    assert plain["macs"] == 9 * 12 * 3 * 8 * 9 + 5 * 6 * 8 * 16 * 9 + 16 * 10


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([nn.Conv2d(3, 4, 5)], 5),
        ([nn.Conv2d(3, 4, 11, 4, 1), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2)], 65),
        ([nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)], 1),
        ([nn.Flatten(), nn.Linear(3 * 7 * 7, 10)], 7),
        ([nn.Conv2d(1, 4, 3)], None),
        ([nn.Conv2d(3, 4, 513)], None),
    ],
)
def test_the_least_size(layers, size):
    model = nn.Sequential(*layers).train()
    before = copy_state(model)
    assert least_size(model) == size
    assert model.training and same_state(copy_state(model), before)


def test_the_least_size_for_one_channel():
    assert least_size(nn.Conv2d(1, 4, 3), channels=1) == 3
    assert least_size(nn.Conv2d(1, 4, 9), channels=1, most=8) is None


def test_what_training_keeps_for_each_image():
    # each convolution keeps its input; the ReLU keeps its output, which is that of the second: counted once
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    assert running_costs(model, (3, 8, 8), repeats=1)["kept_values"] == 3 * 64 + 4 * 64


def test_running_costs_leave_the_network_as_it_is():
    model = new_tiny_network().train()
    before = copy_state(model)
    costs = running_costs(model, (3, 16, 16), repeats=3)
    assert model.training and same_state(copy_state(model), before)
    assert 0.01 < costs["inference_ms"] < 1000


def test_running_costs_of_weights_with_five_dimensions():
    """They have no channels-last layout."""
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(96, 10))
    assert running_costs(model, (3, 4, 4), repeats=1)["kept_values"] == 3 * 16 + 2 * 3 * 16


def test_the_time_for_one_image_is_a_median(monkeypatch):
    ticks = iter([0, 50, 0, 50, 0, 50, 0, 1, 0, 2, 0, 90])  # three others, then 1, 2 and 90 s
    monkeypatch.setattr("course_utils.summary.time.perf_counter", lambda: next(ticks))
    assert running_costs(new_tiny_network(), (3, 16, 16), repeats=3)["inference_ms"] == 2000
