"""Where a network's parameters and its computation are, layer by layer."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_utils.evaluation import evaluation_mode, to_device


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let attention be computed as the matrix products that it is; the counter has no formula for all fused ways."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def summarize(model: nn.Module, input_shape: tuple[int, ...]) -> pd.DataFrame:
    """Return a table of a network's layers in the order in which they run; its sums are those of the whole network.

    Columns: layer, type, output shape (without N), parameters, MACs (multiply-accumulates for one
    image; convolutions and matrix products, which is where nearly all are; bias additions, norms and
    activations are not counted). A layer that is used twice stands there once, with the
    MACs of both. A weight that two layers share counts for the first.

    A module around several layers has a row too, after theirs, if it has parameters of its own or computes something
    itself, as attention does. A layer is "not called" if its weights are used without it, or not at all: what
    is computed with them stands in the row of the module around it.

    Args:
        model: any network; its mode and weights stay as they are.
        input_shape: (C, H, W) of one image.

    Source of the counts: torch.utils.flop_counter, which counts two operations per MAC. What it has no formula for,
    such as a recurrent layer on some processors, counts 0.
    """
    modules = dict(model.named_modules())
    leaves = [name for name, module in modules.items() if not list(module.children())]
    found: dict[str, list] = {}  # of each module the shape of its output, and what it computed itself
    running = [[0, 0]]  # of each module at work: what was counted before it, and how much of it since by its parts

    def begin(module: nn.Module, inputs: tuple) -> None:
        running.append([counter.get_total_flops(), 0])

    def end(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            before, by_parts = running.pop()
            total = counter.get_total_flops() - before
            running[-1][1] += total
            for leaf in leaves:
                if leaf.startswith(f"{name}." if name else ""):
                    found.setdefault(leaf, ["not called", 0])
            tensor = _first_tensor(output)
            shape = "" if tensor is None else " x ".join(map(str, tensor.shape[1:]))
            found[name] = [shape, found.get(name, [shape, 0])[1] + total - by_parts]

        return hook

    hooks = [module.register_forward_pre_hook(begin) for module in modules.values()]
    hooks += [module.register_forward_hook(end(name)) for name, module in modules.items()]
    device = next((parameter.device for parameter in model.parameters()), "cpu")
    try:
        # in training mode the norms would learn from this input
        with evaluation_mode(model), _plain_attention(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    rows, seen = [], set()
    for name, (shape, operations) in found.items():
        own = [weight for weight in modules[name].parameters(recurse=False) if id(weight) not in seen]
        seen.update(map(id, own))
        if own or operations or (name in leaves and shape != "not called"):
            numbers = (sum(weight.numel() for weight in own), operations // 2)
            rows.append((name, type(modules[name]).__name__, shape, *numbers))
    return pd.DataFrame(rows, columns=["layer", "type", "output shape", "parameters", "MACs"])


def _first_tensor(output: object) -> torch.Tensor | None:
    """Return the first tensor of what a module gives, which may be a tuple or a dictionary; None if there is none."""
    if isinstance(output, torch.Tensor):
        return output
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return next((tensor for tensor in map(_first_tensor, parts) if tensor is not None), None)


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
    network = to_device(copy.deepcopy(model), device)
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
