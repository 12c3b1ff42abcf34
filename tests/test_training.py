"""The training loop: the same numbers each time, through kills and bad input."""

import io
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, chapter_definitions, copy_state, new_tiny_network, same_state
from killed_run import CHOSEN, EPOCHS, KILLS
from torch import nn
from torch.nn import functional as F

from course_utils import CheckpointError, ImageData, evaluate, evaluation, fit, make_shapes, muon, predict, training
from course_utils.checkpoints import network_code, resume, save
from course_utils.optimizers import Muon, constant, one_cycle

pytestmark = pytest.mark.sensitive

TRAIN, VAL = make_shapes(70, 16, 1), make_shapes(30, 16, 2)
# all that short training uses
SHORT = {"optimizers": muon, "label_smoothing": 0.1, "average": 0.9, "zoom": 0.5, "flip": True}
COLUMNS = ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"]


def train(model=None, train=TRAIN, val=VAL, **options):
    """Train a tiny network for two epochs, unless told otherwise; return it and its history."""
    model = model if model is not None else new_tiny_network()
    options = {"epochs": 2, "batch_size": 16, "device": "cpu", "precision": "float32"} | options
    return model, fit(model, train, val, **options)


def figures(history: pd.DataFrame) -> list[dict]:
    return history.drop(columns="seconds").to_dict("records")


# ------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("options", [{}, {"flip": True, "crop": 2}, {"precision": "bfloat16"}, SHORT])
def test_same_seed_same_numbers(options):
    first, first_history = train(**options)
    torch.rand(7)  # whatever has been drawn in between
    second, second_history = train(**options)
    assert same_state(copy_state(first), copy_state(second))
    assert figures(first_history) == figures(second_history)


def test_same_seed_same_numbers_with_dropout():
    states = [copy_state(train(new_tiny_network(dropout=0.5))[0]) for _ in range(2)]
    assert same_state(*states)


@pytest.mark.parametrize("options", [{"seed": 1}, {"flip": True}, {"crop": 1}, {"learning_rate": 0.06},
                                     {"momentum": 0.8}, {"weight_decay": 0.0}, {"batch_size": 15}, {"zoom": 0.5},
                                     {"label_smoothing": 0.1}, {"average": 0.9}, {"image_sizes": (12, 16)},
                                     {"optimizers": muon}, {"schedule": constant}])  # fmt: skip
def test_each_setting_makes_a_difference(options):
    assert not same_state(copy_state(train()[0]), copy_state(train(**options)[0]))


def test_each_epoch_has_an_order_of_its_own(monkeypatch):
    orders, real = [], ImageData.batches

    def watch(self, batch_size, generator=None, *rest, **options):
        for x, y in real(self, batch_size, generator, *rest, **options):
            if generator is not None:
                orders.append(y.tolist())
            yield x, y

    monkeypatch.setattr(ImageData, "batches", watch)
    train(epochs=3, batch_size=70)
    assert len(orders) == 3
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(TRAIN.labels.tolist())


def bare_loop(model, epochs, batch_size, learning_rate=0.05, seed=0):
    """The loop of chapter 1, with nothing around it; returns the loss and the right answers of each image."""
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)
    steps = -(-len(TRAIN) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    epoch_figures = []
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        losses, right = [], []
        for start in range(0, len(TRAIN), batch_size):
            index = order[start : start + batch_size]
            x, y = TRAIN.images[index] / 255, TRAIN.labels[index]
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate = schedule.get_last_lr()[0]
            schedule.step()
            losses += F.cross_entropy(logits.detach(), y, reduction="none").tolist()
            right += (logits.argmax(1) == y).tolist()
        epoch_figures.append((sum(losses) / len(TRAIN), sum(right) / len(TRAIN), rate))
    return epoch_figures


def test_the_same_as_a_bare_loop_and_weighted_by_image():
    # 70 images in batches of 16: the last has 6, and means over batches would differ
    reference = new_tiny_network()
    expected = bare_loop(reference, epochs=3, batch_size=16)
    model, history = train(epochs=3)
    assert same_state(copy_state(reference), copy_state(model))
    for row, (loss, accuracy, rate) in zip(history.to_dict("records"), expected):
        assert row["train_loss"] == pytest.approx(loss, rel=1e-6)
        assert row["train_accuracy"] == pytest.approx(accuracy, rel=1e-12)
        assert row["learning_rate"] == pytest.approx(rate, rel=1e-12)
    model.eval()
    with torch.no_grad():
        logits = model(VAL.images / 255)
    assert history["val_loss"].iloc[-1] == pytest.approx(F.cross_entropy(logits, VAL.labels).item(), rel=1e-5)
    assert history["val_accuracy"].iloc[-1] == pytest.approx((logits.argmax(1) == VAL.labels).double().mean().item())


def test_the_loop_of_chapter_1_gives_the_same_figures():
    names = chapter_definitions(ROOT / "notebooks" / "ladder" / "01_plain_cnn.ipynb")
    names |= {"time": time, "pd": pd, "F": F, "seed": 0}
    torch.manual_seed(3)
    theirs = names["train_loop"](new_tiny_network(), TRAIN, VAL, 3, 0.05, batch_size=16)
    _, ours = train(epochs=3)
    columns = ["epoch", "train_loss", "val_loss", "val_accuracy"]
    # another memory layout, so the last digits may differ
    assert ours[columns].values == pytest.approx(theirs[columns].values, rel=1e-3)


def test_the_history_is_a_table():
    _, history = train(epochs=3)
    assert list(history.columns) == COLUMNS
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history[["train_accuracy", "val_accuracy"]].stack().between(0, 1).all()
    assert (history["seconds"] > 0).all()
    assert history["learning_rate"].iloc[-1] < 0.05 / 1000  # one cycle ends near nothing
    assert history.attrs["provenance"]["precision"] == "float32"
    assert history.attrs["provenance"]["device"] == "cpu"
    json.dumps(history.attrs["provenance"])


def test_the_peak_of_the_schedule_is_the_learning_rate(monkeypatch):
    rates, real = [], torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *rest: rates.append(self.param_groups[0]["lr"]) or real(self, *rest)
    )
    train(epochs=4, learning_rate=0.03)
    assert len(rates) == 4 * 5
    assert max(rates) == pytest.approx(0.03, rel=0.02)
    assert 0 < rates.index(max(rates)) < len(rates) / 2


