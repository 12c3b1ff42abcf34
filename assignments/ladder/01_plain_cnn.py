"""Images and a plain CNN

You work out on paper what a small network costs, write the two loops around it, build batch norm with your own
hands, and find a fault that somebody has left in a small experiment. Do the chapter first, and keep its size formula
beside you.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


def whole_numbers(found, name, count):
    """A list of so many whole numbers above zero, or what is wrong with it."""
    found = found.tolist() if hasattr(found, "tolist") else found
    told = f"{name} should be a list of {count} whole numbers above zero, not {found!r}"
    need(isinstance(found, list) and len(found) == count, told)
    numbers = []
    for part in found:
        part = part.tolist() if hasattr(part, "tolist") else part
        need(isinstance(part, (int, float)) and part == int(part) and part > 0, told)
        numbers.append(int(part))
    return numbers


def number(found, name):
    """One number, or what is wrong with it."""
    try:
        return float(found)
    except (TypeError, ValueError):
        need(False, f"{name} should be one number, not {found!r}")


def rows_of_costs(found, count):
    """What `costs` returned, as `count` rows of three whole numbers."""
    found = found.tolist() if hasattr(found, "tolist") else found
    need(
        isinstance(found, list) and len(found) == count,
        f"costs should return one triple for each convolution, {count} here, not {found!r}",
    )
    return [whole_numbers(row, "each triple of costs", 3) for row in found]


class SizesByHand(Exercise):
    """Work out sizes, parameters and MACs

    An image of 3 channels and <<size>>x<<size>> pixels goes through three convolutions, **each with a bias** and each
    followed by a ReLU:

    | convolution | channels out | kernel | padding | stride |
    |---|---|---|---|---|
    | first | <<layers[0][0]>> | <<layers[0][1]>>x<<layers[0][1]>> | <<layers[0][2]>> | <<layers[0][3]>> |
    | second | <<layers[1][0]>> | <<layers[1][1]>>x<<layers[1][1]>> | <<layers[1][2]>> | <<layers[1][3]>> |
    | third | <<layers[2][0]>> | <<layers[2][1]>>x<<layers[2][1]>> | <<layers[2][2]>> | <<layers[2][3]>> |

    Then come global average pooling and a linear layer with bias to <<classes>> scores. First by hand, on paper:

    - `sizes`: the height (which is the width, too) of the three maps, a list of three;
    - `parameters`: those of the three convolutions and of the linear layer, a list of four;
    - `macs`: the multiply-accumulates of the same four layers for one image, a list of four. Adding a bias is no MAC.

    Formulas of Python, such as `3 * 8 * 9`, are welcome as entries. Then let code do it: write
    `costs(image_size, in_channels, layers)`. It returns a list with one triple `(size, parameters, macs)` for each
    convolution of `layers`. That is a list of `(out_channels, kernel_size, padding, stride)`, like the one in your copy;
    all have a bias. Compare what it says with your own numbers before you change either.
    """

    goal = "work out by hand what size each layer's output has, and what the layer costs"
    kind = "compute"
    minutes, difficulty, importance = 15, 2, 5
    practice = {"size": 100, "classes": 10, "layers": [[16, 5, 2, 2], [32, 3, 1, 2], [64, 3, 0, 2]]}
    hints = [
        "The formula of the chapter, floor((n + 2p - k) / s) + 1, for each row of the table with its own n, p, k and s. "
        "Only where everything fits is a size simply halved.",
        "A convolution has one window of weights for each pair of an input and an output channel, and one bias for each "
        "output channel. How often is each weight used?",
        "In `costs`, size and channels of one layer's output are what the next layer gets: change both at the end of the "
        "loop. `//` rounds down.",
    ]

    def draw(chance):
        width, kernel = chance.choice([8, 12, 20, 24]), chance.choice([5, 7])
        return {
            "size": chance.choice([66, 74, 84, 90, 106, 118]),
            "classes": chance.choice([5, 8, 12]),
            "layers": [[width, kernel, kernel // 2, 2], [2 * width, 3, 1, 2], [4 * width, 3, 0, 2]],
        }

    def stub():
        sizes = ...
        parameters = ...
        macs = ...

        def costs(image_size, in_channels, layers):
            found = []
            for out_channels, kernel_size, padding, stride in layers:
                ...  # append (size, parameters, macs), then go on from this layer's output
            return found

    def solution():
        def costs(image_size, in_channels, layers):
            found = []
            for out_channels, kernel_size, padding, stride in layers:
                image_size = (image_size + 2 * padding - kernel_size) // stride + 1
                weights = out_channels * in_channels * kernel_size**2
                found.append((image_size, weights + out_channels, weights * image_size**2))
                in_channels = out_channels
            return found

        convolutions = costs(size, 3, layers)
        sizes = [row[0] for row in convolutions]
        parameters = [row[1] for row in convolutions] + [classes * layers[-1][0] + classes]
        macs = [row[2] for row in convolutions] + [classes * layers[-1][0]]

    def right_on_paper():
        first = size // 2
        second = (first + 1) // 2
        third = (second - 3) // 2 + 1
        (a, k, *_), (b, *_), (c, *_) = layers
        sizes = (first, second, third)
        parameters = [3 * a * k * k + a, a * b * 9 + b, b * c * 9 + c, (c + 1) * classes]
        macs = [3 * a * k * k * first**2, a * b * 9 * second**2, b * c * 9 * third**2, c * classes]

        def costs(image_size, in_channels, layers):
            result = []
            widths = [in_channels] + [row[0] for row in layers]
            for i, (out, k, p, s) in enumerate(layers):
                image_size = int((image_size + 2 * p - k) / s + 1)
                result.append([image_size, out * (widths[i] * k * k + 1), image_size**2 * out * widths[i] * k * k])
            return result

    def right_by_running():
        def costs(image_size, in_channels, layers):
            x, rows = torch.zeros(1, in_channels, image_size, image_size), []
            for out_channels, kernel_size, padding, stride in layers:
                layer = nn.Conv2d(x.shape[1], out_channels, kernel_size, stride, padding)
                x = layer(x)
                parameters = sum(p.numel() for p in layer.parameters())
                rows.append((x.shape[-1], parameters, layer.weight.numel() * x[0, 0].numel()))
            return torch.tensor(rows)

        table = costs(size, 3, layers)
        channels = layers[2][0]
        sizes = table[:, 0]
        parameters = [*table[:, 1], float(channels * classes + classes)]
        macs = [*table[:, 2], channels * classes]

    wrong = [
        ("no-padding", "sizes = [row[0] for row in convolutions]",
         "sizes = [row[0] for row in costs(size, 3, [[d, k, 0, s] for d, k, _, s in layers])]", "without any padding"),
        ("padding-everywhere", "sizes = [row[0] for row in convolutions]",
         "sizes = [row[0] for row in costs(size, 3, [[d, k, k // 2, s] for d, k, _, s in layers])]", "padding everywhere"),
        ("no-plus-one", "sizes = [row[0] for row in convolutions]",
         "sizes = [row[0] - 1 for row in convolutions]", "the window's first place"),
        ("rounded-up", "sizes = [row[0] for row in convolutions]",
         "sizes = []\nfor _, k, p, s in layers:\n    sizes.append(-((k - 2 * p - (sizes or [size])[-1]) // s) + 1)",
         "rounded up"),
        ("bias-forgotten", "parameters = [row[1] for row in convolutions]",
         "parameters = [row[1] - layer[0] for row, layer in zip(convolutions, layers)]", "are the biases counted"),
        ("flattened", "[classes * layers[-1][0] + classes]", "[classes * layers[-1][0] * sizes[-1] ** 2 + classes]",
         "what is left of a map after global average pooling"),
        ("macs-at-the-input", "macs = [row[2] for row in convolutions]",
         "macs = [row[2] // row[0] ** 2 * n**2 for row, n in zip(convolutions, [size, *sizes])]",
         "pixels of the input"),
        ("macs-are-weights", "macs = [row[2] for row in convolutions]",
         "macs = [row[1] for row in convolutions]", "how often is each weight used"),
        ("macs-with-bias", "[classes * layers[-1][0]]", "[classes * layers[-1][0] + classes]", "no MAC"),
        ("channels-not-handed-on", "        in_channels = out_channels\n", "", "chapter"),
        ("kernel-of-the-chapter", "macs = [row[2] for row in convolutions] + [classes * layers[-1][0]]",
         "macs = [row[2] for row in convolutions] + [classes * layers[-1][0]]\nright = costs\n\n\n"
         "def costs(n, c, rows):\n    return right(n, c, [(d, 3, 1, 2) for d, *_ in rows])", "is the kernel's size"),
        ("last-one-only", "macs = [row[2] for row in convolutions] + [classes * layers[-1][0]]",
         "macs = [row[2] for row in convolutions] + [classes * layers[-1][0]]\nright = costs\n\n\n"
         "def costs(n, c, rows):\n    return right(n, c, rows)[-1]", "one triple for each"),
        ("words", "sizes = [row[0] for row in convolutions]", "sizes = 'halved'", "a list of 3 whole numbers"),
    ]  # fmt: skip

    explanation = """
    The three maps have <<(size + 2 * layers[0][2] - layers[0][1]) // 2 + 1>>,
    <<((size + 2 * layers[0][2] - layers[0][1]) // 2) // 2 + 1>> and
    <<(((size + 2 * layers[0][2] - layers[0][1]) // 2) // 2 - 2) // 2 + 1>> pixels a side. With a padding of half the
    kernel, stride 2 halves an even size and rounds an odd one **up**; without padding the window finds fewer places. It
    is the padding in the code that counts, not the habit: in the third row it is 0.

    A layer's parameters do not know how large the image is; its MACs do, since each weight is used once at each pixel of
    the **output**. The linear layer gets one number from each of the <<layers[2][0]>> maps, whatever their size: that
    is what the global average pool is for.

    The code is the same four lines as the hand. Its use is that two ways to the same number seldom share a slip.
    """
    marking = """
    A point for the sizes, one for parameters and MACs together, one for the code with other layers; two for form. Who
    took the numbers from `costs` and not from paper gets them, but ask aloud: which of the sizes would change if the
    third padding were 1, and which MACs?
    """

    @check(points=1)
    def written(ask, values):
        """Three sizes, four numbers of parameters, four of MACs."""
        sizes = whole_numbers(ask(probes.value, "sizes"), "sizes", 3)
        parameters = whole_numbers(ask(probes.value, "parameters"), "parameters", 4)
        macs = whole_numbers(ask(probes.value, "macs"), "macs", 4)
        need(sizes == sorted(sizes, reverse=True) and sizes[0] < values.size, "with stride 2, each map is smaller")
        for index, name in enumerate(("first convolution", "second convolution", "third convolution")):
            need(
                macs[index] > parameters[index],
                f"macs of the {name}: no more than its parameters, although its window visits many pixels; how often is "
                "each weight used?",
            )
        need(macs[3] < parameters[3], "macs of the linear layer: each weight is used once, and adding a bias is no MAC")

    @check(points=1)
    def chapter(ask, values):
        """The code, tried on the network of the chapter."""
        widths = (16, 32, 64, 128, 256)
        rows = rows_of_costs(ask(probes.call, "costs", 128, 3, [[width, 3, 1, 2] for width in widths]), 5)
        need(
            all(row[0] == 128 // 2**i for i, row in enumerate(rows, 1)), "costs: the chapter's network halves each size"
        )
        found, right = sum(row[1] for row in rows), 392_608
        need(found == right, f"costs: the chapter's convolutions have {right:,} parameters together, not {found:,}")
        need(
            len({row[2] for row in rows[1:]}) == 1,
            "costs: in the chapter's network, MACs are the same from the second convolution on",
        )

    @check(points=1, hidden=True)
    def right_sizes(ask, values, reference):
        """The three sizes."""
        found = whole_numbers(ask(probes.value, "sizes"), "sizes", 3)
        other = {"zero": [values.size], "half": [values.size], "up": [values.size]}
        for _, kernel, padding, stride in values.layers:
            other["zero"].append((other["zero"][-1] - kernel) // stride + 1)
            other["half"].append((other["half"][-1] + 2 * (kernel // 2) - kernel) // stride + 1)
            other["up"].append(-((kernel - 2 * padding - other["up"][-1]) // stride) + 1)
        right = [int(part) for part in reference["sizes"]]
        need(
            found != other["zero"][1:], "sizes: these are those without any padding; which rows of the table have some?"
        )
        need(
            found != other["half"][1:], "sizes: these are those with padding everywhere; look at each row of the table"
        )
        need(found != other["up"][1:], "sizes: you rounded up; a window that does not fit has no place")
        less = any(part == own - 1 for part, own in zip(found[:1], right))
        need(not less, "sizes: one place too few in the first map: the window's first place counts before any step")
        need(found == right, f"sizes = {found} are not right: take the formula row by row, each with its own padding")

    @check(points=1, hidden=True)
    def right_costs(ask, values, reference):
        """Parameters and MACs of the four layers."""
        outs = [row[0] for row in values.layers] + [values.classes]
        sizes = [values.size, *map(int, reference["sizes"])]
        found = whole_numbers(ask(probes.value, "parameters"), "parameters", 4)
        for index, (part, right) in enumerate(zip(found, map(int, reference["parameters"]))):
            told = "a window of weights for each pair of channels, and a bias for each channel out"
            if part == right - outs[index]:
                told = "are the biases counted?"
            elif index == 3:
                told = "what is left of a map after global average pooling?"
            need(part == right, f"parameters[{index}] is not right: {told}")
        found = whole_numbers(ask(probes.value, "macs"), "macs", 4)
        for index, (part, right) in enumerate(zip(found, map(int, reference["macs"]))):
            told = "which kernel, from how many channels to how many, at how many pixels?"
            if index < 3 and part * sizes[index + 1] ** 2 == right * sizes[index] ** 2:
                told = "these are uses at the pixels of the input: where does the window stop, and what does it make there?"
            need(part == right, f"macs[{index}] is not right: {told}")

    @check(points=1, hidden=True)
    def other_layers(ask, values, reference):
        """The code, with other layers."""
        for size, channels, layers in [
            (57, 1, [[6, 5, 0, 1], [9, 1, 0, 3]]),
            (32, 4, [[5, 7, 3, 4], [7, 3, 1, 1], [3, 2, 0, 2]]),
        ]:
            found = rows_of_costs(ask(probes.call, "costs", size, channels, layers), len(layers))
            right = [[int(part) for part in row] for row in reference["costs"](size, channels, layers)]
            for name, column in (("sizes", 0), ("parameters", 1), ("MACs", 2)):
                need(
                    [row[column] for row in found] == [row[column] for row in right],
                    f"costs: with other layers its {name} are not right; is the kernel's size, the padding or the stride "
                    "of the chapter written into it?",
                )


class WriteTheLoops(Exercise):
    """Write the two loops

    Write the two functions that all the rest of the course leans on. `batches` hands out pairs `(x, y)` of images and
    labels. You can go through it **once**, and it has no length; its last batch may be smaller than the others.

    - `train_epoch(model, batches, optimizer)` takes one step of the optimizer for each batch, in training mode, with
      the cross-entropy as loss, and returns the mean of the loss **over images**, each as it was before its step. Each
      step follows the gradient of its own batch alone.
    - `evaluate(model, batches)` returns the dictionary `{"loss": ..., "accuracy": ...}`: the mean cross-entropy over
      images, and the share of images that are named rightly, between 0 and 1. It sees the model in evaluation mode, and
      computes no gradients.
    """

    goal = "write the training loop, with metrics that are right"
    kind = "build"
    minutes, difficulty, importance = 20, 2, 5
    practice = {"classes": 10}
    hints = [
        "Compute the logits, compare them with the truth, forget old gradients, compute the new ones, take a step: five "
        "lines for each batch.",
        "`F.cross_entropy` gives the mean over its batch. Which number turns it back into a sum, and what do you divide "
        "by at the end?",
        "`model.train()` and `model.eval()` set the mode. `torch.no_grad()` is a context for `with`.",
    ]

    def draw(chance):
        return {"classes": chance.choice([4, 5, 6, 7, 8, 9])}

    def stub():
        def train_epoch(model, batches, optimizer): ...

        def evaluate(model, batches): ...

    def solution():
        def train_epoch(model, batches, optimizer):
            model.train()
            loss_sum, images = 0.0, 0
            for x, y in batches:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss_sum += loss.item() * len(y)
                images += len(y)
            return loss_sum / images

        def evaluate(model, batches):
            model.eval()
            total, right, count = 0.0, 0, 0
            with torch.no_grad():
                for x, y in batches:
                    logits = model(x)
                    total += F.cross_entropy(logits, y, reduction="sum").item()
                    right += (logits.argmax(1) == y).sum().item()
                    count += len(y)
            return {"loss": total / count, "accuracy": right / count}

    def right_collected():
        def train_epoch(model, batches, optimizer):
            losses = []
            model.train()
            for x, y in batches:
                each = nn.CrossEntropyLoss(reduction="none")(model(x), y)
                each.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(each.detach())
            return torch.cat(losses).mean()

        @torch.no_grad()
        def evaluate(model, batches):
            model.train(False)
            logits, labels = zip(*[(model(x), y) for x, y in batches])
            logits, labels = torch.cat(logits), torch.cat(labels)
            said = logits.max(dim=1).indices
            return {"loss": F.cross_entropy(logits, labels), "accuracy": (said == labels).double().mean()}

    def right_by_logarithm():
        import numpy as np

        def train_epoch(model, batches, optimizer):
            model.train()
            sums, sizes = [], []
            for x, y in batches:
                for parameter in model.parameters():
                    parameter.grad = None
                loss = -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()
                loss.backward()
                optimizer.step()
                sums.append(loss.item())
                sizes.append(len(y))
            return np.average(sums, weights=sizes)

        def evaluate(model, batches):
            model.eval()
            losses, hits = [], []
            with torch.inference_mode():
                for x, y in batches:
                    logarithms = F.log_softmax(model(x), dim=1)
                    losses += F.nll_loss(logarithms, y, reduction="none").tolist()
                    hits += (logarithms.argmax(dim=1) == y).tolist()
            return dict(accuracy=np.mean(hits), loss=np.mean(losses))

    wrong = [
        ("batch-means", "",
         "def train_epoch(model, batches, optimizer):\n    return 1.0\n\n\ndef evaluate(model, batches):\n"
         "    model.eval()\n    losses, shares = [], []\n    with torch.no_grad():\n        for x, y in batches:\n"
         "            logits = model(x)\n            losses.append(F.cross_entropy(logits, y).item())\n"
         "            shares.append((logits.argmax(1) == y).double().mean().item())\n"
         "    return {'loss': sum(losses) / len(losses), 'accuracy': sum(shares) / len(shares)}",
         "cut into other batches"),
        ("means-added-up", 'reduction="sum"', 'reduction="mean"', "cut into other batches"),
        ("no-evaluation-mode", "    model.eval()\n", "", "evaluation mode"),
        ("gradients-kept", "with torch.no_grad():", "if True:", "computes gradients"),
        ("softmax-first", "logits = model(x)", "logits = model(x).softmax(1)", "raw scores"),
        ("per-cent", "right / count", "100 * right / count", "between 0 and 1"),
        ("length-of-a-generator", '"accuracy": right / count', '"accuracy": right / len(batches)', "your code raised"),
        ("two-numbers", '{"loss": total / count, "accuracy": right / count}', "total / count, right / count",
         "a dictionary"),
        ("no-training-mode", "    model.train()\n", "", "training mode"),
        ("gradients-pile-up", "        optimizer.zero_grad()\n", "", "its own batch alone"),
        ("no-step", "        optimizer.step()\n", "", "has not moved"),
        ("gradient-forgotten", "loss.backward()\n        optimizer.step()",
         "loss.backward()\n        optimizer.zero_grad(set_to_none=False)\n        optimizer.step()", "has not moved"),
        ("train-loss-of-batches", "loss_sum += loss.item() * len(y)\n        images += len(y)",
         "loss_sum += loss.item()\n        images += 1", "mean over images"),
        ("summed-loss", "loss = F.cross_entropy(model(x), y)", 'loss = F.cross_entropy(model(x), y, reduction="sum")',
         "the size of a step"),
        ("softmax-in-training", "F.cross_entropy(model(x), y)", "F.cross_entropy(model(x).softmax(1), y)",
         "the mean over images"),
    ]  # fmt: skip

    explanation = """
    `F.cross_entropy` returns the mean over its batch. Times the number of images it is a sum again, and sums may be added:
    divided by all images at the end, every image has counted once. A mean of batch means gives an image of a last batch
    of two fifty times the weight of one in a batch of a hundred.

    Evaluation mode makes the norms use the statistics that they collected. Without it, what the network says about an
    image depends on its neighbours in the batch, **and** each validation moves the statistics: the validation images
    leak into the model. `no_grad` changes no number: it saves the memory and the time of a graph that nobody goes
    back through. So the two are not the same, and neither replaces the other.

    Gradients add up in `.grad` until somebody clears them. It does not matter whether that is done before `backward` or after
    the step, as long as it is once for each batch.
    """
    marking = """
    A visible point for the promises of each function. The hidden ones compare returned numbers and the trained weights
    with the reference in float64, so every way to write it counts. Ask aloud: which of the five lines could be swapped
    without harm, and which not?
    """

    @check(points=1)
    def evaluation(ask, values):
        """Evaluation: mode, no gradients, every image counts once."""
        images, labels = images_for(10, values.classes, 1)
        found = {}
        for sizes in ([10], [4, 4, 2], [9, 1]):
            given = list(zip(images.split(sizes), labels.split(sizes)))
            told = ask(evaluated, given, values.classes)
            scores = loss_and_accuracy(told["result"])
            need(
                told["ran"] and not told["training"],
                "evaluate: the model is not in evaluation mode while it sees images",
            )
            need(not told["gradients"], "evaluate computes gradients that nobody needs")
            need(0 <= scores[1] <= 1, "accuracy should be a share between 0 and 1")
            found[len(sizes), sizes[0]] = scores
        base = found.pop((1, 10))
        for other in found.values():
            need(
                max(abs(a - b) for a, b in zip(base, other)) < 1e-5,
                "evaluate: the same ten images, cut into other batches, give other numbers: does each image count once?",
            )
        certain = loss_and_accuracy(ask(evaluated, [(images, labels)], values.classes, 1000)["result"])
        need(
            certain[0] > 20,
            "evaluate: for a network that is certain and often wrong the loss must be large, and is not: "
            "cross_entropy expects raw scores",
        )

    @check(points=1)
    def training(ask, values):
        """Training: mode, a step for each batch, each by its own gradient."""
        images, labels = images_for(11, values.classes, 2)
        sizes = [4, 4, 3]
        told = ask(trained, list(zip(images.split(sizes), labels.split(sizes))), values.classes)
        number(told["loss"], "what train_epoch returns")
        need(all(told["training"]), "train_epoch: the model is not in training mode while it sees images")
        need(len(told["training"]) == 3, "train_epoch: the model should see each batch once")
        need(
            not told["unmoved"],
            "train_epoch: the network has not moved: does each batch end with a step along a gradient?",
        )
        need(
            told["apart"] < 1e-5,
            "train_epoch: three batches in one epoch lead elsewhere than the same three one by one: does each step follow "
            "the gradient of its own batch alone?",
        )

    @check(points=2, hidden=True)
    def same_numbers(ask, values, reference):
        """Loss and accuracy are those of the reference."""
        for count, sizes in [(23, [8, 8, 7]), (9, [8, 1])]:
            images, labels = images_for(count, values.classes, count)
            given = list(zip(images.split(sizes), labels.split(sizes)))
            found = loss_and_accuracy(ask(evaluated, given, values.classes)["result"])
            right = loss_and_accuracy(evaluated(reference, given, values.classes)["result"])
            for key, part, own in zip(("loss", "accuracy"), found, right):
                need(abs(part - own) < 1e-5, f"evaluate: the {key} is not the mean over images")

    @check(points=1, hidden=True)
    def same_training(ask, values, reference):
        """The loss and the trained network are those of the reference."""
        images, labels = images_for(13, values.classes, 3)
        given = list(zip(images.split([6, 6, 1]), labels.split([6, 6, 1])))
        found, right = ask(trained, given, values.classes), trained(reference, given, values.classes)
        off = max(
            float((found["state"][key].double() - part.double()).abs().max()) for key, part in right["state"].items()
        )
        agrees = abs(number(found["loss"], "loss") - right["loss"]) < 1e-5
        need(agrees or off < 1e-5, "train_epoch: the loss is not the mean over images, and the size of a step is another: "
             "which loss is it that you go back from?")  # fmt: skip
        need(agrees, "train_epoch: the loss that it returns is not the mean over images, taken before each step")
        need(
            off < 1e-5, "train_epoch: the trained network is another one: the size of a step, or its direction, is off"
        )


def images_for(count, classes, seed):
    """Some images of 5x5 pixels in float64, and labels, of which `small_network` finds every second one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = small_network(classes).eval()(images).argmax(1)
    wrong = torch.randint(1, classes, (count,), generator=generator)
    return images, torch.where(torch.arange(count) % 2 == 0, labels, (labels + wrong) % classes)


def loss_and_accuracy(found):
    """The two numbers of `evaluate`, or what is wrong with them."""
    right = isinstance(found, dict) and {*found} == {"loss", "accuracy"}
    need(right, 'evaluate should return a dictionary with "loss" and "accuracy"')
    return [number(found[key], f'evaluate: the "{key}"') for key in ("loss", "accuracy")]


def small_network(classes, scale=1):
    """A convolution, a norm, a linear layer, with the same random weights and statistics each time."""
    import torch
    from torch import nn

    layers = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)).double()
    probes.shuffle(network, 5)
    with torch.no_grad():
        network[-1].weight.mul_(scale)
    return network


def evaluated(names, batches, classes, scale=1):
    """What `evaluate` returns, and how the network was while it ran."""
    network = small_network(classes, scale).train()
    notes = []
    network[1].register_forward_hook(lambda part, x, out: notes.append((part.training, out.requires_grad)))
    result = probes.made("evaluate", probes.find(names, "evaluate")(network, (tuple(batch) for batch in batches)))
    return {
        "result": probes.plain(result, "what evaluate returns"),
        "ran": bool(notes),
        "training": any(note[0] for note in notes),
        "gradients": any(note[1] for note in notes),
    }


def trained(names, batches, classes):
    """What `train_epoch` returns, and the network after it; once with all batches, once with one after the other."""
    import torch

    train_epoch, notes, states = probes.find(names, "train_epoch"), [], []
    before = {key: part.clone() for key, part in small_network(classes).state_dict().items()}
    for epochs in ([batches], [[batch] for batch in batches]):
        network = small_network(classes).eval()
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        if not states:
            network[1].register_forward_hook(lambda part, x, out: notes.append(part.training))
        for epoch in epochs:
            result = probes.made("train_epoch", train_epoch(network, (tuple(batch) for batch in epoch), optimizer))
            network.zero_grad()
            if not states and len(epochs) == 1:
                loss = probes.plain(result, "what train_epoch returns")
        states.append({key: part.detach().clone() for key, part in network.state_dict().items()})
    learnt = [key for key, _ in network.named_parameters()]
    return {
        "loss": loss,
        "training": notes,
        "state": states[0],
        "unmoved": [key for key in learnt if torch.equal(before[key], states[0][key])],
        "apart": max(float((states[0][key] - states[1][key]).abs().max()) for key in learnt),
    }


class BatchNormByHand(Exercise):
    """Build batch norm with your own hands

    Complete `forward` of `Norm`, so that it does what `nn.BatchNorm2d` does, without calling it or `F.batch_norm`. `x`
    is (N, C, H, W), and each channel has its own mean, variance, scale and shift.

    - In **training** mode it normalises with mean and variance of the batch that it sees. This variance is divided by
      the number of values. And it moves the running statistics a little towards those of the batch: new = (1 -
      `momentum`) * old + `momentum` * batch. PyTorch takes the variance for *this* purpose divided by the number of
      values minus one.
    - In **evaluation** mode it normalises with the running statistics, and leaves them as they are.

    `self.training` says which mode it is. Gradients go through mean and variance of the batch, and not into the running
    statistics. Your copy checks it with <<channels>> channels and a momentum of <<momentum>>.
    """

    goal = "say what batch norm computes in either mode, and write it"
    kind = "build"
    minutes, difficulty, importance = 15, 3, 4
    practice = {"channels": 6, "momentum": 0.1}
    hints = [
        "`x.mean((0, 2, 3))` is a mean for each channel. `x.var(..., unbiased=False)` divides by the number of values.",
        "To put a number for each channel beside (N, C, H, W), give it the shape (1, C, 1, 1).",
        "Write the two updates inside `with torch.no_grad():`, or the statistics drag the graph of every batch behind them.",
    ]

    def draw(chance):
        return {"channels": chance.choice([3, 4, 5, 7, 8]), "momentum": chance.choice([0.05, 0.2, 0.25, 0.3])}

    def stub():
        class Norm(nn.Module):
            def __init__(self, num_features, eps=1e-5, momentum=0.1):
                super().__init__()
                self.eps, self.momentum = eps, momentum
                self.weight = nn.Parameter(torch.ones(num_features))
                self.bias = nn.Parameter(torch.zeros(num_features))
                self.register_buffer("running_mean", torch.zeros(num_features))
                self.register_buffer("running_var", torch.ones(num_features))

            def forward(self, x): ...

    def solution():
        class Norm(nn.Module):
            def __init__(self, num_features, eps=1e-5, momentum=0.1):
                super().__init__()
                self.eps, self.momentum = eps, momentum
                self.weight = nn.Parameter(torch.ones(num_features))
                self.bias = nn.Parameter(torch.zeros(num_features))
                self.register_buffer("running_mean", torch.zeros(num_features))
                self.register_buffer("running_var", torch.ones(num_features))

            def forward(self, x):
                if self.training:
                    mean = x.mean((0, 2, 3))
                    variance = x.var((0, 2, 3), unbiased=False)
                    values = x.numel() / x.shape[1]
                    with torch.no_grad():
                        self.running_mean += self.momentum * (mean - self.running_mean)
                        unbiased = variance * values / (values - 1)
                        self.running_var += self.momentum * (unbiased - self.running_var)
                else:
                    mean, variance = self.running_mean, self.running_var
                shape = (1, -1, 1, 1)
                normed = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + self.eps)
                return normed * self.weight.view(shape) + self.bias.view(shape)

    def right_flattened():
        class Norm(nn.Module):
            def __init__(self, num_features, eps=1e-5, momentum=0.1):
                super().__init__()
                self.eps, self.momentum = eps, momentum
                self.weight = nn.Parameter(torch.ones(num_features))
                self.bias = nn.Parameter(torch.zeros(num_features))
                self.register_buffer("running_mean", torch.zeros(num_features))
                self.register_buffer("running_var", torch.ones(num_features))

            def forward(self, x):
                flat = x.transpose(0, 1).flatten(1)
                mean, variance = self.running_mean[:, None], self.running_var[:, None]
                if self.training:
                    mean = flat.mean(1, keepdim=True)
                    variance = ((flat - mean) ** 2).mean(1, keepdim=True)
                    keep = 1 - self.momentum
                    self.running_mean = keep * self.running_mean + self.momentum * flat.detach().mean(1)
                    self.running_var = keep * self.running_var + self.momentum * flat.detach().var(1)
                scale = self.weight[:, None] * (variance + self.eps).rsqrt()
                flat = scale * flat + (self.bias[:, None] - scale * mean)
                return flat.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)

    def right_one_formula():
        class Norm(nn.Module):
            def __init__(self, channels, eps=1e-5, momentum=0.1):
                super().__init__()
                self.eps, self.momentum = eps, momentum
                self.bias, self.weight = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(channels))
                self.register_buffer("running_var", torch.ones(channels))
                self.register_buffer("running_mean", torch.zeros(channels))

            def update(self, x):
                self.running_mean.lerp_(x.detach().mean(dim=(0, 2, 3)), self.momentum)
                self.running_var.lerp_(x.detach().var(dim=(0, 2, 3)), self.momentum)

            def forward(self, x):
                if self.training:
                    self.update(x)
                    mean = x.mean(dim=(0, 2, 3), keepdim=True)
                    variance = (x * x).mean(dim=(0, 2, 3), keepdim=True) - mean**2
                else:
                    mean, variance = (part[None, :, None, None] for part in (self.running_mean, self.running_var))
                y = (x - mean) / (variance + self.eps) ** 0.5
                return torch.einsum("nchw,c->nchw", y, self.weight) + self.bias.reshape(-1, 1, 1)

    wrong = [
        ("library", "if self.training:", "return F.batch_norm(x, self.running_mean, self.running_var, self.weight, "
         "self.bias, self.training, self.momentum, self.eps)\n        if self.training:", "by hand"),
        ("of-one-image", "mean = x.mean((0, 2, 3))\n", "mean = x[0].mean((1, 2))\n", "mean and variance"),
        ("always-the-batch", "if self.training:", "if True:", "in evaluation mode"),
        ("always-running", "if self.training:", "if False:", "mean and variance"),
        ("statistics-left", "self.running_mean += self.momentum * (mean - self.running_mean)", "pass",
         "running statistics stay"),
        ("statistics-in-the-graph", "with torch.no_grad():\n                self.running_mean +=",
         "if True:\n                self.running_mean = self.running_mean +", "graph"),
        ("momentum-turned-round", "self.momentum * (mean - self.running_mean)",
         "(1 - self.momentum) * (mean - self.running_mean)", "running_mean"),
        ("biased-running-variance", "variance * values / (values - 1)", "variance", "running_var"),
        ("unbiased-everywhere", "x.var((0, 2, 3), unbiased=False)", "x.var((0, 2, 3))", "mean and variance"),
        ("deviation-plus-eps", "torch.sqrt(variance.view(shape) + self.eps)",
         "(torch.sqrt(variance.view(shape)) + self.eps)", "not that of nn.BatchNorm2d"),
        ("no-scale", "normed * self.weight.view(shape) + ", "normed + ", "not that of nn.BatchNorm2d"),
        ("mean-detached", "mean = x.mean((0, 2, 3))\n", "mean = x.detach().mean((0, 2, 3))\n", "gradient"),
        ("averages-only", "(x - mean.view(shape)) / torch.sqrt(variance.view(shape) + self.eps)",
         "x - mean.view(shape)", "mean and variance"),
    ]  # fmt: skip

    explanation = """
    Each channel is one population: all images of the batch, and all pixels of the map. Training mode describes *this*
    population, so it divides by its size; the running variance estimates that of *all* images, so it takes the
    unbiased form. The difference is small for a batch of 128 and large for a batch of two on 1x1 maps.

    The gradient goes through mean and variance, too: that is why a norm cannot simply be undone by larger weights in front
    of it. The running statistics are no parameters: no gradient reaches them, they are saved with the model, and **each
    forward pass in training mode moves them**. That is why it matters in which mode you evaluate, with `no_grad` or
    without.
    """
    marking = """
    Hidden checks compare with `nn.BatchNorm2d` in float64: output and gradient in training mode, then statistics and
    output in evaluation mode after three batches. A biased running variance costs the last point only. Ask aloud: what
    does this layer do to a batch of one image of 1x1 pixels in training mode, and why does PyTorch refuse it?
    """

    @check(points=1)
    def training_mode(ask, values):
        """Training mode: by hand, each channel has mean 0 and variance 1."""
        images = maps_for(values.channels, 5, 1)
        plain = {"weight": 1.0, "bias": 0.0, "running_mean": 0.3, "running_var": 2.0}
        found = ask(normed, "Norm", [[images, True]], values.channels, values.momentum, plain)
        need(not found["library"], "Norm calls PyTorch's own batch norm: write it by hand")
        out = found["outs"][0]
        need(list(out.shape) == list(images.shape), f"the output should have the shape of x, not {list(out.shape)}")
        mean, variance = out.mean((0, 2, 3)), out.var((0, 2, 3), unbiased=False)
        need(
            bool(mean.abs().max() < 1e-6) and bool((variance - 1).abs().max() < 1e-3),
            "in training mode, with scale 1 and shift 0, each channel should come out with mean and variance of 0 and 1, "
            "the variance divided by the number of values",
        )
        need(not found["graph"], "the running statistics belong to the graph of the batch: no gradient should go there")
        need(
            len(found["moved"]) == 2,
            "in training mode the running statistics stay as they are: " + ", ".join(found["still"]),
        )

    @check(points=1)
    def evaluation_mode(ask, values):
        """Evaluation mode: an image alone gives what it gives among others."""
        images = maps_for(values.channels, 5, 2)
        found = ask(normed, "Norm", [[images, False], [images[:1], False]], values.channels, values.momentum)
        need(
            bool((found["outs"][0][:1] - found["outs"][1]).abs().max() < 1e-8),
            "in evaluation mode, what comes out for an image depends on the others of its batch",
        )
        need(not found["moved"], f"in evaluation mode these should not move: {', '.join(found['moved'])}")

    @check(points=1, hidden=True)
    def same_output(ask, values, reference):
        """Output and gradient in training mode are those of nn.BatchNorm2d."""
        from torch import nn

        for scale in (1.0, 1e-3):
            batches = [[scale * maps_for(values.channels, 4, 3), True]]
            found = ask(normed, "Norm", batches, values.channels, values.momentum)
            right = normed({"Norm": nn.BatchNorm2d}, "Norm", batches, values.channels, values.momentum)
            off = float((found["outs"][0] - right["outs"][0]).abs().max())
            told = "in training mode the output is not that of nn.BatchNorm2d"
            need(off < 1e-7, f"{told}: look at the scale, the shift, and the place of eps")
            off = float((found["gradient"] - right["gradient"]).abs().max()) * scale
            need(off < 1e-7, "the gradient of x is another one: it should go through mean and variance, too")

    @check(points=1, hidden=True)
    def same_statistics(ask, values, reference):
        """After three batches, statistics and evaluation are those of nn.BatchNorm2d."""
        from torch import nn

        batches = [[maps_for(values.channels, count, count), True] for count in (2, 3, 6)]
        batches.append([maps_for(values.channels, 3, 9), False])
        found = ask(normed, "Norm", batches, values.channels, values.momentum)
        right = normed({"Norm": nn.BatchNorm2d}, "Norm", batches, values.channels, values.momentum)
        for key in ("running_mean", "running_var"):
            off = float((found["state"][key] - right["state"][key]).abs().max())
            need(off < 1e-7, f"after three batches {key} is another one: how far does it move, and towards what?")
        off = float((found["outs"][-1] - right["outs"][-1]).abs().max())
        need(off < 1e-7, "in evaluation mode the output is not that of nn.BatchNorm2d with the same statistics")


