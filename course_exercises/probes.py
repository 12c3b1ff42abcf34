"""Probes: they run beside the student's code and return plain data, that is numbers, words, tensors, lists and dicts.

Networks are built and run in float64 from fixed seeds, so that no processor gives another mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from course_exercises.asking import Wrong, find, made

CONFIGURATION = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "num_features", "eps",
    "momentum", "affine", "in_features", "out_features", "ceil_mode", "output_size", "p", "inplace",
)  # fmt: skip

MOST_PARTS = 100_000  # of a list


@contextmanager
def _float64() -> Iterator[None]:
    """Float64 and a state of the random generator of its own, for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(before)


def value(names: dict, name: str) -> Any:
    """What the student has called `name`, as plain data."""
    return plain(find(names, name), name)


def call(names: dict, name: str, *arguments: Any, **options: Any) -> Any:
    """What a function of the student returns, as plain data."""
    return plain(made(name, find(names, name)(*arguments, **options)), name)


def plain(data: Any, what: str = "the result") -> Any:
    """Plain data as it is, tensors cut off from their graph; raises Wrong for anything else."""
    if isinstance(data, torch.Tensor):
        return data.detach().clone()
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, (list, tuple, dict)) and len(data) > MOST_PARTS:
        raise Wrong(f"{what} has {len(data):,} parts, more than anything that is asked for here")
    if isinstance(data, (list, tuple)):
        return [plain(part, what) for part in data]
    if isinstance(data, dict):
        return {str(key): plain(part, what) for key, part in data.items()}
    if hasattr(data, "item") and getattr(data, "shape", None) == ():  # a number of NumPy
        return data.item()
    raise Wrong(f"{what} should be numbers, words or tensors, but is of type {type(data).__name__}")


def build(
    names: dict, name: str, arguments: tuple | list = (), options: dict | None = None, seed: int = 0
) -> nn.Module:
    """A network of the student's, by calling the function or class `name` in float64."""
    with _float64():
        torch.manual_seed(seed)
        network = made(name, find(names, name)(*arguments, **(options or {})))
    if not isinstance(network, nn.Module):
        raise Wrong(f"{name} should return a network (an nn.Module), but returned a {type(network).__name__}")
    return network.double()


def outline(
    names: dict, name: str, shape: list[int], arguments: tuple | list = (), options: dict | None = None
) -> dict:
    """What a network of the student's is made of, found by running it once in evaluation mode.

    Returns:
        {"out": its output's shape, "parameters": how many it has, "trainable": how many of them are trained,
        "layers": [{"name", "kind" such as "Conv2d", "in", "out" (shapes), "parameters", "bias", and each setting
        in CONFIGURATION that it has}, ...] in the order in which they ran, "unused": names of layers that did not}.
    """
    network = build(names, name, arguments, options)
    return {**trace(network, shape), "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad)}


def trace(network: nn.Module, shape: list[int]) -> dict:
    """See `outline`."""
    layers, hooks = [], []
    leaves = {module: called for called, module in network.named_modules() if not list(module.children())}

    def note(module: nn.Module, inputs: tuple, output: Any) -> None:
        settings = {}
        for key in CONFIGURATION:
            if hasattr(module, key):
                found = getattr(module, key)
                settings[key] = list(found) if isinstance(found, tuple) else found
        if settings.get("padding") == "same":
            settings["padding"] = [d * (k - 1) // 2 for k, d in zip(settings["kernel_size"], settings["dilation"])]
        layers.append(
            {
                "name": leaves[module],
                "kind": type(module).__name__,
                "in": [list(part.shape) for part in inputs if isinstance(part, torch.Tensor)],
                "out": list(output.shape) if isinstance(output, torch.Tensor) else None,
                "parameters": sum(part.numel() for part in module.parameters()),
                "bias": getattr(module, "bias", None) is not None,
                **settings,
            }
        )

    for module in leaves:
        hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad(), _float64():
            torch.manual_seed(1)
            out = made(type(network).__name__, network.eval()(torch.randn(*shape)))
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(out, torch.Tensor):
        raise Wrong(f"the network should return one tensor, but returned a {type(out).__name__}")
    ran = {layer["name"] for layer in layers}
    unused = [called for module, called in leaves.items() if called not in ran and list(module.parameters())]
    return {
        "out": list(out.shape),
        "parameters": sum(part.numel() for part in network.parameters()),
        "layers": layers,
        "unused": unused,
    }


def macs_of(layers: list[dict]) -> int:
    """The multiply-accumulates of the convolutions and linear layers of an `outline`, for one image."""
    total = 0
    for layer in layers:
        if layer["kind"] == "Conv2d":
            across, down = layer["kernel_size"]
            _, channels, height, width = layer["out"]
            total += across * down * layer["in_channels"] // layer["groups"] * channels * height * width
        elif layer["kind"] == "Linear":
            total += layer["in_features"] * layer["out_features"]
    return total


def run(
    names: dict,
    name: str,
    images: torch.Tensor,
    arguments: tuple | list = (),
    options: dict | None = None,
    training: bool = False,
    randomise: bool = True,
    seed: int = 0,
) -> dict:
    """Run a network of the student's and go backwards from the sum of its outputs times fixed random numbers.

    Args:
        images: (N, C, H, W), or whatever the network takes.
        training: the mode.
        randomise: give every parameter and statistic a random value first, so that nothing is hidden by ones and zeros.

    Returns:
        {"out": output, "gradient": that of the input, "gradients": {name: that of each parameter, None where it got
        none}, "state": {name: the values that the parameters and statistics had}}.
    """
    network = build(names, name, arguments, options, seed)
    if randomise:
        shuffle(network, seed)
    state = {key: part.detach().clone() for key, part in network.state_dict().items()}
    with _float64():
        images = images.double().clone().requires_grad_()
        torch.manual_seed(seed)
        out = made(name, network.train(training)(images))
        torch.manual_seed(seed + 1)
        if not isinstance(out, torch.Tensor):
            raise Wrong(f"the network should return one tensor, but returned a {type(out).__name__}")
        if out.requires_grad:
            (out * torch.randn(out.shape)).sum().backward()
    gradients = {key: part.grad for key, part in network.named_parameters()}
    return {"out": out.detach(), "gradient": images.grad, "gradients": gradients, "state": state}


def shuffle(network: nn.Module, seed: int) -> None:
    """Give every parameter and statistic of a network a random value, variances positive ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, part in network.state_dict(keep_vars=True).items():
            if part.is_floating_point():
                noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                scale = max(part[0].numel(), 1) ** -0.5 if part.dim() > 1 else 0.3
                part.copy_(noise.abs() + 0.5 if key.endswith("running_var") else scale * noise + (part.dim() == 1))