def test_a_constant_schedule_keeps_the_rate():
    _, history = train(epochs=3, learning_rate=0.03, schedule=constant)
    assert list(history["learning_rate"]) == [0.03] * 3


@pytest.mark.parametrize("momentum", [0.0, 0.02, 0.9, 0.98, 1.0])
def test_momentum_goes_the_other_way(momentum):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum)
    schedule, found = one_cycle(optimizer, 110), []
    for _ in range(110):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step() if len(found) < 110 else None
    peak = max(range(110), key=lambda step: found[step][0])
    swing = min(0.05, momentum, 1 - momentum)
    assert peak == 32 and found[peak] == pytest.approx((0.1, momentum - swing))
    assert found[0] == pytest.approx((0.1 / 25, momentum + swing)) and found[-1][1] == pytest.approx(momentum + swing)


def test_one_cycle_for_an_optimizer_with_betas():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], 0.1, betas=(0.9, 0.99))
    one_cycle(optimizer, 10)
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.95, 0.99))


def test_a_last_batch_of_one_image_is_left_out():
    # batch norm over one image and one position has nothing to norm; 33 = 2 x 16 + 1
    model = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    part = TRAIN.subset(33)
    _, history = train(model, train=part, epochs=2)
    assert len(history) == 2
    # 2 steps an epoch, as for 32 images
    assert history["learning_rate"].iloc[0] == pytest.approx(
        train(new_tiny_network(), train=TRAIN.subset(32))[1]["learning_rate"].iloc[0]
    )


def test_a_last_batch_of_two_images_is_not_left_out(monkeypatch):
    steps, real = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: steps.append(1) or real(self, *rest))
    train(train=TRAIN.subset(34), epochs=1)
    assert len(steps) == 3


def test_what_is_printed(capsys):
    train(epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    figures_of_a_part = r"loss \d\.\d{3}, accuracy \d+\.\d %"
    pattern = rf"epoch 1/2  train {figures_of_a_part}  validation {figures_of_a_part}  \d+\.\d s"
    assert re.fullmatch(pattern, lines[0])


# ------------------------------------------------------------------ what short training adds


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_muon_trains_a_convolution_as_a_matrix(layout, kernel_size):
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 4, kernel_size, bias=False).to(memory_format=layout)
    matrix = nn.Parameter(convolution.weight.detach().clone().contiguous().flatten(1))
    theirs, ours = torch.optim.Muon([matrix], 0.1), Muon([convolution.weight], 0.1)
    start = matrix.detach().clone()
    x = torch.rand(5, 6, kernel_size, kernel_size)
    for _ in range(3):
        for optimizer, y in ((theirs, x.flatten(1) @ matrix.T), (ours, convolution(x).flatten(1))):
            y.square().sum().backward()
            optimizer.step()
        matrix.grad = convolution.weight.grad = None
    # a few products of bfloat16 in another order of columns
    assert convolution.weight.detach().contiguous().flatten(1) == pytest.approx(matrix.detach(), abs=0.01)
    assert (matrix - start).abs().max() > 0.05


def test_muon_has_all_convolutions_but_the_first():
    model = new_tiny_network()
    sgd, ours = muon(model, rate=0.02, other_rate=0.3)
    assert [tuple(matrix.shape) for matrix in ours.param_groups[0]["params"]] == [(16, 8 * 9)]
    assert sum(len(group["params"]) for group in sgd.param_groups) + 1 == len(list(model.parameters()))
    assert [group["weight_decay"] for group in sgd.param_groups] == [5e-4, 0]  # none for norms
    assert (ours.param_groups[0]["lr"], sgd.param_groups[0]["lr"]) == (0.02, 0.3)


def test_every_weight_is_trained_with_muon():
    before = copy_state(new_tiny_network())
    after = copy_state(train(optimizers=muon)[0])
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_the_average_is_a_running_mean_of_the_weights(monkeypatch):
    seen, real = [], torch.optim.SGD.step
    model = new_tiny_network()

    def step(self, *rest):
        real(self, *rest)
        seen.append(model[0].weight.detach().clone())

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    _, history = train(model, average=0.75)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.75 * expected + 0.25 * weight
    assert model[0].weight.detach() == pytest.approx(expected, abs=1e-6)
    # what was evaluated is what the network now holds
    result = evaluate(model, VAL, device="cpu", precision="float32")
    assert history["val_loss"].iloc[-1] == pytest.approx(result["loss"], rel=1e-6)


