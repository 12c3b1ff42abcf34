"""Where a network's parameters and its computation are, layer by layer."""

from __future__ import annotations

import copy
import statistics
import time

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_utils.evaluation import evaluation_mode


def summarize(model: nn.Module, input_shape: tuple[int, ...]) -> pd.DataFrame:
    """Return a table of a network's layers in the order in which they run.

    Columns: layer, type, output shape (without N), parameters, MACs (multiply-accumulates for one
    image; convolutions and linear layers, which is where nearly all are; bias additions, norms and
    activations are not counted). A layer that is used twice stands there once, with the
    MACs of both.

    Args:
        model: any network; its mode and weights stay as they are.
        input_shape: (C, H, W) of one image.

    Source of the counts: torch.utils.flop_counter, which counts two operations per MAC.
    """
    rows: dict[str, dict] = {}

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            rows[name] = {
                "layer": name,
                "type": type(module).__name__,
                "output shape": " x ".join(map(str, output.shape[1:])),
                "parameters": sum(p.numel() for p in module.parameters()),
            }

        return hook

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves.items()]
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    try:
        # in training mode the norms would learn from this input
        with evaluation_mode(model), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    # the counter names modules from the class of the whole network down
    prefix = type(model).__name__
    for name, row in rows.items():
        counts = counter.get_flop_counts().get(f"{prefix}.{name}" if name else prefix, {})
        row["MACs"] = sum(counts.values()) // 2
    return pd.DataFrame(rows.values())


def count(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return {"parameters", "macs"} of a network for one image of shape (C, H, W)."""
    table = summarize(model, input_shape)
    return {"parameters": sum(p.numel() for p in model.parameters()), "macs": int(table["MACs"].sum())}


def least_size(model: nn.Module, channels: int = 3, most: int = 512) -> int | None:
    """Return the side in pixels of the smallest image that a network takes, found by trying; None if there is none.

    A network with flattened maps takes one size only, and that is found. Only shapes are computed.

    Args:
        model: any network; it stays as it is.
        channels: of the images.
        most: the largest side that is tried.
    """
    shapes = copy.deepcopy(model).to("meta").eval()
    for size in range(1, most + 1):
        try:
            shapes(torch.zeros(2, channels, size, size, device="meta"))
            return size
        except (RuntimeError, ValueError):  # too small, or not the one size
            continue
    return None


def running_costs(model: nn.Module, input_shape: tuple[int, ...], repeats: int = 30) -> dict[str, float]:
    """Return {"inference_ms", "kept_values"}: the time for one image, and the memory that training takes for it.

    Args:
        model: stays as it is; it is measured on the device where it is, in float32.
        input_shape: of one image (C, H, W).
        repeats: inference_ms is the median of so many forward passes of one image, after three others.

    kept_values counts the numbers that a forward pass in training keeps for the backward pass, per image. The
    weights are not among them.
    """
    device = next(model.parameters()).device
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = torch.rand(2, *input_shape, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    with torch.no_grad(), evaluation_mode(network):
        for _ in range(3 + repeats):
            start = time.perf_counter()
            network(x[:1]).cpu()  # waits for the device
            times.append(time.perf_counter() - start)
    kept, weights = {}, {weight.data_ptr() for weight in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = max(tensor.numel(), kept.get(tensor.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(x)  # held on to, so that no memory is used twice
    del output
    return {"inference_ms": 1000 * statistics.median(times[3:]), "kept_values": sum(kept.values()) / len(x)}
