"""More than one device

You put the gradient of a batch together from uneven parts, work out on paper when many GPUs pay, find out what decides
whether an exchange can hide, and mend a training loop for several processes. All of it runs in one process on a CPU.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check


def setup():
    import copy

    import torch
    import torch.nn.functional as F
    from torch import nn


class GradientInParts(Exercise):
    """Put a gradient together from parts

    Write `gradients_in_parts(network, images, labels, sizes)`. It returns the gradients of the **mean** cross-entropy
    over the whole batch as a list, one tensor for each of `network.parameters()`, in their order. But it may look at
    one part of the batch at a time only: first at the first `sizes[0]` pictures, then at the next `sizes[1]`, and so
    on. The sizes add up to the batch, and they need not be equal: your copy tries <<sizes>>.

    The network has no norm, so the result is exact but for rounding. It may still carry gradients of an earlier step,
    and these must not count.
    """

    goal = "show that the gradients of parts, weighted by their size, make the gradient of the whole batch"
    kind = "build"
    minutes, difficulty, importance = 15, 2, 5
    practice = {"sizes": [7, 9, 2, 6]}
    hints = [
        "The mean over the batch is a sum over all pictures, divided by their number. What does the mean over a part "
        "have to be multiplied by, so that such terms add up to it?",
        "`images.split(sizes)` cuts a batch, and `labels.split(sizes)` in the same way.",
        "`backward` adds to the gradients that are there already. That helps between the parts, and harms before the first.",
    ]

    def draw(chance):
        sizes = [chance.choice([1, 2, 3]), chance.choice([4, 5, 6]), chance.choice([7, 8, 9, 10])]
        return {"sizes": chance.sample([*sizes, chance.choice([5, 6, 11])], 4)}

    def stub():
        def gradients_in_parts(network, images, labels, sizes):
            """Gradients of the mean loss over the whole batch, one part at a time."""
            ...

    def solution():
        def gradients_in_parts(network, images, labels, sizes):
            """Gradients of the mean loss over the whole batch, one part at a time."""
            network.zero_grad()
            for x, y in zip(images.split(sizes), labels.split(sizes)):
                share = len(x) / len(images)
                (share * F.cross_entropy(network(x), y)).backward()
            return [weight.grad.clone() for weight in network.parameters()]

    def right_sums():
        def gradients_in_parts(network, images, labels, sizes):
            weights, start = list(network.parameters()), 0
            totals = [torch.zeros_like(weight) for weight in weights]
            for size in sizes:
                part = slice(start, start + size)
                loss = nn.CrossEntropyLoss(reduction="sum")(network(images[part]), labels[part])
                for total, gradient in zip(totals, torch.autograd.grad(loss, weights)):
                    total += gradient
                start += size
            return [total / start for total in totals]

    def right_weighted_mean():
        def gradients_in_parts(network, images, labels, sizes):
            ends = torch.tensor(sizes).cumsum(0).tolist()
            parts = []
            for size, end in zip(sizes, ends):
                for weight in network.parameters():
                    weight.grad = None
                logits = network(images[end - size : end])
                loss = -logits.log_softmax(1)[torch.arange(size), labels[end - size : end]].mean()
                loss.backward()
                parts.append([weight.grad for weight in network.parameters()])
            shares = [size / ends[-1] for size in sizes]
            return tuple(sum(share * one for share, one in zip(shares, same)) for same in zip(*parts))

    wrong = [
        ("sum-of-means", "(share * F.cross_entropy(network(x), y)).backward()", "F.cross_entropy(network(x), y).backward()",
         "added up"),
        ("equal-weights", "share = len(x) / len(images)", "share = 1 / len(sizes)", "count alike"),
        ("sums-not-divided", "(share * F.cross_entropy(network(x), y))", 'F.cross_entropy(network(x), y, reduction="sum")',
         "mean over all pictures"),
        ("whole-batch", "for x, y in zip(images.split(sizes), labels.split(sizes)):", "for x, y in [(images, labels)]:",
         "one part at a time"),
        ("equal-parts", "zip(images.split(sizes), labels.split(sizes))",
         "zip(images.chunk(len(sizes)), labels.chunk(len(sizes)))", "the sizes"),
        ("old-gradients", "network.zero_grad()", "pass", "earlier step"),
        ("last-part-only", "        share = len(x)", "        network.zero_grad()\n        share = len(x)", "all parts"),
        ("share-of-the-first", "share = len(x) / len(images)", "share = sizes[0] / len(images)", "its own share"),
        ("losses", "[weight.grad.clone() for weight in network.parameters()]", "[weight.grad.sum() for weight in network.parameters()]",
         "one for each parameter"),
        ("step-made", "    return [weight", "    with torch.no_grad():\n        for weight in network.parameters():\n"
         "            weight -= 0.1 * weight.grad\n    return [weight", "weights of the network"),
    ]  # fmt: skip

    explanation = """
    The gradient goes through a sum, so the mean over all pictures is the sum of the parts' means, each **times its
    share of the pictures**. With equal parts all shares are alike, and the plain mean of the gradients is right: that
    is what `DistributedDataParallel` does. With uneven parts it is not: with parts of <<sizes>> the plain mean counts
    a picture of the part of <<min(sizes)>> <<10 * max(sizes) // min(sizes) / 10>> times as much as one of the part of
    <<max(sizes)>>. So the last batch of an epoch, which seldom divides evenly, needs care: `fair_loss` of the course
    multiplies the loss of a process by its share before the exchange.

    The same lines are *gradient accumulation*: one process that imitates many, for a batch that does not fit into memory.
    """
    marking = """
    Parts of equal size are one point, parts of unequal size two. Ask aloud: which layer would make the result differ
    from that of the whole batch, and is that an error?
    """

    @check(points=1)
    def form(ask, values):
        """A gradient for each parameter, from one part at a time."""
        found = ask(parts_of, values.sizes)
        shapes = [list(part.shape) for part in found["whole"]]
        need(
            [list(getattr(part, "shape", [])) for part in found["gradients"]] == shapes,
            f"it should return gradients, one for each parameter, with the shapes {shapes}",
        )
        seen = sorted(found["seen"])
        need(max(seen, default=0) < sum(values.sizes), "the network saw the whole batch: show it one part at a time")
        need(
            seen == sorted(values.sizes), f"the network saw parts of {found['seen']}, and the sizes are {values.sizes}"
        )
        need(found["kept"], "the weights of the network have changed: a gradient was asked for, and no step")

    @check(points=1)
    def equal_parts(ask, values):
        """Parts of equal size make the gradient of the whole."""
        found = ask(parts_of, [6, 6])
        need(
            not multiple(found, 2),
            "it is twice the gradient of the whole batch: the means of the parts are only added up",
        )
        need(
            not multiple(found, 12), "it is too large by the number of pictures: the loss is the mean over all pictures"
        )
        need(
            multiple(found, 1),
            "for two equal parts it is not the gradient of the whole batch: do all parts count, each once?",
        )

    @check(points=2, hidden=True)
    def unequal_parts(ask, values, reference):
        """Parts of unequal size."""
        for sizes in (values.sizes, [1, 11], [5, 3, 8]):
            found = ask(parts_of, sizes)
            need(
                not multiple(found, 1, "mean"),
                f"parts of {sizes} count alike, whatever their size: the pictures should",
            )
            need(multiple(found, 1), f"for parts of {sizes} it is not the gradient of the whole batch: is each part weighted by "
                 "its own share?")  # fmt: skip

    @check(points=1, hidden=True)
    def earlier(ask, values, reference):
        """Gradients of an earlier step do not count."""
        need(multiple(ask(parts_of, [4, 8], dirty=True), 1), "gradients of an earlier step are still in the result")


def multiple(found, factor, of="whole"):
    """Whether all gradients are so many times those of the whole batch (or the plain mean over the parts)."""
    pairs = list(zip(found["gradients"], found[of]))
    if [getattr(part, "shape", None) for part in found["gradients"]] != [part.shape for part in found[of]]:
        return False
    return all(bool(((a.double() - factor * b).abs() < 1e-9 + 1e-6 * b.abs().max()).all()) for a, b in pairs)


def parts_of(names, sizes, dirty=False):
    """The student's gradients for parts of a batch, those of the whole batch, and which parts the network saw."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(sizes))
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()
        images = torch.randn(sum(sizes), 2, 5, 5, dtype=torch.float64)
        images = images * torch.arange(1, len(images) + 1)[:, None, None, None] / len(images)  # no two alike
        labels = torch.randint(4, (len(images),))
    weights, means = list(network.parameters()), []
    for x, y in zip(images.split(sizes), labels.split(sizes)):
        means.append(torch.autograd.grad(F.cross_entropy(network(x), y), weights))
    whole = torch.autograd.grad(F.cross_entropy(network(images), labels), weights)
    if dirty:
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.5)
    before, seen = [weight.detach().clone() for weight in weights], []
    handle = network[0].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    gradients = probes.call(names, "gradients_in_parts", network, images, labels, list(sizes))
    handle.remove()
    kept = all(bool((weight == old).all()) for weight, old in zip(weights, before))
    gradients = gradients if isinstance(gradients, list) else [gradients]
    mean = [sum(same) / len(sizes) for same in zip(*means)]
    return {"gradients": gradients, "whole": list(whole), "mean": mean, "seen": seen, "kept": kept}


