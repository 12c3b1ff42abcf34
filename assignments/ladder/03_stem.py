"""The stem

You build a stem for small images, work out by hand where a stem spends its multiply-accumulates, predict what another
stem does to the whole network, and design an entry of your own that has to keep within a budget. Do the chapter first.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn


def numbers_of(found, name, length):
    """A list of numbers of the student's, or what is wrong with it."""
    import torch

    found = found.tolist() if isinstance(found, torch.Tensor) else found
    need(
        isinstance(found, (list, tuple)) and len(found) == length, f"{name} should be a list of {length}, not {found!r}"
    )
    return [number_of(part, name) for part in found]


class SmallStem(Exercise):
    """A stem for small images

    The stem of the chapter leaves a quarter of each side. For photographs that is a good start; of an image of
    <<side>> pixels too little is left for four stages. Write `make_stem(widths, small=False)`, which returns a network:

    - for each width a 3x3 convolution without bias, batch norm and ReLU;
    - with `small=False` it is the stem of the chapter: the first convolution has stride 2, and a 3x3 max pool with
      stride 2 (padding 1) ends it;
    - with `small=True` nothing shrinks the image: no stride, and no max pool.

    `widths` may have any length. Then say what a ResNet-18 makes of an image of <<side>> pixels: `sides_large` and
    `sides_small` are lists of four whole numbers, the side of the maps that leave its four stages behind
    `make_stem((32, 32, 64))` and behind `make_stem((32, 32, 64), small=True)`.
    """

    goal = "redesign the entry of a network for the images that it gets"
    kind = "build"
    minutes, difficulty, importance = 15, 2, 4
    practice = {"side": 32}
    hints = [
        "Go through the widths in a loop that knows the number of the layer, and remember how many channels come in.",
        "Collect the layers in a list. What has to be different in it for small images, and at which two places?",
        "The first stage keeps the size, each further one halves it. Both a 3x3 convolution with stride 2 and the pool, "
        "with padding 1, round up.",
    ]

    def draw(chance):
        return {"side": chance.choice([28, 36, 40, 44, 48, 52])}

    def stub():
        def make_stem(widths, small=False): ...  # a network

        sides_large = ...  # four numbers, one for each stage
        sides_small = ...

    def solution():
        def make_stem(widths, small=False):
            layers, in_channels = [], 3
            for number, width in enumerate(widths):
                stride = 2 if number == 0 and not small else 1
                layers.append(nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False))
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            if not small:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            return nn.Sequential(*layers)

        def sides_of(first):
            found = [first]
            for _ in range(3):
                found.append((found[-1] + 1) // 2)
            return found

        sides_large = sides_of((side + 3) // 4)
        sides_small = sides_of(side)

    def right_class():
        import torch.nn.functional as F

        class make_stem(nn.Module):
            def __init__(self, widths, small=False):
                super().__init__()
                self.small = small
                sources = [3, *widths[:-1]]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(a, b, (3, 3), padding=1, bias=False) for a, b in zip(sources, widths)
                )
                if not small:
                    self.convolutions[0].stride = (2, 2)
                self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    x = F.relu(norm(convolution(x)))
                return x if self.small else F.max_pool2d(x, 3, 2, 1)

        import math

        sides_small = [math.ceil(side / 2**n) for n in range(4)]
        sides_large = [math.ceil(side / 2**n) for n in range(2, 6)]

    def right_bricks():
        def brick(a, b, stride):
            return nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.Threshold(0.0, 0.0, inplace=True)
            )

        def make_stem(widths, small=False):
            bricks = [brick(3, widths[0], 1 if small else 2)]
            bricks += [brick(a, b, 1) for a, b in zip(widths, widths[1:])]
            end = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
            return nn.Sequential(*bricks, end)

        def measured(small):
            x, found = torch.zeros(1, 1, side, side), []
            shrink = nn.MaxPool2d(3, 2, 1)
            x = x if small else shrink(shrink(x))
            for stage in range(4):
                x = x if stage == 0 else shrink(x)
                found.append(x.shape[-1])
            return tuple(found)

        sides_large, sides_small = measured(False), measured(True)

    wrong = [
        ("pool-always", "if not small:", "if True:", "small=True"),
        ("stride-always", "2 if number == 0 and not small else 1", "2 if number == 0 else 1", "small=True"),
        ("stride-on-each", "2 if number == 0 and not small else 1", "1 if small else 2", "the first convolution alone"),
        ("no-pool", "layers.append(nn.MaxPool2d(3, stride=2, padding=1))", "pass", "stride of the first convolution and"),
        ("bias", "padding=1, bias=False", "padding=1", "bias"),
        ("no-padding", "stride=stride, padding=1", "stride=stride", "padding"),
        ("norm-forgotten", "layers += [nn.BatchNorm2d(width), nn.ReLU()]", "layers += [nn.ReLU()]", "a norm after each"),
        ("relu-forgotten", "nn.BatchNorm2d(width), nn.ReLU()", "nn.BatchNorm2d(width)", "below zero"),
        ("relu-before-norm", "[nn.BatchNorm2d(width), nn.ReLU()]", "[nn.ReLU(), nn.BatchNorm2d(width)]", "below zero"),
        ("channels-not-carried", "in_channels = width", "in_channels = 3", "your code raised"),
        ("average-pool", "nn.MaxPool2d(3, stride=2, padding=1)", "nn.AvgPool2d(3, stride=2, padding=1)", "the pool"),
        ("first-stage-halves", "found = [first]", "found = [(first + 1) // 2]", "which the first stage keeps"),
        ("not-halved", "(found[-1] + 1) // 2", "found[-1]", "halves"),
        ("three-stages", "range(3)", "range(2)", "a list of 4"),
    ]  # fmt: skip

    explanation = """
    The stem decides the size at which everything behind it works. An image of <<side>> pixels leaves the usual stem
    with <<(side + 3) // 4>> pixels a side, and the last stage gets by with <<(side + 31) // 32>>: a 3x3 convolution there sees
    padding more than picture. Without stride and pool the last stage has <<(side + 7) // 8>> pixels a side, about what
    a photograph of <<4 * side>> pixels leaves to it. That is why networks for images of this size have another stem, and
    the rest as it is.

    Nothing else changes: the weights of both stems have the same shapes, since stride and pooling have no
    parameters. What changes is the price, as the third exercise shows.
    """
    marking = """
    The stems are compared with the reference in float64 under random weights, so a class, functions or other names are
    fine. The two lists are judged apart from the stem. Ask aloud: could you load the weights of one stem into the
    other, and would you want to?
    """

    @check(points=1)
    def shapes(ask, values):
        """Shapes of both stems."""
        for widths in ([32, 32, 64], [8, 12], [8, 8, 8, 16]):
            for small in (False, True):
                out = ask(probes.outline, "make_stem", [2, 3, 32, 32], (widths, small))["out"]
                what = f"make_stem({widths}, small={small})"
                need(len(out) == 4 and out[1] == widths[-1], f"{what} should end with {widths[-1]} channels: {out}")
                reason = "the image should keep its size: what still shrinks it?" if small else (
                    "the stride of the first convolution and the pool should each halve the image, once"
                    if out[2] > 8 else "the image shrinks too much: the first convolution alone has stride 2; is there padding?"
                )  # fmt: skip
                if small and out[2] in (26, 28, 24, 30):
                    reason = "each convolution takes some pixels away at the border: what does padding do?"
                need(out[2:] == ([32, 32] if small else [8, 8]), f"{what} makes {out[2:]} of 32x32 pixels; {reason}")

    @check(points=1)
    def bricks(ask, values):
        """Convolutions without bias, norms, and ReLUs."""
        import torch

        for widths in ([32, 32, 64], [8, 12]):
            found = ask(probes.outline, "make_stem", [2, 3, 16, 16], (widths, True))
            convolutions = [layer for layer in found["layers"] if layer["kind"] == "Conv2d"]
            need(
                len(convolutions) == len(widths),
                f"widths {widths} should give {len(widths)} convolutions, one for each",
            )
            need(not any(layer["bias"] for layer in convolutions), "a convolution before a norm needs no bias")
            norms = [layer["num_features"] for layer in found["layers"] if layer["kind"] == "BatchNorm2d"]
            need(norms == list(widths), f"there should be a norm after each convolution, of its width: found {norms}")
        images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
        out = ask(probes.run, "make_stem", images, ([8, 12], True))["out"]
        need(bool((out >= 0).all()), "some outputs are below zero: each brick should end with its ReLU")

    @check(points=1)
    def halving(ask, values):
        """Four sides each, and stages that halve."""
        for name in ("sides_large", "sides_small"):
            found = numbers_of(ask(probes.value, name), name, 4)
            for before, after in zip(found, found[1:]):
                need(
                    after == (before + 1) // 2,
                    f"{name}: each stage but the first halves the side, rounded up; {after:g} does not follow {before:g}",
                )

    @check(points=2, hidden=True)
    def same_function(ask, values, reference):
        """The same function as the stems of the chapter, for random weights."""
        for arguments, training in [
            (([8, 8, 16], False), True),
            (([8, 12], True), False),
            (([6, 8, 8, 10], True), True),
        ]:
            need_same(
                ask, "make_stem", reference["make_stem"], [3, 3, 18, 18], arguments, training=training,
                message=f"make_stem{arguments}: shapes and layers are right, the result is not; look at the order of norm "
                "and ReLU, and at the pool",
            )  # fmt: skip
        need_same(
            ask, "make_stem", reference["make_stem"], [2, 3, 21, 19], ([6, 8], False),
            message="for an image of 21x19 pixels the result is another one: look at kernel and padding of the pool",
        )  # fmt: skip

    @check(points=1, hidden=True)
    def sides(ask, values, reference):
        """The sides are right."""
        for name in ("sides_large", "sides_small"):
            found = numbers_of(ask(probes.value, name), name, 4)
            need(
                found == [float(part) for part in reference[name]],
                f"{name} begins with another side than the stem leaves, which the first stage keeps",
            )


