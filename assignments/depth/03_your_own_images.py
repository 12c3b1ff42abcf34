"""Your own images

You count mistakes class by class, work out how honest a network's confidence is, freeze a body so that it really stays
as it is, and mend a test that flatters. Do the chapter first; its sections 4, 5, 6 and 8 are the ones that you need.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check


def setup():
    import torch
    from torch import nn
    from torch.nn import functional as F


class ConfusionMatrix(Exercise):
    """Count the mistakes class by class

    Write two functions.

    - `confusion(scores, labels, classes)` takes the scores of a network, `(N, classes)`, and the true labels, `(N,)`,
      and gives a tensor of whole numbers, `(classes, classes)`: how many pictures of each true class were given to
      each class. Here **rows are the <<rows_are>> classes**, and columns the others.
    - `balanced_accuracy(matrix)` takes such a matrix and gives a number from 0 to 1: the mean of the recalls. A class
      of which there is **no picture** has no recall, and is left out of the mean.
    """

    goal = "judge uneven classes fairly, from a confusion matrix"
    kind = "build"
    minutes, difficulty, importance = 12, 2, 4
    practice = {"rows_are": "true"}
    hints = [
        "The class that a network gives to a picture is the place of its largest score: `scores.argmax(1)`.",
        "A loop over pairs of true and given class that adds one to an entry is good enough.",
        "The recall of a class is its entry on the diagonal, divided by the number of its pictures. In which direction do "
        "you have to add for that number?",
    ]

    def draw(chance):
        return {"rows_are": chance.choice(["true", "predicted"])}

    def stub():
        def confusion(scores, labels, classes): ...

        def balanced_accuracy(matrix): ...

    def solution():
        def confusion(scores, labels, classes):
            given = scores.argmax(1)
            matrix = torch.zeros(classes, classes, dtype=torch.long)
            for true, predicted in zip(labels.tolist(), given.tolist()):
                matrix[true, predicted] += 1
            return matrix if rows_are == "true" else matrix.T

        def balanced_accuracy(matrix):
            pictures = matrix.sum(1 if rows_are == "true" else 0)
            there = pictures > 0
            return (matrix.diag()[there] / pictures[there]).mean().item()

    def right_bincount():
        def confusion(scores, labels, classes):
            answer = scores.max(dim=1).indices
            pair = (labels, answer) if rows_are == "true" else (answer, labels)
            return torch.bincount(classes * pair[0] + pair[1], minlength=classes**2).view(classes, classes)

        def balanced_accuracy(matrix):
            found = []
            for k in range(len(matrix)):
                own = matrix[k] if rows_are == "true" else matrix[:, k]
                if own.sum():
                    found.append(float(matrix[k, k]) / float(own.sum()))
            return sum(found) / len(found)

    def right_products():
        def confusion(scores, labels, classes):
            true, given = (F.one_hot(part, classes).double() for part in (labels, scores.argmax(-1)))
            return (true.T @ given if rows_are == "true" else given.T @ true).round().int()

        def balanced_accuracy(matrix):
            own = matrix.double() if rows_are == "true" else matrix.double().T
            return (own / own.sum(1, keepdim=True)).diag().nanmean()

    def right_numpy():
        import numpy as np

        def confusion(scores, labels, classes):
            matrix = np.zeros((classes, classes), dtype=np.int64)
            pair = labels.numpy(), scores.numpy().argmax(1)
            np.add.at(matrix, pair if rows_are == "true" else pair[::-1], 1)
            return torch.from_numpy(matrix)

        def balanced_accuracy(matrix):
            own = np.asarray(matrix) if rows_are == "true" else np.asarray(matrix).T
            own = own[own.any(axis=1)]
            places = np.flatnonzero(np.asarray(matrix).sum(1 if rows_are == "true" else 0))
            return np.mean([line[k] / line.sum() for line, k in zip(own, places)])

    wrong = [
        ("rows-and-columns-exchanged", 'matrix if rows_are == "true" else matrix.T', 'matrix.T if rows_are == "true" else matrix',
         "rows and columns"),
        ("only-yes-or-no", "+= 1", "= 1", "adds up to"),
        ("as-shares", 'return matrix if rows_are == "true" else matrix.T', "return matrix / len(labels)", "whole numbers"),
        ("least-score", "argmax", "argmin", "diagonal"),
        ("size-from-the-data", "torch.zeros(classes, classes, dtype=torch.long)",
         "torch.zeros(labels.max() + 1, labels.max() + 1, dtype=torch.long)", "for 6 classes the matrix"),
        ("plain-accuracy", "return (matrix.diag()[there] / pictures[there]).mean().item()",
         "return (matrix.diag().sum() / matrix.sum()).item()", "plain accuracy"),
        ("precision", 'pictures = matrix.sum(1 if rows_are == "true" else 0)', 'pictures = matrix.sum(0 if rows_are == "true" else 1)',
         "by which number"),
        ("absent-class-counted", "return (matrix.diag()[there] / pictures[there]).mean().item()",
         "return (matrix.diag() / pictures.clamp(min=1)).mean().item()", "no picture"),
        ("not-a-number", "there = pictures > 0", "there = pictures >= 0", "no picture"),
        ("in-per-cent", "pictures[there]).mean().item()", "pictures[there]).mean().item() * 100", "from 0 to 1"),
        ("sum-of-recalls", "pictures[there]).mean().item()", "pictures[there]).sum().item()", "from 0 to 1"),
    ]  # fmt: skip

    explanation = """
    The diagonal holds what is right. With the <<rows_are>> classes in the rows, the pictures of a class are those of one
    <<"row" if rows_are == "true" else "column">>: add in that direction for the recall. In the other direction you get the
    **precision**, how much of what was called a class is one. Libraries do not agree on which is which, so the caption
    of a matrix must say it.

    A class without a picture has 0 / 0. Counting it as zero punishes the network for what nobody showed it, and one
    `nan` spoils the mean without an error.
    """
    marking = """
    The two functions are checked apart, the second with matrices of ours, so a mistake in the first does not cost twice.
    Ask aloud: which network has a plain accuracy of 95 % and a balanced one of 50 %?
    """

    @check(points=1)
    def form(ask, values):
        """Whole numbers, and each picture counted once."""
        import torch

        for classes, count, seed in ((3, 20, 0), (5, 40, 1), (6, 2, 0)):
            scores, labels = scores_of(classes, count, seed)
            found = ask(probes.call, "confusion", scores, labels, classes)
            need(torch.is_tensor(found), "confusion should return a tensor")
            need(
                list(found.shape) == [classes, classes],
                f"for {classes} classes the matrix has the shape {list(found.shape)}",
            )
            need(not found.is_floating_point(), "a confusion matrix holds whole numbers, not shares")
            need(int(found.sum()) == count, f"the matrix of {count} pictures adds up to {int(found.sum())}")
            right = int(found.diag().sum())
            need(
                right == int((scores.argmax(1) == labels).sum()), "the diagonal should hold the pictures that are right"
            )

    @check(points=1)
    def a_number(ask, values):
        """The balanced accuracy is a number, and does not depend on how many pictures a class has."""
        import torch

        matrix = torch.tensor([[6, 0, 2], [0, 4, 0], [2, 0, 6]])
        found = float(ask(probes.call, "balanced_accuracy", matrix))
        need(0 <= found <= 1, f"balanced_accuracy should be from 0 to 1, but is {found:.3f}")
        perfect = float(ask(probes.call, "balanced_accuracy", torch.diag(torch.tensor([900, 5, 1]))))
        need(abs(perfect - 1) < 1e-6, f"a network that is always right has a balanced accuracy of {perfect:.3f}")

    @check(points=1, hidden=True)
    def same_matrix(ask, values, reference):
        """The same matrix, for other numbers of classes."""
        import torch

        for classes, count, seed in ((2, 30, 3), (6, 50, 4), (7, 3, 5)):
            scores, labels = scores_of(classes, count, seed)
            found = ask(probes.call, "confusion", scores, labels, classes).long()
            right = reference["confusion"](scores, labels, classes)
            need(
                not torch.equal(found, right.T) or torch.equal(found, right), "rows and columns are the wrong way round"
            )
            need(torch.equal(found, right), f"for {count} pictures of {classes} classes the counts are not right")

    @check(points=1, hidden=True)
    def same_balance(ask, values, reference):
        """The balanced accuracy, with absent classes too."""
        import math

        import torch

        for lines in ([[18, 1, 1], [3, 3, 4], [1, 0, 1]], [[0, 0, 0], [2, 7, 1], [0, 3, 2]], [[8, 2], [5, 85]]):
            matrix = torch.tensor(lines) if values.rows_are == "true" else torch.tensor(lines).T.contiguous()
            found, right = float(ask(probes.call, "balanced_accuracy", matrix)), reference["balanced_accuracy"](matrix)
            absent = not all(any(line) for line in lines)
            plain = matrix.diag().sum().item() / matrix.sum().item()
            need(
                not absent or (not math.isnan(found) and abs(found - right) < 1e-6),
                "a class of which there is no picture is not left out of the mean",
            )
            need(
                abs(found - plain) > 1e-6 or abs(right - plain) < 1e-6,
                "that is the plain accuracy: each class counts alike",
            )
            need(
                abs(found - right) < 1e-6, "the recalls are not right: by which number is each of the diagonal divided?"
            )


def scores_of(classes, count, seed):
    """Scores without ties, which are right about half of the time, and labels."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    scores = torch.stack([torch.randperm(classes, generator=generator) for _ in range(count)]).double()
    helped = torch.rand(count, generator=generator) < 0.4
    scores[helped, labels[helped]] += classes
    return scores, labels


