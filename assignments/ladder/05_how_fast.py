"""How fast can it learn?

You work out what a training run will cost, write the schedule of its learning rate, read the record of a race, and
mend the code by which somebody has compared two recipes. Do the chapter first. Nothing here trains for longer than a
second.
"""

from course_exercises import Wrong, need, number_of, probes
from course_exercises.authoring import Exercise, check


def setup():
    import torch
    from scipy.special import stdtrit


def seconds_of_epoch(million_macs, size, images, gflops, percent):
    return 2 * 3 * million_macs * 1e6 * (size / 64) ** 2 * images / (gflops * 1e9 * percent / 100)


class Budget(Exercise):
    """Budget a run

    A network has <<million_macs>> million **MACs** for one image of 64x64 pixels going forward. It is trained for
    <<_epochs>> epochs on <<images>> images, and the images grow: `sizes` holds the side of the images in each epoch. The
    network is convolutions and a global pool, so take its MACs as proportional to the number of pixels.

    The machine's matrix product reaches <<gflops>> GFLOPS, and training reaches <<percent>> % of that. Work out:

    - `macs`: the MACs of one image going forward, added up over the epochs;
    - `flops`: the FLOPs of the whole run, forward and back;
    - `seconds`: how long the run takes;
    - `epochs_allowed`: how many whole epochs, **all of them at the last size**, fit into <<seconds_allowed>> seconds.

    Formulas of Python are welcome: `sizes`, `images` and the other numbers are variables in your copy.
    """

    goal = "budget a training run: from MACs and the speed of a machine to seconds"
    kind = "compute"
    minutes, difficulty, importance = 15, 2, 5
    practice = {"million_macs": 60, "sizes": [48, 64, 64, 80, 96], "_epochs": 5, "images": 9469, "gflops": 200,
                "percent": 40, "seconds_allowed": 1400}  # fmt: skip
    hints = [
        "Half the side is a quarter of the pixels. What share of the MACs at 64 pixels has an image of 48?",
        "Section 1 of the chapter has a formula with 2 and 3 in it. What does each of the two stand for?",
        "GFLOPS are billions of FLOPs in a second. A machine that reaches a smaller share of them takes longer. And an "
        "epoch that has begun but cannot end does not count.",
    ]

    def draw(chance):
        sizes = chance.choice([[48, 64, 80, 96], [48, 48, 64, 80, 96], [64, 64, 80, 96, 112], [48, 64, 96, 128]])
        found = {"million_macs": chance.choice([40, 50, 70, 80, 90]), "images": chance.choice([4000, 5000, 9469, 12000]),
                 "gflops": chance.choice([80, 150, 250, 400]), "percent": chance.choice([20, 25, 30, 45])}  # fmt: skip
        one = seconds_of_epoch(size=sizes[-1], **found)
        # not near a whole number of epochs, so that rounding is seen
        return found | {
            "sizes": sizes,
            "_epochs": len(sizes),
            "seconds_allowed": round((chance.randint(6, 15) + 0.7) * one),
        }

    def stub():
        macs = ...
        flops = ...
        seconds = ...
        epochs_allowed = ...

    def solution():
        macs = sum(million_macs * 1e6 * (size / 64) ** 2 for size in sizes)
        flops = 2 * 3 * macs * images
        speed = gflops * 1e9 * percent / 100
        seconds = flops / speed
        one_epoch = 2 * 3 * million_macs * 1e6 * (sizes[-1] / 64) ** 2 * images / speed
        epochs_allowed = int(seconds_allowed // one_epoch)

    def right_arrays():
        import numpy as np

        shares = (np.array(sizes) / 64) ** 2
        macs = 1e6 * million_macs * shares.sum()
        flops = 6 * images * macs
        seconds = flops / gflops / 1e9 * 100 / percent
        epochs_allowed = np.floor(seconds_allowed * shares.sum() / (seconds * shares[-1]))

    def right_by_loop():
        pixels, epochs_allowed, left = 0, 0, seconds_allowed
        for size in sizes:
            pixels += size * size
        macs = torch.tensor(million_macs * 10**6 * pixels / 64**2, dtype=torch.float64)
        forward = macs * images * 2
        flops = forward + 2 * forward
        seconds = float(flops) / (gflops * 10**7 * percent)
        while left >= (one := seconds * sizes[-1] ** 2 / pixels):
            left -= one
            epochs_allowed += 1

    wrong = [
        ("linear-in-the-side", "sum(million_macs * 1e6 * (size / 64) ** 2", "sum(million_macs * 1e6 * (size / 64)",
         "both sides"),
        ("one-size", "macs = sum(million_macs * 1e6 * (size / 64) ** 2 for size in sizes)",
         "macs = len(sizes) * million_macs * 1e6", "as if all images had 64 pixels"),
        ("mean-not-sum", "for size in sizes)", "for size in sizes) / len(sizes)", "added up"),
        ("millions", "macs = sum(million_macs * 1e6 *", "macs = sum(million_macs *", "million"),
        ("mac-is-one-flop", "flops = 2 * 3 * macs", "flops = 3 * macs", "what a MAC is made of"),
        ("forward-only", "flops = 2 * 3 * macs", "flops = 2 * macs", "going back"),
        ("back-as-dear-as-forward", "flops = 2 * 3 * macs", "flops = 2 * 2 * macs", "going back"),
        ("one-image", "flops = 2 * 3 * macs * images", "flops = 2 * 3 * macs", "only one image"),
        ("share-forgotten", "gflops * 1e9 * percent / 100", "gflops * 1e9", "does not reach the speed"),
        ("share-upside-down", "gflops * 1e9 * percent / 100", "gflops * 1e9 * 100 / percent", "slower"),
        ("giga-forgotten", "gflops * 1e9 * percent", "gflops * 1e6 * percent", "billions"),
        ("rounded-up", "int(seconds_allowed // one_epoch)", "round(seconds_allowed / one_epoch)", "does not fit"),
        ("mean-epoch", "int(seconds_allowed // one_epoch)", "int(seconds_allowed // (seconds / len(sizes)))",
         "the last size"),
    ]  # fmt: skip

    explanation = """
    A convolution uses each of its weights once at each pixel of its output, so its MACs go with the pixels: with the
    **square** of the side. A MAC is a multiplication and an addition, two FLOPs; and going back costs twice as much as
    going forward, once for the gradient of the weights and once for that of the input. Hence 2 * 3.

    The matrix product is the best case. Norms, ReLUs and the optimizer's step compute little and wait for memory, so
    training reaches a share of it. That share is the one number here that cannot be counted: it has to be measured,
    and it differs from size to size.

    Small first images are cheap, which is why growing them saves so much. An epoch that is cut off has not been
    trained: so the last number is rounded down.
    """
    marking = """
    The hidden checks grade `macs` and `flops` (one point), `seconds` (one) and `epochs_allowed` (one). `seconds` is
    compared with what follows from the student's own `flops`, so one slip costs one point. Ask aloud: which of the
    numbers of this budget would you trust least, and how would you measure it?
    """

    @check(points=1)
    def written(ask, values):
        """Four numbers that can be."""
        found = {name: number_of(ask(probes.value, name), name) for name in BUDGET}
        for name in BUDGET:
            need(found[name] > 0 or name == "epochs_allowed", f"{name} should be more than zero")
        need(found["macs"] > 1e6, "macs is below a million: the numbers of the task are in millions")
        need(found["flops"] > found["macs"], "a run costs more FLOPs than one image has MACs")
        need(found["epochs_allowed"] == int(found["epochs_allowed"]), "epochs_allowed should be a whole number")

    @check(points=1, hidden=True)
    def work(ask, values, reference):
        """MACs and FLOPs of the run."""
        macs, flops = (number_of(ask(probes.value, name), name) for name in ("macs", "flops"))
        told = "how many MACs has one image in each of the epochs?"
        sides = values.million_macs * 1e6 * sum(size / 64 for size in values.sizes)
        if abs(macs / sides - 1) < 1e-3:
            told = "an image that is twice as wide is also twice as high: count both sides"
        if abs(macs / (len(values.sizes) * values.million_macs * 1e6) - 1) < 1e-3:
            told = "it is as if all images had 64 pixels"
        if abs(macs * len(values.sizes) / reference["macs"] - 1) < 1e-3:
            told = "that is the mean of the epochs; they are to be added up"
        need(abs(macs / reference["macs"] - 1) < 1e-3, f"macs is not right: {told}")
        factor = flops / reference["flops"]
        told = {
            0.5: "think of what a MAC is made of",
            0.333: "and going back?",
            0.667: "how much does going back cost, beside going forward?",
            round(1 / values.images, 3): "is that only one image?",
        }.get(round(factor, 3), "images, MACs, and what is done with each of them")
        need(abs(factor - 1) < 1e-3, f"flops is not right: {told}")

    @check(points=1, hidden=True)
    def time(ask, values, reference):
        """Seconds of the run."""
        seconds, flops = (number_of(ask(probes.value, name), name) for name in ("seconds", "flops"))
        share = values.percent / 100
        factor = seconds * values.gflops * 1e9 * share / flops
        told = "FLOPs over FLOPs in a second"
        if abs(factor / share - 1) < 1e-3:
            told = "training does not reach the speed of the matrix product"
        elif abs(factor / share**2 - 1) < 1e-3:
            told = "training is slower than the matrix product, and here it is faster"
        elif factor > 500 or factor < 0.002:
            told = "a GFLOPS is billions of FLOPs in a second"
        need(abs(factor - 1) < 1e-3, f"seconds is not what follows from your flops: {told}")

    @check(points=1, hidden=True)
    def whole_epochs(ask, values, reference):
        """Epochs that fit into the time."""
        found, right = number_of(ask(probes.value, "epochs_allowed"), "epochs_allowed"), reference["epochs_allowed"]
        need(found != right + 1, "epochs_allowed is one too many: the last one does not fit")
        need(found <= right + 1, "epochs_allowed is too many: is each of these epochs at the last size?")
        need(found == right, "epochs_allowed is too few: how long does one epoch at the last size take?")


BUDGET = ("macs", "flops", "seconds", "epochs_allowed")


def rates_of(names, steps, peak):
    """What rate_at gives at every step of a run."""
    rate_at = probes.find(names, "rate_at")
    return [float(probes.made("rate_at", rate_at(step, steps, peak))) for step in range(steps)]


def rates_of_scheduler(names, steps, peaks):
    """The rates that an optimizer with several groups has at every step of a run."""
    import torch

    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in peaks]
    for weight in weights:
        weight.grad = torch.zeros(2)
    groups = [{"params": [weight], "lr": peak} for weight, peak in zip(weights, peaks)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = probes.made("make_scheduler", probes.find(names, "make_scheduler")(optimizer, steps))
    rates = []
    for step in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return rates


class WarmUp(Exercise):
    """Write a schedule

    Write `rate_at(step, steps, peak)`: the learning rate of step number `step` (0, 1, 2, ...) of a run of `steps`
    steps in all. Two straight lines:

    - **warm-up**: the first `warm = steps * <<warm_percent>> // 100` steps. It begins at step 0 with `peak / <<divisor>>`
      and would reach `peak` exactly at step `warm`;
    - **decay**: it begins at step `warm` with `peak`, and would reach zero at step `steps`. That step is not taken any
      more, so no step is wasted at a rate of zero.

    A run may be so short that `warm` is 0: then it begins with `peak`.

    Then write `make_scheduler(optimizer, steps)`. It returns a scheduler of `torch.optim.lr_scheduler` that makes each
    group of the optimizer follow this schedule, **with the group's own rate as its peak**. It is stepped once after
    each step of the optimizer.
    """

    goal = "write a schedule as a function of the step, and hand it to an optimizer"
    kind = "build"
    minutes, difficulty, importance = 15, 2, 4
    practice = {"warm_percent": 25, "divisor": 10, "_steps": 40}
    hints = [
        "A straight line from a to b in n steps is `a + (b - a) * step / n`. How many steps has each of the two lines?",
        "Try it with 8 steps on paper: which numbers stand at steps 0, 1, 2 and 7?",
        "`LambdaLR` **multiplies** each group's rate by what your function of the step returns. Which peak must the "
        "function have, then?",
    ]

    def draw(chance):
        return {"warm_percent": chance.choice([10, 15, 20, 30]), "divisor": chance.choice([5, 20, 25]),
                "_steps": chance.choice([30, 44, 60])}  # fmt: skip

    def stub():
        def rate_at(step, steps, peak): ...

        def make_scheduler(optimizer, steps): ...

    def solution():
        def rate_at(step, steps, peak):
            warm = steps * warm_percent // 100
            if step < warm:
                start = peak / divisor
                return start + (peak - start) * step / warm
            return peak * (steps - step) / (steps - warm)

        def make_scheduler(optimizer, steps):
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, 1.0))

    def right_interpolated():
        import numpy as np

        def rate_at(step, steps, peak):
            warm = steps * warm_percent // 100
            places, heights = ([0, warm, steps], [peak / divisor, peak, 0]) if warm else ([0, steps], [peak, 0])
            return np.interp(step, places, heights)

        class Scheduler(torch.optim.lr_scheduler.LRScheduler):
            def __init__(self, optimizer, steps):
                self.steps = steps
                super().__init__(optimizer)

            def get_lr(self):
                return [rate_at(self.last_epoch, self.steps, peak) for peak in self.base_lrs]

        def make_scheduler(optimizer, steps):
            return Scheduler(optimizer, steps)

    def right_lower_line():
        def rate_at(step, steps, peak):
            warm = steps * warm_percent // 100
            falling = peak - peak * (step - warm) / (steps - warm)
            return min(falling, peak / divisor + step * (peak - peak / divisor) / warm) if warm else falling

        def make_scheduler(optimizer, steps):
            table = [rate_at(step, steps, 1) for step in range(steps + 1)]
            return torch.optim.lr_scheduler.LambdaLR(optimizer, table.__getitem__)

    def right_two_schedulers():
        def rate_at(step, steps, peak):
            warm = int(steps * warm_percent / 100)
            share = torch.tensor(1.0, dtype=torch.float64) * (steps - step) / (steps - warm)
            if step < warm:
                share = torch.lerp(torch.tensor(1 / divisor, dtype=torch.float64), torch.ones(1).double(), step / warm)
            return peak * share

        def make_scheduler(optimizer, steps):
            warm = int(steps * warm_percent / 100)
            down = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (steps - warm))
            if not warm:
                return down
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"]
            up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / divisor, 1.0, warm)
            return torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [warm])

    wrong = [
        ("from-zero", "start = peak / divisor", "start = 0.0", "should begin with"),
        ("no-warm-up", "if step < warm:", "if step < 0:", "should begin with"),
        ("last-step-wasted", "(steps - step) / (steps - warm)", "(steps - 1 - step) / (steps - 1 - warm)", "wasted"),
        ("below-zero", "(steps - step) / (steps - warm)", "(steps - 4 - step) / (steps - 4 - warm)", "below zero"),
        ("peak-too-early", "* step / warm", "* step / (warm - 1)", "highest"),
        ("jump", "peak * (steps - step) / (steps - warm)", "peak * (steps - step) / steps", "highest"),
        ("decay-by-cosine", "return peak * (steps - step) / (steps - warm)",
         "return peak * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2", "your code raised NameError"),
        ("decay-squared", "return peak * (steps - step) / (steps - warm)",
         "return peak * ((steps - step) / (steps - warm)) ** 2", "straight"),
        ("one-step-late", "if step < warm:\n", "step = max(step - 1, 0)\n    if step < warm:\n", "highest"),
        ("no-short-run", "if step < warm:", "if step <= warm:", "so short"),
        ("peak-twice", "rate_at(step, steps, 1.0)", 'rate_at(step, steps, optimizer.param_groups[0]["lr"])',
         "multiplies"),
        ("one-peak-for-all", "return torch.optim.lr_scheduler.LambdaLR(",
         "for group in optimizer.param_groups:\n        group[\"lr\"] = optimizer.param_groups[0][\"lr\"]\n    "
         "return torch.optim.lr_scheduler.LambdaLR(", "group"),
        ("constant-scheduler", "lambda step: rate_at(step, steps, 1.0)", "lambda step: 1.0", "scheduler"),
    ]  # fmt: skip

    explanation = """
    Two straight lines, and all the slips are at their ends. A line with n steps goes through n + 1 points: here the
    point after the warm-up belongs to the decay, and the point after the decay to no step at all. Whoever divides by
    one step less reaches the peak too early, or spends the last step at a rate of zero, where nothing is learned.

    The warm-up is there because a fresh network has large gradients in the first layers (the first chapter of the
    part on depth measures them); the decay, because a smaller step settles the noise of the batches. A schedule must
    know the length of the run: so a run that is stopped half-way is not a run of half the length.

    `LambdaLR` multiplies: with a peak of 1 the function gives the factor, and every group keeps a rate of its own. The
    recipe of the chapter needs this, with one rate for Muon and another for SGD.
    """
    marking = """
    One point for the scheduler alone, whatever the way it is made. The hidden check compares every step of runs of
    other lengths; an answer that is off at one step gets the two visible points at most. Ask aloud: somebody stops
    the run after half of the steps, since "it is as good as half the epochs". Is it?
    """

    @check(points=1)
    def ends(ask, values):
        """Begin, peak and end."""
        steps = 40
        rates = ask(rates_of, steps, 0.5)
        need(
            abs(rates[0] * values.divisor / 0.5 - 1) < 1e-6,
            f"a run of {steps} steps with a peak of 0.5 should begin with {0.5 / values.divisor:g}, not {rates[0]:.4g}",
        )
        need(min(rates) >= 0, "the rate falls below zero before the end of the run")
        warm, top = steps * values.warm_percent // 100, max(rates)
        first = next(step for step in range(steps) if rates[step] > top - 1e-9)
        need(
            abs(top - 0.5) < 1e-9 and first == warm,
            f"the rate should be highest at step warm, and be the peak there: it is highest at step {first}, with {top:.4g}",
        )
        need(rates[-1] > 1e-9, "the last step is wasted: its rate is zero")

    @check(points=1)
    def short_runs(ask, values):
        """A run that is too short for a warm-up."""
        try:
            rates = ask(rates_of, 3, 0.2)
        except Wrong as error:
            raise Wrong(f"a run of 3 steps is so short that warm is 0, and then {error}") from None
        need(abs(rates[0] - 0.2) < 1e-9, "a run so short that warm is 0 should begin with the peak")

    @check(points=2, hidden=True)
    def every_step(ask, values, reference):
        """Every step, for runs of several lengths."""
        for steps, peak in [(values._steps, 0.5), (37, 0.1), (100, 2.0), (5, 1.0)]:
            rates = ask(rates_of, steps, peak)
            for step, rate in enumerate(rates):
                right = reference["rate_at"](step, steps, peak)
                need(
                    abs(rate - right) < 1e-6 * peak,
                    f"step {step} of {steps} has another rate: are both lines straight, and do they meet at step warm?",
                )

    @check(points=1, hidden=True)
    def scheduler(ask, values, reference):
        """The scheduler, for an optimizer with two groups."""
        peaks = [0.4, 0.05]
        for steps in (values._steps, 4):
            rates = ask(rates_of_scheduler, steps, peaks)
            for step, found in enumerate(rates):
                right = [reference["rate_at"](step, steps, peak) for peak in peaks]
                told = "which step does it see, and what does it do with the rate?"
                if abs(found[0] - 0.4 * right[0]) < 1e-6:
                    told = "LambdaLR multiplies the group's rate, and yours is in the function as well"
                elif abs(found[0] - right[0]) < 1e-6:
                    told = "the second group does not have a peak of its own"
                need(
                    all(abs(a - b) < 1e-6 for a, b in zip(found, right)),
                    f"the scheduler gives other rates at step {step} of {steps}: {told}",
                )


