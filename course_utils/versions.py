"""Say which libraries are too old, before a module is imported that needs what they lack."""

from __future__ import annotations

import re

import PIL
import torch
from PIL import Image

# as in pyproject.toml, which `pip install --no-deps` does not read; and what older ones lack
LOWEST = {"torch": ("2.9", "torch.optim.Muon"), "pillow": ("10.1", "Image.has_transparency_data")}


def check_versions() -> None:
    """Raise an error that names each library that is too old, and what to do about it.

    Raises:
        RuntimeError: and not ImportError, on which each chapter's first cell would only install the course again.
    """
    found = {"torch": str(torch.__version__), "pillow": PIL.__version__}
    able = {"torch": hasattr(torch.optim, "Muon"), "pillow": hasattr(Image.Image, "has_transparency_data")}
    old = [name for name in LOWEST if _numbers(found[name]) < _numbers(LOWEST[name][0]) or not able[name]]
    if not old:
        return
    wanted = " and ".join(f"{name} {LOWEST[name][0]} or newer, for {LOWEST[name][1]}," for name in old)
    here = " and ".join(f"{name} {found[name]}" for name in old)
    install = "pip install --upgrade " + " ".join(old).replace("torch", "torch torchvision")
    raise RuntimeError(
        f"the course needs {wanted} but here is {here}: on Colab, run `%{install}` in a cell and then choose Runtime, "
        f"Restart session; on a laptop, run `{install}` in the environment of this notebook and then restart its "
        "kernel."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: (2, 8) for "2.8.0+cu126"."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


check_versions()