class CostByHand(Exercise):
    """Where a stem spends its MACs

    A stem has <<_how_many>> 3x3 convolutions of <<widths>> channels on an image of <<image>>x<<image>> pixels in
    colour. The first has stride 2, each is followed by batch norm and ReLU, none has a bias, and a 3x3 max pool with
    stride 2 ends it. Work out by hand:

    - `parameters`: a list, one number for each convolution **together with its norm**;
    - `macs`: a list, the multiply-accumulates of each convolution for one image;
    - `seven_macs`: the multiply-accumulates of the original's entry, one 7x7 convolution with stride 2 to
      <<widths[-1]>> channels, on the same image;
    - `window`: the side, in pixels of the image, of what one pixel **behind the max pool** sees.

    Formulas of Python are welcome, so that you can find a slip.
    """

    goal = "count parameters and MACs by layer, by hand"
    kind = "compute"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"widths": [32, 32, 64], "image": 128, "_how_many": "three"}
    hints = [
        "A convolution has kernel * kernel * in * out weights, and uses each of them once at each pixel of its output.",
        "How many channels does the first convolution get, and how large are the maps that all of them write?",
        "For the window go backwards from one pixel: a 3x3 layer over maps whose neighbours lie d image pixels apart "
        "adds 2 * d. Which stride makes d larger, and for which layers?",
    ]

    def draw(chance):
        lists = [[16, 24], [24, 48], [16, 16, 32], [24, 24, 48], [24, 32, 48], [16, 24, 24, 40], [16, 16, 32, 32]]
        chosen = chance.choice(lists)
        words = {2: "two", 3: "three", 4: "four"}
        return {"widths": chosen, "image": chance.choice([64, 96, 160, 192, 224]), "_how_many": words[len(chosen)]}

    def stub():
        parameters = ...  # a list
        macs = ...  # a list
        seven_macs = ...
        window = ...

    def solution():
        sources = [3] + widths[:-1]
        weights = [9 * a * b for a, b in zip(sources, widths)]
        parameters = [count + 2 * b for count, b in zip(weights, widths)]
        pixels = (image // 2) ** 2
        macs = [count * pixels for count in weights]
        seven_macs = 7 * 7 * 3 * widths[-1] * pixels
        window = 3 + 4 * (len(widths) - 1) + 4

    def right_by_code():
        convolutions, in_channels = [], 3
        for number, width in enumerate(widths):
            convolutions.append(nn.Conv2d(in_channels, width, 3, 1 if number else 2, 1, bias=False))
            in_channels = width
        parameters = [layer.weight.numel() + 2 * layer.out_channels for layer in convolutions]
        x, macs = torch.zeros(1, 3, image, image), []
        for layer in convolutions:
            x = layer(x)
            macs.append(x.shape[2] * x.shape[3] * layer.weight.numel())
        seven_macs = macs[0] / 27 / widths[0] * 147 * widths[-1]
        window, apart = 1, 1
        for stride in [2] + [1] * (len(widths) - 1) + [2]:
            window, apart = window + 2 * apart, apart * stride

    def right_numpy():
        import numpy as np

        before, after = np.array([3, *widths[:-1]]), np.array(widths)
        parameters = torch.tensor(9 * before * after + 2 * after)
        macs = tuple(float(part) for part in before * after * 9 * (image / 2) ** 2)
        seven_macs = np.int64(147 * after[-1] * image * image // 4)
        window = [None, 7, 11, 15, 19][len(widths)]

    wrong = [
        ("norms-forgotten", "count + 2 * b for", "count for", "norm"),
        ("bias-counted", "count + 2 * b for", "count + 3 * b for", "bias"),
        ("grey-image", "[3] + widths", "[1] + widths", "the first"),
        ("own-width-twice", "[3] + widths[:-1]", "[3] + widths[1:]", "how many channels come in"),
        ("first-at-full-size", "macs = [count * pixels for count in weights]",
         "macs = [count * (pixels if n else image**2) for n, count in enumerate(weights)]", "of its output"),
        ("all-at-full-size", "(image // 2) ** 2", "image**2", "of its output"),
        ("after-the-pool", "macs = [count * pixels for", "macs = [count * pixels // 4 for", "before the pool"),
        ("each-halves", "macs = [count * pixels for count in weights]",
         "macs = [count * pixels // 4**n for n, count in enumerate(weights)]", "which of them has a stride"),
        ("norms-in-macs", "count * pixels for count in weights", "count * pixels for count in parameters",
         "which kernel"),
        ("seven-for-one-channel", "7 * 7 * 3 *", "7 * 7 *", "seven_macs"),
        ("one-number", "parameters = [count + 2 * b for count, b in zip(weights, widths)]", "parameters = 9 * 3 * 32",
         "should be a list"),
        ("before-the-pool", "(len(widths) - 1) + 4", "(len(widths) - 1)", "the pool is a layer"),
        ("stride-forgotten", "3 + 4 * (len(widths) - 1) + 4", "3 + 2 * (len(widths) - 1)", "two image pixels apart"),
        ("window-guessed", "window = 3 + 4 * (len(widths) - 1) + 4", "window = 7 * len(widths) + 20", "backwards"),
    ]  # fmt: skip

    explanation = """
    All convolutions of the stem write maps of <<image // 2>>x<<image // 2>> pixels: the first halves the image, the
    pool comes behind the last. So MACs are the weights times the same number of pixels, and the last convolution,
    9 * <<widths[-2]>> * <<widths[-1]>> weights, costs most by far. The first costs little although its window lies on the
    largest map, because a colour image has three channels only. For the same reason the 7x7 convolution of the
    original is no luxury: its 49 taps are spent on three channels.

    The window grows by two steps a 3x3 layer. A step is one image pixel for the first layer, and two behind its
    stride, so each further convolution adds four, and the pool another four.
    """
    marking = """
    A point each for parameters, MACs (both) and window, all exact. Ask aloud: the image gets twice as large on each
    side; which of the four answers change, and how?
    """

    @check(points=1)
    def written(ask, values):
        """Two lists and two numbers."""
        for name in ("parameters", "macs"):
            found = numbers_of(ask(probes.value, name), name, len(values.widths))
            need(min(found) > 0, f"{name}: each of them should be more than zero")
        for name in ("seven_macs", "window"):
            need(number_of(ask(probes.value, name), name) > 0, f"{name} should be more than zero")

    @check(points=1, hidden=True)
    def weights(ask, values, reference):
        """Parameters of each convolution with its norm."""
        found = numbers_of(ask(probes.value, "parameters"), "parameters", len(values.widths))
        for number, (own, right, width) in enumerate(zip(found, reference["parameters"], values.widths)):
            told = {-2: "is its norm counted, two numbers a channel?", 1: "has a convolution before a norm a bias?"}
            reason = told.get((own - right) / width, "which kernel, and how many channels come in and go out?")
            if number == 0 and own != right and (own - right) / width not in told:
                reason = "how many channels come in to the first?"
            need(own == right, f"parameters[{number}] is off by {own - right:+,.0f}: {reason}")

    @check(points=1, hidden=True)
    def multiplications(ask, values, reference):
        """MACs of the stem and of the original's entry."""
        found = numbers_of(ask(probes.value, "macs"), "macs", len(values.widths))
        for number, (own, right) in enumerate(zip(found, reference["macs"])):
            told = {4: "each weight is used once at each pixel of its output: how large is that?",
                    0.25: "how large is its output, before the pool, and which of them has a stride?"}  # fmt: skip
            reason = told.get(own / right, "which kernel, and how many channels come in and go out?")
            need(own == right, f"macs[{number}] is {own / right:.3g} times what it should be: {reason}")
        own = number_of(ask(probes.value, "seven_macs"), "seven_macs")
        need(
            abs(own / reference["seven_macs"] - 1) < 1e-9,
            "seven_macs: 7 * 7 taps, from how many channels to how many, at how many pixels?",
        )

    @check(points=1, hidden=True)
    def seen(ask, values, reference):
        """The window behind the max pool."""
        own = number_of(ask(probes.value, "window"), "window")
        off = own - reference["window"]
        reason = "go backwards from one pixel behind the pool, layer by layer"
        if off == -4:
            reason = "the pool is a layer with a 3x3 window, too"
        elif -2 * len(values.widths) - 4 <= off < 0:
            reason = "behind the stride, neighbours are two image pixels apart"
        need(off == 0, f"window = {own:g} is not right: {reason}")


class AnotherStem(Exercise):
    """Predict the price of another stem

    For images of <<picture>> pixels somebody takes <<change>> out of the stem, and leaves the rest of the network as it
    is. Write your `prediction` first: **how many times** the MACs of its convolutions does the whole network have
    afterwards? Then run the cell: it counts them in both networks, layer by layer as they run, and sets `measured`.

    Compare, and answer:

    - `stem_factor`: how many times the MACs do the convolutions of the **stem** have, after the change;
    - `stage_factor`: how many times the MACs do those of the **stages** have;
    - `parameter_factor`: how many times the parameters does the network have;
    - `width_divisor`: behind the new stem, the **stages** should cost what they did before. By which number would you
      divide all widths of the network?
    """

    goal = "say what the entry does to the cost of everything behind it"
    kind = "predict"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"picture": 32, "change": "stride and max pool", "thin": 16}
    hints = [
        "How large are the maps of the stem before and after the change, and how large are those of each stage?",
        "A map with twice the side has four times the pixels. Does a weight know how often it is used?",
        "In a convolution inside a stage, both the channels that come in and those that go out depend on the width.",
    ]

    def draw(chance):
        change = chance.choice(["the stride", "the max pool", "stride and max pool"])
        return {"picture": chance.choice([32, 64, 96]), "change": change, "thin": chance.choice([12, 16, 20])}

    def stub():
        prediction = ...  # how many times the MACs

        def convolutions(channels, strides):
            return [nn.Conv2d(a, b, 3, s, 1, bias=False) for a, b, s in zip(channels, channels[1:], strides)]

        def thin_network(stride, pool):
            layers = convolutions([3, thin, thin, 2 * thin], [stride, 1, 1])
            layers += [nn.MaxPool2d(3, 2, 1)] if pool else []
            channels = [2 * thin] + [2 * thin * 2 ** (n // 2) for n in range(8)]
            return nn.Sequential(*layers, *convolutions(channels, [1, 1, 2, 1, 2, 1, 2, 1]))

        def macs_of_convolutions(network):
            total, x = 0, torch.zeros(1, 3, picture, picture)
            for layer in network:
                x = layer(x)
                if isinstance(layer, nn.Conv2d):
                    total += layer.weight.numel() * x.shape[2] * x.shape[3]
            return total

        measured = ...
        if prediction is not ...:
            with torch.no_grad():
                before = macs_of_convolutions(thin_network(2, True))
                after = macs_of_convolutions(thin_network(1 if "stride" in change else 2, "max pool" not in change))
            measured = after / before
            print(f"predicted {prediction} times, counted {measured:.2f} times")

        stem_factor = ...
        stage_factor = ...
        parameter_factor = ...
        width_divisor = ...

    def solution():
        prediction = 12  # how many times the MACs

        def convolutions(channels, strides):
            return [nn.Conv2d(a, b, 3, s, 1, bias=False) for a, b, s in zip(channels, channels[1:], strides)]

        def thin_network(stride, pool):
            layers = convolutions([3, thin, thin, 2 * thin], [stride, 1, 1])
            layers += [nn.MaxPool2d(3, 2, 1)] if pool else []
            channels = [2 * thin] + [2 * thin * 2 ** (n // 2) for n in range(8)]
            return nn.Sequential(*layers, *convolutions(channels, [1, 1, 2, 1, 2, 1, 2, 1]))

        def macs_of_convolutions(network):
            total, x = 0, torch.zeros(1, 3, picture, picture)
            for layer in network:
                x = layer(x)
                if isinstance(layer, nn.Conv2d):
                    total += layer.weight.numel() * x.shape[2] * x.shape[3]
            return total

        measured = ...
        if prediction is not ...:
            with torch.no_grad():
                before = macs_of_convolutions(thin_network(2, True))
                after = macs_of_convolutions(thin_network(1 if "stride" in change else 2, "max pool" not in change))
            measured = after / before
            print(f"predicted {prediction} times, counted {measured:.2f} times")

        stem_factor = 4 if "stride" in change else 1
        stage_factor = 16 if "stride and" in change else 4
        parameter_factor = 1
        width_divisor = stage_factor**0.5

    def right_by_formula():
        prediction = 2.5
        stem = [27 * thin, 9 * thin * thin, 18 * thin * thin]
        wide = [2 * thin * 2 ** (n // 2) for n in range(8)]
        stages = [9 * a * b for a, b in zip([2 * thin, *wide], wide)]

        def cost(side, first):
            return sum(stem) * side**2 + sum(s * (first // 2 ** (n // 2)) ** 2 for n, s in enumerate(stages))

        new_stem = picture if "stride" in change else picture // 2
        new_first = new_stem if "pool" in change else new_stem // 2
        measured = cost(new_stem, new_first) / cost(picture // 2, picture // 4)
        stem_factor = (new_stem / (picture // 2)) ** 2
        stage_factor = (new_first / (picture // 4)) ** 2
        parameter_factor = 1.0
        width_divisor = new_first // (picture // 4)

    def right_by_hooks():
        prediction = 1.5

        def make(stride, pool):
            layers, a = [], 3
            for b, s in [(thin, stride), (thin, 1), (2 * thin, 1)]:
                layers.append(nn.Conv2d(a, b, 3, stride=s, padding=1, bias=False))
                a = b
            layers.append(nn.MaxPool2d(3, 2, 1) if pool else nn.Identity())
            for stage in range(4):
                for number in range(2):
                    b = 2 * thin * 2**stage
                    s = 2 if stage and not number else 1
                    layers.append(nn.Conv2d(a, b, 3, stride=s, padding=1, bias=False))
                    a = b
            return nn.Sequential(*layers)

        def counted(network):
            found = []
            for layer in network:
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_hook(lambda m, i, o: found.append(m.weight.numel() * o[0, 0].numel()))
            network(torch.zeros(1, 3, picture, picture))
            return torch.tensor([sum(found[:3]), sum(found[3:])], dtype=torch.float64)

        old = counted(make(2, True))
        new = counted(make(1 if "stride" in change else 2, "pool" not in change))
        measured = new.sum() / old.sum()
        stem_factor, stage_factor = (new / old).round().tolist()
        parameter_factor = 1
        width_divisor = round(stage_factor**0.5)

    def wrong(values):
        other = "parameter_factor = 1"
        return [
            ("no-number", "prediction = 12", 'prediction = "more"', "should be a number"),
            ("below-one", "prediction = 12", "prediction = 0.5", "cannot"),
            ("per-cent", "prediction = 12", "prediction = 1600", "cannot"),
            ("not-run", "measured = after / before", "measured = 7.5", "not what the cell counts"),
            ("upside-down", "measured = after / before", "measured = before / after", "fewer MACs after"),
            ("stem-as-stages", 'stem_factor = 4 if "stride" in change else 1',
             'stem_factor = 1 if "stride" in change else 4', "stem_factor"),
            ("sides-not-pixels", 'stage_factor = 16 if "stride and" in change else 4',
             'stage_factor = 4 if "stride and" in change else 2', "two sides"),
            ("total-for-stages", 'stage_factor = 16 if "stride and" in change else 4', "stage_factor = 9", "stage_factor"),
            ("parameters-grow", other, "parameter_factor = 4", "parameter_factor"),
            ("divided-by-the-factor", "stage_factor**0.5", "stage_factor", "too small"),
            ("divided-too-little", "stage_factor**0.5", "stage_factor**0.25", "too much"),
        ]  # fmt: skip

    explanation = """
    Without <<change>>, the maps of the stages have <<4 if 'and' in change else 2>> times the side and
    <<16 if 'and' in change else 4>> times the pixels, in every stage, since each halves what it gets. The stem's
    convolutions work on <<'four times as many pixels' if 'stride' in change else 'maps of the size that they had: the pool comes behind them'>>.
    The whole network lies between the two factors, and near that of the stages, where most of the MACs are. If you
    predicted a factor of the side, you forgot that an image has two of them.

    No parameter changes, because stride and pool have none. And a convolution inside the network has width times
    width weights, so dividing all widths by the root of the factor brings the cost of the stages back. (The first
    convolution has three channels to begin with, whatever the width: it only gets cheaper in proportion.)
    """
    marking = """
    The prediction earns its point whatever it is, if it is possible. The measurement is compared with the count of the
    reference; the answers are exact. Ask aloud: why is the measured factor never above that of the stages?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction that is possible, and a measurement."""
        own = number_of(ask(probes.value, "prediction"), "prediction")
        need(
            1 <= own <= 100,
            f"prediction = {own:g} times cannot be: larger maps cost no less, and not more than a hundred times as much",
        )
        own = number_of(ask(probes.value, "measured"), "measured")
        need(own >= 1, "measured says that there are fewer MACs after the change than before: what is divided by what?")

    @check(points=1, hidden=True)
    def counted(ask, values, reference):
        """The measurement was run."""
        own = number_of(ask(probes.value, "measured"), "measured")
        need(
            abs(own / float(reference["measured"]) - 1) < 1e-6,
            "measured is not what the cell counts: run the cell again, as it was given",
        )

    @check(points=2, hidden=True)
    def factors(ask, values, reference):
        """What happens to stem, stages and parameters."""
        for name in ("stem_factor", "stage_factor", "parameter_factor"):
            own, right = number_of(ask(probes.value, name), name), reference[name]
            reason = "how large are the maps there before and after, and what depends on that?"
            if right > 1 and abs(own - right**0.5) < 1e-9:
                reason = "a map has two sides, and both of them grow"
            need(abs(own - right) < 1e-6, f"{name} = {own:g} is not right: {reason}")

    @check(points=1, hidden=True)
    def thinner(ask, values, reference):
        """The widths that bring the cost back."""
        own, right = number_of(ask(probes.value, "width_divisor"), "width_divisor"), reference["width_divisor"]
        told = "the stages would be too small: how do MACs depend on the width?" if own > right else (
            "the stages would still cost too much: how do MACs depend on the width?"
        )  # fmt: skip
        need(abs(own - right) < 0.05 * right, f"width_divisor = {own:g}: {told}")


class EntryWithinABudget(Exercise):
    """Design an entry within a budget

    Design an entry of your own for images of <<pixels>> pixels. Write `make_entry()`, which returns a network (an
    `nn.Module`) that

    - takes (N, 3, H, W) and gives (N, <<out_width>>, H / 4, W / 4), for every H and W that 4 divides;
    - has at most **<<f'{max_parameters:,}'>> parameters**, and at most **<<f'{max_macs:,}'>> MACs** for an image of
      <<pixels>>x<<pixels>> pixels (those of its convolutions, as in the chapter);
    - has no other layers with parameters than convolutions (`nn.Conv2d`, without bias) and batch norms
      (`nn.BatchNorm2d`), and **each convolution is followed directly by a norm**;
    - has pixels in its output that each see at least <<window_side>>x<<window_side>> pixels of the image;
    - skips no pixel of the image: each has a say in the output.

    The stem of the chapter, with these channels at its end, is too dear. Many answers are right. Begin with a table on
    paper: layers, weights, size of the output, MACs.
    """

    goal = "redesign the entry of a network under a budget"
    kind = "design"
    minutes, difficulty, importance = 25, 4, 5
    practice = {"out_width": 64, "pixels": 128, "max_parameters": 14000, "max_macs": 25900000, "window_side": 11}
    hints = [
        "Which layer of the chapter's stem costs most? On how many pixels does it work, and must it?",
        "Two strides are needed; they may be anywhere, in a convolution or in a pool. Where do they save most, and what do "
        "they do to the window of the layers behind them?",
        "Narrow first, wide last. There are also larger kernels on the three channels of the image, 1x1 convolutions, and "
        "convolutions with groups.",
    ]

    def draw(chance):
        width, pixels = chance.choice([48, 56, 64, 80, 96]), chance.choice([96, 128, 160])
        inner = width // 4
        macs = (pixels // 4) ** 2 * (108 * inner + 72 * inner**2)
        parameters = 39 * inner + 45 * inner**2
        return {
            "out_width": width,
            "pixels": pixels,
            "max_parameters": -(-parameters * 115 // 10000) * 100,
            "max_macs": -(-macs * 125 // 10**7) * 10**5,
        }

    def stub():
        def make_entry(): ...  # a network within the budget

    def solution():
        def brick(in_channels, out_channels, stride):
            convolution = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())

        def make_entry():
            inner = out_width // 4
            return nn.Sequential(brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2))

    def right_large_kernel():
        import torch.nn.functional as F

        class Entry(nn.Module):
            def __init__(self, inner, width):
                super().__init__()
                self.large = nn.Conv2d(3, inner, 7, stride=2, padding=3, bias=False)
                self.first_norm = nn.BatchNorm2d(inner)
                self.small = nn.Conv2d(inner, width, 3, stride=2, padding=1, bias=False)
                self.second_norm = nn.BatchNorm2d(width)

            def forward(self, x):
                return F.relu(self.second_norm(self.small(F.relu(self.first_norm(self.large(x))))))

        from functools import partial

        make_entry = partial(Entry, out_width // 4, width=out_width)

    def right_patches():
        def make_entry():
            inner = out_width // 4
            return nn.Sequential(
                nn.Conv2d(3, inner, kernel_size=4, stride=4, bias=False),
                nn.BatchNorm2d(inner),
                nn.GELU(),
                nn.Conv2d(inner, out_width, 3, padding="same", bias=False),
                nn.BatchNorm2d(out_width),
                nn.ReLU6(),
            )

    def right_by_groups():
        def make_entry():
            inner = out_width // 4
            layers = [nn.Conv2d(3, inner, 3, 2, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
            layers += [nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
            layers += [nn.Conv2d(inner, out_width, 1, bias=False), nn.BatchNorm2d(out_width), nn.ReLU()]
            return nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1))

    wrong = [
        ("stem-of-the-chapter", "return nn.Sequential(brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2))",
         "return nn.Sequential(brick(3, 32, 2), brick(32, 32, 1), brick(32, out_width, 1), nn.MaxPool2d(3, 2, 1))",
         "too many"),
        ("one-large-kernel", "return nn.Sequential(brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2))",
         "return nn.Sequential(nn.Conv2d(3, out_width, 11, 4, 5, bias=False), nn.BatchNorm2d(out_width))",
         "too many parameters"),
        ("late-stride", "brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2)",
         "brick(3, inner, 1), brick(inner, inner, 1), brick(inner, out_width, 1), nn.MaxPool2d(4)", "too many MACs"),
        ("small-window", "brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2)",
         "brick(3, inner, 2), brick(inner, out_width, 2)", "sees"),
        ("skips-pixels", "brick(3, inner, 2), brick(inner, inner, 1), brick(inner, out_width, 2)",
         "nn.MaxPool2d(1, 2), brick(3, inner, 1), brick(inner, inner, 1), brick(inner, out_width, 2)",
         "skipped"),
        ("three-strides", "brick(inner, inner, 1)", "brick(inner, inner, 2)", "a quarter"),
        ("fixed-size", "brick(inner, out_width, 2))",
         "brick(inner, out_width, 2), nn.AdaptiveAvgPool2d(pixels // 4))", "a quarter"),
        ("bias", "padding=1, bias=False", "padding=1", "bias"),
        ("norm-forgotten", "nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())",
         "nn.Sequential(convolution, nn.ReLU())", "followed directly by a norm"),
        ("norm-after-relu", "nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())",
         "nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(out_channels))", "followed directly by a norm"),
        ("another-norm", "nn.BatchNorm2d(out_channels)", "nn.GroupNorm(1, out_channels)", "no other layers"),
        ("wrong-width", "brick(inner, out_width, 2)", "brick(inner, inner, 2)", "channels"),
        ("a-tensor", "return nn.Sequential(brick(3", "return nn.Sequential, (brick(3", "should return a network"),
    ]  # fmt: skip

    explanation = """
    In the stem of the chapter the widest layer works on the largest map: its last convolution runs at half the side
    of the image, and the pool throws three quarters of its results away. Moving that stride into the convolution
    divides its cost by four. What the entry gives up is the choice that the max pool makes among them.

    Other answers save elsewhere. A 7x7 convolution on three channels has few weights for a large window. Patches of
    4x4 pixels, cut without overlap, make every later layer cheap, and a window of three patches is large at once.
    A convolution in groups, with a 1x1 behind it, splits looking around from mixing channels. Whether any of them
    is as accurate cannot be counted: that takes training, one change at a time, with more than one seed.
    """
    marking = """
    Judged by properties only, with a window found by gradients under positive weights. A point each for shape, layers,
    budget, window and pixels. Ask aloud: which layer of your entry costs most, and what would a stride of two before
    it cost in exchange?
    """

    @check(points=1)
    def shape(ask, values):
        """A quarter of each side, and the channels."""
        for height, width in [(values.pixels, values.pixels), (32, 48), (64, 36)]:
            out = ask(probes.outline, "make_entry", [2, 3, height, width])["out"]
            need(
                len(out) == 4 and out[1] == values.out_width,
                f"there should be {values.out_width} channels at the end: {out}",
            )
            need(
                out[2:] == [height // 4, width // 4],
                f"{height}x{width} pixels should become a quarter of each side, but the output has {out[2]}x{out[3]}",
            )

    @check(points=1)
    def layers(ask, values):
        """Convolutions without bias, each followed by a norm."""
        found = ask(probes.outline, "make_entry", [2, 3, 32, 32])
        need(not found["unused"], f"some layers do not run: {found['unused']}")
        parts = {layer["name"]: layer for layer in found["layers"] if layer["parameters"]}
        others = sorted({layer["kind"] for layer in parts.values()} - {"Conv2d", "BatchNorm2d"})
        total = sum(layer["parameters"] for layer in parts.values())
        need(
            not others,
            f"no other layers with parameters than Conv2d and BatchNorm2d were allowed, but there is {others}",
        )
        need(total == found["parameters"], "some parameters belong to no layer that runs")
        for number, layer in enumerate(found["layers"]):
            if layer["kind"] == "Conv2d":
                need(not layer["bias"], "a convolution has a bias, which its norm would take away again")
                after = found["layers"][number + 1]["kind"] if number + 1 < len(found["layers"]) else "nothing"
                need(
                    after == "BatchNorm2d",
                    f"each convolution should be followed directly by a norm; after number {number} runs: {after}",
                )

    @check(points=1)
    def budget(ask, values):
        """Parameters and MACs are within the budget."""
        found = ask(probes.outline, "make_entry", [1, 3, values.pixels, values.pixels])
        need(
            found["parameters"] <= values.max_parameters,
            f"too many parameters: {found['parameters']:,}, and {values.max_parameters:,} are allowed",
        )
        macs = 0
        for layer in found["layers"]:
            if layer["kind"] == "Conv2d":
                weights = layer["parameters"] - (layer["out_channels"] if layer["bias"] else 0)
                macs += weights * layer["out"][2] * layer["out"][3]
        need(macs > 0, "there is no convolution in it")
        need(macs <= values.max_macs, f"too many MACs: {macs:,}, and {values.max_macs:,} are allowed")

    @check(points=1, hidden=True)
    def window(ask, values):
        """What a pixel of the output sees."""
        found = ask(seen_by, "make_entry")["window"]
        need(
            found >= values.window_side,
            f"a pixel of the output sees {found}x{found} pixels of the image, and {values.window_side} a side were asked for",
        )

    @check(points=1, hidden=True)
    def no_gaps(ask, values):
        """No pixel of the image is skipped."""
        share = ask(seen_by, "make_entry")["share"]
        need(
            share > 0.95,
            f"only {100 * share:.0f} % of the image's pixels have a say, the others are skipped: is a stride larger than "
            "its kernel?",
        )


def seen_by(names, name):
    """The side of what the middle pixel of the output sees, and the share of the image's pixels that count at all.

    Weights are made positive and sum to one, so that no ReLU closes; many images, so that a max pool chooses each pixel.
    """
    import torch

    network = probes.build(names, name).eval()
    with torch.no_grad():
        for key, part in network.state_dict(keep_vars=True).items():
            if part.dim() > 1:
                positive = part.abs() + 1e-3
                sums = positive.flatten(1).sum(1)
                part.copy_(positive / sums.reshape(-1, *[1] * (part.dim() - 1)))
            elif part.is_floating_point():
                part.fill_(0.0 if key.endswith(("bias", "running_mean")) else 1.0)
    images = torch.rand(24, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    out = network(images)
    middle = out[:, :, out.shape[2] // 2, out.shape[3] // 2].sum()
    seen = torch.autograd.grad(middle, images, retain_graph=True)[0].abs().sum((0, 1)) > 0
    sides = []
    for flat in (seen.any(0), seen.any(1)):
        places = flat.nonzero().flatten()
        sides.append(int(places[-1] - places[0] + 1) if len(places) else 0)
    counts = torch.autograd.grad(out.sum(), images)[0].abs().sum((0, 1)) > 0
    return {"window": min(sides), "share": float(counts.double().mean())}