class ReadTheRace(Exercise):
    """Read the record of a race

    This is the record of one run, a number for each epoch: `accuracies` on validation images (in per cent, after the
    epoch), `losses` (training loss), the `rates` and `image_sizes` of the epoch, and the seconds that training and
    validating took. The **mark** is <<mark>> %. Epochs are counted from 1. By the rules of the chapter's race, read off:

    - `passed_epoch`: the epoch at whose end the mark was first reached;
    - `passed_seconds`: what the clock of the race showed then;
    - `lucky`: `True` if the run fell below the mark again in a later epoch, `False` if it stayed;
    - `reported`: the accuracy that you would state for this recipe, if the number of epochs was fixed beforehand;
    - `jump_epoch`: the one epoch whose training loss is **above** that of the epoch before;
    - `suspect`: what changed in that epoch and may have caused it: `"rate"` (it reached its highest value there),
      `"size"` (the images have another size than in the epoch before) or `"neither"`.
    """

    goal = "say honestly when a race was won, and read what a learning curve shows"
    kind = "read"
    minutes, difficulty, importance = 12, 2, 4
    practice = {
        "mark": 83,
        "accuracies": [31.4, 45.2, 50.8, 62.3, 70.9, 77.5, 83.6, 82.2, 84.9, 84.1],
        "losses": [2.03, 1.71, 1.52, 1.6, 1.31, 1.16, 1.02, 0.93, 0.86, 0.83],
        "rates": [0.02, 0.06, 0.1, 0.087, 0.073, 0.06, 0.047, 0.033, 0.02, 0.007],
        "image_sizes": [48, 48, 48, 64, 64, 64, 80, 80, 80, 80],
        "training_seconds": [3.1, 3.0, 3.1, 5.2, 5.3, 5.2, 8.0, 8.1, 8.0, 8.1],
        "validating_seconds": [1.4, 1.4, 1.5, 1.4, 1.4, 1.4, 1.5, 1.4, 1.4, 1.4],
    }  # fmt: skip
    hints = [
        "Section 5 of the chapter has the rules of the race. What does the clock count, and when is accuracy looked at?",
        "The best of ten epochs was chosen after looking at the validation images. What does that do to its accuracy?",
        "Go along `losses` from left to right until a number is larger than the one before it. Then look at `rates` and "
        "`image_sizes` at that place, and at the place before it.",
    ]

    def draw(chance):
        mark, passed, lucky = chance.randint(78, 90), chance.choice([5, 6, 7]), chance.random() < 0.5
        accuracies = [round(mark - 0.6 - (mark - 32) * (1 - epoch / passed) ** 1.2 - chance.uniform(0, 1.5), 1)
                      for epoch in range(1, passed)]  # fmt: skip
        # above the mark first by a little, at the end by more, and once before the end by most
        after = [round(mark + chance.uniform(0.3, 0.9), 1) for _ in range(passed, 11)]
        after[-2:] = [round(mark + chance.uniform(1.9, 2.6), 1), round(mark + chance.uniform(1.1, 1.5), 1)]
        if lucky:
            after[1] = round(mark - chance.uniform(0.4, 1.2), 1)
        peak, first, second = chance.choice([(3, 5, 8), (4, 3, 7), (3, 4, 7), (4, 6, 8)])
        suspect = chance.choice(["rate", "size", "neither"])
        jump = {"rate": peak, "size": chance.choice([first, second]), "neither": chance.choice([9, 10])}[suspect]
        losses, loss = [], 2.05 + chance.randint(0, 9) / 100
        for epoch in range(1, 11):
            loss += -0.17 + epoch * 0.01 if epoch != jump else chance.choice([0.06, 0.09, 0.12])
            losses.append(round(loss, 2))
        rates = [round(0.1 * (epoch / peak if epoch < peak else (10.5 - epoch) / (10.5 - peak)), 3)
                 for epoch in range(1, 11)]  # fmt: skip
        sizes = [48 if epoch < first else 64 if epoch < second else 96 for epoch in range(1, 11)]
        pace = chance.uniform(0.9, 1.6)
        return {
            "mark": mark, "accuracies": accuracies + after, "losses": losses, "rates": rates, "image_sizes": sizes,
            "training_seconds": [round(pace * (size / 32) ** 2 + chance.uniform(0, 0.3), 1) for size in sizes],
            "validating_seconds": [round(pace + chance.uniform(0.2, 0.4), 1) for _ in sizes],
        }  # fmt: skip

    def stub():
        passed_epoch = ...
        passed_seconds = ...
        lucky = ...
        reported = ...
        jump_epoch = ...
        suspect = ...  # "rate", "size" or "neither"

    def solution():
        passed_epoch = next(epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= mark)
        passed_seconds = sum(training_seconds[:passed_epoch])
        lucky = min(accuracies[passed_epoch:]) < mark
        reported = accuracies[-1]
        jump_epoch = next(epoch for epoch in range(2, 11) if losses[epoch - 1] > losses[epoch - 2])
        if rates[jump_epoch - 1] == max(rates):
            suspect = "rate"
        elif image_sizes[jump_epoch - 1] != image_sizes[jump_epoch - 2]:
            suspect = "size"
        else:
            suspect = "neither"

    def right_arrays():
        import numpy as np

        reached = np.array(accuracies) >= mark
        passed_epoch = int(reached.argmax()) + 1
        passed_seconds = np.cumsum(training_seconds)[passed_epoch - 1]
        lucky = bool((~reached[passed_epoch:]).any())
        reported = np.array(accuracies)[-1]
        jump_epoch = int(np.diff(losses).argmax()) + 2
        changed = np.diff(image_sizes)[jump_epoch - 2] != 0
        suspect = "size" if changed else "rate" if int(np.argmax(rates)) == jump_epoch - 1 else "neither"

    def right_by_loop():
        passed_epoch, passed_seconds, lucky = 0, 0.0, False
        for epoch in range(10):
            if not passed_epoch:
                passed_seconds += training_seconds[epoch]
                if accuracies[epoch] >= mark:
                    passed_epoch = epoch + 1
            elif accuracies[epoch] < mark:
                lucky = True
            if epoch and losses[epoch] > losses[epoch - 1]:
                jump_epoch = epoch + 1
        passed_seconds = round(passed_seconds, 1)
        *_, reported = accuracies
        suspect = {True: "size"}.get(image_sizes[jump_epoch - 1] > image_sizes[jump_epoch - 2], "neither")
        suspect = "rate" if all(rates[jump_epoch - 1] >= rate for rate in rates) else suspect

    wrong = [
        ("counted-from-zero", "enumerate(accuracies, 1) if", "enumerate(accuracies, 0) if", "counted from 1"),
        ("best-epoch", "next(epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= mark)",
         "accuracies.index(max(accuracies)) + 1", "first reached"),
        ("validation-on-the-clock", "sum(training_seconds[:passed_epoch])",
         "sum(training_seconds[:passed_epoch]) + sum(validating_seconds[:passed_epoch])", "validating"),
        ("stopped-before-the-epoch", "training_seconds[:passed_epoch]", "training_seconds[:passed_epoch - 1]",
         "the end of an epoch"),
        ("whole-run", "training_seconds[:passed_epoch]", "training_seconds", "the whole run"),
        ("luck-denied", "lucky = min(accuracies[passed_epoch:]) < mark", "lucky = min(accuracies[passed_epoch:]) >= mark",
         "every epoch after"),
        ("best-reported", "reported = accuracies[-1]", "reported = max(accuracies)", "chosen"),
        ("first-reported", "reported = accuracies[-1]", "reported = accuracies[passed_epoch - 1]", "chosen"),
        ("epoch-before-the-jump", "jump_epoch = next(epoch for", "jump_epoch = -1 + next(epoch for", "not above"),
        ("suspects-the-other", 'suspect = "neither"', 'suspect = "neither"\nsuspect = {"rate": "size", "size": '
         '"neither", "neither": "rate"}[suspect]', "at that epoch"),
        ("no-word", 'suspect = "neither"', 'suspect = "neither"\nsuspect = "batch"', "none of the words"),
    ]  # fmt: skip

    explanation = """
    The clock of the race runs while the network trains, and accuracy is looked at only at the end of an epoch: so the
    time is a sum of whole epochs of training. The **first** epoch above the mark is chosen by looking, and where the
    run falls below the mark again afterwards, it was helped by luck. The same holds for the best epoch: of ten numbers
    that move up and down, the largest is too high. Whoever fixes the number of epochs beforehand reports the last.

    A loss that rises once is a question, not yet an answer. The rate at its peak throws the weights about, and larger
    images show the network what it has not seen: either would do, where it falls together with the jump. Where neither
    does, it may be chance, and only other seeds can tell. In any case, **a coincidence in one run is a suspicion**:
    the proof is a run in which this one thing is changed.
    """
    marking = """
    Three hidden points: when and at what time, honest or lucky and what is reported, and the jump with its suspect.
    Ask aloud: which run would show that the suspect did it?
    """

    @check(points=1)
    def written(ask, values):
        """Answers that can be."""
        for name, most in (("passed_epoch", 10), ("jump_epoch", 10), ("reported", 100), ("passed_seconds", 1e4)):
            found = number_of(ask(probes.value, name), name)
            need(0 <= found <= most, f"{name} = {found:g} cannot be")
        epoch, jump = (int(ask(probes.value, name)) for name in ("passed_epoch", "jump_epoch"))
        need(epoch >= 1, "passed_epoch: epochs are counted from 1")
        need(jump >= 2, "jump_epoch: the first epoch has none before it, and epochs are counted from 1")
        need(ask(probes.value, "lucky") in (True, False), "lucky should be True or False")
        found = ask(probes.value, "suspect")
        need(found in ("rate", "size", "neither"), f"suspect = {found!r} is none of the words of the task")
        need(
            values.losses[jump - 1] > values.losses[jump - 2],
            f"the training loss of epoch {jump} is not above that of the epoch before; epochs are counted from 1",
        )

    @check(points=1, hidden=True)
    def passing(ask, values, reference):
        """When the mark was passed, by the clock of the race."""
        epoch, seconds = (number_of(ask(probes.value, name), name) for name in ("passed_epoch", "passed_seconds"))
        right = reference["passed_epoch"]
        need(epoch != right - 1, "passed_epoch is one too early: is it counted from 1?")
        need(epoch == right, "passed_epoch is not the epoch at which the mark was first reached")
        train, validate = values.training_seconds, values.validating_seconds
        told = "which epochs, and which of the two lists of seconds?"
        if abs(seconds - sum(train[:right]) - sum(validate[:right])) < 0.06:
            told = "does the clock run while validating?"
        elif abs(seconds - sum(train[: right - 1])) < 0.06:
            told = "a mark is passed at the end of an epoch, not at its beginning"
        elif abs(seconds - sum(train)) < 0.06:
            told = "that is the whole run, not the time until the mark"
        need(abs(seconds - reference["passed_seconds"]) < 0.06, f"passed_seconds is not right: {told}")

    @check(points=1, hidden=True)
    def honesty(ask, values, reference):
        """Luck, and the accuracy to report."""
        need(
            bool(ask(probes.value, "lucky")) == reference["lucky"],
            "lucky is not right: compare every epoch after the first one with the mark",
        )
        found = number_of(ask(probes.value, "reported"), "reported")
        need(
            abs(found - reference["reported"]) < 0.06,
            "reported is of an epoch that was chosen after looking at the validation images, which makes it too high",
        )

    @check(points=1, hidden=True)
    def the_jump(ask, values, reference):
        """The jump of the loss, and what may have caused it."""
        need(int(ask(probes.value, "jump_epoch")) == reference["jump_epoch"], "jump_epoch is not right")
        need(
            ask(probes.value, "suspect") == reference["suspect"],
            "suspect is not right: what do rates and image_sizes do at that epoch, and what at the one before?",
        )


