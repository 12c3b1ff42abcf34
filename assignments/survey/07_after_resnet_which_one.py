"""Cheaper blocks, and a choice

You split a convolution in two and count what that saves, write a gate, read a table of accuracies and costs with its
spread, and design a network for a small device. Do the chapters "After ResNet" and "Which one should I choose?" first.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn


def names_of(ask, name, costs):
    """A list of names of the student's."""
    found = ask(probes.value, name)
    right = isinstance(found, list) and all(isinstance(part, str) and part in costs for part in found)
    need(right, f"{name} should be a list of names of the table")
    return found


class Separable(Exercise):
    """Split a convolution in two

    Write `separable(in_channels, out_channels, stride=1)`. It returns a network of two steps: a **depthwise** 3x3
    convolution, which keeps the number of channels and has the stride, with batch norm and ReLU; then a **1x1**
    convolution to `out_channels`, with batch norm and ReLU. No convolution has a bias, and with stride 1 the size
    stays. A class of that name, with these three arguments, is as good.

    Then work out by hand, for <<channels>> channels of <<size>>x<<size>> pixels that become <<2 * channels>> channels
    with **stride 2**, counting convolutions only:

    - `full_macs`: the multiply-accumulates (MACs) of one full 3x3 convolution for one image;
    - `separable_macs`: those of your two steps;
    - `limit`: with more and more channels, the second becomes a certain part of the first. Which, in per cent, to one
      decimal?
    """

    goal = "build a depthwise separable convolution, and work out what it saves"
    kind = "build"
    minutes, difficulty, importance = 16, 2, 4
    practice = {"channels": 32, "size": 32}
    hints = [
        "`groups` of `nn.Conv2d` says into how many parts the channels are cut. How many groups make each channel a part "
        "of its own?",
        "A weight is used once at each pixel of its layer's **output**. Which side has the output of the depthwise step, and "
        "which that of the 1x1?",
        "For the limit write both counts for one pixel, with C channels in and K out, and divide. What becomes small if C "
        "and K grow?",
    ]

    def draw(chance):
        return {"channels": chance.choice([16, 24, 40, 48, 64]), "size": chance.choice([16, 24, 28, 40])}

    def stub():
        def separable(in_channels, out_channels, stride=1): ...  # depthwise, norm, ReLU, 1x1, norm, ReLU

        full_macs = ...
        separable_macs = ...
        limit = ...  # per cent

    def solution():
        def separable(in_channels, out_channels, stride=1):
            around = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
            mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            norms = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
            return nn.Sequential(around, norms[0], nn.ReLU(), mix, norms[1], nn.ReLU())

        pixels = (size // 2) ** 2
        full_macs = 9 * channels * 2 * channels * pixels
        separable_macs = (9 * channels + channels * 2 * channels) * pixels
        limit = round(100 / 9, 1)

    def right_class():
        import torch.nn.functional as F

        class separable(nn.Module):
            def __init__(self, a, b, stride=1):
                super().__init__()
                self.depthwise = nn.Conv2d(a, a, kernel_size=3, stride=stride, padding=1, groups=a, bias=False)
                self.pointwise = nn.Conv2d(a, b, kernel_size=1, bias=False)
                self.norm_in, self.norm_out = nn.BatchNorm2d(a), nn.BatchNorm2d(b)

            def forward(self, x):
                x = F.relu(self.norm_in(self.depthwise(x)))
                return self.norm_out(self.pointwise(x)).clamp_min(0)

        full_macs = 18 * channels**2 * size * size / 4
        separable_macs = full_macs * (1 / 9 + 1 / (2 * channels))
        limit = 11.1

    def right_bricks():
        def brick(*arguments, **options):
            convolution = nn.Conv2d(*arguments, bias=False, **options)
            return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]

        def separable(in_channels, out_channels, stride=1):
            first = brick(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels)
            return nn.Sequential(nn.Sequential(*first), nn.Sequential(*brick(in_channels, out_channels, 1)))

        half = size // 2
        window, mixing = separable(channels, 2 * channels)[0][0], separable(channels, 2 * channels)[1][0]
        full_macs = nn.Conv2d(channels, 2 * channels, 3).weight.numel() * half**2
        separable_macs = torch.tensor((window.weight.numel() + mixing.weight.numel()) * half**2)
        limit = 100 / 9

    wrong = [
        ("not-in-groups", "groups=in_channels, bias", "bias", "sees its own channel only"),
        ("two-groups", "groups=in_channels, bias", "groups=2, bias", "sees its own channel only"),
        ("bias", "mix = nn.Conv2d(in_channels, out_channels, 1, bias=False)", "mix = nn.Conv2d(in_channels, out_channels, 1)",
         "need a bias"),
        ("one-norm", "around, norms[0], nn.ReLU()", "around, nn.ReLU()", "a norm behind each"),
        ("mixed-in-groups", "nn.Conv2d(in_channels, out_channels, 1, bias=False)",
         "nn.Conv2d(in_channels, out_channels, 1, groups=2, bias=False)", "mixes all"),
        ("no-padding", "3, stride, 1, groups", "3, stride, 0, groups", "should be"),
        ("stride-ignored", "3, stride, 1, groups", "3, 1, 1, groups", "should be"),
        ("stride-on-the-1x1", "", """
         def separable(in_channels, out_channels, stride=1):
             around = nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels, bias=False)
             mix = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
             norms = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
             return nn.Sequential(around, norms[0], nn.ReLU(), mix, norms[1], nn.ReLU())

         pixels = (size // 2) ** 2
         full_macs = 9 * channels * 2 * channels * pixels
         separable_macs = (9 * channels + channels * 2 * channels) * pixels
         limit = 11.1
         """, "is not as the task asks"),
        ("no-relu-between", "around, norms[0], nn.ReLU(), mix", "around, norms[0], mix", "a ReLU behind each norm"),
        ("full-size", "pixels = (size // 2) ** 2", "pixels = size**2", "four times too many"),
        ("width-kept", "full_macs = 9 * channels * 2 * channels", "full_macs = 9 * channels * channels",
         "full_macs is not right"),
        ("depthwise-to-all", "(9 * channels + channels * 2 * channels)", "(9 * 2 * channels + channels * 2 * channels)",
         "separable_macs is not right"),
        ("fraction", "round(100 / 9, 1)", "round(1 / 9, 3)", "per cent"),
        ("of-these-channels", "round(100 / 9, 1)", "round(100 / 9 + 100 / (2 * channels), 1)", "more and more channels"),
        ("nothing-left", "round(100 / 9, 1)", "0.0", "more and more channels"),
    ]  # fmt: skip

    explanation = """
    A full convolution looks around and mixes at once, with $9CK$ weights for C channels in and K out. The two steps
    share the work: $9C$ weights look around, $CK$ mix. Divided by $9CK$ that is $\\frac{1}{K} + \\frac{1}{9}$. The
    first part vanishes with more channels, the second does not, so a ninth is always left: the 1x1 convolution is the
    price of mixing. Here both steps run at <<size // 2>>x<<size // 2>> pixels, since the depthwise step has the
    stride. With the stride in the 1x1 the depthwise step would cost four times as much, and three places in four of
    its result would be thrown away.
    """
    marking = """
    The network is compared with the reference in float64 under random weights, at both strides. Two of the points are for
    MACs and limit. Ask aloud: which part of the MACs of the two steps is in the 1x1, and what does that say about
    larger windows?
    """

    @check(points=1)
    def form(ask, values):
        """Shapes and parameters."""
        channels = values.channels
        for arguments, size, out in [((channels, 2 * channels, 2), 8, 4), ((channels, 12, 1), 7, 7), ((8, 8, 2), 9, 5)]:
            found = ask(probes.outline, "separable", [2, arguments[0], size, size], arguments)
            right = [2, arguments[1], out, out]
            need(
                found["out"] == right,
                f"separable{arguments}: the output of {size}x{size} pixels should be {right}, not {found['out']}",
            )
            what = f"separable{arguments}"
            convolutions = [layer for layer in found["layers"] if layer["kind"] == "Conv2d"]
            norms = [layer for layer in found["layers"] if layer["kind"] == "BatchNorm2d"]
            need(len(convolutions) == 2, f"{what}: two convolutions should run, but {len(convolutions)} ran")
            first, second = convolutions
            alone = first["groups"] == first["in_channels"] == first["out_channels"] == arguments[0]
            need(alone, f"{what}: in a depthwise convolution, the first step, each window sees its own channel only")
            need(second["groups"] == 1, f"{what}: the second convolution mixes all channels")
            biases = first["bias"] or second["bias"]
            need(not biases, f"{what}: does a convolution before a norm need a bias?")
            need(len(norms) == 2, f"{what}: there should be a norm behind each of the two convolutions")

    @check(points=1)
    def numbers(ask, values):
        """Three numbers."""
        for name in ("full_macs", "separable_macs", "limit"):
            number_of(ask(probes.value, name), name)
        need(0 <= number_of(ask(probes.value, "limit"), "limit") <= 100, "limit is in per cent")

    @check(points=1, hidden=True)
    def same_function(ask, values, reference):
        """The network computes what the two steps do."""
        for arguments, size in [((values.channels, 10, 1), 5), ((6, 9, 2), 7)]:
            for training in (False, True):
                need_same(
                    ask, "separable", reference["separable"], [3, arguments[0], size, size], arguments, training=training,
                    message="the layers of separable are right, the result is not: a ReLU behind each norm, and the depthwise step first",
                )  # fmt: skip

    @check(points=1, hidden=True)
    def macs(ask, values, reference):
        """The MACs of both."""
        for name in ("full_macs", "separable_macs"):
            factor = number_of(ask(probes.value, name), name) / reference[name]
            told = "which window, from how many channels to how many, at how many pixels?"
            if abs(factor - 4) < 1e-9:
                told = "four times too many: at how many pixels is the output?"
            need(abs(factor - 1) < 1e-9, f"{name} is not right: {told}")

    @check(points=1, hidden=True)
    def in_the_limit(ask, values, reference):
        """What is left with many channels."""
        found, right = number_of(ask(probes.value, "limit"), "limit"), reference["limit"]
        need(abs(found - right / 100) > 2e-3, "limit is a fraction: per cent were asked for")
        need(
            abs(found - right) < 0.06, "limit is not right: which of the two parts stays, with more and more channels?"
        )


