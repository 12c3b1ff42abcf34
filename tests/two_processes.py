"""What one process does, and what several do together; a program of its own, since torchrun starts it.

Run as: [torchrun --nproc-per-node 2] two_processes.py FOLDER. Each process writes FOLDER/COUNT-NUMBER.pt.
The test lets it compute in float64: one process and two add in another order, and rounding must not show.
"""

import sys
from pathlib import Path

import torch
from helpers import new_tiny_network
from torch import nn
from torch.nn import functional as F

from course_utils import ImageData, fit, make_shapes, muon, processes
from course_utils.optimizers import constant
from course_utils.processes import ProcessError

# a processor that has bfloat16 would else compute in it
PLAIN = {"device": "cpu", "precision": "float32"}


def without_norm() -> nn.Sequential:
    """A network in which no image sees another, so that the parts of a batch add up."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class WithIdleLayer(nn.Module):
    """A network with a layer that nothing depends on."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = without_norm(), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class Stopped(Exception):
    """The run ends here."""


def interrupted(model: nn.Module, train: ImageData, *arguments, epochs_done: int, **options) -> None:
    """Train for some epochs; then every process stops, when the checkpoint is written."""
    real = processes.seed_epoch

    def seed_epoch(seed: int, epoch: int) -> None:
        if epoch > epochs_done:
            raise Stopped
        real(seed, epoch)

    processes.seed_epoch = seed_epoch
    try:
        fit(model, train, *arguments, **options)
    except Stopped:
        processes.sum_over_processes(1.0)  # waits for all
    finally:
        processes.seed_epoch = real


def what_is_told(model: nn.Module, *data: ImageData, **options) -> str | None:
    """Return the message of the error with which training ends, None if it does not."""
    try:
        fit(model, *data, **{"epochs": 1, "batch_size": 16} | PLAIN | options)
    except (ValueError, ProcessError) as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    folder = Path(sys.argv[1])
    processes.join_processes(torch.device("cpu"))
    part = (processes.rank(), processes.world_size())
    train, val, found = make_shapes(75, 16, 1), make_shapes(33, 16, 2), {}

    for size in (30, 31):  # parts of one size, and of two
        model = without_norm().to(memory_format=torch.channels_last)
        wrapped = processes.parallel(model)
        x, y = next(train.batches(size, part=part))
        loss = F.cross_entropy(wrapped(x), y)
        processes.fair_loss(loss, len(y)).backward()
        found[f"gradients {size}"] = [weight.grad for weight in model.parameters()]

    # Muon sees the mean, though it holds the weights as matrices of its own
    model = without_norm().to(memory_format=torch.channels_last)
    matrices, wrapped = muon(model)[1].param_groups[0]["params"], processes.parallel(model)
    x, y = next(train.batches(31, part=part))
    processes.fair_loss(F.cross_entropy(wrapped(x), y), len(y)).backward()
    found["gradients for muon"] = [matrix.grad for matrix in matrices]

    norm = nn.BatchNorm2d(3)
    norm(next(train.batches(30, part=part))[0])
    processes.average_statistics(norm)
    found["statistics"] = [norm.running_mean, norm.running_var, norm.num_batches_tracked]

    cases = {
        "plain": {"learning_rate": 0.1, "flip": True, "crop": 2, "zoom": 0.5, "average": 0.9},
        "weighted": {"class_weights": torch.linspace(0.2, 1.8, 10), "label_smoothing": 0.1},
        "one image each": {"batch_size": 2},
        "muon": {"optimizers": muon, "schedule": constant, "epochs": 1, "batch_size": 75},  # one step
    }
    for name, options in cases.items():
        model = without_norm()
        history = fit(model, train, val, **{"epochs": 2, "batch_size": 16} | PLAIN | options)
        found[name] = [history.drop(columns="seconds").to_dict("records"), model.state_dict()]

    model = new_tiny_network()
    history = fit(model, train, val, epochs=2, batch_size=16, **PLAIN)
    found["norm"] = [history.drop(columns="seconds").to_dict("records"), model.state_dict()]

    # norms whose statistics are averaged, and random numbers: what each process has for itself
    options = {"epochs": 4, "batch_size": 16, "average": 0.9} | PLAIN
    for name in ("unbroken", "resumed"):
        checkpoint = folder / f"{part[1]}-{name}-checkpoint.pt"
        if name == "resumed":
            interrupted(new_tiny_network(dropout=0.3), train, val, epochs_done=2, checkpoint=checkpoint, **options)
        model = new_tiny_network(dropout=0.3)
        history = fit(model, train, val, checkpoint=checkpoint, **options)
        found[name] = [history.drop(columns="seconds").to_dict("records"), model.state_dict()]

    found["told"] = {
        "batch": what_is_told(without_norm(), train, val, batch_size=1),
        "images": what_is_told(without_norm(), train.subset(3), val),
        "idle": what_is_told(WithIdleLayer(), train, val, batch_size=75),
        "frozen": what_is_told(nn.Sequential(without_norm(), nn.Linear(10, 10).requires_grad_(False)), train, val),
    }
    torch.save(found, folder / f"{part[1]}-{part[0]}.pt")
    processes.leave_processes()


if __name__ == "__main__":
    main()