def test_label_smoothing_spreads_a_share_over_all_classes():
    _, history = train(epochs=1, batch_size=70, label_smoothing=0.2)
    model = new_tiny_network().train()
    log = model(TRAIN.images / 255).log_softmax(1)
    right = log.gather(1, TRAIN.labels[:, None]).mean()
    assert history["train_loss"].item() == pytest.approx(-(0.8 * right + 0.2 * log.mean()).item(), rel=1e-4)


def test_each_epoch_has_its_image_size(monkeypatch):
    seen, real = [], ImageData.batches

    def watch(self, batch_size, generator=None, *rest, **options):
        for x, y in real(self, batch_size, generator, *rest, **options):
            seen.append((generator is not None, x.shape[-1]))
            yield x, y

    monkeypatch.setattr(ImageData, "batches", watch)
    train(epochs=3, batch_size=70, image_sizes=(8, 12, 20))
    assert seen == [(True, 8), (False, 16), (True, 12), (False, 16), (True, 20), (False, 16)]


def test_image_sizes_for_another_number_of_epochs():
    with pytest.raises(ValueError, match="image_sizes has 3 sizes for 2 epochs: give one for each"):
        train(image_sizes=(8, 12, 16))


def test_an_image_size_that_is_too_small_for_the_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ValueError, match="images of 8 px are too small for this network"):
        train(model, image_sizes=(16, 8))


def test_short_training_is_resumed_too(tmp_path):
    options = {"epochs": 4, "image_sizes": (8, 8, 12, 16), **SHORT}
    unbroken, expected = train(Trouble(0, None), **options)
    stopped(Trouble(11, lambda _: throw(KeyboardInterrupt())), checkpoint=tmp_path / "run.pt", **options)
    model, history = train(Trouble(0, None), checkpoint=tmp_path / "run.pt", **options)
    assert len(history) == 4
    assert same_state(copy_state(model), copy_state(unbroken))
    assert figures(history) == figures(expected)


# ------------------------------------------------------------------ device, precision, mode


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert evaluation.choose_device("auto") == torch.device("cpu")
    assert evaluation.choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert evaluation.choose_device("auto") == torch.device("cuda")
    assert evaluation.choose_device("cuda:1") == torch.device("cuda:1")
    assert evaluation.choose_device() == torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx2": True}, "float32"),
    ],
)
def test_automatic_precision_on_a_processor(monkeypatch, capabilities, expected):
    monkeypatch.delenv("COURSE_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert evaluation.choose_precision("auto", torch.device("cpu")) == getattr(torch, expected)


@pytest.mark.parametrize(("major", "expected"), [(7, "float16"), (8, "bfloat16"), (9, "bfloat16")])
def test_automatic_precision_on_a_gpu(monkeypatch, major, expected):
    monkeypatch.delenv("COURSE_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 5))
    assert evaluation.choose_precision("auto", torch.device("cuda")) == getattr(torch, expected)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_automatic_precision_can_be_named_in_the_environment(monkeypatch, name):
    monkeypatch.setenv("COURSE_PRECISION", name)
    assert training.choose_precision("auto", torch.device("cpu")) == getattr(torch, name)
    assert training.choose_precision("float32", torch.device("cpu")) == torch.float32  # a name is a name


def test_an_unknown_precision_in_the_environment(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "float8")
    with pytest.raises(ValueError, match="unknown precision 'float8'"):
        training.choose_precision("auto", torch.device("cpu"))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_precision_by_name(name):
    assert evaluation.choose_precision(name, torch.device("cpu")) == getattr(torch, name)


@pytest.mark.parametrize("name", ["float64", "half", "fp32", ""])
def test_unknown_precision(name):
    with pytest.raises(ValueError, match=f"unknown precision '{name}': choose auto, float32, bfloat16 or float16"):
        train(precision=name)


def test_unknown_device_is_named():
    with pytest.raises(RuntimeError, match="gpu"):
        train(device="gpu")


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    model, seen = new_tiny_network(), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append((module.training, output.dtype)))
    _, history = train(model, precision="bfloat16", epochs=3)
    assert (True, torch.bfloat16) in seen
    assert (False, torch.bfloat16) in seen
    assert (True, torch.float32) not in seen
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert history.attrs["provenance"]["precision"] == "bfloat16"
    plain = train(epochs=3)[1]
    assert history["train_loss"].iloc[-1] == pytest.approx(plain["train_loss"].iloc[-1], abs=0.05)
    assert history["train_loss"].iloc[-1] != plain["train_loss"].iloc[-1]


def test_images_and_weights_are_channels_last():
    model, seen = new_tiny_network(), []
    layout = {"memory_format": torch.channels_last}
    model[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(**layout) and module.weight.is_contiguous(**layout))
        if module.training else None
    )  # fmt: skip
    train(model, flip=True, crop=1)
    assert seen and all(seen)


def test_fit_trains_a_network_that_was_left_in_evaluation_mode():
    model, history = train(new_tiny_network().eval())
    reference, _ = train(new_tiny_network().train())
    assert same_state(copy_state(model), copy_state(reference))


@pytest.mark.parametrize("mode", [True, False])
def test_predict_and_evaluate_give_the_mode_back(mode):
    model = new_tiny_network(dropout=0.5).train(mode)
    before = copy_state(model)
    first, second = predict(model, VAL), predict(model, VAL, batch_size=7)
    evaluate(model, VAL)
    assert model.training == mode
    assert all(module.training == mode for module in model.modules())
    assert same_state(copy_state(model), before)  # no norm has learned from it
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2)  # no dropout


