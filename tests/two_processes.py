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

from course_utils import fit, make_shapes, muon, processes


def without_norm() -> nn.Sequential:
    """A network in which no image sees another, so that the parts of a batch add up."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


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

    cases = {
        "plain": {"learning_rate": 0.1, "flip": True, "crop": 2, "zoom": 0.5, "average": 0.9},
        "weighted": {"class_weights": torch.linspace(0.2, 1.8, 10), "label_smoothing": 0.1},
        "muon": {"optimizers": muon},
    }
    for name, options in cases.items():
        model = without_norm()
        history = fit(model, train, val, epochs=2, batch_size=16, device="cpu", precision="float32", **options)
        found[name] = [history.drop(columns="seconds").to_dict("records"), model.state_dict()]

    model = new_tiny_network()
    history = fit(model, train, val, epochs=2, batch_size=16, device="cpu", precision="float32")
    found["norm"] = [history.drop(columns="seconds").to_dict("records"), model.state_dict()]
    torch.save(found, folder / f"{part[1]}-{part[0]}.pt")
    processes.leave_processes()


if __name__ == "__main__":
    main()
