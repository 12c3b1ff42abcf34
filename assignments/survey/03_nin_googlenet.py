"""NiN and GoogLeNet

You write NiN's block and its end without linear layers, work out what a 1x1 convolution saves, predict how many weights
of a large window ever learn, and design an Inception block that must not cost more than you are given. Do chapters 3
and 4 of the survey first.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


class NinBlockAndHead(Exercise):
    """NiN's block, and its end without linear layers

    Write two functions that return a network each.

    - `nin_block(in_channels, out_channels, kernel_size, stride, padding)`: one convolution with this window, stride and
      padding, then two 1x1 convolutions, all three to `out_channels`. Batch norm and then ReLU follow **each** of the
      three. None of them has a bias.
    - `nin_head(in_channels, num_classes)`: the end of the network, from maps of any size to one raw score for each
      class. A 3x3 convolution with padding 1 to `num_classes` maps and a 1x1 convolution, each without a bias and
      with batch norm and ReLU behind it; then a 1x1 convolution **with** a bias, and no norm and no ReLU behind it;
      then the average of each map over all of its places. No `nn.Linear` and no dropout.

    So your head ends without the last ReLU of chapter 3, which section 12 of that chapter counts among NiN's faults.

    Your copy checks them with <<channels>> channels and <<num_classes>> classes.
    """

    goal = "replace linear layers by one map for each class and an average"
    kind = "build"
    minutes, difficulty, importance = 15, 2, 4
    practice = {"channels": 24, "num_classes": 10}
    hints = [
        "The three convolutions of a block differ in window, stride, padding and in the number of channels that come in. A short "
        "loop over three tuples does it.",
        "Which dimensions of (N, C, H, W) does the average run over? The result is to have the shape (N, num_classes).",
        "A bias makes sense where no norm follows. Where in the head is that?",
    ]

    def draw(chance):
        return {"channels": chance.choice([12, 20, 28, 36]), "num_classes": chance.choice([5, 7, 9, 14])}

    def stub():
        def nin_block(in_channels, out_channels, kernel_size, stride, padding): ...  # one large window, two 1x1

        def nin_head(in_channels, num_classes): ...  # one map for each class, and the average

    def solution():
        def nin_block(in_channels, out_channels, kernel_size, stride, padding):
            layers = []
            for window in ((kernel_size, stride, padding), (1, 1, 0), (1, 1, 0)):
                layers += [nn.Conv2d(in_channels, out_channels, *window, bias=False)]
                layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]
                in_channels = out_channels
            return nn.Sequential(*layers)

        def nin_head(in_channels, num_classes):
            return nn.Sequential(
                nn.Conv2d(in_channels, num_classes, 3, padding=1, bias=False),
                nn.BatchNorm2d(num_classes),
                nn.ReLU(),
                nn.Conv2d(num_classes, num_classes, 1, bias=False),
                nn.BatchNorm2d(num_classes),
                nn.ReLU(),
                nn.Conv2d(num_classes, num_classes, 1),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )

    def right_classes():
        class Block(nn.Module):
            def __init__(self, a, b, window):
                super().__init__()
                self.convolutions = nn.ModuleList(
                    [
                        nn.Conv2d(a, b, *window, bias=False),
                        nn.Conv2d(b, b, 1, bias=False),
                        nn.Conv2d(b, b, 1, bias=False),
                    ]
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _ in range(3))

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    x = F.relu(norm(convolution(x)))
                return x

        class Head(nn.Module):
            def __init__(self, a, b):
                super().__init__()
                self.last = nn.Conv2d(b, b, 1)
                self.norm2, self.norm1 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
                self.second = nn.Conv2d(b, b, 1, bias=False)
                self.first = nn.Conv2d(a, b, 3, 1, 1, bias=False)

            def forward(self, x):
                x = torch.relu(self.norm1(self.first(x)))
                x = torch.relu(self.norm2(self.second(x)))
                return self.last(x).mean((2, 3))

        def nin_block(in_channels, out_channels, kernel_size, stride, padding):
            return Block(in_channels, out_channels, (kernel_size, stride, padding))

        def nin_head(in_channels, num_classes):
            return Head(in_channels, num_classes)

    def right_helper():
        def unit(*window, norm=True):
            convolution = nn.Conv2d(*window, bias=not norm)
            return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(True)] if norm else [convolution]

        def nin_block(in_channels, out_channels, kernel_size, stride, padding):
            b = out_channels
            return nn.Sequential(
                *unit(in_channels, b, kernel_size, stride, padding), *unit(b, b, 1), *unit(b, b, (1, 1))
            )

        class Average(nn.Module):
            def forward(self, x):
                return x.flatten(2).sum(-1) / (x.shape[2] * x.shape[3])

        def nin_head(a, b):
            return nn.Sequential(*unit(a, b, 3, 1, 1), *unit(b, b, 1), *unit(b, b, 1, norm=False), Average())

    wrong = [
        ("large-windows", "((kernel_size, stride, padding), (1, 1, 0), (1, 1, 0))", "((kernel_size, stride, padding),) * 3",
         "1x1"),
        ("two-convolutions", "((kernel_size, stride, padding), (1, 1, 0), (1, 1, 0))", "((kernel_size, stride, padding), (1, 1, 0))",
         "three convolutions"),
        ("biases", "*window, bias=False", "*window", "need a bias"),
        ("no-norm", "layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]", "layers += [nn.ReLU()]", "norm behind each"),
        ("stride-forgotten", "*window, bias=False", "*window[::2], bias=False", "your code raised"),
        ("no-relu-between", "layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]",
         "layers += [nn.BatchNorm2d(out_channels)] + [nn.ReLU()] * (len(layers) > 3)", "the layers are right"),
        ("relu-before-norm", "layers += [nn.BatchNorm2d(out_channels), nn.ReLU()]",
         "layers += [nn.ReLU(), nn.BatchNorm2d(out_channels)]", "below zero"),
        ("last-relu", "nn.Conv2d(num_classes, num_classes, 1),", "nn.Conv2d(num_classes, num_classes, 1), nn.ReLU(),", "raw scores"),
        ("last-norm", "nn.Conv2d(num_classes, num_classes, 1),",
         "nn.Conv2d(num_classes, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes),", "two norms"),
        ("linear-end", "nn.Conv2d(num_classes, num_classes, 1),\n        nn.AdaptiveAvgPool2d(1),\n        nn.Flatten(),",
         "nn.AdaptiveAvgPool2d(1),\n        nn.Flatten(),\n        nn.Linear(num_classes, num_classes),", "linear layer"),
        ("maximum", "nn.AdaptiveAvgPool2d(1)", "nn.AdaptiveMaxPool2d(1)", "average"),
        ("not-flat", "nn.AdaptiveAvgPool2d(1),\n        nn.Flatten(),", "nn.AdaptiveAvgPool2d(1),", "one score for each class"),
        ("one-size", "nn.AdaptiveAvgPool2d(1)", "nn.AvgPool2d(5)", "your code raised"),
    ]  # fmt: skip

    explanation = """
    A 1x1 convolution is a linear layer at every pixel, so a block is a small dense network that slides over the image
    with the large window. The ReLU between is what makes it more than one linear map. The norm takes away what all
    images share, which in chapter 3 decided whether NiN starts.

    In the head each class has a map, and the average makes one number of it, for any size and without a parameter.
    The last convolution and the average could change places, as both are linear. Then the head would end as nearly
    every later network does: average first, then one linear layer. No ReLU stands at the end, since a class whose
    score is zero for every image would get no gradient.
    """
    marking = """
    The hidden check compares with the reference for random weights, in both modes. Averaging before the last
    convolution computes the same and is refused for its shapes: give it back by hand if you like. Ask aloud: how many
    parameters would a linear layer on maps of 5x5 have instead?
    """

    @check(points=1)
    def layers(ask, values):
        """Convolutions, norms and biases."""
        width, classes = values.channels, values.num_classes
        found = ask(probes.outline, "nin_block", [2, width, 8, 8], (width, 16, 5, 1, 2))["layers"]
        convs = [layer for layer in found if layer["kind"] == "Conv2d"]
        need(len(convs) == 3, f"a block should have three convolutions, not {len(convs)}")
        need(
            all(layer["kernel_size"] == [1, 1] for layer in convs[1:]),
            "the second and the third convolution should be 1x1",
        )
        norms = [layer for layer in found if layer["kind"] == "BatchNorm2d"]
        need(len(norms) == 3, "a block should have a batch norm behind each of its convolutions")
        need(not any(layer["bias"] for layer in convs), "does a convolution before a norm need a bias?")
        found = ask(probes.outline, "nin_head", [2, width, 5, 5], (width, classes))["layers"]
        kinds = [layer["kind"] for layer in found]
        need("Linear" not in kinds, "the head should do without any linear layer")
        need(kinds.count("Conv2d") == 3, f"the head should have three convolutions, not {kinds.count('Conv2d')}")
        need(kinds.count("BatchNorm2d") == 2, "the head should have two norms: none behind its last convolution")
        biases = [layer["bias"] for layer in found if layer["kind"] == "Conv2d"]
        need(
            biases == [False, False, True],
            "in the head, the convolution without a norm has a bias, and no other has one",
        )

    @check(points=1)
    def shapes(ask, values):
        """Shapes, for several windows and sizes."""
        width = values.channels
        for arguments, size, out in [
            ((3, width, 11, 4, 0), 67, 15),
            ((width, 16, 5, 1, 2), 9, 9),
            ((width, width, 3, 1, 1), 6, 6),
        ]:
            found = ask(probes.outline, "nin_block", [2, arguments[0], size, size], arguments)["out"]
            right = [2, arguments[1], out, out]
            need(found == right, f"nin_block{arguments}: the output of {size}x{size} should be {right}, not {found}")
        for height, side in [(1, 1), (5, 5), (7, 4)]:
            found = ask(probes.outline, "nin_head", [2, width, height, side], (width, values.num_classes))["out"]
            need(
                found == [2, values.num_classes],
                f"nin_head: for maps of {height}x{side} the output should have one score for each class, "
                f"{[2, values.num_classes]}, not {found}",
            )

    @check(points=1)
    def ends(ask, values):
        """ReLU at the end of the block, raw scores at the end of the head."""
        import torch

        width = values.channels
        images = torch.randn(8, width, 5, 5, generator=torch.Generator().manual_seed(0)).double()
        out = ask(probes.run, "nin_block", images, (width, 16, 3, 1, 1), training=True)["out"]
        need(bool((out >= 0).all()), "something that leaves the block is below zero: where is the last ReLU?")
        # one place, so that any kind of pool gives the same
        out = ask(probes.run, "nin_head", images[:, :, :1, :1], (width, values.num_classes), training=True)["out"]
        need(bool((out < 0).any()), "no score of the head is below zero: the loss expects raw scores, without a ReLU")

    @check(points=2, hidden=True)
    def same_function(ask, values, reference):
        """The same functions as those of the reference, for random weights."""
        width, classes = values.channels, values.num_classes
        for training in (False, True):
            for arguments in [(width, 16, 5, 2, 1), (6, width, 3, 1, 1)]:
                need_same(
                    ask, "nin_block", reference["nin_block"], [3, arguments[0], 9, 9], arguments, training=training,
                    message=f"nin_block{arguments}: the layers are right, the result is not; check the order of convolution, "
                    "norm and ReLU",
                )  # fmt: skip
            need_same(
                ask, "nin_head", reference["nin_head"], [3, width, 4, 7], (width, classes), training=training,
                message="nin_head: the layers are right, the result is not; check the order, and the average over all places",
            )  # fmt: skip


class ReductionByHand(Exercise):
    """What the 1x1 saves

    In a block of GoogLeNet <<in_channels>> maps of <<size>>x<<size>> pixels come in, and a 5x5 convolution with
    padding 2 makes <<out_channels>> maps of the same size. Work out by hand, without biases:

    - `direct_macs`: the multiply-accumulates (MACs) for one image if the 5x5 looks at all <<in_channels>> maps;
    - `reduced_macs`: those of a 1x1 convolution to <<reduced>> maps and the 5x5 behind it, together;
    - `share`: what is left, `reduced_macs` by `direct_macs`, in per cent, to one decimal;
    - `most_reduced`: the 1x1 need not save anything. To how many maps may it lead at most, so that both together still
      cost **fewer** MACs than the 5x5 alone? The largest whole number.

    Write formulas of Python where you can, so that you can find a slip.
    """

    goal = "work out by hand what a 1x1 convolution saves in front of a larger window, and where it stops saving"
    kind = "compute"
    minutes, difficulty, importance = 12, 2, 5
    practice = {"in_channels": 480, "reduced": 16, "out_channels": 48, "size": 14}
    hints = [
        "A convolution of kernel k from a to b channels has k * k * a * b weights, and each is used once at each pixel of its "
        "output.",
        "For the last one, write down the cost of both layers for an unknown number r of maps, and set it against the cost of the "
        "5x5 alone. Does the number of pixels matter?",
    ]

    def draw(chance):
        in_channels, reduced, out_channels, size = chance.choice(
            [
                (512, 24, 64, 14),
                (528, 32, 128, 14),
                (832, 48, 128, 7),
                (256, 32, 96, 28),
                (512, 32, 64, 12),
                (832, 32, 128, 6),
            ]
        )
        return {"in_channels": in_channels, "reduced": reduced, "out_channels": out_channels, "size": size}

    def stub():
        direct_macs = ...
        reduced_macs = ...
        share = ...
        most_reduced = ...

    def solution():
        pixels = size * size
        direct_macs = 25 * in_channels * out_channels * pixels
        reduced_macs = (in_channels * reduced + 25 * reduced * out_channels) * pixels
        share = round(100 * reduced_macs / direct_macs, 1)
        cost_of_one = in_channels + 25 * out_channels
        most_reduced = (25 * in_channels * out_channels - 1) // cost_of_one

    def right_formula():
        direct_macs = 5**2 * size**2 * in_channels * out_channels
        fraction = reduced / (25 * out_channels) + reduced / in_channels
        reduced_macs, share = fraction * direct_macs, 100 * fraction
        most_reduced = int(1 / (1 / (25 * out_channels) + 1 / in_channels))

    def right_by_trying():
        import numpy as np

        def weights(*layers):
            return sum(layer.weight.numel() for layer in layers)

        alone = weights(nn.Conv2d(in_channels, out_channels, 5))
        pair = weights(nn.Conv2d(in_channels, reduced, 1), nn.Conv2d(reduced, out_channels, 5))
        direct_macs, reduced_macs = np.int64(alone * size**2), torch.tensor(pair * size**2)
        share = np.round(100 * pair / alone, 1)
        most_reduced = max(r for r in range(1, 2000) if r * in_channels + 25 * r * out_channels < alone)

    wrong = [
        ("weights-only", "pixels = size * size", "pixels = 1", "at how many pixels"),
        ("one-row", "pixels = size * size", "pixels = size", "at how many pixels"),
        ("nine", "direct_macs = 25 *", "direct_macs = 9 *", "direct_macs"),
        ("one-by-one-forgotten", "(in_channels * reduced + 25 * reduced * out_channels)", "(25 * reduced * out_channels)",
         "the 1x1 convolution"),
        ("still-all-maps", "in_channels * reduced + 25 * reduced * out_channels", "in_channels * reduced + 25 * in_channels * out_channels",
         "how many maps"),
        ("saved", "round(100 * reduced_macs / direct_macs, 1)", "100 - 100 * reduced_macs / direct_macs", "what is saved"),
        ("fraction", "round(100 * reduced_macs / direct_macs, 1)", "reduced_macs / direct_macs", "per cent"),
        ("as-many-as-come-in", "(25 * in_channels * out_channels - 1) // cost_of_one", "in_channels - 1", "has a cost of its own"),
        ("one-too-many", "(25 * in_channels * out_channels - 1) // cost_of_one", "(25 * in_channels * out_channels - 1) // cost_of_one + 1",
         "no longer fewer"),
        ("one-too-few", "(25 * in_channels * out_channels - 1) // cost_of_one", "(25 * in_channels * out_channels - 1) // cost_of_one - 1",
         "one more"),
    ]  # fmt: skip

    explanation = """
    The pixels are the same in every term, so they cancel in the share, and what is left is r / (25 M) + r / C: the
    cost of narrowing and what it brings. Here these are <<f"{100 * reduced / (25 * out_channels):.1f}">> and
    <<f"{100 * reduced / in_channels:.1f}">> per cent. The first is small, because the 1x1 has no 25.

    The share reaches 100 per cent where r (C + 25 M) = 25 C M. Since the 1x1 costs something, that is a little below
    C = <<in_channels>>: already there the detour is no saving any more, and narrowing from C to nearly C would buy
    only a ReLU.
    """
    marking = """
    One point each for form, both MACs, the share (within 0.06), and the largest number. Ask aloud: does the 1x1 in
    front of a 3x3 save more or less than in front of a 5x5, for the same r?
    """

    @check(points=1)
    def written(ask, values):
        """Four numbers."""
        for name in ("direct_macs", "reduced_macs", "share", "most_reduced"):
            try:
                found = float(ask(probes.value, name))
            except (TypeError, ValueError):
                need(False, f"{name} should be a number")
            need(found > 0, f"{name} should be more than zero")
        need(found == int(found), "most_reduced is a number of maps, so a whole number")

    @check(points=1, hidden=True)
    def macs(ask, values, reference):
        """MACs with and without the 1x1."""
        for name in ("direct_macs", "reduced_macs"):
            found, right = float(ask(probes.value, name)), reference[name]
            told = "which kernel, from how many maps to how many, and at how many pixels?"
            if name == "reduced_macs":
                pixels = values.size**2
                if abs(found - 25 * values.reduced * values.out_channels * pixels) < 1:
                    told = "it leaves out the 1x1 convolution itself"
                elif found > reference["direct_macs"]:
                    told = "how many maps does the 5x5 get now?"
            need(abs(found / right - 1) < 1e-6, f"{name} is not right: {told}")

    @check(points=1, hidden=True)
    def the_share(ask, values, reference):
        """What is left."""
        found = float(ask(probes.value, "share"))
        right = 100 * reference["reduced_macs"] / reference["direct_macs"]
        need(abs(found - right / 100) > 0.005, "share is a fraction: per cent were asked for")
        need(abs(found - 100 + right) > 0.06, "share is what is saved: what is left was asked for")
        need(abs(found - right) <= 0.06, f"share = {found:.3f} is not right, or not to one decimal")

    @check(points=1, hidden=True)
    def the_most(ask, values, reference):
        """Where it stops saving."""
        found, right = float(ask(probes.value, "most_reduced")), reference["most_reduced"]
        need(found not in (values.in_channels - 1, values.in_channels), "most_reduced: the 1x1 has a cost of its own")
        need(found <= right, "most_reduced is too large: both together are no longer fewer MACs than the 5x5 alone")
        need(found != right - 1, "most_reduced: with one more map it still saves something")
        need(found == right, "most_reduced is too small")


class WeightsAtWork(Exercise):
    """Which weights ever learn?

    A <<kernel>>x<<kernel>> convolution with padding <<kernel // 2>> is trained on maps of <<side>>x<<side>> pixels
    and nothing else. For some of its weights the window is always outside the map, on the zeros of the padding.

    Set `prediction`, **before you run anything**: which share of its weights gets a gradient, in per cent? Then run the
    rest, which counts it (`measured`) and trains for <<steps>> steps with plain SGD (no momentum), learning rate
    <<rate>> and weight decay <<decay>>. Whatever you predicted, you get the point for it.

    Then answer:

    - `least_side`: the smallest side of a (square) map for which **all** weights of this window get a gradient;
    - `left`: what these <<steps>> steps leave of a weight that never gets a gradient from the loss, in per cent of
      what it was at the start, to one decimal. Work it out; the printed line shows whether you are right;
    - `larger`: after this training the network gets maps of <<4 * kernel>>x<<4 * kernel>>. What do those weights do
      then? One of `"silent"` (they still see only zeros), `"untrained"` (they take part, with values that the loss
      has never shaped), `"trained"` (they take part, and have learned from their neighbours in the window).
    """

    goal = "find weights that training has never used, and say what becomes of them"
    kind = "predict"
    minutes, difficulty, importance = 12, 3, 4
    practice = {"kernel": 5, "side": 2, "steps": 200, "rate": 0.1, "decay": 0.01}
    hints = [
        "Draw the map, and lay the middle of the window on each of its pixels in turn. Which weights fall on a pixel at least once? "
        "One direction is enough; the other is alike.",
        "A step with weight decay d subtracts rate * (gradient + d * weight). What is left of the weight after one step, if the "
        "gradient is zero? And after two?",
        "Which of them would see a pixel if the map were larger?",
    ]

    def draw(chance):
        kernel, side = chance.choice([(7, 2), (7, 3), (9, 2), (9, 3), (9, 4)])
        return {
            "kernel": kernel,
            "side": side,
            "steps": chance.choice([100, 150, 250, 300]),
            "decay": chance.choice([0.01, 0.02]),
        }

    def stub():
        prediction = ...  # in per cent, before you run the rest

        def train_on_small_maps():
            torch.manual_seed(0)
            convolution = nn.Conv2d(3, 4, kernel, padding=kernel // 2).double()
            maps, targets = torch.rand(8, 3, side, side).double(), torch.rand(8, 4, side, side).double()
            start = convolution.weight.detach().clone()
            for _ in range(steps):
                loss = (convolution(maps) - targets).square().mean()
                (gradient,) = torch.autograd.grad(loss, [convolution.weight])
                with torch.no_grad():
                    convolution.weight -= rate * (gradient + decay * convolution.weight)
            learned = gradient.abs() > 1e-12
            return 100 * learned.double().mean().item(), 100 * (convolution.weight / start)[~learned].mean().item()

        if prediction is not ...:
            measured, still_there = train_on_small_maps()
            print(
                f"predicted {prediction:.1f} %, measured {measured:.1f} %; of the others {still_there:.1f} % are left"
            )

        least_side = ...
        left = ...  # in per cent
        larger = ...  # "silent", "untrained" or "trained"

    def solution():
        prediction = 100 * min(1, (2 * side - 1) / kernel) ** 2

        def train_on_small_maps():
            torch.manual_seed(0)
            convolution = nn.Conv2d(3, 4, kernel, padding=kernel // 2).double()
            maps, targets = torch.rand(8, 3, side, side).double(), torch.rand(8, 4, side, side).double()
            start = convolution.weight.detach().clone()
            for _ in range(steps):
                loss = (convolution(maps) - targets).square().mean()
                (gradient,) = torch.autograd.grad(loss, [convolution.weight])
                with torch.no_grad():
                    convolution.weight -= rate * (gradient + decay * convolution.weight)
            learned = gradient.abs() > 1e-12
            return 100 * learned.double().mean().item(), 100 * (convolution.weight / start)[~learned].mean().item()

        if prediction is not ...:
            measured, still_there = train_on_small_maps()

        least_side = (kernel + 1) // 2
        left = round(100 * (1 - rate * decay) ** steps, 1)
        larger = "untrained"

    def right_by_autograd():
        prediction = 50  # a guess, and worth its point
        convolution = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False).double()

        def share(places):
            convolution.zero_grad()
            convolution(torch.ones(1, 1, places, places).double()).sum().backward()
            return 100 * float((convolution.weight.grad != 0).double().mean())

        measured = share(side)
        least_side = next(places for places in range(1, 30) if share(places) == 100)
        left = 100.0
        for _ in range(steps):
            left -= rate * decay * left
        larger = "untrained"

    def right_by_counting():
        import numpy as np

        prediction = np.float64(3.0)
        seen = {place - middle for place in range(side) for middle in range(side)}
        measured = torch.tensor(100 * len(seen) ** 2 / kernel**2)
        least_side = np.ceil(kernel / 2)
        left = np.round(100 * np.exp(steps * np.log1p(-rate * decay)), 1)
        larger = "untrained"

    wrong = [
        ("no-number", "prediction = 100 * min(1, (2 * side - 1) / kernel) ** 2", 'prediction = "few"', "should be a number"),
        ("more-than-all", "prediction = 100 * min(1, (2 * side - 1) / kernel) ** 2", "prediction = 250", "between 0 and 100"),
        ("not-run", "measured, still_there = train_on_small_maps()", "measured = 80.0", "what the cell measures"),
        ("fraction", "measured, still_there = train_on_small_maps()", "measured = train_on_small_maps()[0] / 100", "what the cell measures"),
        ("the-window-itself", "least_side = (kernel + 1) // 2", "least_side = kernel", "smaller one"),
        ("half-a-window", "least_side = (kernel + 1) // 2", "least_side = kernel // 2", "outer row"),
        ("nothing-happens", "left = round(100 * (1 - rate * decay) ** steps, 1)", "left = 100", "weight decay"),
        ("added-up", "left = round(100 * (1 - rate * decay) ** steps, 1)", "left = 100 * (1 - rate * decay * steps)", "of what is left"),
        ("rate-forgotten", "left = round(100 * (1 - rate * decay) ** steps, 1)", "left = 100 * (1 - decay) ** steps", "learning rate"),
        ("fraction-left", "left = round(100 * (1 - rate * decay) ** steps, 1)", "left = (1 - rate * decay) ** steps", "per cent"),
        ("silent", 'larger = "untrained"', 'larger = "silent"', "larger map"),
        ("trained", 'larger = "untrained"', 'larger = "trained"', "gradient of its own"),
        ("no-word", 'larger = "untrained"', 'larger = "random"', "none of the words"),
    ]  # fmt: skip

    explanation = """
    The window moves over <<side>> places in a row, and from each the map reaches up to <<side - 1>> pixels to either
    side. So <<2 * side - 1>> of <<kernel>> rows of weights meet a pixel at some time, and as many columns:
    <<(2 * side - 1) ** 2>> of <<kernel ** 2>> weights. All of them do from a side of <<(kernel + 1) // 2>> on, for
    which 2n - 1 reaches <<kernel>>.

    The others get no gradient, but weight decay takes rate * decay = <<rate * decay>> of what is left in each step.
    So they fade, all by the same factor, and say nothing about any image. On larger maps they meet pixels, and act
    with what was once drawn at random. That is why a count of parameters is not a count of what has been learned, and
    why a network may **take** a size that it has not been trained for.
    """
    marking = """
    A point for any prediction from 0 to 100, one for the measurement, one for each answer. Ask aloud: how would you
    find such weights in a network that somebody else has trained?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction, whatever it is."""
        found = ask(probes.value, "prediction")
        try:
            found = float(found)
        except (TypeError, ValueError):
            need(False, "prediction should be a number")
        need(0 <= found <= 100, "prediction is a share in per cent, so it lies between 0 and 100")

    @check(points=1)
    def form(ask, values):
        """The measurement was run, and the answers are of the right kind."""
        try:
            found = float(ask(probes.value, "measured"))
        except (TypeError, ValueError):
            need(False, "measured should be a number")
        # so many weights must be a whole number
        weights = found / 100 * values.kernel**2
        need(
            0 < found <= 100 and abs(weights - round(weights)) < 1e-3,
            "measured is not what the cell measures: run it as it was given",
        )
        for name in ("least_side", "left"):
            try:
                need(float(ask(probes.value, name)) > 0, f"{name} should be more than zero")
            except (TypeError, ValueError):
                need(False, f"{name} should be a number")
        word = ask(probes.value, "larger")
        need(word in ("silent", "untrained", "trained"), f"larger = {word!r} is none of the words of the task")

    @check(points=1, hidden=True)
    def the_side(ask, values, reference):
        """The smallest map that uses all weights."""
        need(
            abs(float(ask(probes.value, "measured")) - reference["measured"]) < 1e-3,
            "measured is not what the cell measures: run it as it was given",
        )
        found, right = float(ask(probes.value, "least_side")), reference["least_side"]
        need(found <= right, "least_side: a smaller one is enough; the window need not fit into the map")
        need(found >= right, "least_side: does the outer row of weights meet a pixel there?")

    @check(points=1, hidden=True)
    def decayed(ask, values, reference):
        """What is left of a weight without gradient."""
        found, right = float(ask(probes.value, "left")), 100 * (1 - values.rate * values.decay) ** values.steps
        need(abs(found - right / 100) > 0.006, "left is a fraction: per cent were asked for")
        need(abs(found - 100) > 1e-6, "left: no gradient comes from the loss, but what does weight decay do?")
        need(
            abs(found - 100 * (1 - values.rate * values.decay * values.steps)) > 0.06,
            "left: each step takes its part of what is left, not of the start",
        )
        need(
            abs(found - 100 * (1 - values.decay) ** values.steps) > 0.06,
            "left: weight decay is multiplied by the learning rate in a step",
        )
        need(abs(found - right) <= 0.06, f"left = {found:.3f} is not right, or not to one decimal")

    @check(points=1, hidden=True)
    def word(ask, values, reference):
        """What they do on larger maps."""
        found = ask(probes.value, "larger")
        told = {"silent": "on a larger map, what lies beside a pixel in the middle?",
                "trained": "a weight learns only from a gradient of its own"}  # fmt: skip
        need(found == reference["larger"], f"larger: {told.get(found, 'none of the words')}")


class InceptionInBudget(Exercise):
    """An Inception block within a budget

    Write `inception()`, which returns a block from <<in_channels>> maps to <<out_channels>> maps of the **same**
    height and width, at any size, with these properties:

    1. **Four ways, one behind the other in the output.** Each map of the output belongs to one way: it sees a single
       pixel of the input (the 1x1 way), or 3x3 pixels, or 5x5 pixels, or it comes through a 3x3 **max pool** with
       stride 1. Each way gives at least <<least>> maps, and the 3x3 and the 5x5 way together give at least half of
       the <<out_channels>>. The order is yours.
    2. Every convolution is an `nn.Conv2d` without groups, and **none of them gives fewer than 16 maps**, so that no
       way is squeezed to nothing.
    3. A **ReLU** stands behind each convolution, at the end of the ways too. You may put a batch norm between.
    4. For one image with maps of <<side>>x<<side>> its convolutions need at most **<<f"{max_macs:,}">>** MACs.

    The widths of the ways are yours, and where you narrow, and whether the 5x5 pixels are seen by one window or by
    two. Without any narrowing it cannot be done.
    """

    goal = "design an Inception block within a given budget of MACs"
    kind = "design"
    minutes, difficulty, importance = 20, 4, 4
    practice = {"in_channels": 192, "out_channels": 256, "side": 28, "least": 32, "max_macs": 110_000_000}
    hints = [
        "Begin with the smallest maps that you may give to the 5x5 way, and narrow in front of both large windows. The tables of chapter 4 show "
        "how to add up.",
        "In front of `torch.cat` all ways must have one size: which padding does each window need, and which stride and padding the pool?",
        "Too dear? Write down the MACs of each convolution; the 3x3 way is often the largest. To how many maps may it be narrowed?",
    ]

    def draw(chance):
        in_channels, out_channels = chance.choice([(192, 320), (256, 256), (160, 256), (256, 320), (320, 384)])
        side = chance.choice([12, 14, 24])
        share = chance.choice([26, 28, 30])
        return {"in_channels": in_channels, "out_channels": out_channels, "side": side, "least": out_channels // 8,
                "max_macs": share * in_channels * out_channels * side * side // 10}  # fmt: skip

    def stub():
        def inception(): ...  # four ways side by side

    def solution():
        class Inception(nn.Module):
            def __init__(self, one, three, five, pool):
                super().__init__()

                def unit(before, after, kernel_size):
                    convolution = nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2)
                    return nn.Sequential(convolution, nn.ReLU())

                self.one = unit(in_channels, one, 1)
                self.three = nn.Sequential(unit(in_channels, in_channels // 4, 1), unit(in_channels // 4, three, 3))
                self.five = nn.Sequential(unit(in_channels, 16, 1), unit(16, five, 5))
                self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(in_channels, pool, 1))

            def forward(self, x):
                return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)

        def inception():
            eighth = out_channels // 8
            return Inception(3 * eighth, 3 * eighth, eighth, eighth)

    def right_two_windows():
        class Unit(nn.Module):
            def __init__(self, before, after, kernel_size=1):
                super().__init__()
                self.convolution = nn.Conv2d(before, after, kernel_size, padding="same", bias=False)
                self.norm = nn.BatchNorm2d(after)

            def forward(self, x):
                return F.relu(self.norm(self.convolution(x)))

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                narrow, quarter = in_channels // 6, out_channels // 4
                self.ways = nn.ModuleList(
                    [
                        nn.Sequential(Unit(in_channels, narrow), Unit(narrow, quarter, 3), Unit(quarter, quarter)),
                        nn.Sequential(Unit(in_channels, 16), Unit(16, 24, 3), Unit(24, quarter, 3)),
                        Unit(in_channels, quarter),
                    ]
                )
                self.behind = Unit(in_channels, quarter)

            def forward(self, x):
                pooled = self.behind(F.max_pool2d(x, 3, 1, 1))
                return torch.cat([way(x) for way in self.ways] + [pooled], 1)

        def inception():
            return Block()

    def right_shared_narrowing():
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                eighth = out_channels // 8
                self.narrow = nn.Conv2d(in_channels, 32, 1)  # for both large windows
                self.three = nn.Conv2d(32, 3 * eighth, 3, padding=1)
                self.five = nn.Conv2d(32, eighth, 5, padding=2)
                self.one = nn.Conv2d(in_channels, 2 * eighth, 1)
                self.before_pool = nn.Conv2d(in_channels, 2 * eighth, 1)

            def forward(self, x):
                narrow = self.narrow(x).relu()
                pooled = F.max_pool2d(self.before_pool(x).relu(), 3, stride=1, padding=1)
                return torch.hstack([self.one(x), self.three(narrow), self.five(narrow), pooled]).relu()

        def inception():
            return Shared()

    wrong = [
        ("no-narrowing", "self.three = nn.Sequential(unit(in_channels, in_channels // 4, 1), unit(in_channels // 4, three, 3))",
         "self.three = unit(in_channels, three, 3)", "too many MACs"),
        ("five-not-narrowed", "unit(in_channels, 16, 1), unit(16, five, 5)", "unit(in_channels, five, 5)", "too many MACs"),
        ("squeezed", "unit(in_channels, 16, 1), unit(16, five, 5)", "unit(in_channels, 2, 1), unit(2, five, 5)", "fewer than 16"),
        ("too-few-maps", "Inception(3 * eighth, 3 * eighth, eighth, eighth)", "Inception(3 * eighth + 1, 3 * eighth, eighth, eighth - 1)", "max pool gives"),
        ("mostly-one", "Inception(3 * eighth, 3 * eighth, eighth, eighth)", "Inception(4 * eighth, 2 * eighth, eighth, eighth)", "half"),
        ("added", "torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)", "self.one(x) + self.three(x)", "the output"),
        ("along-the-height", "dim=1)", "dim=2)", "your code raised"),
        ("no-padding", "padding=kernel_size // 2", "padding=0", "your code raised"),
        ("pool-with-stride", "nn.MaxPool2d(3, stride=1, padding=1)", "nn.MaxPool2d(3, stride=2, padding=1)", "your code raised"),
        ("average-pool", "nn.MaxPool2d(3, stride=1, padding=1)", "nn.AvgPool2d(3, stride=1, padding=1)", "max pool gives"),
        ("slip-of-torchvision", "unit(16, five, 5)", "unit(16, five, 3)", "5x5 way gives"),
        ("one-after-the-other", "self.five(x)", "self.five[1](self.three(x)[:, :16])", "more than 5x5"),
        ("relu-missing", "return nn.Sequential(convolution, nn.ReLU())", "return nn.Sequential(convolution, nn.ReLU() if kernel_size > 1 else nn.Identity())",
         "ReLU"),
        ("groups", "padding=kernel_size // 2)", "padding=kernel_size // 2, groups=8 if kernel_size > 1 else 1)", "without groups"),
    ]  # fmt: skip

    explanation = """
    Everything hangs on what the two large windows get to see. A 5x5 from all <<in_channels>> maps has 25 *
    <<in_channels>> weights for each map that it makes; from 16 it has 400, and its 1x1 adds 16 * <<in_channels>>
    once. The 3x3 way has most maps, so it is the next to be narrowed. Two 3x3 windows see 5x5 pixels too, and cost
    less where the maps between are few: the authors of GoogLeNet chose that a year later.

    The ways may have any widths as long as their heights and widths agree: stride 1, and a padding of half the
    window. The 1x1 of the pool keeps it from handing on all <<in_channels>> maps. One 1x1 for both large windows is
    allowed as well: then both see the same 32 mixtures.
    """
    marking = """
    The ways are told apart by what one bright pixel does to each map, so their order and their names do not matter.
    Ask aloud: where would you spend a tenth more MACs, and what experiment would show that it was well spent?
    """

    @check(points=1)
    def shapes(ask, values):
        """The same height and width, at three sizes."""
        for height, width in [(values.side, values.side), (9, 9), (5, 8)]:
            found = ask(probes.outline, "inception", [2, values.in_channels, height, width])["out"]
            right = [2, values.out_channels, height, width]
            need(found == right, f"the output for maps of {height}x{width} should be {right}, not {found}")

    @check(points=2)
    def ways(ask, values):
        """Four ways, with enough maps each."""
        found = ask(ways_of, "inception", values.in_channels)
        need(
            found["more"] == 0,
            f"{found['more']} maps see more than 5x5 pixels: each way starts from the input of the block",
        )
        need(found["none"] == 0, f"{found['none']} maps show nothing of a bright pixel, or only a part of a window")
        for key in ("1x1", "3x3", "5x5", "max pool"):
            told = "the max pool" if key == "max pool" else f"the {key} way"
            need(found[key] >= values.least, f"{told} gives {found[key]} maps: it should give at least {values.least}")
        large = found["3x3"] + found["5x5"]
        need(2 * large >= values.out_channels, f"the 3x3 and the 5x5 way give {large} maps together: less than half")

    @check(points=1)
    def budget(ask, values):
        """MACs, and no way squeezed to nothing."""
        found = ask(probes.outline, "inception", [1, values.in_channels, values.side, values.side])
        convs = [layer for layer in found["layers"] if layer["kind"] == "Conv2d"]
        for layer in convs:
            need(layer["groups"] == 1, "the convolutions should be without groups")
            need(layer["out_channels"] >= 16, f"a convolution gives {layer['out_channels']} maps: fewer than 16")
        macs = sum(layer["kernel_size"][0] * layer["kernel_size"][1] * layer["in_channels"] * layer["out_channels"]
                   * layer["out"][2] * layer["out"][3] for layer in convs)  # fmt: skip
        counted = sum(
            layer["parameters"] for layer in found["layers"] if "Conv" in layer["kind"] or "Norm" in layer["kind"]
        )
        need(counted == found["parameters"], "some parameters are in no nn.Conv2d and no norm that ran")
        need(macs <= values.max_macs, f"it needs {macs:,} MACs: too many MACs; which convolution has most of them?")

    @check(points=1, hidden=True)
    def activations(ask, values):
        """A ReLU behind each convolution."""
        import torch

        images = torch.rand(2, values.in_channels, 7, 7, generator=torch.Generator().manual_seed(0)).double()
        found = ask(lowest_of, "inception", images)
        need(found["between"] >= 0, "something below zero goes into a convolution inside the block: where is the ReLU?")
        need(found["end"] >= 0, "some maps of the output are below zero: where is the ReLU at the end of their way?")
        need(found["zeros"], "no value of the output is zero: is there a ReLU at the end of each way?")


def ways_of(names, name, in_channels):
    """How many output maps show a bright pixel in 1, 3x3 or 5x5 places, or as a max pool does; all weights positive."""
    import torch

    block = probes.build(names, name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, part in block.named_parameters():
            if part.dim() > 1:
                part.copy_(torch.rand(part.shape, generator=generator, dtype=torch.float64) + 0.5)
                part.div_(part[0].numel())
            elif key.endswith("bias"):
                part.zero_()
        points = torch.zeros(2, in_channels, 11, 11, dtype=torch.float64)
        points[:, :, 5, 5] = 1
        points[1, :, 5, 6] = 1
        one, two = block.eval()(points)
    found = dict.fromkeys(("1x1", "3x3", "5x5", "max pool", "more", "none"), 0)
    for number in range(len(one)):
        places = (one[number].abs() > 1e-12).nonzero()
        reach = int((places - 5).abs().max()) if len(places) else -1
        if reach > 2:
            kind = "more"
        elif len(places) != (2 * reach + 1) ** 2:
            kind = "none"
        else:
            kind = ("1x1", "3x3", "5x5")[reach]
        if kind == "3x3":
            middle = one[number, 4:7, 4:7]
            flat = bool((middle - middle[0, 0]).abs().max() < 1e-9 * middle[0, 0])
            if flat and bool((two[number, 5, 5] - one[number, 5, 5]).abs() < 1e-9 * middle[0, 0]):
                kind = "max pool"
        found[kind] += 1
    return found


def lowest_of(names, name, images):
    """The smallest value that goes into a convolution, and that leaves the block, for random weights."""
    import torch
    from torch import nn

    block = probes.build(names, name)
    probes.shuffle(block, 4)
    lowest = []
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: lowest.append(float(inputs[0].min())))
    with torch.no_grad():
        out = block.eval()(images)
    return {"between": min(lowest), "end": float(out.min()), "zeros": bool((out == 0).any())}
