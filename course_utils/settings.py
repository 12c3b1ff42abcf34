"""The three scales at which every chapter runs."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import torch

SCALES = ("gpu", "cpu", "smoke")


class Settings:
    """The numbers of one scale, each an attribute: `settings.epochs`, `settings.image_size`.

    `settings.scale` is the chosen scale, `settings.table` shows all three side by side.
    """

    def __init__(self, scale: str, table: dict[str, tuple]):
        column = SCALES.index(scale)
        self._values = {name: row[column] for name, row in table.items()}
        self.scale = scale
        self.table = pd.DataFrame.from_dict(
            {name: [str(value) for value in row] for name, row in table.items()},
            orient="index",
            columns=[f"{name} (this run)" if name == scale else name for name in SCALES],
        )

    def __getattr__(self, name: str):
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            known = ", ".join(self.__dict__.get("_values", {}))
            raise AttributeError(f"there is no setting '{name}'; there are {known}") from None

    def as_dict(self) -> dict:
        """Return the chosen numbers as a plain dictionary, for a record."""
        return dict(self._values)


def choose_scale(scale: str, table: dict[str, tuple]) -> Settings:
    """Choose one of the three columns of a chapter's settings.

    Args:
        scale: "gpu" (the source's schedule), "cpu" (minutes on two cores), "smoke" (seconds, on
            built-in data), or "auto": "gpu" where CUDA finds one, else "cpu".
        table: setting name -> its value at (gpu, cpu, smoke).

    Raises:
        ValueError: the scale is unknown, or a row has not exactly three values.
    """
    if scale == "auto":
        scale = "gpu" if torch.cuda.is_available() else "cpu"
    if scale not in SCALES:
        raise ValueError(f"unknown scale '{scale}': choose auto, {', '.join(SCALES)}")
    for name, row in table.items():
        if not isinstance(row, tuple) or len(row) != len(SCALES):
            raise ValueError(f"setting '{name}' needs three values, for {', '.join(SCALES)}")
    return Settings(scale, table)


def named_folder(variable: str, default: str | Path) -> Path:
    """Return the folder that an environment variable names, else the default one.

    Quotes around it, which IPython's `%env` keeps, are taken off; `~` and `$HOME` stand for what they mean in a shell.
    """
    value = os.environ.get(variable, "").strip().strip("\"'").strip()
    return Path(os.path.expandvars(value)).expanduser() if value else Path(default)