def maps_for(channels, count, seed):
    """Some maps of 3x4 pixels in float64, whose channels differ in mean and spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(1, channels + 1, dtype=torch.float64).view(-1, 1, 1)
    return torch.randn(count, channels, 3, 4, generator=generator, dtype=torch.float64) * steps + 2 - steps / 3


def normed(names, name, batches, channels, momentum, state=None):
    """What a norm gives for batches in their modes, the gradient of the first, and what became of its statistics."""
    import torch
    from torch.nn import functional

    norm = probes.build(names, name, (channels,), {"momentum": momentum})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key in ("weight", "bias", "running_mean", "running_var"):
            values = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5
            getattr(norm, key).copy_(values if state is None else torch.full_like(values, state[key]))
    kept = {key: getattr(norm, key).clone() for key in ("running_mean", "running_var")}
    library, calls, outs, graph = functional.batch_norm, [], [], False

    def watched(*arguments, **options):
        calls.append(1)
        return library(*arguments, **options)

    functional.batch_norm = watched
    try:
        for images, training in batches:
            x = images.clone().requires_grad_()
            out = probes.made(name, norm.train(training)(x))
            if not outs:
                (out * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum().backward()
                gradient = torch.zeros_like(x) if x.grad is None else x.grad
            graph = graph or norm.running_mean.requires_grad or norm.running_var.requires_grad
            outs.append(out.detach())
    finally:
        functional.batch_norm = library
    moved = [key for key in kept if not torch.equal(kept[key], getattr(norm, key))]
    return {
        "outs": outs, "gradient": gradient, "library": bool(calls), "graph": bool(graph), "moved": moved,
        "still": [key for key in kept if key not in moved],
        "state": {key: getattr(norm, key).detach().clone() for key in kept},
    }  # fmt: skip


class FindTheFault(Exercise):
    """Find the fault in an experiment

    A friend sends you a small experiment: striped images of <<image_size>>x<<image_size>> pixels, a plain CNN each of whose
    convolutions is meant to **halve the size, rounded up**, a training loop, and a validation after each epoch. `train`
    and `val` are lists of batches. It runs, and its history looks like any other. But **one thing** in it is wrong.

    Mend it in place; `make_cnn`, `validate` and `run` keep their names, what they take and what they return. Then set
    `fault` to the one of these words that names what was wrong:

    - `"mode"`: a mode, training or evaluation, is not set where it should be;
    - `"mean"`: a mean counts some images for more than others;
    - `"data"`: images are used for a purpose that they are not meant for;
    - `"padding"`: the maps have another size than they should;
    - `"norm"`: the norms do not learn their scale and shift.

    And set `control` to the letter of the experiment that shows this fault, and would have come out right for each of the
    others:

    - `"A"`: compare the running statistics before and after a call of `validate`. Are they the same?
    - `"B"`: take a network **without any norm** and cut the images for `validate` into batches of other sizes. Does the
      loss stay?
    - `"C"`: give all the images in `val` wrong labels, and call `run` with them. Does the history change?
    - `"D"`: send an image through one convolution after the other. Is each size half of the one before, rounded up?
    - `"E"`: compare `state_dict()` before and after an epoch of `run`. Has every entry moved?
    """

    goal = "find a fault in a loop that runs, and name the control that shows it"
    kind = "break"
    minutes, difficulty, importance = 20, 4, 5
    practice = {"image_size": 16, "_fault": "mode", "_control": "A"}
    hints = [
        "Read it beside the loop of the chapter, line by line, and say aloud what each line is for. What should be there "
        "and is not?",
        "Each control takes three or four lines. They need no training worth the name: the network of `make_cnn()` and "
        "the first batches will do.",
        "`{key: part.clone() for key, part in model.state_dict().items()}` keeps the state of a model. Without the "
        "`clone` it would change along with it.",
    ]

    def draw(chance):
        fault, control = chance.choice([("mode", "A"), ("mean", "B"), ("data", "C"), ("padding", "D"), ("norm", "E")])
        return {"image_size": chance.choice([16, 20, 24]), "_fault": fault, "_control": control}

    def solution():
        def draw_batches(count, batch_size, seed):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.randint(3, (count,), generator=generator)
            across = (torch.arange(image_size) % 4 < 2).expand(image_size, image_size)
            stripes = torch.stack([across, across.T, across ^ across.T]).float()
            images = stripes[labels][:, None] + torch.randn(count, 3, image_size, image_size, generator=generator)
            return list(zip(images.split(batch_size), labels.split(batch_size)))

        def make_cnn(widths=(8, 16, 32), num_classes=3):
            layers, in_channels = [], 3
            for width in widths:
                layers.append(nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False))
                layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                in_channels = width
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))

        def validate(model, batches):
            model.eval()
            loss_sum, right, images = 0.0, 0, 0
            with torch.no_grad():
                for x, y in batches:
                    logits = model(x)
                    right += (logits.argmax(1) == y).sum().item()
                    images += len(y)
                    loss_sum += F.cross_entropy(logits, y, reduction="sum").item()
            return {"val_loss": loss_sum / images, "val_accuracy": right / images}

        def run(model, train, val, epochs, learning_rate):
            optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
            history = []
            for _ in range(epochs):
                model.train()
                train_loss, images = 0.0, 0
                for x, y in train:
                    loss = F.cross_entropy(model(x), y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    train_loss += loss.item() * len(y)
                    images += len(y)
                history.append({"train_loss": train_loss / images} | validate(model, val))
            return history

        train, val = draw_batches(72, 16, seed=0), draw_batches(36, 16, seed=1)
        history = run(make_cnn(), train, val, epochs=2, learning_rate=0.05)
        fault = "<<_fault>>"
        control = "<<_control>>"

    def right_decorated():
        def make_cnn(widths=(8, 16, 32), num_classes=3):
            network, before = nn.Sequential(), 3
            for width in widths:
                convolution = nn.Conv2d(before, width, (3, 3), (2, 2), padding=(1, 1), bias=False)
                network.extend([convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
                before = width
            network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)])
            return network

        @torch.no_grad()
        def validate(model, batches):
            model.eval()
            logits, labels = (torch.cat(part) for part in zip(*[(model(x), y) for x, y in batches]))
            share = (logits.argmax(1) == labels).double().mean().item()
            return {"val_loss": F.cross_entropy(logits, labels).item(), "val_accuracy": share}

        def run(model, train, val, epochs, learning_rate):
            optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
            rows = []
            for epoch in range(epochs):
                losses, sizes = [], []
                for x, y in train:
                    model.train()
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.item() * len(y))
                    sizes.append(len(y))
                row = validate(model, val)
                row["train_loss"] = sum(losses) / sum(sizes)
                rows.append(row)
            return rows

        fault, control = "<<_fault>>", "<<_control>>"

    def right_module():
        class Network(nn.Module):
            def __init__(self, widths, num_classes):
                super().__init__()
                pairs = list(zip((3, *widths), widths))
                self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairs)
                self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
                self.out = nn.Linear(widths[-1], num_classes)

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    x = norm(convolution(x)).relu()
                return self.out(x.mean((2, 3)))

        def make_cnn(widths=(8, 16, 32), num_classes=3):
            return Network(widths, num_classes)

        def validate(model, batches):
            was = model.training
            model.eval()
            sums = torch.zeros(3, dtype=torch.float64)
            for x, y in batches:
                with torch.no_grad():
                    scores = model(x)
                hits = (scores.argmax(1) == y).sum()
                sums += torch.tensor([F.cross_entropy(scores, y) * len(y), hits, len(y)], dtype=torch.float64)
            model.train(was)
            return {"val_loss": (sums[0] / sums[2]).item(), "val_accuracy": (sums[1] / sums[2]).item()}

        def run(model, train, val, epochs, learning_rate):
            optimizer = torch.optim.SGD([{"params": list(model.parameters())}], learning_rate, 0.9)
            history = []
            for _ in range(epochs):
                model.train()
                losses = []
                for x, y in train:
                    optimizer.zero_grad()
                    each = F.cross_entropy(model(x), y, reduction="none")
                    each.mean().backward()
                    optimizer.step()
                    losses += each.tolist()
                history.append({"train_loss": sum(losses) / len(losses), **validate(model, val)})
            return history

        fault = "<<_fault>>"
        control = "<<_control>>"

    faults = {
        "mode": ("    model.eval()\n", ""),
        "mean": (
            'F.cross_entropy(logits, y, reduction="sum").item()\n    return {"val_loss": loss_sum / images,',
            'F.cross_entropy(logits, y).item()\n    return {"val_loss": loss_sum / len(batches),',
        ),
        "data": ("| validate(model, val)", "| validate(model, train)"),
        "padding": ("3, stride=2, padding=1, bias=False", "3, stride=2, bias=False"),
        "norm": (
            "torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)",
            "torch.optim.SGD([part for part in model.parameters() if part.dim() > 1], learning_rate, momentum=0.9)",
        ),
    }
    blank = [
        ('fault = "<<_fault>>"', 'fault = ...  # "mode", "mean", "data", "padding" or "norm"'),
        ('control = "<<_control>>"', 'control = ...  # "A", "B", "C", "D" or "E"'),
    ]

    def wrong(values):
        words, letters = ["mode", "mean", "data", "padding", "norm"], "ABCDE"
        other = words[words.index(values["_fault"]) - 1]
        letter = letters[letters.index(values["_control"]) - 1]
        planted = FindTheFault.faults
        return [
            ("fault-left", *planted[values["_fault"]], "its fault, or another one"),
            ("another-fault", *planted[other], "its fault, or another one"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{other}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "learning rate"', "is none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letter}"', "would not have shown"),
            ("no-letter", 'control = "<<_control>>"', "control = 4", "is none of the letters"),
            ("accuracy-of-batches", '"val_accuracy": right / images', '"val_accuracy": right / len(batches)',
             "its fault, or another one"),
            ("train-loss-of-batches", '{"train_loss": train_loss / images}', '{"train_loss": train_loss / len(train)}',
             "other numbers"),
            ("gradients-left", "            optimizer.zero_grad()\n", "", "other numbers"),
            ("norm-taken-out", "        layers.append(nn.BatchNorm2d(width))\n", "", "its fault, or another one"),
            ("nothing-returned", "    return history", "    return None", "not attempted yet: run"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, and control <<_control>> shows it. What each of the five does:

    - **mode** (A): in training mode the norms describe the batch in front of them, and each validation moves the running
      statistics towards the validation images. `no_grad` does not prevent that.
    - **mean** (B): a last batch of four counts as much as one of sixteen. The network without norm is there to keep
      the mode out of it: without that, A's fault would change the loss, too.
    - **data** (C): the figure then says how well the network remembers. Whatever you do to `val`, nothing changes: that
      is the surest sign that nobody looks at it.
    - **padding** (D): maps lose their border at each layer, and the network never sees some edge pixels. It still trains.
    - **norm** (E): whoever leaves norms out of the weight decay must still give them to the optimizer. Their scales stay at
      1 for the whole training; and here the bias of the linear layer, which has one dimension, too, is left out with them.

    None of them raises an error, and most leave a history that looks right. A control asks for one thing that **must**
    hold, and is chosen so that only one fault can break it.
    """
    marking = """
    Mended code is judged by the five controls, and by its history against the reference in float64: how it is written does
    not matter. Word and letter are a point each; whoever mends and names wrongly has seen it by chance or by comparing
    with the chapter. Ask aloud: in which direction does this fault move the figure, and could you tell from the curves?
    """

    @check(points=1)
    def mended(ask, values):
        """The experiment does what it says: all five controls come out right."""
        found = ask(controls_of, values.image_size)
        size, sizes = values.image_size, []
        for _ in range(3):
            size = -(-size // 2)
            sizes.append(size)
        losses, accuracies = zip(*found["cuts"])
        holds = [
            not found["statistics moved"],
            max(losses) - min(losses) < 1e-6 and max(accuracies) - min(accuracies) < 1e-6,
            0 <= min(accuracies) and max(accuracies) <= 1,
            found["val counts"],
            found["sizes"] == sizes,
            found["norms"] == 3,
            not found["unmoved"],
        ]
        need(
            all(holds),
            "the experiment still has its fault, or another one: one of the controls does not come out right",
        )

    @check(points=1)
    def words(ask, values):
        """The word and the letter are some of the list."""
        found = ask(probes.value, "fault")
        need(
            found in ("mode", "mean", "data", "padding", "norm"), f"fault = {found!r} is none of the words of the task"
        )
        found = ask(probes.value, "control")
        need(found in ("A", "B", "C", "D", "E"), f"control = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def same_history(ask, values, reference):
        """The history of the mended experiment is that of the reference."""
        found, right = ask(history_of, values.image_size), history_of(reference, values.image_size)
        need(isinstance(found, list) and len(found) == len(right), "run should return one row for each epoch")
        for row, own in zip(found, right):
            need(isinstance(row, dict), "run should return a list of dictionaries")
            for key, part in own.items():
                need(key in row, f"run: its rows should still have {key}")
                need(
                    abs(number(row[key], key) - part) < 1e-6,
                    f"run: {key} has other numbers than it should: is anything else changed?",
                )

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(ask(probes.value, "control") == reference["control"], "that control would not have shown this fault")


def striped(count, size, seed, batch_size):
    """Batches of images with stripes, in float64."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    line = torch.arange(size, dtype=torch.float64)
    patterns = torch.stack([torch.sin(line * (kind + 1)).expand(size, size) for kind in range(3)])
    noise = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    images = patterns[labels][:, None] + noise
    return list(zip(images.split(batch_size), labels.split(batch_size)))


def cnn_with(names, seed):
    """A network of `make_cnn` in float64, with weights that do not depend on the order in which it draws them."""
    import torch

    model = probes.build(names, "make_cnn", ((4, 6, 8), 3))
    with torch.no_grad():
        for part in model.parameters():
            if part.dim() > 1:
                generator = torch.Generator().manual_seed(seed + part.numel())
                noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                part.copy_(noise * (2 / part[0].numel()) ** 0.5)
        for part in model.modules():
            if isinstance(part, torch.nn.Linear):
                part.bias.zero_()
    return model


def history_of(names, size):
    """The history of `run` for a small network and two epochs."""
    model = cnn_with(names, 4)
    train, val = striped(22, size, 1, 8), striped(11, size, 2, 4)
    return probes.plain(probes.made("run", probes.find(names, "run")(model, train, val, 2, 0.02)), "the history of run")


def controls_of(names, size):
    """The five experiments of the task, each with what came out."""
    import torch
    from torch import nn

    validate, run = probes.find(names, "validate"), probes.find(names, "run")
    train, val = striped(22, size, 1, 8), striped(11, size, 2, 4)

    def state_of(model):
        return {key: part.detach().clone() for key, part in model.state_dict().items()}

    model = cnn_with(names, 4).train()
    before = state_of(model)
    probes.made("validate", validate(model, val))
    moved = [key for key, part in state_of(model).items() if not torch.equal(part, before[key])]

    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 3)).double()
    probes.shuffle(plain, 3)
    cuts = []
    for batch_size in (4, 11, 7):
        row = validate(plain, striped(11, size, 2, batch_size))
        cuts.append([float(row["val_loss"]), float(row["val_accuracy"])])

    model = cnn_with(names, 4)
    right = probes.made("run", run(model, train, val, 1, 0.02))
    before = state_of(cnn_with(names, 4))
    unmoved = [key for key, part in state_of(model).items() if torch.equal(part, before[key])]
    other = run(cnn_with(names, 4), train, [(x, (y + 1) % 3) for x, y in val], 1, 0.02)

    layers = probes.trace(model, [1, 3, size, size])["layers"]
    return {
        "statistics moved": moved,
        "cuts": cuts,
        "val counts": abs(float(right[0]["val_loss"]) - float(other[0]["val_loss"])) > 1e-9,
        "sizes": [layer["out"][-1] for layer in layers if layer["kind"] == "Conv2d"],
        "norms": sum(layer["kind"] == "BatchNorm2d" for layer in layers),
        "unmoved": unmoved,
    }