NUMBERS = ("error", "excess", "cooled", "needed")


class CalibrationByHand(Exercise):
    """Work out how honest a network is

    A network for two classes has judged <<pictures[0] + pictures[1] + pictures[2] + pictures[3]>> pictures. They were
    sorted into four bins by the confidence of the answer:

    | bin | pictures | mean confidence | right answers |
    |---|---|---|---|
    | 0.5 to 0.625 | <<pictures[0]>> | <<confidence[0]>> | <<right[0]>> |
    | 0.625 to 0.75 | <<pictures[1]>> | <<confidence[1]>> | <<right[1]>> |
    | 0.75 to 0.875 | <<pictures[2]>> | <<confidence[2]>> | <<right[2]>> |
    | 0.875 to 1 | <<pictures[3]>> | <<confidence[3]>> | <<right[3]>> |

    The lists `pictures`, `confidence` and `right` hold the columns. Work out, as fractions (0.05, not 5 %):

    - `error`: the expected calibration error, the mean distance between confidence and share of right answers, where
      each bin counts by its pictures;
    - `excess`: the mean confidence of **all** pictures, less the share of them that are right (negative if the network is
      not sure enough);
    - `cooled`: what a probability of <<before>> becomes if both logits are divided by a temperature of <<temperature>>
      before the softmax;
    - `needed`: the temperature that would make <<after>> of <<before>>.

    For two classes the softmax is $1 / (1 + e^{-d})$, where d is the difference of the two logits.
    """

    goal = "work out a calibration error and a temperature by hand"
    kind = "compute"
    minutes, difficulty, importance = 15, 3, 4
    practice = {
        "pictures": [40, 60, 100, 200], "confidence": [0.58, 0.7, 0.82, 0.96], "right": [26, 44, 74, 172],
        "before": 0.9, "after": 0.8, "temperature": 1.5,
    }  # fmt: skip
    hints = [
        "In each bin, the share of right answers is `right / pictures`. Take the distance before you average, not after.",
        "Which difference of logits gives a probability p? Solve p = 1 / (1 + exp(-d)) for d; `math.log` is the natural "
        "logarithm.",
        "A temperature divides the difference of the logits, whatever the softmax makes of it afterwards.",
    ]

    def draw(chance):
        # error, excess and their usual slips are well apart in each of them
        pictures, confidence, right = chance.choice([
            ([30, 80, 120, 300], [0.57, 0.68, 0.82, 0.94], [18, 58, 94, 263]),
            ([30, 80, 120, 200], [0.59, 0.69, 0.8, 0.96], [19, 59, 89, 172]),
            ([40, 60, 100, 300], [0.56, 0.68, 0.82, 0.96], [24, 43, 74, 269]),
            ([20, 60, 120, 300], [0.58, 0.7, 0.83, 0.94], [13, 43, 90, 252]),
            ([30, 80, 100, 300], [0.58, 0.69, 0.82, 0.95], [19, 59, 78, 257]),
            ([40, 50, 120, 300], [0.57, 0.7, 0.82, 0.94], [25, 37, 93, 261]),
            ([40, 50, 120, 300], [0.56, 0.7, 0.8, 0.94], [24, 36, 88, 256]),
        ])  # fmt: skip
        before, after = chance.choice([(0.95, 0.85), (0.9, 0.75), (0.98, 0.9), (0.95, 0.8), (0.85, 0.7)])
        return {
            "pictures": pictures,
            "confidence": confidence,
            "right": right,
            "before": before,
            "after": after,
            "temperature": chance.choice([1.25, 1.75, 2.5, 3.0]),
        }

    def stub():
        error = ...
        excess = ...
        cooled = ...
        needed = ...

    def solution():
        import math

        total = sum(pictures)
        gaps = [sure - hit / count for sure, hit, count in zip(confidence, right, pictures)]
        error = sum(count / total * abs(gap) for count, gap in zip(pictures, gaps))
        excess = sum(count * sure for count, sure in zip(pictures, confidence)) / total - sum(right) / total
        difference = math.log(before / (1 - before))
        cooled = 1 / (1 + math.exp(-difference / temperature))
        needed = difference / math.log(after / (1 - after))

    def right_tensors():
        count, sure, hit = (torch.tensor(part, dtype=torch.float64) for part in (pictures, confidence, right))
        error = (sure * count - hit).abs().sum() / count.sum()
        excess = (sure * count - hit).sum() / count.sum()
        logits = torch.tensor([before, 1 - before], dtype=torch.float64).log()
        cooled = (logits / temperature).softmax(0)[0]
        needed = torch.tensor(before).double().logit() / torch.tensor(after).double().logit()

    def right_rounded():
        import numpy as np

        share = np.array(right) / np.array(pictures)
        error = round(float(np.average(np.abs(np.array(confidence) - share), weights=pictures)), 4)
        excess = round(float(np.average(confidence, weights=pictures) - np.average(share, weights=pictures)), 4)
        # odds are raised to the power 1 / T
        odds = (before / (1 - before)) ** (1 / temperature)
        cooled = round(odds / (1 + odds), 4)
        needed = round(float(np.log10(before / (1 - before)) / np.log10(after / (1 - after))), 4)

    wrong = [
        ("bins-alike", "sum(count / total * abs(gap) for count, gap in zip(pictures, gaps))",
         "sum(abs(gap) for gap in gaps) / 4", "by its pictures"),
        ("sum-of-distances", "sum(count / total * abs(gap) for count, gap in zip(pictures, gaps))",
         "sum(abs(gap) for gap in gaps)", "error is not right"),
        ("signs-cancel", "count / total * abs(gap)", "count / total * gap", "distance"),
        ("in-per-cent", "error = sum(", "error = 100 * sum(", "fraction"),
        ("other-sign", "/ total - sum(right) / total", "/ total * -1 + sum(right) / total", "sign"),
        ("bins-alike-in-the-excess", "sum(count * sure for count, sure in zip(pictures, confidence)) / total",
         "sum(confidence) / 4", "all pictures"),
        ("probability-divided", "1 / (1 + math.exp(-difference / temperature))", "before / temperature", "logits"),
        ("multiplied", "-difference / temperature", "-difference * temperature", "surer"),
        ("probability-for-logit", "-difference / temperature", "-before / temperature", "difference of the two logits"),
        ("upside-down", "difference / math.log(after / (1 - after))", "math.log(after / (1 - after)) / difference",
         "less sure"),
        ("ratio-of-probabilities", "difference / math.log(after / (1 - after))", "before / after", "needed is not right"),
        ("logarithms-of-probabilities", "needed = difference / math.log(after / (1 - after))",
         "needed = math.log(after) / math.log(before)", "needed is not right"),
        ("a-word", "needed = difference / math.log(after / (1 - after))", "needed = 'about two'", "should be a number"),
    ]  # fmt: skip

    explanation = """
    In the first two bins this network is right more often than it says, in the last two less often. So the signed gaps
    cancel in part, and `excess` is smaller than `error`: **a network may be calibrated in the mean and wrong in each bin**.
    That is why the calibration error takes the distance first. It can never be below the amount of `excess`.

    A probability p of two classes is a difference of logits of ln(p / (1 - p)). The temperature divides it, so the odds
    p / (1 - p) are raised to the power 1 / T. The answer stays, since the sign of the difference does. One temperature
    makes **all** bins less sure: here it would mend the last two bins and spoil the first two.
    """
    marking = """
    Within 0.0006 (0.006 for the temperature), so rounding to three decimals is right. Ask aloud: how many pictures would
    a bin need before a gap of 0.03 in it is more than chance?
    """

    @check(points=1)
    def written(ask, values):
        """Four numbers that are possible."""
        found = {name: number_of(ask(probes.value, name), name) for name in NUMBERS}
        need(found["error"] < 1, "error should be a fraction, not per cent")
        need(-1 < found["excess"] < 1, "excess should be a fraction, not per cent")
        need(found["error"] >= 0, "error is a mean distance: it cannot be below zero")
        need(0 < found["cooled"] < 1, "cooled is a probability")
        need(found["needed"] > 0, "needed is a temperature: it is above zero")

    @check(points=1, hidden=True)
    def the_error(ask, values, reference):
        """The expected calibration error."""
        found, right = number_of(ask(probes.value, "error"), "error"), reference["error"]
        gaps = [sure - hit / count for sure, hit, count in zip(values.confidence, values.right, values.pictures)]
        need(abs(found - right * 100) > 0.05, "error is in per cent: a fraction was asked for")
        need(abs(found - abs(reference["excess"])) > 6e-4, "error: take the distance in each bin before you average")
        need(abs(found - sum(map(abs, gaps)) / 4) > 6e-4, "error: each bin counts by its pictures, not alike")
        need(abs(found - right) <= 6e-4, "error is not right: a mean over all pictures of the distances in their bins")

    @check(points=1, hidden=True)
    def the_excess(ask, values, reference):
        """Too sure or not sure enough, over all pictures."""
        found, right = number_of(ask(probes.value, "excess"), "excess"), reference["excess"]
        need(abs(found + right) > 6e-4, "excess has the other sign: confidence less share of right answers")
        need(
            abs(found - right) <= 6e-4,
            "excess is not right: the mean confidence of all pictures counts each picture once",
        )

    @check(points=2, hidden=True)
    def temperatures(ask, values, reference):
        """What a temperature does, and which one is needed."""
        found, right = number_of(ask(probes.value, "cooled"), "cooled"), reference["cooled"]
        need(
            abs(found - values.before / values.temperature) > 6e-4,
            "cooled: the logits are divided, not the probability",
        )
        need(found <= values.before, "cooled: a temperature above one makes no network surer")
        need(
            abs(found - right) <= 6e-4, "cooled is not right: which difference of the two logits has that probability?"
        )
        found, right = number_of(ask(probes.value, "needed"), "needed"), reference["needed"]
        need(found > 1, "needed: to make a network less sure, should the temperature be above or below one?")
        need(abs(found - right) <= 6e-3, "needed is not right: compare the differences of logits before and after")


