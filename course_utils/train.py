"""The ladder's ResNet-50, trained by a program: one process as it stands, several with torchrun.

    python -m course_utils.train --scale page
    torchrun --standalone --nproc-per-node 2 -m course_utils.train --scale page

On several machines, each runs the same command, without --standalone but with --nnodes 2 and
--rdzv-endpoint HOST:PORT, where HOST is the first of them. The checkpoint must lie where all can read it.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

from course_utils import networks, processes
from course_utils.data import load_data
from course_utils.evaluation import choose_device
from course_utils.records import checkpoint_path, save_record
from course_utils.settings import choose_scale
from course_utils.training import fit

CHAPTER_4 = {  # source, page, smoke
    "data": ("imagenette", "imagenette", "shapes"),
    "network": ("resnet50", "resnet50", "resnet18"),
    "image_size": (224, 64, 32),
    "shortest_side": (320, 80, 32),
    "images": (9469, 2000, 128),
    "val_images": (3925, 1000, 60),
    "epochs": (20, 3, 2),
    "batch_size": (128, 64, 32),
    "learning_rate": (0.05, 0.05, 0.05),
}


def train_chapter_4(scale: str = "auto", seed: int = 0, chapter: str = "depth/05_more_than_one_device") -> pd.DataFrame:
    """Train at a scale and return the history; process 0 keeps a record of it and a checkpoint.

    Args:
        scale: see `choose_scale`.
        seed: of the weights and the order.
        chapter: whose record it is.
    """
    settings = choose_scale(scale, CHAPTER_4)
    processes.join_processes(choose_device())
    train, val = load_data(settings.data, settings.image_size, settings.shortest_side)
    train, val = train.subset(settings.images), val.subset(settings.val_images)
    torch.manual_seed(seed)
    network = getattr(networks, settings.network)(len(train.classes))
    run = f"a{processes.world_size()}-processes"
    history = fit(
        network, train, val, epochs=settings.epochs, learning_rate=settings.learning_rate,
        batch_size=settings.batch_size, seed=seed,
        checkpoint=checkpoint_path(f"{settings.scale}-{run}", seed),
    )  # fmt: skip
    if processes.rank() == 0:
        label = f"{settings.network}, {processes.world_size()} process{'es' * (processes.world_size() > 1)}"
        save_record(chapter, run, label, network, train, val, history, settings, seed)
    return history


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="auto", help="auto, source, page or smoke")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        train_chapter_4(arguments.scale, arguments.seed)
    finally:
        processes.leave_processes()


if __name__ == "__main__":
    main()
