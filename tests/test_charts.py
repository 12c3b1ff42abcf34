"""Live charts: computed as the run computes, and left out with one note where TensorBoard does not start."""

import sys

import pytest
import torch
from helpers import new_tiny_network

from course_utils import charts, fit, make_shapes
from course_utils.charts import Charts

TRAIN, VAL = make_shapes(32, 16, 1), make_shapes(20, 16, 2)
ROW = {name: 0.5 for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")}


class Broken:
    """TensorBoard is there, and its import fails."""

    def __init__(self, error: Exception):
        self.error = error

    def find_spec(self, name, path=None, target=None):
        if name == "torch.utils.tensorboard":
            raise self.error


@pytest.fixture
def anew(monkeypatch):
    """Let TensorBoard be imported anew."""
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)


def train(folder):
    return fit(new_tiny_network(), TRAIN, VAL, epochs=2, batch_size=16, device="cpu", charts=folder)


@pytest.mark.parametrize(
    "error",
    [TypeError("Descriptors cannot be created directly.\nIf this call came from"), ImportError("no distutils"),
     AttributeError("module 'numpy' has no attribute 'bool8'"), RuntimeError()],
)  # fmt: skip
def test_a_broken_tensorboard_is_told_once(tmp_path, monkeypatch, capsys, anew, error):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    assert len(train(tmp_path / "charts")) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "charts" in line]
    first = f"{type(error).__name__}: {error}".splitlines()[0]
    assert told == [f"There are no charts: TensorBoard is installed, but Python could not import it ({first})."]
    assert not (tmp_path / "charts").exists()


def test_without_tensorboard_there_is_no_note(tmp_path, monkeypatch, capsys, anew):
    monkeypatch.setattr(sys, "meta_path", [Broken(ImportError("no tensorboard")), *sys.meta_path])
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    assert len(train(tmp_path / "charts")) == 2
    assert "charts" not in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pictures_are_judged_in_the_precision_of_the_run(tmp_path, precision):
    pytest.importorskip("tensorboard")
    model, seen = new_tiny_network(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    drawn = Charts(tmp_path)
    drawn.add(ROW | {"epoch": 1}, model, VAL, torch.device("cpu"), precision)
    drawn.close()
    assert seen == [getattr(torch, precision)]


def test_fit_tells_its_precision(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Charts, "add", lambda self, row, model, val, *how: told.append((row["epoch"], *how)))
    fit(new_tiny_network(), TRAIN, VAL, epochs=1, batch_size=16, device="cpu", precision="bfloat16", charts=tmp_path)
    assert told == [(1, torch.device("cpu"), "bfloat16")]