class HeadOnly(Exercise):
    """Freeze a body, train a head, and thaw it again

    Write two functions.

    - `head_only(body, features, classes)` returns a network that takes images and gives `classes` scores. It consists of
      `body`, a network that was trained by others and gives `features` numbers for each image, and **one new linear
      layer** on top. The body is frozen: its weights are not trained, they get no gradient, and the body behaves as in
      evaluation mode **even after `network.train()`**, dropout and norms included.
    - `thawed(network)` takes such a network, perhaps with its head trained, and returns one that begins where it stands:
      body and head as they are now, but everything is trained, and norms and dropout follow `train()` and `eval()` again.

    How you do it is up to you: a class of your own, or a change to the body. Your copy checks it with a body of <<width>>
    features, and <<kinds>> classes.
    """

    goal = "transfer a trained network: freeze its body with its norms, train a head"
    kind = "build"
    minutes, difficulty, importance = 20, 4, 5
    practice = {"width": 6, "kinds": 3}
    hints = [
        "`requires_grad_(False)` stops gradients. Which parts of a norm change without any gradient, and when?",
        "`network.train()` calls `train(True)` of each part. A class whose `train` always calls `super().train(False)` "
        "stays in evaluation mode.",
        "To thaw, both things have to be undone: gradients on, and the part that refuses training mode out of the way.",
    ]

    def draw(chance):
        return {"width": chance.choice([5, 7, 8, 10]), "kinds": chance.choice([2, 4, 5])}

    def stub():
        def head_only(body, features, classes): ...

        def thawed(network): ...

    def solution():
        class Frozen(nn.Module):
            def __init__(self, body):
                super().__init__()
                self.body = body.requires_grad_(False)
                self.train()

            def train(self, mode=True):
                return super().train(False)

            def forward(self, x):
                return self.body(x)

        def head_only(body, features, classes):
            return nn.Sequential(Frozen(body), nn.Linear(features, classes))

        def thawed(network):
            body, head = network[0].body, network[1]
            return nn.Sequential(body.requires_grad_(True), head)

    def right_a_switch():
        class Transfer(nn.Module):
            def __init__(self, body, features, classes):
                super().__init__()
                self.body, self.top = body, nn.Linear(features, classes)
                self.freeze(True)

            def freeze(self, frozen):
                self.frozen = frozen
                for weight in self.body.parameters():
                    weight.requires_grad = not frozen
                self.train(self.training)

            def train(self, mode=True):
                super().train(mode)
                if self.frozen:
                    self.body.eval()
                return self

            def forward(self, images):
                return self.top(self.body(images))

        def head_only(body, features, classes):
            return Transfer(body, features, classes)

        def thawed(network):
            network.freeze(False)
            return network

    def right_in_forward():
        import copy

        class HeadOnTop(nn.Module):
            def __init__(self, body, head):
                super().__init__()
                self.body, self.head = copy.deepcopy(body).requires_grad_(False), head

            def forward(self, x):
                self.body.eval()
                with torch.no_grad():
                    x = self.body(x)
                return self.head(x)

        def head_only(body, features, classes):
            return HeadOnTop(body, nn.Linear(features, classes))

        def thawed(network):
            parts = [copy.deepcopy(part) for part in (network.body, network.head)]
            return nn.Sequential(*parts).requires_grad_(True).train()

    def right_method_replaced():
        def head_only(body, features, classes):
            body.eval()
            for weight in body.parameters():
                weight.requires_grad_(False)
            body.train = lambda mode=True: body
            return nn.Sequential(body, nn.Linear(features, classes))

        def thawed(network):
            del network[0].train
            for weight in network.parameters():
                weight.requires_grad_()
            return network

    wrong = [
        ("gradients-off-only", "return super().train(False)", "return super().train(mode)", "running statistics"),
        ("mode-only", "self.body = body.requires_grad_(False)", "self.body = body", "the body is trained"),
        ("everything-frozen", "return nn.Sequential(Frozen(body), nn.Linear(features, classes))",
         "return nn.Sequential(Frozen(body), nn.Linear(features, classes)).requires_grad_(False)", "nothing is trained"),
        ("once-in-evaluation-mode", "return nn.Sequential(Frozen(body), nn.Linear(features, classes))",
         "return nn.Sequential(body.requires_grad_(False).eval(), nn.Linear(features, classes))", "running statistics"),
        ("body-forgotten", "nn.Sequential(Frozen(body), nn.Linear(features, classes))",
         "nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))", "your code raised"),
        ("two-layers", "nn.Linear(features, classes))", "nn.Linear(features, features), nn.Linear(features, classes))",
         "one linear layer"),
        ("no-bias", "nn.Linear(features, classes))", "nn.Linear(features, classes, bias=False))", "one linear layer"),
        ("softmax-on-top", "nn.Linear(features, classes))", "nn.Linear(features, classes), nn.Softmax(1))",
         "scores, not probabilities"),
        ("fixed-classes", "nn.Linear(features, classes))", "nn.Linear(features, kinds))", "one score for each"),
        ("thawed-gradients-only", "body, head = network[0].body, network[1]", "body, head = network", "follow"),
        ("thawed-mode-only", "body.requires_grad_(True)", "body", "still frozen"),
        ("new-head", "return nn.Sequential(body.requires_grad_(True), head)",
         "return nn.Sequential(body.requires_grad_(True), nn.Linear(head.in_features, head.out_features))",
         "begins elsewhere"),
        ("head-frozen-instead", "return nn.Sequential(body.requires_grad_(True), head)",
         "return nn.Sequential(body.requires_grad_(True), head.requires_grad_(False))", "still frozen"),
    ]  # fmt: skip

    explanation = """
    Two kinds of numbers of a body can change. **Weights** change by gradients, and `requires_grad_(False)` stops them.
    **Running means and variances** change by each forward pass in training mode, without a gradient, an optimizer or a
    message. `body.eval()` stops them only until the next `network.train()`, which every training loop calls at the start
    of an epoch: so the promise has to be kept by the part itself.

    A body that does not move gives the same features each time. That is what allows to compute them once; and a dropout
    that is still on, or norms that follow the batch, would make those features wrong.

    Thawing undoes both. If only the gradients come back, the norms keep the statistics of other people's pictures while
    the weights move on, which is the switch that was left off in the chapter before.
    """
    marking = """
    Three steps of SGD are taken with whatever is trainable, in training mode, and everything but the head must be the same
    bit for bit afterwards. Thawing is worth two points of its own. Ask aloud: with frozen norms and thawed weights, what
    could go wrong, and when would one want exactly that?
    """

    @check(points=1)
    def trained_parts(ask, values):
        """A head of one linear layer is trained, and nothing else."""
        found = ask(transferred, values.width, values.kinds, 1)
        told = f"for 5 images and {values.kinds} classes the network gives {found['shape']}"
        need(found["shape"] == [5, values.kinds], f"{told}: scores of each class for each image were asked for")
        shapes = sorted(found["trained"].values())
        need(shapes != [], "nothing is trained: the head should be")
        need(all(len(shape) < 3 for shape in shapes), f"the body is trained, too: {', '.join(found['trained'])}")
        right = sorted([[values.kinds, values.width], [values.kinds]])
        need(shapes == right, f"the head should be one linear layer from features to classes, but {shapes} is trained")
        need(not found["gradients"], "a part of the body gets a gradient, though it is frozen")

    @check(points=2)
    def body_stays(ask, values):
        """After three steps in training mode the body is what it was."""
        found = ask(transferred, values.width, values.kinds, 2)
        need(len(found["trained"]) > 0, "nothing is trained: the head should be")
        kept = {key for key in found["changed"] if key not in found["trained"]}
        statistics = sorted(key for key in kept if "running" in key or "batches" in key)
        need(not statistics, f"the running statistics of the body moved: {', '.join(statistics[:2])}")
        need(not kept, f"the body moved: {', '.join(sorted(kept)[:2])}")
        need(found["modes_agree"], "in training mode the body gives other features than in evaluation mode")
        need(
            set(found["trained"]) <= set(found["changed"]), "the head does not learn: it is the same after three steps"
        )

    @check(points=1, hidden=True)
    def same_scores(ask, values, reference):
        """The scores are those of the head on the body's features, for other sizes."""
        for width, kinds in ((4, 6), (9, values.kinds)):
            found = ask(transferred, width, kinds, 3)
            need(
                found["shape"] == [5, kinds],
                f"with {kinds} classes the network gives {found['shape']}, not one score for each",
            )
            need(
                found["same_scores"],
                "the network should give scores, not probabilities: the head's on the body's features",
            )

    @check(points=2, hidden=True)
    def thaws(ask, values, reference):
        """Thawed: everything is trained, and the mode is followed."""
        for width, kinds in ((values.width, values.kinds), (5, 3)):
            found = ask(transferred, width, kinds, 4, thaw=True)
            need(found["same"], "the thawed network begins elsewhere: body and head should be as they are now")
            need(not found["frozen"], f"still frozen in the thawed network: {', '.join(found['frozen'][:3])}")
            need(found["moved"], "the norms of the thawed network do not follow train(): their statistics stay")
            need(found["follows"], "the thawed network does not follow eval(): twice the same images, two answers")


