"""The ResNet family: torchvision's outputs, the sources' shapes, two stems, and a run that was killed."""

import ast
import math
from types import SimpleNamespace

import pytest
import torch
import torchvision
from helpers import ROOT, chapter_definitions, copy_by_order, copy_state, randomise, same_state
from torch import nn

from course_tools.chapters import read_notebook
from course_tools.fingerprints import parse_cell
from course_utils import choose_scale, count, fit, make_shapes
from course_utils.optimizers import step_decay

pytestmark = pytest.mark.sensitive

PATH = ROOT / "notebooks/depth/02_resnet_family.ipynb"
NAMES = chapter_definitions(PATH)
FAMILY, ResNet = NAMES["FAMILY"], NAMES["ResNet"]
GMACS = {18: 1.814, 34: 3.664, 50: 4.089, 101: 7.801, 152: 11.514}  # torchvision's table, 224 px, 1,000 classes


@pytest.mark.parametrize("depth", FAMILY)
def test_the_same_network_as_torchvision(depth):
    torch.manual_seed(0)
    theirs, ours = getattr(torchvision.models, f"resnet{depth}")(num_classes=10), ResNet(*FAMILY[depth])
    copy_by_order(randomise(theirs), ours)
    x = torch.rand(2, 3, 64, 64)
    for training in (False, True):
        with torch.no_grad():
            expected, found = theirs.train(training)(x), ours.train(training)(x)
        assert expected.std() > 1e-3  # else 1e-4 says nothing
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for found, expected in zip(ours.buffers(), theirs.buffers()):  # the running averages that training moved
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", FAMILY)
def test_macs_and_layers(depth):
    with torch.device("meta"):
        network = ResNet(*FAMILY[depth], num_classes=1000)
    assert count(network, (3, 224, 224))["macs"] / 1e9 == pytest.approx(GMACS[depth], abs=6e-4)
    on_the_way = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and "shortcut" not in name
    ]
    assert len(on_the_way) == depth


def test_a_projection_only_where_the_shape_changes():
    for depth, first_stage in ((18, 0), (34, 0), (50, 1)):
        with torch.device("meta"):
            stages = ResNet(*FAMILY[depth]).stages
        projections = [sum(len(block.shortcut) > 0 for block in stage) for stage in stages]
        assert projections == [first_stage, 1, 1, 1]


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_kaiming_by_outputs_and_norms_at_one_and_zero(stem):
    torch.manual_seed(0)
    network = ResNet(*FAMILY[50], 32, stem)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            expected = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1) and layer.bias is None
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


STEMS = {
    ("imagenet", 64): ([8, 8, 4, 2, 1], 11_181_642, 37_016_576),
    ("cifar", 16): ([32, 32, 16, 8, 4], 701_466, 35_046_656),
    ("imagenet", 16): ([8, 8, 4, 2, 1], 703_386, 2_766_080),
}


@pytest.mark.parametrize(("stem", "width"), STEMS)
def test_map_sizes_and_costs_of_the_stems(stem, width):
    sizes, parameters, macs = STEMS[stem, width]
    network = NAMES["resnet18"](width, stem).eval()
    maps = [network.stem(torch.zeros(1, 3, 32, 32))]
    for stage in network.stages:
        maps.append(stage(maps[-1]))
    assert [tuple(y.shape[2:]) for y in maps] == [(size, size) for size in sizes]
    assert [y.shape[1] for y in maps] == [width, width, 2 * width, 4 * width, 8 * width]
    assert count(network, (3, 32, 32)) == {"parameters": parameters, "macs": macs}


def test_the_shapes_of_the_second_source(capsys):
    network = NAMES["VerboseNet"]().eval()
    network(torch.zeros(1, 3, 96, 96))
    assert capsys.readouterr().out == ""
    network(torch.zeros(1, 3, 96, 96), verbose=True)
    printed = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["64x45x45", "64x22x22", "128x11x11", "256x6x6", "512x1x1", "10"]


