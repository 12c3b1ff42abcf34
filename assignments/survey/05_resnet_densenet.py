"""Adding and concatenating

You count the channels of a DenseNet, write its two parts, mend a stage of residual blocks, and find out on two maps
what a sum forgets. Do the chapters on ResNet and DenseNet first; a pencil helps with the first exercise and the last.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn


def widths_of(ask):
    """The list of five numbers."""
    widths = ask(probes.value, "widths")
    need(isinstance(widths, list) and len(widths) == 5, "widths should be a list of five numbers")
    return [number_of(part, "each of the widths") for part in widths]


def measured_of(ask):
    """What was measured: two numbers."""
    found = ask(probes.value, "measured")
    need(isinstance(found, dict) and {"added", "stacked"} <= found.keys(), "measured should hold added and stacked")
    return {name: number_of(found[name], f"measured[{name!r}]") for name in ("added", "stacked")}


class DenseChannels(Exercise):
    """Count the channels of a DenseNet

    <<channels>> maps of <<size>>x<<size>> pixels enter a DenseNet of three dense blocks with <<layers[0]>>,
    <<layers[1]>> and <<layers[2]>> layers. Each layer is norm, ReLU and a 3x3 convolution without bias, and makes
    <<growth>> new maps, the **growth**. Between two blocks stands a transition: it halves the number of channels (a 1x1
    convolution) and the side (an average pool). Work out by hand:

    - `widths`: a list of five numbers, the channels behind block 1, transition 1, block 2, transition 2 and block 3;
    - `weights`: how many weights the 3x3 convolutions of **block 2** have together;
    - `kept`: how many numbers the layers of **block 2** keep for the way back, for one image. As in the chapter, each
      layer keeps two stacks: the one that its norm gets, and the one that its convolution gets, which is as large.

    Write formulas of Python rather than results, so that you can find a slip. `layers` is a list of the three numbers.
    """

    goal = "work out channels, weights and kept numbers of a dense block by hand"
    kind = "compute"
    minutes, difficulty, importance = 12, 2, 4
    practice = {"channels": 24, "growth": 12, "layers": [4, 6, 5], "size": 32}
    hints = [
        "Behind a block is all that went in, and `growth` maps of each layer. Begin with block 1, and halve.",
        "What does the first layer of block 2 read, what the second, what the last? Write that down as a list of "
        "numbers first. Weights and kept numbers both need its sum.",
        "Each number of channels is a map of how many pixels, in block 2?",
    ]

    def draw(chance):
        return {
            "channels": chance.choice([16, 32, 40, 48]),
            "growth": chance.choice([8, 16, 20, 24]),
            "layers": chance.choice([[3, 5, 4], [4, 5, 6], [5, 4, 3], [6, 5, 4]]),
            "size": chance.choice([16, 24, 40, 56]),
        }

    def stub():
        widths = [...]
        weights = ...
        kept = ...

    def solution():
        first = channels + layers[0] * growth
        second = first // 2 + layers[1] * growth
        widths = [first, first // 2, second, second // 2, second // 2 + layers[2] * growth]
        read = [widths[1] + number * growth for number in range(layers[1])]
        weights = 9 * growth * sum(read)
        kept = 2 * (size // 2) ** 2 * sum(read)

    def right_formula():
        c1 = channels + layers[0] * growth
        c = c1 / 2
        c2 = c + layers[1] * growth
        widths = (c1, c, c2, c2 / 2, c2 / 2 + layers[2] * growth)
        number = layers[1]
        together = number * c + number * (number - 1) / 2 * growth
        weights = 9 * growth * together
        kept = 2 * size * size / 4 * together

    def right_by_code():
        widths, now = [], channels
        for index, number in enumerate(layers):
            convolutions = [nn.Conv2d(now + step * growth, growth, 3, bias=False) for step in range(number)]
            if index == 1:
                weights = sum(layer.weight.numel() for layer in convolutions)
                kept = torch.tensor(sum(layer.in_channels for layer in convolutions) * size * size // 2)
            now = now + number * growth
            widths.append(now)
            if index < 2:
                now //= 2
                widths.append(now)

    wrong = [
        ("three-widths", "widths = [first, first // 2, second, second // 2, second // 2 + layers[2] * growth]",
         "widths = [first, first // 2, second]", "five numbers"),
        ("no-list", "widths = [first, first // 2, second, second // 2, second // 2 + layers[2] * growth]",
         "widths = [channels, first // 2, 0, 0, 0]", "more than zero"),
        ("input-forgotten", "first = channels + layers[0] * growth", "first = layers[0] * growth",
         "behind block 1 is not right: what went in"),
        ("growth-once", "first = channels + layers[0] * growth", "first = channels + growth",
         "behind block 1 is not right"),
        ("not-halved", "[first, first // 2, second,", "[first, first, second,", "behind transition 1 is not right"),
        ("second-block-from-first-width", "second = first // 2 +", "second = first +", "behind block 2 is not right"),
        ("all-read-the-input", "weights = 9 * growth * sum(read)", "weights = 9 * growth * layers[1] * widths[1]",
         "reads more than the one before"),
        ("all-at-full-width", "weights = 9 * growth * sum(read)", "weights = 9 * layers[1] * second**2",
         "weights is not right"),
        ("one-too-many", "range(layers[1])", "range(1, layers[1] + 1)", "its own maps"),
        ("kept-once", "kept = 2 * (size // 2) ** 2", "kept = (size // 2) ** 2", "half of what is kept"),
        ("size-of-block-1", "kept = 2 * (size // 2) ** 2", "kept = 2 * size**2", "four times too many"),
    ]  # fmt: skip

    explanation = """
    The widths are <<channels>> + <<layers[0]>> x <<growth>> = <<channels + layers[0] * growth>>, half of it, and so
    on. The layers of block 2 read <<(channels + layers[0] * growth) // 2>> maps and <<growth>> more each time, so
    their sum is $Lc + \\frac{L(L-1)}{2}k$. The weights are that sum times $9k$, and the kept numbers that sum times
    two stacks and <<size // 2>> x <<size // 2>> pixels. It is the same sum because a layer pays for what it
    **reads**: once in weights, and once in memory. It grows with the square of the depth, and this is what a DenseNet
    costs.
    """
    marking = """
    A point for each of the three names, and one for having five widths and two numbers at all; only the first slip of
    `widths` is reported. `weights` and `kept` are compared with the right numbers, so a slip in `widths` may cost
    these as well: give a point by hand where only the slip was carried on. Ask aloud: why is there no such sum in a
    ResNet?
    """

    @check(points=1)
    def written(ask, values):
        """Five widths and two numbers."""
        for name, found in [*(("each of the widths", part) for part in widths_of(ask)),
                            ("weights", number_of(ask(probes.value, "weights"), "weights")),
                            ("kept", number_of(ask(probes.value, "kept"), "kept"))]:  # fmt: skip
            need(found > 0, f"{name} should be more than zero")

    @check(points=1, hidden=True)
    def channels_of(ask, values, reference):
        """The channels behind each part."""
        found, right = widths_of(ask), reference["widths"]
        parts = ("block 1", "transition 1", "block 2", "transition 2", "block 3")
        before = values.channels
        for part, one, other in zip(parts, found, right):
            told = "a transition halves what comes in"
            if part.startswith("block"):
                told = "how many layers has it, and how many maps does each of them add to what is there?"
                if one == other - before:
                    told = "what went in is still there behind the block"
            need(one == other, f"the width behind {part} is not right: {told}")
            before = other

    @check(points=1, hidden=True)
    def weights_of(ask, values, reference):
        """The weights of block 2."""
        found, right = number_of(ask(probes.value, "weights"), "weights"), reference["weights"]
        c, number, growth = reference["widths"][1], values.layers[1], values.growth
        told = "how many maps does each layer read, and how many does it make?"
        if found == 9 * growth * number * c:
            told = "each layer reads more than the one before it"
        if found == right + 9 * growth * number * growth:
            told = "a layer does not read its own maps"
        need(found == right, f"weights is not right: {told}")

    @check(points=1, hidden=True)
    def kept_of(ask, values, reference):
        """What block 2 keeps for the way back."""
        factor = number_of(ask(probes.value, "kept"), "kept") / reference["kept"]
        told = "two stacks for each layer, of what it reads; at how many pixels?"
        if abs(factor - 0.5) < 1e-9:
            told = "that is half of what is kept: norm and convolution keep one stack each"
        if abs(factor - 4) < 1e-9:
            told = "four times too many: which side have the maps of block 2?"
        need(abs(factor - 1) < 1e-9, f"kept is not right: {told}")


class BlockAndTransition(Exercise):
    """Write the dense block and the transition

    Write the two parts that a DenseNet is made of.

    - `DenseBlock(in_channels, number, growth)` has `number` layers. Each layer is batch norm, ReLU and a 3x3
      convolution to `growth` maps, **in this order**; it reads all maps that are there, and puts its own **behind**
      them. The block returns all of them, its input first.
    - `transition(in_channels, out_channels)`, a function that returns a network (or a class), is batch norm, ReLU, a
      1x1 convolution to `out_channels` and an average pool that halves the side.

    No convolution has a bias. Your copy checks them with <<width>> channels and a growth of <<growth>>.
    """

    goal = "build a dense block and a transition"
    kind = "build"
    minutes, difficulty, importance = 20, 3, 5
    practice = {"width": 10, "growth": 4}
    hints = [
        "Each layer has another number of input channels: what does layer `index` read? Build all layers in "
        "`__init__`, in an `nn.ModuleList`.",
        "In `forward`, go through the layers and let x grow: what stands in x before layer `index` runs is what it reads.",
        "Maps are joined with `torch.cat`. Along which of the four dimensions, and which of the two parts comes first?",
    ]

    def draw(chance):
        return {"width": chance.choice([8, 12, 14]), "growth": chance.choice([3, 5, 6])}

    def stub():
        class DenseBlock(nn.Module):
            def __init__(self, in_channels, number, growth):
                super().__init__()
                ...  # the layers: norm, ReLU, 3x3

            def forward(self, x): ...  # all maps, the input first

        def transition(in_channels, out_channels): ...  # norm, ReLU, 1x1, average pool

    def solution():
        class DenseBlock(nn.Module):
            def __init__(self, in_channels, number, growth):
                super().__init__()
                self.layers = nn.ModuleList()
                for index in range(number):
                    channels = in_channels + index * growth
                    norm = nn.BatchNorm2d(channels)
                    convolution = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
                    self.layers.append(nn.Sequential(norm, nn.ReLU(), convolution))

            def forward(self, x):
                for layer in self.layers:
                    x = torch.cat([x, layer(x)], dim=1)
                return x

        def transition(in_channels, out_channels):
            norm, mix = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            return nn.Sequential(norm, nn.ReLU(), mix, nn.AvgPool2d(2))

    def right_list_of_maps():
        import torch.nn.functional as F

        class DenseBlock(nn.Module):
            def __init__(self, in_channels, number, growth):
                super().__init__()
                widths = range(in_channels, in_channels + number * growth, growth)
                self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in widths])
                self.convolutions = nn.ModuleList(
                    [nn.Conv2d(width, growth, kernel_size=3, padding="same", bias=False) for width in widths]
                )

            def forward(self, x):
                maps = [x]
                for norm, convolution in zip(self.norms, self.convolutions):
                    maps.append(convolution(F.relu(norm(torch.cat(maps, 1)))))
                return torch.cat(maps, 1)

        class transition(nn.Module):
            def __init__(self, in_channels, out_channels):
                super().__init__()
                self.norm = nn.BatchNorm2d(in_channels)
                self.mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)

            def forward(self, x):
                return F.avg_pool2d(self.mix(F.relu(self.norm(x))), 2)

    def right_layer_that_concatenates():
        class Layer(nn.Module):
            def __init__(self, channels, growth):
                super().__init__()
                self.made = nn.Sequential(
                    nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, growth, 3, 1, 1, bias=False)
                )

            def forward(self, x):
                return torch.cat((x, self.made(x)), dim=-3)

        def DenseBlock(in_channels, number, growth):
            return nn.Sequential(*(Layer(in_channels + i * growth, growth) for i in range(number)))

        transition = lambda a, b: nn.Sequential(  # noqa: E731
            nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 1, bias=False), nn.AvgPool2d(kernel_size=2, stride=2)
        )

    wrong = [
        ("replaced", "x = torch.cat([x, layer(x)], dim=1)", "x = layer(x)", "the output of a block"),
        ("added", "x = torch.cat([x, layer(x)], dim=1)", "x = x + layer(x)", "your code raised"),
        ("along-the-batch", "x = torch.cat([x, layer(x)], dim=1)", "x = torch.cat([x, layer(x)], dim=2)",
         "your code raised"),
        ("only-the-new", "return x", "return x[:, 1:]", "the output of a"),
        ("new-in-front", "torch.cat([x, layer(x)], dim=1)", "torch.cat([layer(x), x], dim=1)",
         "the input itself"),
        ("input-rectified", "torch.cat([x, layer(x)], dim=1)", "torch.cat([x.relu(), layer(x)], dim=1)",
         "the input itself"),
        ("all-read-the-input", "channels = in_channels + index * growth",
         "channels = in_channels  # they read the input only", "your code raised"),
        ("reads-the-newest-only", "", """
         class DenseBlock(nn.Module):
             def __init__(self, in_channels, number, growth):
                 super().__init__()
                 parts = [nn.Sequential(nn.BatchNorm2d(in_channels if i == 0 else growth), nn.ReLU(),
                          nn.Conv2d(in_channels if i == 0 else growth, growth, 3, padding=1, bias=False))
                          for i in range(number)]
                 self.layers = nn.ModuleList(parts)

             def forward(self, x):
                 maps, now = [x], x
                 for layer in self.layers:
                     now = layer(now)
                     maps.append(now)
                 return torch.cat(maps, dim=1)

         def transition(in_channels, out_channels):
             return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(),
                                  nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(2))
         """, "does each layer read all maps"),
        ("norm-behind", "", """
         class DenseBlock(nn.Module):
             def __init__(self, in_channels, number, growth):
                 super().__init__()
                 self.layers = nn.ModuleList([nn.Sequential(
                     nn.Conv2d(in_channels + i * growth, growth, 3, padding=1, bias=False), nn.BatchNorm2d(growth), nn.ReLU())
                     for i in range(number)])

             def forward(self, x):
                 for layer in self.layers:
                     x = torch.cat([x, layer(x)], dim=1)
                 return x

         def transition(in_channels, out_channels):
             return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(),
                                  nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(2))
         """, "in front of the convolution"),
        ("python-list", "self.layers = nn.ModuleList()", "self.layers = []", "nn.ModuleList"),
        ("bias", "nn.Conv2d(channels, growth, 3, padding=1, bias=False)", "nn.Conv2d(channels, growth, 3, padding=1)",
         "a bias"),
        ("no-relu", "nn.Sequential(norm, nn.ReLU(), convolution)", "nn.Sequential(norm, convolution)", "norm, ReLU"),
        ("relu-first", "nn.Sequential(norm, nn.ReLU(), convolution)", "nn.Sequential(nn.ReLU(), norm, convolution)",
         "norm, ReLU"),
        ("maximum", "nn.AvgPool2d(2)", "nn.MaxPool2d(2)", "an average"),
        ("stride-for-the-pool", "nn.Conv2d(in_channels, out_channels, 1, bias=False)\n    return nn.Sequential(norm, nn.ReLU(), mix, nn.AvgPool2d(2))",
         "nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)\n    return nn.Sequential(norm, nn.ReLU(), mix)",
         "is not as the task asks"),
        ("transition-without-relu", "nn.Sequential(norm, nn.ReLU(), mix, nn.AvgPool2d(2))",
         "nn.Sequential(norm, mix, nn.AvgPool2d(2))", "the transition"),
    ]  # fmt: skip

    explanation = """
    Each layer has its own norm over **everything** that it reads. A map is read by many layers, and with the norm in
    front each reader gives it a scale and a shift of its own; with the norm behind, all would get the same one. That
    `torch.cat` puts the old maps first is a convention, but one that everything behind relies on: the input is still
    there, bit for bit, in the first channels.

    The transition pools with an average, so that every pixel counts. A 1x1 convolution of stride 2 would have the same
    shape and drop three places in four. As the pool and the 1x1 convolution are both linear, they could stand in
    either order with the same result; only the costs differ.
    """
    marking = """
    The hidden checks compare with the reference in float64 under random weights, in both modes, so names and the way in
    which maps are collected do not matter. The pool in front of the 1x1 convolution gives the same numbers, but the
    task fixes the order: such a copy loses the transition's point. Ask aloud: which of the two orders is
    cheaper, and by how much?
    """

    @check(points=1)
    def shapes(ask, values):
        """Shapes of block and transition."""
        width, growth = values.width, values.growth
        for number in (1, 3):
            found = ask(probes.outline, "DenseBlock", [2, width, 6, 6], (width, number, growth))["out"]
            right = [2, width + number * growth, 6, 6]
            need(found == right, f"the output of a block of {number} layers should be {right}, not {found}")
        found = ask(probes.outline, "transition", [2, width, 6, 6], (width, width // 2))["out"]
        need(
            found == [2, width // 2, 3, 3], f"a transition to {width // 2} channels should make 3x3 of 6x6, not {found}"
        )

    @check(points=1)
    def still_there(ask, values):
        """The input is still there behind the block."""
        import torch

        images = torch.randn(2, values.width, 6, 6, generator=torch.Generator().manual_seed(0)).double()
        out = ask(probes.run, "DenseBlock", images, (values.width, 2, values.growth))["out"]
        same = out.shape[1] > values.width and bool(torch.equal(out[:, : values.width], images))
        need(
            same,
            "the first channels behind the block should be the input itself, unchanged, and all new maps behind it",
        )

    @check(points=1)
    def parts(ask, values):
        """The layers of the block."""
        width, growth = values.width, values.growth
        layers = ask(probes.outline, "DenseBlock", [2, width, 6, 6], (width, 3, growth))["layers"]
        convolutions = [layer for layer in layers if layer["kind"] == "Conv2d"]
        norms = [layer for layer in layers if layer["kind"] == "BatchNorm2d"]
        told = "a plain list hides layers from the network, an nn.ModuleList does not"
        need(len(convolutions) > 0, f"the network knows of no convolution: {told}")
        need(len(convolutions) == 3, f"a block of 3 layers ran {len(convolutions)} convolutions")
        grows = [two["in_channels"] - one["in_channels"] for one, two in zip(convolutions, convolutions[1:])]
        need(all(more == growth for more in grows), "does each layer read all maps that are there?")
        need(not any(layer["bias"] for layer in convolutions), "a convolution of the block has a bias")
        before = [layer["kind"] for layer in layers if layer["kind"] in ("Conv2d", "BatchNorm2d")][0] == "BatchNorm2d"
        need(before and len(norms) == 3, "each layer has one norm, and it stands in front of the convolution")
        same = all(norm["num_features"] == layer["in_channels"] for norm, layer in zip(norms, convolutions))
        need(same, "the norm in front of the convolution should be one over all that the layer reads")

    @check(points=2, hidden=True)
    def same_block(ask, values, reference):
        """The block computes what the chapter's does."""
        width, growth = values.width, values.growth
        for arguments in [(width, 3, growth), (3, 2, growth + 1)]:
            for training in (False, True):
                need_same(
                    ask, "DenseBlock", reference["DenseBlock"], [3, arguments[0], 5, 5], arguments, training=training,
                    message="the shapes of the block are right, the result is not: is each layer norm, ReLU, convolution?",
                )  # fmt: skip

    @check(points=1, hidden=True)
    def same_transition(ask, values, reference):
        """The transition computes what the chapter's does."""
        for training in (False, True):
            need_same(
                ask, "transition", reference["transition"], [3, values.width, 6, 6], (values.width, values.growth),
                training=training, message="the shapes of the transition are right, the result is not: norm, ReLU, a 1x1 "
                "convolution, and then an average of each 2x2",
            )  # fmt: skip


