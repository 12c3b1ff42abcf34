"""What `muon` trains with what: each weight in one optimizer, those of the course's networks as ever."""

import pytest
import torch
from helpers import copy_state, new_tiny_network
from torch import nn

from course_utils import fit, make_shapes, muon
from course_utils.evaluation import to_device
from course_utils.networks import ResidualBlock, ResNet
from course_utils.race import short_net

TRAIN, VAL = make_shapes(70, 16, 1), make_shapes(30, 16, 2)


class Mixed(nn.Module):
    """Weights of one to five dimensions, some in layers, some not, one of them frozen."""

    def __init__(self):
        super().__init__()
        self.scale, self.places = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.zeros(1, 4, 8, 8))
        self.enter = nn.Conv2d(3, 4, 3, 2, 1)
        self.middle, self.fixed = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.up, self.normed = nn.ConvTranspose2d(4, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.deep, self.flat, self.head = nn.Conv3d(1, 1, 3, padding=1), nn.Conv1d(4, 6, 1), nn.Linear(6, 10)

    def forward(self, x):
        x = self.scale * self.enter(x) + self.places
        x = self.normed(self.up(self.fixed(self.middle(x))))
        x = self.deep(x[:, None])[:, 0]
        return self.head(self.flat(x.flatten(2)).mean(2))


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """The names of the weights in each group; Muon holds them as matrices, which lie where the weights lie."""
    names = {weight.data_ptr(): name for name, weight in model.named_parameters()}
    return [[names[weight.data_ptr()] for weight in group["params"]] for group in optimizer.param_groups]


def test_every_weight_is_in_one_optimizer():
    model = to_device(Mixed(), torch.device("cpu"))
    sgd, ours = muon(model)
    assert names_in(ours, model) == [["middle.weight"]]
    decayed, others = names_in(sgd, model)
    assert decayed == [
        "enter.weight", "scale", "places", "up.weight", "normed.parametrizations.weight.original0",
        "normed.parametrizations.weight.original1", "deep.weight", "flat.weight", "head.weight",
    ]  # fmt: skip
    everything = sorted(["middle.weight", "fixed.weight", *decayed, *others])
    assert everything == sorted(name for name, _ in model.named_parameters())
    assert all(name.endswith("bias") for name in others)


def test_every_weight_is_trained_but_the_frozen():
    torch.manual_seed(0)
    model = Mixed()
    before = copy_state(model)
    fit(model, TRAIN, VAL, epochs=1, batch_size=35, device="cpu", precision="float32", optimizers=muon)
    same = [name for name, value in copy_state(model).items() if torch.equal(value, before[name])]
    assert same == ["fixed.weight", "fixed.bias"]


@pytest.mark.parametrize(
    ("model", "convolutions"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), 0),
        (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(128, 10)), 1),
        (new_tiny_network().requires_grad_(False), 2),
    ],
)
def test_a_network_that_muon_cannot_train_is_told(model, convolutions):
    with pytest.raises(ValueError, match=f"with {convolutions} in all, has none there that is trained: leave optim"):
        muon(model)


# records depend on these: which weight stands where, and every number


@pytest.mark.parametrize("whitened", [False, True])
def test_the_groups_of_the_courses_networks_stay(whitened):
    model = short_net(make_shapes(64, 32, 0)) if whitened else ResNet(ResidualBlock, (1, 2), (8, 16), stem_widths=(4,))
    names = [name for name, _ in model.named_parameters()]
    first, *kernels = [name for name in names if model.get_parameter(name).dim() == 4]
    sgd, ours = muon(model)
    assert model.get_parameter(first).requires_grad != whitened
    assert names_in(sgd, model) == [
        [first, "head.2.weight"], [name for name in names if model.get_parameter(name).dim() == 1]
    ]  # fmt: skip
    assert names_in(ours, model) == [kernels] and len(kernels) >= 8


def test_the_numbers_of_the_optimizers_stay():
    sgd, ours = muon(new_tiny_network())
    for group, decay in zip(sgd.param_groups, (5e-4, 0.0), strict=True):
        numbers = ("lr", "momentum", "weight_decay", "nesterov", "dampening", "maximize")
        assert [group[name] for name in numbers] == [0.1, 0.9, decay, True, 0, False]
    (group,) = ours.param_groups
    numbers = ("lr", "momentum", "weight_decay", "nesterov", "ns_steps", "ns_coefficients", "eps", "adjust_lr_fn")
    assert [group[name] for name in numbers] == [0.05, 0.9, 0.0, True, 3, (3.4445, -4.775, 2.0315), 1e-7, None]
