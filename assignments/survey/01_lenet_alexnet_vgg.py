"""LeNet, AlexNet, VGG

You follow an image through LeNet on paper, predict what is left of a signal behind many layers, write a VGG that
starts, and redesign AlexNet for small images. Do the first two chapters of the survey first.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check
from course_exercises.reference import need_same


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


class LenetByHand(Exercise):
    """LeNet on other images

    The LeNet of chapter 1 gets images of <<size>>x<<size>> pixels and <<in_channels>> channels, and sorts them into
    <<num_classes>> classes. Nothing is padded: a 5x5 convolution to 6 channels, an average pool of 2x2 with stride 2, a
    5x5 convolution to 16 channels, the same pool, then linear layers to 120, 84 and <<num_classes>>. Every convolution
    and every linear layer has a bias.

    Work out by hand, without running anything:

    - `maps`: the four sides of the maps behind convolution, pool, convolution, pool, as a list;
    - `flat`: how many numbers go into the first linear layer;
    - `convolution_parameters`: the parameters of both convolutions together;
    - `linear_parameters`: the parameters of the first linear layer alone;
    - `share`: the part of **all** parameters of the network that is in this one layer, in per cent, to one decimal.

    Write formulas of Python where you can, such as `120 * 84 + 84`, so that you can find a slip.
    """

    goal = "work out the map sizes of LeNet, and where its parameters are"
    kind = "compute"
    minutes, difficulty, importance = 12, 1, 4
    practice = {"size": 46, "in_channels": 3, "num_classes": 10}
    hints = [
        "The size formula is (n + 2p - k) / s, rounded down, plus 1. It holds for a pool as for a convolution.",
        "A convolution of kernel k from a to b channels has k * k * a * b weights and b biases.",
        "For the share you need all five layers that have weights.",
    ]

    def draw(chance):
        return {
            "size": chance.choice([38, 42, 50, 54, 58, 62]),
            "in_channels": chance.choice([2, 4, 5]),
            "num_classes": chance.choice([7, 12, 15, 20]),
        }

    def stub():
        maps = [..., ..., ..., ...]  # behind convolution, pool, convolution, pool
        flat = ...
        convolution_parameters = ...
        linear_parameters = ...
        share = ...

    def solution():
        first = size - 5 + 1
        second = (first // 2) - 5 + 1
        maps = [first, first // 2, second, second // 2]
        flat = 16 * maps[3] * maps[3]
        convolution_parameters = (25 * in_channels * 6 + 6) + (25 * 6 * 16 + 16)
        linear_parameters = flat * 120 + 120
        others = (120 * 84 + 84) + (84 * num_classes + num_classes)
        share = round(100 * linear_parameters / (convolution_parameters + linear_parameters + others), 1)

    def right_formula():
        sides, side = [], size
        for kernel_size, stride in ((5, 1), (2, 2), (5, 1), (2, 2)):
            side = (side - kernel_size) // stride + 1
            sides.append(side)
        maps = tuple(sides)
        flat = 16 * side**2
        convolution_parameters = 6 * (25 * in_channels + 1) + 16 * 151
        linear_parameters = 120 * (flat + 1)
        share = 100 * linear_parameters / (convolution_parameters + linear_parameters + 84 * 121 + num_classes * 85)

    def right_by_code():
        import numpy as np

        features = nn.Sequential(nn.Conv2d(in_channels, 6, 5), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.AvgPool2d(2))
        maps, x = [], torch.zeros(1, in_channels, size, size)
        for layer in features:
            x = layer(x)
            maps.append(np.int64(x.shape[-1]))
        flat = torch.tensor(x.numel())
        convolution_parameters = sum(p.numel() for p in features.parameters())
        layers = [nn.Linear(x.numel(), 120), nn.Linear(120, 84), nn.Linear(84, num_classes)]
        counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        linear_parameters = counts[0]
        share = np.round(100 * counts[0] / (convolution_parameters + sum(counts)), 1)

    wrong = [
        ("padded", "first = size - 5 + 1", "first = size", "the first side"),
        ("plus-one-forgotten", "first = size - 5 + 1", "first = size - 5", "the first side"),
        ("rounded-up", "second // 2]", "(second + 1) // 2]", "round"),
        ("five-numbers", "maps = [first, first // 2, second, second // 2]",
         "maps = [size, first, first // 2, second // 2, second]", "four sides"),
        ("one-row", "16 * maps[3] * maps[3]", "16 * maps[3]", "both directions"),
        ("channels-forgotten", "16 * maps[3] * maps[3]", "maps[3] * maps[3]", "how many maps"),
        ("no-biases", "(25 * in_channels * 6 + 6) + (25 * 6 * 16 + 16)", "25 * in_channels * 6 + 25 * 6 * 16", "biases"),
        ("one-channel", "25 * in_channels * 6 + 6", "25 * 6 + 6", "every channel of its input"),
        ("linear-bias", "flat * 120 + 120", "flat * 120", "a bias"),
        ("fraction", "round(100 * linear_parameters", "round(linear_parameters", "per cent"),
        ("of-the-linear-layers", "(convolution_parameters + linear_parameters + others)", "(linear_parameters + others)",
         "of all parameters"),
    ]  # fmt: skip

    explanation = """
    A 5x5 window without padding takes four pixels from each side: <<size>> becomes <<size - 4>>, the pool makes
    <<(size - 4) // 2>> of it, the second convolution <<(size - 4) // 2 - 4>>. This number is odd, so the second pool
    leaves a row and a column out and makes <<((size - 4) // 2 - 4) // 2>>.

    The convolutions have the same parameters for every image size, since a window is used at all places. The first
    linear layer has a weight for each place of each map: its number grows with the square of the side. On larger images
    it holds almost the whole network, and that is what AlexNet and VGG inherit.
    """
    marking = """
    A point for form, and one each for maps with flat, the two counts, and the share (within 0.06, worked out from the
    right counts). Ask aloud: which of these numbers change if the image is twice as large?
    """

    @check(points=1)
    def written(ask, values):
        """Four sides, and four numbers."""
        sides = ask(probes.value, "maps")
        need(isinstance(sides, list) and len(sides) == 4, "maps should be a list of four sides")
        for name in LENET:
            try:
                found = float(ask(probes.value, name))
            except (TypeError, ValueError):
                need(False, f"{name} should be a number")
            need(found > 0, f"{name} should be more than zero")
        need(
            float(sides[0]) > float(sides[1]) >= float(sides[2]) > float(sides[3]),
            "the maps should become smaller from layer to layer",
        )
        need(float(ask(probes.value, "share")) < 100, "share is in per cent, so it is below 100")

    @check(points=1, hidden=True)
    def sizes(ask, values, reference):
        """The maps, and what is left of them for the linear layer."""
        found = [float(side) for side in ask(probes.value, "maps")]
        right = reference["maps"]
        need(
            found[0] == right[0],
            "the first side is not right: how many places has a 5x5 window without padding, in one row?",
        )
        need(found[1:3] == right[1:3], "the sides in the middle are not right: the same formula, from the side before")
        need(found[3] == right[3], "the last side is not right: which way does the size formula round?")
        flat, side = float(ask(probes.value, "flat")), right[3]
        need(flat != 16 * side, "flat counts one row of each map: a map has places in both directions")
        need(flat != side * side, "flat counts the places of one map: how many maps are there?")
        need(flat == reference["flat"], "flat is not right: how many maps, of how many places?")

    @check(points=1, hidden=True)
    def parameters(ask, values, reference):
        """The parameters of the convolutions and of the first linear layer."""
        off = float(ask(probes.value, "convolution_parameters")) - reference["convolution_parameters"]
        told = {-22: "have the convolutions biases?", -25 * 6 * (values.in_channels - 1):
                "each window looks at every channel of its input"}  # fmt: skip
        need(
            off == 0,
            f"convolution_parameters is off by {off:+,.0f}: {told.get(off, 'from how many channels to how many?')}",
        )
        off = float(ask(probes.value, "linear_parameters")) - reference["linear_parameters"]
        told = "each of its 120 outputs has a bias, too" if off == -120 else "each output has a weight for each input"
        need(off == 0, f"linear_parameters is off by {off:+,.0f}: {told}")

    @check(points=1, hidden=True)
    def the_share(ask, values, reference):
        """The share of one layer."""
        found, one = float(ask(probes.value, "share")), reference["linear_parameters"]
        rest = 120 * 84 + 84 + 85 * values.num_classes
        whole = one + rest + reference["convolution_parameters"]
        right = 100 * one / whole
        need(abs(found - right / 100) > 0.06, "share is a fraction: per cent were asked for")
        if abs(found - right) > 0.06:
            need(
                abs(found - 100 * one / (one + rest)) > 0.06,
                "share is of the linear layers: it should be of all parameters",
            )
        need(abs(found - right) <= 0.06, f"share = {found:.3f} is not right, or not to one decimal")


LENET = ("flat", "convolution_parameters", "linear_parameters", "share")


class SignalPredicted(Exercise):
    """What is left of the signal

    <<depth>> convolutions of 3x3 stand in a row, all from <<width>> to <<width>> channels, with a ReLU behind each, no
    pool and no bias. Their weights are Xavier's. Noise goes in. The padding is circular (the maps are continued
    from the other side), so that no zeros of the border disturb the formula.

    Set `prediction` **before you run anything**: the standard deviation behind the last convolution, divided by that
    behind the first one (both in front of the ReLU). Then run the rest: it measures this ratio, once with Xavier
    weights (`measured`) and once with Kaiming weights (`measured_kaiming`). Whatever you predicted, you get the point
    for it.

    Then answer:

    - `per_layer`: by which factor has each layer changed the **variance**, in the mean over the <<depth - 1>> layers
      from the first to the last? Compute it from `measured`.
    - `gain`: by which number would you have to multiply each Xavier weight, so that by the formula nothing
      is lost? To two decimals.
    - `layers`: by the formula, how many layers with Xavier weights make the **standard deviation** smaller by a
      factor of more than <<limit>>? The least whole number.
    - `mend`: one of the words `"momentum"`, `"norm"`, `"weight decay"`, `"warm-up"`: which of the four keeps the
      signal of a network at size that has not been trained for a single step?
    """

    goal = "explain with one formula why Xavier weights and ReLU do not go together"
    kind = "predict"
    minutes, difficulty, importance = 13, 2, 5
    practice = {"depth": 9, "width": 32, "limit": 100}
    hints = [
        "What does a ReLU leave of the mean square? And what do Xavier weights leave where a layer has as many outputs as "
        "inputs? The table of section 4 has the factor of each layer.",
        "A ratio of standard deviations is the root of a ratio of variances. And <<depth - 1>> equal factors f give f to "
        "the power of <<depth - 1>>.",
        "Multiplying the weights by g multiplies the variance by g squared.",
    ]

    def draw(chance):
        return {
            "depth": chance.choice([7, 8, 10, 11]),
            "width": chance.choice([24, 28, 36, 40]),
            "limit": chance.choice([50, 200, 500, 1000]),
        }

    def stub():
        prediction = ...  # a number, before you run the rest

        def signal_ratio(draw_weights):
            torch.manual_seed(0)
            x, signals = torch.randn(8, width, 12, 12), []
            with torch.no_grad():
                for _ in range(depth):
                    layer = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
                    draw_weights(layer.weight)
                    x = layer(x)
                    signals.append(x.std().item())
                    x = torch.relu(x)
            return signals[-1] / signals[0]

        if prediction is not ...:
            measured = signal_ratio(nn.init.xavier_uniform_)
            measured_kaiming = signal_ratio(nn.init.kaiming_normal_)
            print(f"predicted {prediction:.4f}, measured {measured:.4f}, with Kaiming weights {measured_kaiming:.4f}")

        per_layer = ...  # from measured
        gain = ...
        layers = ...
        mend = ...  # "momentum", "norm", "weight decay" or "warm-up"

    def solution():
        prediction = 0.5 ** ((depth - 1) / 2)

        def signal_ratio(draw_weights):
            torch.manual_seed(0)
            x, signals = torch.randn(8, width, 12, 12), []
            with torch.no_grad():
                for _ in range(depth):
                    layer = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
                    draw_weights(layer.weight)
                    x = layer(x)
                    signals.append(x.std().item())
                    x = torch.relu(x)
            return signals[-1] / signals[0]

        if prediction is not ...:
            measured = signal_ratio(nn.init.xavier_uniform_)
            measured_kaiming = signal_ratio(nn.init.kaiming_normal_)

        per_layer = measured ** (2 / (depth - 1))
        gain = round(2**0.5, 2)
        layers = next(k for k in range(100) if 2 ** (k / 2) > limit)
        mend = "norm"

    def right_logarithms():
        import math

        prediction = 0.9  # a bad guess, and worth its point

        def signal_ratio(draw_weights):
            torch.manual_seed(0)
            x, first = torch.randn(8, width, 12, 12), None
            for _ in range(depth):
                layer = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
                draw_weights(layer.weight)
                x = layer(torch.relu(x) if first else x).detach()
                first = first or x.std().item()
            return x.std().item() / first

        measured, measured_kaiming = signal_ratio(nn.init.xavier_uniform_), signal_ratio(nn.init.kaiming_normal_)
        per_layer = math.exp(2 * math.log(measured) / (depth - 1))
        gain = math.sqrt(2)
        layers = math.ceil(2 * math.log2(limit))
        mend = "norm"

    def right_numbers():
        prediction = 1 / 16

        def signal_ratio(draw_weights):
            torch.manual_seed(0)
            x, signals = torch.randn(8, width, 12, 12), []
            with torch.no_grad():
                for _ in range(depth):
                    layer = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
                    draw_weights(layer.weight)
                    x = layer(x)
                    signals.append(x.std())
                    x = x.clamp(min=0)
            return signals[-1] / signals[0]

        measured = signal_ratio(nn.init.xavier_uniform_)
        measured_kaiming = signal_ratio(nn.init.kaiming_normal_)
        per_layer = (measured**2).pow(1 / (depth - 1))
        gain = 1.41
        layers = {50: 12, 100: 14, 200: 16, 500: 18, 1000: 20}[limit]
        mend = "norm"

    wrong = [
        ("no-number", "prediction = 0.5 ** ((depth - 1) / 2)", 'prediction = "small"', "should be a number"),
        ("below-zero", "prediction = 0.5 ** ((depth - 1) / 2)", "prediction = -3", "below zero"),
        ("not-run", "measured = signal_ratio(nn.init.xavier_uniform_)", "measured = prediction = 1.0", "is not what the cell measures"),
        ("other-weights", "measured = signal_ratio(nn.init.xavier_uniform_)",
         "measured = signal_ratio(nn.init.kaiming_normal_)", "is not what the cell measures"),
        ("of-the-deviation", "measured ** (2 / (depth - 1))", "measured ** (1 / (depth - 1))", "of the standard deviation"),
        ("all-layers", "measured ** (2 / (depth - 1))", "measured ** (2 / depth)", "how many layers"),
        ("divided", "measured ** (2 / (depth - 1))", "measured**2 / (depth - 1)", "multiply"),
        ("gain-of-the-variance", "round(2**0.5, 2)", "2", "variance"),
        ("halves-the-deviation", "2 ** (k / 2) > limit", "2**k > limit", "variance that is halved"),
        ("too-few", "layers = next(k for k in range(100) if 2 ** (k / 2) > limit)",
         "layers = next(k for k in range(100) if 2 ** (k / 2) > limit) - 1", "not yet"),
        ("warm-up", 'mend = "norm"', 'mend = "warm-up"', "before the first step"),
        ("no-word", 'mend = "norm"', 'mend = "kaiming"', "none of the words"),
    ]  # fmt: skip

    explanation = """
    Where a layer has as many outputs as inputs, Xavier weights have the variance 1/n. Each of n products then adds
    1/n times the mean square of its x, and the ReLU before has left half of that: the variance is halved in each
    layer. From the first convolution to the last these are <<depth - 1>> halvings, so the ratio of the standard
    deviations is about (1/2) to the power of <<(depth - 1) / 2>>. A measurement is a little off, since <<width>>
    channels are few and the formula is a mean over many draws.

    The missing factor of 2 in the variance is a factor of 1.41 in the weights: that is what Kaiming weights have. A
    norm brings the signal back to size in each layer, whatever the weights are. Momentum, weight decay and a warm-up
    change the steps, and there has been none.
    """
    marking = """
    A point for any number as prediction; one for the measurement; per_layer is compared with the student's own
    measurement. Ask aloud: what changes where the channels double from layer to layer?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction, whatever it is."""
        found = ask(probes.value, "prediction")
        try:
            found = float(found)
        except (TypeError, ValueError):
            need(False, "prediction should be a number")
        need(found >= 0, "prediction is below zero: a ratio of two standard deviations is not")
        need(found < 1e6, "prediction is more than a million: it should be a ratio, the last by the first")

    @check(points=1)
    def measured(ask, values):
        """The measurement, and answers of the right kind."""
        first, second = (float(ask(probes.value, name)) for name in ("measured", "measured_kaiming"))
        told = "is not what the cell measures: run it as it was given"
        need(0 < first < second, f"measured {told}")
        need(0.2 < second < 5, f"measured_kaiming {told}")
        for name in ("per_layer", "gain", "layers"):
            try:
                need(float(ask(probes.value, name)) > 0, f"{name} should be more than zero")
            except (TypeError, ValueError):
                need(False, f"{name} should be a number")
        mend = ask(probes.value, "mend")
        need(
            mend in ("momentum", "norm", "weight decay", "warm-up"), f"mend = {mend!r} is none of the words of the task"
        )

    @check(points=1, hidden=True)
    def each_layer(ask, values, reference):
        """The factor of each layer, from the measurement."""
        import math

        ratio, found = float(ask(probes.value, "measured")), float(ask(probes.value, "per_layer"))
        need(
            abs(math.log(ratio / float(reference["measured"]))) < 0.1,
            "measured is not what the cell measures: run it as it was given",
        )
        steps = values.depth - 1
        near = [abs(found - other) < 2e-3 for other in (ratio ** (1 / steps), ratio ** (2 / (steps + 1)))]
        need(not near[0], "per_layer is the factor of the standard deviation: the variance was asked for")
        need(not near[1], "per_layer: how many layers lie between the two places that are compared?")
        need(
            abs(found - ratio ** (2 / steps)) < 6e-3,
            "per_layer is not the mean factor: equal factors multiply, they do not add",
        )

    @check(points=1, hidden=True)
    def by_the_formula(ask, values, reference):
        """The gain, and the number of layers."""
        gain = float(ask(probes.value, "gain"))
        need(abs(gain - 2) > 0.01, "gain is what the variance needs: the weights were asked for")
        need(abs(gain - 2**0.5) < 0.006, "gain is not right: by which factor must the variance of the weights grow?")
        layers, right = float(ask(probes.value, "layers")), reference["layers"]
        need(abs(layers - right / 2) > 1, "layers: it is the variance that is halved in each layer, and you are asked "
             "for the standard deviation")  # fmt: skip
        need(layers >= right, "layers is too small: by the formula the factor is not yet reached")
        need(layers <= right, "layers is too large: fewer are enough")

    @check(points=1, hidden=True)
    def word(ask, values, reference):
        """What acts on a fresh network."""
        need(
            ask(probes.value, "mend") == reference["mend"],
            "mend: the signal of a fresh network is lost before the first step is taken; what does your word change then?",
        )


class VggThatStarts(Exercise):
    """A VGG that starts

    Write `vgg(architecture, image_size, norm=False)`. `architecture` has a pair (number of convolutions, channels) for
    each block, as `VGG11` in chapter 2. A block has its 3x3 convolutions with padding 1, each followed by a ReLU, and
    a 2x2 max pool at the end. Behind the blocks come three linear layers, with <<hidden>> outputs, <<hidden>> outputs
    and <<num_classes>> raw scores, and a ReLU between them. Images have three channels. There is no dropout, and all
    convolutions and linear layers have a bias. With `norm=True` a batch norm stands between each convolution and its
    ReLU.

    And the network must **start**: draw the weights of all convolutions and linear layers so that by the formula of
    section 4 the signal keeps its size on the way forward (counting the inputs of a layer), and set their biases to
    zero. Do it for both values of `norm`.
    """

    goal = "build a VGG from a tuple of numbers, and give it a start that keeps the signal"
    kind = "build"
    minutes, difficulty, importance = 20, 3, 5
    practice = {"hidden": 64, "num_classes": 10}
    hints = [
        "Write one loop over the blocks, with a loop over the convolutions in it, and append to a list of layers. Keep "
        "account of the channels as you go.",
        "Each block halves the side. So what is left of `image_size` behind them all, and how many numbers does that give?",
        "`nn.init` has a function for the start that has the factor of 2. Which layers of `network.modules()` does it concern?",
    ]

    def draw(chance):
        return {"hidden": chance.choice([48, 56, 72, 80, 96]), "num_classes": chance.choice([6, 8, 12, 15])}

    def stub():
        def vgg(architecture, image_size, norm=False):
            layers = []
            ...  # the blocks, the linear layers, the start

    def solution():
        def vgg(architecture, image_size, norm=False):
            layers, in_channels = [], 3
            for convs, out_channels in architecture:
                for _ in range(convs):
                    layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))
                    if norm:
                        layers.append(nn.BatchNorm2d(out_channels))
                    layers.append(nn.ReLU())
                    in_channels = out_channels
                layers.append(nn.MaxPool2d(2))
            side = image_size // 2 ** len(architecture)
            layers += [nn.Flatten(), nn.Linear(in_channels * side**2, hidden), nn.ReLU()]
            layers += [nn.Linear(hidden, hidden), nn.ReLU()]
            layers += [nn.Linear(hidden, num_classes)]
            network = nn.Sequential(*layers)
            for layer in network.modules():
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)
            return network

    def right_class():
        class Vgg(nn.Module):
            def __init__(self, architecture, image_size, norm):
                super().__init__()
                channels = [3] + [width for many, width in architecture for _ in range(many)]
                self.pooled = {sum(many for many, _ in architecture[: k + 1]) - 1 for k in range(len(architecture))}
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(a, b, (3, 3), padding="same") for a, b in zip(channels, channels[1:])
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(b) if norm else nn.Identity() for b in channels[1:])
                for _ in architecture:
                    image_size = image_size // 2
                self.first = nn.Linear(channels[-1] * image_size * image_size, hidden)
                self.second, self.third = nn.Linear(hidden, hidden), nn.Linear(hidden, num_classes)
                for layer in [*self.convolutions, self.first, self.second, self.third]:
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                    layer.bias.data.zero_()

            def forward(self, x):
                for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
                    x = F.relu(norm(convolution(x)))
                    if number in self.pooled:
                        x = F.max_pool2d(x, 2)
                x = F.relu(self.first(x.flatten(1)))
                return self.third(F.relu(self.second(x)))

        def vgg(architecture, image_size, norm=False):
            return Vgg(architecture, image_size, norm)

    def right_pool_before_relu():
        def vgg(architecture, image_size, norm=False):
            def start(layer):
                n = layer.weight[0].numel()
                with torch.no_grad():
                    layer.weight.copy_(torch.randn(layer.weight.shape) * (2 / n) ** 0.5)
                    layer.bias.fill_(0)
                return layer

            layers, before = nn.Sequential(), 3
            for convs, width in architecture:
                for number in range(convs):
                    layers.append(start(nn.Conv2d(before, width, 3, 1, 1)))
                    layers.append(nn.BatchNorm2d(width) if norm else nn.Identity())
                    # a maximum and a ReLU may change places
                    layers.append(nn.MaxPool2d(2) if number == convs - 1 else nn.Identity())
                    layers.append(nn.ReLU(inplace=True))
                    before = width
            with torch.no_grad():
                flat = layers.eval()(torch.zeros(1, 3, image_size, image_size)).numel()
            layers.append(nn.Flatten())
            for inputs in (flat, hidden):
                layers.extend([start(nn.Linear(inputs, hidden)), nn.ReLU()])
            layers.append(start(nn.Linear(hidden, num_classes)))
            return layers.train()

    wrong = [
        ("as-pytorch-draws", "nn.init.kaiming_normal_(layer.weight, nonlinearity=\"relu\")", "pass", "the signal fades"),
        ("xavier", "nn.init.kaiming_normal_(layer.weight, nonlinearity=\"relu\")", "nn.init.xavier_uniform_(layer.weight)",
         "the signal fades"),
        ("too-large", "nonlinearity=\"relu\")", "nonlinearity=\"relu\"); layer.weight.data *= 3", "grows"),
        ("by-outputs", "nonlinearity=\"relu\"", "nonlinearity=\"relu\", mode=\"fan_out\"", "its inputs"),
        ("biases-left", "nn.init.zeros_(layer.bias)", "pass", "biases"),
        ("relu-at-the-end", "nn.Linear(hidden, num_classes)]", "nn.Linear(hidden, num_classes), nn.ReLU()]", "raw scores"),
        ("softmax", "nn.Linear(hidden, num_classes)]", "nn.Linear(hidden, num_classes), nn.Softmax(1)]", "raw scores"),
        ("large-window", "out_channels, 3, padding=1", "out_channels, 5, padding=2", "3x3"),
        ("no-padding", "out_channels, 3, padding=1", "out_channels, 3", "your code raised"),
        ("norm-forgotten", "if norm:", "if False:", "as many norms as convolutions"),
        ("norm-always", "if norm:", "if True:", "no norm"),
        ("average-pool", "nn.MaxPool2d(2)", "nn.AvgPool2d(2)", "the layers are right"),
        ("one-convolution-a-block", "for _ in range(convs):", "for _ in range(1):", "convolutions in all"),
        ("no-relu", "nn.Linear(in_channels * side**2, hidden), nn.ReLU()]", "nn.Linear(in_channels * side**2, hidden)]",
         "the layers are right"),
    ]  # fmt: skip

    explanation = """
    A template and a tuple make any VGG; only the first linear layer has to know the image size. Each layer multiplies
    the variance of the signal by half of n times the variance of its weights. PyTorch's own start has 1 / (3n), so a
    sixth is left in each layer; Xavier's half is better and still fatal in eleven layers. Kaiming weights have 2 / n:
    the factor is 1.

    With batch norm the signal behind each convolution has size 1 whatever the weights are, but the three linear layers
    have no norm: so the start still matters there. A maximum and a ReLU may change places, since both keep order:
    that is why the pool may stand on either side.
    """
    marking = """
    The same function in float64 for random weights is worth two points, so names and structure do not matter; a
    start that is only nearly right (by outputs) loses one. Ask aloud: which layers would Xavier weights hurt with
    `norm=True`?
    """

    @check(points=1)
    def shapes(ask, values):
        """Shapes, at two image sizes, and raw scores."""
        import torch

        for architecture, size in [(((1, 8), (2, 16)), 16), (((1, 8), (2, 16)), 24), (((2, 8), (1, 12), (2, 16)), 24)]:
            for norm in (False, True):
                found = ask(probes.outline, "vgg", [2, 3, size, size], (architecture, size), {"norm": norm})
                need(
                    found["out"] == [2, values.num_classes],
                    f"vgg({architecture}, {size}, norm={norm}) should give {[2, values.num_classes]} for two images, "
                    f"not {found['out']}",
                )
                convs = [layer for layer in found["layers"] if layer["kind"] == "Conv2d"]
                norms = [layer for layer in found["layers"] if layer["kind"] == "BatchNorm2d"]
                right = sum(many for many, _ in architecture)
                need(
                    len(convs) == right,
                    f"vgg({architecture}, {size}) should have {right} convolutions in all, not {len(convs)}",
                )
                need(all(layer["kernel_size"] == [3, 3] for layer in convs), "every window of VGG is 3x3")
                if norm:
                    need(len(norms) == len(convs), "with norm=True there should be as many norms as convolutions")
                else:
                    need(not norms, "with norm=False there should be no norm")
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
        out = ask(probes.run, "vgg", images, (((1, 8), (2, 16)), 16), {"norm": False})["out"]
        need(
            bool((out < 0).any()),
            "no score is below zero: the loss expects raw scores, nothing comes behind the last layer",
        )

    @check(points=1)
    def starts(ask, values):
        """The signal of a fresh network keeps its size."""
        import torch

        images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
        found = ask(start_of, "vgg", (((3, 16), (3, 32), (3, 48)), 16), False, images)
        need(len(found["signals"]) > 11, "fewer than twelve layers with weights ran")
        for number, signal in enumerate(found["signals"], 1):
            told = f"its standard deviation is {signal:.2g} behind layer {number} with weights, for noise of size 1"
            need(signal > 0.08, f"in a fresh network without norm the signal fades: {told}")
            need(signal < 30, f"in a fresh network without norm the signal grows: {told}")

    @check(points=1, hidden=True)
    def weights(ask, values):
        """Weights by the formula, biases at zero."""
        import torch

        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
        for norm in (False, True):
            found = ask(start_of, "vgg", (((1, 16), (1, 32), (2, 64)), 16), norm, images)
            for layer in found["weights"]:
                ratio = layer["deviation"] / (2 / layer["inputs"]) ** 0.5
                need(
                    layer["count"] < 400 or 0.85 < ratio < 1.15,
                    f"norm={norm}: the weights of a {layer['kind']} with {layer['inputs']} inputs for each output are drawn "
                    f"{ratio:.2f} times as large as its inputs ask for",
                )
                need(layer["bias"] == 0, f"norm={norm}: the biases of a {layer['kind']} do not start at zero")

    @check(points=2, hidden=True)
    def same_function(ask, values, reference):
        """The same function as the network of the chapter, for random weights."""
        for architecture, size in [(((1, 6), (2, 10)), 12), (((2, 4), (1, 6), (1, 8)), 19)]:
            for norm in (False, True):
                need_same(
                    ask, "vgg", reference["vgg"], [3, 3, size, size], (architecture, size), {"norm": norm}, training=norm,
                    message=f"vgg({architecture}, {size}, norm={norm}): the layers are right, the result is not; "
                    "check the order of convolution, norm, ReLU and pool, and the kind of the pool",
                )  # fmt: skip

    @check(points=1, hidden=True)
    def learns(ask, values):
        """The loss falls on three fixed batches."""
        import torch

        generator = torch.Generator().manual_seed(2)
        labels = torch.arange(36) % values.num_classes
        patterns = torch.randn(values.num_classes, 3, 16, 16, generator=generator).double()
        images = patterns[labels] + 0.3 * torch.randn(36, 3, 16, 16, generator=generator).double()
        for norm in (False, True):
            losses = ask(losses_of, "vgg", (((1, 8), (2, 16)), 16), norm, images.split(12), labels.split(12))
            need(
                losses[-1] < 0.8 * losses[0],
                f"norm={norm}: the loss hardly falls on three fixed batches, from {losses[0]:.3f} to {losses[-1]:.3f}",
            )


def start_of(names, name, arguments, norm, images):
    """A fresh network: the size of the signal behind each layer with weights, and how its weights were drawn."""
    import torch
    from torch import nn

    network = probes.build(names, name, arguments, {"norm": norm}, seed=5)
    signals, weights = [], []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda module, inputs, output: signals.append(float(output.detach().std())))
            weights.append(
                {
                    "kind": type(layer).__name__,
                    "inputs": layer.weight[0].numel(),
                    "count": layer.weight.numel(),
                    "deviation": float(layer.weight.detach().std()),
                    "bias": 0.0 if layer.bias is None else float(layer.bias.detach().abs().max()),
                }
            )
    with torch.no_grad():
        network.train()(images)
    return {"signals": signals, "weights": weights}


def losses_of(names, name, arguments, norm, batches, labels):
    """The losses of a few epochs of three fixed batches, with plain SGD."""
    import torch
    from torch.nn import functional

    network = probes.build(names, name, arguments, {"norm": norm}, seed=6).train()
    losses = []
    for _ in range(8):
        total = 0.0
        for images, truth in zip(batches, labels):
            loss = functional.cross_entropy(network(images), truth)
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for part in network.parameters():
                    part -= 0.03 * part.grad
            total += loss.item() / len(batches)
        losses.append(total)
    return losses


class SmallAlexnet(Exercise):
    """AlexNet for <<size>> pixels

    Of an image of <<size>> pixels AlexNet leaves maps that are too small to be worth three linear layers, and its
    linear layers hold almost everything. Design an AlexNet for this size: write `small_alexnet()`, which returns a
    network from (N, 3, <<size>>, <<size>>) to (N, <<num_classes>>) raw scores, with these properties:

    1. **Its plan is AlexNet's**: five `nn.Conv2d`, three `nn.MaxPool2d` and three `nn.Linear`, and no norm. The first
       convolution has a window of at least 7x7 and a stride of at least 2.
    2. What goes into each of these convolutions and linear layers, but for the first, has passed a **ReLU**; and
       there is **dropout** somewhere between the last map and the scores.
    3. The last maps are at least **<<side>>x<<side>>**, and all of their numbers go into the first linear layer.
    4. **No pixel is lost by rounding.** The size formula may round away a row of the padding, but no row of a map that
       goes into a convolution or a pool.
    5. It has at most **<<f"{max_parameters:,}">>** parameters and **<<f"{max_macs:,}">>** multiply-accumulates (MACs)
       for one image. So that the budget is used, it has at least half that many parameters.

    Widths, kernels, strides and paddings are yours. There are many right answers.
    """

    goal = "design a network for a given image size and budget, map size by map size"
    kind = "design"
    minutes, difficulty, importance = 23, 4, 4
    practice = {"size": 96, "side": 5, "num_classes": 10, "max_parameters": 8_000_000, "max_macs": 300_000_000}
    hints = [
        "Begin with the sides: by what must <<size>> be divided on the way, so that <<side>> or a little more is left? How much "
        "of that does the first stride do, and how much do the three pools?",
        "A 3x3 pool with stride 2 drops a column of an even side. Which other pool, or which padding, does not?",
        "Where are the parameters, and where the MACs? Make the linear layers fit the one budget first, then the channels the other.",
    ]

    def draw(chance):
        size = chance.choice([80, 112, 128])
        return {
            "size": size,
            "num_classes": chance.choice([8, 12, 20]),
            "max_parameters": chance.choice([6_000_000, 7_000_000, 9_000_000]),
            "max_macs": size * size * chance.choice([28_000, 30_000, 33_000]),
        }

    def stub():
        def small_alexnet(): ...  # five convolutions, three pools, three linear layers

    def solution():
        def small_alexnet():
            features = nn.Sequential(
                nn.Conv2d(3, 48, 7, stride=2, padding=3), nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(48, 128, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(128, 192, 3, padding=1), nn.ReLU(),
                nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(),
                nn.Conv2d(192, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(),
            )  # fmt: skip
            flat = 128 * (size // 16) ** 2
            hidden = (3 * max_parameters // 4 - 1_200_000) // flat  # the budget decides
            return nn.Sequential(
                *features,
                nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(0.5),
                nn.Linear(hidden, 256), nn.ReLU(), nn.Dropout(0.5),
                nn.Linear(256, num_classes),
            )  # fmt: skip

    def right_stride_four():
        class SmallAlexnet(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolutions = nn.ModuleList(
                    [
                        nn.Conv2d(3, 64, 11, stride=4, padding=5),
                        nn.Conv2d(64, 128, 5, padding="same"),
                        nn.Conv2d(128, 160, 3, padding=1),
                        nn.Conv2d(160, 160, 3, padding=1),
                        nn.Conv2d(160, 96, 3, padding=1),
                    ]
                )
                self.pools = nn.ModuleList([nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True)])
                with torch.no_grad():
                    flat = self.features(torch.zeros(1, 3, size, size)).numel()
                self.first = nn.Linear(flat, int(0.8 * max_parameters - 900_000) // flat)
                self.second = nn.Linear(self.first.out_features, 128)
                self.third = nn.Linear(128, num_classes)

            def features(self, x):
                for number, convolution in enumerate(self.convolutions):
                    x = F.relu(convolution(x))
                    if number in (0, 1, 4):
                        x = self.pools[min(number, 2)](x)
                return x.flatten(1)

            def forward(self, x):
                x = F.dropout(self.features(x), 0.4, self.training)
                x = F.relu(self.first(x))
                return self.third(F.relu(self.second(x)))

        def small_alexnet():
            return SmallAlexnet()

    def right_overlapping():
        def small_alexnet():
            layers, before = [], 3
            for width, kernel, stride, pool in [(40, 9, 2, True), (96, 5, 1, True), (176, 3, 1, False), (176, 3, 1, False),
                                                (112, 3, 1, True)]:  # fmt: skip
                layers += [nn.Conv2d(before, width, kernel, stride, kernel // 2), nn.ReLU(inplace=True)]
                layers += [nn.MaxPool2d(3, stride=2, padding=1)] if pool else []
                before = width
            layers += [nn.Flatten(), nn.Dropout()]
            flat = before * (size // 16) ** 2
            hidden = (7 * max_parameters // 8 - 1_000_000) // flat
            for inputs, outputs in ((flat, hidden), (hidden, 64)):
                layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers, nn.Linear(64, num_classes))

    wrong = [
        ("alexnets-window", "nn.Conv2d(3, 48, 7, stride=2, padding=3)", "nn.Conv2d(3, 48, 3, stride=2, padding=1)", "7x7"),
        ("no-stride", "7, stride=2, padding=3), nn.ReLU(),\n        nn.MaxPool2d(2)", "7, stride=1, padding=3), nn.ReLU(),\n        nn.MaxPool2d(4)", "stride"),
        ("maps-too-small", "7, stride=2, padding=3", "7, stride=4, padding=3", "your code raised"),
        ("rounded-away", "nn.Conv2d(3, 48, 7, stride=2, padding=3), nn.ReLU(),\n        nn.MaxPool2d(2)",
         "nn.Conv2d(3, 48, 7, stride=2, padding=3), nn.ReLU(),\n        nn.MaxPool2d(3, 2), nn.ZeroPad2d((0, 1, 0, 1))", "by rounding"),
        ("average-at-the-end", "nn.Flatten(),\n    )  # fmt: skip\n    flat = 128 * (size // 16) ** 2",
         "nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n    )  # fmt: skip\n    flat = 128", "all numbers of the last maps"),
        ("wide-linear-layers", "hidden = (3 * max_parameters // 4 - 1_200_000) // flat", "hidden = 4096", "too many parameters"),
        ("wide-channels", "nn.Conv2d(48, 128, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),",
         "nn.Conv2d(48, 384, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), ".replace(", nn.MaxPool2d(2), ", ", nn.MaxPool2d(2),")
         + " nn.Conv2d(384, 128, 1), nn.ReLU(),", "five convolutions"),
        ("too-much-computation", "nn.Conv2d(48, 128, 5, padding=2)", "nn.Conv2d(48, 128, 11, padding=5)", "too many MACs"),
        ("hardly-anything", "hidden = (3 * max_parameters // 4 - 1_200_000) // flat", "hidden = 16", "half"),
        ("no-dropout", "nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(0.5),\n        nn.Linear(hidden, 256), nn.ReLU(), nn.Dropout(0.5),",
         "nn.Linear(flat, hidden), nn.ReLU(),\n        nn.Linear(hidden, 256), nn.ReLU(),", "dropout"),
        ("relu-forgotten", "nn.Conv2d(192, 192, 3, padding=1), nn.ReLU()", "nn.Conv2d(192, 192, 3, padding=1)", "ReLU"),
        ("softmax", "nn.Linear(256, num_classes),", "nn.Linear(256, num_classes), nn.Softmax(1),", "raw scores"),
        ("norm", "padding=3), nn.ReLU()", "padding=3), nn.BatchNorm2d(48), nn.ReLU()", "no norm"),
    ]  # fmt: skip

    explanation = """
    Work from the sides. AlexNet divides by 4 and then three times by 2, and its windows take a little more: of
    <<size>> pixels it leaves a side of <<1 if size < 100 else 2>>. A first stride of 2 divides by 16 in all, which
    leaves <<size // 16>>. Sides that are even at each pool lose nothing with 2x2 pools; 3x3 pools with stride 2 need
    a padding of 1, or `ceil_mode`.

    The price is in two places. Twice the side is four times the MACs of every convolution, so the channels have to
    shrink. And the first linear layer has a weight for each place, so its number grows with the square of the last
    side: it decides the parameters, and `hidden` is the number to turn. This is the bargain that NiN calls off.
    """
    marking = """
    Each property is a check of its own, so a network over its budget can still earn most points. Ask aloud: which of
    your numbers would you change first for images of twice the size?
    """

    @check(points=1)
    def plan(ask, values):
        """AlexNet's plan, and raw scores."""
        found = ask(probes.outline, "small_alexnet", [2, 3, values.size, values.size])
        need(
            found["out"] == [2, values.num_classes],
            f"the output for two images should be {[2, values.num_classes]}, not {found['out']}",
        )
        kinds = [layer["kind"] for layer in found["layers"]]
        for kind, many, word in [("Conv2d", 5, "five convolutions"), ("MaxPool2d", 3, "three max pools"),
                                 ("Linear", 3, "three linear layers")]:  # fmt: skip
            need(kinds.count(kind) == many, f"AlexNet has {word} (nn.{kind}); {kinds.count(kind)} ran")
        need(not any("Norm" in kind for kind in kinds), "there should be no norm")
        first = next(layer for layer in found["layers"] if layer["kind"] == "Conv2d")
        need(min(first["kernel_size"]) >= 7, "the window of the first convolution is smaller than 7x7")
        need(min(first["stride"]) >= 2, "the first convolution should have a stride of at least 2")

    @check(points=1)
    def maps(ask, values):
        """The sides of the maps."""
        layers = ask(probes.outline, "small_alexnet", [1, 3, values.size, values.size])["layers"]
        working = [layer for layer in layers if layer["kind"] in ("Conv2d", "MaxPool2d")]
        for layer in working:
            lost = lost_rows(layer)
            need(lost <= 0, f"a {layer['kind']} that gets {layer['in'][0]} loses {lost} of its rows by rounding")
        last = working[-1]["out"]
        need(min(last[2:]) >= values.side, f"the last maps are {last[2]}x{last[3]}: they are too small")
        inputs = next((layer["in_features"] for layer in layers if layer["kind"] == "Linear"), 0)
        need(
            inputs == last[1] * last[2] * last[3],
            "the first linear layer should get all numbers of the last maps, with no other pool between",
        )

    @check(points=2)
    def budgets(ask, values):
        """Parameters and MACs."""
        found = ask(probes.outline, "small_alexnet", [1, 3, values.size, values.size])
        parameters, macs = found["parameters"], probes.macs_of(found["layers"])
        need(
            parameters <= values.max_parameters,
            f"it has {parameters:,} parameters: too many parameters; where are most of them?",
        )
        need(
            2 * parameters >= values.max_parameters,
            f"it has {parameters:,} parameters, which is less than half of the budget: give it more",
        )
        need(macs <= values.max_macs, f"it needs {macs:,} MACs: too many MACs; which layer has most of them, and why?")
        counted = sum(layer["parameters"] for layer in found["layers"] if layer["kind"] in ("Conv2d", "Linear"))
        need(counted == parameters, "some parameters are in none of the convolutions and linear layers that ran")

    @check(points=1, hidden=True)
    def inside(ask, values):
        """ReLU before each layer, dropout in training, raw scores."""
        import torch

        images = torch.randn(1, 3, values.size, values.size, generator=torch.Generator().manual_seed(0)).double()
        found = ask(inside_of, "small_alexnet", images)
        need(found["below"] == 0, "what goes into a layer is below zero: has it passed a ReLU?")
        need(found["scores_below"], "no score is below zero: the loss expects raw scores")
        need(found["steady"], "two runs in evaluation mode differ")
        need(found["varies"], "two runs in training mode do not differ: where is the dropout?")


def lost_rows(layer):
    """How many rows of a map no window of a layer sees, because the size formula rounds down."""
    side = max(layer["in"][0][2:])
    numbers = [
        layer[key] if isinstance(layer[key], (list, tuple)) else [layer[key]]
        for key in ("kernel_size", "stride", "padding")
    ]
    kernel, stride, padding = (max(number) for number in numbers)
    return side + padding - ((max(layer["out"][2:]) - 1) * stride + kernel)


def inside_of(names, name, images):
    """Whether anything below zero goes into a layer but the first, and what two runs differ by in either mode."""
    import torch
    from torch import nn

    network = probes.build(names, name)
    lowest = []
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda module, inputs, output: lowest.append(float(inputs[0].min())))
    with torch.no_grad():
        out = network.eval()(images)
        below = sum(number < 0 for number in lowest[1:])
        steady = torch.equal(out, network(images))
        torch.manual_seed(0)
        varies = not torch.allclose(network.train()(images), network(images))
    return {"below": below, "scores_below": bool((out < 0).any()), "steady": steady, "varies": varies}
