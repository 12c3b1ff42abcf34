"""The training loop of chapter 1, with what a long run needs around it."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from course_utils import processes
from course_utils.charts import Charts
from course_utils.checkpoints import CheckpointError, checkpoint_file, identity_of, plain, resume, save
from course_utils.checks import (
    check_class_weights,
    check_images,
    check_network,
    check_options,
    check_output,
    make_optimizers,
    make_schedule,
)
from course_utils.data import ImageData
from course_utils.evaluation import choose_device, choose_precision, evaluate, to_device
from course_utils.optimizers import one_cycle
from course_utils.records import provenance

SGD = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}  # of `fit`, unless given


def keep_memory() -> None:
    """Let this process keep the memory that it frees, so that each batch finds the last one's again.

    Otherwise the C library gives large pieces back at once and the system hands them out anew, page by page:
    up to a third of the time of a small network on a virtual machine. Only glibc (Linux) has this switch.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)


@dataclass
class Run:
    """What one training needs beside its images.

    Attributes:
        model: the network; `trained` is the same, or the one that all processes share the gradients of.
        averaged: a running mean of the weights, or None.
        optimizers, schedules: one schedule for each optimizer.
        scaler: keeps float16's gradients from vanishing; does nothing for other numbers.
        steps: batches in an epoch.
    """

    model: nn.Module
    trained: nn.Module
    averaged: AveragedModel | None
    optimizers: list[torch.optim.Optimizer]
    schedules: list[torch.optim.lr_scheduler.LRScheduler]
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype
    class_weights: torch.Tensor | None
    label_smoothing: float
    classes: int
    epochs: int
    steps: int

    def parts(self) -> dict:
        """Everything with a state that a run which goes on must have again."""
        parts = {"model": getattr(self.model, "_orig_mod", self.model), "scaler": self.scaler}
        parts |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        parts |= {f"schedule {number}": schedule for number, schedule in enumerate(self.schedules)}
        return parts | ({"average": self.averaged} if self.averaged is not None else {})


def _train_epoch(run: Run, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], epoch: int, bar: tqdm) -> dict:
    """Train on each batch once, as chapter 1's loop does; return the epoch's row of the history so far."""
    run.model.train()
    start, loss_sum, weight_sum, right, seen = time.perf_counter(), 0.0, 0, 0, 0
    for number, (x, y) in enumerate(islice(batches, run.steps), 1):
        with torch.autocast(run.device.type, run.dtype, enabled=run.dtype != torch.float32):
            output = run.trained(x)
        if number == 1:  # in training mode it may be another than the one that was tried before
            check_output(output, (len(x), run.classes))
        logits = output.float()
        loss = F.cross_entropy(logits, y, run.class_weights, label_smoothing=run.label_smoothing)
        value, rate = loss.item(), run.schedules[0].get_last_lr()[0]
        _check_loss(value, rate, epoch, number)
        run.model.zero_grad()
        weight = len(y) if run.class_weights is None else run.class_weights[y].sum().item()
        run.scaler.scale(processes.fair_loss(loss, weight)).backward()
        processes.check_gradients(run.model)
        for optimizer in run.optimizers:
            run.scaler.step(optimizer)
        run.scaler.update()
        _step_all(run.schedules, epoch, run.epochs, number, run.steps)
        if run.averaged is not None:
            run.averaged.update_parameters(run.model)
        loss_sum, weight_sum = loss_sum + value * weight, weight_sum + weight
        right, seen = right + (logits.argmax(1) == y).sum().item(), seen + len(y)
        bar.update()
    seconds = time.perf_counter() - start
    loss_sum, weight_sum, right, seen = processes.sum_over_processes(loss_sum, weight_sum, right, seen)
    row = {"epoch": epoch, "learning_rate": rate, "train_loss": loss_sum / weight_sum, "train_accuracy": right / seen}
    return row | {"seconds": seconds}


def _validate(judged: nn.Module, own: ImageData, count: int, device: torch.device, precision: str) -> dict:
    """Judge a network by all validation images, of which this process has its own part."""
    result = evaluate(judged, own, device=str(device), precision=precision)
    loss, right = processes.sum_over_processes(len(own) * result["loss"], len(own) * result["accuracy"])
    return {"val_loss": loss / count, "val_accuracy": right / count}


def _check_loss(value: float, rate: float, epoch: int, batch: int) -> None:
    if not value < float("inf"):
        raise FloatingPointError(
            f"the loss became {value} in epoch {epoch}, batch {batch}, at a learning rate of "
            f"{rate:.3g}. Try a tenth of the learning rate, add normalisation, or "
            "look for images or labels that are not finite numbers."
        )


