"""The race: its recipes learn, are the same each time, go on after a kill, and say when a mark was passed."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch
from helpers import ROOT, copy_state
from torch import nn

from course_tools import race as command
from course_tools.chapters import UserError
from course_tools.fingerprints import recipe_code
from course_tools.staleness import check_races
from course_utils import fit, make_shapes, muon, training
from course_utils import race as module
from course_utils.networks import ResidualBlock
from course_utils.race import (
    RECIPES,
    REFERENCE_GFLOPS,
    PooledBlock,
    digit_net,
    faster_muon,
    matmul_gflops,
    passed_at,
    pooled_net,
    race,
    short_net,
    sizes,
    whiten,
)
from course_utils.summary import count

pytestmark = pytest.mark.sensitive


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Give each test results and checkpoints of its own."""
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COURSE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """The smoke recipe on fewer and smaller images, and no time spent on the speed of the machine."""
    images = lambda _, size, *rest, **options: (make_shapes(320, size, 1), make_shapes(96, size, 2))  # noqa: E731
    monkeypatch.setattr(module, "load_data", images)
    monkeypatch.setattr(module, "matmul_gflops", lambda device: 100.0)
    return dataclasses.replace(RECIPES["smoke"], image_sizes=(16, 16), stored_size=24, marks=((0.0, 5), (1.1, 5)))


def record_of(folder, recipe="smoke", seed=0):
    return json.loads((folder / "results" / "race" / f"smoke-{recipe}-seed{seed}.json").read_text())


def figures(record):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in record["history"]]


@pytest.mark.slow
def test_the_smoke_recipe_learns(folders):
    marks = race(RECIPES["smoke"])
    record = record_of(folders)
    assert record["val_accuracy"] > 0.9
    assert record["parameters"] == 1_210_346
    assert marks["accuracy (%)"].tolist() == [50]
    assert 0 < marks["passed (s)"].item() < record["seconds"]


def test_a_race_is_the_same_each_time(folders, quick):
    race(quick)
    first = record_of(folders)
    shutil.rmtree(folders / "checkpoints")
    race(quick)
    assert figures(record_of(folders)) == figures(first)
    race(quick, seed=1)
    assert figures(record_of(folders, seed=1)) != figures(first)


def test_an_interrupted_race_goes_on(folders, quick, monkeypatch, capsys):
    race(quick)
    expected = record_of(folders)
    shutil.rmtree(folders / "checkpoints")
    real = training.save

    def die(*arguments):
        real(*arguments)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(training, "save", die)
        with pytest.raises(RuntimeError, match="killed"):
            race(quick)
    race(quick)
    assert "Going on after epoch 1 of 2" in capsys.readouterr().out
    assert figures(record_of(folders)) == figures(expected)


def test_the_marks_are_scaled_by_the_machine(folders, quick, monkeypatch):
    speeds = iter((200.0, 250.0))
    monkeypatch.setattr(module, "matmul_gflops", lambda device: next(speeds))
    marks = race(quick)
    record = record_of(folders)
    assert record["matmul_gflops"] == [200, 250]
    assert record["loading_seconds"] > 0
    assert record["run"] == "smoke"
    assert record["settings"]["optimizers"] == "muon"
    passed, never = marks.to_dict("records")
    assert passed["passed (s)"] == pytest.approx(record["history"][0]["seconds"])
    assert passed["scaled (s)"] == pytest.approx(passed["passed (s)"] * 225 / REFERENCE_GFLOPS)
    assert pd.isna(never["passed (s)"])
    assert pd.isna(never["scaled (s)"])


def test_passed_at():
    history = pd.DataFrame({"val_accuracy": [0.5, 0.84, 0.83], "seconds": [10.0, 11.0, 12.0]})
    assert passed_at(history, 0.4) == 10
    assert passed_at(history, 0.83) == 21
    assert passed_at(history, 0.84) == 21
    assert passed_at(history, 0.85) is None


def test_sizes():
    assert sizes(5, 64, 96) == (64, 64, 80, 80, 96)
    assert sizes(16, 64, 128) == 4 * (64,) + 3 * (80,) + 3 * (96,) + 3 * (112,) + 3 * (128,)
    assert sizes(2, 96, 96) == (96, 96)


def test_the_speed_of_a_matrix_product(monkeypatch):
    """The best of three products, which take 4, 2 and 8 ms by this clock."""
    clock = iter((0.0, 0.004, 1.0, 1.002, 2.0, 2.008))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert matmul_gflops(100, 3, "cpu") == pytest.approx(2 * 100**3 / 0.002 / 1e9)


