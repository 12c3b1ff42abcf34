"""Bottlenecks

You write the bottleneck with a waist of any width, work out what its 1x1 convolutions save, turn the order of norm, ReLU
and convolution round and predict what that does to a new block, and write the class that makes the whole family. Do
the chapter first. What chapters 2 and 3 have built, the shortcut and the stem, is given in the first cell.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn

    def make_shortcut(in_channels, out_channels, stride):
        """Chapter 2: average pool where the stride is 2, 1x1 convolution and norm where the channels change."""
        layers = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
        if in_channels != out_channels:
            layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        return nn.Sequential(*layers)

    def make_stem():
        """Chapter 3: three 3x3 convolutions (32, 32 and 64 channels) and a max pool: a quarter of each side."""
        layers, before = [], 3
        for number, width in enumerate((32, 32, 64)):
            layers += [nn.Conv2d(before, width, 3, 1 if number else 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


class Bottleneck(Exercise):
    """Write the bottleneck

    Complete `Bottleneck`. The waist has `out_channels // reduction` channels. The **branch** is a 1x1 convolution down
    to the waist, a 3x3 convolution there, and a 1x1 convolution up to `out_channels`; each has no bias and is followed
    by batch norm, the first two also by ReLU. The stride is in the 3x3 convolution. The **shortcut** is
    `make_shortcut(in_channels, out_channels, stride)`, given above. The output is ReLU(branch + shortcut), and a new
    block starts as its shortcut: the scale of the branch's last norm is zero.

    Your copy checks it with <<wide>> channels and a reduction of <<squeeze>>.
    """

    goal = "build the bottleneck with a waist of any width"
    kind = "build"
    minutes, difficulty, importance = 15, 2, 5
    practice = {"wide": 32, "squeeze": 4}
    hints = [
        "Follow the channels through the branch: from in_channels to the waist, from waist to waist, from the waist to "
        "out_channels.",
        "`padding` keeps the size under a 3x3 kernel. What does a 1x1 kernel need?",
        "Which layer of the branch is the last before the sum? Its `weight` is the scale that `nn.init.zeros_` sets to zero.",
    ]

    def draw(chance):
        return {"wide": chance.choice([16, 32, 48]), "squeeze": chance.choice([2, 4, 8])}

    def stub():
        class Bottleneck(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1, reduction=4):
                super().__init__()
                ...  # the branch, the shortcut, the zero

            def forward(self, x): ...  # ReLU(branch + shortcut)

    def solution():
        class Bottleneck(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1, reduction=4):
                super().__init__()
                waist = out_channels // reduction
                self.branch = nn.Sequential(
                    nn.Conv2d(in_channels, waist, 1, bias=False),
                    nn.BatchNorm2d(waist),
                    nn.ReLU(),
                    nn.Conv2d(waist, waist, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(waist),
                    nn.ReLU(),
                    nn.Conv2d(waist, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
                self.shortcut = make_shortcut(in_channels, out_channels, stride)
                nn.init.zeros_(self.branch[-1].weight)

            def forward(self, x):
                return torch.relu(self.branch(x) + self.shortcut(x))

    def right_functional():
        import torch.nn.functional as F

        class Bottleneck(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1, reduction=4):
                super().__init__()
                middle = int(out_channels / reduction)
                self.down = nn.Conv2d(in_channels, middle, (1, 1), bias=False)
                self.look = nn.Conv2d(middle, middle, (3, 3), (stride, stride), (1, 1), bias=False)
                self.up = nn.Conv2d(middle, out_channels, (1, 1), bias=False)
                self.norm1, self.norm2 = nn.BatchNorm2d(middle), nn.BatchNorm2d(middle)
                self.norm3 = nn.BatchNorm2d(out_channels)
                self.norm3.weight.data.zero_()
                self.pass_on = make_shortcut(in_channels, out_channels, stride)

            def forward(self, x):
                y = F.relu(self.norm1(self.down(x)))
                y = F.relu(self.norm2(self.look(y)))
                return F.relu(self.pass_on(x) + self.norm3(self.up(y)))

    def right_bricks():
        def brick(a, b, kernel, stride=1):
            return [nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

        class Bottleneck(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1, reduction=4):
                super().__init__()
                self.shortcut = make_shortcut(in_channels, out_channels, stride)
                middle = out_channels // reduction
                *layers, self.last = (
                    brick(in_channels, middle, 1) + brick(middle, middle, 3, stride) + brick(middle, out_channels, 1)
                )
                with torch.no_grad():
                    layers[-1].weight *= 0
                self.layers = nn.ModuleList(layers)

            def forward(self, x):
                y = x
                for layer in self.layers:
                    y = layer(y)
                y = y + self.shortcut(x)
                return self.last(y)

    wrong = [
        ("waist-fixed", "out_channels // reduction", "out_channels // 16", "the waist"),
        ("waist-of-the-input", "out_channels // reduction", "in_channels // reduction", "the waist"),
        ("no-waist", "waist = out_channels // reduction", "waist = out_channels", "the waist"),
        ("stride-in-the-first", "nn.Conv2d(in_channels, waist, 1, bias=False)",
         "nn.Conv2d(in_channels, waist, 1, stride, bias=False)", "must act once"),
        ("stride-moved-to-the-last", "stride=stride, padding=1, bias=False),\n            nn.BatchNorm2d(waist),\n            nn.ReLU(),\n            nn.Conv2d(waist, out_channels, 1, bias=False)",
         "padding=1, bias=False),\n            nn.BatchNorm2d(waist),\n            nn.ReLU(),\n            nn.Conv2d(waist, out_channels, 1, stride, bias=False)",
         "looks at neighbours"),
        ("bias", "nn.Conv2d(waist, out_channels, 1, bias=False)", "nn.Conv2d(waist, out_channels, 1)", "bias"),
        ("padding-on-1x1", "nn.Conv2d(in_channels, waist, 1, bias=False)",
         "nn.Conv2d(in_channels, waist, 1, padding=1, bias=False)", "other shapes"),
        ("no-padding", "stride=stride, padding=1", "stride=stride", "other shapes"),
        ("last-norm-forgotten", "nn.Conv2d(waist, out_channels, 1, bias=False),\n            nn.BatchNorm2d(out_channels),",
         "nn.Conv2d(waist, out_channels, 1, bias=False),", "a norm after each"),
        ("no-shortcut", "self.branch(x) + self.shortcut(x)", "self.branch(x)", "starts as its shortcut"),
        ("no-relu-at-the-end", "torch.relu(self.branch(x) + self.shortcut(x))", "self.branch(x) + self.shortcut(x)",
         "starts as its shortcut"),
        ("no-zero", "nn.init.zeros_(self.branch[-1].weight)", "pass", "starts as its shortcut"),
        ("zero-in-the-convolution", "self.branch[-1].weight", "self.branch[-2].weight", "the scale of a norm"),
        ("relu-before-the-sum", "torch.relu(self.branch(x) + self.shortcut(x))",
         "torch.relu(torch.relu(self.branch(x)) + self.shortcut(x))", "gets no gradient"),
        ("relu-forgotten", "stride=stride, padding=1, bias=False),\n            nn.BatchNorm2d(waist),\n            nn.ReLU(),",
         "stride=stride, padding=1, bias=False),\n            nn.BatchNorm2d(waist),", "the result is not"),
    ]  # fmt: skip

    explanation = """
    The block looks at neighbours only where it is narrow, at <<wide // squeeze>> instead of <<wide>> channels, and the two
    1x1 convolutions change the number of channels on the way in and out. The stride is in the 3x3 convolution,
    since this one looks at neighbours: a 1x1 convolution with stride 2 would never look at three of four pixels.

    The waist depends on `out_channels`, so that it is the same in the first block of a stage, which gets fewer
    channels, and in those behind it. There is no ReLU behind the last norm: before the sum the branch must be able
    to lower a value as well as to raise it. With the last scale at zero, the branch gives zero, and the block its
    shortcut; the scale itself gets a gradient, so it does not stay there.
    """
    marking = """
    The hidden check compares with the reference in float64 under random weights, for three changes of shape. Ask
    aloud: what would change if the waist depended on in_channels, and in which blocks of ResNet-50?
    """

    @check(points=1)
    def shapes(ask, values):
        """Shapes, for every kind of change."""
        wide = values.wide
        for arguments, size, out in [((wide, wide, 1), 8, 8), ((wide, 2 * wide, 2), 8, 4), ((wide, wide, 2), 7, 4)]:
            arguments = (*arguments, values.squeeze)
            try:
                found = ask(probes.outline, "Bottleneck", [2, wide, size, size], arguments)["out"]
            except Wrong as error:
                need("must match" not in str(error), f"Bottleneck{arguments}: branch and shortcut end with other shapes; "
                     f"the stride must act once on each, and nothing else may change the size ({error})")  # fmt: skip
                raise
            right = [2, arguments[1], out, out]
            need(
                found == right,
                f"Bottleneck{arguments}: the output of a {size}x{size} image should be {right}, not {found}",
            )

    @check(points=1)
    def branch(ask, values):
        """The waist, the place of the stride, norms and no bias."""
        wide = values.wide
        for arguments in [(wide, 2 * wide, 1, values.squeeze), (wide, wide, 2, values.squeeze), (wide, wide, 1)]:
            layers = ask(probes.outline, "Bottleneck", [2, wide, 8, 8], arguments)["layers"]
            convolutions = [layer for layer in layers if layer["kind"] == "Conv2d"]
            what = f"Bottleneck{arguments}"
            large = [layer for layer in convolutions if layer["kernel_size"] == [3, 3]]
            need(len(large) == 1, f"{what} should have one 3x3 convolution, not {len(large)}")
            waist = arguments[1] // (arguments[3] if len(arguments) > 3 else 4)
            found = [large[0]["in_channels"], large[0]["out_channels"]]
            need(found == [waist, waist], f"{what}: the 3x3 convolution should be in the waist, but goes from "
                 f"{found[0]} to {found[1]} channels: of which width is the waist a part?")  # fmt: skip
            strided = [layer for layer in convolutions if layer["stride"] != [1, 1]]
            need(
                all(layer in large for layer in strided),
                f"{what}: the stride is in a 1x1 convolution; which one looks at neighbours?",
            )
            need(not any(layer["bias"] for layer in convolutions), f"{what}: a convolution before a norm needs no bias")
            norms = [layer for layer in layers if layer["kind"] == "BatchNorm2d"]
            need(len(norms) == len(convolutions), f"{what}: there should be a norm after each convolution")

    @check(points=1)
    def start(ask, values):
        """A new block is its shortcut, and can leave it."""
        import torch

        wide = values.wide
        images = torch.randn(2, wide, 6, 6, generator=torch.Generator().manual_seed(0)).double()
        new = ask(probes.run, "Bottleneck", images, (wide, wide), randomise=False, training=True)
        need(bool((new["out"] - images.relu()).abs().max() < 1e-6),
             "a new block starts as its shortcut, here ReLU(x): whose scale is to be zero, and what comes after the sum?")  # fmt: skip
        zeros = [key for key, part in new["state"].items() if key.endswith("weight") and not bool(part.any())]
        need(
            any(new["state"][key].dim() == 1 for key in zeros),
            "a new block starts as its shortcut, but not because the scale of a norm is zero",
        )
        need(any(new["gradients"][key] is not None and bool(new["gradients"][key].any()) for key in zeros),
             "the scale that is zero gets no gradient and stays zero: is it that of the last norm, and does anything "
             "stand between it and the sum?")  # fmt: skip

    @check(points=2, hidden=True)
    def same_function(ask, values, reference):
        """The same function as the block of the chapter, for random weights."""
        wide, squeeze = values.wide, values.squeeze
        for arguments, size in [
            ((wide, wide, 1, squeeze), 6),
            ((wide, 2 * wide, 2, 4), 7),
            ((2 * wide, wide, 1, 8), 5),
        ]:
            for training in (False, True):
                need_same(
                    ask, "Bottleneck", reference["Bottleneck"], [3, arguments[0], size, size], arguments,
                    training=training, message=f"Bottleneck{arguments}: layers and shapes are right, the result is not; "
                    "look at the ReLUs, and at what is added to what",
                )  # fmt: skip


class WhatTheWaistSaves(Exercise):
    """Work out what a 1x1 convolution saves

    A bottleneck takes <<broad>> channels and gives <<broad>>, with a waist of <<waist>>, on maps of <<side>>x<<side>>
    pixels. A basic block of the same width has two 3x3 convolutions of <<broad>> channels. Neither has a stride, and the
    shortcuts cost nothing. Work out, counting the MACs of the convolutions for one image:

    - `bottleneck_macs` and `basic_macs`;
    - `times`: how many times the MACs of the bottleneck the basic block costs, to one decimal;
    - `share`: the part of the bottleneck's MACs that its two 1x1 convolutions cost, in per cent, to one decimal;
    - `balanced`: the waist at which the two 1x1 convolutions **together** would cost just as much as the 3x3
      convolution, to one decimal (for the same <<broad>> channels; it need not be a whole number).
    """

    goal = "compare the basic block with the bottleneck by MACs"
    kind = "compute"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"broad": 256, "waist": 64, "side": 14}
    hints = [
        "MACs of a convolution: kernel * kernel * in * out * pixels of the output. Write one line for each of the five.",
        "Both blocks work at the same number of pixels: what happens to it in a ratio?",
        "For `balanced` write down the cost of the 3x3 and of the two 1x1 with a waist w that you do not know, and set "
        "them equal.",
    ]

    def draw(chance):
        broad, part = chance.choice([96, 128, 192, 320, 384, 512]), chance.choice([2, 4, 8])
        return {"broad": broad, "waist": broad // part, "side": chance.choice([7, 10, 16, 20, 28])}

    def stub():
        bottleneck_macs = ...
        basic_macs = ...
        times = ...
        share = ...
        balanced = ...

    def solution():
        pixels = side**2
        pointwise = 2 * broad * waist
        bottleneck_macs = (pointwise + 9 * waist**2) * pixels
        basic_macs = 2 * 9 * broad**2 * pixels
        times = round(basic_macs / bottleneck_macs, 1)
        share = round(100 * pointwise / (pointwise + 9 * waist**2), 1)
        balanced = round(2 * broad / 9, 1)

    def right_by_code():
        layers = [nn.Conv2d(broad, waist, 1), nn.Conv2d(waist, waist, 3), nn.Conv2d(waist, broad, 1)]
        down, look, up = (layer.weight.numel() * side * side for layer in layers)
        bottleneck_macs = torch.tensor(down + look + up)
        basic_macs = 2 * nn.Conv2d(broad, broad, 3).weight.numel() * side * side
        times = basic_macs / bottleneck_macs
        share = (down + up) / bottleneck_macs * 100
        balanced = min((abs(9 * w * w / 100 - 2 * broad * w / 10), w / 10) for w in range(1, 10 * broad))[1]

    def right_numpy():
        import numpy as np

        kernels, ins, outs = np.array([1, 9, 1]), np.array([broad, waist, waist]), np.array([waist, waist, broad])
        costs = kernels * ins * outs * side**2
        bottleneck_macs, basic_macs = costs.sum(), 18 * broad * broad * side * side
        times = np.round(basic_macs / bottleneck_macs, 2)
        share = float(100 * (1 - costs[1] / costs.sum()))
        balanced = broad / 4.5

    wrong = [
        ("one-1x1", "2 * broad * waist", "broad * waist", "two 1x1"),
        ("3x3-at-full-width", "9 * waist**2) * pixels", "9 * broad**2) * pixels", "in the waist"),
        ("3x3-from-the-waist-up", "(pointwise + 9 * waist**2) * pixels", "(pointwise + 9 * waist * broad) * pixels", "in the waist"),
        ("no-pixels", "pixels = side**2", "pixels = 1", "weights, not MACs"),
        ("one-side", "pixels = side**2", "pixels = side", "pixels"),
        ("basic-has-one", "2 * 9 * broad**2", "9 * broad**2", "basic_macs"),
        ("upside-down", "basic_macs / bottleneck_macs", "bottleneck_macs / basic_macs", "how many times"),
        ("share-of-the-3x3", "100 * pointwise / ", "100 * 9 * waist**2 / ", "the 3x3"),
        ("a-fraction", "round(100 * pointwise / (pointwise + 9 * waist**2), 1)",
         "pointwise / (pointwise + 9 * waist**2)", "per cent"),
        ("compared-with-the-3x3", "(pointwise + 9 * waist**2), 1)", "(9 * waist**2), 1)", "share"),
        ("one-1x1-balanced", "2 * broad / 9", "broad / 9", "together"),
        ("a-root", "2 * broad / 9", "(2 * broad / 9) ** 0.5", "balanced"),
        ("a-word", "share = round(100 * pointwise / (pointwise + 9 * waist**2), 1)", 'share = "half"', "should be a number"),
    ]  # fmt: skip

    explanation = """
    The bottleneck costs 2 * <<broad>> * <<waist>> + 9 * <<waist>> * <<waist>> MACs a pixel, the basic block
    18 * <<broad>> * <<broad>>. The pixels cancel in every ratio. A 3x3 convolution costs with the **square** of the
    width at which it runs, so narrowing its width <<broad // waist>> times saves <<(broad // waist)**2>> times; the 1x1
    convolutions that make this possible cost a ninth of a 3x3 for each pair of channels.

    Both costs are equal where 2 * <<broad>> * w = 9 * w * w, so at w = <<broad>> * 2 / 9, a little less than a quarter.
    With a waist of a quarter neither part is negligible, which is what makes the quarter a sensible choice. In a narrower
    waist the 1x1 convolutions are nearly all that is paid for, and they read and write many numbers for each MAC.
    """
    marking = """
    Exact MACs; the rounded ones within half a unit of the decimal asked for. Formulas and numbers both count. Ask
    aloud: which of the five numbers depend on the side of the maps?
    """

    @check(points=1)
    def written(ask, values):
        """Five numbers."""
        for name in ("bottleneck_macs", "basic_macs", "share", "balanced"):
            need(number_of(ask(probes.value, name), name) > 0, f"{name} should be more than zero")
        need(number_of(ask(probes.value, "share"), "share") < 100,
             "share is in per cent of the whole bottleneck, so the 1x1 convolutions cannot reach a hundred")  # fmt: skip
        need(number_of(ask(probes.value, "times"), "times") > 1,
             "times should say how many times as much the dearer block costs: what is divided by what?")  # fmt: skip

    @check(points=1, hidden=True)
    def macs(ask, values, reference):
        """MACs of both blocks."""
        broad, waist, pixels = values.broad, values.waist, values.side**2
        for name in ("bottleneck_macs", "basic_macs"):
            own, right = number_of(ask(probes.value, name), name), reference[name]
            reason = "which kernel, from how many channels to how many, at how many pixels?"
            if abs(own * pixels - right) < 0.5:
                reason = "these are weights, not MACs"
            elif abs(own * values.side - right) < 0.5:
                reason = "how many pixels has a map?"
            elif name == "bottleneck_macs" and own > right:
                reason = "the 3x3 convolution runs in the waist, in and out"
            elif name == "bottleneck_macs":
                reason = "there are two 1x1 convolutions and a 3x3"
            need(abs(own - right) < 0.5, f"{name} is {own / right:.3g} times what it should be: {reason}")

    @check(points=1, hidden=True)
    def ratios(ask, values, reference):
        """How many times, and the share."""
        own, right = (
            number_of(ask(probes.value, "times"), "times"),
            reference["basic_macs"] / reference["bottleneck_macs"],
        )
        need(abs(own - right) <= 0.051, f"times = {own:g} is not right, or not to one decimal: how many times what?")
        own = number_of(ask(probes.value, "share"), "share")
        right = 200 * values.broad / (2 * values.broad + 9 * values.waist)
        need(abs(own - right / 100) > 0.002, "share is a fraction: per cent were asked for")
        need(
            abs(own - 100 + right) > 0.051 or abs(own - right) <= 0.051,
            "share is that of the 3x3: the other two were asked for",
        )
        need(abs(own - right) <= 0.051, f"share = {own:g} is not right, or not to one decimal: a part of what?")

    @check(points=1, hidden=True)
    def balance(ask, values, reference):
        """The waist at which both cost the same."""
        own, right = number_of(ask(probes.value, "balanced"), "balanced"), 2 * values.broad / 9
        need(abs(own - right / 2) > 0.06, "balanced: both 1x1 convolutions together were asked for")
        need(
            abs(own - right) <= 0.051,
            f"balanced = {own:g} is not right, or not to one decimal: set the two costs equal, and solve for the waist",
        )


class PreActivation(Exercise):
    """Turn the order round, and predict the start

    A block may also have its norms and ReLUs **before** its convolutions (pre-activation): its branch is norm, ReLU,
    3x3 convolution, norm, ReLU, 3x3 convolution, and its output is x + branch, with **no ReLU after the sum**.

    1. Complete `forward` of `PreBlock`.
    2. The usual block sets the scale of its last norm to zero. Here `zero="norm"` does the same with the last norm, and
       `zero="convolution"` sets the last convolution to zero instead. Write your `prediction` before you run the cell:
       in a stack of <<blocks>> new blocks with `zero="norm"`, which has <<6 * blocks>> parameter tensors (two norms with
       two each and two convolutions in each block), **how many of these tensors get a gradient** that is not zero in the
       first step? The cell counts them for both starts and sets `measured_norm` and `measured_convolution`.
    3. Say what it means:
        - `pre_start` and `usual_start`: what one new block computes at the start, this one with `zero="convolution"` and
          the usual one (norm-zero, ReLU after the sum): `"x"`, `"relu(x)"`, `"branch(x)"` or `"zero"`;
        - `pre_below` and `usual_below`: <<below>> per cent of the values of x are below zero. How many per cent are it
          behind a stack of <<blocks>> such new blocks?
        - `reason`: why did the count for `zero="norm"` come out as it did? `"sum"` (the shortcut takes the gradient away
          from the branch), `"relu"` (the ReLU behind the zeroed norm passes no gradient back), `"norm"` (a norm with scale
          zero gives its own scale no gradient, wherever it stands) or `"bias"` (the convolutions have none).
    """

    goal = "say what the order of norm, ReLU and convolution does to a new block"
    kind = "predict"
    minutes, difficulty, importance = 25, 4, 4
    practice = {"breadth": 8, "blocks": 4, "below": 30}
    hints = [
        "Write the branch from the inside: the first norm gets x, the last convolution gives the branch.",
        "What exactly reaches the second ReLU if the norm before it has scale and shift zero, and what is the slope of "
        "a ReLU there? And what stands between the last norm and the sum in the usual block?",
        "Which layer of each kind of block has the last word about the sign of a value?",
    ]

    def draw(chance):
        return {
            "breadth": chance.choice([6, 8, 10]),
            "blocks": chance.choice([3, 5, 6]),
            "below": chance.choice([20, 35, 40, 45, 60]),
        }

    def stub():
        class PreBlock(nn.Module):
            def __init__(self, channels, zero="nothing"):
                super().__init__()
                self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
                self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                if zero == "norm":
                    nn.init.zeros_(self.norm2.weight)
                elif zero == "convolution":
                    nn.init.zeros_(self.conv2.weight)

            def forward(self, x):
                return ...  # x + branch

        prediction = ...  # of the tensors of the stack, with zero="norm"

        def tensors_with_gradient(zero):
            torch.manual_seed(0)
            stack = nn.Sequential(*[PreBlock(breadth, zero) for _ in range(blocks)])
            # of these values, just so many are below zero
            x = (torch.arange(100 * breadth) / breadth - below)[torch.randperm(100 * breadth)] / 50
            out = stack(x.reshape(4, breadth, 5, 5))
            (out * torch.randn(out.shape)).sum().backward()
            return sum(bool(part.grad.any()) for part in stack.parameters() if part.grad is not None)

        measured_norm, measured_convolution = ..., ...
        if prediction is not ...:
            measured_norm = tensors_with_gradient("norm")
            measured_convolution = tensors_with_gradient("convolution")
            print(f"predicted {prediction}, counted {measured_norm} (norm), {measured_convolution} (convolution)")

        pre_start = ...
        usual_start = ...
        pre_below = ...
        usual_below = ...
        reason = ...

    def solution():
        class PreBlock(nn.Module):
            def __init__(self, channels, zero="nothing"):
                super().__init__()
                self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
                self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                if zero == "norm":
                    nn.init.zeros_(self.norm2.weight)
                elif zero == "convolution":
                    nn.init.zeros_(self.conv2.weight)

            def forward(self, x):
                y = self.conv1(torch.relu(self.norm1(x)))
                y = self.conv2(torch.relu(self.norm2(y)))
                return x + y

        prediction = 2 * blocks  # of the tensors of the stack, with zero="norm"

        def tensors_with_gradient(zero):
            torch.manual_seed(0)
            stack = nn.Sequential(*[PreBlock(breadth, zero) for _ in range(blocks)])
            # of these values, just so many are below zero
            x = (torch.arange(100 * breadth) / breadth - below)[torch.randperm(100 * breadth)] / 50
            out = stack(x.reshape(4, breadth, 5, 5))
            (out * torch.randn(out.shape)).sum().backward()
            return sum(bool(part.grad.any()) for part in stack.parameters() if part.grad is not None)

        measured_norm, measured_convolution = ..., ...
        if prediction is not ...:
            measured_norm = tensors_with_gradient("norm")
            measured_convolution = tensors_with_gradient("convolution")
            print(f"predicted {prediction}, counted {measured_norm} (norm), {measured_convolution} (convolution)")

        pre_start = "x"
        usual_start = "relu(x)"
        pre_below = below
        usual_below = 0
        reason = "relu"

    def right_sequential():
        class PreBlock(nn.Module):
            def __init__(self, channels, zero="nothing"):
                super().__init__()
                layers = []
                for _ in range(2):
                    layers += [
                        nn.BatchNorm2d(channels),
                        nn.ReLU(),
                        nn.Conv2d(channels, channels, 3, padding="same", bias=False),
                    ]
                self.branch = nn.Sequential(*layers)
                number = {"norm": 3, "convolution": 5}.get(zero)
                if number is not None:
                    self.branch[number].weight.data.zero_()

            def forward(self, x):
                return self.branch(x).add(x)

        prediction = 0
        measured_norm, measured_convolution = 0.0, torch.tensor(blocks)
        pre_start, usual_start, reason = "x", "relu(x)", "relu"
        pre_below, usual_below = float(below), 0.0

    def right_functional():
        import torch.nn.functional as F

        class PreBlock(nn.Module):
            def __init__(self, channels, zero="nothing"):
                super().__init__()
                self.first = nn.Conv2d(channels, channels, (3, 3), 1, 1, bias=False)
                self.second = nn.Conv2d(channels, channels, (3, 3), 1, 1, bias=False)
                self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(2)])
                with torch.no_grad():
                    self.second.weight.mul_(float(zero != "convolution"))
                    self.norms[1].weight.mul_(float(zero != "norm"))

            def forward(self, x):
                y = x
                for norm, convolution in zip(self.norms, [self.first, self.second]):
                    y = convolution(F.relu(norm(y)))
                return y + x

        def count(zero):
            torch.manual_seed(7)
            x, found = torch.randn(4, breadth, 6, 6), 0
            stack = nn.Sequential(*(PreBlock(breadth, zero) for _ in range(blocks)))
            loss = stack(x).pow(2).sum()
            return sum(int(g.abs().max() > 0) for g in torch.autograd.grad(loss, list(stack.parameters())))

        prediction = 6 * blocks
        measured_norm, measured_convolution = count("norm"), count("convolution")
        pre_start, usual_start, reason = "x", "relu(x)", "relu"
        x = (torch.arange(1000) - 10 * below).double()
        pre_below, usual_below = 100 * (x < 0).double().mean(), 100 * (x.relu() < 0).double().mean()

    wrong = [
        ("relu-after-the-sum", "return x + y", "return torch.relu(x + y)", "behind the sum"),
        ("no-shortcut", "return x + y", "return y", "x itself is not"),
        ("usual-order", "y = self.conv1(torch.relu(self.norm1(x)))", "y = torch.relu(self.norm1(self.conv1(x)))",
         "first norm"),
        ("relu-before-norm", "self.norm1(x)", "self.norm1(torch.relu(x))", "before the first norm"),
        ("relu-of-x-in-the-shortcut", "return x + y", "return torch.relu(x) + y", "on the shortcut"),
        ("second-relu-forgotten", "torch.relu(self.norm2(y))", "self.norm2(y)", "the result is not"),
        ("norm-on-the-shortcut", "return x + y", "return self.norm1(x) + y", "x itself is not"),
        ("impossible-prediction", "prediction = 2 * blocks", "prediction = 7 * blocks", "tensors"),
        ("negative-prediction", "prediction = 2 * blocks", "prediction = -1", "tensors"),
        ("a-word", "prediction = 2 * blocks", 'prediction = "all"', "should be a number"),
        ("not-run", 'measured_norm = tensors_with_gradient("norm")', "measured_norm = 2 * blocks", "is not what the cell counts"),
        ("relu-at-the-start", 'pre_start = "x"', 'pre_start = "relu(x)"', "pre_start"),
        ("usual-is-x", 'usual_start = "relu(x)"', 'usual_start = "x"', "usual_start"),
        ("no-such-word", 'usual_start = "relu(x)"', 'usual_start = "identity"', "none of the words"),
        ("none-pass", "pre_below = below", "pre_below = 0", "pre_below"),
        ("halved-by-each", "pre_below = below", "pre_below = below / 2**blocks", "pre_below"),
        ("usual-passes", "usual_below = 0", "usual_below = below", "usual_below"),
        ("the-sum", 'reason = "relu"', 'reason = "sum"', "a copy of the gradient"),
        ("the-norm", 'reason = "relu"', 'reason = "norm"', "in the usual block"),
        ("the-bias", 'reason = "relu"', 'reason = "bias"', "in the usual block"),
    ]  # fmt: skip

    explanation = """
    With the last **norm** at zero, the ReLU behind it gets nothing but zeros. There its slope is zero (in PyTorch), so
    the norm gets no gradient; and the last convolution sees only zeros, so it gets none either, nor does anything before
    them. Not one of the <<6 * blocks>> tensors moves, in this step or in any later one: the stack is dead. In the usual
    block nothing stands between the last norm and the sum but the sum itself, and its scale and shift do learn: that
    start may not be carried over to another order without thought. With the last **convolution** at zero, one tensor a
    block gets a gradient, <<blocks>> in all, and after one step all others do.

    A new pre-activation block is x, to the sign: <<below>> per cent below zero stay so through any number of blocks,
    and the way back is open as well. The usual block is ReLU(x): after the first of them no value is below zero any
    more, and later ones pass on what is left. That is why networks of pre-activation blocks need a norm and a ReLU of
    their own before the head.
    """
    marking = """
    The prediction has its point whatever it is, if it is between none and all. The block is compared with the reference
    under random weights. Ask aloud: how would you notice a dead stack in a training run, and which control shows it
    before the run?
    """

    @check(points=1)
    def block(ask, values):
        """The sum, and the order before it."""
        import torch

        breadth = values.breadth
        images = torch.randn(3, breadth, 6, 6, generator=torch.Generator().manual_seed(0)).double()
        out, raised = (
            ask(probes.run, "PreBlock", images + more, (breadth,), randomise=False, training=True)["out"]
            for more in (0.0, 3.0)
        )
        need(bool((raised - out).abs().mean() > 1e-3), "x itself is not in the output, which should be x + branch")
        need(bool((out < 0).any()), "there is a ReLU behind the sum, which the task does not have")
        need(
            bool(torch.allclose(raised - out, torch.full_like(out, 3), atol=1e-6)),
            "3 more everywhere in x should change nothing in the branch, since its first norm takes it away again, and be 3 "
            "more in the sum; in your code something stands before the first norm, or on the shortcut",
        )

    @check(points=1)
    def predicted(ask, values):
        """A prediction that is possible."""
        own = number_of(ask(probes.value, "prediction"), "prediction")
        need(0 <= own <= 6 * values.blocks, f"prediction = {own:g}: the stack has {6 * values.blocks} tensors, so it is a number from none to all of them")  # fmt: skip
        for name in ("measured_norm", "measured_convolution"):
            number_of(ask(probes.value, name), name)

    @check(points=1, hidden=True)
    def same_function(ask, values, reference):
        """The block is what the task describes, for random weights, and with its last convolution at zero."""
        import torch

        breadth = values.breadth
        for training in (False, True):
            need_same(
                ask, "PreBlock", reference["PreBlock"], [3, breadth, 5, 5], (breadth,), training=training,
                message="its layers are right, the result is not: norm, ReLU, convolution, and once more",
            )  # fmt: skip
        images = torch.randn(2, breadth, 5, 5, generator=torch.Generator().manual_seed(1)).double()
        new = ask(probes.run, "PreBlock", images, (breadth, "convolution"), randomise=False, training=True)["out"]
        need(bool(torch.allclose(new, images)), 'zero="convolution" should set the last convolution to zero')

    @check(points=1, hidden=True)
    def counted(ask, values, reference):
        """Both starts were counted."""
        for name in ("measured_norm", "measured_convolution"):
            own = number_of(ask(probes.value, name), name)
            need(own == float(reference[name]),
                 f"{name} = {own:g} is not what the cell counts with a right block: mend the block, and run the cell again")  # fmt: skip

    @check(points=1, hidden=True)
    def start(ask, values, reference):
        """What new blocks compute, and what passes."""
        for name in ("pre_start", "usual_start"):
            own = ask(probes.value, name)
            need(own in ("x", "relu(x)", "branch(x)", "zero"), f"{name} = {own!r} is none of the words of the task")
            need(own == reference[name], f"{name} is another: the branch gives zero at the start; what is left?")
        for name in ("pre_below", "usual_below"):
            own = number_of(ask(probes.value, name), name)
            need(
                abs(own - reference[name]) < 0.01,
                f"{name} = {own:g} is not right: what does one block do to a value below zero, and what the next?",
            )

    @check(points=1, hidden=True)
    def why(ask, values, reference):
        """The reason for the count."""
        own = ask(probes.value, "reason")
        need(own in ("sum", "relu", "norm", "bias"), f"reason = {own!r} is none of the words of the task")
        need(own != "sum", "a sum gives each of its parts a copy of the gradient, so it takes nothing away")
        need(
            own == reference["reason"],
            f"if it were {own!r}, no scale would learn in the usual block either, whose last norm is zero, too; there it does",
        )


class OneClass(Exercise):
    """One class for the whole family

    Write `ResNet(block, depths, widths, num_classes=10)`: `make_stem()` (given above, 64 channels), then a stage for each
    depth and width, then global average pooling and one linear layer. `block` is any class that is called as
    `block(in_channels, out_channels, stride)`. The first block of each stage but the first has stride 2, all others
    stride 1. There may be any number of stages.

    With it come the five: widths (64, 128, 256, 512) and the basic block for 18 with depths (2, 2, 2, 2) and 34 with
    (3, 4, 6, 3); widths (256, 512, 1024, 2048) and the bottleneck with a waist of a quarter for 50 with (3, 4, 6, 3), 101
    with (3, 4, 23, 3) and 152 with (3, 8, 36, 3).

    Then work out what it costs to go from ResNet-<<lesser>> to ResNet-<<greater>>, without training and best without
    building them:

    - `added_parameters`: how many parameters more it has, norms included;
    - `added_macs`: how many MACs more its convolutions have for one image of <<photo>>x<<photo>> pixels.
    """

    goal = "build ResNet-18 to -152 from one class, and say what depth costs"
    kind = "build"
    minutes, difficulty, importance = 25, 3, 5
    practice = {"lesser": 50, "greater": 101, "photo": 224}
    hints = [
        "Two loops, one inside the other: over stages, and over the blocks of a stage. One variable remembers how many "
        "channels come in to the next block.",
        "In which stages do the two networks have other numbers of blocks? Do the blocks that are added change the shape?",
        "So you need the parameters of one block without a projection for each of these widths, and the side of the maps "
        "there: the stem leaves a quarter, each stage but the first halves it.",
    ]

    def draw(chance):
        lesser, greater = chance.choice([(18, 34), (50, 152), (101, 152)])
        return {"lesser": lesser, "greater": greater, "photo": chance.choice([96, 128, 160, 192, 256])}

    def stub():
        class ResNet(nn.Module):
            def __init__(self, block, depths, widths, num_classes=10):
                super().__init__()
                ...  # stem, stages, head

            def forward(self, x): ...

        added_parameters = ...
        added_macs = ...

    def solution():
        class ResNet(nn.Module):
            def __init__(self, block, depths, widths, num_classes=10):
                super().__init__()
                self.stem = make_stem()
                blocks, in_channels = [], 64
                for stage, (depth, width) in enumerate(zip(depths, widths)):
                    for number in range(depth):
                        stride = 2 if stage > 0 and number == 0 else 1
                        blocks.append(block(in_channels, width, stride))
                        in_channels = width
                self.blocks = nn.Sequential(*blocks)
                self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))

            def forward(self, x):
                return self.head(self.blocks(self.stem(x)))

        depths_of = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
        added_parameters, added_macs, maps = 0, 0, photo // 4
        for stage in range(4):
            more = depths_of[greater][stage] - depths_of[lesser][stage]
            inner = 64 * 2**stage
            if greater == 34:
                weights, norms = 2 * 9 * inner**2, 2 * 2 * inner
            else:
                weights, norms = 2 * inner * 4 * inner + 9 * inner**2, 2 * (inner + inner + 4 * inner)
            added_parameters += more * (weights + norms)
            added_macs += more * weights * maps**2
            maps //= 2

    def right_meta():
        import torch.nn.functional as F

        class Plain(nn.Module):
            """The layers of a block, one behind the other, to count them."""

            def __init__(self, in_channels, out_channels, stride=1):
                super().__init__()
                sizes = [(out_channels, 3)] * 2
                if greater > 34:
                    sizes = [(out_channels // 4, 1), (out_channels // 4, 3), (out_channels, 1)]
                self.project = nn.ModuleList()
                if in_channels != out_channels:
                    self.project.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
                layers = []
                for number, (width, kernel) in enumerate(sizes):
                    step = stride if kernel == 3 and number < 2 and not (len(sizes) == 2 and number) else 1
                    layers += [
                        nn.Conv2d(in_channels, width, kernel, step, kernel // 2, bias=False),
                        nn.BatchNorm2d(width),
                    ]
                    in_channels = width
                self.layers = nn.Sequential(*layers)

            def forward(self, x):
                return self.layers(x)

        class ResNet(nn.Module):
            def __init__(self, block, depths, widths, num_classes=10):
                super().__init__()
                self.entry = make_stem()
                self.stages = nn.ModuleList()
                sources = [64, *widths[:-1]]
                for n, depth in enumerate(depths):
                    first = block(sources[n], widths[n], stride=1 if n == 0 else 2)
                    self.stages.append(
                        nn.Sequential(first, *(block(widths[n], widths[n], stride=1) for _ in range(depth - 1)))
                    )
                self.classify = nn.Linear(widths[-1], num_classes)

            def forward(self, x):
                x = self.entry(x)
                for stage in self.stages:
                    x = stage(x)
                return self.classify(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0])

        def size_of(depth):
            depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[
                depth
            ]
            widths = [w if depth < 50 else 4 * w for w in (64, 128, 256, 512)]
            macs = []
            with torch.device("meta"):
                network = ResNet(Plain, depths, widths)
                for layer in network.modules():
                    if isinstance(layer, nn.Conv2d):
                        layer.register_forward_hook(lambda m, i, o: macs.append(m.weight.numel() * o[0, 0].numel()))
                network(torch.zeros(1, 3, photo, photo))
            return sum(p.numel() for p in network.parameters()), sum(macs)

        small, large = size_of(lesser), size_of(greater)
        added_parameters, added_macs = large[0] - small[0], large[1] - small[1]

    def right_numbers():
        def ResNet(block, depths, widths, num_classes=10):
            layers, before = [make_stem()], 64
            strides = [[1 + (n > 0)] + [1] * (depth - 1) for n, depth in enumerate(depths)]
            for width, row in zip(widths, strides):
                for stride in row:
                    layers.append(block(before, width, stride))
                    before = width
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Linear(before, num_classes))

        added = {34: [1, 2, 4, 1], 101: [0, 0, 17, 0], 152: [0, 4, 30, 0] if lesser == 50 else [0, 4, 13, 0]}[greater]
        unit = 18 if greater == 34 else 17
        norms = 4 if greater == 34 else 12
        inner = [64, 128, 256, 512]
        added_parameters = float(sum(n * (unit * w * w + norms * w) for n, w in zip(added, inner)))
        # MACs of a block are the same in each stage
        added_macs = sum(added) * unit * 64 * 64 * (photo // 4) ** 2

    wrong = [
        ("stride-in-the-first-stage", "2 if stage > 0 and number == 0 else 1", "2 if number == 0 else 1", "the first stage"),
        ("stride-in-each-block", "2 if stage > 0 and number == 0 else 1", "2 if stage > 0 else 1", "first block of a stage"),
        ("never-a-stride", "2 if stage > 0 and number == 0 else 1", "1", "the stride"),
        ("channels-not-carried", "                in_channels = width\n", "", "how many channels"),
        ("one-block-too-few", "range(depth)", "range(depth - 1)", "blocks"),
        ("four-stages-only", "zip(depths, widths)", "zip(depths[:2], widths[:2])", "blocks"),
        ("plain-list", "self.blocks = nn.Sequential(*blocks)", "self.blocks = lambda x: [x := block(x) for block in blocks][-1]",
         "not registered"),
        ("classes-fixed", "nn.Linear(in_channels, num_classes)", "nn.Linear(in_channels, 10)", "num_classes"),
        ("no-pooling", "nn.AdaptiveAvgPool2d(1), nn.Flatten()", "nn.AdaptiveMaxPool2d(1), nn.Flatten()", "the result is not"),
        ("softmax", "nn.Linear(in_channels, num_classes))", "nn.Linear(in_channels, num_classes), nn.Softmax(1))",
         "raw scores"),
        ("no-stem", "self.stem = make_stem()", "self.stem = nn.Conv2d(3, 64, 4, 4)", "the stem"),
        ("norms-forgotten", "more * (weights + norms)", "more * weights", "norms"),
        ("norms-once-a-channel", "more * (weights + norms)", "more * (weights + norms // 2)", "norms"),
        ("size-not-halved", "maps //= 2", "pass", "the side of the maps"),
        ("no-stem-in-the-side", "0, photo // 4", "0, photo", "the side of the maps"),
        ("weights-for-macs", "more * weights * maps**2", "more * weights", "pixels"),
        ("per-block", "more * weights * maps**2", "(more > 0) * weights * maps**2", "added_macs"),
        ("whole-stages", "more = depths_of[greater][stage] - depths_of[lesser][stage]", "more = depths_of[greater][stage]",
         "added_parameters"),
    ]  # fmt: skip

    explanation = """
    The class needs to know nothing about the block but how it is called, so one class makes all five, and any block that
    you invent later. The one thing that it has to remember is how many channels come in to the next block.

    Only blocks that keep their shape are added between ResNet-<<lesser>> and ResNet-<<greater>>, so no projection counts:
    a basic block of w channels has 18 * w * w weights and 4 * w parameters of norms; a bottleneck with waist w has
    8 * w * w + 9 * w * w weights and 12 * w parameters of norms. From one stage to the next the width doubles and the side
    halves, so a block's MACs are the same in every stage, but its parameters grow four times. Depth that is put into the
    third stage, as in the large members, is paid for in parameters less than in the fourth, and does its work on maps
    that are not yet tiny.
    """
    marking = """
    The class is called with a block of the checks, which notes how it is called; its numbers are compared with the
    reference under weights that are given in the order of running. The two numbers are exact. Ask aloud: why do the added
    blocks cost the same MACs in each stage?
    """

    @check(points=1)
    def plan(ask, values):
        """Which blocks are built, and how they are called."""
        for depths, widths in [((2, 1, 3), (8, 12, 20)), ((1, 2, 1, 1), (16, 16, 24, 32))]:
            calls = ask(calls_of, "ResNet", depths, widths)
            what = f"depths {depths}, widths {widths}"
            need(len(calls) == sum(depths), f"{what}: {len(calls)} blocks are built, not {sum(depths)}")
            before, number = 64, 0
            for stage, (depth, width) in enumerate(zip(depths, widths)):
                for place in range(depth):
                    found, number = calls[number], number + 1
                    where = f"{what}: block {place + 1} of stage {stage + 1}"
                    need(found[1] == width, f"{where} gives {found[1]} channels instead of {width}")
                    need(
                        found[0] == before,
                        f"{where} is told that {found[0]} channels come in: how many channels does it get?",
                    )
                    if stage == 0:
                        need(found[2] == 1, f"{where} has stride {found[2]}: the first stage keeps the size")
                    else:
                        need((found[2] != 1) == (place == 0),
                             f"{where} has stride {found[2]}: the stride is in the first block of a stage, and only there")  # fmt: skip
                    before = width

    @check(points=1)
    def runs(ask, values):
        """It runs, each block once and in order, and gives scores."""
        import torch

        for depths, widths, classes, side in [((2, 1, 3), (8, 12, 20), 5, 32), ((1, 2), (16, 24), 7, 40)]:
            found = ask(plan_of, "ResNet", depths, widths, classes, side)
            need(found["ran"] == list(range(sum(depths))), f"the blocks should each run once, in order: {found['ran']}")
            need(
                found["registered"] == sum(depths),
                "the blocks are not registered: in a plain list, their weights are no parameters of the network",
            )
            need(
                list(found["out"].shape) == [2, classes],
                f"two images and num_classes={classes} should give scores of shape [2, {classes}], not {list(found['out'].shape)}",
            )
            need(not bool(torch.allclose(found["out"].sum(1), torch.ones(2).double())),
                 "the outputs sum to one: raw scores are wanted, and the loss has the softmax")  # fmt: skip
            need(found["before"] == side // 4, "the stem should leave a quarter of each side to the first block")

    @check(points=1, hidden=True)
    def same_function(ask, values, reference):
        """The same function as the class of the chapter, for the same weights."""
        from course_exercises.asking import ask_here

        for depths, widths, side in [((1, 2, 1), (8, 12, 16), 36), ((2,), (10,), 24)]:
            arguments = ("ResNet", depths, widths, 6, side)
            own, right = ask(plan_of, *arguments), ask_here(reference)(plan_of, *arguments)
            need(
                own["kinds"] == right["kinds"],
                "the layers with parameters that run are others: are the stem and one linear layer there?",
            )
            same = own["out"].shape == right["out"].shape and bool(((own["out"] - right["out"]).abs() < 1e-7).all())
            need(
                same,
                "layers and shapes are right, the result is not: what stands between the last block and the scores?",
            )

    @check(points=1, hidden=True)
    def parameters(ask, values, reference):
        """How many parameters are added."""
        own, right = number_of(ask(probes.value, "added_parameters"), "added_parameters"), reference["added_parameters"]
        reason = "which blocks are added, and what has one of them?"
        if own < right and own > 0.98 * right:
            reason = "are the norms counted, two numbers a channel each?"
        need(abs(own - right) < 0.5, f"added_parameters is {own / right:.4g} times what it should be: {reason}")

    @check(points=1, hidden=True)
    def multiplications(ask, values, reference):
        """How many MACs are added."""
        own, right = number_of(ask(probes.value, "added_macs"), "added_macs"), reference["added_macs"]
        reason = "which blocks are added, how many, and what does one of them cost?"
        if own > 1.01 * right:
            reason = "what is the side of the maps in each stage?"
        elif own < right / 25:
            reason = "each weight is used once at each of how many pixels?"
        need(abs(own - right) < 0.5, f"added_macs is {own / right:.4g} times what it should be: {reason}")


def calls_of(names, name, depths, widths):
    """How a network calls the block that it is given: channels in, channels out, stride."""
    import torch
    from torch import nn

    calls = []

    class Noted(nn.Module):
        def __init__(self, in_channels, out_channels, stride=1):
            super().__init__()
            calls.append([in_channels, out_channels, stride])

        def forward(self, x):
            return x

    network = probes.build(names, name, (Noted, depths, widths, 5))
    if not calls:
        probes.made(name, network(torch.zeros(2, 3, 32, 32, dtype=torch.float64)))
    return calls


def plan_of(names, name, depths, widths, classes, side):
    """How a network runs the blocks that it is given, and what it gives with weights set in the order of running."""
    import torch
    from torch import nn

    made, ran, before = [], [], []

    class Noted(nn.Module):
        def __init__(self, in_channels, out_channels, stride=1):
            super().__init__()
            self.number = len(made)
            made.append(self.number)
            self.project = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

        def forward(self, x):
            ran.append(self.number)
            before.append(x.shape[-1])
            return self.project(x)

    network = probes.build(names, name, (Noted, depths, widths, classes)).eval()
    order, hooks = [], []
    for module in network.modules():
        if not list(module.children()) and list(module.parameters()):
            hooks.append(module.register_forward_hook(lambda module, inputs, output: order.append(module)))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        probes.plain(probes.made(name, network(images)), "the output")
        for hook in hooks:
            hook.remove()
        once = list(ran)
        for module in dict.fromkeys(order):
            for key, part in module.state_dict(keep_vars=True).items():
                if part.is_floating_point():
                    noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                    scale = part[0].numel() ** -0.5 if part.dim() > 1 else 0.3
                    part.copy_(noise.abs() + 0.5 if key == "running_var" else scale * noise + (part.dim() == 1))
        out = network(images)
    return {
        "ran": once,
        "registered": sum(isinstance(module, Noted) for module in network.modules()),
        "kinds": [f"{type(module).__name__} {[list(part.shape) for part in module.parameters()]}" for module in order],
        "out": out,
        "before": before[0] if before else 0,
    }
