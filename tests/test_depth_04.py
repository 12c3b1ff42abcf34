"""What depth/04 computes, against cases by hand: receptive fields, strongest patches, occlusion and Grad-CAM."""

import pytest
import torch
from helpers import ROOT, chapter_definitions, copy_state, randomise, same_state
from torch import nn

from course_utils import ImageData

pytestmark = pytest.mark.sensitive

NAMES = chapter_definitions(ROOT / "notebooks/depth/04_what_it_sees.ipynb")
make_network, upto, receptive_field = NAMES["make_network"], NAMES["upto"], NAMES["receptive_field"]
occlusion, grad_cam, strongest, top_patches = (
    NAMES[name] for name in ("occlusion", "grad_cam", "strongest", "top_patches")
)
VARIANTS = {"seven": {}, "three": {"seven": False}, "dilated": {"dilated": True}}


def conv(kernel, stride=1, dilation=1, padding=0, channels=(3, 3)):
    return nn.Conv2d(*channels, kernel, stride, padding, dilation)


def small(depths=(1, 1, 1), **options):
    torch.manual_seed(0)
    return randomise(make_network(depths=depths, widths=(8, 12, 16), **options)).eval()


HAND = {
    "two 3x3": ([conv(3), conv(3)], (5, 1, 2.0)),
    "3x3 / 2, 3x3": ([conv(3, 2), conv(3)], (7, 2, 3.0)),
    "3x3 / 2, 3x3, padded": ([conv(3, 2, padding=1), conv(3, padding=1)], (7, 2, 0.0)),
    "dilation 2": ([conv(3, dilation=2)], (5, 1, 2.0)),
    "3x3 / 2, then dilation 2": ([conv(3, 2), conv(3, dilation=2)], (11, 2, 5.0)),
    "dilations 1, 2, 4": ([conv(3), conv(3, dilation=2), conv(3, dilation=4)], (15, 1, 7.0)),
    "3x3 / 2, pool 2 / 2, 3x3": ([conv(3, 2), nn.MaxPool2d(2), conv(3)], (13, 4, 6.0)),
    "1x1 adds nothing": ([conv(1), nn.ReLU(), conv(3), nn.BatchNorm2d(3), conv(1, 2)], (3, 2, 1.0)),
    "mean pool 3 / 2": ([nn.AvgPool2d(3, 2, 1), conv(3)], (7, 2, 2.0)),
    "a start of ResNet": ([conv(7, 2, padding=3), nn.MaxPool2d(3, 2, 1), *2 * [conv(3, padding=1)]], None),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_receptive_field_by_hand(name):
    layers, wanted = HAND[name]
    if wanted is None:  # one object used twice would stand there once
        layers, wanted = [*layers[:3], conv(3, padding=1)], (27, 4, 0.0)
    assert receptive_field(nn.Sequential(*layers)) == wanted


def box_of_effects(layers, size):
    """First and last row and column of the pixels that a change of which moves the centre unit."""
    field = NAMES["count_paths"](layers, size)
    assert field.sum().item() == pytest.approx(1) and (field >= 0).all()
    rows, columns = NAMES["box"](field), NAMES["box"](field.T)
    assert rows == columns
    return rows


def check_against_gradients(layers):
    side, step, centre = receptive_field(layers)
    size = 2 * side + 20
    low, high = box_of_effects(layers, size)
    with torch.no_grad():
        middle = layers.eval()(torch.zeros(2, 3, size, size)).shape[-1] // 2
    assert high - low + 1 == side
    assert (high + low) / 2 == centre + step * middle


@pytest.mark.parametrize("seed", range(8))
def test_receptive_field_of_random_networks_against_gradients(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[torch.randint(len(choices), (), generator=generator).item()]

    layers = []
    for _ in range(draw(2, 3, 4)):
        if draw(True, True, False):
            kernel, dilation = draw(1, 2, 3, 5), draw(1, 1, 2)
            layers.append(conv(kernel, draw(1, 2) if kernel > 1 else 1, dilation, draw(0, kernel // 2)))
        else:
            kernel = draw(2, 3)
            layers.append(draw(nn.MaxPool2d, nn.AvgPool2d)(kernel, 2, draw(0, 1)))
        layers.append(nn.ReLU())
    check_against_gradients(nn.Sequential(*layers))


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("name", VARIANTS)
def test_receptive_field_of_the_chapters_networks_against_gradients(name, count):
    check_against_gradients(upto(small(**VARIANTS[name]), count))


def test_receptive_field_of_several_blocks_a_stage():
    strided, dilated = (upto(small((2, 1, 2), dilated=dilated), 3) for dilated in (False, True))
    check_against_gradients(dilated)
    assert receptive_field(strided)[:2] == (16 * 2 + receptive_field(dilated)[0] - 2 * 16, 16)
    assert receptive_field(dilated)[:2] == (receptive_field(strided)[0], 8)


def test_the_fields_on_the_page():
    sides = {
        name: [receptive_field(upto(small(**VARIANTS[name]), count))[0] for count in range(4)] for name in VARIANTS
    }
    assert sides == {"seven": [11, 27, 51, 99], "three": [15, 31, 55, 103], "dilated": [11, 27, 51, 99]}


def test_receptive_field_refuses_what_sees_everything():
    with pytest.raises(ValueError, match="sees all"):
        receptive_field(small())


@pytest.mark.parametrize("depths", [(1, 1, 1), (1, 1, 2)])
@pytest.mark.parametrize("size", [64, 72, 48])
def test_dilated_maps_hold_the_strided_ones(size, depths):
    strided, dilated = small(depths), small(depths, dilated=True)
    dilated.load_state_dict(strided.state_dict())
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        coarse, fine = upto(strided, 3)(x), upto(dilated, 3)(x)
    assert fine.shape[-1] == -(-size // 8) and coarse.shape[-1] == -(-size // 16)
    assert torch.allclose(coarse, fine[..., ::2, ::2], atol=1e-4 * coarse.abs().max().item())


def test_effective_field_of_one_convolution_is_its_weights():
    layer = conv(3, padding=1, channels=(3, 1))
    layer.weight.data = torch.rand(1, 3, 3, 3) - 0.5
    field = NAMES["effective_field"](nn.Sequential(layer), torch.rand(5, 3, 9, 9), 2)
    wanted = torch.zeros(9, 9)
    wanted[3:6, 3:6] = layer.weight[0].detach().abs().sum(0)
    assert torch.allclose(field, wanted / wanted.sum(), atol=1e-6)


def test_width_of_a_field():
    field = torch.zeros(9, 9)
    field[4, 2] = field[4, 6] = 0.5  # two pixels to either side of the middle
    assert NAMES["width_of"](field) == pytest.approx(8)


class OnePixel(nn.Module):
    """Says class 1 as far as the pixel (row, column) is bright."""

    def __init__(self, row, column):
        super().__init__()
        self.place = row, column
        self.dropout = nn.Dropout(0.9)  # in training mode nothing would be as it is

    def forward(self, x):
        bright = self.dropout(x[:, 0, self.place[0], self.place[1]])
        return torch.stack([torch.zeros_like(bright), 10 * bright], 1)


@pytest.mark.parametrize("pixel", [(0, 0), (9, 4), (15, 15), (5, 12)])
def test_occlusion_finds_the_squares_that_cover_the_one_pixel(pixel):
    side, step = 4, 2
    image = torch.ones(3, 16, 16)
    falls = occlusion(OnePixel(*pixel).train(), image, 1, side, step)
    assert falls.shape == (7, 7)
    for row in range(7):
        for column in range(7):
            covers = all(step * n <= p < step * n + side for n, p in zip((row, column), pixel))
            known = torch.tensor([10.0, 10 * NAMES["GREY"]]).sigmoid()
            assert falls[row, column].item() == pytest.approx((known[0] - known[1]).item() if covers else 0, abs=1e-6)
    assert torch.equal(image, torch.ones(3, 16, 16))


def test_occlusion_refuses_squares_that_leave_a_rest():
    with pytest.raises(ValueError, match="do not fit"):
        occlusion(OnePixel(0, 0), torch.ones(3, 16, 16), 1, 4, 5)


def test_spread_is_the_mean_over_the_squares_that_cover_a_pixel():
    falls = torch.rand(4, 4)
    found = NAMES["spread"](falls, 4, 2)
    for row, column in ((0, 0), (5, 3), (9, 9), (2, 9)):
        covering = [falls[i, j] for i in range(4) for j in range(4) if 0 <= row - 2 * i < 4 and 0 <= column - 2 * j < 4]
        assert found[row, column].item() == pytest.approx(torch.stack(covering).mean().item(), rel=1e-5)


def test_grad_cam_of_two_layers_worked_out_by_hand():
    """A1 = x, A2 = 3 - x; the head differs from place to place, so that the mean over places matters."""
    maps = nn.Conv2d(1, 2, 1)
    maps.weight.data, maps.bias.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.tensor([0.0, 3.0])
    head = nn.Linear(8, 2, bias=False)
    head.weight.data = torch.tensor(
        [[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -3.0], [0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]]
    )
    network = nn.Sequential(maps, nn.Flatten(), head)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 1, 2, 2)
    # class 0: alpha is 2 / 4 and -4 / 4; class 1: 0 and 4 / 4
    wanted = torch.tensor([[[0.0, 0.0], [1.5, 3.0]], [[2.0, 1.0], [0.0, 0.0]]])
    found = grad_cam(network, maps, x, torch.tensor([0, 1]))
    assert torch.equal(found, wanted) and not found.requires_grad


def test_grad_cam_of_the_last_stage_is_cam():
    network, x, labels = small(), torch.rand(4, 3, 64, 64), torch.tensor([3, 0, 9, 3])
    with torch.no_grad():
        maps = upto(network, 3)(x)
        wanted = torch.einsum("nchw,nc->nhw", maps, network.head[-1].weight[labels]).relu() / maps[0, 0].numel()
    assert torch.allclose(grad_cam(network, network.stages[-1], x, labels), wanted, atol=1e-6)
    assert wanted.max() > 0


def test_grad_cam_works_for_frozen_weights():
    network = small().requires_grad_(False)
    assert grad_cam(network, network.stages[0], torch.rand(1, 3, 64, 64), torch.tensor([1])).shape == (1, 16, 16)


def pictures_with_a_bright_patch():
    """Pictures of dark noise; picture n has a patch of 4 x 4, at step 4, of brightness 100 + 10 n."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 50, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    places = [(number % 4, (number * 3 + 1) % 4) for number in range(12)]
    for number, (row, column) in enumerate(places):
        images[number, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 100 + 10 * number
    return ImageData(images, torch.arange(12) % 10, list("abcdefghij"), "patches"), places


def test_the_brightest_patch_excites_a_unit_of_mean_brightness_most():
    data, places = pictures_with_a_bright_patch()
    layer = nn.Conv2d(3, 2, 4, 4, bias=False)
    layer.weight.data[0], layer.weight.data[1] = 1 / 48, -1 / 48  # bright, and dark
    peaks = strongest(nn.Sequential(layer), layer, data)
    values, rows, columns = peaks
    assert [(row, column) for row, column in zip(rows[:, 0].tolist(), columns[:, 0].tolist())] == places
    assert torch.allclose(values[:, 0], (100 + 10 * torch.arange(12)) / 255)
    patches = top_patches(peaks, receptive_field(nn.Sequential(layer)), data, [1, 0], 3)
    assert patches.shape == (2, 3, 3, 4, 4)
    for patch, value in zip(patches[1], (210, 200, 190)):
        assert (patch == value).all()
    assert patches[0].max() < 50


def test_a_patch_beyond_the_edge_is_grey_there():
    data, places = pictures_with_a_bright_patch()
    layer = nn.Conv2d(3, 1, 6, 4, padding=1, bias=False)  # sees a pixel more on each side
    layer.weight.data.fill_(1.0)
    peaks = strongest(nn.Sequential(layer), layer, data)
    (patch,) = top_patches(peaks, receptive_field(nn.Sequential(layer)), data, [0], 1)[0]
    assert places[11] == (3, 2) and (patch[:, 1:5, 1:5] == 210).all()
    assert (patch[:, 5] == 115).all() and (patch[:, 0] < 50).all()


def test_agreement_of_ranks():
    first = torch.arange(9.0).view(1, 3, 3).repeat(3, 1, 1)
    second = torch.stack([first[0].exp(), -first[0], torch.ones(3, 3)])
    assert NAMES["agreement"](first, second).tolist() == pytest.approx([1, -1, 0])


def test_smooth_corners_are_found():
    images = torch.randint(0, 255, (2, 3, 12, 12), generator=torch.Generator().manual_seed(0)).byte()
    images[0, :, :4, 8:], images[1, :, 8:, :4] = 70, 90
    corners = NAMES["smooth_corners"](images, 4)
    assert (corners[0] == 70).all() and (corners[1] == 90).all()


def test_half_of_the_area_is_the_middle():
    mask = NAMES["middle_mask"](128)
    assert mask.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(mask, mask.T) and torch.equal(mask, mask.flip(0)) and mask[64, 64]


def test_edges_know_the_image_only():
    image = torch.zeros(1, 3, 32, 32)
    image[..., 20:] = 1.0
    found = NAMES["edges"](image, 4)[0]
    assert (found[:, 2] > 0.1).all() and found[:, [0, 1, 3]].abs().max() == 0


def hooks_of(network):
    return [len(module._forward_hooks) for module in network.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_a_look_stays_behind(training):
    """Hooks are gone; weights, running statistics, gradients and each module's mode are as they were."""
    network = small().train(training)
    network.stages[0].eval()  # a mode of its own
    before, modes = copy_state(network), [module.training for module in network.modules()]
    data = ImageData(torch.randint(0, 255, (10, 3, 48, 48)).byte(), torch.arange(10), list("abcdefghij"), "noise")
    x = data.images.float() / 255
    strongest(network, network.stages[1], data)
    NAMES["pooled"](network, data)
    occlusion(network, x[0], 2, 16, 16)
    grad_cam(network, network.stages[-1], x, data.labels)
    NAMES["effective_field"](upto(network, 3).train(training), x)
    network.stages[0].eval()  # `train` of the line above reached it
    NAMES["count_paths"](upto(network, 3), 64)
    assert hooks_of(network) == [0] * len(modes)
    assert modes == [module.training for module in network.modules()]
    assert same_state(before, copy_state(network))
    assert all(weight.grad is None for weight in network.parameters())
    assert torch.is_grad_enabled()


def test_hooks_are_removed_after_an_error():
    network = small()
    with pytest.raises(RuntimeError):
        strongest(
            network, network.stem, ImageData(torch.zeros(2, 1, 48, 48).byte(), torch.arange(2), ["a", "b"], "grey")
        )
    assert hooks_of(network) == [0] * len(list(network.modules()))


def test_a_forgetful_copy_leaves_the_network_alone():
    network, names = small(), dict(NAMES)
    before = copy_state(network)
    names["forget"].__globals__.update(seed=0, settle=lambda network: network.eval())
    parts = ("stem", "stages.0", "stages.1", "stages.2")
    for count, kept in ((1, parts), (2, parts[:3]), (5, ())):
        state = copy_state(names["forget"](network, count))
        for name, value in state.items():
            if name.endswith("weight") and value.dim() > 1:
                assert torch.equal(value, before[name]) == name.startswith(kept or "none")
    assert same_state(before, copy_state(network))