def test_the_short_net():
    net = short_net()
    assert net(torch.rand(2, 3, 48, 48)).shape == (2, 10)
    assert net.stem(torch.rand(2, 3, 48, 48)).shape == (2, 32, 12, 12)
    # 3*32*9; 32*64*9 + 64*64*9 + 32*64 + 3*128; the next two stages likewise; 256*10 + 10
    blocks = sum(9 * a * b + 9 * b * b + a * b + 3 * 2 * b for a, b in ((32, 64), (64, 128), (128, 256)))
    assert count(net, (3, 96, 96)) == {"parameters": 864 + blocks + 2570, "macs": 101_083_648}
    scales = [block.branch[-1][1].weight for block in net.modules() if isinstance(block, ResidualBlock)]
    assert len(scales) == 3
    assert all((scale == 1).all() for scale in scales)
    assert len(list(short_net(None, (2, 1, 1, 1), (32, 64, 64, 64)).stages)) == 4


def test_the_digit_net():
    net = digit_net()
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    # 1*16*9 + 2*16; the blocks as above; 64*10 + 10
    blocks = sum(9 * a * b + 9 * b * b + a * b + 3 * 2 * b for a, b in ((16, 32), (32, 64)))
    assert count(net, (1, 28, 28)) == {"parameters": 176 + blocks + 650, "macs": 1_648_832}
    assert all((block.branch[-1][1].weight == 1).all() for block in net if isinstance(block, ResidualBlock))


