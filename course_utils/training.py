"""The training loop of chapter 1, with what a long run needs around it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from course_utils import processes
from course_utils.charts import Charts
from course_utils.data import ImageData
from course_utils.records import provenance
from course_utils.summary import evaluation_mode, least_size


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why, and the file is left as it is."""


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


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the GPU where there is one."""
    if device == "auto":
        device = processes.own_gpu() if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which convolutions are computed; weights stay float32.

    "auto" is what COURSE_PRECISION names; else bfloat16 where the processor or GPU has instructions for it
    (on two CPU cores that had them it doubled the speed), float16 on other GPUs, float32 elsewhere.
    """
    if precision == "auto":
        precision = os.environ.get("COURSE_PRECISION", "auto")
    if precision == "auto":
        if device.type == "cuda":
            precision = "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
        else:
            capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
            fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
            precision = "bfloat16" if fast else "float32"
    if precision not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"unknown precision '{precision}': choose auto, float32, bfloat16 or float16")
    return getattr(torch, precision)


def predict(
    model: nn.Module,
    data: ImageData,
    batch_size: int = 256,
    device: str = "auto",
    precision: str = "auto",
) -> torch.Tensor:
    """Return the logits (N, classes), float32 on the CPU, in the order of the data.

    The network is put into evaluation mode for this and back afterwards.
    """
    device = choose_device(device)
    dtype = choose_precision(precision, device)
    model = model.to(device, memory_format=torch.channels_last)
    with evaluation_mode(model), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return torch.cat([model(x).float().cpu() for x, _ in data.batches(batch_size, device=device)])


def evaluate(model: nn.Module, data: ImageData, batch_size: int = 256, **options: str) -> dict[str, float]:
    """Return {"loss", "accuracy"}: cross-entropy and the share of right answers (0..1) over all images."""
    logits = predict(model, data, batch_size, **options)
    right = (logits.argmax(1) == data.labels).float().mean()
    return {"loss": F.cross_entropy(logits, data.labels).item(), "accuracy": right.item()}


class Muon(torch.optim.Muon):
    """PyTorch's Muon for convolutions: a weight (out, in, k, k) is trained as the matrix (out, in * k * k).

    Momentum gives a direction; a few matrix products then make its singular values nearly equal, so that
    no direction dominates. Source: Jordan et al. 2024.

    Args:
        weights: of convolutions, in the memory layout that they keep.
        lr: the learning rate; 0.05 is a good start, whatever the width.
        options: of `torch.optim.Muon`.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float = 0.05, **options):
        matrices = []
        for weight in weights:
            # a view of the weight, in the order in which it lies in memory: what changes one changes the other
            order = (0, 2, 3, 1) if weight.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
            matrix = weight.detach().permute(order).flatten(1).requires_grad_()
            weight.register_post_accumulate_grad_hook(partial(_share_gradient, matrix, order))
            matrices.append(matrix)
        super().__init__(matrices, lr, **options)


def _share_gradient(matrix: torch.Tensor, order: tuple[int, ...], weight: nn.Parameter) -> None:
    matrix.grad = weight.grad.permute(order).flatten(1)


def muon(
    model: nn.Module, rate: float = 0.05, other_rate: float = 0.1, momentum: float = 0.9, weight_decay: float = 5e-4
) -> list[torch.optim.Optimizer]:
    """Return `Muon` for the convolutions behind the first, SGD for everything else, for `fit`.

    Args:
        model: already in its memory layout, as `fit` has it.
        rate: of the convolutions.
        other_rate: of the first convolution (if it is trained), the norms and the head, where Muon has no place.
        momentum: of both.
        weight_decay: of the first convolution and the head.
    """
    first, *convolutions = [weight for weight in model.parameters() if weight.dim() == 4]
    heads = [weight for weight in model.parameters() if weight.dim() == 2]
    norms = [weight for weight in model.parameters() if weight.dim() < 2]
    others = [{"params": [first, *heads], "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return [
        torch.optim.SGD(others, other_rate, momentum, nesterov=True),
        Muon(convolutions, rate, momentum=momentum, weight_decay=0.0, ns_steps=3),
    ]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: up from 1/25 of the rate in the first 30 % of all steps, then down to nearly nothing.

    Momentum goes the other way, 0.05 above its value at both ends and as much below it at the peak. Source: Smith 2018.
    """
    group = optimizer.param_groups[0]
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    swing = min(0.05, momentum, 1 - momentum)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        base_momentum=round(momentum - swing, 4),
        max_momentum=round(momentum + swing, 4),
    )