def gate_of(names, images, arguments, randomise):
    """What a gate gives for some images, and its weights and biases with their shapes."""
    import torch

    gate = probes.build(names, "Gate", arguments)
    if randomise:
        probes.shuffle(gate, 4)
    with torch.no_grad():
        out = probes.plain(probes.made("Gate", gate.eval()(images)), "the output of the gate")
    if not isinstance(out, torch.Tensor):
        raise TypeError("the gate should return one tensor")
    return {"out": out, "parts": [part.detach().clone() for part in gate.parameters()]}


class Gate(Exercise):
    """Write a gate

    Write `Gate(channels, reduction)`, the squeeze-and-excitation gate of the chapter. It takes the mean of each map,
    sends the means through a layer to `channels // reduction` numbers (at least one), a ReLU, a second layer back to
    `channels` numbers and a sigmoid, and multiplies each map by its own number. The two layers are 1x1 convolutions or
    linear layers, as you like, and both have a bias.
    """

    goal = "build a squeeze-and-excitation gate"
    kind = "build"
    minutes, difficulty, importance = 12, 2, 3
    practice = {"channels": 24, "reduction": 4}
    hints = [
        "The mean of each map: `nn.AdaptiveAvgPool2d(1)`, or `x.mean` over two of the four dimensions. Which two?",
        "The factors have one number for each image and channel. For the product with (N, C, H, W) they need the shape "
        "(N, C, 1, 1).",
    ]

    def draw(chance):
        channels, reduction = chance.choice([(32, 8), (20, 4), (30, 5), (48, 16), (18, 3), (64, 8)])
        return {"channels": channels, "reduction": reduction}

    def stub():
        class Gate(nn.Module):
            def __init__(self, channels, reduction):
                super().__init__()
                ...  # two layers

            def forward(self, x): ...  # x times its factors

    def solution():
        class Gate(nn.Module):
            def __init__(self, channels, reduction):
                super().__init__()
                hidden = max(1, channels // reduction)
                self.down = nn.Conv2d(channels, hidden, 1)
                self.up = nn.Conv2d(hidden, channels, 1)

            def forward(self, x):
                means = x.mean(dim=(2, 3), keepdim=True)
                factors = torch.sigmoid(self.up(torch.relu(self.down(means))))
                return x * factors

    def right_linear():
        class Gate(nn.Module):
            def __init__(self, channels, reduction):
                super().__init__()
                hidden = channels // reduction or 1
                self.excite = nn.Sequential(
                    nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
                )

            def forward(self, x):
                return x * self.excite(x.flatten(2).mean(2))[..., None, None]

    def right_sequential():
        class Gate(nn.Module):
            def __init__(self, channels, reduction):
                super().__init__()
                hidden = max(channels // reduction, 1)
                # defined from the back to the front
                self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, channels, kernel_size=1), nn.Sigmoid())
                self.first = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(channels, hidden, kernel_size=1))

            def forward(self, x):
                return self.second(self.first(x)).expand_as(x) * x

    wrong = [
        ("returns-the-factors", "return x * factors", "return factors", "shape"),
        ("no-bias", "self.down = nn.Conv2d(channels, hidden, 1)", "self.down = nn.Conv2d(channels, hidden, 1, bias=False)",
         "a bias"),
        ("not-reduced", "hidden = max(1, channels // reduction)", "hidden = channels", "between the two layers"),
        ("at-least-one-forgotten", "max(1, channels // reduction)", "channels // reduction",
         "at least one"),
        ("mean-over-channels", "x.mean(dim=(2, 3), keepdim=True)", "x.mean(dim=1, keepdim=True).expand_as(x)",
         "the same factor"),
        ("no-means", "means = x.mean(dim=(2, 3), keepdim=True)", "means = x", "the same factor"),
        ("added", "return x * factors", "return x + factors", "between 0 and 1"),
        ("no-sigmoid", "factors = torch.sigmoid(self.up(torch.relu(self.down(means))))",
         "factors = self.up(torch.relu(self.down(means)))", "between 0 and 1"),
        ("softmax", "torch.sigmoid(self.up(torch.relu(self.down(means))))",
         "torch.softmax(self.up(torch.relu(self.down(means))), dim=1)", "each factor for itself"),
        ("maximum", "x.mean(dim=(2, 3), keepdim=True)", "x.amax(dim=(2, 3), keepdim=True)", "the result is not"),
        ("no-relu", "torch.relu(self.down(means))", "self.down(means)", "the result is not"),
        ("sigmoid-twice", "torch.relu(self.down(means))", "torch.sigmoid(self.down(means))", "the result is not"),
        ("one-plus", "return x * factors", "return x * (1 + factors)", "between 0 and 1"),
        ("mean-of-the-batch", "x.mean(dim=(2, 3), keepdim=True)", "x.mean(dim=(0, 2, 3), keepdim=True)", "other images"),
    ]  # fmt: skip

    explanation = """
    A 3x3 window does not know what is elsewhere in the picture; the means do. Each factor depends on **all** means of
    its image, which is why two layers and not one factor a map are needed: the first sums up what is in the picture,
    in <<max(1, channels // reduction)>> numbers, the second decides map by map. A sigmoid rather than a softmax,
    because maps do not compete: any number of them may pass. The gate works on one number for each map, so its MACs
    are its weights, however large the map is; what it costs is time, as all of the map must be there before any of it
    can be scaled.
    """
    marking = """
    The hidden check works the factors out from the gate's own weights, whatever the layers are called and whether
    they are convolutions or linear. Ask aloud: what does a fresh gate with small weights do to its branch, and where
    in a residual block must it therefore not stand?
    """

    @check(points=1)
    def form(ask, values):
        """Shape and parameters."""
        import torch

        channels, reduction = values.channels, values.reduction
        images = torch.randn(2, channels, 5, 4, generator=torch.Generator().manual_seed(0)).double()
        found = ask(probes.outline, "Gate", [2, channels, 5, 4], (channels, reduction))
        need(found["out"] == [2, channels, 5, 4], f"the output should have the shape of the input, not {found['out']}")
        hidden = channels // reduction
        right = 2 * channels * hidden + hidden + channels
        told = "two layers, and how many numbers stand between the two layers?"
        if found["parameters"] in (right - hidden, right - channels, right - hidden - channels):
            told = "have both layers a bias?"
        need(found["parameters"] == right, f"{found['parameters']:,} parameters are not right: {told}")
        try:
            small = ask(probes.outline, "Gate", [2, 3, 4, 4], (3, 8))["parameters"]
        except Wrong as error:
            need(
                False,
                f"3 channels with a reduction of 8: at least one number must be left between the layers ({error})",
            )
        need(small == 10, "3 channels with a reduction of 8: at least one number must be left between the layers")

    @check(points=1)
    def factors(ask, values):
        """One factor for each map, from 0 to 1."""
        import torch

        channels = values.channels
        images = torch.rand(3, channels, 5, 4, generator=torch.Generator().manual_seed(1)).double() + 1
        out = ask(gate_of, images, (channels, values.reduction), True)["out"]
        need(out.shape == images.shape, "the output should have the shape of the input")
        found = out / images
        need(
            bool(((found > 0) & (found < 1)).all()),
            "output divided by input should lie between 0 and 1: that is what the sigmoid is for",
        )
        spread = (found.amax((2, 3)) - found.amin((2, 3))).max()
        need(bool(spread < 1e-9), "every pixel of a map should get the same factor")
        need(
            float((found[:, :, 0, 0].sum(1) - 1).abs().max()) > 1e-6,
            "the factors of an image add up to 1: a sigmoid makes each factor for itself",
        )
        alone = ask(gate_of, images[:1], (channels, values.reduction), True)["out"]
        need(bool(torch.allclose(alone, out[:1])), "the factors of an image depend on other images of the batch")

    @check(points=2, hidden=True)
    def same_function(ask, values, reference):
        """The gate computes what its formula says."""
        import torch

        for channels, reduction in ((values.channels, values.reduction), (12, 3)):
            source = torch.Generator().manual_seed(2)
            images = torch.randn(4, channels, 6, 5, generator=source) + 3 * torch.randn(
                4, channels, 1, 1, generator=source
            )
            images = images.double()
            found = ask(gate_of, images, (channels, reduction), True)
            hidden = channels // reduction
            parts = {tuple(size for size in part.shape if size > 1 or part.dim() == 1): part for part in found["parts"]}
            told = "a gate has one layer to fewer numbers and one back, both with a bias"
            need({(hidden, channels), (channels, hidden), (hidden,), (channels,)} <= parts.keys(), told)
            down, up = (
                parts[hidden, channels].reshape(hidden, channels),
                parts[channels, hidden].reshape(channels, hidden),
            )
            inner = (images.mean((2, 3)) @ down.T + parts[(hidden,)]).relu()
            right = images * torch.sigmoid(inner @ up.T + parts[(channels,)])[:, :, None, None]
            need(found["out"].shape == right.shape, "the output should have the shape of the input")
            need(
                bool(torch.allclose(found["out"], right, rtol=1e-7, atol=1e-7)),
                "the layers of the gate are right, the result is not: mean, layer, ReLU, layer, sigmoid, product",
            )