def interval_with(fault, new, old):
    """A paired interval, or one with a fault: its two ends."""
    quantiles = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
    n = len(new)
    differences = [a - b for a, b in zip(new, old)]
    mean = sum(differences) / n

    def variance(values):
        middle = sum(values) / n
        return sum((value - middle) ** 2 for value in values) / (n if fault == "freedom" else n - 1)

    spread = variance(new) + variance(old) if fault == "pairs" else variance(differences)
    error = (spread if fault == "root" else spread / n) ** 0.5
    half = (1.96 if fault == "quantile" else quantiles[n - 1]) * error
    return mean - half, mean + half


def verdict_of(low, high):
    return "undecided" if low <= 0 <= high else "better" if low > 0 else "worse"


def draw_pairs(chance, fault):
    """Accuracies of two recipes with the same seeds, for which the fault changes the verdict."""
    while True:
        n = chance.choice([4, 5])
        shared = [chance.gauss(84, 1.0) for _ in range(n)]
        effect = chance.choice([-1, 1]) * chance.uniform(0.3, 1.2)
        old = [round(level + chance.gauss(0, 0.25), 1) for level in shared]
        new = [round(level + effect + chance.gauss(0, 0.25), 1) for level in shared]
        right, faulty = interval_with("", new, old), interval_with(fault, new, old)
        clear = min(map(abs, (*right, *faulty))) > 0.02
        if clear and verdict_of(*right) != verdict_of(*faulty):
            return {"new": new, "old": old, "_verdict": verdict_of(*right)}


