"""Optimizers and the schedules of their learning rates."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn


class Muon(torch.optim.Muon):
    """PyTorch's Muon for convolutions: a weight (out, in, k, k) is trained as the matrix (out, in * k * k).

    Momentum gives a direction; a few matrix products then make its singular values nearly equal, so that
    no direction dominates. Source: Jordan et al. 2024.

    Args:
        weights: of convolutions, in the memory layout that they keep.
        lr: the learning rate; 0.05 is a good start, whatever the width.
        options: of `torch.optim.Muon`.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float = 0.05, **options):
        matrices = []
        for weight in weights:
            # a view of the weight, in the order in which it lies in memory: what changes one changes the other
            order = (0, 2, 3, 1) if weight.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
            matrix = weight.detach().permute(order).flatten(1).requires_grad_()
            weight.register_post_accumulate_grad_hook(partial(_share_gradient, matrix, order))
            matrices.append(matrix)
        super().__init__(matrices, lr, **options)


def _share_gradient(matrix: torch.Tensor, order: tuple[int, ...], weight: nn.Parameter) -> None:
    matrix.grad = weight.grad.permute(order).flatten(1)


def muon(
    model: nn.Module, rate: float = 0.05, other_rate: float = 0.1, momentum: float = 0.9, weight_decay: float = 5e-4
) -> list[torch.optim.Optimizer]:
    """Return `Muon` for the convolutions behind the first, SGD for everything else, for `fit`.

    Args:
        model: already in its memory layout, as `fit` has it.
        rate: of the convolutions.
        other_rate: of the first convolution (if it is trained), the norms, the head and whatever else there is, where
            Muon has no place.
        momentum: of both.
        weight_decay: of the first convolution, the head and whatever else has two dimensions or more.

    Raises:
        ValueError: there is no convolution behind the first, or none that is trained.
    """
    weights = list(model.parameters())
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, nn.Conv2d)}
    first, *behind = [weight for weight in weights if id(weight) in kernels] or [None]
    convolutions = [weight for weight in behind if weight.requires_grad]  # what is frozen has no gradient to share
    if not convolutions:
        raise ValueError(
            f"muon trains the convolutions behind the first, and this network, with {len(kernels)} in all, has none "
            "there that is trained: leave optimizers out, and SGD trains everything."
        )
    others = [weight for weight in weights if weight.dim() >= 2 and id(weight) not in kernels]
    norms = [weight for weight in weights if weight.dim() < 2]
    groups = [{"params": [first, *others], "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return [
        torch.optim.SGD(groups, other_rate, momentum, nesterov=True),
        Muon(convolutions, rate, momentum=momentum, weight_decay=0.0, ns_steps=3),
    ]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: up from 1/25 of the rate in the first 30 % of all steps, then down to nearly nothing.

    Momentum goes the other way, 0.05 above its value at both ends and as much below it at the peak. Source: Smith 2018.
    """
    group = optimizer.param_groups[0]
    momentum = group["betas"][0] if "betas" in group else group["momentum"]
    swing = min(0.05, momentum, 1 - momentum)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        base_momentum=round(momentum - swing, 4),
        max_momentum=round(momentum + swing, 4),
    )


def constant(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: the same rate in every step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: down from the full rate to nothing along half a cosine. Source: Loshchilov and Hutter 2017."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def step_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule: the full rate, a tenth of it after 5/9 of all steps, a hundredth after 7/9."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 5 // 9, steps * 7 // 9])