class SpeedUpOnPaper(Exercise):
    """Predict a speed-up from a formula

    A network has <<parameters / 1e6>> million parameters and needs <<macs / 1e9>> billion multiply-accumulates for the
    forward pass of one picture. <<gpus>> GPUs train it, each with <<images>> pictures a step. A GPU does
    <<speed / 1e12>> tera-operations a second, a gradient has <<bytes_each>> bytes, and the slowest connection of the
    ring carries <<bandwidth / 1e9>> GB a second. The numbers are in your copy: `parameters`, `macs`, `images`, `gpus`,
    `bytes_each`, `bandwidth` (bytes a second), `speed` (operations a second).

    Use the model of section 5 of the chapter, and write formulas of Python (or numbers with at least three digits
    that count):

    - `computing`: seconds of one step in which a GPU computes;
    - `exchange`: seconds that the ring takes for all gradients;
    - `speed_up_plain`: how many times as many pictures a second the <<gpus>> GPUs manage as one GPU alone (which
      exchanges nothing), if the exchange hides **not at all**;
    - `speed_up_best`: the same if the exchange hides perfectly behind the backward pass;
    - `least_images`: the smallest whole number of pictures a GPU at which, in this best case, nobody waits.
    """

    goal = "predict a speed-up from bytes, multiplications and overlap"
    kind = "compute"
    minutes, difficulty, importance = 16, 3, 5
    practice = {
        "parameters": 25_600_000, "macs": 4_090_000_000, "images": 32, "gpus": 64, "bytes_each": 4, "bandwidth": 12.5e9,
        "speed": 50e12,
    }  # fmt: skip
    hints = [
        "A MAC is two operations, and the backward pass costs twice the forward pass.",
        "In the ring each process sends 2 (N - 1) pieces, and a piece is one N-th of all gradients.",
        "The backward pass is two thirds of the computation. Only what is longer than that is waited for. The computation "
        "grows with the pictures, the exchange does not.",
    ]

    def draw(chance):
        while True:
            parameters, macs = chance.choice(
                [(11_700_000, 1_814_000_000), (25_600_000, 4_090_000_000), (8_000_000, 2_834_000_000),
                 (132_900_000, 7_609_000_000), (6_600_000, 1_502_000_000), (44_500_000, 7_801_000_000)]
            )  # fmt: skip
            found = {
                "parameters": parameters, "macs": macs, "images": chance.choice([16, 24, 32, 48]),
                "gpus": chance.choice([8, 16, 32, 64]), "bytes_each": chance.choice([2, 4]),
                "bandwidth": chance.choice([3.125e9, 6.25e9, 12.5e9, 25e9]), "speed": chance.choice([40e12, 50e12, 80e12]),
            }  # fmt: skip
            computing, exchange = costs(found)
            least = exchange / (2 / 3 * computing / found["images"])
            if 0.8 < exchange / computing < 4 and 0.1 < least % 1 < 0.9:
                return found

    def stub():
        computing = ...
        exchange = ...
        speed_up_plain = ...
        speed_up_best = ...
        least_images = ...

    def solution():
        import math

        computing = 3 * 2 * macs * images / speed
        exchange = 2 * (gpus - 1) / gpus * bytes_each * parameters / bandwidth
        speed_up_plain = gpus * computing / (computing + exchange)
        waiting = max(0, exchange - 2 / 3 * computing)
        speed_up_best = gpus * computing / (computing + waiting)
        least_images = math.ceil(exchange / (2 / 3 * computing / images))

    def right_by_pieces():
        forward = 2 * macs * images / speed
        computing = forward + 2 * forward
        piece = parameters * bytes_each / gpus
        exchange = sum(piece / bandwidth for _ in range(2 * (gpus - 1)))
        one_gpu = images / computing
        speed_up_plain = gpus * images / (computing + exchange) / one_gpu
        speed_up_best = gpus * images / (forward + max(2 * forward, exchange)) / one_gpu
        least_images = 1
        while 4 * macs * least_images / speed < exchange:
            least_images += 1

    def right_rounded():
        computing = float(f"{6 * macs * images / speed:.4g}")
        exchange = torch.tensor(float(f"{2 * (1 - 1 / gpus) * bytes_each * parameters / bandwidth:.4g}"))
        speed_up_plain = float(f"{gpus / (1 + exchange.item() / computing):.3g}")
        speed_up_best = float(f"{gpus / (1 + exchange.item() / computing - 2 / 3):.3g}")
        least_images = int(-(-exchange.item() * speed // (4 * macs)))

    wrong = [
        ("forward-only", "3 * 2 * macs", "2 * macs", "backward"),
        ("one-operation", "3 * 2 * macs", "3 * macs", "two operations"),
        ("forward-counted-twice", "3 * 2 * macs", "2 * 2 * macs", "backward"),
        ("milliseconds", "computing = 3 * 2 * macs * images / speed", "computing = 1000 * 3 * 2 * macs * images / speed", "seconds"),
        ("whole-batch-on-each", "3 * 2 * macs * images / speed", "3 * 2 * macs * images * gpus / speed", "its own pictures"),
        ("sent-once", "exchange = 2 * (gpus - 1) / gpus", "exchange = (gpus - 1) / gpus", "two rounds"),
        ("to-process-0", "exchange = 2 * (gpus - 1) / gpus *", "exchange = 2 * (gpus - 1) *", "piece"),
        ("bits", "bytes_each * parameters", "8 * bytes_each * parameters", "bits"),
        ("bytes-forgotten", "bytes_each * parameters", "parameters", "bytes"),
        ("efficiency", "speed_up_plain = gpus * computing / (computing + exchange)",
         "speed_up_plain = computing / (computing + exchange)", "one GPU alone"),
        ("hidden-by-all", "exchange - 2 / 3 * computing)", "exchange - computing)", "backward pass"),
        ("hidden-by-a-third", "exchange - 2 / 3 * computing)", "exchange - 1 / 3 * computing)", "backward pass"),
        ("least-rounded-down", "math.ceil(", "math.floor(", "still waits"),
        ("least-behind-all", "(2 / 3 * computing / images)", "(computing / images)", "least_images"),
        ("too-fast", "speed_up_best = gpus * computing", "speed_up_best = gpus * gpus * computing", "more than"),
    ]  # fmt: skip

    explanation = """
    Two numbers decide: the computation grows with MACs times pictures, the exchange with the bytes of the gradients,
    and it hardly depends on the number of GPUs. Every GPU sends less than twice its gradients, since the ring moves each
    piece through two rounds.

    Whether the exchange hides is the larger question: between "not at all" and "perfectly" lies the truth of a real
    program. And what `least_images` says is the cheapest remedy: pictures make the computation longer and leave the
    exchange as it is. It is also the one that ends first, at the memory of a GPU and at the batch with which the network still
    learns as well.
    """
    marking = """
    Within half a per cent. A slip in the two times is charged once: what follows from the student's own times counts.
    Ask aloud: what happens to each of the five numbers if gradients have half the bytes?
    """

    @check(points=1)
    def written(ask, values):
        """Five numbers that are possible."""
        found = {}
        for name in ("computing", "exchange", "speed_up_plain", "speed_up_best", "least_images"):
            found[name] = ask(number_of, name)
            need(found[name] is not None and found[name] > 0, f"{name} should be a number above zero")
        for name in ("speed_up_plain", "speed_up_best"):
            need(found[name] <= 1.005 * values.gpus, f"{name} is more than the number of GPUs")
        need(
            found["speed_up_plain"] <= 1.005 * found["speed_up_best"],
            "an exchange that hides cannot make it slower than one that does not",
        )
        need(found["least_images"] == round(found["least_images"]), "least_images should be a whole number")

    @check(points=1, hidden=True)
    def the_computing(ask, values, reference):
        """Seconds of computing."""
        factor = number(ask, "computing", above=0) / reference["computing"]
        told = slips_of(factor, [
            (1 / 3, "the backward pass costs twice the forward pass"),
            (2 / 3, "the backward pass costs twice the forward pass"),
            (1 / 2, "a MAC is two operations"),
            (1 / 6, "a MAC is two operations, and there is a backward pass"),
            (1000, "seconds were asked for"),
            (values.gpus, "a GPU computes on its own pictures only"),
            (1 / values.images, "that is one picture"),
        ])  # fmt: skip
        need(not told, f"computing is off by a factor: {told}")
        need(abs(factor - 1) <= 0.005, "computing is not right: operations of a step, divided by operations a second")

    @check(points=1, hidden=True)
    def the_exchange(ask, values, reference):
        """Seconds of the exchange."""
        factor = number(ask, "exchange", above=0) / reference["exchange"]
        told = slips_of(factor, [
            (8, "bandwidth is in bytes here, not in bits"),
            (1 / 8, "bandwidth is in bytes here, not in bits"),
            (1 / values.bytes_each, "how many bytes has a gradient?"),
            (1000, "seconds were asked for"),
            (1 / 2, "pieces are added up first, and then handed on: the ring goes through two rounds of sending"),
            (values.gpus, "each process sends one piece at a time, not all its gradients"),
            (values.gpus / (values.gpus - 1), "how many times is a piece sent on until all of N processes have it?"),
        ])  # fmt: skip
        need(not told, f"exchange is not right: {told}")
        need(
            abs(factor - 1) <= 0.005, "exchange is not right: bytes that each process sends, divided by bytes a second"
        )

    @check(points=1, hidden=True)
    def speed_ups(ask, values, reference):
        """Both speed-ups."""
        computing, exchange = number(ask, "computing", above=0), number(ask, "exchange", above=0)
        hidden = {"speed_up_plain": 0, "speed_up_best": 2 / 3 * computing}
        for name, part in hidden.items():
            found = number(ask, name, above=0)
            own = values.gpus * computing / (computing + max(0, exchange - part))
            need(
                abs(found * values.gpus / own - 1) > 0.005, f"{name} is a share of the time: compare with one GPU alone"
            )
            told = "what does a step take, and how many pictures are done in it?"
            if name == "speed_up_best":
                told = "only the backward pass hides an exchange, and only what is longer is waited for"
            need(min(abs(found / own - 1), abs(found / reference[name] - 1)) <= 0.005, f"{name} is not right: {told}")

    @check(points=1, hidden=True)
    def the_least(ask, values, reference):
        """Pictures a GPU, so that nobody waits."""
        found, exchange = number(ask, "least_images"), number(ask, "exchange", above=0)
        each = 2 / 3 * number(ask, "computing", above=0) / values.images
        need(found != reference["least_images"] - 1, "least_images: with so many pictures a GPU still waits")
        near = abs(found - exchange / each - 0.5) <= 0.5 + 0.005 * found  # from the student's own times
        need(found == reference["least_images"] or near,
             "least_images: how long is the backward pass for one picture, and how many make up for the exchange?")  # fmt: skip


def costs(values):
    """Seconds of computing and of the exchange."""
    computing = 6 * values["macs"] * values["images"] / values["speed"]
    ring = 2 * (values["gpus"] - 1) / values["gpus"]
    return computing, ring * values["bytes_each"] * values["parameters"] / values["bandwidth"]


def number(ask, name, above=None):
    """A number of the student's, or Wrong."""
    found = ask(number_of, name)
    need(found is not None, f"{name} should be a number")
    need(above is None or found > above, f"{name} should be above {above}")
    return found


def slips_of(factor, slips):
    """What is said of a number that is off by one of these factors; empty if by none."""
    return "; or ".join(message for slip, message in slips if abs(factor / slip - 1) <= 0.005)


def number_of(names, name):
    """A number of the student's, None if it is none."""
    found = probes.value(names, name)
    found = found.item() if hasattr(found, "item") and found.numel() == 1 else found
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


class WhatHides(Exercise):
    """Predict what hides behind the backward pass

    The best case says that an exchange hides behind the backward pass if it is the shorter of both. Here it is: a chain
    of convolutions with the widths `<<widths>>`, whose backward pass takes <<back>> ms each, and an exchange of <<rate>>
    kilobytes each ms. A layer's gradient can be sent as soon as it is ready, one after the other. `left_over` runs the
    real backward pass, notes in which order gradients get ready, and returns how many **per cent of the exchange are
    still to do when the backward pass ends**.

    1. Read the function, but do not run it. Write your `prediction` for this network, in per cent, and then run the
       cell. It sets `measured`, and `turned` for the same network turned around: the widest layers first.
    2. `first_ready`: which convolution's gradient is ready first, the `"first"` or the `"last"`, as pictures go?
    3. `difference`: in what do the two networks differ, so that one waits longer: in their `"bytes"`, their
       `"computing"`, or the `"order"`?
    4. `waits`: how many ms does the turned network wait at the end of each step? Work it out from `turned`.
    5. `one_message`: how many per cent are left over if all gradients are sent in one message once the last of them is
       ready?
    """

    goal = "predict how much of an exchange hides, and say what decides it"
    kind = "predict"
    minutes, difficulty, importance = 14, 3, 3
    practice = {"widths": [8, 16, 32, 64, 128], "back": 2, "rate": 65}
    hints = [
        "The backward pass begins at the loss. Which layer is next to it?",
        "The last gradient to become ready has nothing behind which it could hide. How large is it, in the one network and "
        "in the other?",
        "`turned` is a share of the whole exchange. A weight has 4 bytes, a convolution 9 * a * b weights, and a kilobyte is "
        "1000 bytes.",
    ]

    def draw(chance):
        base, count, back = chance.choice([6, 8, 10, 12]), chance.choice([4, 5]), chance.choice([1, 2, 3, 4])
        widths = [base * 2**number for number in range(count)]
        total = sum(36 * a * b for a, b in zip(widths, widths[1:])) / 1000
        return {
            "widths": widths,
            "back": back,
            "rate": round(total / (chance.choice([0.55, 0.6, 0.65, 0.7]) * (count - 1) * back)),
        }

    def stub():
        def left_over(widths):
            """Per cent of the exchange that are left when the backward pass ends."""
            layers = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, widths[1:])]
            ready = []  # kilobytes, in the order in which gradients get ready
            for layer in layers:
                layer.weight.register_hook(lambda gradient: ready.append(4 * gradient.numel() / 1000))
            nn.Sequential(*layers)(torch.ones(1, widths[0], 4, 4)).sum().backward()
            clock = free = 0.0  # ms: the backward pass, and the end of what is sent
            for kilobytes in ready:
                clock += back
                free = max(free, clock) + kilobytes / rate
            return 100 * (free - clock) / (sum(ready) / rate)

        prediction = ...  # per cent

        if prediction is not ...:
            measured, turned = left_over(widths), left_over(widths[::-1])
            print(f"you: {prediction} %, measured: {measured:.1f} %, turned around: {turned:.1f} %")

        first_ready = ...  # "first" or "last"
        difference = ...  # "bytes", "computing" or "order"
        waits = ...  # ms
        one_message = ...  # per cent

    def solution():
        def left_over(widths):
            """Per cent of the exchange that are left when the backward pass ends."""
            layers = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, widths[1:])]
            ready = []  # kilobytes, in the order in which gradients get ready
            for layer in layers:
                layer.weight.register_hook(lambda gradient: ready.append(4 * gradient.numel() / 1000))
            nn.Sequential(*layers)(torch.ones(1, widths[0], 4, 4)).sum().backward()
            clock = free = 0.0  # ms: the backward pass, and the end of what is sent
            for kilobytes in ready:
                clock += back
                free = max(free, clock) + kilobytes / rate
            return 100 * (free - clock) / (sum(ready) / rate)

        prediction = 5  # per cent

        if prediction is not ...:
            measured, turned = left_over(widths), left_over(widths[::-1])
            print(f"you: {prediction} %, measured: {measured:.1f} %, turned around: {turned:.1f} %")

        first_ready = "last"
        difference = "order"
        kilobytes = sum(4 * 9 * a * b for a, b in zip(widths, widths[1:])) / 1000
        waits = turned / 100 * kilobytes / rate
        one_message = 100

    def right_other_prediction():
        def left_over(widths):
            sizes = [0.036 * a * b for a, b in zip(widths, widths[1:])][::-1]
            clock = free = 0
            for size in sizes:
                clock, free = clock + back, max(free, clock + back) + size / rate
            return 100 * (free - clock) * rate / sum(sizes)

        prediction = 80.5
        measured, turned = left_over(widths), left_over(widths[::-1])
        first_ready, difference = "last", "order"
        waits = round(turned * sum(0.036 * a * b for a, b in zip(widths, widths[1:])) / rate / 100, 3)
        one_message = 100.0

    def right_tensors():
        def left_over(widths):
            layers = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, widths[1:])]
            order = []
            for layer in layers:
                layer.register_full_backward_hook(lambda module, a, b: order.append(module.weight.numel() * 0.004))
            x = torch.ones(1, widths[0], 4, 4, requires_grad=True)
            nn.Sequential(*layers)(x).sum().backward()
            end = 0.0
            for number, size in enumerate(order, 1):
                end = max(end, number * back) + size / rate
            return torch.tensor(100 * (end - len(order) * back) * rate / sum(order), dtype=torch.float64)

        prediction = torch.tensor(0.0)
        measured, turned = left_over(widths), left_over(list(reversed(widths)))
        first_ready = "last"
        difference = "order"
        waits = turned / 100 * 36 * sum(a * b for a, b in zip(widths, widths[1:])) / (1000 * rate)
        one_message = torch.tensor(100)

    wrong = [
        ("impossible", "prediction = 5", "prediction = 150", "between 0 and 100"),
        ("in-words", "prediction = 5", 'prediction = "a little"', "a number"),
        ("not-run", "measured, turned = left_over(widths), left_over(widths[::-1])", "measured, turned = 5, 40", "experiment"),
        ("same-way-round", "left_over(widths[::-1])", "left_over(widths)", "turned around"),
        ("forward-order", 'first_ready = "last"', 'first_ready = "first"', "begins at the loss"),
        ("of-the-bytes", 'difference = "order"', 'difference = "bytes"', "the same in both"),
        ("another-word", 'difference = "order"', 'difference = "luck"', "none of the words"),
        ("share-for-ms", "waits = turned / 100 * kilobytes / rate", "waits = turned", "ms"),
        ("weights-for-bytes", "sum(4 * 9 * a * b", "sum(9 * a * b", "4 bytes"),
        ("of-measured", "waits = turned / 100", "waits = measured / 100", "turned network"),
        ("message-hides", "one_message = 100", "one_message = 0", "nothing is left to hide behind"),
    ]  # fmt: skip

    explanation = """
    In both networks the exchange is shorter than the backward pass, so the best case says: nothing is left over. It
    forgets that a gradient cannot be sent before it is there. The backward pass goes from the last layer to the first. Where
    the last layers are the largest, as in nearly every network for pictures, most bytes are ready early and hide; only the small
    first layer's are left. Turned around, the largest layer is ready last, and nothing is left to hide it behind. The bytes
    and the computing are the same.

    Sent in one message at the end, everything is left over. Sent layer by layer, a real program pays for each message, so
    `DistributedDataParallel` gathers gradients in *buckets* of some megabytes: large enough to be worth a message, and small
    enough that the first can leave early.
    """
    marking = """
    The prediction has its point whatever it is, if it is possible. `waits` is right within one per cent. Ask aloud: AlexNet
    holds nearly all its weights in its last layers; is that good or bad for hiding, and why is it slow all the same?
    """

    @check(points=1)
    def predicted(ask, values):
        """A prediction that is possible."""
        found = ask(number_of, "prediction")
        need(found is not None, "prediction should be a number: per cent")
        need(0 <= found <= 100, "prediction should be between 0 and 100: it is a share, in per cent")

    @check(points=1)
    def answered(ask, values):
        """The experiment has run, and each question has an answer."""
        measured, turned = ask(number_of, "measured"), ask(number_of, "turned")
        need(measured is not None and turned is not None, "measured and turned are set by the cell: run it")
        need(measured != turned, "measured and turned are the same: has the second network been turned around?")
        for name, words in (("first_ready", ("first", "last")), ("difference", ("bytes", "computing", "order"))):
            found = ask(probes.value, name)
            need(found in words, f"{name} = {found!r} is none of the words of the task")
        for name in ("waits", "one_message"):
            number(ask, name)

    @check(points=1, hidden=True)
    def measured(ask, values, reference):
        """The experiment as it was given."""
        for name in ("measured", "turned"):
            need(abs(number(ask, name) - float(reference[name])) < 0.01,
                 f"{name} is not what the experiment gives: run the cell as it was given")  # fmt: skip

    @check(points=1, hidden=True)
    def explained(ask, values, reference):
        """What is ready first, and what makes the difference."""
        need(
            ask(probes.value, "first_ready") == reference["first_ready"],
            "first_ready: the backward pass begins at the loss",
        )
        need(
            ask(probes.value, "difference") == reference["difference"],
            "difference: count it for both networks, it is the same in both",
        )

    @check(points=1, hidden=True)
    def worked_out(ask, values, reference):
        """Two numbers that follow."""
        found, right = number(ask, "waits"), float(reference["waits"])
        need(abs(found - float(reference["turned"])) > 0.01 or abs(found / right - 1) < 0.01,
             "waits should be in ms: turned is a share of the whole exchange")  # fmt: skip
        need(abs(4 * found / right - 1) > 0.01, "waits: a weight has 4 bytes")
        need(abs(found / right - 1) <= 0.01, "waits is not right: that share of the turned network, of how many ms?")
        need(abs(number(ask, "one_message") - 100) < 0.5,
             "one_message: when it can leave, the backward pass is over, and nothing is left to hide behind")  # fmt: skip