def widths_of(names, new, old, copies):
    """What paired_interval gives for pairs, for pairs of which one seed was lucky in both, and for many copies."""
    interval = probes.find(names, "paired_interval")
    luckier = [[values[0] + 5, *values[1:]] for values in (new, old)]
    answers = [interval(new, old), interval(*luckier), interval(copies * new, copies * old)]
    return [[float(part) for part in probes.made("paired_interval", answer)] for answer in answers]


def misses_of(names, seeds, times):
    """How many of many intervals for recipes that are equal do not hold zero."""
    import random

    interval, chance, missed = probes.find(names, "paired_interval"), random.Random(5), 0
    for _ in range(times):
        new, old = ([84 + chance.gauss(0, 0.5) for _ in range(seeds)] for _ in range(2))
        _, low, high = probes.made("paired_interval", interval(new, old))
        missed += not low <= 0 <= high
    return missed


class FairComparison(Exercise):
    """Find the fault in a comparison

    `new` and `old` hold the accuracies of two recipes in per cent, trained with **the same seeds** in the same order.
    The two runs of one seed see the images in the same order, so they share some luck. A friend has written
    `paired_interval`, which returns the mean difference (new minus old) and the two ends of its 95 % interval. It runs,
    and its numbers look reasonable, but **one line** is at fault, and for these two recipes it leads to the wrong verdict.

    Mend the function in place; it must work for any number of seeds from three on. Then set

    - `fault` to the word that names it: `"pairs"` (it does not use that the seeds are the same), `"freedom"` (what the
      sum of squares is divided by), `"root"` (the spread of one difference is taken for that of their mean) or
      `"quantile"` (it is not the one for so few seeds);
    - `control` to the letter of the experiment that would have shown it:
      - `"A"`: add 5 points to the accuracy of the first seed, for both recipes. Does the interval stay as it is?
      - `"B"`: write every pair down ten times. Does the interval shrink to less than a third?
      - `"C"`: compare two recipes that are equal ten thousand times, with fresh random accuracies in the place of all
        seeds. Do no more than about 550 of the intervals miss zero?
    - `verdict` to what the mended interval says about `new`: `"better"`, `"worse"` or `"undecided"`.

    `stdtrit(df, p)` of SciPy is the quantile `p` of Student's t with `df` degrees of freedom.
    """

    goal = "compare two recipes over seeds by a paired interval, and notice when the interval is wrong"
    kind = "break"
    minutes, difficulty, importance = 20, 4, 5
    practice = {"new": [83.6, 84.9, 82.6, 84.5], "old": [83.1, 83.7, 82.5, 84.0], "_fault": "quantile",
                "_control": "C", "_verdict": "undecided"}  # fmt: skip
    hints = [
        "Write the steps down in words: differences, their mean, their spread, the spread of the mean, a quantile, the "
        "ends. Then read the code line by line beside them.",
        "Each control has one answer for a right interval. Try them: `random.gauss` makes accuracies for the third.",
        "An interval is better or worse only if it does not hold zero.",
    ]

    def draw(chance):
        fault, control = chance.choice([("pairs", "A"), ("root", "B"), ("quantile", "C"), ("freedom", "C")])
        return {"_fault": fault, "_control": control, **draw_pairs(chance, fault)}

    def solution():
        def paired_interval(new, old):
            """Mean difference of the pairs, and the ends of its 95 % interval."""
            n = len(new)
            differences = [a - b for a, b in zip(new, old)]
            mean = sum(differences) / n
            variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
            error = (variance / n) ** 0.5
            half = float(stdtrit(n - 1, 0.975)) * error
            return mean, mean - half, mean + half

        difference, low, high = paired_interval(new, old)
        print(f"{difference:+.2f} points, 95 % interval {low:.2f} to {high:.2f}")

        fault = "<<_fault>>"
        control = "<<_control>>"
        verdict = "<<_verdict>>"

    def right_scipy():
        from scipy import stats

        def paired_interval(new, old):
            found = stats.ttest_rel(new, old)
            ends = found.confidence_interval(0.95)
            return (ends.low + ends.high) / 2, ends.low, ends.high

        fault, control, verdict = "<<_fault>>", "<<_control>>", "<<_verdict>>"

    def right_torch():
        def paired_interval(new, old):
            pairs = torch.tensor([new, old], dtype=torch.float64)
            change = pairs[0] - pairs[1]
            reach = stdtrit(len(change) - 1, 0.975) * change.std() / len(change) ** 0.5
            return [change.mean(), change.mean() - reach, change.mean() + reach]

        fault = "<<_fault>>"
        control = "<<_control>>"
        verdict = "undecided" if paired_interval(new, old)[1] <= 0 <= paired_interval(new, old)[2] else "<<_verdict>>"

    faults = {
        "pairs": ("variance = sum((d - mean) ** 2 for d in differences) / (n - 1)",
                  "variance = float(torch.tensor(new).double().var() + torch.tensor(old).double().var())"),
        "root": ("error = (variance / n) ** 0.5", "error = variance**0.5"),
        "quantile": ("float(stdtrit(n - 1, 0.975)) * error", "1.96 * error"),
        "freedom": ("for d in differences) / (n - 1)", "for d in differences) / n"),
    }  # fmt: skip
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "pairs", "freedom", "root" or "quantile"'),
             ('control = "<<_control>>"', 'control = ...  # "A", "B" or "C"'),
             ('verdict = "<<_verdict>>"', 'verdict = ...  # "better", "worse" or "undecided"')]  # fmt: skip

    def wrong(values):
        others = {"pairs": "root", "root": "quantile", "quantile": "freedom", "freedom": "pairs"}
        letters = {"A": "B", "B": "C", "C": "A"}
        verdicts = {"better": "worse", "worse": "undecided", "undecided": "better"}
        fault, control, verdict = values["_fault"], values["_control"], values["_verdict"]
        return [
            ("fault-left", *FairComparison.faults[fault], "still has its fault"),
            ("pairs-lost", *FairComparison.faults["pairs"], "the luck that both"),
            ("root-lost", *FairComparison.faults["root"], "ten times as many"),
            ("normal-quantile", *FairComparison.faults["quantile"], "too many"),
            ("divided-by-n", *FairComparison.faults["freedom"], "too many"),
            ("one-sided", "0.975", "0.95", "too many"),
            ("other-sign", "[a - b for", "[b - a for", "new minus old"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{others[fault]}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "seeds"', "none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letters[control]}"', "comes out right"),
            ("wrong-verdict", 'verdict = "<<_verdict>>"', f'verdict = "{verdicts[verdict]}"', "hold zero"),
            ("error-for-half", "return mean, mean - half, mean + half", "return mean, mean - error, mean + error",
             "too many"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, control <<_control>> shows it, and the mended interval says:
    **<<_verdict>>**.

    What two runs of one seed share is in both of them, and drops out of their **difference**. So the differences are
    what is averaged, and their spread is what counts; an interval from the two spreads apart is too wide, and hides what
    the pairs show. The mean of n differences varies less than one of them, by the root of n: without it, more seeds
    would never help. With few seeds the spread itself is badly known, and Student's quantile pays for that: for four
    seeds it is 3.18 where a normal distribution has 1.96. Dividing by n, and not by n - 1, makes the spread too small
    as well, since the differences lie closer to their own mean than to the true one.

    Too wide and too narrow are both faults, but not of one kind: one misses what is there, the other finds what is not.
    The third control is worth remembering: **feed a method with data in which there is nothing, and count how often it
    finds something**.
    """
    marking = """
    The function is graded on what it computes. Word, letter and verdict are one point each. Ask aloud: the interval
    holds zero. May one say that the recipes are equal?
    """

    @check(points=2)
    def mended(ask, values):
        """The interval does what a paired interval does."""
        new, old = [83.1, 85.4, 84.0, 82.2, 86.3], [82.7, 84.6, 83.9, 81.1, 86.0]
        told = "paired_interval still has its fault, or another one"
        plain, lucky, many = ask(widths_of, new, old, 10)
        need(len(plain) == 3, f"{told}: it should return three numbers, the difference and the two ends")
        need(plain[0] > 0, f"{told}: the difference is new minus old, and these new ones are all higher")
        need(plain[1] < plain[0] < plain[2], f"{told}: the difference should lie between the two ends")
        width = plain[2] - plain[1]
        need(
            abs(lucky[2] - lucky[1] - width) < 1e-6,
            f"{told}: the luck that both recipes have with a seed changes the interval",
        )
        need((many[2] - many[1]) / width < 1 / 3, f"{told}: ten times as many seeds hardly make it narrower")
        missed = ask(misses_of, 4, 1500)
        need(
            missed < 90,
            f"{told}: of 1,500 intervals for equal recipes, four seeds each, {missed} miss zero, which is too many for 95 %",
        )
        need(
            missed > 50,
            f"{told}: of 1,500 intervals for equal recipes, only {missed} miss zero, so they are too wide for 95 %",
        )

    @check(points=1)
    def words(ask, values):
        """Words out of the lists."""
        for name, known in CHOICES.items():
            found = ask(probes.value, name)
            need(found in known, f"{name} = {found!r} is none of the words of the task: {', '.join(known)}")

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(ask(probes.value, "control") == reference["control"], "for the faulty code, that control comes out right")

    @check(points=1, hidden=True)
    def decided(ask, values, reference):
        """The ends of the interval, and the verdict."""
        for new, old in [(values.new, values.old), ([80.0, 81.5, 80.5], [80.4, 81.6, 81.5])]:
            found = [float(part) for part in ask(probes.call, "paired_interval", new, old)]
            for part, right in zip(found, reference["paired_interval"](new, old)):
                need(abs(part - right) < 2e-3 * max(1, abs(right)), "the interval has other ends than it should")
        need(
            ask(probes.value, "verdict") == reference["verdict"],
            "the verdict is not that of the mended interval: does it hold zero, and if not, on which side does it lie?",
        )


CHOICES = {
    "fault": ("pairs", "freedom", "root", "quantile"),
    "control": ("A", "B", "C"),
    "verdict": ("better", "worse", "undecided"),
}