def test_predict_keeps_a_frozen_norm_frozen():
    model = new_tiny_network().train()
    model[1].eval()
    predict(model, VAL)
    assert model.training
    assert not model[1].training


def test_predict_gives_the_mode_back_after_an_error():
    broken = nn.Sequential(nn.Flatten(), nn.Linear(5, 5)).train()
    with pytest.raises(RuntimeError):
        predict(broken, VAL, precision="float32")
    assert broken.training


def test_predict_returns_float32_in_the_order_of_the_data():
    model = new_tiny_network().eval()
    for precision in ("float32", "bfloat16"):
        logits = predict(model, VAL, batch_size=8, precision=precision)
        assert logits.shape == (30, 10)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad
        with torch.no_grad():
            expected = model(VAL.images / 255)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 if precision == "float32" else 0.05)


def test_evaluate_counts_every_image_once():
    class Known(nn.Module):
        """Right for the first seven images of ten, sure of itself by one."""

        def __init__(self):
            super().__init__()
            self.unused, self.seen = nn.Linear(1, 1), 0

        def forward(self, x):
            numbers = torch.arange(self.seen, self.seen + len(x))
            self.seen += len(x)
            return F.one_hot(torch.where(numbers < 7, 0, 1), 2).float()

    data = ImageData(torch.zeros(10, 3, 2, 2, dtype=torch.uint8), torch.zeros(10).long(), ["a", "b"], "known")
    result = evaluate(Known(), data, batch_size=4, precision="float32")
    right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    zero = torch.tensor([0])
    loss = 0.7 * F.cross_entropy(right, zero) + 0.3 * F.cross_entropy(wrong, zero)
    assert set(result) == {"loss", "accuracy"}
    assert result["accuracy"] == pytest.approx(0.7)
    assert result["loss"] == pytest.approx(loss.item(), rel=1e-6)


# ------------------------------------------------------------------ what can go wrong


class Trouble(nn.Module):
    """A network that calls `event(logits)` at one batch of its training."""

    def __init__(self, batch: int, event):
        super().__init__()
        # in a namespace, which is no part of the code that is trained
        self.inner, self.plan = new_tiny_network(), SimpleNamespace(left=batch, event=event)

    def forward(self, x):
        logits = self.inner(x)
        if self.training:
            self.plan.left -= 1
            if self.plan.left == 0:
                return self.plan.event(logits)
        return logits


def throw(error):
    raise error


def stopped(model, **options):
    """Train until Ctrl-C, which must go on to the cell."""
    with pytest.raises(KeyboardInterrupt):
        train(model, **options)


def test_ctrl_c_stops_the_cell_and_says_after_how_many_epochs(capsys):
    # five batches an epoch: the twelfth is in epoch 3
    stopped(Trouble(12, lambda _: throw(KeyboardInterrupt())), epochs=4)
    told = capsys.readouterr().out
    assert "Stopped by hand after 2 of 4 epochs. Give fit a checkpoint, and a run that was stopped can go on." in told
    assert "again" not in told


def test_ctrl_c_in_the_first_epoch(capsys):
    stopped(Trouble(1, lambda _: throw(KeyboardInterrupt())), epochs=4)
    assert "Stopped by hand after 0 of 4 epochs." in capsys.readouterr().out


@pytest.mark.parametrize("new", [True, False])
def test_after_ctrl_c_the_same_cell_goes_on(tmp_path, capsys, new):
    """Whether the cell makes the network as well, or another one above it did."""
    path = tmp_path / "run.pt"
    model = Trouble(12, lambda _: throw(KeyboardInterrupt()))
    stopped(model, epochs=4, checkpoint=path)
    assert "after 2 of 4 epochs. Run this cell again to go on after epoch 2" in capsys.readouterr().out
    model, history = train(Trouble(0, None) if new else model, epochs=4, checkpoint=path)
    assert "Going on after epoch 2 of 4" in capsys.readouterr().out
    unbroken, expected = train(Trouble(0, None), epochs=4)
    assert same_state(copy_state(model), copy_state(unbroken))
    assert figures(history) == figures(expected)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_any_more(tmp_path, value):
    model = Trouble(8, lambda logits: logits * float("nan") if value == "nan" else logits - torch.tensor(
        [3e38] * 10) * F.one_hot(torch.arange(len(logits)) % 10, 10) * 2)  # fmt: skip
    path = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError) as error:
        train(model, epochs=3, learning_rate=0.04, checkpoint=path)
    told = str(error.value)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.04, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.04, total_steps=15)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    assert f"the loss became {value} in epoch 2, batch 3, at a learning rate of {schedule.get_last_lr()[0]:.3g}" in told
    assert "Try a tenth of the learning rate" in told
    # epoch 1 is not lost
    assert len(torch.load(path, weights_only=True)["history"]) == 1


def test_a_learning_rate_that_is_much_too_high():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 10))
    with pytest.raises(FloatingPointError, match=r"the loss became (nan|inf) in epoch \d+, batch \d+"):
        train(plain, epochs=9, learning_rate=1e6)


@pytest.mark.parametrize(("num_classes", "told"), [(9, r"\(2, 9\)"), (11, r"\(2, 11\)"), (1, r"\(2, 1\)")])
def test_output_and_classes_differ(num_classes, told):
    model = new_tiny_network(num_classes=num_classes)
    before = copy_state(model)
    with pytest.raises(ValueError, match=rf"gives {told} for 2 images, but the data has 10 classes.* num_classes=10"):
        train(model)
    assert same_state(copy_state(model), before)


