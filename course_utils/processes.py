"""Several processes that train one network together, each on its part of every batch. Only this module knows of them.

torchrun starts the processes and tells each its number in environment variables. Where there is one process, each
function here gives back what it is given.
"""

from __future__ import annotations

import inspect
import os

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


class ProcessError(RuntimeError):
    """The processes of a run cannot find each other, or one of them is gone."""


def rank() -> int:
    """Return which process this is, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_gpu() -> str:
    """Return the name of the GPU that this process has for itself."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def join_processes(device: torch.device) -> None:
    """Wait for the other processes that torchrun has started; without torchrun there are none.

    Raises:
        ProcessError: they do not find each other.
    """
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if expected == 1 or distributed.is_initialized():
        return
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise ProcessError(
                f"process {device.index} of this machine needs a GPU of its own, and there are "
                f"{torch.cuda.device_count()}: start at most so many, or set CUDA_VISIBLE_DEVICES= for processors."
            )
        torch.cuda.set_device(device)
    try:
        store, own_number, _ = next(distributed.rendezvous("env://"))
        # after a restart torchrun's store still holds the addresses of the processes that are gone
        store = distributed.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=own_number, world_size=expected)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ProcessError(
            f"the {expected} processes did not find each other at {place} ({str(error).splitlines()[0]}). If the port "
            "is in use, give torchrun another one; on one machine, torchrun --standalone finds a free one itself."
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