class MendTheLoop(Exercise):
    """Mend a loop for many processes

    A colleague imitates data parallel training in one process: `networks` holds a copy of the network for each of
    `world_size` processes. Each looks at its part of the batch (`world_size` divides it), they exchange gradients, and each makes its step.
    `accuracy` evaluates with all of them, on any number of pictures. The code runs without an error, and the loss falls.
    **One line** is at fault.

    Mend the code in place, so that <<processes>> processes do what one would do with the whole batch and the weights
    that `seed` gives. Then set `fault` to the one of these words that names what was wrong:

    - `"weights"`: the processes do not start from the same network;
    - `"data"`: they do not share the batch among them;
    - `"gradients"`: what they exchange is not the gradient of the batch;
    - `"metric"`: the accuracy is not that of all pictures.

    And set `control` to the letter of the one control that comes out wrong for the code as you found it:

    - `"A"`: train for one step. Do all processes have the same weights?
    - `"B"`: change picture 1 of the batch, and train for one step. Do the weights of process 0 come out otherwise?
    - `"C"`: give all processes the same weights by hand, and a batch in which each picture stands <<processes>> times in a row,
      so that all see the same pictures. Is the step the one that one process makes with each picture once?
    - `"D"`: evaluate <<evaluated>> pictures, with a few sets of labels. Is the accuracy times <<evaluated>> a whole number, as a count must be?
    """

    goal = "find what makes several processes train another network than one, and name the control that shows it"
    kind = "break"
    minutes, difficulty, importance = 20, 4, 5
    practice = {"processes": 3, "evaluated": 25, "_fault": "weights", "_control": "A"}
    hints = [
        "Compare with the five places of `fit` in section 2 of the chapter: what must be the same in all processes, and "
        "what must not?",
        "Each control has one right answer for code that works. With one process, nothing is wrong: try two.",
        "Follow the mean: over the pictures of a part, over the processes, over all pictures. Which of these is taken where?",
    ]

    def draw(chance):
        fault, control = chance.choice([("weights", "A"), ("data", "B"), ("gradients", "C"), ("metric", "D")])
        processes = chance.choice([2, 3, 4])
        return {
            "processes": processes, "evaluated": 6 * processes + chance.randrange(1, processes), "_fault": fault,
            "_control": control,
        }  # fmt: skip

    def solution():
        def train_in_parts(make_network, images, labels, world_size, steps, learning_rate, seed):
            """Train with so many processes, all in one; return their networks."""
            networks = []
            for rank in range(world_size):
                torch.manual_seed(seed)
                networks.append(make_network())
            for step in range(steps):
                for rank, network in enumerate(networks):
                    mine = slice(rank, None, world_size)
                    network.zero_grad()
                    F.cross_entropy(network(images[mine]), labels[mine]).backward()
                for same in zip(*(network.parameters() for network in networks)):
                    exchanged = sum(weight.grad for weight in same) / world_size
                    for weight in same:
                        weight.data -= learning_rate * exchanged
            return networks

        def accuracy(networks, images, labels):
            """Share of all pictures that are right; each process evaluates its part."""
            right, asked = [], []
            for rank, network in enumerate(networks):
                part = slice(rank, None, len(networks))
                with torch.no_grad():
                    answers = network(images[part]).argmax(1)
                right.append((answers == labels[part]).sum().item())
                asked.append(len(answers))
            return sum(right) / sum(asked)

        fault = "<<_fault>>"
        control = "<<_control>>"

    def right_broadcast():
        def train_in_parts(make_network, images, labels, world_size, steps, learning_rate, seed):
            torch.manual_seed(seed)
            first = make_network()
            networks = [first, *(copy.deepcopy(first) for _ in range(world_size - 1))]
            optimizers = [torch.optim.SGD(network.parameters(), lr=learning_rate) for network in networks]
            for _ in range(steps):
                for optimizer, network, x, y in zip(
                    optimizers, networks, images.chunk(world_size), labels.chunk(world_size)
                ):
                    optimizer.zero_grad()
                    (F.cross_entropy(network(x), y, reduction="sum") / len(images)).backward()
                for same in zip(*(network.parameters() for network in networks)):
                    total = torch.stack([weight.grad for weight in same]).sum(0)
                    for weight in same:
                        weight.grad = total.clone()
                for optimizer in optimizers:
                    optimizer.step()
            return networks

        def accuracy(networks, images, labels):
            hits = torch.zeros(())
            for number, (image, label) in enumerate(zip(images, labels)):
                hits += networks[number % len(networks)](image[None]).argmax() == label
            return hits / len(images)

        fault, control = "<<_fault>>", "<<_control>>"

    def right_mean_of_weights():
        def train_in_parts(make_network, images, labels, world_size, steps, learning_rate, seed):
            networks = []
            for rank in range(world_size):
                torch.manual_seed(seed + rank)
                networks.append(make_network())
                networks[rank].load_state_dict(networks[0].state_dict())
            for _ in range(steps):
                for rank, network in enumerate(networks):
                    loss = F.cross_entropy(network(images[rank::world_size]), labels[rank::world_size])
                    slopes = torch.autograd.grad(loss, list(network.parameters()))
                    with torch.no_grad():
                        for weight, slope in zip(network.parameters(), slopes):
                            weight -= learning_rate * slope
                states = [network.state_dict() for network in networks]
                mean = {key: sum(state[key] for state in states) / world_size for key in states[0]}
                for network in networks:
                    network.load_state_dict(mean)
            return networks

        def accuracy(networks, images, labels):
            shares = []
            for rank, network in enumerate(networks):
                answers = network(images[rank :: len(networks)]).argmax(1)
                right = (answers == labels[rank :: len(networks)]).double().mean().item()
                shares.append(right * len(answers) / len(images))
            return sum(shares)

        fault = "<<_fault>>"
        control = "<<_control>>"

    faults = {
        "weights": ("torch.manual_seed(seed)", "torch.manual_seed(seed + rank)"),
        "data": ("mine = slice(rank, None, world_size)", "mine = slice(0, None, world_size)"),
        "gradients": ("exchanged = sum(weight.grad for weight in same) / world_size",
                      "exchanged = sum(weight.grad for weight in same)"),
        "metric": ("return sum(right) / sum(asked)", "return sum(a / b for a, b in zip(right, asked)) / len(networks)"),
    }  # fmt: skip
    blank = [('fault = "<<_fault>>"', 'fault = ...  # "weights", "data", "gradients" or "metric"'),
             ('control = "<<_control>>"', 'control = ...  # "A", "B", "C" or "D"')]  # fmt: skip

    def wrong(values):
        others = {"weights": "data", "data": "gradients", "gradients": "metric", "metric": "weights"}
        letters = {"A": "B", "B": "C", "C": "D", "D": "A"}
        fault, control = values["_fault"], values["_control"]
        told = "another one: the accuracy" if fault == "metric" else "another one: after"
        return [
            ("fault-left", *MendTheLoop.faults[fault], told),
            ("another-fault-planted", *MendTheLoop.faults[others[fault]], "or another one"),
            ("named-wrongly", 'fault = "<<_fault>>"', f'fault = "{others[fault]}"', "names something else"),
            ("no-word", 'fault = "<<_fault>>"', 'fault = "seed"', "is none of the words"),
            ("wrong-control", 'control = "<<_control>>"', f'control = "{letters[control]}"', "comes out right"),
            ("no-letter", 'control = "<<_control>>"', "control = 4", "is none of the letters"),
            ("no-exchange", "weight.data -= learning_rate * exchanged", "weight.data -= learning_rate * weight.grad", "or another one"),
            ("one-network-returned", "    return networks\n", "    return networks[:1]\n", "networks, one for each process"),
            ("accuracy-of-the-first", "return sum(right) / sum(asked)", "return right[0] / asked[0]", "or another one"),
        ]  # fmt: skip

    explanation = """
    Here the fault is of the kind `"<<_fault>>"`, and control <<_control>> shows it. All four run, and with all four the loss
    falls, so a falling loss proves nothing.

    **Weights**: equal steps keep equal copies equal; they do not make unequal ones so. `DistributedDataParallel` hands out the
    weights of process 0 first, which forgives a seed of its own in each. **Data**: with the same pictures for all, many processes do the
    work of one. Nothing looks wrong but the time that it takes to learn. **Gradients**: a sum in place of a mean is a learning rate that grows with the number
    of processes. **Metric**: a mean of means is the mean only if all parts have the same size. So add up right answers
    and pictures, and divide once.
    """
    marking = """
    The mended code is graded by what it computes, compared with one process and with the reference. Word and letter are a point each.
    Ask aloud: which of the four would `DistributedDataParallel` have prevented, and which not?
    """

    @check(points=2)
    def mended(ask, values):
        """Many processes do what one does with the whole batch."""
        told = "the code still has its fault, or another one"
        for processes in (values.processes, 2):
            alone, found = ask(trained_in, 1), ask(trained_in, processes)
            need(
                len(found["weights"]) == processes,
                f"train_in_parts should return {processes} networks, one for each process",
            )
            far = max(float((each - alone["weights"][0]).abs().max()) for each in found["weights"])
            need(
                far < 1e-7,
                f"{told}: after three steps, {processes} processes have other weights than one process that sees the whole batch",
            )
            counted = ask(accuracy_of, processes, values.evaluated if processes == values.processes else 7)
            need(abs(counted["accuracy"] - counted["share"]) < 1e-5,
                 f"{told}: the accuracy of {processes} processes is not the share of all pictures that are right")  # fmt: skip

    @check(points=1)
    def words(ask, values):
        """The word and the letter are of the lists."""
        found = ask(probes.value, "fault")
        need(found in ("weights", "data", "gradients", "metric"), f"fault = {found!r} is none of the words of the task")
        found = ask(probes.value, "control")
        need(found in ("A", "B", "C", "D"), f"control = {found!r} is none of the letters of the task")

    @check(points=1, hidden=True)
    def named(ask, values, reference):
        """The fault is named."""
        need(ask(probes.value, "fault") == reference["fault"], "the word names something else than what was wrong")

    @check(points=1, hidden=True)
    def shown(ask, values, reference):
        """The control is the one that shows it."""
        need(
            ask(probes.value, "control") == reference["control"],
            "for the code as it was found, that control comes out right",
        )


def trained_in(names, processes):
    """The weights of every process after three steps of the student's loop."""
    import torch
    from torch import nn

    def make_network():
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    generator = torch.Generator().manual_seed(1)
    images = torch.randn(24, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (24,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        networks = probes.find(names, "train_in_parts")(make_network, images, labels, processes, 3, 0.5, 7)
    networks = list(networks) if isinstance(networks, (list, tuple)) else []
    return {"weights": [torch.cat([weight.detach().flatten() for weight in each.parameters()]) for each in networks]}


def accuracy_of(names, processes, count):
    """The student's accuracy of equal networks, where the first process is right and the others are wrong."""
    import copy

    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, 3, 2, 2, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
        networks = [copy.deepcopy(network) for _ in range(processes)]
        answers = network(images).argmax(1)
        first = torch.arange(count) % processes == 0
        labels = torch.where(first, answers, (answers + 1) % 4)
        found = probes.call(names, "accuracy", networks, images, labels)
    return {"accuracy": float(found), "share": float(first.double().mean())}
