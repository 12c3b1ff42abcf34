"""What `fit` asks of its arguments, so that a mistake is told in a sentence and before any time is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from course_utils import processes
from course_utils.data import ImageData
from course_utils.evaluation import evaluation_mode
from course_utils.summary import least_size

WHOLE = {"epochs": 1, "batch_size": 1, "seed": 0, "crop": 0}  # and the least that makes sense
SHARES = {"average": (0, 1), "label_smoothing": (0, 1), "zoom": (0, 1), "momentum": (0, 1)}


def check_options(options: dict) -> None:
    """Raise ValueError for a number of `fit` that is none, or makes no sense; options: name -> value."""
    for name, value in options.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in WHOLE and not (number and value == int(value) and value >= WHOLE[name]):
            raise ValueError(f"{name} takes a whole number from {WHOLE[name]} on, not {value!r}")
        if name in SHARES and not (number and SHARES[name][0] <= value <= SHARES[name][1]):
            raise ValueError(f"{name} takes a number from 0 to 1, not {value!r}")
        if name in ("learning_rate", "weight_decay") and not (number and 0 <= value < float("inf")):
            raise ValueError(f"{name} takes a number from 0 on, not {value!r}")


def check_class_weights(weights: object, count: int) -> torch.Tensor | None:
    """Return class weights as float32 (classes,), whatever held them.

    Raises:
        ValueError: there is not one finite number from 0 on for each class.
    """
    if weights is None:
        return None
    weights = torch.as_tensor(np.asarray(weights) if not isinstance(weights, torch.Tensor) else weights).float().cpu()
    if weights.shape != (count,) or not (weights.isfinite() & (weights >= 0)).all() or not weights.any():
        told = f"{tuple(weights.shape)}" if weights.shape != (count,) else f"{weights.tolist()}"
        raise ValueError(f"class_weights takes {count} numbers from 0 on, one for each class, not {told}")
    return weights


def make_optimizers(make: Callable, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return what `optimizers` makes for a network, once it is sure that it can be used.

    Raises:
        ValueError: it gives something else than optimizers, or nothing would be trained.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError("all weights of the network are frozen (requires_grad is False): there is nothing to train")
    made = make(model)
    made = [made] if isinstance(made, torch.optim.Optimizer) else made
    if not isinstance(made, Sequence) or not made or not all(isinstance(o, torch.optim.Optimizer) for o in made):
        raise ValueError(f"optimizers takes a function that makes optimizers for a network, and gave {made!r}")
    return list(made)


def make_schedule(schedule: Callable, optimizer: torch.optim.Optimizer, steps: int) -> object:
    """Return what `schedule` makes for an optimizer and so many steps.

    Raises:
        ValueError: it does not fit this optimizer, or is no schedule that goes on by itself.
    """
    try:
        made = schedule(optimizer, steps)
    except KeyError as error:
        raise ValueError(
            f"this schedule needs an optimizer with {error.args[0]}, and {type(optimizer).__name__} has none: give fit "
            "another schedule, such as cosine or constant"
        ) from error
    if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "ReduceLROnPlateau waits for a loss, and fit's schedules go on after each batch by themselves: take "
            "cosine, step_decay or another schedule of torch.optim.lr_scheduler"
        )
    if not isinstance(made, torch.optim.lr_scheduler.LRScheduler):
        raise ValueError(f"schedule takes a function (optimizer, steps) that makes a schedule, and gave {made!r}")
    return made


def check_images(train: ImageData, val: ImageData) -> None:
    """Raise ValueError where two sets do not fit together, or are too few."""
    if train.classes != val.classes:
        raise ValueError(f"train has the classes {train.classes}, val has {val.classes}: they must be the same")
    if train.images.shape[1] != val.images.shape[1]:
        channels = (train.images.shape[1], val.images.shape[1])
        raise ValueError("train has images of {} channels, val of {}: they must be the same".format(*channels))
    if len(train) < 2:
        raise ValueError(f"there is {len(train)} training image: batch norm needs at least two")
    if len(val) < processes.world_size():
        raise ValueError(f"there are {len(val)} validation images for {processes.world_size()} processes")
    if len(train.classes) < 2:
        raise ValueError(f"there is one class only, {train.classes}: a classifier needs at least two")
    for name, part in (("train", train), ("val", val)):
        if part.labels.min() < 0 or part.labels.max() >= len(part.classes):
            raise ValueError(
                f"{name} has labels from {part.labels.min()} to {part.labels.max()} for {len(part.classes)} classes: "
                f"they must be numbers from 0 to {len(part.classes) - 1}"
            )


def check_network(model: nn.Module, data: ImageData, device: torch.device, image_size: int) -> None:
    """Try a network on two images of a size.

    Raises:
        ValueError: it does not take them, or does not give one number for each class.
    """
    channels = data.images.shape[1]
    x = torch.zeros(2, channels, image_size, image_size, device=device)
    try:
        with evaluation_mode(model.to(device)):
            output = model(x)
    except RuntimeError as error:
        if "channels, but got" in str(error):
            raise ValueError(
                f"the images have {channels} channel{'s' * (channels > 1)}, and the network expects another number "
                f"({error}). Make the network with in_channels={channels}."
            ) from error
        least = least_size(model, channels)
        if least is None or least == image_size:
            raise  # not a matter of size
        advice = f"it takes {least} px or more. Use larger images, or fewer layers of stride 2."
        if "shapes cannot be multiplied" in str(error):
            advice = f"it is made for {least} px. Make it with image_size={image_size}."
        kind = "too small" if least > image_size else "too large"
        raise ValueError(f"images of {image_size} px are {kind} for this network: {advice}") from error
    check_output(output, (len(x), len(data.classes)))


def check_output(output: object, shape: tuple[int, int]) -> None:
    """Raise ValueError where the output of a network is no tensor of this shape (N, classes)."""
    if not isinstance(output, torch.Tensor):
        raise ValueError(
            f"the network gives a {type(output).__name__} and not one tensor (N, classes). One with side heads, such "
            "as torchvision's GoogLeNet or Inception, is made with aux_logits=False for this."
        )
    if tuple(output.shape) != shape:
        raise ValueError(
            f"the network gives {tuple(output.shape)} for {shape[0]} images, but the data has {shape[1]} classes: "
            f"it must give {shape}. Set num_classes={shape[1]}."
        )
