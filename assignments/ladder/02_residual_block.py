"""The residual block

You write the block of chapter 2, find a fault that somebody has left in another one, and work out on paper what a
shortcut costs. Do the chapter first; have its figure of the block beside you.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn


def need_layers(layers, changes, what):
    """No bias before a norm, a norm after each convolution, and a 1x1 convolution where the channels change."""
    convolutions = [layer for layer in layers if layer["kind"] == "Conv2d"]
    norms = [layer for layer in layers if layer["kind"] == "BatchNorm2d"]
    biased = [layer for layer in convolutions if layer["bias"]]
    need(not biased, f"{what} has parameters that it does not need: does a convolution before a norm need a bias?")
    ones = sum(layer["kernel_size"] == [1, 1] for layer in convolutions)
    need(changes or not ones, f"{what}: the number of channels stays here; what does the shortcut need then?")
    need(
        ones or not changes,
        f"{what}: the number of channels changes here: the shortcut needs a 1x1 convolution and a norm",
    )
    need(len(norms) == len(convolutions), f"{what}: is there a norm after each convolution, on the shortcut too?")


class ResidualBlock(Exercise):
    """Write the block

    Complete `ResidualBlock`. Its **branch** is a 3x3 convolution, batch norm, ReLU, a second 3x3 convolution and batch
    norm. Its **shortcut** passes `x` on as it is where the shapes agree. If the stride is 2, it has an average pool
    (2x2, `ceil_mode=True`); if the number of channels changes, a 1x1 convolution and batch norm after that. The output
    is ReLU(branch + shortcut). The stride is in the first convolution of the branch.

    Two more promises: no convolution has a bias, and **a new block starts as its shortcut**: the scale of the branch's
    last norm is zero.

    Your copy checks the block with <<width>> channels.
    """

    goal = "write a residual block that copes with any change of shape"
    kind = "build"
    minutes, difficulty, importance = 20, 2, 5
    practice = {"width": 16}
    hints = [
        "Write the branch as one `nn.Sequential`. `padding=1` keeps the size of a 3x3 convolution with stride 1.",
        "Build the shortcut in `__init__`: begin with an empty list, append the pool if the stride is 2, and the "
        "convolution with its norm if anything changes. An empty `nn.Sequential()` is the identity.",
        "`nn.init.zeros_(norm.weight)` sets a scale to zero. Which of the norms is the last of the branch?",
    ]

    def draw(chance):
        return {"width": chance.choice([12, 20, 24, 28, 36])}

    def stub():
        class ResidualBlock(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1):
                super().__init__()
                ...  # the branch, the shortcut, the zero

            def forward(self, x): ...  # ReLU(branch + shortcut)

    def solution():
        class ResidualBlock(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1):
                super().__init__()
                self.branch = nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
                shortcut = [nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []
                if in_channels != out_channels:
                    shortcut += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
                self.shortcut = nn.Sequential(*shortcut)
                nn.init.zeros_(self.branch[-1].weight)

            def forward(self, x):
                return torch.relu(self.branch(x) + self.shortcut(x))

    def right_functional():
        import torch.nn.functional as F

        class ResidualBlock(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1):
                super().__init__()
                self.stride, self.changes = stride, in_channels != out_channels
                self.conv1 = nn.Conv2d(in_channels, out_channels, (3, 3), stride, 1, bias=False)
                self.conv2 = nn.Conv2d(out_channels, out_channels, (3, 3), 1, 1, bias=False)
                self.norm1, self.norm2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
                self.norm2.weight.data.fill_(0)
                if self.changes:
                    self.project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
                    self.norm3 = nn.BatchNorm2d(out_channels)

            def forward(self, x):
                y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
                if self.stride == 2:
                    x = F.avg_pool2d(x, 2, ceil_mode=True)
                if self.changes:
                    x = self.norm3(self.project(x))
                return F.relu(x + y)

    def right_in_place():
        class ResidualBlock(nn.Module):
            def __init__(self, in_channels, out_channels, stride=1):
                super().__init__()
                pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
                self.shortcut = pool
                if in_channels != out_channels:
                    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
                    self.shortcut = nn.Sequential(pool, convolution, nn.BatchNorm2d(out_channels))
                self.first = nn.Conv2d(
                    in_channels, out_channels, 3, stride, padding="same" if stride == 1 else 1, bias=False
                )
                self.norm = nn.BatchNorm2d(out_channels)
                self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
                self.last = nn.BatchNorm2d(out_channels)
                with torch.no_grad():
                    self.last.weight.zero_()
                self.activation = nn.ReLU(inplace=True)

            def forward(self, x):
                y = self.activation(self.norm(self.first(x)))
                y = self.last(self.second(y))
                y += self.shortcut(x)
                return self.activation(y)

    wrong = [
        ("no-relu-at-the-end", "torch.relu(self.branch(x) + self.shortcut(x))", "self.branch(x) + self.shortcut(x)",
         "the ReLU after the sum"),
        ("relu-before-the-sum", "torch.relu(self.branch(x) + self.shortcut(x))",
         "torch.relu(self.branch(x)) + self.shortcut(x)", "the ReLU after the sum"),
        ("no-shortcut", "torch.relu(self.branch(x) + self.shortcut(x))", "torch.relu(self.branch(x))",
         "the shortcut is not added"),
        ("stride-on-both", "nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)",
         "nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1, bias=False)", "must act once"),
        ("bias", "stride=stride, padding=1, bias=False", "stride=stride, padding=1", "need a bias"),
        ("projection-always", "if in_channels != out_channels:", "if True:", "the number of channels stays"),
        ("projection-for-the-stride", "if in_channels != out_channels:", "if stride != 1:",
         "must act once"),
        ("pool-forgotten", "[nn.AvgPool2d(2, ceil_mode=True)] if stride == 2 else []", "[]", "must act once"),
        ("norm-forgotten", "nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)",
         "nn.Conv2d(in_channels, out_channels, 1, bias=False)", "a norm after each convolution"),
        ("no-zero", "nn.init.zeros_(self.branch[-1].weight)", "pass", "starts as its shortcut"),
        ("zero-in-the-convolution", "self.branch[-1].weight", "self.branch[-2].weight", "gets no gradient"),
        ("stride-two-unasked", "out_channels, stride=1):", "out_channels, stride=2):", "should be"),
        ("zero-in-the-first-norm", "self.branch[-1].weight", "self.branch[1].weight", "gets no gradient"),
        ("wrong-padding", "stride=stride, padding=1", "stride=stride, padding=0", "your code raised"),
        ("floor-in-the-pool", "nn.AvgPool2d(2, ceil_mode=True)", "nn.AvgPool2d(2)", "odd"),
    ]  # fmt: skip

    explanation = """
    The branch and the shortcut must end with the same shape, or the sum fails: so whatever changes the shape in the
    branch, the stride and the channels, must be repeated on the shortcut. `ceil_mode=True` matters for odd sizes: a
    3x3 convolution with stride 2 and padding 1 makes 4 of 7, and so must the pool.

    A convolution before a norm needs no bias, since the norm subtracts it again with the mean. The ReLU comes after
    the sum: before it, the branch could only ever add, and the block could not lower a value.

    With the last scale at zero the branch gives zero whatever it computes, and the block is its shortcut.
    """
    marking = """
    The hidden check compares with the reference in float64 under random weights, in both modes, so names and order of
    definition do not matter. Dropping the zero costs the point of its own check only.
    """

    @check(points=1)
    def shapes(ask, values):
        """Shapes, for every kind of change."""
        width = values.width
        for arguments, size, out in [
            ((width, width, 1), 8, 8),
            ((width, 2 * width, 2), 8, 4),
            ((width, width + 6), 8, 8),
        ]:
            try:
                found = ask(probes.outline, "ResidualBlock", [2, width, size, size], arguments)["out"]
            except Wrong as error:
                need("must match" not in str(error), f"ResidualBlock{arguments}: branch and shortcut end with other shapes; "
                     f"stride and channels must act once on each ({error})")  # fmt: skip
                raise
            right = [2, arguments[1], out, out]
            need(
                found == right,
                f"ResidualBlock{arguments}: the output of a {size}x{size} image should be {right}, not {found}",
            )
        try:
            found = ask(probes.outline, "ResidualBlock", [2, width, 7, 7], (width, width, 2))["out"]
        except Wrong as error:
            found = str(error)
        need(
            found == [2, width, 4, 4],
            f"an odd size, 7x7 with stride 2, fails: branch and shortcut must both round up ({found})",
        )

    @check(points=1)
    def parameters(ask, values):
        """Parameters: no bias, and a projection only where it is needed."""
        width = values.width
        for arguments in [(width, width, 1), (width, 2 * width, 2), (width, width + 6, 1), (width, width, 2)]:
            found = ask(probes.outline, "ResidualBlock", [2, width, 8, 8], arguments)
            idle = "".join(found["unused"][:1])
            need(not idle, f"ResidualBlock{arguments}: {idle} has weights and never runs: the shortcut is not added")
            need_layers(found["layers"], arguments[0] != arguments[1], f"ResidualBlock{arguments}")

    @check(points=1)
    def the_sum(ask, values):
        """The sum, and the ReLU after it."""
        import torch

        width = values.width
        images = torch.randn(2, width, 8, 8, generator=torch.Generator().manual_seed(1)).double()
        out = ask(probes.run, "ResidualBlock", images, (width, width, 1))["out"]
        other = ask(probes.run, "ResidualBlock", images + 5, (width, width, 1))["out"]
        need(
            bool((out >= 0).all()), "some outputs are below zero: the ReLU after the sum is missing, or comes too early"
        )
        # x + 5 moves the shortcut by 5, and the branch by less than that in the mean
        need(
            bool((other - out).abs().mean() > 2),
            "the shapes match, but the shortcut is not added: x itself is not in the output",
        )
        need(bool((out == 0).any()), "no output is zero: does the ReLU after the sum see branch and shortcut together?")

    @check(points=1)
    def start(ask, values):
        """A new block is its shortcut, and can leave it."""
        import torch

        width = values.width
        images = torch.randn(2, width, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        new = ask(probes.run, "ResidualBlock", images, (width, width, 1), randomise=False, training=True)
        told = "a new block starts as its shortcut, here ReLU(x): whose scale is to be zero?"
        need(bool((new["out"] - images.relu()).abs().max() < 1e-6), told)
        scales = [key for key, part in new["state"].items() if key.endswith("weight") and part.dim() == 1]
        zeros = [key for key in scales if not bool(new["state"][key].any())]
        learns = any(new["gradients"][key] is not None and bool(new["gradients"][key].any()) for key in zeros)
        need(
            learns,
            "a new block starts as its shortcut, but the scale that is zero gets no gradient: is it that of the last norm?",
        )

    @check(points=3, hidden=True)
    def same_function(ask, values, reference):
        """The same function as the block of the chapter, for random weights."""
        width = values.width
        for arguments, size in [((width, width, 1), 8), ((width, 2 * width, 2), 9), ((2 * width, width, 1), 6)]:
            for training in (False, True):
                need_same(
                    ask, "ResidualBlock", reference["ResidualBlock"], [3, arguments[0], size, size], arguments,
                    training=training, message=f"ResidualBlock{arguments}: layers and shapes are right, the result is not; "
                    "look at the order of norm, ReLU and sum, and at the pool",
                )  # fmt: skip


class FindTheFault(Exercise):
    """Find the fault in a block

    A friend sends you this block. It runs, and its shapes are right, but a network of such blocks ends at a few points
    less than yours. **One line** is at fault.

    Mend the class in place. Then set `fault` to the one of these words that names what was wrong: `"activation"` (a
    ReLU is missing or at the wrong place), `"shortcut"` (what it passes on is not x, or not added), `"norm"` (one is
    missing or at the wrong place), `"stride"` (it is at the wrong place). And set `control` to the letter of the
    experiment that would have shown it:

    - `"A"`: set the scale of `norm2` to zero. Does the block give ReLU(x)?
    - `"B"`: look at the branch just before the sum. Are there values below zero?
    - `"C"`: multiply the weights of both convolutions by ten. Does the output in training mode stay as it is?
    """

    goal = "find a fault that no shape shows, and name the control that does"
    kind = "break"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"width": 8, "_fault": "activation", "_control": "B"}
    hints = [
        "Write down what the branch does to an x, layer by layer, and compare it with the first exercise.",
        "Each of the three controls has one answer for a right block. Try them on this one.",
    ]

    def draw(chance):
        fault, control = chance.choice([("activation", "B"), ("shortcut", "A"), ("norm", "C")])
        return {"width": chance.choice([4, 6, 10]), "_fault": fault, "_control": control}

    def solution():
        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.norm1 = nn.BatchNorm2d(channels)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.norm2 = nn.BatchNorm2d(channels)

            def forward(self, x):
                y = torch.relu(self.norm1(self.conv1(x)))
                y = self.norm2(self.conv2(y))
                return torch.relu(x + y)

        fault = "<<_fault>>"
        control = "<<_control>>"

    def right_modules():
        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv1 = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
                self.norm1 = nn.BatchNorm2d(channels)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
                self.norm2 = nn.BatchNorm2d(channels)
                self.activation = nn.ReLU()

            def forward(self, x):
                y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
                return self.activation(y + x)

        fault, control = "<<_fault>>", "<<_control>>"

    def right_clamped():
        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
                self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

            def forward(self, x):
                y = self.norm1(self.conv1(x)).clamp(min=0)
                return (self.norm2(self.conv2(y)) + x).clamp(min=0)

        fault = "<<_fault>>"
        control = "<<_control>>"

    faults = {
        "activation": ("y = self.norm2(self.conv2(y))", "y = torch.relu(self.norm2(self.conv2(y)))"),
        "shortcut": ("return torch.relu(x + y)", "return torch.relu(torch.relu(self.conv1(x)) + y)"),
        "norm": ("y = self.norm2(self.conv2(y))", "y = self.conv2(y)"),
    }
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "activation", "shortcut", "norm" or "stride"'),
             ('control = "<<_control>>"', 'control = ...  # "A", "B" or "C"')]  # fmt: skip

    def wrong(values):
        others = {"activation": "norm", "shortcut": "activation", "norm": "shortcut"}
        letters = {"A": "B", "B": "C", "C": "A"}
        planted = FindTheFault.faults[values["_fault"]]
        return [
            ("fault-left", *planted, "the block still has its fault"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{others[values["_fault"]]}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "padding"', "is none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letters[values["_control"]]}"', "comes out right"),
            ("no-letter", 'control = "<<_control>>"', "control = 7", "is none of the letters"),
            ("another-fault", "return torch.relu(x + y)", "return torch.relu(y)", "the block still has"),
            ("shape-broken", "self.norm2(self.conv2(y))", "self.norm2(self.conv2(y))[:, :2]", "your code raised"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, and control <<_control>> shows it. None of the three possible faults changes a
    shape or the number of parameters, so checks of shapes are blind to them. A ReLU on the branch lets it only ever
    add. A shortcut that is not x itself takes the identity away, which is what made depth harmless. A missing norm
    lets the size of the weights reach the sum. Each of the controls asks for one property that a residual block
    **must** have; that is what a test of your own code should do, too.
    """
    marking = """
    The mended class is graded on what it computes, so any correct block of that name passes. Word and letter are one
    point each. Ask aloud: which of the two other controls does the faulty block pass, and why?
    """

    @check(points=1)
    def mended(ask, values):
        """The block does what a residual block does."""
        import torch

        images = torch.randn(4, values.width, 6, 6, generator=torch.Generator().manual_seed(0)).double()
        found = ask(branch_of, "Block", images, values.width)
        told = "the block still has its fault, or another one"
        same = torch.allclose(found["zeroed"], images.relu())
        need(same, f"{told}: with norm2 at zero it is not ReLU(x)")
        # a large x shows the branch: ReLU does not touch the sum
        below = (found["far"] - images - 100).min() < -1e-3
        need(bool(below), f"{told}: before the sum, its branch is never below zero")
        free = torch.allclose(found["out"], found["ten_times"], rtol=1e-3, atol=1e-3)
        need(free, f"{told}: larger weights give another output in training mode")

    @check(points=1)
    def word(ask, values):
        """The word for the fault is one of the four."""
        found = ask(probes.value, "fault")
        need(
            found in ("activation", "shortcut", "norm", "stride"), f"fault = {found!r} is none of the words of the task"
        )
        found = ask(probes.value, "control")
        need(found in ("A", "B", "C"), f"control = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def same_block(ask, values, reference):
        """The mended block is the residual block, and nothing else has changed."""
        told = "it computes something else than a residual block: was more than one line changed?"
        for training in (False, True):
            shape = [3, values.width, 5, 5]
            need_same(ask, "Block", reference["Block"], shape, (values.width,), training=training, message=told)

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(ask(probes.value, "control") == reference["control"], "for the faulty block, that control comes out right")


def branch_of(names, name, images, width):
    """What a block gives in training mode: as it is, for a large x, with weights ten times as large, without norm2."""
    import torch

    block = probes.build(names, name, (width,))
    probes.shuffle(block, 1)
    block.train()
    with torch.no_grad():
        found = {"out": block(images)}
        for part in (block.conv1, block.conv2):
            part.weight.mul_(10)
        found["ten_times"] = block(images)
        found["far"] = block(images + 100)
        block.norm2.weight.zero_()
        block.norm2.bias.zero_()
        found["zeroed"] = block(images)
    return found


class ShortcutByHand(Exercise):
    """Work out what a shortcut costs

    A block takes <<channels>> channels of <<size>>x<<size>> pixels and gives <<2 * channels>> channels with stride 2,
    as in the first exercise. Work out by hand, without running anything:

    - `branch_parameters` and `shortcut_parameters`: how many parameters they have, norms included;
    - `branch_macs` and `shortcut_macs`: the **multiply-accumulates** (MACs) of their convolutions for one image;
    - `share`: the part of the block's MACs that the shortcut costs, in per cent, to one decimal.

    Write each as a formula of Python, such as `9 * 64 * 64`, so that you can find a slip.
    """

    goal = "work out parameters and MACs of a block by hand"
    kind = "compute"
    minutes, difficulty, importance = 15, 2, 4
    practice = {"channels": 48, "size": 56}
    hints = [
        "A convolution of kernel k from a to b channels has k * k * a * b weights, and each is used once at each pixel "
        "of its **output**.",
        "A norm has two parameters for each channel. It has no multiplication that the course counts as a MAC.",
        "At which size does the 1x1 convolution run, before or after the pool?",
    ]

    def draw(chance):
        return {"channels": chance.choice([24, 36, 40, 80, 96]), "size": chance.choice([16, 24, 28, 40, 48])}

    def stub():
        branch_parameters = ...
        shortcut_parameters = ...
        branch_macs = ...
        shortcut_macs = ...
        share = ...

    def solution():
        branch_parameters = 9 * channels * 2 * channels + 9 * (2 * channels) ** 2 + 2 * 2 * (2 * channels)
        shortcut_parameters = channels * 2 * channels + 2 * (2 * channels)
        pixels = (size // 2) ** 2
        branch_macs = (9 * channels * 2 * channels + 9 * (2 * channels) ** 2) * pixels
        shortcut_macs = channels * 2 * channels * pixels
        share = round(100 * shortcut_macs / (branch_macs + shortcut_macs), 1)

    def right_numbers():
        c, out, half = channels, channels * 2, size / 2
        branch_parameters = 9 * c * out + 9 * out * out + 4 * out
        shortcut_parameters = c * out + 2 * out
        branch_macs = 9 * out * half * half * (c + out)
        shortcut_macs = c * out * half * half
        share = 100 / 28

    def right_by_code():
        import torch
        from torch import nn

        first, second = (
            nn.Conv2d(channels, 2 * channels, 3, bias=False),
            nn.Conv2d(2 * channels, 2 * channels, 3, bias=False),
        )
        project, norm = nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.BatchNorm2d(2 * channels)
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in (first, second, project, norm)]
        branch_parameters = sizes[0] + sizes[1] + 2 * sizes[3]
        shortcut_parameters = sizes[2] + sizes[3]
        branch_macs = torch.tensor((sizes[0] + sizes[1]) * size**2 // 4)
        shortcut_macs = sizes[2] * size**2 // 4
        share = 3.6

    wrong = [
        ("norms-forgotten", " + 2 * 2 * (2 * channels)", "", "the norms"),
        ("one-norm", "+ 2 * 2 * (2 * channels)", "+ 2 * (2 * channels)", "the norms"),
        ("bias-counted", "channels * 2 * channels + 2 * (2 * channels)", "channels * 2 * channels + 3 * (2 * channels)",
         "bias"),
        ("input-size", "(size // 2) ** 2", "size**2", "four times"),
        ("shortcut-at-full-size", "channels * 2 * channels * pixels", "channels * 2 * channels * size**2",
         "after the pool"),
        ("width-kept", "branch_macs = (9 * channels * 2 * channels + 9 * (2 * channels) ** 2)",
         "branch_macs = (9 * channels**2 + 9 * (2 * channels) ** 2)", "branch_macs"),
        ("fraction-not-per-cent", "round(100 * shortcut_macs / (branch_macs + shortcut_macs), 1)",
         "shortcut_macs / (branch_macs + shortcut_macs)", "per cent"),
        ("of-the-branch", "(branch_macs + shortcut_macs), 1)", "branch_macs, 1)", "of the whole block"),
    ]  # fmt: skip

    explanation = """
    The branch has 9 * <<channels>> * <<2 * channels>> + 9 * <<2 * channels>> * <<2 * channels>> weights and two norms with two
    numbers a channel; the shortcut <<channels>> * <<2 * channels>> and one norm. Each weight is used once at each of the
    <<size // 2>>x<<size // 2>> pixels of the output, so pixels cancel in the share: 2 parts of 18 + 36 + 2, whatever the
    width. The 1x1 convolution costs so little because it looks at one pixel instead of nine, and runs after the pool.
    """
    marking = """
    A point for each of the five, within half a unit (the share within 0.06). Formulas and numbers both count. Ask
    aloud: how does the share change if the pool comes after the 1x1 convolution?
    """

    @check(points=1)
    def written(ask, values):
        """Five numbers."""
        for name in FIVE:
            found = ask(probes.value, name)
            try:
                float(found)
            except (TypeError, ValueError):
                need(False, f"{name} should be a number, not {found!r}")
            need(float(found) > 0, f"{name} should be more than zero")
        need(float(ask(probes.value, "share")) < 100, "share is in per cent of the whole block")

    @check(points=2, hidden=True)
    def parameters(ask, values, reference):
        """Parameters of branch and shortcut."""
        out = 2 * values.channels
        for name in ("branch_parameters", "shortcut_parameters"):
            off = round(float(ask(probes.value, name)) - reference[name], 3)
            told = {-2 * out: "are the norms counted, two numbers a channel each?", -4 * out: "are the norms counted?",
                    out: "has a convolution before a norm a bias?", 2 * out: "has a convolution before a norm a bias?"}  # fmt: skip
            need(
                off == 0,
                f"{name} is off by {off:+,.0f}: {told.get(off, 'which kernel, from how many channels to how many?')}",
            )

    @check(points=2, hidden=True)
    def macs(ask, values, reference):
        """MACs of branch and shortcut."""
        for name in ("branch_macs", "shortcut_macs"):
            factor = float(ask(probes.value, name)) / reference[name]
            told = "which kernel, from how many channels to how many, at how many pixels?"
            if abs(factor - 4) < 1e-6:
                told = "four times too many: at which size is the output; does the 1x1 convolution run before or after the pool?"
            need(abs(factor - 1) < 1e-6, f"{name} is not right: {told}")

    @check(points=1, hidden=True)
    def the_share(ask, values, reference):
        """The share of the shortcut."""
        found, right = float(ask(probes.value, "share")), 100 / 28
        need(abs(found - right / 100) > 1e-3, "share is a fraction: per cent were asked for")
        need(abs(found - 100 / 27) > 0.06, "share is of the branch: the part of the whole block was asked for")
        need(abs(found - right) <= 0.06, f"share = {found:.3f} is not right, or not to one decimal")


FIVE = ("branch_parameters", "shortcut_parameters", "branch_macs", "shortcut_macs", "share")