@pytest.mark.parametrize("slip", [False, True])
def test_with_the_slip_a_branch_can_only_add(slip):
    torch.manual_seed(0)
    block = NAMES["SameShape"](4, 6, same_shape=False, slip=slip)
    x = torch.randn(3, 4, 8, 8)
    added = block.branch(x)
    assert (added.min().item() >= 0) == slip
    assert torch.equal(block(x), (added + block.shortcut(x)).clamp(min=0))
    assert tuple(block(x).shape) == (3, 6, 4, 4) and isinstance(block.shortcut, nn.Conv2d)
    assert len(NAMES["SameShape"](4, 4).shortcut) == 0


def test_normalise_and_undo():
    normalise = NAMES["Normalize"]()
    assert not list(normalise.parameters()) and set(normalise.state_dict()) == {"mean", "std"}
    x = torch.rand(5, 3, 7, 9)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    theirs = torchvision.transforms.Normalize(mean, std)
    torch.testing.assert_close(normalise(x), theirs(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(normalise.undo(normalise(x)), x, atol=1e-6, rtol=0)
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    back = 255 * normalise.undo(normalise(every / 255))
    assert torch.equal(back.round().byte(), every)
    assert (normalise(every / 255) < 0).any()  # it does something


@pytest.fixture
def loop(monkeypatch):
    """loop(slip) is what `train_by_hand` gives: network, history; loop(None) is `fit` with the same recipe."""
    table = {
        "epochs": 3, "batch_size": 32, "depths": (1, 1, 1), "small_width": 8, "crop": 1, "learning_rate": 0.05
    }  # fmt: skip
    settings = choose_scale("smoke", {name: (value,) * 3 for name, value in table.items()})
    train, val = make_shapes(200, 16, 1), make_shapes(50, 16, 2)
    saved = []
    for name, value in {
        "settings": settings, "small_train": train, "small_val": val, "rate": 0.05, "chapter": "",
        "save_record": lambda chapter, run, label, network, train, val, history, *_: saved.append((network, history)),
    }.items():  # fmt: skip
        monkeypatch.setitem(NAMES, name, value)

    def run(slip):
        if slip is not None:
            NAMES["train_by_hand"]("x", "x", seed=4, slip=slip)
            return saved[-1]
        torch.manual_seed(4)
        network = nn.Sequential(NAMES["Normalize"](), NAMES["small"]())
        return network, fit(
            network, train, val, epochs=3, batch_size=32, learning_rate=0.05, schedule=step_decay, flip=True, crop=1,
            seed=4, device="cpu", precision="float32",
        )  # fmt: skip

    monkeypatch.setitem(NAMES, "choose_device", lambda name: torch.device("cpu"))
    return run


def test_the_loop_without_the_slip_is_fit(loop):
    (mended, history), (network, expected) = loop(False), loop(None)
    assert same_state(copy_state(mended), copy_state(network))
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert history[column].tolist() == pytest.approx(expected[column].tolist(), abs=1e-6)


def test_the_slip_stops_the_running_averages_after_the_first_test(loop):
    (slipped, history), (mended, expected) = loop(True), loop(False)
    steps = {
        network: {layer.num_batches_tracked.item() for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}
        for network in (slipped, mended)
    }
    assert steps == {slipped: {7}, mended: {21}}  # 200 images in batches of 32
    assert history["train_loss"][0] == expected["train_loss"][0]
    assert history["train_loss"][1] != expected["train_loss"][1]


def source_of(name: str) -> str:
    """The text of a function of the notebook."""
    for cell in read_notebook(PATH).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            for node in parse_cell(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    return ast.get_source_segment(cell.source, node)
    raise AssertionError(name)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, monkeypatch, capsys):
    # inspect looks for a function in its file, and here that is a notebook
    text = source_of("long_run")
    monkeypatch.setitem(NAMES, "inspect", SimpleNamespace(getsource=lambda function: text))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    broken, run = tmp_path / "broken.pt", ("shapes", 900, 4)
    NAMES["run_and_kill"]((str(broken), *run), 2)
    assert capsys.readouterr().out.endswith("killed\n")
    done = torch.load(broken, weights_only=True)["history"]
    assert 2 <= len(done) < 4
    resumed, history = NAMES["long_run"](broken, *run)
    assert "Going on after epoch" in capsys.readouterr().out
    unbroken, expected = NAMES["long_run"](tmp_path / "whole.pt", *run)
    assert same_state(copy_state(resumed), copy_state(unbroken))
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds")) and len(history) == 4
