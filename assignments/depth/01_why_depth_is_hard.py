"""Why depth is hard

You tell illnesses apart by their curves, measure a gradient layer by layer, mend a deep network that does not learn,
and design one that could. Do the chapter first; its sections 3 to 7 are what you need here. Nothing trains for longer
than a second.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


LETTERS = ("A", "B", "C", "D")
KINDS = ("under-fitting", "over-fitting", "unfinished", "fine")


def curves_of(chance, kind):
    """Training and validation errors of ten epochs, in per cent, to one decimal."""
    start, jitter = chance.uniform(76, 84), lambda: chance.uniform(-0.15, 0.15)
    if kind == "unfinished":
        step = chance.uniform(3.2, 4.2)
        training = [start + 6 - step * epoch + jitter() for epoch in range(1, 11)]
        return training, [error + chance.uniform(1.0, 2.5) for error in training]
    end = {"under-fitting": chance.uniform(40, 52), "over-fitting": chance.uniform(2, 5), "fine": chance.uniform(5, 8)}
    speed = {"under-fitting": 0.42, "over-fitting": 0.62, "fine": 0.5}[kind]
    training = [end[kind] + (start - end[kind]) * speed**epoch + jitter() for epoch in range(1, 11)]
    if kind == "over-fitting":
        best, low = chance.choice([4, 5, 6]), chance.uniform(21, 26)
        falling = [max(low + (start - low) * (1 - epoch / best) ** 2 + 1.2 * (epoch < best), training[epoch - 1] + 1)
                   for epoch in range(1, best)]  # fmt: skip
        return training, falling + [low + chance.uniform(0.9, 1.3) * (epoch - best) for epoch in range(best, 11)]
    return training, [error + chance.uniform(0.8, 2.2) for error in training]


class TellThemApart(Exercise):
    """Tell under-fitting from over-fitting

    Four networks were trained on the same images for ten epochs. For each there are two lists, the error on the
    training images and on the validation images, in per cent after each epoch: `training_a` and `validation_a` for
    network A, and so on. Look at them, as numbers or in a plot, and set

    - `kinds`: a dictionary such as `{"A": ..., "B": ..., "C": ..., "D": ...}` with one of these words for each letter:
      `"over-fitting"`, `"under-fitting"` (it has stopped getting better, with a high training error), `"unfinished"`
      (it is still getting better by more than a point in each epoch) and `"fine"`. Each occurs once;
    - `gap`: for the network that over-fits, validation error minus training error after the last epoch, in points;
    - `best_epoch`: for the same network, the epoch at which one should have stopped, counted from 1;
    - `more_data`, `shortcuts` and `more_epochs`: the letter of the network that each of these three would help most.
    """

    goal = "tell under-fitting from over-fitting by the curves, and name the cure"
    kind = "read"
    minutes, difficulty, importance = 10, 1, 5
    practice = {
        "training_a": [61.2, 53.4, 50.3, 48.8, 48.2, 48.1, 47.9, 47.8, 47.9, 47.8],
        "validation_a": [62.9, 54.9, 51.2, 50.4, 49.3, 49.9, 49.2, 49.4, 48.9, 49.6],
        "training_b": [49.9, 32.4, 21.6, 14.9, 10.5, 8.1, 6.3, 5.4, 4.6, 4.3],
        "validation_b": [53.1, 38.0, 28.4, 24.6, 23.3, 24.5, 25.6, 26.9, 27.8, 28.9],
        "training_c": [82.5, 78.9, 75.2, 71.6, 67.7, 64.1, 60.5, 56.8, 53.2, 49.4],
        "validation_c": [84.1, 80.2, 77.3, 73.0, 69.9, 65.6, 62.3, 58.4, 55.5, 51.0],
        "training_d": [43.2, 25.0, 15.9, 11.5, 9.2, 8.2, 7.5, 7.3, 7.1, 7.1],
        "validation_d": [44.5, 26.9, 17.1, 13.3, 10.4, 10.0, 8.6, 9.2, 8.4, 8.7],
        "_kinds": ["under-fitting", "over-fitting", "unfinished", "fine"],
    }
    hints = [
        "Begin with the training error after the last epoch. Which networks have learned their images at all?",
        "Of those that have not: how much did the last three epochs bring?",
        "More data is a cure for one illness only. Section 3 of the chapter says which.",
    ]

    def draw(chance):
        kinds = list(KINDS)
        chance.shuffle(kinds)
        found = {"_kinds": kinds}
        for letter, kind in zip("abcd", kinds):
            training, validation = curves_of(chance, kind)
            found[f"training_{letter}"] = [round(error, 1) for error in training]
            found[f"validation_{letter}"] = [round(error, 1) for error in validation]
        return found

    def stub():
        kinds = ...  # {"A": "...", "B": "...", "C": "...", "D": "..."}
        gap = ...
        best_epoch = ...
        more_data = ...
        shortcuts = ...
        more_epochs = ...

    def solution():
        training = {"A": training_a, "B": training_b, "C": training_c, "D": training_d}
        validation = {"A": validation_a, "B": validation_b, "C": validation_c, "D": validation_d}
        kinds = {}
        for letter, errors in training.items():
            if errors[-4] - errors[-1] > 3:
                kinds[letter] = "unfinished"
            elif errors[-1] > 30:
                kinds[letter] = "under-fitting"
            elif validation[letter][-1] - errors[-1] > 10:
                kinds[letter] = "over-fitting"
            else:
                kinds[letter] = "fine"
        letters = {kind: letter for letter, kind in kinds.items()}
        gap = validation[letters["over-fitting"]][-1] - training[letters["over-fitting"]][-1]
        best_epoch = validation[letters["over-fitting"]].index(min(validation[letters["over-fitting"]])) + 1
        more_data = letters["over-fitting"]
        shortcuts = letters["under-fitting"]
        more_epochs = letters["unfinished"]

    def right_by_eye():
        kinds = {"D": "<<_kinds[3]>>", "C": "<<_kinds[2]>>", "B": "<<_kinds[1]>>", "A": "<<_kinds[0]>>"}
        more_data, shortcuts, more_epochs = ("ABCD"[list("<<_kinds>>".split("'")[1::2]).index(kind)]
                                             for kind in ("over-fitting", "under-fitting", "unfinished"))  # fmt: skip
        curves = {"A": (training_a, validation_a), "B": (training_b, validation_b),
                  "C": (training_c, validation_c), "D": (training_d, validation_d)}[more_data]  # fmt: skip
        gap = round(curves[1][9] - curves[0][9], 1)
        best_epoch = 1 + min(range(10), key=lambda epoch: curves[1][epoch])

    def right_arrays():
        import numpy as np

        train = np.array([training_a, training_b, training_c, training_d])
        test = np.array([validation_a, validation_b, validation_c, validation_d])
        over, late = int((test - train)[:, -1].argmax()), int((train[:, -2] - train[:, -1]).argmax())
        under = int(np.where(np.arange(4) == late, 0, train[:, -1]).argmax())
        words = {over: "over-fitting", late: "unfinished", under: "under-fitting"}
        kinds = {letter: words.get(number, "fine") for number, letter in enumerate("ABCD")}
        gap, best_epoch = (test - train)[over, -1], test[over].argmin() + 1
        more_data, shortcuts, more_epochs = "ABCD"[over], "ABCD"[under], "ABCD"[late]

    wrong = [
        ("no-word", 'kinds[letter] = "fine"', 'kinds[letter] = "good"', "none of the words"),
        ("one-twice", "more_epochs = letters", 'kinds = kinds | {more_data: "fine"}\nmore_epochs = letters', "each of the four words once"),
        ("swapped", "more_epochs = letters", 'kinds = {letter: {"under-fitting": "unfinished", "unfinished": '
         '"under-fitting"}.get(kind, kind) for letter, kind in kinds.items()}\nmore_epochs = letters', "the last three epochs"),
        ("over-for-under", "more_epochs = letters", 'kinds = {letter: {"under-fitting": "over-fitting", "over-fitting": '
         '"under-fitting"}.get(kind, kind) for letter, kind in kinds.items()}\nmore_epochs = letters',
         "learned its images"),
        ("good-is-over", "more_epochs = letters", 'kinds = {letter: {"fine": "over-fitting", "over-fitting": '
         '"fine"}.get(kind, kind) for letter, kind in kinds.items()}\nmore_epochs = letters', "the new images"),
        ("gap-upside-down", 'gap = validation[letters["over-fitting"]][-1] - training[letters["over-fitting"]][-1]',
         'gap = training[letters["over-fitting"]][-1] - validation[letters["over-fitting"]][-1]', "above zero"),
        ("gap-as-fraction", '[-1] - training[letters["over-fitting"]][-1]',
         '[-1] / 100 - training[letters["over-fitting"]][-1] / 100', "points"),
        ("gap-at-the-best", 'gap = validation[letters["over-fitting"]][-1]', 'gap = min(validation[letters["over-fitting"]])',
         "after the last epoch"),
        ("counted-from-zero", '(min(validation[letters["over-fitting"]])) + 1', '(min(validation[letters["over-fitting"]]))',
         "counted from 1"),
        ("best-by-training", 'validation[letters["over-fitting"]].index(min(validation[letters["over-fitting"]])) + 1',
         "10", "which images"),
        ("data-for-the-wrong-one", 'more_data = letters["over-fitting"]', 'more_data = letters["under-fitting"]',
         "more_data"),
        ("shortcuts-for-the-wrong-one", 'shortcuts = letters["under-fitting"]', 'shortcuts = letters["fine"]',
         "shortcuts"),
        ("no-letter", 'more_epochs = letters["unfinished"]', 'more_epochs = "unfinished"', "none of the letters"),
    ]  # fmt: skip

    explanation = """
    Look at the **training** error first. Where it is high, the network has not even learned the images that it has, and
    the validation error can only follow: no regularisation and no further image helps. Then ask whether it has come
    to a rest: a curve that still falls says nothing yet about what the network can do. Only where the training error is low does the gap
    decide: a large one means that the network knows its images by heart.

    The over-fitting network had its lowest validation error before the end, while the training error went on
    falling. To stop there is called early stopping; more data and augmentation are the better cure. One caution: an epoch
    chosen by the validation error makes this error look a little too low.

    The deep plain networks of the chapter have a high training error and still fall at their end: they under-fit, and
    they were stopped early. Section 10 says what waiting would mend, and what it would not.
    """
    marking = """
    Four points: form, the four words, the two numbers, the three cures. Ask aloud: what would you look at if you were
    allowed to see only one number of each network?
    """

    @check(points=1)
    def written(ask, values):
        """Words, letters and numbers that can be."""
        kinds = ask(probes.value, "kinds")
        need(isinstance(kinds, dict) and set(kinds) == set(LETTERS), "kinds should have the keys A, B, C and D")
        ask(probes.value, "gap")
        for letter in LETTERS:
            need(kinds[letter] in KINDS, f"kinds[{letter!r}] = {kinds[letter]!r} is none of the words of the task")
        need(sorted(kinds.values()) == sorted(KINDS), "kinds should have each of the four words once")
        need(0 < number_of(ask(probes.value, "gap"), "gap") < 100, "gap should be above zero, in points of per cent")
        found = number_of(ask(probes.value, "best_epoch"), "best_epoch")
        need(found in range(1, 11), f"best_epoch = {found:g} is not one of the epochs 1 to 10")
        for name in ("more_data", "shortcuts", "more_epochs"):
            need(ask(probes.value, name) in LETTERS, f"{name} is none of the letters A to D")

    @check(points=1, hidden=True)
    def words(ask, values, reference):
        """The four words."""
        found = ask(probes.value, "kinds")
        for letter, right in reference["kinds"].items():
            told = "look at the training error first: has it learned its images, and did it go on learning?"
            pair = {found[letter], right}
            if pair == {"under-fitting", "unfinished"}:
                told = "how much did the last three epochs bring?"
            elif pair == {"under-fitting", "over-fitting"}:
                told = "look at the training error: has it learned its images?"
            elif pair == {"fine", "over-fitting"}:
                told = "it has learned its images; and the new images?"
            need(found[letter] == right, f"the word for network {letter} does not fit its curves: {told}")

    @check(points=1, hidden=True)
    def numbers(ask, values, reference):
        """The gap, and the epoch to stop at."""
        found = number_of(ask(probes.value, "gap"), "gap")
        need(abs(100 * found - reference["gap"]) > 0.06, "gap is a fraction: points of per cent were asked for")
        need(
            abs(found - reference["gap"]) < 0.06,
            "gap is not right: validation error minus training error, after the last epoch, for the network that over-fits",
        )
        found, right = number_of(ask(probes.value, "best_epoch"), "best_epoch"), reference["best_epoch"]
        need(found != right - 1, "best_epoch is one too early: epochs are counted from 1")
        need(found == right, "best_epoch is not right: the error on which images tells when to stop?")

    @check(points=1, hidden=True)
    def cures(ask, values, reference):
        """What would help which network."""
        for name, told in [
            ("more_data", "does that network have trouble with the images it has, or with new ones?"),
            ("shortcuts", "which network cannot learn the images it has, however long it tries?"),
            ("more_epochs", "which network was stopped while it was still learning?"),
        ]:
            need(
                ask(probes.value, name) == reference[name], f"{name} is not the letter of the one it helps most: {told}"
            )


def norms_twice(names, layers, shortcut, seed):
    """What gradient_norms gives for a network of the student's, twice, and for the batch ten times over."""
    import torch

    network = probes.build(names, "Stack", (layers, 6, shortcut), seed=seed)
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = torch.arange(8) % 10
    measure = probes.find(names, "gradient_norms")
    return [[float(norm) for norm in probes.made("gradient_norms", measure(network, x, y))] for _ in range(2)]


