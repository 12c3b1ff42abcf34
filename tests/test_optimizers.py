"""What the optimizers do in a step."""

import pytest
import torch
from helpers import new_tiny_network

from course_utils import muon

pytestmark = pytest.mark.sensitive


def muon_steps(weight, gradients, ns_steps=3, nesterov=True, momentum=0.9, rate=0.05):
    """Muon by hand, in float64 and with no weight decay, for a matrix. Source: Jordan et al. 2024."""
    mean = torch.zeros_like(weight)
    for gradient in gradients:
        mean = momentum * mean + (1 - momentum) * gradient
        x = (1 - momentum) * gradient + momentum * mean if nesterov else mean
        x = x / x.norm()
        for _ in range(ns_steps):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        weight = weight - rate * x * max(1, len(weight) / weight.shape[1]) ** 0.5
    return weight


def test_the_convolutions_take_muons_steps():
    """Three steps of Nesterov's momentum with three products each: other numbers would end elsewhere."""
    model = new_tiny_network().to(memory_format=torch.channels_last)
    convolution = model[3].weight
    start = convolution.detach().permute(0, 2, 3, 1).flatten(1).double()
    random = torch.Generator().manual_seed(0)
    gradients = [torch.randn(start.shape, generator=random) for _ in range(3)]
    optimizers = muon(model)
    for gradient in gradients:
        image = gradient.view(16, 3, 3, 8).permute(0, 3, 1, 2)
        (convolution * image).sum().backward()
        optimizers[1].step()
        convolution.grad = None
    found = convolution.detach().permute(0, 2, 3, 1).flatten(1).double()
    gradients = [gradient.double() for gradient in gradients]

    def distance(**options) -> float:
        return ((found - muon_steps(start, gradients, **options)).norm() / (found - start).norm()).item()

    # Muon computes in bfloat16, which has three digits
    assert distance() < 0.01
    for other in ({"ns_steps": 2}, {"ns_steps": 4}, {"nesterov": False}, {"momentum": 0.8}, {"rate": 0.055}):
        assert distance(**other) > 0.05, other


def test_everything_else_takes_steps_of_sgd_with_nesterov():
    sgd = muon(new_tiny_network(), other_rate=0.3, momentum=0.7)[0]
    weight = sgd.param_groups[1]["params"][0]  # of a norm: no decay
    start, mean = weight.detach().clone(), torch.zeros_like(weight)
    for number in (1.0, 2.0):
        weight.grad = torch.full_like(weight, number)
        sgd.step()
        mean = 0.7 * mean + number
        start -= 0.3 * (number + 0.7 * mean)
    assert weight.detach() == pytest.approx(start, abs=1e-6)
