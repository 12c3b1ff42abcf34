"""Compare a student's network with another one whose layers may be called otherwise; used where copies are graded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from course_exercises import probes
from course_exercises.asking import need

MOST_ORDERS = 48  # of layers alike that are tried
TOLERANCE = 1e-7  # in float64
WORDS = dict.fromkeys(("in_channels", "out_channels", "in_features", "out_features", "num_features"), "")
WORDS |= {"kernel_size": "kernel ", "stride": "stride ", "padding": "padding "}


def need_same(
    ask: Callable,
    name: str,
    reference: Callable[..., nn.Module],
    shape: list[int],
    arguments: tuple | list = (),
    options: dict | None = None,
    training: bool = False,
    message: str = "the shapes and layers are right, but what it computes is not",
    seed: int = 3,
) -> None:
    """Raise Wrong unless a network of the student's gives what the reference gives with the same weights.

    Its layers are matched by kind, settings and shapes, and those that are alike in the order in which they run. All
    weights and statistics are random; outputs and the gradient of the input are compared, in float64.
    """
    own = {"probes": reference}
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = ask(probes.outline, name, shape, arguments, options)
    result = ask(probes.run, name, images, arguments, options, training=training, seed=seed)
    network = probes.build(own, "probes", arguments, options)
    ours = probes.trace(network, shape)
    need(
        theirs["out"] == ours["out"], f"for an input of {shape} the output should be {ours['out']}, not {theirs['out']}"
    )
    difference, missing = _layers_differ(theirs["layers"], ours["layers"])
    need(not difference, f"for an input of {shape}: {difference}")
    need(theirs["parameters"] == ours["parameters"], f"it has {theirs['parameters']:,} parameters; {missing}")
    for pairs in _pairings(theirs["layers"], ours["layers"]):
        state = network.state_dict()
        for there, here in pairs:
            for key in state:
                if key.rpartition(".")[0] == here:
                    value = result["state"].get(f"{there}.{key.rpartition('.')[2]}".lstrip("."))
                    need(value is not None, f"{there} lacks what such a layer keeps: {key.rpartition('.')[2]}")
                    state[key] = value
        network.load_state_dict(state)
        got = _backwards(network, images, training, seed)
        if all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(got, _of(result))):
            return
    need(False, message)


def _of(result: dict) -> tuple[torch.Tensor, torch.Tensor]:
    gradient = result["gradient"]
    return result["out"].double(), torch.zeros(()) if gradient is None else gradient.double()


def _backwards(
    network: nn.Module, images: torch.Tensor, training: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.clone().requires_grad_()
    torch.manual_seed(seed)
    out = network.train(training)(images)
    torch.manual_seed(seed + 1)
    (out * torch.randn(out.shape, dtype=torch.float64)).sum().backward()
    return out.detach(), images.grad


def _kind(layer: dict) -> tuple:
    """What makes two layers alike: kind, settings and shapes."""
    skipped = ("name", "parameters", "inplace")
    return tuple(sorted((key, str(part)) for key, part in layer.items() if key not in skipped))


def _with_parameters(layers: list[dict]) -> dict[tuple, list[str]]:
    groups: dict[tuple, list[str]] = {}
    for layer in layers:
        if layer["parameters"]:
            groups.setdefault(_kind(layer), []).append(layer["name"])
    return groups


def _layers_differ(theirs: list[dict], ours: list[dict]) -> tuple[str, str]:
    """In words, what the one list of layers has and the other has not; empty if nothing."""
    there, here = _with_parameters(theirs), _with_parameters(ours)
    extra = [
        layer for layer in theirs if layer["parameters"] and len(there[_kind(layer)]) > len(here.get(_kind(layer), []))
    ]
    lacking = [
        layer for layer in ours if layer["parameters"] and len(here[_kind(layer)]) > len(there.get(_kind(layer), []))
    ]
    told = []
    if extra:
        told.append(f"{describe(extra[0])} is not as the task asks")
    elif lacking:
        told.append("a layer that the task asks for is missing, or does not run")
    return "; ".join(told), "some of them belong to no layer that runs"


def describe(layer: dict) -> str:
    """A layer in words: "the Conv2d (16, 32, kernel 3, stride 2, padding 1, no bias) that gets [2, 16, 8, 8]"."""
    settings = []
    for key, word in WORDS.items():
        if key in layer:
            number = layer[key]
            settings.append(
                f"{word}{number[0] if isinstance(number, list) and len({*map(str, number)}) == 1 else number}"
            )
    if layer["kind"] in ("Conv2d", "Linear"):
        settings.append("bias" if layer["bias"] else "no bias")
    return f"the {layer['kind']} ({', '.join(settings)}) that gets {layer['in'][0] if layer['in'] else '?'}"


def _pairings(theirs: list[dict], ours: list[dict]) -> Any:
    """Ways to match the layers of two networks, the order in which they run first."""
    there, here = _with_parameters(theirs), _with_parameters(ours)
    orders = [itertools.permutations(there[kind]) for kind in here]
    for chosen in itertools.islice(itertools.product(*orders), MOST_ORDERS):
        yield [pair for names, kind in zip(chosen, here) for pair in zip(names, here[kind])]
