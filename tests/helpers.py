"""What several test files share."""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).parent.parent


def tiny_network(num_classes: int = 10, dropout: float = 0.0) -> nn.Sequential:
    """Return a small network that learns the shapes at 16 to 32 px in seconds."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16, num_classes),
    )  # fmt: skip


def new_tiny_network(seed: int = 3, **options) -> nn.Sequential:
    """Return a tiny network whose weights are drawn from a seed."""
    torch.manual_seed(seed)
    return tiny_network(**options)


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a network's weights and running statistics."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_state(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Say whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and running statistic a value of its own, norms that start at zero included."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers in the order in which they stand; every shape must agree."""
    for kind in ("parameters", "buffers"):
        theirs, ours = list(getattr(source, kind)()), list(getattr(target, kind)())
        shapes = [[tuple(value.shape) for value in values] for values in (theirs, ours)]
        assert shapes[0] == shapes[1], f"the {kind} of the two networks have other shapes"
        for old, new in zip(theirs, ours):
            new.data.copy_(old.data)


# what a constant may consist of: numbers, texts, names and collections of them, but no call
PLAIN = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.USub, ast.expr_context)


def chapter_definitions(path: Path) -> dict:
    """Run the imports, functions, classes and constants of a notebook; return its names.

    Nothing else of the notebook runs, so no data are needed and nothing is trained.
    """
    names: dict = {"__name__": "chapter"}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        # a line of IPython's own becomes one of Python that does nothing
        code = "\n".join(
            line[: len(line) - len(line.lstrip())] + "pass" if line.lstrip().startswith(("%", "!")) else line
            for line in lines
        )
        for node in ast.parse(code).body:
            wanted = isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
            if isinstance(node, ast.Assign):
                wanted = all(isinstance(part, PLAIN) for part in ast.walk(node.value))
            if wanted:
                module = ast.Module([node], type_ignores=[])
                with suppress(NameError):  # a default that a run makes, such as `train=train`
                    exec(compile(module, str(path), "exec"), names)
    return names


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Path:
    """Write a picture of random smooth colours; return its path."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path)
    return path


def write_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    """Write `train/` and `val/` with `count` PNG pictures a class; return the root."""
    for part_number, part in enumerate(("train", "val")):
        for class_number, name in enumerate(classes):
            for number in range(count):
                seed = 100 * part_number + 10 * class_number + number
                write_image(root / part / name / f"{number}.png", seed)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """Return every file under a folder with its bytes, to see that none was touched."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
