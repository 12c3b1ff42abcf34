"""Train once unbroken and once killed again and again; print what came out, as JSON.

A program of its own, since it forks: each child starts with everything imported, and one thread.
Run as: python killed_run.py FOLDER SEED DROPOUT
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)

from helpers import new_tiny_network  # noqa: E402

from course_utils import ImageData, fit, make_shapes  # noqa: E402

EPOCHS, KILLS, IMAGES, BATCH_SIZE = 12, 10, 403, 8
STEPS = -(-IMAGES // BATCH_SIZE)


def train(folder: Path, name: str, dropout: float, pipe: int, prepare=lambda: None) -> None:
    """Train to the end and write the weights and the history; runs in a child.

    A byte goes into the pipe for each training batch, so that the parent knows how far it is.
    """
    sys.stdout = open(os.devnull, "w")
    prepare()
    real = ImageData.batches

    def batches(self, batch_size, generator=None, *rest, **options):
        for batch in real(self, batch_size, generator, *rest, **options):
            yield batch
            if generator is not None:
                os.write(pipe, b".")

    ImageData.batches = batches
    images, val = make_shapes(IMAGES, 16, 1), make_shapes(40, 16, 2)
    model = new_tiny_network(dropout=dropout)
    history = fit(
        model, images, val, epochs=EPOCHS, batch_size=BATCH_SIZE, flip=True, crop=1, device="cpu", precision="float32",
        checkpoint=folder / f"{name}.pt",
    )  # fmt: skip
    rows = history.drop(columns="seconds").to_dict("records")
    torch.save({"weights": model.state_dict(), "history": rows}, folder / f"{name}-done.pt")


def start(*arguments, **options) -> tuple[int, int]:
    """Start a training in a child; return its number and the end of the pipe that tells its batches."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            train(*arguments, pipe=writing, **options)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return child, reading


def wait_for(reading: int, batches: int) -> None:
    """Return when the child has trained on so many batches, or has ended."""
    while batches > 0 and (told := os.read(reading, batches)):
        batches -= len(told)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing() -> None:
    """Be killed when half of the checkpoint's bytes are on the disk."""
    real = torch.save

    def half(state, file):
        real(state, file)
        file.flush()
        os.truncate(file.fileno(), file.tell() // 2)
        die()

    torch.save = half


def die_before_renaming() -> None:
    """Be killed when the new checkpoint is complete, beside the old one."""
    os.replace = lambda *_: die()


def epochs_done(path: Path) -> int:
    return len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0


# two moments are chosen, since chance would rarely hit them: inside the writing of a checkpoint
CHOSEN = {3: die_while_writing, 6: die_before_renaming}


def main() -> None:
    folder, seed, dropout = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    child, reading = start(folder, "unbroken", dropout)
    wait_for(reading, 1)
    begin = time.perf_counter()
    wait_for(reading, EPOCHS * STEPS)
    epoch_seconds = (time.perf_counter() - begin) / EPOCHS
    assert os.waitpid(child, 0)[1] == 0, "the unbroken run failed"

    # random moments of the whole run, in the order in which it comes to them
    random.seed(seed)
    targets = sorted(random.uniform(0, 0.9 * EPOCHS) for _ in range(KILLS))
    path, kills, moments = folder / "broken.pt", 0, []
    while not (folder / "broken-done.pt").exists():
        before = epochs_done(path)
        child, reading = start(folder, "broken", dropout, prepare=CHOSEN.get(kills, lambda: None))
        if kills < KILLS and kills not in CHOSEN:
            # whole batches first, then some time more: training, validation and writing are all hit
            wait_for(reading, int((targets[kills] - before) * STEPS))
            time.sleep(random.uniform(0, 0.5) * epoch_seconds)
            os.kill(child, signal.SIGKILL)
        wait_for(reading, EPOCHS * STEPS)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if os.WIFSIGNALED(status):
            kills += 1
            moments.append((before, epochs_done(path)))
        else:
            assert status == 0, "a run that was started again failed"

    results = [torch.load(folder / f"{name}-done.pt", weights_only=True) for name in ("unbroken", "broken")]
    weights = [result["weights"] for result in results]
    print(json.dumps({
        "kills": kills,
        "moments": moments,
        "same_weights": all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]),
        "same_history": results[0]["history"] == results[1]["history"],
        "epochs": len(results[1]["history"]),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
