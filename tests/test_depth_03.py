"""Your own images: the network, the frozen body, the two slips, calibration, and what is saved and exported."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torchvision
from helpers import ROOT, chapter_definitions, copy_by_order, copy_state, randomise, same_state, write_folder
from PIL import Image
from torch import nn
from torch.nn import functional as F

from course_utils import ImageData, count, fit, load_data, make_shapes, predict, summarize
from course_utils.race import short_net

pytestmark = pytest.mark.sensitive

NAMES = chapter_definitions(ROOT / "notebooks/depth/03_your_own_images.ipynb")
SMALL = (8, 16, 32)


def two_classes(amounts: tuple[int, int] = (12, 12), image_size: int = 32, seed: int = 5) -> ImageData:
    """Discs and stars, the discs first."""
    shapes = make_shapes(10 * max(amounts), image_size, seed)
    rows = [
        (shapes.labels == shapes.classes.index(name)).nonzero()[:amount, 0]
        for name, amount in zip(("disc", "star"), amounts)
    ]
    labels = torch.tensor([0, 1]).repeat_interleave(torch.tensor(amounts))
    return ImageData(shapes.images[torch.cat(rows)], labels, ["disc", "star"], "two shapes")


def classifier(num_classes: int = 2, widths: tuple[int, ...] = SMALL, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return randomise(NAMES["short_classifier"](num_classes, widths), seed)


# --- the network


def test_the_networks_sizes_parameters_and_macs():
    network = NAMES["folder_resnet"]()
    table = summarize(network, (3, 224, 224))
    sizes = [int(shape.split(" x ")[-1]) for shape in table[table["type"] == "Conv2d"]["output shape"]]
    assert sizes == [224] * 5 + [112] * 5 + [56] * 5 + [28] * 5
    assert count(network, (3, 224, 224)) == {"parameters": 11_169_858, "macs": 27_215_463_424}
    assert count(network, (3, 64, 64))["macs"] == 2_221_671_424
    assert count(NAMES["folder_resnet"]((16, 32, 64, 128)), (3, 64, 64)) == {
        "parameters": 700_434, "macs": 140_181_760
    }  # fmt: skip


def test_the_network_is_torchvisions_with_another_stem():
    ours = NAMES["folder_resnet"](num_classes=2).eval()
    theirs = torchvision.models.resnet18(num_classes=2)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    copy_by_order(randomise(theirs).eval(), ours[1:])
    x = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normal = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
            3, 1, 1
        )
        torch.testing.assert_close(ours(x), theirs(normal), rtol=1e-4, atol=1e-4)


def test_normalize_undoes_itself_and_travels_with_the_weights():
    layer = NAMES["Normalize"]((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(layer(x)[:, 1], (x[:, 1] - 0.2) / 0.25)
    torch.testing.assert_close(layer.undo(layer(x)), x)
    assert not list(layer.parameters())
    other = NAMES["Normalize"]()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


# --- pictures and counts


def test_one_picture_is_prepared_and_answered_as_in_training(tmp_path):
    root = write_folder(tmp_path / "pets", count=2)
    for part in ("train", "val"):  # a wide one, one that lies on its side, a transparent one, a grey one
        wide = Image.effect_noise((90, 40), 60).convert("RGB")
        wide.save(root / part / "cat" / "wide.jpg", quality=95)
        exif = Image.Exif()
        exif[0x0112] = 6
        wide.save(root / part / "dog" / "lying.jpg", exif=exif)
        clear = Image.effect_noise((50, 60), 90).convert("RGBA")
        clear.putalpha(Image.linear_gradient("L").resize(clear.size))
        clear.save(root / part / "dog" / "clear.png")
        Image.effect_noise((33, 47), 50).save(root / part / "dog" / "grey.png")
    _, val = load_data(root, 24, 30)
    network = randomise(NAMES["folder_resnet"]((8, 8, 8, 8)))
    probabilities = predict(network, val, precision="float32").softmax(1)
    files = [file for name in val.classes for file in sorted((root / "val" / name).iterdir())]
    assert len(files) == len(val) == 8
    for file, image, wanted in zip(files, val.images, probabilities):
        assert torch.equal(NAMES["open_picture"](file, 24, 30), image), file
        network.train()  # it must not matter in which mode the network was
        torch.testing.assert_close(NAMES["predict_picture"](file, network, 24, 30), wanted, rtol=1e-4, atol=1e-5)


def test_pick_takes_so_many_of_each_class_and_others_with_another_seed():
    data = two_classes((12, 9))
    few = NAMES["pick"](data, (2, 7), 0)
    assert torch.bincount(few.labels).tolist() == [2, 7] and few.classes == data.classes
    rows = [NAMES["pick_rows"](data, (2, 7), number) for number in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    assert len(set(rows[0].tolist())) == 9 and torch.equal(few.images, data.images[rows[0]])


def test_repeated_shows_every_image_as_often():
    data = two_classes((3, 3))
    many = NAMES["repeated"](data, 17)
    assert len(many) == 18 and torch.equal(many.images[6:12], data.images) and torch.equal(many.labels[:6], data.labels)
    assert len(NAMES["repeated"](data, 2)) == 6


def test_recalls_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    scores = F.one_hot(torch.tensor([0, 0, 0, 1, 0, 1]), 2)
    assert NAMES["recalls"](scores, labels).tolist() == [0.75, 0.5]
    assert NAMES["accuracy"](scores, labels) == pytest.approx(4 / 6)


# --- the two slips


def test_training_mode_answers_by_the_company_and_evaluation_mode_does_not():
    data = two_classes()
    discs = NAMES["pick"](data, (12, 0), 0)
    network = randomise(NAMES["folder_resnet"]((8, 8, 8, 8)))
    answers = NAMES["training_mode_probabilities"]
    mixed, labels = answers(network, data, 24)
    assert torch.equal(labels, data.labels)
    one_class, _ = answers(network, NAMES["pick"](data, (12, 0), 0), 12)
    rows = NAMES["pick_rows"](data, (12, 0), 0)
    assert (one_class - mixed[rows]).abs().max() > 0.02
    together, alone = (predict(network, discs, batch_size=size, precision="float32") for size in (12, 1))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_slip_is_shown_on_a_copy():
    network = classifier().eval()
    before = copy_state(network)
    NAMES["training_mode_probabilities"](network, two_classes(), 8)
    assert same_state(copy_state(network), before) and not network.training


# --- transfer


def test_nothing_of_a_frozen_body_moves_while_the_head_learns():
    data = two_classes()
    whole = classifier()
    network = nn.Sequential(NAMES["Frozen"](copy.deepcopy(whole[0])), whole[1])
    body, layer = copy_state(network[0]), copy_state(network[1])
    fit(network, data, data, epochs=2, batch_size=8, precision="float32")
    assert network[1].training and not network[0].body[0].training
    assert same_state(copy_state(network[0]), body)  # weights and running statistics, bit for bit
    assert not torch.equal(network[1].weight, layer["weight"])
    # without it the statistics move, though no weight does
    half = nn.Sequential(copy.deepcopy(whole[0]).requires_grad_(False), whole[1])
    fit(half, data, data, epochs=1, batch_size=8, precision="float32")
    moved = [name for name, value in half[0].state_dict().items() if not torch.equal(value, body[f"body.{name}"])]
    assert moved and all("running" in name or "num_batches" in name for name in moved)


def test_features_and_a_head_are_the_network():
    data = two_classes()
    whole = classifier()
    body = NAMES["Frozen"](whole[0])
    features = predict(body, data, precision="float32")
    assert features.shape == (24, SMALL[-1])
    layer = NAMES["train_head"](features, data.labels, 2)
    both = predict(nn.Sequential(body, layer), data, precision="float32")
    torch.testing.assert_close(both, layer(features).detach(), rtol=1e-4, atol=1e-4)


def test_a_head_separates_what_can_be_separated_and_is_at_the_least_loss():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 5, generator=generator)
    labels = (features[:, 0] + 0.5 * features[:, 3] > 0.2).long()
    layer = NAMES["train_head"](features, labels, 2, penalty=1e-3)
    assert NAMES["accuracy"](layer(features), labels) > 0.97
    loss = F.cross_entropy(layer(features), labels) + 1e-3 * layer.weight.square().sum()
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 2e-3


def test_body_and_head_make_the_short_network():
    net = randomise(short_net(widths=SMALL)).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = NAMES["body_of"](net)(x)
        torch.testing.assert_close(net.head[-1](features), net(x))
    images = two_classes((300, 300))
    ours = NAMES["short_classifier"](2, SMALL, images)
    assert not ours[0][0][0].weight.requires_grad  # the whitening is fixed
    assert torch.equal(ours[0][0][0].weight, short_net(images, widths=SMALL).stem[0].weight)


def test_thawed_trains_all_but_the_whitening_and_leaves_the_frozen_one():
    whole = classifier()
    only = nn.Sequential(NAMES["Frozen"](whole[0]), whole[1])
    before = copy_state(only)
    network = NAMES["thawed"](only)
    still = [name for name, weight in network.named_parameters() if not weight.requires_grad]
    assert still == ["0.0.0.weight"]
    assert network.state_dict().keys() == classifier().state_dict().keys()
    data = two_classes()
    fit(network, data, data, epochs=1, batch_size=8, optimizers=NAMES["gently"], precision="float32")
    start = {name.replace("0.body.", "0."): value for name, value in before.items()}
    after = network.state_dict()
    same = [name for name, value in start.items() if torch.equal(after[name], value)]
    assert same == ["0.0.0.weight"]
    assert same_state(copy_state(only), before)
    assert not any(weight.requires_grad for weight in only[0].parameters())


def test_gently_has_a_tenth_of_the_rate_for_the_body():
    network = NAMES["thawed"](nn.Sequential(NAMES["Frozen"](classifier()[0]), nn.Linear(32, 2)))
    (optimizer,) = NAMES["gently"](network)
    body, layer = optimizer.param_groups
    assert body["lr"] == pytest.approx(layer["lr"] / 10) and len(layer["params"]) == 2
    trained = sum(weight.requires_grad for weight in network.parameters())
    assert len(body["params"]) + 2 == trained


# --- calibration


def test_expected_calibration_error_by_hand():
    confidence = torch.tensor([0.62, 0.63, 0.91, 0.92, 0.93, 0.94])
    right = torch.tensor([True, False, True, True, True, False])
    # bins of 0.05: two answers with 0.625 and 0.5 right, four with 0.925 and 0.75 right
    wanted = 2 / 6 * 0.125 + 4 / 6 * 0.175
    assert NAMES["calibration_error"](confidence, right) == pytest.approx(wanted, abs=1e-6)
    assert NAMES["calibration_error"](torch.ones(4), torch.ones(4)) == 0
    last = NAMES["calibration_error"](torch.tensor([0.96, 1.0]), torch.tensor([True, False]))
    assert last == pytest.approx(0.48, abs=1e-6)  # 1.0 is in the last bin, with 0.96
    halves = NAMES["calibration_error"](confidence, right, bins=1)  # errors of both signs cancel in one bin
    assert halves == pytest.approx(abs(confidence.mean().item() - 4 / 6), abs=1e-6)


def test_temperature_scaling_finds_a_known_temperature_and_keeps_the_answers():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(8_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    for wanted in (0.4, 1.0, 3.0):
        found = NAMES["fit_temperature"](wanted * logits, labels)
        assert found == pytest.approx(wanted, rel=0.06)
        assert torch.equal((logits / found).argmax(1), logits.argmax(1))


def test_a_temperature_stays_finite_where_all_answers_are_right():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert NAMES["fit_temperature"](logits, torch.tensor([0, 1])) == pytest.approx(0.1)


# --- save, load, export


@pytest.fixture
def saved(tmp_path):
    network = classifier(seed=2)
    path = tmp_path / "mine.pt"
    NAMES["save_network"](path, network, classes=["cat", "dog"], image_size=64, temperature=1.5)
    return SimpleNamespace(path=path, network=network)


def test_a_network_goes_round(saved):
    other = classifier(seed=3).train()
    card = NAMES["load_network"](saved.path, other)
    assert card == {"classes": ["cat", "dog"], "image_size": 64, "temperature": 1.5}
    assert same_state(copy_state(other), copy_state(saved.network)) and not other.training
    assert torch.load(saved.path, weights_only=True)["card"] == card


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NAMES["folder_resnet"]((8, 8, 8, 8)), "of another network: .* names are in one of the two only"),
        (lambda: classifier(3), r"1\.weight of \(2, 32\), the network \(3, 32\).*\['cat', 'dog'\]"),
        (lambda: classifier(2, (16, 32, 64)), r"0\.0\.0\.weight of \(4, 3, 3, 3\), the network \(8, 3, 3, 3\)"),
    ],
)
def test_a_file_of_another_network_is_told_and_nothing_is_loaded(saved, make, message):
    network = make()
    before = copy_state(network)
    with pytest.raises(ValueError, match=f"mine.pt .*{message}"):
        NAMES["load_network"](saved.path, network)
    assert same_state(copy_state(network), before)


def test_a_damaged_file_is_told(saved, tmp_path):
    content = saved.path.read_bytes()
    for end in (0, 100, len(content) // 2, len(content) - 10):
        saved.path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="mine.pt is cut off, or not of save_network"):
            NAMES["load_network"](saved.path, classifier())
    torch.save(classifier().state_dict(), saved.path)
    with pytest.raises(ValueError, match=r"not of save_network \(KeyError\)"):
        NAMES["load_network"](saved.path, classifier())
    torch.save({"weights": classifier(), "card": {}}, saved.path)  # a pickled network could run code
    with pytest.raises(ValueError, match=r"not of save_network \(UnpicklingError\)"):
        NAMES["load_network"](saved.path, classifier())
    with pytest.raises(ValueError, match="there is no file"):
        NAMES["load_network"](tmp_path / "nowhere.pt", classifier())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_gives_the_same_logits_for_any_number_of_pictures(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, path = randomise(NAMES["folder_resnet"]((8, 8, 8, 8))).train(), str(tmp_path / "mine.onnx")
    NAMES["export_onnx"](network, path, 24)
    assert network.training and [file.name for file in tmp_path.iterdir()] == ["mine.onnx"]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network.eval()
    for amount in (1, 2, 5):
        x = torch.rand(amount, 3, 24, 24)
        (found,) = session.run(["logits"], {"images": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-4, atol=1e-4)


def test_the_stand_in_is_a_folder_that_load_data_takes(tmp_path):
    NAMES["write_shapes"](tmp_path / "discs-and-stars", (4, 2))
    train, val = load_data(tmp_path / "discs-and-stars", 32, 40)
    assert (len(train), len(val), train.classes) == (8, 4, ["disc", "star"])
    kinds = {(file.parent.name, file.suffix) for file in (tmp_path / "discs-and-stars/train").rglob("*.*")}
    assert len(kinds) == 4  # both kinds of file in both classes, so that the kind tells nothing
    assert Image.open(tmp_path / "discs-and-stars/train/disc/disc.0.jpg").size == (48, 40)
