"""The ResNet family on CIFAR-10

You size up one of the paper's own networks for CIFAR-10, write the augmentation and the optimizer of the chapter's
recipe, and find out why a training that was killed does not go on as it should. Do the chapter first; its sections 3,
6 and 9 are the ones that you need most.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


FIVE = ("depth", "blocks", "parameters", "growth", "side")


class SixTimesAndTwo(Exercise):
    """Work out a network of depth 6n + 2

    The paper's own networks for CIFAR-10 have a 3x3 stem, **three** stages of n basic blocks each, a global average
    pool and one linear layer. Here the stem makes <<width>> channels of the 3 colours, and the stages have <<width>>,
    <<2 * width>> and <<4 * width>>. The first block of stages 2 and 3 has stride 2. As in the chapter, a shortcut is a
    1x1 convolution with norm where the shape changes and nothing elsewhere; each convolution has a norm and no bias;
    the linear layer has a bias, and 10 classes. The stem has stride 1 and no pool.

    With n = <<n>>, work out by hand, without running anything:

    - `depth`: how many layers with weights are on the longest way (norms do not count as layers);
    - `blocks`: how many blocks **each stage** has in the network of this kind that has depth <<6 * other + 2>>;
    - `parameters`: how many parameters the network with n = <<n>> has, norms included;
    - `growth`: how many it gains if n becomes <<n + 1>>;
    - `side`: the pixels on a side of the last stage's maps, for an image of <<size>>x<<size>>.

    Write formulas of Python rather than results, so that you can find a slip.
    """

    goal = "tell depth and cost of a network of the family from a few numbers"
    kind = "compute"
    minutes, difficulty, importance = 15, 2, 3
    practice = {"n": 3, "width": 16, "size": 32, "other": 18}
    hints = [
        "Depth counts one way through the network: the stem, two convolutions in each block, the linear layer. A 1x1 on "
        "a shortcut lies beside that way.",
        "Find the parameters of a block with a channels throughout first: two 3x3 convolutions and two norms. Only the "
        "first blocks of stages 2 and 3 differ.",
        "A block that is added to a stage never changes the shape. Does it need a projection?",
    ]

    def draw(chance):
        return {
            "n": chance.choice([2, 4, 5, 6, 7]),
            "width": chance.choice([8, 12, 20, 24]),
            "size": chance.choice([24, 40, 48, 64]),
            "other": chance.choice([8, 9, 11, 12, 15]),
        }

    def stub():
        depth = ...
        blocks = ...
        parameters = ...
        growth = ...
        side = ...

    def solution():
        depth = 6 * n + 2
        blocks = (6 * other + 2 - 2) // 6
        stem = 9 * 3 * width + 2 * width
        plain_blocks = [18 * channels**2 + 4 * channels for channels in (width, 2 * width, 4 * width)]
        # the first block of a stage gets half of its channels
        first_blocks = [
            9 * channels // 2 * channels + 9 * channels**2 + 4 * channels + channels // 2 * channels + 2 * channels
            for channels in (2 * width, 4 * width)
        ]
        linear = 4 * width * 10 + 10
        parameters = stem + n * plain_blocks[0] + sum(first_blocks) + (n - 1) * sum(plain_blocks[1:]) + linear
        growth = sum(plain_blocks)
        side = size // 4

    def right_polynomial():
        depth = 1 + 3 * n * 2 + 1
        blocks = float(other)
        growth = 378 * width**2 + 28 * width
        # what two projections add and two halved convolutions save
        changes = 10 * width**2 + 12 * width - 9 * (2 * width**2 + 8 * width**2)
        parameters = n * growth + changes + 29 * width + 40 * width + 10
        side = size / 2 / 2

    def right_by_code():
        def convolution(a, b, kernel=3):
            return [nn.Conv2d(a, b, kernel, bias=False), nn.BatchNorm2d(b)]

        def layers_of(n):
            layers, a = convolution(3, width), width
            for b in (width, 2 * width, 4 * width):
                for _ in range(n):
                    layers += convolution(a, b) + convolution(b, b)
                    layers += convolution(a, b, 1) if a != b else []
                    a = b
            return [*layers, nn.Linear(4 * width, 10)]

        def amount(n):
            return sum(weight.numel() for layer in layers_of(n) for weight in layer.parameters())

        depth = sum(isinstance(layer, nn.Linear) or layer.weight.dim() == 4 for layer in layers_of(n)) - 2
        blocks = torch.tensor(other)
        parameters, growth = amount(n), amount(n + 1) - amount(n)
        side = F.max_pool2d(torch.zeros(1, size, size), 4).shape[-1]

    wrong = [
        ("shortcuts-in-the-depth", "depth = 6 * n + 2", "depth = 6 * n + 4", "beside the longest way"),
        ("stem-and-head-forgotten", "depth = 6 * n + 2", "depth = 6 * n", "stem and the linear layer"),
        ("one-layer-a-block", "depth = 6 * n + 2", "depth = 3 * n + 2", "how many convolutions"),
        ("blocks-of-the-whole", "(6 * other + 2 - 2) // 6", "(6 * other + 2 - 2) // 2", "each stage"),
        ("no-projection", " + channels // 2 * channels + 2 * channels", "", "projections"),
        ("norms-of-the-projections", " + channels // 2 * channels + 2 * channels", " + channels // 2 * channels",
         "the norms on the shortcuts"),
        ("bias-forgotten", "4 * width * 10 + 10", "4 * width * 10", "bias of the linear layer"),
        ("stem-without-norm", "9 * 3 * width + 2 * width", "9 * 3 * width", "norm of the stem"),
        ("norms-in-the-growth", "growth = sum(plain_blocks)", "growth = 378 * width**2", "the norms"),
        ("first-blocks-again", "growth = sum(plain_blocks)", "growth = plain_blocks[0] + sum(first_blocks)",
         "never changes the shape"),
        ("one-stage", "growth = sum(plain_blocks)", "growth = plain_blocks[-1]", "each of the three stages"),
        ("three-halvings", "size // 4", "size // 8", "which of the three stages"),
        ("a-word", "size // 4", "'a quarter'", "should be a number"),
    ]  # fmt: skip

    explanation = """
    One stem, 2 layers in each of 3n blocks, one linear layer: 6n + 2, here <<6 * n + 2>>; and (<<6 * other + 2>> - 2) / 6 =
    <<other>>. The two 1x1 convolutions lie beside the longest way, so the name of a network does not count them.

    A block that keeps a channels has 18a² + 4a parameters. With a = w, 2w, 4w the squares are 1 + 4 + 16 = 21 parts, so
    one more block in each stage adds 378w² + 28w = <<378 * width**2 + 28 * width>>, and none of it is a projection. The
    last stage alone has sixteen of the 21 parts: that is where the parameters of a network live, while its MACs are
    spread evenly, since each stage has a quarter of the places.

    Two halvings make <<size // 4>> pixels of <<size>>. An ImageNet network would halve five times.
    """
    marking = """
    A point for form, one each for depth and blocks, parameters, growth and side. Formulas and numbers both count. Ask
    aloud: which stage has most of the parameters, and which most of the MACs?
    """

    @check(points=1)
    def written(ask, values):
        """Five whole numbers."""
        for name in FIVE:
            number = number_of(ask(probes.value, name), name)
            need(
                number > 0 and number == round(number),
                f"{name} counts something: it should be a whole number above zero",
            )

    @check(points=1, hidden=True)
    def the_depth(ask, values, reference):
        """Depth from n, and n from the depth."""
        found, n = number_of(ask(probes.value, "depth"), "depth"), values.n
        need(found != 6 * n + 4, "depth: a 1x1 convolution on a shortcut lies beside the longest way")
        need(found not in (6 * n, 6 * n + 1), "depth: do the stem and the linear layer count?")
        need(found == reference["depth"], "depth is not right: how many convolutions has a basic block on its branch?")
        found = number_of(ask(probes.value, "blocks"), "blocks")
        need(found != 3 * values.other, "blocks: that is all blocks together; each stage was asked for")
        need(found == values.other, "blocks is not right: take the stem and the linear layer off the depth first")

    @check(points=1, hidden=True)
    def all_parameters(ask, values, reference):
        """Parameters of the network."""
        w, off = values.width, number_of(ask(probes.value, "parameters"), "parameters") - reference["parameters"]
        told = {
            -(10 * w**2 + 12 * w): "are the two projections counted?",
            -12 * w: "are the norms on the shortcuts counted?",
            -2 * w: "is the norm of the stem counted?",
            -10: "is the bias of the linear layer counted?",
            w: "has a convolution before a norm a bias?",
        }
        reason = told.get(off, "go through stem, blocks, first blocks of a stage and linear layer one by one")
        need(off == 0, f"parameters is off by {off:+,.0f}: {reason}")

    @check(points=1, hidden=True)
    def the_rest(ask, values, reference):
        """What a block more costs, and the size of the last maps."""
        w, off = values.width, number_of(ask(probes.value, "growth"), "growth") - reference["growth"]
        told = {
            -28 * w: "are the norms counted?",
            -80 * w**2 + 12 * w: "a block that is added never changes the shape",
        }
        need(off == 0, f"growth is off by {off:+,.0f}: {told.get(off, 'each of the three stages gets one block more')}")
        found = number_of(ask(probes.value, "side"), "side")
        need(found == reference["side"], "side is not right: which of the three stages begin with stride 2?")


class CropAndFlip(Exercise):
    """Shift and mirror a batch of tensors

    Write `augment(images, padding, generator)`. It takes a batch `(N, C, H, W)` of floating-point numbers and gives
    back one of the same shape and kind. **Each image by itself** is

    - padded by `padding` pixels on all four sides, in the mode `"<<border>>"` of `F.pad`;
    - cropped to a window of H x W pixels at a random place, each place as likely as any other;
    - mirrored left to right with probability one half.

    All chance comes from `generator`, a `torch.Generator`: the same seed gives the same batch, and PyTorch's global
    chance is not touched. The batch that is given stays as it is. In which order you draw is up to you. `padding` may
    be 0, and H and W may differ.
    """

    goal = "augment a batch by a random crop and flip, each image by itself"
    kind = "build"
    minutes, difficulty, importance = 20, 3, 4
    practice = {"border": "constant"}
    hints = [
        "`F.pad(images, [left, right, top, bottom], mode=...)` pads the whole batch at once. How many places has a "
        "window of H rows in H + 2 * padding rows?",
        "`torch.randint(low, high, (2, N), generator=generator)` draws a row and a column for each image. `high` itself "
        "is never drawn.",
        "A loop over the images is good enough here: cut out a window, mirror it or not, and `torch.stack` the windows.",
    ]

    def draw(chance):
        return {"border": chance.choice(["constant", "reflect", "replicate", "circular"])}

    def stub():
        def augment(images, padding, generator): ...

    def solution():
        def augment(images, padding, generator):
            count, _, height, width = images.shape
            padded = F.pad(images, 4 * [padding], mode=border)
            places = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
            mirror = torch.rand(count, generator=generator) < 0.5
            windows = []
            for image, (top, left), flip in zip(padded, places.tolist(), mirror.tolist()):
                window = image[:, top : top + height, left : left + width]
                windows.append(window.flip(2) if flip else window)
            return torch.stack(windows)

    def right_by_index():
        def augment(images, padding, generator):
            n, _, h, w = images.shape
            flip = torch.randint(2, (n,), generator=generator).bool()
            x = torch.where(flip[:, None, None, None], images.flip(-1), images)
            x = F.pad(x, (padding, padding, padding, padding), mode=border).permute(0, 2, 3, 1)
            dy, dx = (torch.randint(2 * padding + 1, (n, 1), generator=generator) for _ in range(2))
            rows, columns = dy + torch.arange(h), dx + torch.arange(w)
            image = torch.arange(n)[:, None, None]
            return x[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def right_unfold():
        def augment(images, padding, generator):
            n, c, h, w = images.shape
            padded = F.pad(images, [padding] * 4, mode=border)
            every = padded.unfold(2, h, 1).unfold(3, w, 1)  # all windows
            every = torch.stack([every, every.flip(-1)], 2).flatten(2, 4)
            chosen = torch.randint(every.shape[2], (n,), generator=generator)
            return every[torch.arange(n), :, chosen].clone()

    def right_numpy():
        import numpy as np

        def augment(images, padding, generator):
            chance = np.random.default_rng(torch.randint(2**31, (1,), generator=generator).item())
            out = torch.empty_like(images)
            height, width = images.shape[2:]
            for number in range(len(images)):
                top, left = chance.integers(0, 2 * padding, 2, endpoint=True)
                image = F.pad(images[number : number + 1], 4 * (padding,), border)[0]
                image = image[:, top:, left:][:, :height, :width]
                out[number] = image.flip(-1) if chance.random() < 0.5 else image
            return out

    def wrong(values):
        other = "reflect" if values["border"] != "reflect" else "constant"
        return [
            ("one-place-for-all", "torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)",
             "torch.randint(0, 2 * padding + 1, (1, 2), generator=generator).expand(count, 2)", "each image by itself"),
            ("on-the-diagonal", "torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)",
             "torch.randint(0, 2 * padding + 1, (count, 1), generator=generator).expand(count, 2)",
             "rows and columns"),
            ("high-left-out", "torch.randint(0, 2 * padding + 1,", "torch.randint(0, max(2 * padding, 1),",
             "some places never"),
            ("only-down", "torch.randint(0, 2 * padding + 1,", "torch.randint(0, padding + 1,", "some places never"),
            ("upside-down", "window.flip(2)", "window.flip(1)", "left to right"),
            ("all-or-none", "mirror = torch.rand(count, generator=generator) < 0.5",
             "mirror = (torch.rand(1, generator=generator) < 0.5).expand(count)", "mirrored all or none"),
            ("seldom", "< 0.5", "< 0.1", "one half"),
            ("no-flip", "window.flip(2) if flip else window", "window", "mirrored all or none"),
            ("global-chance", "torch.rand(count, generator=generator)", "torch.rand(count)", "the same seed"),
            ("same-each-time", "count, _, height", "generator.manual_seed(generator.initial_seed())\n    count, _, height",
             "the second batch"),
            ("not-cropped", "image[:, top : top + height, left : left + width]", "image", "shape"),
            ("too-little-padding", "F.pad(images, 4 * [padding]", "F.pad(images, 4 * [max(padding - 1, 0)]", "your code raised"),
            ("other-border", "mode=border", f"mode='{other}'", "the border"),
            ("half-precision", "return torch.stack(windows)", "return torch.stack(windows).half()", "kind"),
            ("in-place", "return torch.stack(windows)",
             "return images.copy_(torch.stack(windows))", "stays as it is"),
            ("shuffled", "return torch.stack(windows)", "return torch.stack(windows[1:] + windows[:1])",
             "its own image"),
        ]  # fmt: skip

    explanation = """
    In H + 2p rows a window of H rows has **2p + 1** places, 0 to 2p, and `randint` never draws its upper end: with `2 *
    padding` one place is lost, and the images drift to one side by half a pixel in the mean. Nobody sees that in an
    accuracy.

    Each image needs numbers of its own. If a batch shares one shift and one coin, each image is still augmented, and an
    epoch has as many different pictures; but the images of a batch agree, the gradient's noise is no longer averaged
    away, and norms see batches that are shifted as a whole. Row and column need two numbers: with one, only the
    diagonal is used, 2p + 1 places of (2p + 1)².

    A generator of your own makes the order of calls elsewhere, a dropout for instance, irrelevant; it is what lets a
    resumed training see the same pictures.
    """
    marking = """
    Nothing depends on the order of drawing: the places are read off the pixels. A wrong border costs its own check only.
    Ask aloud: for which data must the flip go (digits, texts, traffic signs), and what would a crop of 8 pixels do to
    images of 16?
    """

    @check(points=1)
    def form(ask, values):
        """Shape, kind of number, and the batch that was given."""
        import torch

        for shape, padding in [((5, 3, 8, 8), 2), ((3, 1, 7, 10), 3), ((1, 3, 6, 5), 0)]:
            for kind in (torch.float32, torch.float64):
                images = numbered(*shape).to(kind)
                found = ask(augmented, images, padding, 1)
                out = found["out"]
                need(torch.is_tensor(out), "augment should return one tensor")
                told = f"images of shape {list(shape)} with padding {padding}: "
                need(list(out.shape) == list(shape), f"{told}the shape should stay, but is {list(out.shape)}")
                need(out.dtype == kind, f"{told}the kind of number should stay {kind}, but is {out.dtype}")
                need(torch.equal(found["given"], images), "the batch that is given stays as it is: yours was changed")

    @check(points=1)
    def chance_alone(ask, values):
        """The same seed, another seed, and nobody else's chance."""
        import torch

        images = numbered(40, 1, 11, 13)
        first, again = ask(augmented, images, 2, 1), ask(augmented, images, 2, 1)
        need(
            torch.equal(first["out"], again["out"]),
            "the same seed should give the same batch: does all chance come from generator?",
        )
        need(not torch.equal(first["out"], ask(augmented, images, 2, 2)["out"]), "another seed gives the same batch")
        need(not first["global"], "PyTorch's global chance was used or set anew: draw from generator only")
        need(
            not torch.equal(first["out"], first["second"]),
            "the second batch that is drawn from one generator equals the first: is it set back each time?",
        )

    @check(points=1)
    def each_by_itself(ask, values):
        """Each image has a place and a coin of its own."""
        found = places_of(ask(augmented, numbered(40, 1, 11, 13), 2, 5)["out"], 11, 13)
        need(
            all(place is not None for place in found),
            "an image is no window of its own image, perhaps mirrored left to right",
        )
        need(
            len({place[:2] for place in found}) > 1,
            "all images have the same place: each image by itself was asked for",
        )
        need(
            len({place[2] for place in found}) > 1,
            "a batch is mirrored all or none: each image by itself was asked for",
        )
        need(
            any(down != across for down, across, _ in found),
            "rows and columns move by the same number: draw one for each",
        )

    @check(points=1, hidden=True)
    def every_place(ask, values, reference):
        """Every place, and as likely as any other."""
        for padding, count in ((1, 300), (3, 800)):
            found = places_of(ask(augmented, numbered(count, 1, 11, 13), padding, 7)["out"], 11, 13)
            need(all(place is not None for place in found), "an image is no window of its own image")
            ends = [(min(part), max(part)) for part in (list(zip(*found))[:2])]
            told = f"with padding {padding} the images move by {ends[0]} rows and {ends[1]} columns"
            need(all(max(-low, high) <= padding for low, high in ends), f"{told}, which is too far")
            need(all(end == (-padding, padding) for end in ends), f"{told}: some places never occur")
            for part, name in ((0, "rows"), (1, "columns")):
                most = max(sum(place[part] == k for place in found) for k in range(-padding, padding + 1))
                need(most < 1.6 * count / (2 * padding + 1), f"some {name} are drawn far more often than others")
            share = sum(flip for _, _, flip in found) / count
            need(0.35 < share < 0.65, f"{100 * share:.0f} % are mirrored: one half was asked for")

    @check(points=1, hidden=True)
    def every_pixel(ask, values, reference):
        """Every pixel, those from the border too."""
        import torch
        from torch.nn import functional as F

        for padding, shape in ((0, (20, 2, 9, 11)), (2, (30, 3, 9, 11)), (3, (30, 1, 11, 13))):
            images = numbered(*shape)
            out = ask(augmented, images, padding, 11)["out"]
            padded = F.pad(images, 4 * [padding], mode=values.border)
            height, width = shape[2:]
            for number, place in enumerate(places_of(out, height, width)):
                need(place is not None, "an image is no window of its own image")
                top, left = place[0] + padding, place[1] + padding
                need(
                    0 <= top <= 2 * padding and 0 <= left <= 2 * padding,
                    f"with padding {padding} an image moved too far",
                )
                window = padded[number, :, top : top + height, left : left + width]
                right = window.flip(2) if place[2] else window
                need(
                    torch.equal(out[number], right),
                    "the places are right, but not every pixel is: is the border filled as the task asks?",
                )