def fit(
    model: nn.Module,
    train: ImageData,
    val: ImageData,
    *,
    epochs: int,
    learning_rate: float | None = None,
    batch_size: int = 128,
    momentum: float | None = None,
    weight_decay: float | None = None,
    optimizers: Callable[[nn.Module], Sequence[torch.optim.Optimizer]] | None = None,
    schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] = one_cycle,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    average: float = 0.0,
    image_sizes: Sequence[int] | None = None,
    seed: int = 0,
    flip: bool = False,
    crop: int = 0,
    zoom: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    charts: str | Path | None = None,
) -> pd.DataFrame:
    """Train a network, with SGD and a one-cycle schedule unless told otherwise; return its history, one row an epoch.

    Columns: epoch, learning_rate (of the epoch's last batch), train_loss and train_accuracy (means over
    images, while training), val_loss, val_accuracy (0..1), seconds (training only).

    Args:
        model: (N, C, H, W) to (N, classes). It is trained in place.
        train, val: images with the same classes and channels.
        epochs, batch_size: how often each image is seen, and how many make a step.
        learning_rate, momentum, weight_decay: of SGD, 0.05, 0.9 and 5e-4 unless given; the rate is the peak of the
            schedule.
        optimizers: makes others than SGD, each with its own peak rates, such as `muon`.
        schedule: how the rates change over all steps: `one_cycle`, `cosine`, `step_decay`, `constant`.
        label_smoothing: the share of each target that is spread over all classes (Szegedy et al. 2016).
        class_weights: (classes,), how much an image of each class counts in the training loss; see
            `ImageData.class_weights`.
        average: 0.98 keeps a running mean of the weights, of which each step makes up 2 %; it is what is
            evaluated, and what the network holds at the end. 0: none.
        image_sizes: the size in pixels at which each epoch trains, one number an epoch (Howard 2018).
        seed: decides the order of the images and their augmentation; weights are drawn before.
        flip, crop, zoom: augmentation, see `ImageData.batches`.
        device, precision: "auto", or a name.
        checkpoint: a file .pt that is written after each epoch. If it is there already, training goes on
            from it and ends with the same weights as a run that was never interrupted. Any other path is a
            folder, in which each training has a file of its own, named by a digest of what decides it.
        charts: a folder for TensorBoard's live charts and pictures; nothing where TensorBoard is not installed.

    Started by torchrun, every process calls this with the same arguments and trains on its part of each batch.
    All end with the same weights and history; process 0 alone prints, draws and writes the checkpoint, which all
    read when the run goes on. Each norm sees its own process's images only.

    Ctrl-C stops the cell. With a checkpoint, the same cell goes on after the last finished epoch when it is run
    again; until then the network has the weights that it came with. A last batch of one image a process is left
    out, since batch norm needs two.

    `history.attrs` holds "provenance", "epochs" (how many were asked for) and "checkpoint" (its file).

    Raises:
        ValueError: an argument is of a wrong kind, or network and data do not fit together.
        FloatingPointError: the loss is not a finite number any more.
        CheckpointError: the checkpoint cannot be read, or is of another run.
        ProcessError: processes do not find each other, or one of them has ended.
    """
    device = choose_device(device)
    processes.join_processes(device)
    dtype = choose_precision(precision, device)
    if device.type == "cpu":
        keep_memory()
    sgd = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    if optimizers and any(value is not None for value in sgd.values()):
        raise ValueError("learning_rate, momentum and weight_decay are SGD's: beside optimizers they would do nothing")
    sgd = {name: SGD[name] if value is None else plain(value) for name, value in sgd.items()}
    options = {
        "epochs": plain(epochs), "batch_size": plain(batch_size), "seed": plain(seed), "average": plain(average),
        "label_smoothing": plain(label_smoothing), "flip": plain(flip), "crop": plain(crop), "zoom": plain(zoom),
    }  # fmt: skip
    check_options(options | sgd)
    epochs, batch_size, seed, average, label_smoothing, flip, crop, zoom = options.values()
    image_sizes = [train.image_size] * epochs if image_sizes is None else plain(list(image_sizes))
    if len(image_sizes) != epochs:
        raise ValueError(f"image_sizes has {len(image_sizes)} sizes for {epochs} epochs: give one for each")
    class_weights = check_class_weights(class_weights, len(train.classes))
    check_images(train, val)
    for size in sorted({*image_sizes, val.image_size}):
        check_network(model, val, device, size)

    to_device(model, device)
    bare = getattr(model, "_orig_mod", model)  # a compiled network shares its weights with the one in it
    chosen = make_optimizers(optimizers or (lambda network: [_make_sgd(network, **sgd)]), model)
    part = (processes.rank(), processes.world_size())
    steps = processes.count_steps(len(train), batch_size)
    schedules = [make_schedule(schedule, optimizer, epochs * steps) for optimizer in chosen]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    averaged = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True) if average else None
    class_weights = class_weights.to(device) if class_weights is not None else None
    run = Run(model, processes.parallel(model), averaged, chosen, schedules, scaler, device, dtype, class_weights,
              label_smoothing, len(train.classes), epochs, steps)  # fmt: skip
    torch.manual_seed(seed)
    rows: list[dict] = []
    origin, alone, file = provenance(device, dtype), part[0] == 0, None
    if checkpoint is not None:
        options |= sgd | {"image_sizes": image_sizes, "precision": str(dtype), "class_weights": plain(class_weights)}
        identity = identity_of(bare, train, val, chosen, schedule, (_train_epoch, _validate), options)
        file = checkpoint_file(checkpoint, identity, alone)
        first = {name: value.clone() for name, value in bare.state_dict().items()}
        if file.exists():
            rows, origin = resume(file, run.parts(), identity, device)
            if alone:
                done = f"Going on after epoch {len(rows)} of {epochs}" if len(rows) < epochs else "Trained already"
                print("\n".join([f"{done}, from {file.name}:", *(_line(row, epochs) for row in rows)]))
    if processes.sum_over_processes(len(rows))[0] != len(rows) * part[1]:
        raise CheckpointError(f"only some of the {part[1]} processes found {file}: put it where all can read it")
    judged, own_val = averaged or model, val.part(*part)
    drawn = Charts(charts if alone else None, len(rows))

    quiet = {} if alone else {"disable": True}
    bar = tqdm(total=epochs * steps, initial=len(rows) * steps, leave=False, file=sys.stdout, unit="batch", **quiet)
    try:
        for epoch in range(len(rows) + 1, epochs + 1):
            # an order of its own for each epoch, so that a resumed run needs no memory of earlier ones
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            processes.seed_epoch(seed, epoch)
            batches = train.batches(batch_size, generator, device, flip, crop, zoom, image_sizes[epoch - 1], part)
            row = _train_epoch(run, batches, epoch, bar)
            seconds = row.pop("seconds")
            for network in [model, averaged] if average else [model]:
                processes.average_statistics(network)
            rows.append(row | _validate(judged, own_val, len(val), device, precision) | {"seconds": seconds})
            if alone:
                if file is not None:
                    save(file, run.parts(), identity, rows, origin, device)
                tqdm.write(_line(rows[-1], epochs))
                drawn.add(rows[-1], judged, val, device, precision)
    except KeyboardInterrupt:
        told = "Give fit a checkpoint, and a run that was stopped can go on."
        if file is not None:
            bare.load_state_dict(first)
            told = f"Run this cell again to go on after epoch {len(rows)}; till then the network has its first weights."
        bar.close()
        print(f"Stopped by hand after {len(rows)} of {epochs} epochs. {told}")
        raise
    except torch.OutOfMemoryError as error:
        raise RuntimeError(_too_large("the GPU's", batch_size, train.image_size) + " and restart the kernel") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise RuntimeError(_too_large("the computer's", batch_size, train.image_size)) from error
        processes.explain_error(error)
        raise
    finally:
        bar.close()
        drawn.close()
    if average:
        bare.load_state_dict(averaged.module.state_dict())
    history = pd.DataFrame(rows)
    history.attrs = {"provenance": origin, "epochs": epochs, "checkpoint": None if file is None else str(file)}
    return history


