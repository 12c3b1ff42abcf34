"""Where a network's parameters and its computation are, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


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