def transferred(names, width, kinds, seed, thaw=False):
    """What three steps in training mode do to a network of head_only; or what thawed makes of one."""
    import copy

    import torch
    from torch import nn

    def images_of(seed):
        return torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def made_by(name, *arguments):
        network = probes.made(name, probes.find(names, name)(*arguments))
        if not isinstance(network, nn.Module):
            raise Wrong(f"{name} should return a network (an nn.Module), not a {type(network).__name__}")
        return network.double()

    def weights_of(network):
        return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, width, 3),
            nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ).double()  # fmt: skip
        probes.shuffle(body, 1)
        frozen, images = copy.deepcopy(body).eval(), images_of(seed)
        network = made_by("head_only", body, width, kinds)
        trained = weights_of(network)
        if thaw:
            with torch.no_grad():
                for weight in trained.values():
                    weight.add_(0.5)
                before = network.eval()(images)
                network.train()
                network = made_by("thawed", network)
                same = torch.allclose(before, network.eval()(images), atol=1e-9)
                statistics = {key: part.clone() for key, part in network.named_buffers()}
                network.train()(images)
                moved = all(not torch.equal(part, statistics[key]) for key, part in network.named_buffers())
                network.eval()
                follows = torch.equal(network(images), network(images))
            still = [name for name, weight in network.named_parameters() if not weight.requires_grad]
            return {"same": same, "moved": moved, "follows": follows, "frozen": still}
        network.eval()
        network.train()
        before = {key: part.detach().clone() for key, part in network.state_dict().items()}
        with torch.no_grad():
            out = network(images)
            same_scores = False
            if sorted(weight.dim() for weight in trained.values()) == [1, 2]:
                bias, weight = sorted(trained.values(), key=torch.Tensor.dim)
                if weight.shape == (kinds, width):
                    same_scores = torch.allclose(out, nn.functional.linear(frozen(images), weight, bias), atol=1e-9)
            modes_agree = torch.allclose(out, network.eval()(images), atol=1e-9)
        network.train()
        for _ in range(3 if trained else 0):
            network.zero_grad()
            nn.functional.cross_entropy(network(images), torch.arange(5) % out.shape[1]).backward()
            with torch.no_grad():
                for weight in trained.values():
                    weight -= 0.1 * (weight.grad if weight.grad is not None else 0)
        after = network.state_dict()
    return {
        "shape": list(out.shape),
        "trained": {name: list(weight.shape) for name, weight in trained.items()},
        "gradients": [
            name for name, weight in network.named_parameters() if weight.grad is not None and name not in trained
        ],
        "changed": [key for key in before if not torch.equal(before[key], after[key])],
        "modes_agree": modes_agree,
        "same_scores": same_scores,
    }


