"""Several processes that train one network together, each on its part of every batch. Only this module knows of them.

torchrun starts the processes and tells each its number in environment variables. Where there is one process, each
function here gives back what it is given.
"""

from __future__ import annotations

import inspect
import os
import socket

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


class ProcessError(RuntimeError):
    """The processes of a run cannot find each other or cannot train this network, or one of them is gone."""


def rank() -> int:
    """Return which process this is, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _expected() -> int:
    """Return how many processes torchrun has started; 1 without it, whatever single variables are left over.

    Raises:
        ProcessError: there should be several, and the variables do not say where they are.
    """
    number = os.environ.get("WORLD_SIZE", "").strip() or "1"
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if number != "1" and (absent or not number.isdecimal()):
        missing = f", and there is no {', '.join(absent)}" if absent else ""
        raise ProcessError(
            f"the environment variable WORLD_SIZE is {number!r}{missing}, but torchrun sets them all: for several "
            "processes start the program with torchrun, for one take WORLD_SIZE out of the environment."
        )
    return int(number)


def own_gpu() -> str:
    """Return the name of the GPU that this process has for itself."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if _expected() > 1 and os.environ.get("LOCAL_RANK") else "cuda"


def join_processes(device: torch.device) -> None:
    """Wait for the other processes that torchrun has started; without torchrun there are none.

    Raises:
        ProcessError: they do not find each other, or the device is none on which they could train together.
    """
    expected = 1 if distributed.is_initialized() else _expected()
    if expected == 1:
        return
    if device.type not in ("cpu", "cuda"):
        raise ProcessError(f'several processes train on processors or GPUs of CUDA, not on {device}: pass device="cpu"')
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise ProcessError(
                f"process {device.index} of this machine needs a GPU of its own, and there are "
                f"{torch.cuda.device_count()}: start at most so many, or set CUDA_VISIBLE_DEVICES= for processors."
            )
        torch.cuda.set_device(device)
    address = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, None)  # else the search for it goes on for minutes
    except OSError as error:
        raise ProcessError(
            f"the {expected} processes cannot find each other: the name {address!r} leads to no machine ({error}). On "
            "one machine, give torchrun --local-addr 127.0.0.1; on several, a name or number that all of them know."
        ) from error
    try:
        store, own_number, _ = next(distributed.rendezvous("env://"))
        # after a restart torchrun's store still holds the addresses of the processes that are gone
        store = distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=own_number, world_size=expected)
    except (RuntimeError, ValueError) as error:
        place = f"{address}:{os.environ['MASTER_PORT']}"
        raise ProcessError(
            f"the {expected} processes did not find each other at {place} ({str(error).splitlines()[0]}). If the port "
            "is in use, give torchrun another one; on one machine, torchrun --standalone finds a free one itself, and "
            "--local-addr 127.0.0.1 helps where the machine's own name leads elsewhere."
        ) from error


def parallel(model: nn.Module) -> nn.Module:
    """Return a network whose backward pass gives each process the mean of all their gradients.

    The weights are those of process 0. The wrapped network and `model` share them.
    """
    if world_size() == 1:
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    return DistributedDataParallel(model, **{option: False})


def count_steps(images: int, batch_size: int) -> int:
    """Return in how many batches of an epoch all processes have a part.

    A last batch with fewer than two images for each is left out, since batch norm needs two.

    Raises:
        ValueError: there is no such batch, or some process would have no image of it.
    """
    number = world_size()
    if batch_size < number:
        raise ValueError(
            f"batch_size is {batch_size}, too small for {number} processes: each needs an image of each batch, and for "
            f"batch norm two. Make it {2 * number} or more, or start fewer processes."
        )
    steps = images // batch_size + (images % batch_size >= 2 * number)
    if not steps:
        raise ValueError(
            f"there are {images} training images, too few for {number} processes: each needs two of a batch. Take more "
            "images, or start fewer processes."
        )
    return steps


def seed_epoch(seed: int, epoch: int) -> None:
    """Let every process draw other random numbers (such as for dropout), which begin anew with each epoch.

    So they need not be kept for a run that goes on: a checkpoint holds those of process 0 only.
    """
    if world_size() > 1:
        torch.manual_seed((seed * 100_003 + epoch) * world_size() + rank())


def check_gradients(model: nn.Module) -> None:
    """Raise a plain error if a trained weight has no gradient after a backward pass, since the mean is not made then.

    Raises:
        ProcessError: the loss does not depend on all weights.
    """
    weights = model.named_parameters() if world_size() > 1 else ()
    idle = [name for name, weight in weights if weight.requires_grad and weight.grad is None]
    if idle:
        raise ProcessError(
            f"the loss does not depend on {', '.join(idle[:5])}{' and others' if len(idle) > 5 else ''}, but several "
            "processes need a gradient for every weight: freeze these with requires_grad_(False), or take them out of "
            "the network. One process can train it as it is."
        )


def fair_loss(loss: torch.Tensor, weight: float) -> torch.Tensor:
    """Scale a process's mean loss so that the mean over processes is that over all images.

    The last batch, or one with class weights, need not give every process the same share.

    Args:
        loss: the mean over this process's images.
        weight: the sum of these images' weights; how many they are, if each counts 1.
    """
    return loss * (weight * world_size() / sum_over_processes(weight)[0]) if world_size() > 1 else loss


def sum_over_processes(*values: float) -> tuple[float, ...]:
    """Return the sums of numbers over all processes."""
    if world_size() == 1:
        return values
    device = torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return tuple(sums.tolist())


def average_statistics(model: nn.Module) -> None:
    """Give every process the mean of all running statistics, since each norm has seen its own images only."""
    for buffer in model.buffers() if world_size() > 1 else ():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer /= world_size()


def explain_error(error: RuntimeError) -> None:
    """Raise a plainer error where work stopped because another process is gone; return if it is something else.

    Raises:
        ProcessError: another process of the run has ended.
    """
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Timed out waiting")
    if world_size() > 1 and any(words in str(error) for words in gone):
        raise ProcessError(
            f"process {rank()} of {world_size()} stops, since another process of this run has ended; that one's own "
            "message says why. With --max-restarts, torchrun starts all of them again, and they go on from the "
            "checkpoint."
        ) from error


def leave_processes() -> None:
    """Part from the other processes; for the end of a program."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