def test_output_without_pooling_differs():
    with pytest.raises(ValueError, match=r"gives \(2, 10, 16, 16\) for 2 images"):
        train(nn.Conv2d(3, 10, 1))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(8, 8, 3), nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=["convolution", "max pool", "average pool"]
)
def test_images_too_small_for_the_network(layer):
    # 16, 8, 4, 2, 1 and one layer more than there are pixels
    shrink = [nn.Conv2d(3, 8, 1), *(nn.MaxPool2d(2) for _ in range(4)), layer]
    model = nn.Sequential(*shrink, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    least = 48 if isinstance(layer, nn.Conv2d) else 32
    told = f"images of 16 px are too small for this network: it takes {least} px or more. Use larger images"
    with pytest.raises(ValueError, match=told):
        train(model)


def test_a_network_of_one_size_says_which():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, 10))
    with pytest.raises(ValueError, match="16 px are too small .* made for 20 px. Make it with image_size=16"):
        train(model)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 10, 10))
    with pytest.raises(ValueError, match="16 px are too large .* made for 12 px. Make it with image_size=16"):
        train(model)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 3), (3, 1)])
def test_images_with_another_number_of_channels(ours, theirs):
    images = [ImageData(data.images[:, :ours], data.labels, data.classes, "grey") for data in (TRAIN, VAL)]
    model = nn.Sequential(nn.Conv2d(theirs, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    told = f"the images have {ours} channels?, and the network expects another number .* with in_channels={ours}"
    with pytest.raises(ValueError, match=told):
        train(model, *images)


class Faulty(nn.Module):
    def forward(self, x):
        raise RuntimeError("a fault of its own")


def test_another_error_of_the_network_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(5, 10)))  # 5 numbers fit no image
    with pytest.raises(RuntimeError, match="a fault of its own"):
        train(Faulty())


def test_out_of_memory_suggests_a_batch_size():
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.99 GiB")
    with pytest.raises(RuntimeError, match="too small for batches of 16 images of 16 px: try batch_size=8") as error:
        train(Trouble(3, lambda _: throw(memory)))
    assert error.value.__cause__ is memory


def test_train_and_val_of_other_classes():
    other = ImageData(VAL.images, VAL.labels, [*VAL.classes[:-1], "square dance"], "other")
    with pytest.raises(ValueError, match="val has .*square dance.*: they must be the same"):
        train(val=other)


def test_one_class_only():
    one = ImageData(TRAIN.images[:4], torch.zeros(4).long(), ["disc"], "one")
    with pytest.raises(ValueError, match=r"one class only, \['disc'\]: a classifier needs at least two"):
        train(train=one, val=one)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_run(epochs):
    # one batch an epoch
    _, history = train(train=TRAIN.subset(5), epochs=epochs)
    assert len(history) == epochs
    assert history["train_loss"].between(0, 100).all()


# ------------------------------------------------------------------ checkpoints


@pytest.fixture
def halfway(tmp_path):
    """A checkpoint of a run that was stopped in its third epoch of four."""
    path = tmp_path / "deep" / "folder" / "run.pt"
    stopped(Trouble(12, lambda _: throw(KeyboardInterrupt())), epochs=4, checkpoint=path)
    return path


def test_a_resumed_run_shows_the_epochs_before_it_too(halfway, capsys):
    def shown():
        lines = [line.strip() for line in re.split("[\r\n]", capsys.readouterr().out)]
        return [line for line in lines if line.startswith(("epoch", "Going", "Trained"))]

    _, history = train(Trouble(0, None), epochs=4, checkpoint=halfway)
    first, *lines = shown()
    assert first == "Going on after epoch 2 of 4, from run.pt:"
    assert [line[:9] for line in lines] == [f"epoch {n}/4" for n in (1, 2, 3, 4)]
    for line, loss in zip(lines, history["val_loss"]):
        assert f"validation loss {loss:.3f}" in line
    train(Trouble(0, None), epochs=4, checkpoint=halfway)
    assert shown() == ["Trained already, from run.pt:", *lines]


def refusal(path, model=None, **options):
    """Return what the CheckpointError says, once it is sure that file and network are as they were."""
    model = model if model is not None else Trouble(0, None)
    weights, file = copy_state(model), path.read_bytes()
    with pytest.raises(CheckpointError) as error:
        train(model, checkpoint=path, **({"epochs": 4} | options))
    assert str(path) in str(error.value)
    assert "It is left as it is" in str(error.value)
    assert path.read_bytes() == file
    assert same_state(copy_state(model), weights)
    assert list(path.parent.iterdir()) == [path]
    return str(error.value)


def test_a_checkpoint_loads_with_weights_only(halfway):
    state = torch.load(halfway, weights_only=True)
    assert len(state["history"]) == 2
    assert state["run"]["batch_size"] == 16
    assert list(halfway.parent.iterdir()) == [halfway]  # and nothing lies beside it


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "run.pt"
    model, history = train(Trouble(0, None), checkpoint=path)
    again, same = train(Trouble(1, lambda _: throw(AssertionError("it trained"))), checkpoint=path)
    assert same_state(copy_state(model), copy_state(again))
    assert same.equals(history)
    assert same.attrs == history.attrs


@pytest.mark.parametrize("keep", [0, 1, 10, 0.1, 0.5, 0.9, -1, -30])
def test_a_checkpoint_that_was_cut_off(halfway, keep):
    whole = halfway.read_bytes()
    keep = int(keep * len(whole)) if isinstance(keep, float) else keep
    halfway.write_bytes(whole[:keep])
    assert re.search("is not a whole checkpoint .*Move it away to start anew", refusal(halfway))