class AFairTest(Exercise):
    """Mend a test that flatters

    You get this code with a report: "97 % on the test pictures". The pictures were taken in **series**, several of each
    animal; `series` holds a number for each picture. `split` keeps one series in <<every>> for the test. In training, the
    pictures are normalised by `prepared` with `numbers_of(images[train_rows])`. `test_accuracy` is called right after the
    last epoch, so the network arrives **in training mode**.

    **One place** is at fault, and the number is not that of a fair test. Mend it in place; keep the names and arguments
    of `split` and `test_accuracy`. Then set `fault` to the word that names what was wrong:

    - `"folder"`: the test reads pictures that were for training;
    - `"mode"`: the network is tested in training mode;
    - `"leak"`: pictures of one series are on both sides of the split;
    - `"normalisation"`: the test's pictures are normalised with other numbers than those of training;
    - `"average"`: not every test picture counts alike.

    And set `shows` to the letter of the experiment that shows this fault, and shows none of the other four:

    - `"A"`: compare the network's state dict before and after the test.
    - `"B"`: test a network that knows the answer to every picture, with batches of which the last is smaller. Is the
      accuracy exactly 1?
    - `"C"`: list the rows that the network is shown in the test. Is any of them among the rows to train on?
    - `"D"`: list the series of the rows to train on, and those of the rows to test on. Is any in both lists?
    - `"E"`: take one picture, and compare what the network is given for it in the test with what it would be given in
      training. Are the numbers the same?
    """

    goal = "spot the classic mistakes of testing, and say which experiment shows them"
    kind = "break"
    minutes, difficulty, importance = 18, 3, 5
    practice = {"every": 4, "_fault": "mode", "_shows": "A"}
    hints = [
        "Follow one test picture through the code: which list is it in, what is done to its pixels, in which mode does the "
        "network see it, how is it counted?",
        "Four of the five experiments need no trained network. A part that notes its input and its mode is enough.",
    ]

    def draw(chance):
        fault, shows = chance.choice(
            [("folder", "C"), ("mode", "A"), ("leak", "D"), ("normalisation", "E"), ("average", "B")]
        )
        return {"every": chance.choice([3, 4, 5]), "_fault": fault, "_shows": shows}

    def solution():
        def split(series):
            """The rows to train on, and those to test on."""
            names = sorted(set(series.tolist()))
            held_out = names[every - 1 :: every]
            is_test = torch.isin(series, torch.tensor(held_out))
            return (~is_test).nonzero()[:, 0], is_test.nonzero()[:, 0]

        def numbers_of(images):
            """Mean and standard deviation of each channel."""
            std, mean = torch.std_mean(images, (0, 2, 3), keepdim=True)
            return mean, std

        def prepared(images, numbers):
            """Images (N, 3, H, W) as the network gets them."""
            mean, std = numbers
            return (images - mean) / std

        def test_accuracy(network, images, labels, series, batch_size):
            """The share of the test pictures for which the network is right."""
            train_rows, test_rows = split(series)
            judged = test_rows
            numbers = numbers_of(images[train_rows])
            network.eval()
            right = 0
            with torch.no_grad():
                for rows in judged.split(batch_size):
                    scores = network(prepared(images[rows], numbers))
                    hits = scores.argmax(1) == labels[rows]
                    right += hits.sum().item()
            return right / len(judged)

        fault = "<<_fault>>"
        shows = "<<_shows>>"

    def right_loader():
        from torch.utils.data import DataLoader, TensorDataset

        def split(series):
            names = series.unique().tolist()
            test_names = {name for place, name in enumerate(names, 1) if place % every == 0}
            parts = ([], [])
            for row, name in enumerate(series.tolist()):
                parts[name in test_names].append(row)
            return torch.tensor(parts[0]), torch.tensor(parts[1])

        def test_accuracy(network, images, labels, series, batch_size):
            known, unknown = split(series)
            mean = images[known].mean((0, 2, 3), keepdim=True)
            std = images[known].std((0, 2, 3), keepdim=True)
            network.train(False)
            found = []
            for x, y in DataLoader(
                TensorDataset((images[unknown] - mean) / std, labels[unknown]), batch_size, shuffle=True
            ):
                found.append((network(x).detach().argmax(1) == y).double())
            return torch.cat(found).mean().item()

        fault, shows = "<<_fault>>", "<<_shows>>"

    def right_at_once():
        def split(series):
            order = torch.unique(series, return_inverse=True)[1]
            test = order % every == every - 1
            rows = torch.arange(len(series))
            return rows[~test], rows[test]

        def test_accuracy(network, images, labels, series, batch_size):
            train_rows, test_rows = split(series)
            channels = images[train_rows].transpose(0, 1).flatten(1)
            mean, std = (part.view(1, -1, 1, 1) for part in (channels.mean(1), channels.std(1)))
            with torch.inference_mode():
                answers = network.eval()((images[test_rows] - mean) / std).argmax(1)
            return (answers == labels[test_rows]).double().mean()

        fault = "<<_fault>>"
        shows = "<<_shows>>"

    faults = {
        "folder": ("judged = test_rows", "judged = train_rows"),
        "mode": ("network.eval()", "network.requires_grad_(False)"),
        "leak": (
            "is_test = torch.isin(series, torch.tensor(held_out))",
            "is_test = torch.arange(len(series)) % every == every - 1",
        ),
        "normalisation": ("numbers = numbers_of(images[train_rows])", "numbers = numbers_of(images[judged])"),
        "average": ("right += hits.sum().item()", "right += hits.double().mean().item() * batch_size"),
    }
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "folder", "mode", "leak", "normalisation" or "average"'),
             ('shows = "<<_shows>>"', 'shows = ...  # "A", "B", "C", "D" or "E"')]  # fmt: skip

    def wrong(values):
        words = ["folder", "mode", "leak", "normalisation", "average"]
        other = words[(words.index(values["_fault"]) + 1) % 5]
        letter = "ABCDE"[("ABCDE".index(values["_shows"]) + 1) % 5]
        told = "is not a fair test"
        return [
            ("fault-left", *AFairTest.faults[values["_fault"]], told),
            ("another-fault", *AFairTest.faults[other], told),
            ("all-pictures", "judged = test_rows", "judged = torch.arange(len(series))", told),
            ("half-of-them", "judged = test_rows", "judged = test_rows[::2]", told),
            ("numbers-of-all", "numbers_of(images[train_rows])", "numbers_of(images)", told),
            ("a-count", "return right / len(judged)", "return right", told),
            ("per-cent", "return right / len(judged)", "return 100 * right / len(judged)", told),
            ("other-series", "names[every - 1 :: every]", "names[every - 2 :: every]", "one series in"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{other}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "eval"', "is none of the words"),
            ("wrong-experiment", 'shows = "<<_shows>>"', f'shows = "{letter}"', "shows another fault"),
            ("no-letter", 'shows = "<<_shows>>"', 'shows = "Z"', "is none of the letters"),
        ]  # fmt: skip

    explanation = """
    The fault was `"<<_fault>>"`; experiment <<_shows>> shows it, and passes for the other four.

    Training pictures in the test flatter by memory, and so does a split by picture, in a way that no list of rows shows:
    a second shot of the same animal is nearly the same picture. The tested network in training mode takes its statistics
    from the batch, so the answer depends on the neighbours; and as each forward pass moves the running statistics, the
    test **changes** the network, which is how experiment A finds it. `requires_grad_(False)` does nothing about that.

    Numbers for the normalisation belong to the network: they are fitted on the training pictures, and then fixed. A mean
    over batches is wrong as soon as the last batch is smaller: its pictures count for more.

    None of the five raises an error, and two of them can cancel. So test the test: with inputs whose right answer you know.
    """
    marking = """
    Graded by what a recording network is shown, in which mode, and by the number that comes back; any order and any batches
    pass. Word and letter are a point each. Ask aloud: which of the five faults lower the number, and why are they worse
    than they look?
    """

    @check(points=2)
    def mended(ask, values):
        """The number is that of a fair test."""
        import torch

        for count, batch_size, seed in ((46, 4, 0), (61, 8, 1)):
            images, labels, series = album(count, seed)
            found = ask(judged_by, images, labels, series, batch_size)
            train, test = (set(found[part].tolist()) for part in ("train", "test"))
            told = "what test_accuracy does is not a fair test"
            whole = len(train) + len(test) == count and train | test == set(range(count)) and len(test) > 0
            need(whole, f"{told}: split should put each picture on one side, and some on each")
            parts = [{series[row].item() for row in part} for part in (train, test)]
            known = images[sorted(train)]
            std, mean = torch.std_mean(known, (0, 2, 3), keepdim=True)
            rows = torch.tensor(sorted(test))
            given = ((images[rows] - mean) / std).flatten(1)
            seen = found["seen"].flatten(1)
            same = (
                seen.shape == given.shape and not parts[0] & parts[1] and not any(found["modes"]) and found["untouched"]
            )
            if same:
                gaps = (seen[:, None] - given[None]).abs().amax(2)
                place = gaps.argmin(1)
                same = bool((gaps.amin(1) < 1e-3).all()) and len(set(place.tolist())) == len(rows)
            if same:
                right = (found["scores"].argmax(1) == labels[rows[place]]).double().mean().item()
                same = abs(float(found["accuracy"]) - right) < 1e-6
            need(same, f"{told}: follow one test picture through the code, from the split to the count")

    @check(points=1)
    def words(ask, values):
        """The word and the letter are among those of the task."""
        found = ask(probes.value, "fault")
        need(
            found in ("folder", "mode", "leak", "normalisation", "average"),
            f"fault = {found!r} is none of the words of the task",
        )
        found = ask(probes.value, "shows")
        need(found in ("A", "B", "C", "D", "E"), f"shows = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named, and the split is still that of the task."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")
        _, _, series = album(50, 3)
        found = {row for row in ask(probes.call, "split", series)[1].tolist()}
        right = {row for row in reference["split"](series)[1].tolist()}
        need(found == right, f"split should keep one series in {values.every} for the test, those that it was made for")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The experiment is the one that shows it."""
        need(ask(probes.value, "shows") == reference["shows"], "that experiment shows another fault, not this one")


def album(count, seed):
    """Pictures, labels and series: each series has a brightness of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    series = torch.randint(12, (count,), generator=generator)
    series[:12] = torch.arange(12)
    images = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64) + 0.2 * series.view(-1, 1, 1, 1)
    return images, torch.randint(2, (count,), generator=generator), 10 + 3 * series


def judged_by(names, images, labels, series, batch_size):
    """What a recording network is shown by the student's test, in which mode, and the number that comes back."""
    import torch
    from torch import nn

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3).double()
            self.seen, self.modes, self.scores = [], [], []

        def forward(self, x):
            y = self.norm(x).mean((2, 3))
            scores = torch.stack([y[:, 0] - y[:, 1], y[:, 2] - y[:, 1]], 1)
            self.seen.append(x.detach().clone())
            self.modes.append(self.training or self.norm.training)
            self.scores.append(scores.detach().clone())
            return scores

    split, test_accuracy = probes.find(names, "split"), probes.find(names, "test_accuracy")
    train, test = probes.plain(list(probes.made("split", split(series))))
    network = Recorder().train()
    before = {key: part.clone() for key, part in network.state_dict().items()}
    accuracy = probes.made("test_accuracy", test_accuracy(network, images, labels, series, batch_size))
    if not network.seen:
        raise Wrong("test_accuracy does not show the network any picture")
    untouched = all(torch.equal(part, before[key]) for key, part in network.state_dict().items())
    return {
        "train": torch.as_tensor(train), "test": torch.as_tensor(test), "seen": torch.cat(network.seen),
        "scores": torch.cat(network.scores), "modes": network.modes, "accuracy": float(accuracy), "untouched": untouched,
    }  # fmt: skip
