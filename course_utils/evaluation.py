"""What a network says about images, and on which device and in which kind of numbers it is computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from course_utils import processes
from course_utils.data import ImageData


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while, without gradients; each module's own mode comes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the GPU where there is one."""
    if device == "auto":
        device = processes.own_gpu() if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which convolutions are computed; weights stay float32.

    "auto" is bfloat16 where the processor or GPU has instructions for it (on two CPU cores that
    had them it doubled the speed), float16 on other GPUs, float32 elsewhere. The variable COURSE_PRECISION,
    if it is set, says what "auto" is.
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


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its weights channels-last in memory; one with weights of five dimensions as it is."""
    if any(tensor.dim() == 5 for tensor in (*model.parameters(), *model.buffers())):
        return model.to(device)
    return model.to(device, memory_format=torch.channels_last)


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
    model = to_device(model, device)
    with evaluation_mode(model), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return torch.cat([model(x).float().cpu() for x, _ in data.batches(batch_size, device=device)])


def evaluate(model: nn.Module, data: ImageData, batch_size: int = 256, **options: str) -> dict[str, float]:
    """Return {"loss", "accuracy"}: cross-entropy and the share of right answers (0..1) over all images."""
    logits = predict(model, data, batch_size, **options)
    right = (logits.argmax(1) == data.labels).float().mean()
    return {"loss": F.cross_entropy(logits, data.labels).item(), "accuracy": right.item()}