def test_a_checkpoint_with_damaged_bytes_is_refused_or_harmless(halfway):
    whole = bytearray(halfway.read_bytes())
    start = whole.index(b"PK", 100)
    whole[start : start + 400] = b"?" * 400
    halfway.write_bytes(whole)
    assert re.search("is not a whole checkpoint", refusal(halfway))


@pytest.mark.parametrize("garbage", [b"hello", b"\x80\x04junk", b"PK\x03\x04" + b"\0" * 500, b"\0" * 4096])
def test_garbage_is_no_checkpoint(halfway, garbage):
    halfway.write_bytes(garbage)
    assert re.search("is not a whole checkpoint .*another kind of file", refusal(halfway))


@pytest.mark.parametrize("state", [[1, 2], {"weights": torch.zeros(2)}, torch.zeros(3), {"run": 7}, {"run": {}}])
def test_another_file_of_torch_is_no_checkpoint(halfway, state):
    torch.save(state, halfway)
    assert re.search("is not a whole checkpoint|is of another run", refusal(halfway))


def test_code_in_a_checkpoint_is_not_run(halfway):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(halfway.parent / "evil"),)

    torch.save({"run": Evil()}, halfway)
    assert re.search("is not a whole checkpoint", refusal(halfway))


@pytest.mark.parametrize("part", [
    "model", "optimizer 0", "schedule 0", "scaler", "random", "history", "provenance", "run"])  # fmt: skip
def test_a_checkpoint_without_one_of_its_parts(halfway, part):
    state = torch.load(halfway, weights_only=True)
    del state[part]
    torch.save(state, halfway)
    assert re.search("is not a whole checkpoint", refusal(halfway))