def test_the_pooled_net():
    net = pooled_net()
    x = torch.rand(2, 3, 32, 32)
    assert net(x).shape == (2, 10)
    # 31 pixels behind the window of 2, then 15, 7 and 3: a pool rounds down
    assert [net[: 2 + blocks](x).shape[1:] for blocks in range(4)] == [
        (24, 31, 31), (64, 15, 15), (128, 7, 7), (256, 3, 3),
    ]  # fmt: skip
    # 3*24*4; 24*64*9 + 64*64*9 + 2*128; the next two blocks likewise; 256*10 + 10
    blocks = [(24, 64, 31), (64, 128, 15), (128, 256, 7)]
    parameters = sum(9 * a * b + 9 * b * b + 2 * 2 * b for a, b, _ in blocks)
    macs = sum(9 * a * b * side**2 + 9 * b * b * (side // 2) ** 2 for a, b, side in blocks)
    assert count(net, (3, 32, 32)) == {"parameters": 288 + parameters + 2570, "macs": 288 * 31**2 + macs + 2560}


def test_a_pooled_block_adds_what_stands_behind_its_pool():
    block = PooledBlock(4, 8).eval()
    x = torch.randn(2, 4, 9, 9)
    expected = torch.relu(block.entry(x) + block.branch(block.entry(x)))
    assert torch.equal(block(x), expected)
    nn.init.zeros_(block.branch[-1].weight)  # the norm of the branch
    assert torch.equal(block(x), block.entry(x))


def test_muon_has_the_blocks_of_a_whitened_pooled_net():
    images = make_shapes(64, 32, 0)
    net = pooled_net(images, (16, 32, 32))
    assert torch.equal(net[0].weight[:12], -net[0].weight[12:])
    shapes = [tuple(matrix.shape) for matrix in muon(net)[1].param_groups[0]["params"]]
    assert shapes == [(16, 24 * 9), (16, 16 * 9), (32, 16 * 9), (32, 32 * 9), (32, 32 * 9), (32, 32 * 9)]


def test_faster_muon():
    fast, usual = faster_muon(digit_net()), muon(digit_net())
    assert [o.param_groups[0]["lr"] for o in fast] == [usual[0].param_groups[0]["lr"], 0.08]


def test_whitening_makes_uncorrelated_maps_of_the_same_size():
    images = make_shapes(600, 64, 0)
    first = nn.Conv2d(3, 16, 3, 1, bias=False)
    whiten(first, images)
    assert not first.weight.requires_grad
    assert torch.equal(first.weight[:8], -first.weight[8:])
    maps = first(images.images[:512].float() / 255)[:, :8].permute(1, 0, 2, 3).flatten(1)
    # not quite 1, since small directions are not blown up without bound
    assert torch.cov(maps) == pytest.approx(torch.eye(8), abs=0.12)


def test_muon_has_the_first_block_of_a_whitened_net():
    sgd, ours = muon(short_net(make_shapes(64, 32, 0)))
    shapes = [tuple(matrix.shape) for matrix in ours.param_groups[0]["params"]]
    assert len(shapes) == 9  # three convolutions in each of three blocks
    assert shapes[0] == (64, 32 * 9)
    assert [weight.requires_grad for weight in sgd.param_groups[0]["params"]] == [False, True]


def test_the_record_counts_at_the_size_of_validation(folders, quick):
    race(quick)
    record = record_of(folders)
    assert record["data"]["image_size"] == 16
    assert record["macs"] == count(short_net(), (3, 16, 16))["macs"]


def test_a_whitened_layer_is_not_trained(quick):
    train, val = make_shapes(100, 24, 0), make_shapes(20, 24, 1)
    net = short_net(train)
    before = copy_state(net)
    fit(net, train, val, epochs=1, **quick.options | {"batch_size": 50})
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert "stem.0.weight" not in changed
    assert len(changed) == len(before) - 1


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_fits_its_data(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert max(recipe.image_sizes) <= recipe.stored_size
    net = recipe.network(make_shapes(64, 32, 0))
    before = copy_state(net)
    size = recipe.image_sizes[0]
    channels = 1 if recipe.data == "mnist" else 3
    assert net(torch.rand(2, channels, size, size)).shape == (2, 10)
    assert before.keys() == net.state_dict().keys()


# ------------------------------------------------------------------ the command


def test_the_command(folders, monkeypatch, quick, capsys):
    monkeypatch.setitem(RECIPES, "smoke", quick)
    assert command.race(folders, ["smoke"], seeds=2, record=True) == 0
    told = capsys.readouterr().out
    assert "smoke, seed 1" in told
    assert "scaled (s)" in told
    records = [record_of(folders, seed=seed) for seed in (0, 1)]
    assert {record["code"] for record in records} == {recipe_code("smoke").fingerprint}
    assert check_races(folders) == []
    # recorded runs are not run again
    monkeypatch.setattr(module, "race", None)
    assert command.race(folders, ["smoke"], seeds=2, record=True) == 0
    assert capsys.readouterr().out.count("recorded already") == 2
    # but those that other code made are
    path = folders / "results/race/smoke-smoke-seed1.json"
    path.write_text(json.dumps(record_of(folders, seed=1) | {"code": "old"}))
    with pytest.raises(TypeError, match="not callable"):  # the race that is None
        command.race(folders, ["smoke"], seeds=2, record=True)
    assert capsys.readouterr().out.count("recorded already") == 1


def test_without_record_results_stay_as_they_are(folders, monkeypatch, quick, capsys):
    monkeypatch.setitem(RECIPES, "smoke", quick)
    for _ in range(2):  # run again, since nothing is recorded
        command.race(folders, ["smoke"])
        assert "accuracy (%)" in capsys.readouterr().out
    assert not (folders / "results").exists()


def test_an_unknown_recipe(folders):
    with pytest.raises(UserError, match=r"There is no recipe 'fast'\. Valid: imagenette-83, .*smoke"):
        command.race(folders, ["fast"])


def test_stale_races_are_told(folders):
    path = folders / "results" / "race" / "page-imagenette-83-seed1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"run": "imagenette-83", "seed": 1, "code": "old"}))
    path.with_name("page-gone-seed0.json").write_text(json.dumps({"run": "gone", "seed": 0, "code": "old"}))
    gone, stale = check_races(folders)
    assert gone == "results/race/page-gone-seed0.json: there is no recipe of that name. Delete it."
    assert "has changed since it was made. make race RECIPES=imagenette-83 SEEDS=2 RECORD=1" in stale


def test_a_recipe_of_its_own_leaves_the_other_records(tmp_path):
    package = tmp_path / "course_utils"
    package.mkdir()
    for path in (ROOT / "course_utils").glob("*.py"):
        (package / path.name).write_text(path.read_text())
    before = {name: recipe_code(name, package).fingerprint for name in ("imagenette-83", "imagenette-87")}
    assert before["imagenette-83"] == recipe_code("imagenette-83").fingerprint
    source = (package / "race.py").read_text()
    (package / "race.py").write_text(source.replace("sizes(16, 64, 128)", "sizes(17, 64, 128)"))
    assert recipe_code("imagenette-83", package).fingerprint == before["imagenette-83"]
    assert recipe_code("imagenette-87", package).fingerprint != before["imagenette-87"]
    (package / "race.py").write_text(source.replace("before = matmul_gflops(device=chosen)", "before = 7"))
    assert recipe_code("imagenette-83", package).fingerprint != before["imagenette-83"]