def _make_sgd(model: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), learning_rate, momentum, weight_decay=weight_decay)


def _too_large(whose: str, batch_size: int, image_size: int) -> str:
    return (
        f"{whose} memory is too small for batches of {batch_size} images of {image_size} px: "
        f"try batch_size={max(1, batch_size // 2)}"
    )


def _step_all(schedules: list, epoch: int, epochs: int, batch: int, steps: int) -> None:
    """Let the rates go on; say so where a schedule was made for fewer steps than there are."""
    where = f"epoch {epoch} of {epochs}, batch {batch} of {steps}"
    told = f"Make it for all {epochs * steps} steps: fit calls schedule(optimizer, steps) with that number."
    try:
        for rates in schedules:
            rates.step()
    except ValueError as error:
        raise ValueError(f"the learning-rate schedule ends early, in {where} ({error}). {told}") from error
    if batch == steps and epoch < epochs and not any(max(rates.get_last_lr()) for rates in schedules):
        raise ValueError(f"the learning-rate schedule ends early: the rate is 0 from {where} on. {told}")


def _line(row: dict, epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train_loss']:.3f}, accuracy "
        f"{row['train_accuracy']:.1%}  validation loss {row['val_loss']:.3f}, accuracy "
        f"{row['val_accuracy']:.1%}  {row['seconds']:.1f} s"
    ).replace("%", " %")