def numbered(count, channels, height, width):
    """Images whose pixels tell the image, the channel, the row and the column that they are from."""
    import torch

    parts = (torch.arange(size, dtype=torch.float64) for size in (count, channels, height, width))
    image, channel, row, column = torch.meshgrid(*parts, indexing="ij")
    return 1 + column + 20 * row + 400 * channel + 2000 * image


def places_of(out, height, width):
    """Rows and columns by which each image moved, and whether it is mirrored; None where that cannot be.

    It reads the pixel in the middle, which never comes from a border, and its neighbours.
    """
    rows, columns = height // 2, width // 2
    pixels = [out[:, 0, rows + k, columns + j].double().tolist() for k, j in ((0, 0), (0, 1), (1, 0))]
    found = []
    for number, (code, right, below) in enumerate(zip(*pixels)):
        middle = code - 1 - 2000 * number
        ours = 0 <= middle < 20 * height and middle == round(middle)
        if not ours or abs(right - code) != 1 or below - code != 20:
            found.append(None)
        else:
            row, column = divmod(int(middle), 20)
            found.append((row - rows, column - columns, right < code))
    return found


def augmented(names, images, padding, seed):
    """Two batches that the student's augment makes with one generator, and whether anything else changed."""
    import torch

    augment = probes.find(names, "augment")
    given, generator = images.clone(), torch.Generator().manual_seed(seed)
    before = torch.get_rng_state()
    out = probes.plain(probes.made("augment", augment(given, padding, generator)))
    moved = not torch.equal(before, torch.get_rng_state())
    second = probes.plain(augment(images.clone(), padding, generator))
    return {"out": out, "second": second, "given": given, "global": moved}