class GradientByLayer(Exercise):
    """Measure the gradient by layer

    Below is a **plain** network: <<layers>> convolutions with <<channels>> channels, each followed by batch norm and ReLU,
    all on maps of 8x8 pixels. With `shortcut=True` each convolution with its norm is a branch with a shortcut around
    it. Nobody trains them here: one batch there and back is enough.

    1. Set `prediction`, before anything runs: in the fresh plain network, the norm of the gradient at the weights of
       the **first** convolution divided by that at the **last** one. Below 1 it vanishes towards the input, above 1 it
       explodes. Any positive number will do; it is not compared with the result.
    2. Write `gradient_norms(network, x, y)`: the norm of the gradient of the cross-entropy at the weights of each of
       `network.convolutions`, a list, from the input on. It must give the same numbers when it is called twice.
    3. Run the cell. It sets `measured` for the plain network and `beside` for the one with shortcuts.
    4. From `measured`, work out `factor`, the mean factor for each layer on the way from the last convolution back to
       the first (if every layer had this factor, the ratio would be `measured`), and `at_double`, the ratio that you expect
       for <<2 * layers>> convolutions with this factor.
    5. Set `word` to `"vanishes"`, `"explodes"` or `"stays"` for the plain network, and `reason` to the letter of the
       sentence that says why `beside` is another number:
       - `"A"`: with shortcuts the norms do nothing, since the sum is not normed;
       - `"B"`: a branch is a smaller and smaller part of the sum, so its own factor counts less and less;
       - `"C"`: a shortcut sets the gradient of its branch to 1.
    """

    goal = "measure the gradient by layer in a fresh network, and read what it forecasts"
    kind = "predict"
    minutes, difficulty, importance = 18, 3, 5
    practice = {"layers": 26, "channels": 12}
    hints = [
        "`torch.autograd.grad(loss, weights)` returns the gradients of a list of weights, and leaves `.grad` alone.",
        "How many steps lie between the first convolution and the last? One fewer than there are convolutions.",
        "A factor for each layer is raised to a power: `ratio ** (1 / steps)` takes it back.",
    ]

    def draw(chance):
        return {"layers": chance.choice([24, 28, 30, 32]), "channels": chance.choice([10, 12])}

    def stub():
        prediction = ...  # first over last, in the plain network

        class Stack(nn.Module):
            def __init__(self, layers, channels, shortcut):
                super().__init__()
                sizes = [3] + layers * [channels]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in zip(sizes, sizes[1:])
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
                self.head = nn.Linear(channels, 10)
                self.shortcut = shortcut
                for convolution in self.convolutions:
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    y = norm(convolution(x))
                    x = torch.relu(x + y if self.shortcut and x.shape == y.shape else y)
                return self.head(x.mean((2, 3)))

        def gradient_norms(network, x, y): ...

        if prediction is not ...:
            torch.manual_seed(0)
            x, y = torch.randn(32, 3, 8, 8).double(), torch.arange(32) % 10
            ratios = []
            for shortcut in (False, True):
                torch.manual_seed(1)
                norms = gradient_norms(Stack(layers, channels, shortcut).double(), x, y)
                ratios.append(float(norms[0] / norms[-1]) if norms else ...)
            measured, beside = ratios
            print("plain:", measured, " with shortcuts:", beside)

        factor = ...
        at_double = ...
        word = ...  # "vanishes", "explodes" or "stays"
        reason = ...  # "A", "B" or "C"

    def solution():
        prediction = 0.01  # first over last, in the plain network

        class Stack(nn.Module):
            def __init__(self, layers, channels, shortcut):
                super().__init__()
                sizes = [3] + layers * [channels]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in zip(sizes, sizes[1:])
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
                self.head = nn.Linear(channels, 10)
                self.shortcut = shortcut
                for convolution in self.convolutions:
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    y = norm(convolution(x))
                    x = torch.relu(x + y if self.shortcut and x.shape == y.shape else y)
                return self.head(x.mean((2, 3)))

        def gradient_norms(network, x, y):
            loss = F.cross_entropy(network(x), y)
            weights = [convolution.weight for convolution in network.convolutions]
            return [gradient.norm().item() for gradient in torch.autograd.grad(loss, weights)]

        if prediction is not ...:
            torch.manual_seed(0)
            x, y = torch.randn(32, 3, 8, 8).double(), torch.arange(32) % 10
            ratios = []
            for shortcut in (False, True):
                torch.manual_seed(1)
                norms = gradient_norms(Stack(layers, channels, shortcut).double(), x, y)
                ratios.append(float(norms[0] / norms[-1]) if norms else ...)
            measured, beside = ratios
            print("plain:", measured, " with shortcuts:", beside)

        factor = measured ** (1 / (layers - 1))
        at_double = factor ** (2 * layers - 1)
        word = "explodes"
        reason = "B"

    def right_backward():
        prediction = 300

        class Stack(nn.Module):
            def __init__(self, layers, channels, shortcut):
                super().__init__()
                sizes = [3] + layers * [channels]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in zip(sizes, sizes[1:])
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
                self.head = nn.Linear(channels, 10)
                self.shortcut = shortcut
                for convolution in self.convolutions:
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    y = norm(convolution(x))
                    x = torch.relu(x + y if self.shortcut and x.shape == y.shape else y)
                return self.head(x.mean((2, 3)))

        def gradient_norms(network, x, y):
            network.zero_grad()
            F.cross_entropy(network(x), y).backward()
            return [(layer.weight.grad**2).sum() ** 0.5 for layer in network.convolutions]

        if prediction is not ...:
            torch.manual_seed(0)
            x, y = torch.randn(32, 3, 8, 8).double(), torch.arange(32) % 10
            ratios = []
            for shortcut in (False, True):
                torch.manual_seed(1)
                norms = gradient_norms(Stack(layers, channels, shortcut).double(), x, y)
                ratios.append(float(norms[0] / norms[-1]) if norms else ...)
            measured, beside = ratios

        factor = round(torch.tensor(measured).log().div(layers - 1).exp().item(), 3)
        at_double = factor**layers * measured
        word, reason = "explodes", "B"

    def right_numpy():
        import numpy as np

        prediction = np.float64(1.5)

        class Stack(nn.Module):
            def __init__(self, layers, channels, shortcut):
                super().__init__()
                sizes = [3] + layers * [channels]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in zip(sizes, sizes[1:])
                )
                self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
                self.head = nn.Linear(channels, 10)
                self.shortcut = shortcut
                for convolution in self.convolutions:
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

            def forward(self, x):
                for convolution, norm in zip(self.convolutions, self.norms):
                    y = norm(convolution(x))
                    x = torch.relu(x + y if self.shortcut and x.shape == y.shape else y)
                return self.head(x.mean((2, 3)))

        def gradient_norms(network, x, y):
            logits = network(x)
            loss = -F.log_softmax(logits, dim=1)[torch.arange(len(y)), y].mean()
            gradients = [
                torch.autograd.grad(loss, layer.weight, retain_graph=True)[0] for layer in network.convolutions
            ]
            return [float(np.linalg.norm(gradient.numpy().ravel())) for gradient in gradients]

        torch.manual_seed(0)
        x, y = torch.randn(32, 3, 8, 8).double(), torch.arange(32) % 10
        ratios = []
        for shortcut in (False, True):
            torch.manual_seed(1)
            norms = gradient_norms(Stack(layers, channels, shortcut).double(), x, y)
            ratios.append(norms[0] / norms[-1])
        measured, beside = ratios
        factor = np.exp(np.log(measured) / (layers - 1))
        at_double = np.exp(np.log(factor) * (2 * layers - 1))
        word = "explodes"
        reason = "B"

    wrong = [
        ("below-zero", "prediction = 0.01", "prediction = -3", "a ratio of two norms"),
        ("in-words", "prediction = 0.01", 'prediction = "small"', "should be a number"),
        ("squares", "gradient.norm().item()", "gradient.square().sum().item()", "the square"),
        ("mean-not-norm", "gradient.norm().item()", "gradient.abs().mean().item()", "other numbers"),
        ("from-the-end", "torch.autograd.grad(loss, weights)]", "torch.autograd.grad(loss, weights[::-1])]",
         "from the input on"),
        ("adds-up", "    return [gradient.norm().item() for gradient in torch.autograd.grad(loss, weights)]",
         "    loss.backward()\n    return [weight.grad.norm().item() for weight in weights]", "second time"),
        ("of-the-weights", "gradient.norm().item() for gradient in torch.autograd.grad(loss, weights)",
         "weight.norm().item() for weight in weights", "of the weights themselves"),
        ("head-too", "[convolution.weight for convolution in network.convolutions]",
         "[convolution.weight for convolution in [*network.convolutions, network.head]]", "one number for each"),
        ("steps-miscounted", "1 / (layers - 1)", "1 / layers", "how many steps"),
        ("divided", "measured ** (1 / (layers - 1))", "measured / (layers - 1)", "multiply"),
        ("twice-as-large", "at_double = factor ** (2 * layers - 1)", "at_double = 2 * measured", "a power"),
        ("wrong-word", 'word = "explodes"', 'word = "vanishes"', "word"),
        ("no-word", 'word = "explodes"', 'word = "grows"', "none of the words"),
        ("wrong-reason", 'reason = "B"', 'reason = "C"', "reason"),
        ("not-run", "measured, beside = ratios", "measured, beside = 1.0, 1.0", "another number"),
    ]  # fmt: skip

    explanation = """
    Most people expect the gradient to vanish. With batch norm in a plain network it **explodes** towards the input, by
    nearly the same factor in each layer: the ReLU lets half of the squared gradient through, the norm stretches what
    is left of the variance back to 1, and stretches the gradient by as much. Section 4 of the chapter works out 1.21
    for very wide networks; narrow ones come near it from below.

    A factor is raised to a power, so <<layers>> and <<2 * layers>> layers differ by much more than a factor of two. That is why a
    recipe that works for a shallow network says little about a deep one.

    With shortcuts the same layers are branches. What goes along the shortcut has the factor 1, and the branch is a smaller
    part of the sum in each block, since the sum grows and the normed branch does not. So the ratio still grows, but it
    creeps. None of this says that explosion is *the* reason why plain networks learn badly: section 6 shows that it is
    over after a few steps.
    """
    marking = """
    The prediction is not compared with anything: one point for having made one. `at_double` is graded with the student's
    own factor or with the exact one. Ask aloud: what did you expect, and which step of your thought was wrong?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction, and a measurement."""
        found = number_of(ask(probes.value, "prediction"), "prediction")
        need(0 < found < 1e12, "prediction is a ratio of two norms: it should be above zero, and not without bounds")
        for name in ("measured", "beside"):
            found = number_of(ask(probes.value, name), name)
            need(0 < found < 1e12, f"{name} is a ratio of two norms and should be above zero")

    @check(points=1)
    def one_each(ask, values):
        """One norm for each convolution, and the same when called twice."""
        first, second = ask(norms_twice, 5, False, 3)
        need(len(first) == 5, f"gradient_norms should give one number for each convolution: 5, not {len(first)}")
        need(min(first) > 0, "gradient_norms gives a norm of zero")
        need(
            all(abs(a - b) < 1e-9 * a for a, b in zip(first, second)),
            "gradient_norms gives other numbers the second time: do the gradients add up?",
        )
        word, reason = ask(probes.value, "word"), ask(probes.value, "reason")
        need(word in ("vanishes", "explodes", "stays"), f"word = {word!r} is none of the words of the task")
        need(reason in ("A", "B", "C"), f"reason = {reason!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def right_norms(ask, values, reference):
        """The norms are right, for other networks."""
        for layers, shortcut in [(4, False), (7, True)]:
            found = ask(norms_twice, layers, shortcut, 11)[0]
            right = norms_twice(reference, layers, shortcut, 11)[0]
            network = probes.build({"Stack": reference["Stack"]}, "Stack", (layers, 6, shortcut), seed=11)
            sizes = [float(layer.weight.detach().norm()) for layer in network.convolutions]
            told = "are they the norms of the loss's gradient, at the weights of the convolutions?"
            if all(abs(a - b * b) < 1e-6 * b * b for a, b in zip(found, right)):
                told = "that is the square of the norm"
            elif all(abs(a - b) < 1e-6 * b for a, b in zip(found[::-1], right)):
                told = "they are to be listed from the input on"
            elif all(abs(a - b) < 1e-6 * b for a, b in zip(found, sizes)):
                told = "those are the norms of the weights themselves"
            need(
                all(abs(a - b) < 1e-6 * b for a, b in zip(found, right)),
                f"gradient_norms gives other numbers than it should: {told}",
            )

    @check(points=1, hidden=True)
    def forecast(ask, values, reference):
        """The factor for each layer, and what it forecasts."""
        measured = number_of(ask(probes.value, "measured"), "measured")
        need(abs(measured / reference["measured"] - 1) < 0.05, "measured is another number than this network gives")
        factor, double = (number_of(ask(probes.value, name), name) for name in ("factor", "at_double"))
        steps = values.layers - 1
        need(factor > 0 and double > 0, "factor and at_double should be above zero")
        need(abs(factor - measured / steps) > 1e-6, "factor: the factors of the layers multiply, they do not add up")
        need(
            abs(factor - measured ** (1 / steps)) < 0.003,
            "factor is not right: how many steps lie between the first and the last convolution?",
        )
        rights = [one ** (2 * values.layers - 1) for one in (factor, measured ** (1 / steps))]
        need(
            any(abs(double / right - 1) < 0.02 for right in rights),
            "at_double is not right: the factor is raised to a power; to which one?",
        )

    @check(points=1, hidden=True)
    def explained(ask, values, reference):
        """What it is called, and why shortcuts change it."""
        need(ask(probes.value, "word") == reference["word"], "word is not what happens on the way to the input")
        need(
            ask(probes.value, "reason") == reference["reason"],
            "reason is not right: take that sentence at its word, and look at the code once more",
        )


def health_of(names, depth, width, seed):
    """How a deep network starts: its signal and gradients by layer, and its loss while train_step repeats three batches."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    found, before = {}, torch.get_default_dtype()
    network = probes.build(names, "DeepNetwork", (depth, width), seed=seed).train()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 3, 6, 6, generator=generator, dtype=torch.float64)
    y = torch.arange(24) % 3
    x[torch.arange(24), y] += 1.0  # so that there is something to learn
    signals, ran, hooks = [], [], []

    def note(module, inputs, output):
        signals.append(float(output.detach().square().mean().sqrt()))
        ran.append(module)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note))
    loss = F.cross_entropy(network(x), y)
    for hook in hooks:
        hook.remove()
    loss.backward()
    gradients = [0.0 if layer.weight.grad is None else float(layer.weight.grad.norm()) for layer in ran]
    found = {"signals": signals, "gradients": gradients, "parameters": len(list(network.parameters()))}
    network.zero_grad()
    step = probes.find(names, "train_step")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    norms = []
    for _ in range(2):
        probes.made("train_step", step(network, optimizer, x, y))
        norms.append(sum(float(p.grad.norm()) for p in network.parameters() if p.grad is not None))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    batches = [(x[k : k + 8], y[k : k + 8]) for k in (0, 8, 16)]
    losses = [float(step(network, optimizer, *batches[k % 3])) for k in range(30)]
    return {**found, "norms": norms, "first": sum(losses[:3]) / 3, "last": sum(losses[-3:]) / 3}


class MendTheDeepNetwork(Exercise):
    """Make the deep network work

    This plain network of `depth` convolutions has no norm. That can work: the weights can be drawn so that the signal
    keeps its size through all the layers, and the padding is circular, so no window sees zeros at the border. But the
    loss of this one stays where it is, or does not behave. **One place** in the network or in its training step is at fault.

    Mend the code in place. Keep the names `DeepNetwork(depth, width)` and `train_step(network, optimizer, x, y)`, which
    makes one step and returns the loss. Then set

    - `fault` to the word that names it: `"initialisation"` (weights of the wrong size), `"activation"` (a function
      whose slope is too small), `"graph"` (the gradient's way back is cut) or `"update"` (the step uses another
      gradient than that of its batch);
    - `control` to the letter of the experiment that shows it, where the other three come out right:
      - `"A"`: send one batch through a fresh network. Is the signal (root mean square) behind the last convolution within a
        factor of a hundred of that behind the first?
      - `"B"`: go back once. Does each of the weights get a gradient, that is not exactly zero?
      - `"C"`: go back once. Of the convolutions that get a gradient, is the largest norm less than a thousand times
        the smallest?
      - `"D"`: call `train_step` twice for one batch, at a rate of 0. Are the gradients the same after both calls?
    """

    goal = "make a deep plain network trainable, and find by measuring why it was not"
    kind = "break"
    minutes, difficulty, importance = 20, 3, 5
    practice = {"depth": 14, "width": 16, "_fault": "initialisation", "_control": "A"}
    hints = [
        "Do the four experiments before you read the code closely. `register_forward_hook`, or a print in `forward`, shows the "
        "signal.",
        "What does one layer do to the size of the signal, and what to the size of the gradient? Which of the two is "
        "not near 1?",
        "If both are, look at what the training step does, and in which order.",
    ]

    def draw(chance):
        fault, control = chance.choice([("initialisation", "A"), ("graph", "B"), ("activation", "C"), ("update", "D")])
        return {"depth": chance.choice([12, 13, 14, 15, 16]), "width": chance.choice([16, 20, 24]),
                "_fault": fault, "_control": control}  # fmt: skip

    def solution():
        class DeepNetwork(nn.Module):
            def __init__(self, depth, width):
                super().__init__()
                sizes = [3] + depth * [width]
                self.convolutions = nn.ModuleList(
                    nn.Conv2d(before, after, 3, padding=1, padding_mode="circular", bias=False)
                    for before, after in zip(sizes, sizes[1:])
                )
                self.head = nn.Linear(width, 10)
                for convolution in self.convolutions:
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                self.kept = []

            def forward(self, x):
                self.kept = []  # features of each layer, for a plot
                for convolution in self.convolutions:
                    x = torch.relu(convolution(x))
                    self.kept.append(x.detach())
                return self.head(x.mean((2, 3)))

        def train_step(network, optimizer, x, y):
            loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        fault = "<<_fault>>"
        control = "<<_control>>"

    def right_by_formula():
        class DeepNetwork(nn.Module):
            def __init__(self, depth, width):
                super().__init__()
                layers = []
                for number in range(depth):
                    layer = nn.Conv2d(width if number else 3, width, 3, padding=1, padding_mode="circular")
                    nn.init.normal_(layer.weight, std=(2 / (9 * layer.in_channels)) ** 0.5)
                    nn.init.zeros_(layer.bias)
                    layers += [layer, nn.ReLU()]
                self.body = nn.Sequential(*layers)
                self.last = nn.Linear(width, 10)

            def forward(self, x):
                return self.last(self.body(x).mean(dim=(2, 3)))

        def train_step(network, optimizer, x, y):
            network.zero_grad(set_to_none=True)
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            return loss.item()

        fault, control = "<<_fault>>", "<<_control>>"

    def right_orthogonal():
        class DeepNetwork(nn.Module):
            def __init__(self, depth, width):
                super().__init__()
                self.convolutions = nn.ModuleList()
                for before in [3] + (depth - 1) * [width]:
                    layer = nn.Conv2d(before, width, 3, padding="same", padding_mode="circular", bias=False)
                    nn.init.orthogonal_(
                        layer.weight, gain=nn.init.calculate_gain("relu") * max(1, width / 9 / before) ** 0.5
                    )
                    self.convolutions.append(layer)
                self.head = nn.Linear(width, 10)

            def forward(self, x):
                for layer in self.convolutions:
                    x = layer(x).clamp(min=0)
                return self.head(x.mean((2, 3)))

        def train_step(network, optimizer, x, y):
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            return loss.detach()

        fault = "<<_fault>>"
        control = "<<_control>>"

    faults = {
        "initialisation": ('nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")',
                           "nn.init.normal_(convolution.weight, std=0.01)"),
        "graph": ("self.kept.append(x.detach())", "x = x.detach()\n            self.kept.append(x)"),
        "activation": ("torch.relu(convolution(x))", "torch.sigmoid(convolution(x))"),
        "update": ("    optimizer.zero_grad()\n", ""),
    }  # fmt: skip
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "initialisation", "activation", "graph" or "update"'),
             ('control = "<<_control>>"', 'control = ...  # "A", "B", "C" or "D"')]  # fmt: skip

    def wrong(values):
        others = {"initialisation": "activation", "activation": "graph", "graph": "update", "update": "initialisation"}
        letters = {"A": "B", "B": "C", "C": "D", "D": "A"}
        faults, fault, control = MendTheDeepNetwork.faults, values["_fault"], values["_control"]
        return [
            ("fault-left", *faults[fault], "still has its fault"),
            ("small-weights", *faults["initialisation"], "fades or explodes"),
            ("large-weights", faults["initialisation"][0], "nn.init.normal_(convolution.weight, std=0.5)",
             "fades or explodes"),
            ("sigmoid", *faults["activation"], "of another size"),
            ("cut", *faults["graph"], "no gradient"),
            ("adds-up", *faults["update"], "another gradient"),
            ("zeroed-too-late", "    optimizer.zero_grad()\n    loss.backward()\n",
             "    loss.backward()\n    optimizer.zero_grad()\n", "does not fall"),
            ("no-step", "    optimizer.step()\n", "", "does not fall"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{others[fault]}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "rate"', "none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letters[control]}"', "comes out right"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, and control <<_control>> shows it.

    In a network without norm each layer multiplies the signal by a factor, and on the way back the gradient. He's
    initialisation makes both factors 1 for ReLU: a weight has the variance 2 / (9 * channels), where the 2 pays for the half
    that the ReLU cuts off. With weights of 0.01, the factor is about a tenth, and after <<depth>> layers nothing is left of
    the signal. A sigmoid's slope is a quarter at most: the signal keeps its size, and only the gradient fades, so a
    look at the signal does not find it. A `detach` in the wrong place gives back `None`, and no error: the head alone
    learns, and the loss even falls a little. A missing `zero_grad` makes each step go along the sum of all
    gradients so far, which looks like a rate that grows from step to step.

    Measure signal and gradient **before** any training. One batch there and back tells the four apart, while a curve
    of the loss shows much the same in each case.
    """
    marking = """
    The mended code is graded on what it does, so another initialisation that keeps the signal passes. Word and letter are one
    point each. Ask aloud: a norm after each convolution would also have hidden one of the four faults. Which one?
    """

    @check(points=2)
    def mended(ask, values):
        """Signal, gradient and training step."""
        found = ask(health_of, values.depth, values.width, 0)
        told = "the code still has its fault, or another one"
        signals, gradients = found["signals"], found["gradients"]
        need(len(signals) >= values.depth, f"{told}: only {len(signals)} convolutions run")
        ratio = signals[-1] / max(signals[0], 1e-300)
        need(0.01 < ratio < 100, f"{told}: the signal fades or explodes on its way through the layers")
        need(min(gradients) > 0, f"{told}: a convolution gets no gradient")
        need(
            max(gradients) < 1000 * min(gradients),
            f"{told}: the gradient of one layer is of another size than that of another, by more than a thousand",
        )
        once, twice = found["norms"]
        need(
            abs(once - twice) < 1e-6 * max(once, 1e-9),
            f"{told}: at a rate of zero, the second step on a batch uses another gradient than the first",
        )
        need(
            found["last"] < found["first"] - 0.02,
            f"{told}: signal and gradient are fine, but the loss of three fixed batches does not fall",
        )

    @check(points=1)
    def words(ask, values):
        """Words out of the lists."""
        fault, control = ask(probes.value, "fault"), ask(probes.value, "control")
        need(
            fault in ("initialisation", "activation", "graph", "update"),
            f"fault = {fault!r} is none of the words of the task",
        )
        need(control in LETTERS, f"control = {control!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(ask(probes.value, "control") == reference["control"], "for the faulty code, that control comes out right")


def start_of(names, size, seed):
    """How a fresh network starts, in training mode: its loss, its gradients, and what a little noise does to its scores."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    network = probes.build(names, "deep_network", seed=seed).train()
    generator = torch.Generator().manual_seed(100 + seed)
    x = torch.rand(12, 3, size, size, generator=generator, dtype=torch.float64)
    x = 2 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, 1)
    copies = x + 0.02 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y, ran, hooks = torch.arange(12) % 10, [], []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(lambda module, inputs, output: ran.append(module)))
    both = network(torch.cat([x, copies]))
    for hook in hooks:
        hook.remove()
    F.cross_entropy(both, torch.cat([y, y])).backward()
    scores, other = both.detach().chunk(2)
    gradients = [0.0 if layer.weight.grad is None else float(layer.weight.grad.norm()) for layer in (ran[0], ran[-1])]
    return {
        "loss": float(F.cross_entropy(both.detach(), torch.cat([y, y]))),
        "first": gradients[0],
        "last": gradients[1],
        "own": float((scores - other).norm(dim=1).mean()),
        "others": float((scores[1:] - other[:-1]).norm(dim=1).mean()),
        "scores": bool((both < 0).any()),
    }


def need_start(found, what):
    """Raise Wrong unless a fresh network could be trained, as far as signal and gradient tell."""
    need(found["loss"] < 4, f"{what}: the loss is {found['loss']:.3g}, where guessing costs 2.3: the signal explodes")
    need(found["first"] > 1e-3, f"{what}: the gradient at the first convolution is as good as zero: something fades")
    ratio = found["first"] / max(found["last"], 1e-300)
    need(
        0.1 < ratio < 10,
        f"{what}: the gradient at the first convolution is {ratio:.3g} times that at the last layer, so it "
        f"{'explodes' if ratio > 1 else 'vanishes'} towards the input",
    )
    need(
        found["own"] < 0.6 * found["others"],
        f"{what}: the scores of an image and of its noisy copy differ almost as much as those of different images: it has "
        "lost its input",
    )


class DesignADeepNetwork(Exercise):
    """Design a deep network that can learn

    Write `deep_network()`, which returns a new network from images (N, 3, H, W) to raw scores (N, 10). It should be deep, and
    still start in a state from which it can learn. You are free in everything else: shortcuts, norms, initialisation,
    widths, strides. It must

    - have at least <<least_layers>> convolutions with a 3x3 kernel, one behind the other;
    - have at most <<max_parameters>> parameters, and at most <<max_macs>> million MACs (of convolutions and linear
      layers) for an image of 16x16 pixels;
    - run for images of 16x16 and of 24x24 pixels.

    And when it is fresh, in training mode, with images in random numbers:

    - its cross-entropy is below 4 (guessing costs 2.3);
    - the norm of the gradient at the weights of its **first convolution** is between a tenth and ten times that at the
      weights of its **last layer** (the one that gives the scores), and not as good as zero;
    - it still knows what it saw: the scores of an image and of a copy with a little noise are less than six tenths as far
      apart as those of different images.
    """

    goal = "design a deep network whose signal and gradient keep their size, within a budget"
    kind = "design"
    minutes, difficulty, importance = 25, 4, 4
    practice = {"least_layers": 24, "max_parameters": 120_000, "max_macs": 4.7}
    hints = [
        "A plain network with norms fails in one of the three measurements, and a residual one without norms in another. "
        "Section 4 of the chapter says which.",
        "Count before you build: n convolutions of w channels have about 9 * n * w * w parameters, and each is used once "
        "at each pixel. A stride early on saves most.",
        "`nn.AdaptiveAvgPool2d(1)`, or a mean over height and width, makes the head independent of the size.",
    ]

    def draw(chance):
        blocks = chance.choice([3, 4, 5])
        budgets = {3: (90_000, 3.5), 4: (120_000, 4.7), 5: (150_000, 5.9)}[blocks]
        return {"least_layers": 6 * blocks + chance.choice([-1, 0, 1]), "max_parameters": budgets[0] + chance.choice([0, 5_000]),
                "max_macs": round(budgets[1] + chance.choice([0, 0.2]), 1)}  # fmt: skip

    def stub():
        def deep_network(): ...

    def solution():
        class Block(nn.Module):
            def __init__(self, in_channels, out_channels, stride):
                super().__init__()
                self.branch = nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                )
                self.stride, self.more = stride, out_channels - in_channels

            def forward(self, x):
                y = self.branch(x)
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
                return torch.relu(x + y)

        def deep_network():
            blocks, in_channels = [], 8
            for width in (8, 16, 32):
                for number in range((least_layers + 4) // 6):
                    blocks.append(Block(in_channels, width, 2 if width > 8 and number == 0 else 1))
                    in_channels = width
            stem = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
            return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def right_pre_activation():
        class Branch(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.GroupNorm(4, width)
                self.convolution = nn.Conv2d(width, width, 3, padding=1)

            def forward(self, x):
                return x + self.convolution(F.relu(self.norm(x)))

        def deep_network():
            return nn.Sequential(
                nn.Conv2d(3, 16, 3, 2, 1),
                *(Branch(16) for _ in range(least_layers - 1)),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(16, 10),
            )

    def right_without_norm():
        class Deep(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
                self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(least_layers))
                self.scales = nn.Parameter(torch.zeros(least_layers))
                self.scores = nn.Linear(16, 10)
                nn.init.kaiming_normal_(self.stem.weight, nonlinearity="relu")

            def forward(self, x):
                x = self.stem(x)
                for scale, layer in zip(self.scales, self.layers):
                    x = x + scale * layer(torch.relu(x))
                return self.scores(x.mean((2, 3)))

        def deep_network():
            return Deep()

    def right_zero_scale():
        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU())
                self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
                nn.init.zeros_(self.second[1].weight)

            def forward(self, x):
                return F.gelu(x + self.second(self.first(x)))

        def deep_network():
            layers = [nn.Conv2d(3, 14, 3, padding=1, stride=2), nn.BatchNorm2d(14)]
            layers += [Block(14) for _ in range(least_layers // 2)]
            return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(14, 10))

    wrong = [
        ("plain", "return torch.relu(x + y)", "return torch.relu(y)", "a fresh network"),
        ("sum-doubled", "return torch.relu(x + y)", "return torch.relu(2 * (x + y))", "the signal explodes"),
        ("too-shallow", "range((least_layers + 4) // 6)", "range(2)", "3x3 convolutions run"),
        ("too-wide", "return nn.Sequential(*stem", "blocks.append(Block(32, 100, 1))\n    blocks.append(Block(100, 32, 1))\n    "
         "return nn.Sequential(*stem", "parameters"),
        ("full-size", "2 if width > 8 and number == 0 else 1", "1", "MACs"),
        ("softmax", "nn.Linear(32, 10))", "nn.Linear(32, 10), nn.Softmax(dim=1))", "raw scores"),
        ("one-size", "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)", "nn.Flatten(), nn.Linear(512, 10)",
         "24x24"),
        ("two-classes", "nn.Linear(32, 10)", "nn.Linear(32, 2)", "should be [2, 10]"),
        ("zero-head", "    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))",
         "    head = nn.Linear(32, 10)\n    nn.init.zeros_(head.weight)\n    nn.init.normal_(head.bias, std=0.1)\n    "
         "return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)", "as good as zero"),
        ("first-not-trained", "    return nn.Sequential(*stem", "    stem[0].weight.requires_grad_(False)\n    return "
         "nn.Sequential(*stem", "as good as zero"),
        ("large-branches", "y = self.branch(x)", "y = 40 * self.branch(x)", "fresh network"),
    ]  # fmt: skip

    explanation = """
    Three measurements, three illnesses. The **loss** of a fresh network shows a signal that explodes: that is the residual
    network without norm. The **ratio of the gradients** shows what a plain network with norm does. And the **noisy copy**
    shows whether the scores still depend on the image in the way they should: a plain network with norm loses it.

    Many answers are right. With shortcuts and norms a block adds a part of fixed size to a sum that grows. Without norms, a scale
    that begins at zero does the same: each block begins as the identity, and no signal can grow. In front of the convolutions or behind
    them, norms work either way. Even a plain network can pass, if its weights are drawn with care, but it has no room for error.

    The budget is met by counting: at half the side, a convolution with twice the channels costs as much as before, so most
    of the parameters are at the end and the MACs are spread evenly.
    """
    marking = """
    Everything is measured in float64 with fixed seeds, so a design that is near a border may pass with one seed and not
    with another: the hidden check takes means over seeds. Ask aloud: which of the three measurements would your network
    fail first if it were three times as deep?
    """

    @check(points=1)
    def shape_and_depth(ask, values):
        """Scores of the right shape at two sizes, and the depth."""
        for size in (16, 24):
            try:
                found = ask(probes.outline, "deep_network", [2, 3, size, size])
            except Wrong as error:
                raise Wrong(f"for images of {size}x{size} pixels: {error}") from None
            need(found["out"] == [2, 10], f"for {size}x{size} pixels the output should be [2, 10], not {found['out']}")
        deep = [layer for layer in found["layers"] if layer["kind"] == "Conv2d" and layer["kernel_size"] == [3, 3]]
        need(
            len(deep) >= values.least_layers,
            f"only {len(deep)} 3x3 convolutions run; {values.least_layers} were asked for",
        )

    @check(points=1)
    def budget(ask, values):
        """Parameters and MACs."""
        found, macs = ask(probes.outline, "deep_network", [1, 3, 16, 16]), 0
        for layer in found["layers"]:
            if layer["kind"] == "Conv2d":
                across, down = layer["kernel_size"]
                pixels = layer["out"][2] * layer["out"][3]
                macs += across * down * layer["in_channels"] // layer["groups"] * layer["out_channels"] * pixels
            elif layer["kind"] == "Linear":
                macs += layer["in_features"] * layer["out_features"]
        parameters = found["parameters"]
        need(
            parameters <= values.max_parameters,
            f"it has {parameters:,} parameters, and may have {values.max_parameters:,}: which layers have most?",
        )
        need(
            macs <= values.max_macs * 1e6,
            f"it has {macs / 1e6:.2f} million MACs, and may have {values.max_macs}: at how many pixels do the layers work?",
        )

    @check(points=1)
    def fresh(ask, values):
        """Signal and gradient of a fresh network."""
        found = ask(start_of, 16, 0)
        need(found["scores"], "no score is below zero: the network should give raw scores, as cross-entropy expects")
        need_start(found, "a fresh network")

    @check(points=2, hidden=True)
    def other_seeds(ask, values):
        """The same for other seeds, in the mean, and for larger images."""
        for size, seeds in [(16, (1, 2, 3)), (24, (4, 5))]:
            runs = [ask(start_of, size, seed) for seed in seeds]
            means = {key: sum(float(run[key]) for run in runs) / len(runs) for key in runs[0]}
            need_start(means, f"fresh networks, in the mean of {len(runs)}, {size}x{size} pixels")