def constant(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: the same rate in every step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: down from the full rate to nothing along half a cosine. Source: Loshchilov and Hutter 2017."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def step_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: the full rate, a tenth of it after 5/9 of all steps, a hundredth after 7/9."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 5 // 9, steps * 7 // 9])


def fit(
    model: nn.Module,
    train: ImageData,
    val: ImageData,
    *,
    epochs: int,
    learning_rate: float = 0.05,
    batch_size: int = 128,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
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
        model: (N, 3, H, W) to (N, classes). It is trained in place.
        train, val: images of one size with the same classes.
        learning_rate, momentum, weight_decay: of SGD; the rate is the peak of the schedule.
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
        checkpoint: a file that is written after each epoch. If it is there already, training goes on
            from it and ends with the same weights as a run that was never interrupted.
        charts: a folder for TensorBoard's live charts and pictures; nothing where TensorBoard is not installed.

    Started by torchrun, every process calls this with the same arguments and trains on its part of each batch.
    All end with the same weights and history; process 0 alone prints, draws and writes the checkpoint, which all
    read when the run goes on. Each norm sees its own process's images only.

    Ctrl-C ends the training and returns the history of the finished epochs. A last batch of one
    image a process is left out, since batch norm needs two.

    Raises:
        ValueError: network and data do not fit together.
        FloatingPointError: the loss is not a finite number any more.
        CheckpointError: the checkpoint cannot be read, or is of another run.
        ProcessError: processes do not find each other, or one of them has ended.
    """
    device = choose_device(device)
    processes.join_processes(device)
    dtype = choose_precision(precision, device)
    if device.type == "cpu":
        keep_memory()
    image_sizes = list(image_sizes or [train.image_size] * epochs)
    if len(image_sizes) != epochs:
        raise ValueError(f"image_sizes has {len(image_sizes)} sizes for {epochs} epochs: give one for each")
    _check_fit(model, train, val, device, min(image_sizes))
    model.to(device, memory_format=torch.channels_last)
    if optimizers is None:
        chosen = [torch.optim.SGD(model.parameters(), learning_rate, momentum, weight_decay=weight_decay)]
    else:
        chosen = optimizers(model)
    part = (processes.rank(), processes.world_size())
    steps = len(train) // batch_size + (len(train) % batch_size >= 2 * part[1])
    schedules = [schedule(optimizer, epochs * steps) for optimizer in chosen]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    parts = {"model": model, "scaler": scaler}
    parts |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(chosen)}
    parts |= {f"schedule {number}": schedule for number, schedule in enumerate(schedules)}
    judged = model
    if average:
        judged = parts["average"] = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    torch.manual_seed(seed)
    rows: list[dict] = []
    origin = provenance(device, dtype)
    shapes = [list(value.shape) for value in model.state_dict().values()]
    run = {
        "network": f"{model} {shapes}", "data": train.name, "images": [len(train), len(val)],
        "image_size": train.image_size, "epochs": epochs, "learning_rate": learning_rate,
        "batch_size": batch_size, "momentum": momentum, "weight_decay": weight_decay, "seed": seed,
        "optimizers": [repr(optimizer) for optimizer in chosen],
        "label_smoothing": label_smoothing, "average": average, "image_sizes": image_sizes,
        "flip": flip, "crop": crop, "zoom": zoom, "precision": str(dtype), "schedule": schedule.__name__,
        "class_weights": None if class_weights is None else class_weights.tolist(), "processes": part[1],
    }  # fmt: skip
    alone, own_val = part[0] == 0, val.part(*part)
    if checkpoint is not None and Path(checkpoint).exists():
        rows, origin = _resume(Path(checkpoint), parts, run, alone)
    if processes.sum_over_processes(len(rows))[0] != len(rows) * part[1]:
        raise CheckpointError(f"only some of the {part[1]} processes found {checkpoint}: put it where all can read it")
    if class_weights is not None:
        class_weights = class_weights.to(device)
    trained, drawn = processes.parallel(model), Charts(charts if alone else None, len(rows))

    quiet = {} if alone else {"disable": True}
    bar = tqdm(total=epochs * steps, initial=len(rows) * steps, leave=False, file=sys.stdout, unit="batch", **quiet)
    try:
        for epoch in range(len(rows) + 1, epochs + 1):
            # an order of its own for each epoch, so that a resumed run needs no memory of earlier ones
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            model.train()
            start, loss_sum, weight_sum, right, seen = time.perf_counter(), 0.0, 0, 0, 0
            batches = train.batches(batch_size, generator, device, flip, crop, zoom, image_sizes[epoch - 1], part)
            for number, (x, y) in enumerate(batches, 1):
                if number > steps:
                    break
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = trained(x).float()
                loss = F.cross_entropy(logits, y, class_weights, label_smoothing=label_smoothing)
                value, rate = loss.item(), schedules[0].get_last_lr()[0]
                if not value < float("inf"):
                    raise FloatingPointError(
                        f"the loss became {value} in epoch {epoch}, batch {number}, at a learning rate of "
                        f"{rate:.3g}. Try a tenth of the learning rate, add normalisation, or "
                        "look for images or labels that are not finite numbers."
                    )
                model.zero_grad()
                weight = len(y) if class_weights is None else class_weights[y].sum().item()
                scaler.scale(processes.fair_loss(loss, weight)).backward()
                for optimizer in chosen:
                    scaler.step(optimizer)
                scaler.update()
                _step_all(schedules, epoch, epochs, number, steps)
                if average:
                    judged.update_parameters(model)
                loss_sum, weight_sum = loss_sum + value * weight, weight_sum + weight
                right, seen = right + (logits.argmax(1) == y).sum().item(), seen + len(y)
                bar.update()
            seconds = time.perf_counter() - start
            processes.average_statistics(judged)
            result = evaluate(judged, own_val, device=str(device), precision=precision)
            loss_sum, weight_sum, right, seen = processes.sum_over_processes(loss_sum, weight_sum, right, seen)
            own = len(own_val)
            val_loss, val_right = processes.sum_over_processes(own * result["loss"], own * result["accuracy"])
            rows.append({
                "epoch": epoch, "learning_rate": rate,
                "train_loss": loss_sum / weight_sum, "train_accuracy": right / seen,
                "val_loss": val_loss / len(val), "val_accuracy": val_right / len(val), "seconds": seconds,
            })  # fmt: skip
            if alone:
                if checkpoint is not None:
                    _save(Path(checkpoint), parts, run, rows, origin)
                tqdm.write(_line(rows[-1], epochs))
                drawn.add(rows[-1], judged, val, device)
    except KeyboardInterrupt:
        print(f"Stopped by hand after {len(rows)} of {epochs} epochs.")
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"the GPU's memory is too small for batches of {batch_size} images of {train.image_size} px: "
            f"try batch_size={max(1, batch_size // 2)} and restart the kernel"
        ) from error
    except RuntimeError as error:
        processes.explain_error(error)
        raise
    finally:
        bar.close()
        drawn.close()
    if average:
        model.load_state_dict(judged.module.state_dict())
    history = pd.DataFrame(rows)
    history.attrs = {"provenance": origin}
    return history


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


def _check_fit(model: nn.Module, train: ImageData, val: ImageData, device: torch.device, image_size: int) -> None:
    """Try the network on two images, so that a mismatch is told before any time is spent."""
    if train.classes != val.classes:
        raise ValueError(f"train has the classes {train.classes}, val has {val.classes}: they must be the same")
    if len(train) < 2:
        raise ValueError(f"there is {len(train)} training image: batch norm needs at least two")
    if len(val) < processes.world_size():
        raise ValueError(f"there are {len(val)} validation images for {processes.world_size()} processes")
    if len(train.classes) < 2:
        raise ValueError(f"there is one class only, {train.classes}: a classifier needs at least two")
    channels = train.images.shape[1]
    x = torch.zeros(2, channels, image_size, image_size, device=device)
    try:
        with evaluation_mode(model.to(device)):
            shape = tuple(model(x).shape)
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
    if shape != (len(x), len(train.classes)):
        raise ValueError(
            f"the network gives {shape} for {len(x)} images, but the data has {len(train.classes)} classes: "
            f"it must give ({len(x)}, {len(train.classes)}). Set num_classes={len(train.classes)}."
        )


def _save(path: Path, parts: dict, run: dict, rows: list[dict], origin: dict) -> None:
    """Write a checkpoint so that the file is complete at every moment: beside it, then in its place."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"run": run, "history": rows, "provenance": origin, "random": torch.get_rng_state()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part_path = path.with_name(f"{path.name}.part")
    with open(part_path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part_path, path)


def _resume(path: Path, parts: dict, run: dict, tell: bool) -> tuple[list[dict], dict]:
    """Load a checkpoint into model, optimizer, schedule and scaler; return its history and its origin."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # what there was when checkpoints did not name it
        found = {"schedule": one_cycle.__name__, "class_weights": None, "processes": 1} | state["run"]
        differs = [name for name in run if found.get(name) != run[name]]
        absent = {*parts, "history", "provenance", "random"} - state.keys()
        if absent and ("network" not in found or not differs):
            raise KeyError(absent)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({type(error).__name__}): it was cut off or is another kind of "
            "file. It is left as it is. Move it away to start anew, or put a good copy in its place."
        ) from error
    if differs:
        told = ", ".join(
            name if name in ("network", "optimizers") else f"{name} {found.get(name)} instead of {run[name]}"
            for name in differs
        )
        raise CheckpointError(
            f"{path} is of another run: {told}. It is left as it is. Give this run a file of its own, or move "
            "that one away to start anew."
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    rows, epochs = state["history"], run["epochs"]
    done = f"Going on after epoch {len(rows)} of {epochs}" if len(rows) < epochs else "Trained already"
    if tell:
        print("\n".join([f"{done}, from {path.name}:", *(_line(row, epochs) for row in rows)]))
    return rows, state["provenance"]