class SparingDecay(Exercise):
    """Write an optimizer that spares the norms, and its schedule

    Write `make_training(network, steps)`, which returns an optimizer and a schedule, in this order.

    - The **optimizer** is SGD without Nesterov, with a rate of <<rate>> and a momentum of <<momentum>>. It trains every
      parameter. The **weights of convolutions and of linear layers** have a weight decay of <<decay>>; the biases, and
      the scales and shifts of norms, have none.
    - The **schedule** is stepped once after each batch, and the training has `steps` batches. The rate falls to
      <<factor>> times what it was when <<first_fall>> % of them are done, and once more by the same factor when <<second_fall>> %
      are: step 0 is the first one, and step `steps * <<first_fall>> // 100` is the first with a lower rate.

    Your function is asked with numbers of steps that are multiples of 20, so nothing has to be rounded. The network may
    be any, with norms of any kind.
    """

    goal = "give weights and norms their own weight decay, and lower the rate in steps"
    kind = "build"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"rate": 0.1, "momentum": 0.9, "decay": 5e-4, "factor": 0.1, "first_fall": 50, "second_fall": 75}
    hints = [
        'An optimizer takes a list of dictionaries instead of parameters: `{"params": [...], "weight_decay": ...}`, one '
        "for each group.",
        "How many dimensions has the weight of a convolution, of a linear layer, the scale of a norm, a bias?",
        "`torch.optim.lr_scheduler.MultiStepLR` wants its milestones in the unit in which it is stepped.",
    ]

    def draw(chance):
        first, second = chance.choice([(40, 80), (50, 80), (60, 80), (60, 90), (45, 75)])
        return {
            "rate": chance.choice([0.05, 0.2, 0.4]),
            "momentum": chance.choice([0.8, 0.85, 0.95]),
            "decay": chance.choice([1e-4, 1e-3, 2e-3]),
            "factor": chance.choice([0.2, 0.25, 0.5]),
            "first_fall": first,
            "second_fall": second,
        }

    def stub():
        def make_training(network, steps): ...  # two groups, SGD, the schedule

    def solution():
        def make_training(network, steps):
            weights = [weight for weight in network.parameters() if weight.dim() > 1]
            others = [weight for weight in network.parameters() if weight.dim() < 2]
            groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum)
            milestones = [steps * first_fall // 100, steps * second_fall // 100]
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=factor)
            return optimizer, schedule

    def right_by_kind():
        def make_training(network, steps):
            decayed = {
                id(layer.weight)
                for layer in network.modules()
                if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear))
            }
            groups = [{"params": [p], "weight_decay": decay * (id(p) in decayed)} for p in network.parameters()]
            optimizer = torch.optim.SGD(groups, rate, momentum)

            def part(step):
                return factor ** ((100 * step >= first_fall * steps) + (100 * step >= second_fall * steps))

            return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, part)

    def right_group_by_group():
        def make_training(network, steps):
            optimizer = torch.optim.SGD(network.parameters(), rate, momentum)
            group = optimizer.param_groups[0]
            group["params"] = [p for p in network.parameters() if p.ndim in (2, 4)]
            group["weight_decay"] = decay
            optimizer.add_param_group({"params": [p for p in network.parameters() if p.ndim == 1], "weight_decay": 0})
            return [
                optimizer,
                torch.optim.lr_scheduler.SequentialLR(
                    optimizer,
                    [
                        torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
                        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor),
                        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor * factor),
                    ],
                    [steps // 20 * first_fall // 5, steps // 20 * second_fall // 5],
                ),
            ]

    wrong = [
        ("decay-everywhere", '"weight_decay": 0.0', '"weight_decay": decay', "shrinks"),
        ("decay-nowhere", '"weight_decay": decay', '"weight_decay": 0.0', "no weight decay"),
        ("wrong-way-round", "if weight.dim() > 1]", "if weight.dim() < 1]", "is not trained"),
        ("biases-forgotten", ', {"params": others, "weight_decay": 0.0}]', "]", "is not trained"),
        ("by-first-layers", "if weight.dim() > 1]", "if weight.dim() > 3]", "is not trained"),
        ("norms-swapped", 'groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]',
         'groups = [{"params": weights, "weight_decay": 0.0}, {"params": others, "weight_decay": decay}]', "no weight decay"),
        ("half-the-decay", '"weight_decay": decay', '"weight_decay": decay / 2', "times what it should"),
        ("no-momentum", "momentum=momentum", "momentum=0.0", "momentum"),
        ("nesterov", "momentum=momentum", "momentum=momentum, nesterov=True", "Nesterov"),
        ("another-rate", "lr=rate", "lr=rate / 2", "rate"),
        ("milestones-in-per-cent", "[steps * first_fall // 100, steps * second_fall // 100]", "[first_fall, second_fall]", "falls"),
        ("one-step-late", "[steps * first_fall // 100, steps * second_fall // 100]",
         "[steps * first_fall // 100 + 1, steps * second_fall // 100 + 1]", "one step"),
        ("one-fall", "[steps * first_fall // 100, steps * second_fall // 100]", "[steps * first_fall // 100]", "falls"),
        ("another-factor", "gamma=factor", "gamma=0.7", "factor"),
        ("exchanged", "return optimizer, schedule", "return schedule, optimizer", "in this order"),
        ("optimizer-only", "return optimizer, schedule", "return optimizer", "in this order"),
    ]  # fmt: skip

    explanation = """
    Weight decay pulls each number towards zero at every step, by the rate times <<decay>>. For the weight of a convolution
    with a norm behind it the size means nothing to the function; what decay does there is to keep the **effective** rate
    up, since a step of the same length turns a small weight further. A norm's scale is another matter: pulling it to zero
    weakens the layer itself, and a bias has too few numbers to learn anything by heart. So one spares them.

    Counting dimensions is the shortest test: a convolution's weight has four, a linear layer's two, norms and biases
    have one. A test by name ("bias" in the name) leaves the scales of norms in the wrong group.

    The unit of the milestones is that of `schedule.step()`. The course steps after each batch, so milestones in epochs
    would lower the rate within the first epoch: the training runs, and is slow for no visible reason.
    """
    marking = """
    Decay is measured with all gradients at zero, momentum with all at one, so any way of grouping counts. Partial
    credit: groups and schedule are checked apart. Ask aloud: what does weight decay do to a frozen parameter, and to one
    whose gradient is None?
    """

    @check(points=1)
    def everything_is_trained(ask, values):
        """An optimizer and a schedule, and no parameter is forgotten."""
        found = ask(training_of, 20)
        for name, moves in found["moves"].items():
            need(max(abs(part) for part in moves) > 0, f"{name} is not trained: is it in no group of the optimizer?")

    @check(points=1)
    def spared(ask, values):
        """Without a gradient biases and norms stay, and weights shrink."""
        for name, shrunk in ask(training_of, 20)["shrunk"].items():
            if name in WEIGHTS:
                need(shrunk > 0, f"{name} has no weight decay: it stays as it is where the gradient is zero")
            else:
                need(shrunk == 0, f"{name} shrinks where the gradient is zero: which parameters are to be spared?")

    @check(points=1, hidden=True)
    def sizes(ask, values, reference):
        """Rate, momentum and decay."""
        found = ask(training_of, 20)
        for name, moves in found["moves"].items():
            if name not in WEIGHTS:
                first, second = (part / values.rate for part in moves)
                need(
                    abs(first - 1 - values.momentum) > 1e-6,
                    "the first step looks ahead: SGD without Nesterov was asked for",
                )
                need(
                    abs(first - 1) < 1e-6, f"the first step of {name} is {first:.3g} times the rate that was asked for"
                )
                need(abs(second - 1 - values.momentum) < 1e-6, f"the second step of {name} shows another momentum")
        for name in WEIGHTS:
            part = found["shrunk"][name] / (values.rate * values.decay)
            need(abs(part - 1) < 1e-5, f"{name} shrinks by {part:.3g} times what it should in one step")

    @check(points=2, hidden=True)
    def schedule(ask, values, reference):
        """The rate of every step."""
        for steps in (40, 200):
            rates = ask(training_of, steps)["rates"]
            moments = [steps * values.first_fall // 100, steps * values.second_fall // 100]
            for group in rates:
                falls = [step for step in range(1, steps) if group[step] < group[step - 1] * (1 - 1e-6)]
                late = {abs(a - b) for a, b in zip(falls, moments)} if len(falls) == 2 else set()
                need(late != {1}, f"with {steps} steps the rate falls one step too early or too late")
                need(falls == moments, f"with {steps} steps the rate falls at steps {falls}: not when the task says")
                for step, part in ((0, 1), (moments[0], values.factor), (moments[1], values.factor**2)):
                    need(
                        abs(group[step] / values.rate / part - 1) < 1e-6,
                        f"with {steps} steps the rate of step {step} is {group[step]:.4g}: another factor or first rate",
                    )


WEIGHTS = ("convolution.weight", "grouped.weight", "linear.weight")


def training_of(names, steps):
    """How the student's optimizer moves the parameters of a small network, and the rate of every step."""
    import warnings

    import torch
    from torch import nn

    make = probes.find(names, "make_training")

    def fresh():
        layers = {
            "convolution": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "grouped": nn.Conv2d(4, 4, 1, groups=2, bias=False),
            "group_norm": nn.GroupNorm(2, 4), "linear": nn.Linear(4, 5), "layer_norm": nn.LayerNorm(5),
        }  # fmt: skip
        network = nn.Sequential()
        for name, layer in layers.items():
            network.add_module(name, layer)
        network.double()
        for weight in network.parameters():
            weight.data.fill_(2.0)
        made = probes.made("make_training", make(network, steps))
        if not isinstance(made, (tuple, list)) or len(made) != 2 or not isinstance(made[0], torch.optim.Optimizer):
            raise Wrong("make_training should return an optimizer and a schedule, in this order")
        if not hasattr(made[1], "get_last_lr"):
            raise Wrong("make_training should return an optimizer and a schedule, in this order")
        return network, *made

    def step(network, optimizer, gradient):
        before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        for weight in network.parameters():
            weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        return {name: (before[name] - weight.detach()).mean().item() for name, weight in network.named_parameters()}

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of steps in another order
        network, optimizer, _ = fresh()
        shrunk = {name: moved / 2 for name, moved in step(network, optimizer, 0.0).items()}
        network, optimizer, _ = fresh()
        first, second = step(network, optimizer, 1.0), step(network, optimizer, 1.0)
        network, optimizer, schedule = fresh()
        rates = []
        for _ in range(steps):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    return {
        "shrunk": shrunk,
        "moves": {name: [first[name], second[name]] for name in first},
        "rates": [list(group) for group in zip(*rates)],
    }


class GoOnExactly(Exercise):
    """Find out why a training does not go on

    A colleague's machine is restarted every night. So she wrote `snapshot`, which takes down where a training stands,
    and `restore`, which puts another one into the same place. A training that goes on from a snapshot should end
    **exactly** where the unbroken one ends: same weights, same running statistics. Hers does not, though it learns on,
    and no message warns. **One place** is at fault, in `snapshot` or in `restore`; `begin` and `train` are right.

    Mend it in place; keep the names and arguments of the four functions. Then set `fault` to the word that names what
    was wrong:

    - `"statistics"`: the running statistics of the norm do not come back;
    - `"momentum"`: the optimizer's momentum does not come back;
    - `"schedule"`: where the schedule stands does not come back;
    - `"chance"`: the generator that shuffles the images does not stand where it stood;
    - `"copy"`: a snapshot goes on changing with the training.

    And set `shows` to the letter of the experiment that shows this fault, and shows none of the other four. Each
    begins with two epochs of training, before the rate falls for the first time:

    - `"A"`: take a snapshot, restore it at once into a new training, and list the rates of the next twenty steps of both.
    - `"B"`: take a snapshot, restore it at once into a new training, and do one step of both on the same batch. Compare
      the weights.
    - `"C"`: take a snapshot, write its numbers down, train for another epoch, and compare the snapshot with the notes.
    - `"D"`: take a snapshot, restore it at once into a new training, and compare the outputs of both networks in
      evaluation mode.
    - `"E"`: take a snapshot, restore it at once into a new training, and draw the next order of the images from both.
    """

    goal = "resume a training that was killed, and show that nothing is lost"
    kind = "break"
    minutes, difficulty, importance = 20, 4, 5
    practice = {"channels": 4, "_fault": "momentum", "_shows": "B"}
    hints = [
        "List everything that has a state and decides the next step. For each entry, follow it through `snapshot` and "
        "through `restore`.",
        "Running statistics are buffers, not parameters. A state dict holds the very tensors that the training goes on "
        "changing.",
        "Do the five experiments: each takes three or four lines with `begin`, `train`, `snapshot` and `restore`.",
    ]

    def draw(chance):
        fault, shows = chance.choice(
            [("statistics", "D"), ("momentum", "B"), ("schedule", "A"), ("chance", "E"), ("copy", "C")]
        )
        return {"channels": chance.choice([3, 5, 6, 8]), "_fault": fault, "_shows": shows}

    def solution():
        import copy

        def begin(seed):
            """A new training: everything in it has a state."""
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv2d(3, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(channels, 3),
            ).double()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 12])
            chance = torch.Generator().manual_seed(seed)
            return {"network": network, "optimizer": optimizer, "schedule": schedule, "chance": chance}

        def train(training, images, labels, epochs):
            """Train on batches of eight, in a new order in each epoch."""
            training["network"].train()
            for _ in range(epochs):
                order = torch.randperm(len(images), generator=training["chance"])
                for rows in order.split(8):
                    loss = F.cross_entropy(training["network"](images[rows]), labels[rows])
                    training["optimizer"].zero_grad()
                    loss.backward()
                    training["optimizer"].step()
                    training["schedule"].step()

        def snapshot(training):
            """Where a training stands."""
            state = {name: training[name].state_dict() for name in ("network", "optimizer", "schedule")}
            state["chance"] = training["chance"].get_state()
            return copy.deepcopy(state)

        def restore(training, state):
            """Put a training where another one stood."""
            # a copy, since an optimizer keeps the very tensors that it loads
            state = copy.deepcopy(state)
            training["network"].load_state_dict(state["network"])
            training["optimizer"].load_state_dict(state["optimizer"])
            training["schedule"].load_state_dict(state["schedule"])
            training["chance"].set_state(state["chance"])

        fault = "<<_fault>>"
        shows = "<<_shows>>"

    def right_as_bytes():
        import io

        PARTS = ("network", "optimizer", "schedule")

        def begin(seed):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3),
            ).double()  # fmt: skip
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 12])
            return dict(zip((*PARTS, "chance"), (network, optimizer, schedule, torch.Generator().manual_seed(seed))))

        def train(training, images, labels, epochs):
            network, optimizer, schedule = (training[name] for name in PARTS)
            network.train()
            for _ in range(epochs):
                for rows in torch.randperm(len(images), generator=training["chance"]).split(8):
                    optimizer.zero_grad()
                    F.cross_entropy(network(images[rows]), labels[rows]).backward()
                    optimizer.step()
                    schedule.step()

        def snapshot(training):
            file = io.BytesIO()
            states = [training[name].state_dict() for name in PARTS]
            torch.save([*states, training["chance"].get_state()], file)
            return file.getvalue()

        def restore(training, state):
            *states, chance = torch.load(io.BytesIO(state), weights_only=True)
            for name, own in zip(PARTS, states):
                training[name].load_state_dict(own)
            training["chance"].set_state(chance)

        fault, shows = "<<_fault>>", "<<_shows>>"

    def right_whole_copy():
        import copy

        def begin(seed):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3),
            ).double()  # fmt: skip
            training = {"network": network, "chance": torch.Generator().manual_seed(seed)}
            training["optimizer"] = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            training["schedule"] = torch.optim.lr_scheduler.MultiStepLR(training["optimizer"], [8, 12])
            return training

        def train(training, images, labels, epochs):
            training["network"].train()
            for _ in range(epochs):
                order = torch.randperm(len(images), generator=training["chance"])
                for rows in order.split(8):
                    loss = nn.CrossEntropyLoss()(training["network"](images[rows]), labels[rows])
                    training["optimizer"].zero_grad()
                    loss.backward()
                    training["optimizer"].step()
                    training["schedule"].step()

        def snapshot(training):
            # weights and optimizer in one copy, so that they still belong together
            chance = training["chance"].get_state()
            return [copy.deepcopy([training[name] for name in ("network", "optimizer", "schedule")]), chance]

        def restore(training, state):
            parts = copy.deepcopy(state[0])
            training.update(zip(("network", "optimizer", "schedule"), parts))
            training["chance"] = torch.Generator()
            training["chance"].set_state(state[1])

        fault = "<<_fault>>"
        shows = "<<_shows>>"

    faults = {
        "statistics": (
            'training["network"].load_state_dict(state["network"])',
            'for name, weight in training["network"].named_parameters():\n'
            '        weight.data.copy_(state["network"][name])',
        ),
        "momentum": (
            'training["optimizer"].load_state_dict(state["optimizer"])',
            'for own, old in zip(training["optimizer"].param_groups, state["optimizer"]["param_groups"]):\n'
            '        own["lr"], own["momentum"] = old["lr"], old["momentum"]',
        ),
        "schedule": (
            'training["schedule"].load_state_dict(state["schedule"])',
            'training["schedule"].base_lrs = state["schedule"]["base_lrs"]',
        ),
        "chance": (
            'training["chance"].set_state(state["chance"])',
            'training["chance"].manual_seed(training["chance"].initial_seed())',
        ),
        "copy": ("return copy.deepcopy(state)", "return copy.copy(state)"),
    }
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "statistics", "momentum", "schedule", "chance" or "copy"'),
             ('shows = "<<_shows>>"', 'shows = ...  # "A", "B", "C", "D" or "E"')]  # fmt: skip

    def wrong(values):
        words = ["statistics", "momentum", "schedule", "chance", "copy"]
        other = words[(words.index(values["_fault"]) + 1) % 5]
        letter = "ABCDE"[("ABCDE".index(values["_shows"]) + 1) % 5]
        return [
            ("fault-left", *GoOnExactly.faults[values["_fault"]], "does not end where the unbroken one ends"),
            ("another-fault", *GoOnExactly.faults[other], "does not end where the unbroken one ends"),
            ("nothing-restored", 'training["network"].load_state_dict(state["network"])', "pass",
             "does not end where the unbroken one ends"),
            ("generator-of-all", 'training["chance"].set_state(state["chance"])', 'torch.set_rng_state(state["chance"])',
             "does not end where the unbroken one ends"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{other}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "seed"', "is none of the words"),
            ("wrong-experiment", 'shows = "<<_shows>>"', f'shows = "{letter}"', "shows another fault"),
            ("no-letter", 'shows = "<<_shows>>"', "shows = 3", "is none of the letters"),
            ("restore-raises", 'state["chance"] = training["chance"].get_state()', "pass", "your code raised"),
            ("starts-elsewhere", "[8, 12]", "[6, 9]", "begin and train"),
        ]  # fmt: skip

    explanation = """
    The fault was `"<<_fault>>"`, and experiment <<_shows>> shows it alone. What decides the next step are five things:
    the weights, the running statistics (they are in the state dict, but not among the parameters), the momentum, the
    schedule's counter, and where chance stands.

    `"copy"` is the treacherous one. A state dict holds the network's own tensors, and a snapshot in memory changes with
    each further step: people who keep "the best weights" in this way end up with the last ones. Writing to a file makes
    a copy by itself. The other way round, an optimizer that loads a state goes on changing the tensors in it, so that
    `restore` copies before it loads, and a snapshot serves more than once.

    A training that has lost its momentum or its order of images still learns, and ends about as well as another seed
    would. So no curve shows the fault. Comparing with an unbroken run does, and it must be exact: "about the same" is
    what a lost momentum looks like, too.
    """
    marking = """
    The mended code is judged by what it does: any form of snapshot passes (bytes, copies, whole objects). Word and letter
    are one point each. Ask aloud: which of the five would be harmless if only the finished network is wanted?
    """

    @check(points=2)
    def mended(ask, values):
        """It ends where the unbroken training ends, and a snapshot serves twice."""
        for epochs in ((2, 3), (3, 2)):
            found = ask(went_on, *epochs)
            told = f"a training that goes on after {epochs[0]} epochs does not end where the unbroken one ends"
            for key in ("resumed", "again"):
                gaps = [
                    (found[key][name].double() - whole.double()).abs().max().item()
                    for name, whole in found["whole"].items()
                ]
                need(max(gaps) < 1e-9, told if key == "resumed" else f"{told} if its snapshot is used a second time")

    @check(points=1)
    def words(ask, values):
        """The word and the letter are among those of the task."""
        found = ask(probes.value, "fault")
        need(
            found in ("statistics", "momentum", "schedule", "chance", "copy"),
            f"fault = {found!r} is none of the words of the task",
        )
        found = ask(probes.value, "shows")
        need(found in ("A", "B", "C", "D", "E"), f"shows = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named, and the unbroken training is the one that was given."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")
        told = "the unbroken training itself is another one than that of the task: begin and train were right"
        for before, rates in ((2, (0.1, 0.001)), (3, (0.01, 0.001))):
            found = ask(went_on, before, 5 - before)
            need(all(abs(a - b) < 1e-9 for a, b in zip(found["rates"], rates)), told)
            need(found["momentum"] == 0.9 and found["shuffled"], told)
            need(sum(name.endswith("running_var") for name in found["whole"]) == 1, told)

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The experiment is the one that shows it."""
        need(ask(probes.value, "shows") == reference["shows"], "that experiment shows another fault, not this one")


def went_on(names, before, after):
    """The weights and statistics of a training in one piece, and of two that go on from its snapshot."""
    import torch

    begin, train, snapshot, restore = (probes.find(names, name) for name in ("begin", "train", "snapshot", "restore"))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (24,), generator=generator)
    images += labels.view(-1, 1, 1, 1)

    def weights(training):
        return {name: part.detach().clone() for name, part in training["network"].state_dict().items()}

    with torch.random.fork_rng(devices=[]):
        unbroken = probes.made("begin", begin(0))
        train(unbroken, images, labels, before)
        group, order = unbroken["optimizer"].param_groups[0], unbroken["chance"].get_state()
        rates = [group["lr"]]
        state = probes.made("snapshot", snapshot(unbroken))
        train(unbroken, images, labels, after)
        found = {"whole": weights(unbroken), "momentum": group["momentum"], "rates": [*rates, group["lr"]]}
        found["shuffled"] = not torch.equal(order, unbroken["chance"].get_state())
        for key, seed in (("resumed", 1), ("again", 2)):
            training = begin(seed)
            restore(training, state)
            train(training, images, labels, after)
            found[key] = weights(training)
    return found
