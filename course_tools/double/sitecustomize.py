"""Let a Python that is started with this folder on PYTHONPATH compute in float64 where the code says float.

Processors round differently, and a training of a few steps makes large differences of small ones. In float64
rounding shows in the tenth digit only, so that golden runs and runs of several processes compare everywhere.
"""

import copy

import torch
from torch.nn import functional as F


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Drop what torch.rand says; torch's own dropout draws other numbers where there is no MKL."""
    return x * (torch.rand_like(x) >= p) / (1 - p) if training and p else x


class _InFloat32(torch.nn.Module):
    """A copy of a network for ONNX, whose runtime has no convolutions of float64."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.float32)
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.to(torch.float32))


_export = torch.onnx.export
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
torch.Tensor.bfloat16 = lambda x: x.to(torch.float64, copy=True)  # Muon changes the copy in place
torch.onnx.export = lambda network, *rest, **options: _export(_InFloat32(network), *rest, **options)
F.dropout = _dropout
