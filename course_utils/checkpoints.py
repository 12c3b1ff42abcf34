"""Checkpoints: what a training has reached, and whether it is the same training that wants to go on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import types
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from course_utils import processes
from course_utils.data import ImageData

LIBRARIES = {"torch", "torchvision", "timm", "numpy", "functools", "collections"}  # their versions are in the record
WAYS_OUT = {
    "precision": 'pass precision="{}" to go on in it',
    "processes": "start as many to go on",
    "code of the network": "or the Python that runs it is another one",
    "first weights": "set the seed before the network is made",
}
ANEW = "Give this run a file of its own, or move that one away to start anew."


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why, and the file is left as it is."""


def plain(value: object) -> object:
    """Return a setting as Python's own number, text, list or dictionary, which a checkpoint and a record can hold."""
    if isinstance(value, (np.generic, torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {str(plain(key)): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def code_digest(*things: object) -> str:
    """Return a digest of the code of functions, classes, partials and objects, and of the functions that they name.

    Comments and layout do not count, the constants that are used do. What PyTorch and other libraries bring is left
    out. It follows the bytecode, so it differs between versions of Python.
    """
    text: list[str] = []
    seen: set[int] = set()
    for thing in things:
        _tell_code(thing, text, seen)
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def _tell_code(thing: object, text: list[str], seen: set[int]) -> None:
    """Add to `text` what decides how a thing computes."""
    if id(thing) in seen:
        return
    if isinstance(thing, (bool, int, float, str, bytes, type(None))):
        text.append(repr(thing))
        return
    seen.add(id(thing))
    if isinstance(thing, (list, tuple)):
        for part in thing:
            _tell_code(part, text, seen)
    elif isinstance(thing, dict):
        for key, part in thing.items():
            text.append(repr(key))
            _tell_code(part, text, seen)
    elif isinstance(thing, partial):
        for part in (thing.func, thing.args, thing.keywords):
            _tell_code(part, text, seen)
    elif isinstance(thing, types.MethodType):
        _tell_code(thing.__func__, text, seen)
    elif isinstance(thing, types.CodeType):
        text += [thing.co_code.hex(), *thing.co_names]
        for constant in thing.co_consts:
            _tell_code(constant, text, seen)
    elif isinstance(thing, type):
        text.append(thing.__qualname__)
        for part in thing.__mro__:
            if not _from_library(part):
                for value in vars(part).values():
                    if isinstance(value, (types.FunctionType, staticmethod, classmethod, property)):
                        _tell_code(getattr(value, "__func__", getattr(value, "fget", value)), text, seen)
    elif isinstance(thing, types.FunctionType):
        text.append(thing.__qualname__)
        if not _from_library(thing):
            _tell_function(thing, text, seen)
    else:
        text.append(type(thing).__qualname__)


def _tell_function(function: types.FunctionType, text: list[str], seen: set[int]) -> None:
    code = function.__code__
    # the first constant of a function is its docstring, or None where it has none
    constants = code.co_consts[code.co_consts[:1] in ((function.__doc__,), (None,)) :]
    text += [code.co_code.hex(), *code.co_names]
    for part in (constants, function.__defaults__, function.__kwdefaults__):
        _tell_code(part, text, seen)
    for cell in function.__closure__ or ():
        _tell_code(cell.cell_contents, text, seen)
    for name in code.co_names:  # functions, classes and numbers of the same notebook or module
        if name in function.__globals__ and not isinstance(function.__globals__[name], types.ModuleType):
            _tell_code(function.__globals__[name], text, seen)


def _from_library(thing: type | types.FunctionType) -> bool:
    return thing.__module__ is None or thing.__module__.partition(".")[0] in {*LIBRARIES, "builtins", "abc", "typing"}


def weights_digest(model: nn.Module) -> str:
    """Return a digest of a network's weights and running statistics as they are now."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if not isinstance(value, nn.parameter.UninitializedTensorMixin):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def name_of(thing: Callable) -> str:
    """Return what a function, a partial or a lambda is called, so that two different ones can be told apart."""
    if isinstance(thing, partial):
        given = [repr(plain(part)) for part in thing.args]
        given += [f"{key}={plain(part)!r}" for key, part in thing.keywords.items()]
        return f"{name_of(thing.func)}({', '.join(given)})"
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def identity_of(
    model: nn.Module,
    train: ImageData,
    val: ImageData,
    optimizers: list[torch.optim.Optimizer],
    schedule: Callable,
    loop: tuple[Callable, ...],
    settings: dict,
) -> dict:
    """Return everything that decides a training, by name: the network and its first weights, the data, code, settings.

    Args:
        model: as it is before the first step.
        loop: the functions that train and judge.
        settings: plain numbers and texts.
    """
    return {
        "network": f"{model} {[list(value.shape) for value in model.state_dict().values()]}",
        "code of the network": network_code(model),
        "first weights": weights_digest(model),
        "frozen": [name for name, weight in model.named_parameters() if not weight.requires_grad],
        "classes": train.classes,
        "images": [len(train), len(val)],
        "image_size": train.image_size,
        "training images": train.digest(),
        "validation images": val.digest(),
        **settings,
        "optimizers": [repr(optimizer) for optimizer in optimizers],
        "schedule": name_of(schedule),
        "code of the schedule": code_digest(schedule),
        "code of the training": code_digest(*loop, ImageData, *map(type, optimizers)),
        "processes": processes.world_size(),
    }


def digest_of(run: dict) -> str:
    """Return a digest of everything that decides a training."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:12]


def checkpoint_file(path: str | Path, run: dict, tell: bool) -> Path:
    """Return the file of a run: a path that ends in .pt is one; any other is a folder, with a file for each training.

    Where a folder holds another training only, say what differs, since one that was meant to go on does not.
    """
    path = Path(path)
    if path.suffix == ".pt":
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: checkpoint takes a file, or a folder whose name ends otherwise")
        return path
    file = path / f"{digest_of(run)}.pt"
    others = sorted(path.glob("*.pt"), key=lambda other: other.stat().st_mtime)
    if tell and others and not file.exists():
        try:
            told = f"is of another training ({_differences(others[-1], _read(others[-1])['run'], run)})"
        except CheckpointError:
            told = "cannot be read"
        print(f"{others[-1]} {told}: this one starts anew, and that one stays.")
    return file


def save(path: Path, parts: dict, run: dict, rows: list[dict], origin: dict, device: torch.device) -> None:
    """Write a checkpoint so that the file is complete at every moment: beside it, then in its place.

    A disk that is full, or a folder that cannot be written, is told and does not end the training: what was there
    stays, and nothing half-written is left.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"run": run, "history": rows, "provenance": origin, "random": _generators(device)}
    part_path = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # other processes may write as well
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part_path, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part_path, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError where the disk is full
        _forget(part_path)
        kept = "the one before stays" if path.exists() else "there is none"
        with suppress(OSError):
            kept += f", and {shutil.disk_usage(path.parent).free / 2**20:,.0f} MB of that disk are free"
        print(f"The checkpoint {path} could not be written ({error}); {kept}. The training goes on without.")
    except BaseException:
        _forget(part_path)
        raise


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that a training draws from: the processor's, and that of its own device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def _read(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "training images" not in state["run"]:
            raise KeyError("run")
        return state
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({type(error).__name__}): it was cut off or is another kind of "
            "file. It is left as it is. Move it away to start anew, or put a good copy in its place."
        ) from error


def _differences(path: Path, found: dict, run: dict) -> str:
    """What differs between the training of a checkpoint and this one, in words; empty if nothing does."""
    told = []
    for name in [name for name in run if found.get(name) != run[name]]:
        long = max(len(str(run[name])), len(str(found.get(name)))) > 60
        text = name if long or name in DIGESTS else f"{name} {found.get(name)} instead of {run[name]}"
        if name == "classes" and found.get(name):
            text = f"classes {', '.join(found[name])} instead of {', '.join(run[name])}"
        if name in WAYS_OUT:
            text += f" ({WAYS_OUT[name].format(str(found.get(name)).removeprefix('torch.'))})"
        told.append(text)
    return ", ".join(told)


DIGESTS = (
    "network",
    "optimizers",
    "training images",
    "validation images",
    "first weights",
    "code of the network",
    "code of the schedule",
    "code of the training",
)


def resume(path: Path, parts: dict, run: dict, device: torch.device) -> tuple[list[dict], dict]:
    """Load a checkpoint into model, optimizers, schedules and scaler; return its history and its origin."""
    for left in path.parent.glob(f"{path.name}.*.part"):  # of a process that was killed while it wrote
        if time.time() - left.stat().st_mtime > 3600:
            _forget(left)
    state = _read(path)
    if differs := _differences(path, state["run"], run):
        raise CheckpointError(f"{path} is of another run: {differs}. It is left as it is. {ANEW}")
    if absent := {*parts, "history", "provenance", "random"} - state.keys():
        raise CheckpointError(
            f"{path} is not a whole checkpoint (it lacks {', '.join(sorted(absent))}). It is left as it is. {ANEW}"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"]["cpu"])
    if device.type in state["random"] and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["random"][device.type])
    return state["history"], state["provenance"]


def network_code(model: nn.Module) -> str:
    """Return a digest of the code by which a network computes, and of the numbers and functions that its parts hold."""
    kept = (bool, int, float, str, tuple, types.FunctionType, types.MethodType, partial)
    held = [
        [(name, value) for name, value in sorted(vars(module).items()) if name != "training" and name[0] != "_"]
        for module in model.modules()
        if not _from_library(type(module)) or "forward" in vars(module)
    ]
    held = [[(name, value) for name, value in pairs if isinstance(value, kept)] for pairs in held]
    return code_digest([*dict.fromkeys(map(type, model.modules()))], held)
