"""Schedules, class weights and live charts of `fit`."""

import builtins

import pytest
import torch
from helpers import new_tiny_network, same_state
from torch.nn import functional as F

from course_utils import ImageData, checkpoints, evaluate, fit, make_shapes, training
from course_utils.optimizers import constant, cosine, one_cycle, step_decay

pytestmark = pytest.mark.sensitive

TRAIN, VAL = make_shapes(70, 16, 1), make_shapes(30, 16, 2)
UNEVEN = ImageData(TRAIN.images, torch.arange(70) // 60, ["many", "few"], "uneven")


def train(**options):
    model = new_tiny_network()
    return model, fit(
        model, TRAIN, VAL, **{"epochs": 2, "batch_size": 16, "device": "cpu", "precision": "float32"} | options
    )


def rates(schedule, steps: int = 90) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, 0.9)
    scheduler, found = schedule(optimizer, steps), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


# ------------------------------------------------------------------ schedules


def test_step_decay_goes_down_twice():
    assert rates(step_decay) == pytest.approx([0.1] * 50 + [0.01] * 20 + [0.001] * 20)


def test_cosine_goes_down_without_a_break():
    found = rates(cosine)
    assert found[0] == 0.1 and found[45] == pytest.approx(0.05) and 0 < found[-1] < 1e-4
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", [constant, cosine, one_cycle, step_decay])
def test_every_schedule_lasts_to_the_end(schedule):
    assert len(train(schedule=schedule)[1]) == 2


def for_half(optimizer, steps):
    return one_cycle(optimizer, steps // 2)


def down_to_zero(optimizer, steps):
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps // 2)


def test_a_schedule_that_ends_early_says_where():
    with pytest.raises(ValueError, match=r"ends early, in epoch 2 of 2, batch 1 of 5 .*all 10 steps"):
        train(schedule=for_half)


def test_a_schedule_that_stands_at_zero_says_so():
    with pytest.raises(ValueError, match="the rate is 0 from epoch 1 of 2"):
        train(schedule=down_to_zero)


# ------------------------------------------------------------------ class weights


def test_class_weights_are_one_on_average():
    weights = UNEVEN.class_weights()
    assert weights.tolist() == pytest.approx([70 / 120, 70 / 20])
    assert weights[UNEVEN.labels].mean() == pytest.approx(1)


def test_class_weights_weigh_the_loss():
    """One step of plain SGD on one batch is the step by hand."""
    weights = UNEVEN.class_weights()
    options = {"epochs": 1, "batch_size": 70, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    exact = {"device": "cpu", "precision": "float32"}
    ours, by_hand = (new_tiny_network(num_classes=2) for _ in range(2))
    history = fit(ours, UNEVEN, UNEVEN, schedule=constant, class_weights=weights, **exact, **options)
    by_hand.to(memory_format=torch.channels_last).train()
    x, y = next(UNEVEN.batches(70, torch.Generator().manual_seed(1)))
    losses = F.cross_entropy(by_hand(x), y, reduction="none")
    loss = (losses * weights[y]).sum() / weights[y].sum()
    loss.backward()
    with torch.no_grad():
        for weight in by_hand.parameters():
            weight -= 0.1 * weight.grad
    for a, b in zip(ours.parameters(), by_hand.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert history["train_loss"][0] == pytest.approx(loss.item(), rel=1e-5)
    # judged without weights
    assert history["val_loss"][0] == pytest.approx(evaluate(ours, UNEVEN, **exact)["loss"], rel=1e-5)


def test_other_class_weights_are_another_run(tmp_path):
    from course_utils import CheckpointError

    fit(new_tiny_network(), TRAIN, VAL, epochs=1, checkpoint=tmp_path / "run.pt", device="cpu")
    with pytest.raises(CheckpointError, match="class_weights None instead of"):
        train(epochs=1, batch_size=128, checkpoint=tmp_path / "run.pt", class_weights=torch.ones(10))


# ------------------------------------------------------------------ charts


def events(folder) -> dict[str, list]:
    """What TensorBoard shows of a folder: each run's charts as (epoch, value), and the epochs of its pictures."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for part in ("training", "validation"):
        reader = accumulator.EventAccumulator(str(folder / part))
        reader.Reload()
        for name in reader.Tags()["scalars"]:
            found[f"{part} {name}"] = [(event.step, event.value) for event in reader.Scalars(name)]
        for name in reader.Tags()["images"]:
            found[f"{part} {name}"] = [event.step for event in reader.Images(name)]
    return found


def test_charts_show_the_history_and_pictures(tmp_path):
    _, history = train(charts=tmp_path)
    found = events(tmp_path)
    for part, name in (("training", "train"), ("validation", "val")):
        for metric in ("loss", "accuracy"):
            values = [value for _, value in found[f"{part} {metric}"]]
            assert values == pytest.approx(list(history[f"{name}_{metric}"]))
    assert [epoch for epoch, _ in found["training learning rate"]] == [1, 2]
    assert found["validation predictions"] == [1, 2]


def test_charts_change_nothing(tmp_path):
    with_charts, without = (train(charts=folder)[0] for folder in (tmp_path, None))
    assert same_state(with_charts.state_dict(), without.state_dict())


def test_charts_go_on_with_a_run_that_was_interrupted(tmp_path, monkeypatch):
    """What the interrupted epochs wrote stands there once."""
    options = {"epochs": 3, "checkpoint": tmp_path / "run.pt", "charts": tmp_path / "charts"}
    real, left = training.evaluate, [None, KeyboardInterrupt]

    def interrupted(*arguments, **options):
        if error := left.pop(0):
            raise error
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "code_digest", lambda *_: "the same")
        patch.setattr(training, "evaluate", interrupted)
        train(**options)
    monkeypatch.setattr(checkpoints, "code_digest", lambda *_: "the same")
    assert len(train(**options)[1]) == 3
    assert [epoch for epoch, _ in events(tmp_path / "charts")["validation loss"]] == [1, 2, 3]


def test_without_tensorboard_nothing_is_drawn(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert len(train(charts=tmp_path / "charts")[1]) == 2
    assert not (tmp_path / "charts").exists()


def test_no_folder_no_import(monkeypatch):
    """Importing TensorBoard takes a second or two: only who asks for charts pays it."""
    real, names = builtins.__import__, []

    def noted(name, *rest, **options):
        names.append(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", noted)
    train()
    assert not any("tensorboard" in name for name in names)