class Unseen(nn.Module):
    """A network whose size does not show when it is printed."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 10))

    def forward(self, x):
        return x.mean((1, 2, 3)).view(-1, 1) * self.weight.sum(0)


def test_a_checkpoint_of_a_network_that_prints_the_same(tmp_path):
    path = tmp_path / "run.pt"
    train(Unseen(3), checkpoint=path)
    assert re.search("is of another run: network, first weights", refusal(path, model=Unseen(4), epochs=2))


def test_a_checkpoint_of_another_network(halfway):
    assert re.search(
        "is of another run: network, code of the network .*, first weights", refusal(halfway, model=new_tiny_network())
    )


def with_other_labels(data):
    return ImageData(data.images, data.labels.flip(0), data.classes, data.name)


def with_other_pixels(data):
    images = data.images.clone()
    images[-1, 0, 0, 0] ^= 1
    return ImageData(images, data.labels, data.classes, data.name)


def with_classes(data):
    return ImageData(data.images, data.labels, [f"z{name}" for name in data.classes], data.name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 5}, "epochs 4 instead of 5"),
        ({"learning_rate": 0.1}, "learning_rate 0.05 instead of 0.1"),
        ({"batch_size": 32}, "batch_size 16 instead of 32"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"flip": True}, "flip False instead of True"),
        ({"crop": 2}, "crop 0 instead of 2"),
        ({"momentum": 0.8}, "momentum 0.9 instead of 0.8"),
        ({"weight_decay": 0.0}, "weight_decay 0.0005 instead of 0.0"),
        ({"zoom": 0.5}, "zoom 1.0 instead of 0.5"),
        ({"label_smoothing": 0.1}, "label_smoothing 0.0 instead of 0.1"),
        ({"image_sizes": [8, 8, 16, 16]}, r"image_sizes \[16, 16, 16, 16\] instead of \[8, 8, 16, 16\]"),
        ({"optimizers": muon}, "optimizers"),
        ({"schedule": constant}, "optimizers, schedule one_cycle instead of constant, code of the schedule"),
        (
            {"precision": "bfloat16"},
            r"precision torch.float32 instead of torch.bfloat16 \(pass precision=\"float32\" to go on in it\)",
        ),
        ({"train": TRAIN.subset(60)}, r"images \[70, 30\] instead of \[60, 30\], training images"),
        ({"train": make_shapes(70, 24, 1), "val": make_shapes(30, 24, 2)}, "image_size 16 instead of 24"),
        ({"train": with_other_labels(TRAIN)}, "training images"),
        ({"val": with_other_pixels(VAL)}, "validation images"),
        ({"train": with_classes(TRAIN), "val": with_classes(VAL)}, "classes disc, ring, .* instead of zdisc, zring"),
        ({"class_weights": np.arange(10)}, "class_weights None instead of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_other_settings(halfway, options, told):
    assert re.search(f"is of another run: {told}", refusal(halfway, **options))


def test_the_same_images_by_another_name_are_the_same_run(halfway, capsys):
    train(Trouble(0, None), ImageData(TRAIN.images, TRAIN.labels, TRAIN.classes, "dots"), epochs=4, checkpoint=halfway)
    assert "Going on after epoch 2 of 4" in capsys.readouterr().out


def test_a_frozen_and_a_tuned_run_are_two(tmp_path):
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    frozen = new_tiny_network()
    frozen[0].requires_grad_(False)
    assert re.search("is of another run: frozen, optimizers|is of another run: frozen", refusal(path, frozen, epochs=2))


def test_other_first_weights_are_another_run(tmp_path):
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    told = refusal(path, new_tiny_network(seed=4), epochs=2)
    assert "is of another run: first weights (set the seed before the network is made)" in told


class Block(nn.Module):
    """A block whose forward is given."""

    def __init__(self, slope: float = 0.1):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.slope = new_tiny_network(), slope


def block_with(forward, slope=0.1):
    return type("Block", (Block,), {"forward": forward})(slope)


def scaled(x):
    return 2 * x


def test_another_forward_is_another_run(tmp_path):
    path = tmp_path / "run.pt"
    train(block_with(lambda self, x: self.inner(x)), checkpoint=path)
    for other in (
        block_with(lambda self, x: self.inner(-x)),
        block_with(lambda self, x: self.inner(scaled(x))),
        block_with(lambda self, x: self.inner(x), slope=0.2),
    ):
        assert "is of another run: code of the network" in refusal(path, other, epochs=2)


def test_comments_and_docstrings_of_a_forward_do_not_count():
    def make(documented):
        if documented:

            def forward(self, x):
                """Say what it does."""
                return self.inner(x)  # as before
        else:

            def forward(self, x):
                return self.inner(x)

        return block_with(forward)

    assert network_code(make(True)) == network_code(make(False))


def test_what_a_forward_calls_counts(monkeypatch):
    before = network_code(block_with(lambda self, x: self.inner(scaled(x))))
    monkeypatch.setitem(globals(), "scaled", lambda x: 3 * x)
    assert network_code(block_with(lambda self, x: self.inner(scaled(x)))) != before


def warm(optimizer, steps, start):
    return torch.optim.lr_scheduler.LinearLR(optimizer, start, total_iters=steps)


def test_partials_and_lambdas_as_schedules_are_told_apart(tmp_path):
    path = tmp_path / "run.pt"
    train(schedule=partial(warm, start=0.1), checkpoint=path)
    told = refusal(path, new_tiny_network(), epochs=2, schedule=partial(warm, start=0.2))
    assert "schedule warm(start=0.1) instead of warm(start=0.2)" in told
    path.unlink()
    train(schedule=lambda optimizer, steps: warm(optimizer, steps, 0.1), checkpoint=path)
    other = lambda optimizer, steps: warm(optimizer, steps, 0.2)  # noqa: E731
    assert "code of the schedule" in refusal(path, new_tiny_network(), epochs=2, schedule=other)


def test_numbers_from_numpy_are_plain_numbers(tmp_path, capsys):
    options = {"learning_rate": np.float64(0.03), "batch_size": np.int64(16), "seed": np.int32(1),
               "crop": np.int64(1), "image_sizes": np.array([12, 16]), "label_smoothing": np.float32(0.5),
               "flip": np.bool_(True)}  # fmt: skip
    _, first = train(checkpoint=tmp_path / "run.pt", **options)
    _, again = train(checkpoint=tmp_path / "run.pt", **options)
    assert "Trained already" in capsys.readouterr().out and again.equals(first)


def test_a_folder_holds_a_file_for_each_training(tmp_path, capsys):
    """One folder, whatever differs: data, scale, chapter; each goes on from its own."""
    folder = tmp_path / "smoke-a1-seed0"
    _, first = train(checkpoint=folder)
    assert [first.attrs["checkpoint"]] == [str(path) for path in folder.iterdir()]
    capsys.readouterr()
    _, second = train(train=TRAIN.subset(60), checkpoint=folder)
    told = capsys.readouterr().out
    assert "is of another training (images [70, 30] instead of [60, 30], training images)" in told
    assert "this one starts anew, and that one stays." in told
    assert len(list(folder.iterdir())) == 2
    for data, history in ((TRAIN, first), (TRAIN.subset(60), second)):
        _, again = train(train=data, checkpoint=folder)
        told = capsys.readouterr().out
        assert "Trained already" in told and "starts anew" not in told
        assert again.equals(history)


def test_a_folder_with_the_name_of_a_file_is_told(tmp_path):
    (tmp_path / "run.pt").mkdir()
    with pytest.raises(CheckpointError, match="run.pt is a folder: checkpoint takes a file"):
        train(checkpoint=tmp_path / "run.pt")


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_history_returned(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    _, history = train(checkpoint=tmp_path / "file" / "run.pt")
    assert len(history) == 2
    assert re.search(
        r"could not be written \(.*\); there is none.* The training goes on without", capsys.readouterr().out
    )


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(halfway, monkeypatch, capsys):
    before = halfway.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    _, history = train(Trouble(0, None), epochs=4, checkpoint=halfway)
    assert len(history) == 4
    assert halfway.read_bytes() == before and list(halfway.parent.iterdir()) == [halfway]
    told = capsys.readouterr().out
    assert (
        "No space left on device); the one before stays, and " in told
        and "MB of that disk are free. The training goes on without." in told
    )


def test_every_generator_is_kept(tmp_path, monkeypatch):
    """A stand-in for a GPU's generator: what it gave when the checkpoint was written it gets when the run goes on."""
    states, device = [], torch.device("cuda")
    standin = SimpleNamespace(get_rng_state=lambda: torch.tensor([1, 2, 3]), set_rng_state=states.append)
    monkeypatch.setattr(torch, "get_device_module", lambda found: standin)
    run, path = {"training images": "a", "code of the network": "b"}, tmp_path / "run.pt"
    torch.manual_seed(5)
    save(path, {}, run, [], {}, device)
    expected = torch.rand(3)
    resume(path, {}, run, device)
    assert [state.tolist() for state in states] == [[1, 2, 3]]
    assert torch.rand(3).equal(expected)


