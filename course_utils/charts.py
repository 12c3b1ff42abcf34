"""Live charts for TensorBoard while `fit` trains."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from course_utils.data import ImageData
from course_utils.evaluation import predict


class Charts:
    """Loss, accuracy and learning rate by epoch, and pictures with their predictions.

    Training and validation are runs of their own, so that TensorBoard draws them into one chart. Where
    TensorBoard is not installed, or no folder is given, nothing happens; where it is broken, a note says so.

    Args:
        folder: of the event files, one for each training run.
        epochs_done: what an earlier, interrupted run wrote about later epochs is hidden.
    """

    def __init__(self, folder: str | Path | None, epochs_done: int = 0):
        self.writers = {}
        if folder is None or find_spec("tensorboard") is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # its parts, such as protobuf, have errors of many kinds
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"There are no charts: TensorBoard is installed, but Python could not import it ({reason}).")
            return
        for part in ("training", "validation"):
            self.writers[part] = SummaryWriter(str(Path(folder) / part), purge_step=epochs_done + 1)

    def add(self, row: dict, model: nn.Module, val: ImageData, device: torch.device, precision: str) -> None:
        """Write one row of the history, and what the network says about eight pictures of `val`, in a precision."""
        for part, writer in self.writers.items():
            for metric in ("loss", "accuracy"):
                name = "train" if part == "training" else "val"
                writer.add_scalar(metric, row[f"{name}_{metric}"], row["epoch"])
        if self.writers:
            self.writers["training"].add_scalar("learning rate", row["learning_rate"], row["epoch"])
            figure = _predictions(model, val, device, precision)
            self.writers["validation"].add_figure("predictions", figure, row["epoch"])
            for writer in self.writers.values():
                writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        for writer in self.writers.values():
            writer.close()


def _predictions(model: nn.Module, val: ImageData, device: torch.device, precision: str) -> Figure:
    """Draw eight pictures, each with the predicted class, its probability, and the true class if it is another."""
    few = val.subset(8)
    probabilities, answers = predict(model, few, device=str(device), precision=precision).softmax(1).max(1)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for axes in panels:
        axes.axis("off")
    for axes, image, label, answer, sure in zip(figure.axes, few.images, few.labels, answers, probabilities):
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray")
        right = answer == label
        text = f"{val.classes[answer]} {sure:.0%}".replace("%", " %")
        axes.set_title(text if right else f"{text}\nnot {val.classes[label]}", color="black" if right else "#B03A00")
    return figure
