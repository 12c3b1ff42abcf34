"""What was measured: each training run leaves a JSON record, and tables are made from records only."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import nn

from course_utils.checkpoints import plain
from course_utils.comparison import (  # noqa: F401, compared as records.compare(...)
    Comparison,
    by_chance,
    compare,
    compare_all,
    comparison_table,
    mean_text,
    seeds_wanted,
    too_few_seeds,
)
from course_utils.settings import Settings, named_folder
from course_utils.summary import count

if TYPE_CHECKING:
    from course_utils.data import ImageData

UNKNOWN = "unknown"


def results_directory() -> Path:
    """Return the directory of the records: what the variable COURSE_RESULTS names, else `results`."""
    return named_folder("COURSE_RESULTS", "results")


def checkpoint_path(run: str, seed: int, chapter: str = "", scale: str = "") -> Path:
    """Return the folder of a run's checkpoints for `fit`: under what COURSE_CHECKPOINTS names, else `checkpoints`.

    `fit` keeps a file in it for each training, named by a digest of what decides it.
    """
    folder = named_folder("COURSE_CHECKPOINTS", "checkpoints") / chapter
    return folder / "-".join(filter(None, [scale, run, f"seed{seed}"]))


def provenance(device: torch.device, dtype: torch.dtype) -> dict:
    """Return where and by which code a run is made: commit, versions, processor, time; "unknown" what is not known.

    The variable COURSE_CODE, which `python -m course_tools` sets, holds the fingerprint of the code and the
    definitions that the training reaches, each with a hash of its own.
    """
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        try:
            command = ["git", "-C", str(package), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return UNKNOWN  # not a checkout, as on Colab

    # an environment inside another project's checkout has that one's commit, which says nothing
    top = git("rev-parse", "--show-toplevel")
    own = top != UNKNOWN and Path(top).resolve() == package.parent
    return {
        "commit": git("rev-parse", "HEAD") if own else UNKNOWN,
        "uncommitted_changes": git("status", "--porcelain", "--", ".") != "" if own else UNKNOWN,  # of course_utils
        **json.loads(os.environ.get("COURSE_CODE") or '{"code": "unknown", "definitions": "unknown"}'),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a class of its own, which a checkpoint may not hold
            "torchvision": str(torchvision.__version__),
            "numpy": np.__version__,
        },
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": str(dtype).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine() or UNKNOWN


def save_record(
    chapter: str,
    run: str,
    label: str,
    model: nn.Module,
    train: ImageData,
    val: ImageData,
    history: pd.DataFrame,
    settings: Settings,
    seed: int,
) -> Path:
    """Write the record of one finished training run and return its path.

    Args:
        chapter: such as "ladder/01_plain_cnn".
        run: a short name, unique in the chapter: "a2-norm".
        label: what tables and plots call it: "plain CNN, batch norm".
        model, train, val: what was trained, on what; MACs are counted at the size of `val`.
        history: what `fit` returned.
        settings: the chosen scale.
        seed: of weights and order.

    Raises:
        ValueError: the history has fewer epochs than were asked for, so the run is not finished.
    """
    wanted = history.attrs.get("epochs", max(1, len(history)))
    if len(history) < wanted:
        raise ValueError(f"the run '{run}' has {len(history)} of {wanted} epochs: only a finished run is recorded")
    last = history.iloc[-1]
    record = {
        "chapter": chapter,
        "run": run,
        "label": label,
        "scale": settings.scale,
        "seed": seed,
        "data": {
            "name": train.name, "image_size": val.image_size, "train": len(train), "val": len(val),
            "classes": len(train.classes), "digest": [train.digest(), val.digest()],
        },
        "settings": settings.as_dict(),
        **count(model, tuple(val.images.shape[1:])),
        "val_accuracy": float(last["val_accuracy"]),
        "val_loss": float(last["val_loss"]),
        "train_accuracy": float(last["train_accuracy"]),
        "seconds": float(history["seconds"].sum()),
        "epochs": len(history),
        **history.attrs["provenance"],
        "history": history.to_dict("records"),
    }  # fmt: skip
    path = results_directory() / chapter / f"{settings.scale}-{run}-seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(record), indent=1) + "\n", encoding="utf-8", newline="\n")
    return path


def load_records(scale: str, chapter: str | None = None, directory: str | Path | None = None) -> pd.DataFrame:
    """Return the records of a scale, one a row, ordered by chapter, run and seed; maybe empty."""
    directory = Path(directory) if directory else results_directory()
    paths = directory.glob(f"{chapter or '**'}/{scale}-*-seed*.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return pd.DataFrame(sorted(records, key=lambda record: (record["chapter"], record["run"], record["seed"])))


MEASURED = (
    "seed", "label", "val_accuracy", "val_loss", "train_accuracy", "seconds", "epochs", "parameters", "macs", "history",
    "processor", "device", "threads", "precision",
)  # fmt: skip


def load_study(study: str, scale: str = "page", directory: str | Path | None = None) -> pd.DataFrame:
    """Return the runs of a study that are recorded, one a row, with its factors as columns; maybe empty.

    Columns: every setting, the factors among them, then what was measured: seed, label, val_accuracy (0..1),
    val_loss, train_accuracy, seconds (training only), epochs, parameters, macs, history (a list of rows), and the
    machine: processor, device, threads, precision. Where a setting has such a name, what was measured is shown.

    Args:
        study: such as "ladder/01_norm_seeds".
        scale, directory: as for `load_records`.
    """
    records = load_records(scale, f"studies/{study}", directory)
    if records.empty:
        return records
    settings = pd.DataFrame(records["settings"].tolist())
    return settings.drop(columns=list(MEASURED), errors="ignore").join(records[list(MEASURED)])


def scoreboard(scale: str, chapter: str | None = None, upto: str | None = None) -> pd.DataFrame:
    """Return a table of what was measured: parameters, MACs, seconds, accuracy, one row a network.

    With `chapter`, of that chapter only; with `upto`, of its part of the book as far as that chapter.

    Where a run was repeated with other seeds, accuracy is their mean and sample standard deviation, and
    the training time that of the fastest, since other work on the machine only adds to it.
    """
    records = load_records(scale, chapter)
    if upto and not records.empty:
        part = records["chapter"].str.startswith(upto.split("/")[0] + "/")
        records = records[part & (records["chapter"] <= upto)]
    if records.empty:
        return pd.DataFrame(columns=["chapter", "network", "parameters", "MACs", "training", "validation accuracy"])
    rows = []
    for (name, _), runs in records.groupby(["chapter", "run"], sort=False):
        first = runs.iloc[0]
        rows.append({
            "chapter": name.rsplit("/", 1)[-1],
            "network": first["label"],
            "parameters": f"{first['parameters']:,}",
            "MACs": f"{first['macs'] / 1e6:,.1f} M",
            "training": f"{runs['seconds'].min():.1f} s",
            "validation accuracy": accuracy_text(runs["val_accuracy"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def accuracy_text(accuracies: pd.Series) -> str:
    """Return "71.2 % (one run)" or "71.2 ± 0.4 % (3 seeds)", mean and deviation of one run, for accuracies in 0..1.

    `mean_text` says how well the mean is known.
    """
    mean = 100 * accuracies.mean()
    if len(accuracies) == 1:
        return f"{mean:.1f} % (one run)"
    return f"{mean:.1f} ± {100 * accuracies.std():.1f} % ({len(accuracies)} seeds)"