def judge(costs, accuracies):
    """Front, steps that count, and networks surely beaten; and how near any comparison is to its limit."""
    import statistics

    means = {name: statistics.mean(runs) for name, runs in accuracies.items()}
    spreads = {name: statistics.stdev(runs) for name, runs in accuracies.items()}
    order, front, near = sorted(costs, key=costs.get), [], 100.0
    for name in order:
        near = min([near, *(abs(means[name] - means[other]) for other in order if other != name)])
        if not front or means[name] > means[front[-1]]:
            front.append(name)
    sure, beaten = [], []
    for before, name in zip(front, front[1:]):
        over = means[name] - means[before] - spreads[name] - spreads[before]
        near = min(near, abs(over))
        sure += [name] if over > 0 else []
    for place, name in enumerate(order):
        overs = [means[other] - means[name] - spreads[other] - spreads[name] for other in order[:place]]
        near = min([near, *(abs(over) for over in overs)])
        beaten += [name] if name not in front and any(over > 0 for over in overs) else []
    return front, sure, beaten, near


def table_of(chance):
    """Seven networks with costs and three accuracies each, with something of every kind in it."""
    while True:
        names = list("ABCDEFG")
        chance.shuffle(names)
        costs = sorted(chance.sample(range(3, 60), 7))
        costs = dict(zip(names, costs))
        accuracies = {}
        for name in names:
            middle = 48 + 9 * costs[name] ** 0.3 + chance.uniform(-6, 4)
            width = chance.uniform(0.3, 1.6)
            accuracies[name] = [round(middle + width * chance.uniform(-1, 1), 1) for _ in range(3)]
        front, sure, beaten, near = judge(costs, accuracies)
        others = [name for name in names if name not in front]
        if near > 0.1 and 3 <= len(front) <= 5 and 1 <= len(sure) < len(front) - 1 and 1 <= len(beaten) < len(others):
            return {"costs": dict(sorted(costs.items())), "accuracies": dict(sorted(accuracies.items()))}