def stage_of(names, images, channels, number):
    """What a stage does: its size, an image alone and among others, and gradients with all norms at zero."""
    import torch
    from torch import nn

    stage = probes.build(names, "Stage", (channels, number))
    probes.shuffle(stage, 1)
    stage.eval()
    with torch.no_grad():
        together, alone = stage(images), stage(images[:1])
        for part in stage.modules():
            if isinstance(part, nn.BatchNorm2d) and part.affine:
                part.weight.zero_()
                part.bias.zero_()
    images = images.clone().requires_grad_()
    out = stage.train()(images)
    out.sum().backward()
    gradient = torch.zeros_like(images) if images.grad is None else images.grad
    return {
        "parameters": sum(part.numel() for part in stage.parameters()),
        "together": together[:1],
        "alone": alone,
        "zeroed": out.detach(),
        "gradient": gradient,
    }


class FaultInAStage(Exercise):
    """Mend a stage of residual blocks

    A stage of residual blocks, as it could stand in the middle of a ResNet. It runs, its shapes are right, and its loss
    even falls. But trained in a deep network it ends far below what it should. **One line** is at fault.

    Mend the class in place. Then set `fault` to the one of these words that names what was wrong: `"registration"`
    (layers are there that the network does not know of), `"sharing"` (one layer stands where two should),
    `"gradient"` (it does not get all the way back), `"statistics"` (a norm uses the wrong ones), `"activation"` (a
    ReLU is missing or at the wrong place). And set `control` to the letter of the experiment that shows it:

    - `"A"`: count what `parameters()` lists, and compare with a count by hand.
    - `"B"`: set the scale and shift of every norm to zero, and go backwards from the sum of the outputs. Does the input
      get a gradient?
    - `"C"`: run an image alone and in a batch with others, in evaluation mode. Does it come out the same?
    """

    goal = "find a fault that no shape shows, and name the control that does"
    kind = "break"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"width": 6, "_fault": "sharing", "_control": "A"}
    hints = [
        "Run the three experiments before you read the code. Two of them come out as they should, and the third tells "
        "you where to look.",
        "By hand: how many parameters have two 3x3 convolutions without bias, and two norms? And the whole stage?",
        "With all norms at zero each branch gives zero. What is left of the stage, and what is its gradient?",
    ]

    def draw(chance):
        planted = [("registration", "A"), ("sharing", "A"), ("gradient", "B"), ("statistics", "C")]
        fault, control = chance.choice(planted)
        return {"width": chance.choice([4, 5, 8]), "_fault": fault, "_control": control}

    def solution():
        class Stage(nn.Module):
            """Residual blocks that keep the shape."""

            def __init__(self, channels, number):
                super().__init__()
                self.branches = nn.ModuleList()
                for _ in range(number):
                    convolutions = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
                    norms = [nn.BatchNorm2d(channels) for _ in range(2)]
                    branch = nn.Sequential(convolutions[0], norms[0], nn.ReLU(), convolutions[1], norms[1])
                    self.branches.append(branch)

            def forward(self, x):
                for branch in self.branches:
                    x = torch.relu(x + branch(x))
                return x

        fault = "<<_fault>>"
        control = "<<_control>>"

    def right_blocks():
        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv1 = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
                self.norm1 = nn.BatchNorm2d(channels)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
                self.norm2 = nn.BatchNorm2d(channels)

            def forward(self, x):
                y = self.norm1(self.conv1(x)).clamp(min=0)
                return (self.norm2(self.conv2(y)) + x).clamp(min=0)

        class Stage(nn.Sequential):
            def __init__(self, channels, number):
                super().__init__(*(Block(channels) for _ in range(number)))

        fault, control = "<<_fault>>", "<<_control>>"

    def right_add_module():
        class Stage(nn.Module):
            def __init__(self, channels, number):
                super().__init__()
                self.number = number
                for index in range(number):
                    layers = []
                    for activation in (nn.ReLU(), nn.Identity()):
                        layers += [
                            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                            nn.BatchNorm2d(channels),
                            activation,
                        ]
                    self.add_module(f"branch{index}", nn.Sequential(*layers))

            def forward(self, x):
                for index in range(self.number):
                    y = getattr(self, f"branch{index}")(x)
                    y += x
                    x = nn.functional.relu(y)
                return x

        fault = "<<_fault>>"
        control = "<<_control>>"

    faults = {
        "registration": ("self.branches = nn.ModuleList()", "self.branches = []"),
        "sharing": ("norms = [nn.BatchNorm2d(channels) for _ in range(2)]", "norms = 2 * [nn.BatchNorm2d(channels)]"),
        "gradient": ("x = torch.relu(x + branch(x))", "x = torch.relu(x.detach() + branch(x))"),
        "statistics": (
            "norms = [nn.BatchNorm2d(channels) for _ in range(2)]",
            "norms = [nn.BatchNorm2d(channels, track_running_stats=False) for _ in range(2)]",
        ),
    }
    blank = [('fault = "<<_fault>>"', 'fault = ...  # one of the five words of the task'),
             ('control = "<<_control>>"', 'control = ...  # "A", "B" or "C"')]  # fmt: skip

    def wrong(values):
        words = {
            "registration": "sharing",
            "sharing": "registration",
            "gradient": "statistics",
            "statistics": "gradient",
        }
        letters = {"A": "B", "B": "C", "C": "A"}
        planted = FaultInAStage.faults[values["_fault"]]
        return [
            ("fault-left", *planted, "the stage still has its fault"),
            ("another-fault", "x = torch.relu(x + branch(x))", "x = torch.relu(branch(x))", "the stage still has"),
            ("no-last-relu", "x = torch.relu(x + branch(x))", "x = x + branch(x)", "the stage still has"),
            ("relu-of-the-branch", "x = torch.relu(x + branch(x))", "x = torch.relu(x + branch(x).relu())",
             "not what it computes"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{words[values["_fault"]]}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "padding"', "is none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letters[values["_control"]]}"', "comes out right"),
            ("no-letter", 'control = "<<_control>>"', 'control = "D"', "is none of the letters"),
            ("shape-broken", "padding=1", "padding=0", "your code raised"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, and control <<_control>> shows it. Each of the four possible faults
    leaves all shapes as they are, and each has its own trace.

    - Layers in a plain list run, but `parameters()` does not know them, so no optimizer moves them and no file keeps
      them.
    - `2 * [layer]` is a list with the **same** layer twice: two norms share scale, shift and running statistics,
      although they see quite different maps.
    - `x.detach()` on the shortcut leaves the output as it is, and takes the shortcut's gradient away. That was the
      reason for having it: with a short way back, depth can be trained.
    - A norm without running statistics uses those of the batch in evaluation mode too. Then an answer depends on
      which other images happen to stand in the batch.
    """
    marking = """
    The visible check asks for what the three controls ask, the hidden one compares with the reference; any class of
    that name passes that computes the same. Word and letter are one point each. Ask aloud: which of the four
    faults changes the loss of the first batch, in training mode? (None does: a fresh network gives the same numbers.)
    """

    @check(points=1)
    def mended(ask, values):
        """The three controls come out right."""
        import torch

        width, number = values.width, 3
        images = torch.randn(4, width, 5, 5, generator=torch.Generator().manual_seed(0)).double()
        found = ask(stage_of, images, width, number)
        told = "the stage still has its fault, or another one"
        right = number * (18 * width**2 + 4 * width)
        need(found["zeroed"].shape == images.shape, f"{told}: its output has not the shape of its input")
        need(found["parameters"] == right, f"{told}: parameters() does not list what a count by hand gives")
        need(bool(torch.allclose(found["zeroed"], images.relu())), f"{told}: with all norms at zero it is not ReLU(x)")
        need(
            bool(torch.equal(found["gradient"] > 0, images > 0)),
            f"{told}: with all norms at zero, its input gets no gradient",
        )
        need(
            bool(torch.allclose(found["together"], found["alone"])),
            f"{told}: in evaluation mode, an image alone comes out otherwise than among others",
        )

    @check(points=1)
    def word(ask, values):
        """The words are ones of the task."""
        found = ask(probes.value, "fault")
        words = ("registration", "sharing", "gradient", "statistics", "activation")
        need(found in words, f"fault = {found!r} is none of the words of the task")
        found = ask(probes.value, "control")
        need(found in ("A", "B", "C"), f"control = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def same_function(ask, values, reference):
        """The stage computes what a right one does."""
        import torch

        width = values.width + 1
        images = torch.randn(3, width, 4, 4, generator=torch.Generator().manual_seed(2)).double()
        found = ask(stage_of, images, width, 2)
        need(
            bool(torch.allclose(found["together"], found["alone"])),
            "the stage still has its fault: an image alone comes out otherwise than among others",
        )
        for training in (False, True):
            need_same(
                ask, "Stage", reference["Stage"], [3, width, 4, 4], (width, 2), training=training,
                message="the layers are right, but not what it computes, or not its gradient: it should be ReLU(x + branch(x)), block after block",
            )  # fmt: skip

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(ask(probes.value, "control") == reference["control"], "for the faulty stage, that control comes out right")


class SumOrStack(Exercise):
    """Predict what a sum forgets

    Two maps a and b hold independent random numbers, all of mean 0 and variance 1. The next layer is a 1x1
    convolution, and it would like to make the map `first * a + second * b`, here with the weights <<first>> and
    <<second>>. If it gets both maps side by side, it can. Suppose that it gets only their **sum** a + b, with the best
    weight that there is. Which part of the variance of the wanted map is then lost, in per cent? The cell measures it:
    `lost` finds the best weights by least squares, so no training and no luck is involved.

    First set `prediction`. Then run the cell, print `measured`, and answer:

    - `harmless`: with <<first>> as the weight of a, for which weight of b does the sum lose nothing?
    - `useless`: and for which weight of b does it lose everything, 100 per cent?
    - `share`: a function that returns, for any two weights `first` and `second`, the per cent that the sum loses.
      Compare it with `measured`.
    - `with_relu`: now a **ReLU stands in front** of the convolution, and the wanted map is ReLU(a + b). Which of the
      two can make it exactly: `"added"` (the next layer gets a + b) or `"stacked"` (it gets both maps)?
    """

    goal = "explain what a sum forgets and what a concatenation keeps"
    kind = "predict"
    minutes, difficulty, importance = 15, 4, 3
    practice = {"first": 3, "second": 1}
    hints = [
        "The best that the sum can offer is w (a + b). What is left over is (first - w) a + (second - w) b. The variance of "
        "u a + v b is u * u + v * v, since a and b are independent.",
        "Which w makes the rest smallest? Think of two weights 0 and 2: the best w has to do for both.",
        "For the last question, write down what a ReLU does to (a, b) = (3, -2), once to the sum and once to both maps.",
    ]

    def draw(chance):
        first, second = chance.choice([(2, -1), (1, 2), (3, -1), (4, 1), (1, -2), (2, 3), (1, 4)])
        return {"first": first, "second": second}

    def stub():
        prediction = ...  # per cent that the sum loses

        def lost(maps, target):
            """Per cent of the target's variance that no 1x1 convolution makes of these maps."""
            places = maps.flatten(2)[0].T  # a row for each pixel
            wanted = target.flatten()[:, None]
            best = torch.linalg.lstsq(places, wanted).solution
            rest = wanted - places @ best
            return float(100 * rest.square().mean() / wanted.square().mean())

        if prediction is not ...:
            source = torch.Generator().manual_seed(0)
            a, b = torch.randn(2, 1, 1, 128, 128, generator=source, dtype=torch.float64)
            target = first * a + second * b
            stacked = torch.cat([a, b], dim=1)
            measured = {"added": lost(a + b, target), "stacked": lost(stacked, target)}

        harmless = ...  # a weight of b
        useless = ...  # a weight of b

        def share(first, second): ...  # per cent

        with_relu = ...  # "added" or "stacked"

    def solution():
        prediction = 50  # a guess: one of two numbers is missing

        def lost(maps, target):
            """Per cent of the target's variance that no 1x1 convolution makes of these maps."""
            places = maps.flatten(2)[0].T  # a row for each pixel
            wanted = target.flatten()[:, None]
            best = torch.linalg.lstsq(places, wanted).solution
            rest = wanted - places @ best
            return float(100 * rest.square().mean() / wanted.square().mean())

        if prediction is not ...:
            source = torch.Generator().manual_seed(0)
            a, b = torch.randn(2, 1, 1, 128, 128, generator=source, dtype=torch.float64)
            target = first * a + second * b
            stacked = torch.cat([a, b], dim=1)
            measured = {"added": lost(a + b, target), "stacked": lost(stacked, target)}

        harmless = first
        useless = -first

        def share(first, second):
            best = (first + second) / 2
            return 100 * ((first - best) ** 2 + (second - best) ** 2) / (first**2 + second**2)

        with_relu = "added"

    def right_angle():
        import math

        prediction = 12.5
        generator = torch.Generator().manual_seed(5)
        a, b = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)
        wanted, total = first * a + second * b, a + b
        correlation = float((wanted * total).mean() / (wanted.square().mean() * total.square().mean()).sqrt())
        measured = {"added": 100 * (1 - correlation**2), "stacked": 0.0}
        share = lambda p, q: 100 * (1 - ((p + q) / math.hypot(p, q)) ** 2 / 2)  # noqa: E731
        harmless, useless, with_relu = float(first), 0.0 - first, "added"

    def right_measured():
        import numpy

        prediction = 0
        chance = numpy.random.default_rng(1)
        a, b = chance.standard_normal((2, 50_000))

        def share(first, second):
            wanted = first * a + second * b
            best = (wanted @ (a + b)) / ((a + b) @ (a + b))
            return 100 * numpy.var(wanted - best * (a + b)) / numpy.var(wanted)

        measured = {"added": float(share(first, second)), "stacked": 1e-25}
        harmless = first
        useless = -1 * first
        with_relu = "added"

    wrong = [
        ("out-of-range", "prediction = 50", "prediction = 250", "between 0 and 100"),
        ("a-word", "prediction = 50", 'prediction = "half"', "should be a number"),
        ("swapped", '{"added": lost(a + b, target), "stacked": lost(stacked, target)}',
         '{"added": lost(stacked, target), "stacked": lost(a + b, target)}', "side by side nothing is lost"),
        ("not-the-sum", "lost(a + b, target)", "lost(a, target)", "another target"),
        ("harmless-zero", "harmless = first", "harmless = 0", "harmless is not right"),
        ("useless-zero", "useless = -first", "useless = 0", "useless is not right"),
        ("both-the-same", "useless = -first", "useless = first", "useless is not right"),
        ("fraction", "return 100 * ((first", "return ((first", "per cent"),
        ("best-is-the-first", "best = (first + second) / 2", "best = first", "the best weight"),
        ("best-is-the-sum", "best = (first + second) / 2", "best = first + second", "the best weight"),
        ("stack-always-wins", 'with_relu = "added"', 'with_relu = "stacked"', "each map by itself"),
        ("neither", 'with_relu = "added"', 'with_relu = "both"', "one of the two words"),
    ]  # fmt: skip

    explanation = """
    The sum offers one weight for both maps. The best one is the mean of the two that were wanted,
    $w = (p + q) / 2$, and each map is then off by half of their difference. What is lost is

    $$\\frac{2 \\cdot \\left(\\frac{p - q}{2}\\right)^2}{p^2 + q^2} = \\frac{(p - q)^2}{2 (p^2 + q^2)}.$$

    For <<first>> and <<second>> that is <<(first - second) ** 2>> / <<2 * (first ** 2 + second ** 2)>>. If both
    weights agree nothing is lost: the sum had been the right thing to make. If they are opposite everything is, as
    the sum knows nothing about the difference. So to add is a **decision** about all layers to come, and
    concatenating leaves it to them, at the price of twice the weights.

    The last question is where the argument ends. The stack can do all that the sum can as long as only a convolution
    follows. A ReLU in front acts on each map by itself: it makes 3 and 0 of (3, -2), and from these nobody can tell
    what ReLU(3 - 2) is, since (3, -1) looks the same. That is why the chapter says that its argument holds for the
    convolution alone.
    """
    marking = """
    A point for a prediction, whatever it is, and one for running the measurement. `share` is compared within 3 points
    at four pairs, so that a simulation passes as well as a formula. Ask aloud: how many maps would the sum need to be
    as good as the stack?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction was made."""
        found = ask(probes.value, "prediction")
        need(not isinstance(found, (str, list, dict, bool)), f"prediction should be a number, not {found!r}")
        need(0 <= number_of(found, "prediction") <= 100, "prediction is in per cent, between 0 and 100")

    @check(points=1)
    def measured_it(ask, values):
        """The measurement was run."""
        found = measured_of(ask)
        need(abs(found["stacked"]) < 1e-6, "side by side nothing is lost: what does `stacked` hold?")
        need(0.5 < found["added"] <= 100, "the sum loses something here: was another target measured, or other maps?")

    @check(points=1, hidden=True)
    def weights_of_b(ask, values, reference):
        """The weights with which the sum loses nothing, and everything."""
        found = number_of(ask(probes.value, "harmless"), "harmless")
        need(abs(found - reference["harmless"]) < 1e-9, "harmless is not right: of which maps is w (a + b) made?")
        found = number_of(ask(probes.value, "useless"), "useless")
        need(abs(found - reference["useless"]) < 1e-9, "useless is not right: for that target the best w is zero")

    @check(points=1, hidden=True)
    def loss_of_the_sum(ask, values, reference):
        """The share for any two weights."""
        pairs = [(1.0, 2.0), (2.0, -1.0), (0.5, 3.0), (float(values.first), float(values.second))]
        found = [number_of(ask(probes.call, "share", *pair), f"share{pair}") for pair in pairs]
        right = [reference["share"](*pair) for pair in pairs]
        off = abs(measured_of(ask)["added"] - right[-1])
        need(off < 3, "measured holds the loss for another target, or for other maps than a + b")
        fraction = all(abs(one - other / 100) < 0.03 for one, other in zip(found, right))
        need(not fraction, "share returns a fraction: per cent were asked for")
        for pair, one, other in zip(pairs, found, right):
            need(
                abs(one - other) < 3,
                f"share{pair} is not right: what is the best weight for both maps, and what is left over?",
            )

    @check(points=1, hidden=True)
    def behind_a_relu(ask, values, reference):
        """What a ReLU in front changes."""
        found = ask(probes.value, "with_relu")
        need(found in ("added", "stacked"), f"with_relu = {found!r} should be one of the two words of the task")
        need(
            found == reference["with_relu"],
            "with_relu is not right: the ReLU acts on each map by itself; try (3, -2) and (3, -1)",
        )