def test_a_compiled_network_goes_on_from_the_bare_one(halfway, capsys):
    compiled = torch.compile(Trouble(0, None), backend="eager")
    train(compiled, epochs=4, checkpoint=halfway)
    assert "Going on after epoch 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 0}, "epochs takes a whole number from 1 on, not 0"),
        ({"epochs": 1.5}, "epochs takes a whole number"),
        ({"batch_size": 0}, "batch_size takes a whole number from 1 on, not 0"),
        ({"batch_size": "16"}, "batch_size takes a whole number from 1 on, not '16'"),
        ({"learning_rate": -1}, "learning_rate takes a number from 0 on, not -1"),
        ({"learning_rate": float("nan")}, "learning_rate takes a number"),
        ({"average": 1.5}, "average takes a number from 0 to 1"),
        ({"class_weights": torch.ones(9)}, r"class_weights takes 10 numbers from 0 on, one for each class, not \(9,\)"),
        ({"class_weights": -torch.ones(10)}, "class_weights takes 10 numbers from 0 on"),
        ({"optimizers": lambda model: None}, "optimizers takes a function that makes optimizers"),
        ({"optimizers": muon, "learning_rate": 0.1}, "beside optimizers they would do nothing"),
        ({"schedule": lambda optimizer, steps: None}, "schedule takes a function"),
        (
            {"schedule": lambda optimizer, steps: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)},
            "ReduceLROnPlateau waits for a loss",
        ),
        (
            {"optimizers": lambda model: [torch.optim.Adagrad(model.parameters())]},
            "this schedule needs an optimizer with momentum, and Adagrad has none: give fit another schedule",
        ),
        ({"train": ImageData(TRAIN.images[:, :1], TRAIN.labels, TRAIN.classes, "grey")}, "1 channels, val of 3"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_takes(options, told):
    with pytest.raises(ValueError, match=told):
        train(**options)


def test_one_optimizer_and_other_kinds_of_class_weights_will_do():
    train(optimizers=lambda model: torch.optim.Adam(model.parameters()), class_weights=np.ones(10))
    train(class_weights=torch.ones(10, dtype=torch.float64))


def test_labels_that_are_no_classes():
    shifted = make_shapes(70, 16, 1)
    shifted.labels += 1
    with pytest.raises(ValueError, match="train has labels from 1 to 10 for 10 classes: .* from 0 to 9"):
        train(train=shifted)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="all weights of the network are frozen"):
        train(new_tiny_network().requires_grad_(False))


def test_an_output_that_is_no_tensor():
    class SideHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = new_tiny_network()

        def forward(self, x):
            return (self.inner(x), None) if self.training else self.inner(x)

    with pytest.raises(ValueError, match="the network gives a tuple and not one tensor .*aux_logits=False"):
        train(SideHeads())


def test_validation_images_of_a_size_that_does_not_fit_are_told_at_once(monkeypatch):
    monkeypatch.setattr(training, "_train_epoch", lambda *_: throw(AssertionError("it trained")))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    with pytest.raises(ValueError, match="images of 24 px are too large for this network: it is made for 16 px"):
        train(flat, val=make_shapes(30, 24, 2))


def test_out_of_memory_on_a_processor_suggests_a_batch_size():
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="the computer's memory is too small for batches of 16 .*batch_size=8$"):
        train(Trouble(1, lambda _: throw(error)))


def test_runs_with_one_checkpoint_at_a_time_all_end_well(tmp_path, monkeypatch, capsys):
    """Another process writes the same checkpoint between our writing and our renaming."""
    path, real, inside = tmp_path / "run.pt", os.replace, []

    def replace(source, target):
        if not inside:
            inside.append(True)
            _, other = train(checkpoint=path)
            assert len(other) == 2
        real(source, target)

    monkeypatch.setattr(training.sys.modules["course_utils.checkpoints"].os, "replace", replace)
    _, history = train(checkpoint=path)
    assert len(history) == 2 and inside
    assert "could not be written" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_cleared_away_later(halfway):
    new, old = (halfway.with_name(f"run.pt.{name}.part") for name in ("new", "old"))
    new.write_bytes(b"half"), old.write_bytes(b"half")
    os.utime(old, (0, 0))
    train(Trouble(0, None), epochs=4, checkpoint=halfway)
    assert not old.exists() and new.exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="its program forks")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_killed_ten_times_and_the_same_weights(tmp_path, dropout):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(tmp_path), "4", str(dropout)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == KILLS == 10
    before, after = zip(*result["moments"])
    assert min(after) < EPOCHS / 3
    assert max(after) > EPOCHS / 2  # spread over the run
    # a kill inside the writing of a checkpoint keeps the one before
    for number in CHOSEN:
        assert after[number] == before[number]
    assert (
        len(CHOSEN) <= len(list(tmp_path.glob("*.part"))) <= KILLS
    )  # kept for an hour, as if others were still writing
    assert result["epochs"] == EPOCHS
    assert result["same_weights"]
    assert result["same_history"]


def test_weights_only_is_asked_for(halfway, monkeypatch):
    asked, real = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *rest, **options: asked.append(options) or real(*rest, **options))
    train(Trouble(0, None), epochs=4, checkpoint=halfway)
    assert [options.get("weights_only") for options in asked] == [True]


def test_a_network_can_be_loaded_from_a_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    model, _ = train(checkpoint=path)
    other = new_tiny_network(seed=9)
    other.load_state_dict(torch.load(io.BytesIO(path.read_bytes()), weights_only=True)["model"])
    assert same_state(copy_state(model), copy_state(other))