class ParetoFront(Exercise):
    """Read a table of accuracies and costs

    Seven networks, A to G. `costs` holds the MACs of each for one image, in millions, and `accuracies` its validation
    accuracy in per cent, for three seeds. A network's accuracy is the mean over its seeds, and its spread the
    standard deviation (of a sample: the sum of squares is divided by n - 1). **A difference counts** if it is larger
    than the two standard deviations together.

    Set three lists of names. You may work by hand, or let Python do it.

    - `front`: the Pareto front by the means, from cheap to dear. A network is on it if no other is both cheaper and
      better.
    - `sure`: the networks of the front, without its first, whose step counts: their difference to the network **just
      before them on the front**.
    - `beaten`: the networks **not** on the front for which some cheaper network is better by a difference that
      counts.

    And one number, for another comparison: single runs of two networks have a spread of <<spread>> points each. The
    difference of the means of n runs each then has a spread of `spread` times the square root of 2 / n. `runs` is the
    smallest n for which a difference of <<gap>> points is at least twice that.
    """

    goal = "find a Pareto front, and say which of its steps are real"
    kind = "read"
    minutes, difficulty, importance = 16, 3, 5
    practice = {
        "costs": {"A": 12, "B": 5, "C": 31, "D": 8, "E": 20, "F": 44, "G": 26},
        "accuracies": {
            "A": [66.1, 67.5, 66.8], "B": [59.8, 60.9, 60.2], "C": [71.9, 73.4, 72.5], "D": [65.2, 66.9, 66.0],
            "E": [63.0, 64.1, 63.4], "F": [71.5, 72.6, 71.8], "G": [66.0, 66.9, 66.3],
        },
        "spread": 1.0,
        "gap": 1.0,
    }  # fmt: skip
    hints = [
        "Sort the networks by cost and go through them from cheap to dear. Which accuracy must a network beat to be on the front?",
        "`statistics.stdev` and `torch.std` divide by n - 1; `numpy.std` needs `ddof=1`.",
        "For `runs`, write down what must hold, square it, and solve for n. Then round: up or down?",
    ]

    def draw(chance):
        spread, gap = chance.choice([(1.5, 2.0), (0.8, 1.0), (1.2, 1.0), (0.6, 0.5), (0.9, 1.5), (1.1, 2.0)])
        return {**table_of(chance), "spread": spread, "gap": gap}

    def stub():
        front = [...]  # names, from cheap to dear
        sure = [...]
        beaten = [...]
        runs = ...

    def solution():
        import math
        from statistics import mean, stdev

        means = {name: mean(values) for name, values in accuracies.items()}
        spreads = {name: stdev(values) for name, values in accuracies.items()}

        def counts(better, worse):
            return means[better] - means[worse] > spreads[better] + spreads[worse]

        front = []
        for name in sorted(costs, key=costs.get):
            if not front or means[name] > means[front[-1]]:
                front.append(name)
        sure = [name for before, name in zip(front, front[1:]) if counts(name, before)]
        beaten = []
        for name in costs:
            cheaper = [other for other in costs if costs[other] < costs[name]]
            if name not in front and any(counts(other, name) for other in cheaper):
                beaten.append(name)
        runs = math.ceil(2 * (2 * spread / gap) ** 2)

    def right_pandas():
        import pandas as pd

        table = pd.DataFrame(accuracies).T
        table = pd.DataFrame({"cost": pd.Series(costs), "mean": table.mean(axis=1), "std": table.std(axis=1)})
        table = table.sort_values("cost")
        on_front = table["mean"] == table["mean"].cummax()
        front = list(table.index[on_front])
        steps = table[on_front]
        sure = list(steps.index[steps["mean"].diff() > steps["std"] + steps["std"].shift()])
        lower = (table["mean"] - table["std"]).cummax().shift()
        beaten = list(table.index[~on_front & (lower > table["mean"] + table["std"])])
        runs = 1
        while gap < 2 * spread * (2 / runs) ** 0.5 - 1e-12:
            runs += 1

    def right_tensors():
        names = list(accuracies)
        runs_of = torch.tensor([accuracies[name] for name in names], dtype=torch.float64)
        cost = torch.tensor([costs[name] for name in names])
        mean, std = runs_of.mean(1), runs_of.std(1)
        cheaper = cost[None, :] < cost[:, None]
        dominated = (cheaper & (mean[None, :] > mean[:, None])).any(1)
        surely = (cheaper & (mean[None, :] - mean[:, None] > std[None, :] + std[:, None])).any(1)
        front = tuple(sorted((n for n, lost in zip(names, dominated) if not lost), key=lambda name: costs[name]))
        at = {name: number for number, name in enumerate(names)}
        sure = []
        for one, two in zip(front[1:], front):
            if mean[at[one]] - mean[at[two]] > std[at[one]] + std[at[two]]:
                sure.insert(0, one)  # in any order
        beaten = [n for n, lost, far in zip(names, dominated, surely) if lost and far]
        runs = int(8 * spread**2 / gap**2 + 0.999999)

    wrong = [
        ("no-names", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nsure = [0, 1]", "names of the table"),
        ("a-name-twice", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nfront = front + front[:1]", "stands twice"),
        ("dear-first", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nfront = front[::-1]", "from cheap to dear"),
        ("all-on-the-front", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nfront, beaten = sorted(costs, key=costs.get), []", "a cheaper network is better"),
        ("cheapest-forgotten", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nfront = front[1:]", "is missing"),
        ("every-step-is-real", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nsure = front[1:]", "does not count"),
        ("no-step-is-real", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nsure = []", "is missing"),
        ("all-others-beaten", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nbeaten = [name for name in costs if name not in front]", "is not beaten"),
        ("none-beaten", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nbeaten = []", "is missing"),
        ("front-beaten-too", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2)\nbeaten = beaten + front[:1]", "on the front"),
        ("squares-forgotten", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * 2 * spread / gap + 1)", "runs is not right"),
        ("once-the-spread", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (spread / gap) ** 2)", "twice the spread"),
        ("one-network-only", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil((2 * spread / gap) ** 2)", "runs is not right"),
        ("one-too-many", "runs = math.ceil(2 * (2 * spread / gap) ** 2)", "runs = math.ceil(2 * (2 * spread / gap) ** 2) + 1", "runs is not right"),
    ]  # fmt: skip

    explanation = """
    From cheap to dear, a network is on the front if it beats the **best** so far: one pass over the sorted list is
    enough. The front is drawn from means, so a lucky network can sit on it, and its step is then a difference of runs
    and not of networks. That is why `sure` is shorter than the front. It also goes the other way: a network off the
    front may be as good as one on it, as far as three seeds can say, and only those in `beaten` can be crossed out.

    For the number of runs, $2 s \\sqrt{2 / n} \\le d$ gives $n \\ge 8 s^2 / d^2$, rounded up. To halve the difference
    that you can see takes four times as many runs. With a handful of runs, differences of less than a spread are out
    of reach, whatever a table prints in bold.
    """
    marking = """
    A point for each list and one for the number; the order matters in `front` only. `sure` and `beaten` are judged by
    themselves, so a slip in `front` costs its own point and, where it was carried on, by hand no other. Ask aloud:
    with a rule that says yes for equals one time in twelve, how many of the comparisons of this table would you
    expect to be luck?
    """

    @check(points=1)
    def written(ask, values):
        """Three lists of names and a number."""
        for name in ("front", "sure", "beaten"):
            found = names_of(ask, name, values.costs)
            need(len(found) == len(set(found)), f"in {name} a network stands twice")
        front = ask(probes.value, "front")
        need(front == sorted(front, key=values.costs.get), "front should go from cheap to dear")
        both = set(front) & set(names_of(ask, "beaten", values.costs))
        need(not both, "beaten holds a network that you have put on the front: what does a front mean?")
        found = ask(probes.value, "runs")
        need(
            isinstance(found, (int, float)) and float(found).is_integer() and found > 0, "runs should be a whole number"
        )

    @check(points=1, hidden=True)
    def the_front(ask, values, reference):
        """The front."""
        found, right = names_of(ask, "front", values.costs), reference["front"]
        more = [name for name in found if name not in right]
        need(not more, f"front is not right: for {', '.join(more)} a cheaper network is better")
        need(found == right, "front is not right: a network is missing that no cheaper one beats")

    @check(points=1, hidden=True)
    def steps(ask, values, reference):
        """The steps that count."""
        found, right = names_of(ask, "sure", values.costs), reference["sure"]
        more = [name for name in found if name not in right]
        need(
            not more,
            f"sure is not right: the step to {', '.join(more)} is none of the front, or does not count by the rule",
        )
        need(set(found) == set(right), "sure is not right: a step that counts is missing")

    @check(points=1, hidden=True)
    def crossed_out(ask, values, reference):
        """The networks that are surely beaten."""
        found, right = names_of(ask, "beaten", values.costs), reference["beaten"]
        more = [name for name in found if name not in right]
        need(not more, f"beaten is not right: by the rule {', '.join(more)} is not beaten by any cheaper network")
        need(set(found) == set(right), "beaten is not right: one is missing")

    @check(points=1, hidden=True)
    def how_many_runs(ask, values, reference):
        """The number of runs."""
        import math

        found, right = number_of(ask(probes.value, "runs"), "runs"), reference["runs"]
        told = "put it into the formula, and n - 1 as well"
        if found == math.ceil(2 * (values.spread / values.gap) ** 2):
            told = "the difference should be twice the spread"
        need(found == right, f"runs is not right: {told}")


def windows_of(layers):
    return [layer for layer in layers if layer["kind"] == "Conv2d" and max(layer["kernel_size"]) > 1]


class ForASmallDevice(Exercise):
    """Design a network for a small device

    Write `network()`. It returns a network of yours for photographs of 3 channels and ten classes. It must have all of
    these properties; what it looks like is up to you.

    - It takes 32x32 pixels, and any other size from 24 pixels on, odd ones as well. It ends with a global average and
      **one** linear layer, which reads at least <<last_channels>> numbers.
    - It has at most **<<'{:,}'.format(max_parameters)>>** parameters, and at most **<<'{:,}'.format(max_macs)>>** MACs for 32x32 pixels (of
      convolutions and the linear layer).
    - It has at least <<windows>> convolutions with a window larger than 1x1. Only those that read the image may be
      full; all others are in groups or depthwise. The last of them still makes at least 4x4 of 32x32 pixels.
    - Directly behind each convolution runs a batch norm (not in a gate, where maps have one pixel). Write all of them
      as modules, so that they can be counted.
    - Every parameter gets a gradient.
    """

    goal = "design a network within a budget of parameters and MACs"
    kind = "design"
    minutes, difficulty, importance = 22, 4, 4
    practice = {"last_channels": 128, "max_parameters": 42_000, "max_macs": 1_300_000, "windows": 6}
    hints = [
        "Write a function for convolution with norm and activation, such as the chapter's `brick`, and build everything of it. "
        "`count` of `course_utils` gives parameters and MACs.",
        "Where are the MACs? A 1x1 convolution at 16x16 pixels costs sixteen times that of the same channels at 4x4. Go down "
        "early, and be wide where the maps are small.",
        "The 1x1 convolution to the last channels is the dearest in parameters. From how many channels does it have to come?",
    ]

    def draw(chance):
        last_channels = chance.choice([96, 112, 120, 136, 144, 160])
        windows = chance.choice([5, 6, 7])
        return {
            "last_channels": last_channels,
            "max_parameters": 1000 * (8 * windows - 7 + chance.choice([0, 1, 2])),
            "max_macs": 100_000 * (windows + chance.choice([6, 7])),
            "windows": windows,
        }

    def stub():
        def network(): ...

    def solution():
        def brick(in_channels, out_channels, kernel_size, stride=1, groups=1):
            padding = kernel_size // 2
            convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
            return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]

        def separable(in_channels, out_channels, stride=1):
            around = brick(in_channels, in_channels, 3, stride, groups=in_channels)
            return around + brick(in_channels, out_channels, 1)

        def network():
            layers = brick(3, 16, 3, stride=2) + separable(16, 32) + separable(32, 48, stride=2)
            for _ in range(windows - 4):
                layers += separable(48, 48)
            layers += separable(48, last_channels, stride=2)
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last_channels, 10))

    def right_inverted():
        class Inverted(nn.Module):
            """1x1 up, depthwise, 1x1 down; a shortcut where the shapes agree."""

            def __init__(self, in_channels, out_channels, stride):
                super().__init__()
                inner = 3 * in_channels
                self.branch = nn.Sequential(
                    nn.Conv2d(in_channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
                    nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
                    nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels),
                )  # fmt: skip
                self.adds = stride == 1 and in_channels == out_channels

            def forward(self, x):
                return x + self.branch(x) if self.adds else self.branch(x)

        def network():
            layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
            layers += [Inverted(16, 24, 2), Inverted(24, 32, 2)]
            layers += [Inverted(32, 32, 1) for _ in range(windows - 3)]
            layers += [nn.Conv2d(32, last_channels, 1, bias=False), nn.BatchNorm2d(last_channels), nn.ReLU6()]
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last_channels, 10))

    def right_groups_and_gates():
        class Gate(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

            def forward(self, x):
                return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

        class Grouped(nn.Module):
            def __init__(self, in_channels, out_channels, stride):
                super().__init__()
                self.around = nn.Conv2d(in_channels, in_channels, 5, stride, 2, groups=in_channels // 2)
                self.norm1 = nn.BatchNorm2d(in_channels)
                self.mix, self.norm2 = nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
                self.gate = Gate(out_channels)

            def forward(self, x):
                return self.gate(self.norm2(self.mix(self.norm1(self.around(x)).relu())).relu())

        class Small(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.norm = nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16)
                widths = [16] + (windows - 2) * [40] + [last_channels]
                pairs = list(zip(widths, widths[1:]))
                self.blocks = nn.ModuleList(
                    Grouped(a, b, 2 if number == len(pairs) - 1 else 1) for number, (a, b) in enumerate(pairs)
                )
                self.last = nn.Linear(last_channels, 10)

            def forward(self, x):
                x = self.norm(self.stem(x)).relu()
                for block in self.blocks:
                    x = block(x)
                return self.last(x.mean((2, 3)))

        network = Small

    wrong = [
        ("full-windows", "around = brick(in_channels, in_channels, 3, stride, groups=in_channels)",
         "around = brick(in_channels, in_channels, 3, stride)", "is full"),
        ("too-few-windows", "range(windows - 4)", "range(windows - 5)", "convolutions with a window"),
        ("too-wide", "separable(32, 48, stride=2)", "separable(32, 48, stride=2) + separable(48, 480) + separable(480, 48)",
         "parameters"),
        ("too-late-down", "brick(3, 16, 3, stride=2)", "brick(3, 16, 3)", "MACs"),
        ("narrow-end", "separable(48, last_channels, stride=2)", "separable(48, 48, stride=2) + separable(48, last_channels - 8)",
         "your code raised"),
        ("reads-too-little", "", """
         def network():
             parts = [nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()]
             for number in range(windows):
                 parts += [nn.Conv2d(24, 24, 3, 2 if number == 0 else 1, 1, groups=8), nn.BatchNorm2d(24), nn.ReLU()]
             return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
         """, "the linear layer reads"),
        ("no-norm", "return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]", "return [convolution, nn.ReLU()]",
         "no batch norm"),
        ("one-size", "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last_channels, 10)",
         "nn.Flatten(), nn.Linear(16 * last_channels, 10)", "your code raised"),
        ("eleven-classes", "nn.Linear(last_channels, 10)", "nn.Linear(last_channels, 11)", "ten scores"),
        ("nothing-left-to-see", "separable(48, last_channels, stride=2)", "separable(48, last_channels, stride=4)", "at least 4x4"),
        ("two-linear-layers", "nn.Flatten(), nn.Linear(last_channels, 10)",
         "nn.Flatten(), nn.Linear(last_channels, 12), nn.Linear(12, 10)", "one linear layer"),
        ("idle-layer", "return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last_channels, 10))",
         "made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last_channels, 10))\n"
         "    made[2].spare = nn.Linear(2, 2)\n    return made", "no gradient"),
    ]  # fmt: skip

    explanation = """
    Two budgets pull in two directions. MACs are spent where the maps are large, parameters where the layers are wide:
    so a small network goes down early and is wide late. The rule about windows leaves nearly all of the cost to the
    1x1 convolutions, and with it most of your freedom: how wide, at which size, and how often. The reference is a
    stack of separable convolutions; inverted blocks with shortcuts and blocks with groups and gates fit as well. The
    budget cannot say which of them is **better**: that takes training, with several seeds, and a rule that was fixed
    before.
    """
    marking = """
    Each property has its own message; all checks ask for properties, and none for a certain layer. Partial credit by
    check. Ask aloud: where are most of the MACs of your network, and what would you do with twice the budget?
    """

    @check(points=1)
    def form(ask, values):
        """Ten scores for several sizes, and the end."""
        for size in (32, 48):
            found = ask(probes.outline, "network", [2, 3, size, size])
            need(
                found["out"] == [2, 10],
                f"for {size}x{size} pixels it should return ten scores for each image, not {found['out']}",
            )
        linear = [layer for layer in found["layers"] if layer["kind"] == "Linear"]
        need(len(linear) == 1, f"it should have one linear layer, but {len(linear)} ran")
        need(
            linear[0]["in_features"] >= values.last_channels,
            f"the linear layer reads {linear[0]['in_features']} numbers only",
        )

    @check(points=1)
    def windows_and_norms(ask, values):
        """Windows in groups, and a norm behind each convolution."""
        layers = ask(probes.outline, "network", [2, 3, 32, 32])["layers"]
        for layer, behind in zip(layers, [*layers[1:], {"kind": "nothing"}]):
            if layer["kind"] == "Conv2d" and layer["out"][2:] != [1, 1]:
                told = (
                    f"the convolution {layer['name']} has no batch norm directly behind it: {behind['kind']} runs next"
                )
                need(behind["kind"] == "BatchNorm2d", told)
        windows = windows_of(layers)
        need(len(windows) >= values.windows, f"it has only {len(windows)} convolutions with a window larger than 1x1")
        for layer in windows:
            full = layer["groups"] == 1 and layer["in_channels"] > 3
            need(
                not full,
                f"the convolution {layer['name']} reads {layer['in_channels']} channels, has a window and is full",
            )
        smallest = min(windows[-1]["out"][2:])
        need(
            smallest >= 4, f"the last window should make at least 4x4 of 32x32 pixels, but makes {smallest}x{smallest}"
        )

    @check(points=2)
    def budgets(ask, values):
        """Parameters and MACs."""
        found = ask(probes.outline, "network", [2, 3, 32, 32])
        need(
            found["parameters"] <= values.max_parameters,
            f"it has {found['parameters']:,} parameters: too many for the budget",
        )
        macs = probes.macs_of(found["layers"])
        need(macs <= values.max_macs, f"it has {macs:,} MACs: too many for the budget")
        need(macs > 100_000, "it has next to no MACs: are all convolutions modules?")

    @check(points=1, hidden=True)
    def odd_sizes_and_gradients(ask, values):
        """Odd sizes, and a gradient for every parameter."""
        import torch

        for size in (27, 41):
            found = ask(probes.outline, "network", [2, 3, size, size])["out"]
            need(found == [2, 10], f"for {size}x{size} pixels it should return ten scores for each image")
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
        found = ask(probes.run, "network", images, training=True)["gradients"]
        idle = [name for name, gradient in found.items() if gradient is None]
        need(not idle, f"{', '.join(idle[:3])} gets no gradient: does it run at all?")
