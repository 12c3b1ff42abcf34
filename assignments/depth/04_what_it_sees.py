"""What does it see?

You follow the field of a unit through a list of layers, first on paper and then by asking the network itself. Then you
write Grad-CAM, and last a test that a heat map has to pass before you believe it. Do the chapter first: everything
here stands on its sections 3, 7 and 8.
"""

from course_exercises import Wrong, need, probes
from course_exercises.authoring import Exercise, check


def setup():
    import copy

    import torch
    import torch.nn.functional as F
    from torch import nn


def follow(layers, slip=""):
    """Field and step behind each layer of a list of [kernel, stride, dilation], perhaps with a slip."""
    field, step, fields, steps = 1, 1, [], []
    for kernel, stride, dilation in layers:
        if slip == "stride first":
            step *= stride
        between = {"no dilation": kernel - 1, "whole kernel": kernel * dilation}.get(slip, (kernel - 1) * dilation)
        field += between * (1 if slip == "no step" else stride if slip == "own stride" else step)
        if slip != "stride first":
            step *= stride
        fields.append(field)
        steps.append(step)
    return fields, steps


class FieldOnPaper(Exercise):
    """Follow a field through five layers

    `layers` holds five layers of a network in the order in which they run, each as `[kernel, stride, dilation]`. Work
    out, on paper or with a few lines of Python:

    - `fields`: a list of five numbers, the side of the field in pixels **behind each layer**;
    - `steps`: a list of five numbers, the step in pixels behind each layer, that is how far the fields of two
      neighbouring units lie apart;
    - `overlap`: how many columns of pixels the fields of two neighbouring units of the **last** map share;
    - `more`: how many further 3x3 convolutions (stride 1, no dilation) must follow before a unit sees at least
      <<target>> pixels across.

    In front of the first layer a unit is a pixel: field 1, step 1.
    """

    goal = "compute a receptive field and a step from kernels, strides and dilations"
    kind = "compute"
    minutes, difficulty, importance = 12, 2, 5
    practice = {"layers": [[7, 2, 1], [3, 2, 1], [3, 1, 1], [3, 2, 1], [3, 1, 2]], "target": 150}
    hints = [
        "A layer with kernel k and dilation d reads k units. How many steps lie between the first and the last of them, "
        "and how many pixels is each such step wide at that depth?",
        "Two things happen at each layer, and their order matters: a stride widens what comes behind it, not its own "
        "window.",
        "For `more`: each of those convolutions adds the same number of pixels, since none of them has a stride. A part "
        "of a layer cannot be built.",
    ]

    def draw(chance):
        layers = [[chance.choice([3, 5, 7]), 2, 1], [chance.choice([2, 3]), 2, 1], [chance.choice([3, 5]), 1, 1],
                  [3, 2, 1], [chance.choice([3, 5]), 1, chance.choice([2, 3])]]  # fmt: skip
        fields, steps = follow(layers)
        wide = 2 * steps[-1]
        return {"layers": layers, "target": fields[-1] + wide * chance.choice([3, 4, 5]) - chance.randrange(1, wide)}

    def stub():
        fields = ...
        steps = ...
        overlap = ...
        more = ...

    def solution():
        fields, steps = [], []
        field, step = 1, 1
        for kernel, stride, dilation in layers:
            field += (kernel - 1) * dilation * step
            step *= stride
            fields.append(field)
            steps.append(step)
        overlap = field - step
        more = -(-(target - field) // (2 * step))

    def right_step_by_step():
        (k1, s1, d1), (k2, s2, d2), (k3, s3, d3), (k4, s4, d4), (k5, s5, d5) = layers
        steps = [s1, s1 * s2, s1 * s2 * s3, s1 * s2 * s3 * s4, s1 * s2 * s3 * s4 * s5]
        fields = [1 + (k1 - 1) * d1]
        fields.append(fields[0] + (k2 - 1) * d2 * steps[0])
        fields.append(fields[1] + (k3 - 1) * d3 * steps[1])
        fields.append(fields[2] + (k4 - 1) * d4 * steps[2])
        fields.append(fields[3] + (k5 - 1) * d5 * steps[3])
        overlap = fields[4] - steps[4]
        more, seen = 0, fields[4]
        while seen < target:
            more, seen = more + 1, seen + 2 * steps[4]

    def right_numpy():
        import math

        import numpy as np

        kernels, strides, dilations = np.array(layers).T
        steps = np.cumprod(strides)
        before = np.concatenate([[1], steps[:-1]])
        fields = 1 + np.cumsum((kernels - 1) * dilations * before)
        overlap = fields[-1] - steps[-1]
        more = math.ceil((target - fields[-1]) / (2 * steps[-1]))
        fields, steps = fields.tolist(), torch.tensor(steps)

    wrong = [
        ("stride-first", "field += (kernel - 1) * dilation * step\n    step *= stride",
         "step *= stride\n    field += (kernel - 1) * dilation * step", "not its own"),
        ("dilation-forgotten", "(kernel - 1) * dilation * step", "(kernel - 1) * step", "dilation"),
        ("step-forgotten", "(kernel - 1) * dilation * step", "(kernel - 1) * dilation", "pixels of the picture"),
        ("own-stride-only", "(kernel - 1) * dilation * step", "(kernel - 1) * dilation * stride", "all strides before"),
        ("kernel-not-less-one", "(kernel - 1) * dilation * step", "kernel * dilation * step", "between the first and the last"),
        ("steps-added", "step *= stride", "step += stride - 1", "multiply"),
        ("start-in-the-list", "fields, steps = [], []", "fields, steps = [1], [1]", "behind each layer"),
        ("no-overlap", "overlap = field - step", "overlap = field", "moved by one step"),
        ("gap-of-centres", "overlap = field - step", "overlap = step", "overlap"),
        ("rounded-down", "-(-(target - field) // (2 * step))", "(target - field) // (2 * step)", "at least"),
        ("more-without-step", "// (2 * step))", "// 2)", "more"),
        ("from-nothing", "-(-(target - field) // (2 * step))", "-(-target // (2 * step))", "more"),
        ("words", "overlap = field - step", 'overlap = "some"', "a number"),
    ]  # fmt: skip

    explanation = """
    A layer with kernel k and dilation d reads units of which the first and the last are (k - 1) * d steps apart, and a
    step there is as wide as **all strides before it** have made it. So first the field grows with the old step, then
    the step is multiplied. A stride costs its own layer nothing: that layer still looks at the same patch, but all
    behind it lie further apart.

    Two neighbouring units see the same square moved by one step, so they share the field less the step. With a
    step of <<layers[0][1] * layers[1][1] * layers[2][1] * layers[3][1] * layers[4][1]>> pixels each further 3x3
    adds twice that. That is why networks widen their view by strides first and depth second: at the full size of the
    picture a 3x3 adds two pixels only.
    """
    marking = """
    A slip in the fields is charged once: `overlap` and `more` also count if they follow from the student's own last
    field and step. Ask aloud: which of the five layers could lose its stride, and what would the last field then be?
    """

    @check(points=1)
    def written(ask, values):
        """Two lists and two numbers."""
        count = len(values.layers)
        for name in ("fields", "steps"):
            found = ask(numbers_in, name)
            need(len(found) > 0, f"{name} should be a list of numbers")
            need(len(found) == count,
                 f"{name} has {len(found)} numbers: one is asked for behind each layer, and there are {count} layers")  # fmt: skip
            need(
                all(a <= b for a, b in zip(found, found[1:])),
                f"{name} falls somewhere: no layer makes a field or a step smaller",
            )
        for name in ("overlap", "more"):
            need(len(ask(numbers_in, name)) == 1, f"{name} should be a number")

    @check(points=2, hidden=True)
    def the_fields(ask, values, reference):
        """The field behind each layer."""
        found = ask(numbers_in, "fields")
        right, _ = follow(values.layers)
        need(len(found) == len(right), "fields should be a list with a number behind each layer")
        told = {
            "stride first": "a stride widens the windows behind it, not its own: which step counts for a layer's window?",
            "no dilation": "the windows are taken as if no layer had a dilation",
            "no step": "a window is counted in units of the map before it: how many pixels of the picture is each of them apart?",
            "own stride": "the window is multiplied by the stride of its own layer: it is all strides before it that count",
            "whole kernel": "how many steps lie between the first and the last unit of a window? Fewer than its kernel",
        }
        for slip, message in told.items():
            need(found == right or found != follow(values.layers, slip)[0], f"fields: {message}")
        first = next((number for number, pair in enumerate(zip(found, right), 1) if pair[0] != pair[1]), 0)
        need(not first, f"fields: the first that is not right is behind layer {first}; go through that one again, and "
             "multiply the strides for the step")  # fmt: skip

    @check(points=1, hidden=True)
    def the_steps(ask, values, reference):
        """The step behind each layer."""
        need(ask(numbers_in, "steps") == follow(values.layers)[1], "steps: strides multiply, layer by layer")

    @check(points=1, hidden=True)
    def what_follows(ask, values, reference):
        """Overlap and further layers."""
        found = {name: ask(numbers_in, name) for name in ("fields", "steps", "overlap", "more")}
        for name, numbers in found.items():
            need(len(numbers) > 0, f"{name} should be a number, or a list of numbers")
        field, step, overlap, more = (numbers[-1] for numbers in found.values())
        need(step > 0, "steps: a step is at least one pixel")
        need(
            overlap != field, "overlap: the field of the neighbour is moved by one step, so they cannot share all of it"
        )
        need(overlap in (field - step, reference["overlap"]), "overlap: draw two fields of that side, one step apart")
        lacking = values.target - field
        need(more != lacking // (2 * step) or more == reference["more"],
             "more: with so many layers the field is still too small: at least so many pixels were asked for")  # fmt: skip
        need(more in (-(-lacking // (2 * step)), reference["more"]),
             "more: how many pixels does one 3x3 add at this depth, and how many are lacking?")  # fmt: skip


def numbers_in(names, name):
    """The numbers of a list, a tensor or a single number as a list of floats; an empty list for anything else."""
    found = probes.value(names, name)
    found = found.tolist() if hasattr(found, "tolist") else found
    found = found if isinstance(found, list) else [found]
    return [float(part) for part in found] if all(isinstance(part, (int, float)) for part in found) else []


class FieldByGradient(Exercise):
    """Ask the network for its field

    A formula is easy to get wrong by one layer, so write `field_by_gradient(network, image_size)`. It returns the side
    of the field, in pixels, of a unit in the **middle** of the last map: from the first to the last row of a picture
    of `image_size` x `image_size` pixels that can have any effect on that unit, whatever the weights are.

    `network` is an `nn.Sequential` of `nn.Conv2d`, `nn.BatchNorm2d`, `nn.ReLU` and `nn.MaxPool2d` with quadratic
    windows, and of blocks made of these, perhaps with several branches. It takes pictures with <<channels>> channels.
    It may be in training mode, and its weights may be of any kind. The function must **leave it as it was**, weights
    and mode.

    The pictures that we ask about are large enough: the field does not reach their edge.
    """

    goal = "check a receptive field with gradients, and know what hides a path from them"
    kind = "build"
    minutes, difficulty, importance = 18, 3, 4
    practice = {"channels": 3}
    hints = [
        "Run a picture that needs a gradient through a copy (`copy.deepcopy`), take the unit `[..., middle, middle]`, sum "
        "over the channels, and ask `torch.autograd.grad` for its gradient at the picture.",
        "Three things can hide a pixel that could have an effect: paths that cancel, a ReLU that is shut, and a max pool, "
        "which passes the gradient of one pixel only. What can you do to the copy so that none of them happens?",
        "Two more traps: a norm in training mode looks at whole maps, and a dilated window leaves rows out in between.",
    ]

    def draw(chance):
        return {"channels": chance.choice([1, 2, 4, 5, 6])}

    def stub():
        def field_by_gradient(network, image_size):
            """Side of what a unit in the middle of the last map sees, in pixels."""
            ...

    def solution():
        def field_by_gradient(network, image_size):
            """Side of what a unit in the middle of the last map sees, in pixels."""
            network = copy.deepcopy(network).double().eval()
            for parent in list(network.modules()):
                for name, child in parent.named_children():
                    if isinstance(child, nn.MaxPool2d):
                        setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
                    elif isinstance(child, nn.Conv2d):
                        nn.init.constant_(child.weight, 1 / child.weight[0].numel())
                        if child.bias is not None:
                            nn.init.zeros_(child.bias)
                    elif isinstance(child, nn.BatchNorm2d):
                        child.reset_parameters()
            x = torch.ones(1, channels, image_size, image_size, dtype=torch.double, requires_grad=True)
            maps = network(x)
            middle = maps.shape[-1] // 2
            (slopes,) = torch.autograd.grad(maps[..., middle, middle].sum(), x)
            rows = slopes.abs().sum((0, 1, 3)).nonzero().flatten()
            return (rows[-1] - rows[0]).item() + 1

    def right_without_relu():
        def swap(module):
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, nn.Identity())
                elif isinstance(child, nn.MaxPool2d):
                    setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
                else:
                    swap(child)

        def field_by_gradient(network, image_size):
            twin = copy.deepcopy(network).eval().double()
            swap(twin)
            picture = torch.randn(1, channels, image_size, image_size).double().requires_grad_()
            out = twin(picture)
            out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum().backward()
            columns = [number for number in range(image_size) if picture.grad[..., number].abs().sum() > 0]
            return max(columns) - min(columns) + 1

    def right_positive_weights():
        def field_by_gradient(network, image_size):
            twin = copy.deepcopy(network).eval()
            for part in twin.parameters():
                part.data = part.data.abs() + 0.01
            for part in twin.modules():
                if isinstance(part, nn.MaxPool2d):
                    part.forward = lambda x, own=part: F.avg_pool2d(x, own.kernel_size, own.stride, own.padding)
            x = torch.full((1, channels, image_size, image_size), 1.0, requires_grad=True)
            maps = twin(x)
            maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].sum().backward()
            seen = (x.grad[0].sum(0) > 0).any(1)
            where = torch.arange(image_size)[seen]
            return where.max() - where.min() + 1

    wrong = [
        ("corner", "middle = maps.shape[-1] // 2", "middle = 0", "at the edge"),
        ("off-by-one", "(rows[-1] - rows[0]).item() + 1", "(rows[-1] - rows[0]).item()", "both ends"),
        ("all-units", "maps[..., middle, middle].sum()", "maps.sum()", "one unit"),
        ("not-a-copy", "copy.deepcopy(network).double().eval()", "network.float().double().eval()", "as it was"),
        ("mode-left", "network = copy.deepcopy(network).double().eval()",
         "network.eval()\n    network = copy.deepcopy(network).double()", "as it was"),
        ("training-mode", ".double().eval()", ".double()", "whole maps"),
        ("rows-counted", "(rows[-1] - rows[0]).item() + 1", "len(rows)", "in between"),
        ("relu-shut", "nn.init.zeros_(child.bias)", "pass", "ReLU"),
        ("max-left", "if isinstance(child, nn.MaxPool2d):", "if isinstance(child, nn.MaxPool3d):", "max pool"),
        ("by-the-list", "", """
            def field_by_gradient(network, image_size):
                side, step = 1, 1
                for layer in network.modules():
                    if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
                        kernel, stride, dilation = (p[0] if isinstance(p, tuple) else p for p in (kernel, stride, dilation))
                        side += (kernel - 1) * dilation * step
                        step *= stride
                return side
            """, "branch"),
    ]  # fmt: skip

    explanation = """
    A gradient that is not zero proves an effect; one that is zero proves nothing, since it may only be hidden. The copy
    with equal positive weights and mean pools hides nothing: no two paths cancel, all ReLUs are open, and each pixel of
    a pool is passed on. Only then is "zero" the same as "outside the field". (In the next question of the chapter, how
    much effect there *is*, the hiding is part of the answer, so there the network stays as it is.)

    Two details decide the number. A dilated window and a stride leave rows out, so the field is from the first to the
    last row, and not the number of rows that count. And a norm in training mode takes its mean from the whole map:
    then every pixel has an effect, which is true, and not what was asked.
    """
    marking = """
    Each hidden check is one trap: gaps, what hides paths, branches. An answer that reads the modules and uses the
    formula passes all but the branches. Ask aloud: a gradient is zero at a pixel; give three reasons.
    """

    @check(points=1)
    def one_convolution(ask, values):
        """The field of one convolution is its kernel."""
        for kernel in (7, 5, 3):
            found = side_of(ask, [["conv", kernel, 1, 1]], values.channels, 40)
            told = f"behind one {kernel}x{kernel} convolution the function finds {found:g} pixels"
            need(found < 40, f"{told}, the whole picture: ask for the gradient of one unit, not of all")
            need(found != kernel - 1, f"{told}: from the first to the last row, both ends included")
            need(
                found != kernel // 2 + 1,
                f"{told}: does the unit lie at the edge, so that padding is a part of its field?",
            )
            need(found == kernel, told)

    @check(points=1)
    def left_alone(ask, values):
        """The network is left as it was, and only a copy is changed."""
        norms = [["conv", 3, 1, 1], ["norm"], ["conv", 3, 1, 1]]
        found = ask(field_found, norms, values.channels, 40)
        need(found["kept"], "weights, statistics or mode of the network are not as it was given: work on a copy of it")
        need(
            side_of(ask, norms, values.channels, 40) < 40,
            "behind a norm it finds the whole picture: in which mode does a norm look at whole maps?",
        )

    @check(points=1, hidden=True)
    def gaps(ask, values, reference):
        """Strides and dilations, which leave rows out."""
        for layers in (
            [["conv", 3, 1, 3]],
            [["conv", 1, 2, 1], ["conv", 3, 1, 2]],
            [["conv", 5, 2, 1], ["conv", 3, 1, 4]],
        ):
            found = side_of(ask, layers, values.channels, 61)
            right = float(field_found(reference, layers, values.channels, 61)["side"])
            need(found == right, f"with dilation or stride it finds {found:g} pixels in place of {right:g}: rows in between that "
                 "have no effect belong to the field as well")  # fmt: skip

    @check(points=1, hidden=True)
    def hidden_paths(ask, values, reference):
        """Nothing is hidden by a ReLU, a max pool or a norm."""
        for layer, told in ((["relu"], "a ReLU"), (["max", 3, 2], "a max pool"), (["norm"], "a norm")):
            layers = [["conv", 3, 1, 1], layer, ["conv", 3, 1, 1], layer, ["conv", 5, 1, 1]]
            try:
                found = side_of(ask, layers, values.channels, 60)
            except Wrong as error:
                need(
                    "raised" not in str(error), f"with {told} no path is left, and {error}: is there a gradient at all?"
                )
                raise
            right = float(field_found(reference, layers, values.channels, 60)["side"])
            need(found == right, f"with {told} between the convolutions it finds {found:g} pixels, not {right:g}: does it pass "
                 "on every effect in your copy?")  # fmt: skip

    @check(points=1, hidden=True)
    def branches(ask, values, reference):
        """A block with two branches."""
        layers = [["conv", 3, 2, 1], ["split", 3, 7], ["relu"], ["split", 5, 1]]
        found = side_of(ask, layers, values.channels, 60)
        right = float(field_found(reference, layers, values.channels, 60)["side"])
        need(found == right, f"in a block with two branches it finds {found:g} pixels, not {right:g}: each path goes through one "
             "branch, not through both")  # fmt: skip


def side_of(ask, layers, channels, image_size):
    """The side that the student's function finds, or Wrong."""
    found = ask(field_found, layers, channels, image_size)["side"]
    found = found.item() if hasattr(found, "item") and found.numel() == 1 else found
    need(isinstance(found, (int, float)), "the function should return one number: the side in pixels")
    return float(found)


def field_found(names, layers, channels, image_size):
    """What the student's function says of a network of these layers, and whether the network stayed as it was."""
    import copy

    import torch
    from torch import nn

    class Split(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.first(x) + self.second(x)

    def convolution(kernel, stride=1, dilation=1, width=4):
        layer = nn.Conv2d(width, 4, kernel, stride, dilation * (kernel - 1) // 2, dilation)
        nn.init.constant_(layer.bias, -10)  # shuts what comes behind
        return layer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        parts, width = [], channels
        for kind, *sizes in layers:
            if kind == "conv":
                parts.append(convolution(*sizes, width=width))
                width = 4
            elif kind == "split":
                parts.append(Split(*(convolution(size) for size in sizes)))
            else:
                made = {"norm": lambda: nn.BatchNorm2d(4), "relu": nn.ReLU}.get(kind)
                parts.append(made() if made else nn.MaxPool2d(sizes[0], sizes[1], sizes[0] // 2))
        network = nn.Sequential(*parts)
        before = copy.deepcopy(network.state_dict())
        side = probes.call(names, "field_by_gradient", network, image_size)
    after = network.state_dict()
    same = all(part.dtype == before[key].dtype and bool((part == before[key]).all()) for key, part in after.items())
    same = same and len(after) == len(before) and all(part.training for part in network.modules())
    return {"side": side, "kept": same and list(map(type, parts)) == list(map(type, network))}


class GradCam(Exercise):
    """Write Grad-CAM

    Write `grad_cam(network, layer, images, labels)` from the formula of the chapter. `images` is (N, C, H, W),
    `labels` (N,) holds the class to explain in each picture, and `layer` is the part of `network` whose output holds
    the maps. The result is (N, h, w), as fine as those maps are and not enlarged:

    $$\\alpha_k^c = \\frac{1}{Z} \\sum_{i, j} \\frac{\\partial y^c}{\\partial A^k_{ij}} \\qquad\\qquad
    L^c = \\operatorname{ReLU}\\Big(\\sum_k \\alpha_k^c A^k\\Big)$$

    $y^c$ is the score of the class that was **asked for**, before the softmax. The network may come in training mode.
    Compute the map in evaluation mode, and leave the network as it was: its mode, and no hook that stays behind.
    Your copy checks it with <<classes>> classes.
    """

    goal = "build Grad-CAM from its formula"
    kind = "build"
    minutes, difficulty, importance = 20, 3, 5
    practice = {"classes": 4}
    hints = [
        "`layer.register_forward_hook(function)` calls `function(module, inputs, output)` each time the layer has worked. "
        "It returns a handle, and `handle.remove()` takes it away.",
        "The pictures do not see each other in evaluation mode. So the sum of the N scores has, at each picture's maps, "
        "the gradient of that picture's own score.",
        "`scores.gather(1, labels[:, None])` picks one column in each row. The weight of a map is one number: over which "
        "dimensions is the mean?",
    ]

    def draw(chance):
        return {"classes": chance.choice([3, 5, 6, 7, 8])}

    def stub():
        def grad_cam(network, layer, images, labels):
            """Where a layer speaks for a class: (N, h, w)."""
            ...

    def solution():
        def grad_cam(network, layer, images, labels):
            """Where a layer speaks for a class: (N, h, w)."""
            kept, training = [], network.training
            handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
            network.eval()
            scores = network(images)
            handle.remove()
            network.train(training)
            score = scores.gather(1, labels[:, None]).sum()
            (slopes,) = torch.autograd.grad(score, kept[0])
            weights = slopes.mean((2, 3), keepdim=True)
            return (weights * kept[0]).sum(1).relu().detach()

    def right_one_by_one():
        def grad_cam(network, layer, images, labels):
            found = {}

            def keep(module, inputs, output):
                output.retain_grad()
                found["maps"] = output

            before = network.training
            network.train(False)
            hook = layer.register_forward_hook(keep)
            rows = []
            for image, label in zip(images, labels.tolist()):
                network(image[None].clone().requires_grad_())[0, label].backward()
                maps, slopes = found["maps"][0], found["maps"].grad[0]
                heat = torch.zeros(maps.shape[1:], dtype=maps.dtype)
                for one, slope in zip(maps, slopes):
                    heat += slope.mean() * one.detach()
                rows.append(heat.clamp(min=0))
            hook.remove()
            network.train(before)
            network.zero_grad()
            return torch.stack(rows)

    def right_added_zero():
        def grad_cam(network, layer, images, labels):
            memory = {}

            def add_zero(module, inputs, output):
                memory["zero"] = torch.zeros_like(output, requires_grad=True)
                memory["maps"] = output.detach()
                return output + memory["zero"]

            twin, place = (
                copy.deepcopy(network).eval(),
                [name for name, part in network.named_modules() if part is layer][0],
            )
            twin.get_submodule(place).register_forward_hook(add_zero)
            scores = twin(images)
            wanted = F.one_hot(labels, scores.shape[1]).to(scores.dtype)
            scores.backward(wanted)
            slopes = memory["zero"].grad
            heat = torch.einsum("nk,nkhw->nhw", slopes.flatten(2).mean(2), memory["maps"])
            return torch.maximum(heat, torch.zeros(()).to(heat))

    wrong = [
        ("no-relu", ".sum(1).relu()", ".sum(1)", "below zero"),
        ("relu-before-the-sum", "(weights * kept[0]).sum(1).relu()", "(weights * kept[0]).relu().sum(1)", "after the sum"),
        ("sum-of-slopes", "slopes.mean((2, 3), keepdim=True)", "slopes.sum((2, 3), keepdim=True)", "Z"),
        ("mean-of-maps", "(weights * kept[0]).sum(1)", "(weights * kept[0]).mean(1)", "sum over the maps"),
        ("weight-of-each-place", "weights = slopes.mean((2, 3), keepdim=True)", "weights = slopes", "one number for each map"),
        ("size-of-slopes", "slopes.mean((2, 3), keepdim=True)", "slopes.abs().mean((2, 3), keepdim=True)", "sign"),
        ("probability", "scores.gather(", "scores.softmax(1).gather(", "before the softmax"),
        ("most-likely-class", "scores.gather(1, labels[:, None])", "scores.amax(1)", "asked for"),
        ("training-mode", "network.eval()", "network.train()", "evaluation mode"),
        ("mode-forgotten", "network.train(training)", "pass", "mode"),
        ("hook-left", "handle.remove()", "pass", "hook"),
        ("scaled", "(weights * kept[0]).sum(1).relu().detach()",
         "F.normalize((weights * kept[0]).sum(1).relu().detach().flatten(1), p=torch.inf).view(-1, *kept[0].shape[2:])",
         "largest value"),
        ("channel-kept", ".sum(1).relu()", ".sum(1, keepdim=True).relu()", "(N, h, w)"),
    ]  # fmt: skip

    explanation = """
    The hook keeps the maps **with their graph**, so that the gradient of a score at them can be asked for. The scores
    of N pictures may be summed, since in evaluation mode no picture has an effect on another; in training mode a norm
    would mix them, and the map would be that of another network.

    Each map gets one weight, the mean slope over its places: the question is whether more of this map, anywhere, speaks
    for the class. The ReLU comes after the sum, since maps that speak for a place and maps that speak against it must
    first be set off. And it is the score and not the probability: the gradient of a probability is nearly zero where the
    network is sure, and it mixes in what speaks against all other classes.

    If a mean and one linear layer are all that follows, the weight is that of the linear layer, divided by Z: then this is CAM.
    """
    marking = """
    The hidden check compares in float64 at two depths, under random weights and statistics. A map that is only scaled
    loses the two points of the hidden check and keeps the others. Ask aloud: for which networks are Grad-CAM and CAM the same?
    """

    @check(points=1)
    def shapes(ask, values):
        """A map for each picture, and nothing below zero."""
        for depth in ("early", "last"):
            found = maps_in(ask(cams_of, values.classes, [0, 1, 2], depth))
            need(bool((found >= 0).all()), "some places are below zero: what speaks against the class is to be cut off")

    @check(points=1)
    def left_alone(ask, values):
        """Evaluation mode, and a network that stays as it was."""
        together = ask(cams_of, values.classes, [0, 1, 2], "last", training=True)
        maps = maps_in(together)
        need(together["mode"], "the mode of the network is not the one that it had before")
        need(together["hooks"] == 0, "a hook stays behind: with every call the next ones get slower, and keep more")
        single = maps_in(ask(cams_of, values.classes, [0, 1, 2], "last", training=True, alone=True))
        need(bool(((single - maps[:1]).abs() < 1e-9).all()),
             "a picture by itself has another map than among others: the network is not in evaluation mode")  # fmt: skip

    @check(points=1)
    def which_score(ask, values):
        """The score of the class that was asked for."""
        first = maps_in(ask(cams_of, values.classes, [0, 1, 2], "last"))
        other = maps_in(ask(cams_of, values.classes, [1, 2, 0], "last"))
        need(bool(((first - other).abs() > 1e-9).any()),
             "other labels, the same map: explain the class that is asked for")  # fmt: skip
        moved = maps_in(ask(cams_of, values.classes, [0, 1, 2], "last", shift=2.0))
        need(bool(((first - moved).abs() < 1e-9).all()),
             "a constant added to the score of one class changes the maps of others: take the score before the softmax")  # fmt: skip

    @check(points=2, hidden=True)
    def the_formula(ask, values, reference):
        """The map of the formula, at two depths."""
        labels = [values.classes - 1, 0, 1, 1]
        told = {
            "places": "a weight is one number for each map: its mean slope over all places",
            "early": "the ReLU comes after the sum over the maps: before it, nothing can be set off",
            "sum": "1 / Z is missing: a weight is the mean of the slopes",
            "mean": "it should be the sum over the maps, not their mean",
            "abs": "the sign of the slopes is lost: a map may speak against the class",
            "scaled": "the map is divided by its largest value, or by another number: the formula does not do that",
        }
        for depth in ("early", "last"):
            found = maps_in(ask(cams_of, values.classes, labels, depth, seed=3))
            right = cams_of(reference, values.classes, labels, depth, seed=3)["maps"]
            if bool(((found - right).abs() < 1e-9).all()):
                continue
            for slip, message in told.items():
                other = cams_of({"grad_cam": cam_with(slip)}, values.classes, labels, depth, seed=3)["maps"]
                need(not bool(((found - other).abs() < 1e-9).all()), message)
            need(False, "the shape is right, the map is not that of the formula: go through it sign by sign")


def maps_in(found):
    """The maps of a student's grad_cam, or Wrong."""
    maps, shape = found["maps"], found["shape"]
    need(hasattr(maps, "shape"), "the result should be a tensor of maps")
    need(list(maps.shape) == shape, f"the result should be (N, h, w), here {shape}, and not {list(maps.shape)}")
    return maps.double()


def cams_of(names, classes, labels, depth, training=False, alone=False, shift=0.0, seed=0):
    """Maps of the student's grad_cam for a small network, and whether the network stayed as it was."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 6, 3, 2, 1), nn.BatchNorm2d(6),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
        ).double()  # fmt: skip
        probes.shuffle(network, seed)
        with torch.no_grad():
            network[-1].bias[0] += shift
        images = torch.randn(len(labels), 3, 12, 12, dtype=torch.float64)
        labels = torch.tensor(labels)
        if alone:
            images, labels = images[:1], labels[:1]
        network.train(training)
        maps = probes.call(names, "grad_cam", network, network[1 if depth == "early" else 4], images, labels)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(part, kind)) for part in network.modules() for kind in kinds)
    mode = all(part.training == training for part in network.modules())
    side = 6 if depth == "early" else 3
    return {"maps": maps, "shape": [len(images), side, side], "mode": mode, "hooks": hooks}


def cam_with(slip):
    """A Grad-CAM with a slip that is often made, to tell which one it is."""
    import torch

    def grad_cam(network, layer, images, labels):
        kept = []
        handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        score = network.eval()(images).gather(1, labels[:, None]).sum()
        handle.remove()
        slopes = torch.autograd.grad(score, kept[0])[0]
        slopes = slopes.abs() if slip == "abs" else slopes
        weights = slopes if slip == "places" else slopes.mean((2, 3), keepdim=True)
        if slip == "sum":
            weights = slopes.sum((2, 3), keepdim=True)
        heat = (weights * kept[0]).detach()
        heat = heat.relu() if slip == "early" else heat
        heat = (heat.mean(1) if slip == "mean" else heat.sum(1)).relu()
        return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12) if slip == "scaled" else heat

    return grad_cam


class MapOnTrial(Exercise):
    """Design a test for heat maps

    A map that looks the same with random weights shows the picture, and not what was learned. Design
    `verdict(heat_map, trained, untrained, images, labels, limit)`, which returns one of three words.

    `heat_map(network, images, labels)` is the method on trial: it gives maps (N, h, w) for N pictures. `trained` and
    `untrained` are two networks. For each picture, measure how alike the two networks' maps are by a **correlation**
    over the places, of the values or of their ranks, as you like. Then return

    - `"blank"` if there is no picture to judge by: a map that is constant, with either network, has no correlation,
      and such a picture is left out;
    - `"picture"` if the **mean** correlation over the other pictures is at least `limit`;
    - `"network"` if it is below.

    A method may scale its maps as it likes: another factor, or a constant added to a picture's map, must not change
    the word. Your copy tries it on <<pictures>> pictures of <<side>>x<<side>> places.
    """

    goal = "test a heat map against random weights before you believe it"
    kind = "design"
    minutes, difficulty, importance = 22, 4, 4
    practice = {"pictures": 6, "side": 12}
    hints = [
        "A correlation is the cosine of two lists of numbers after each has lost its mean. `F.cosine_similarity` and "
        "`torch.corrcoef` both know how.",
        "Write first a function for two maps of one picture that returns a correlation, or None where one of them is "
        "constant. Then a loop.",
        "What does your code do with 0 / 0? And is `nan >= limit` true or false?",
    ]

    def draw(chance):
        return {"pictures": chance.choice([5, 6, 7, 8]), "side": chance.choice([12, 14, 16])}

    def stub():
        def verdict(heat_map, trained, untrained, images, labels, limit):
            """ "blank", "picture" or "network": what a kind of heat map shows."""
            ...

    def solution():
        def verdict(heat_map, trained, untrained, images, labels, limit):
            """ "blank", "picture" or "network": what a kind of heat map shows."""
            first = heat_map(trained, images, labels).flatten(1)
            second = heat_map(untrained, images, labels).flatten(1)
            found = []
            for one, other in zip(first, second):
                if one.min() < one.max() and other.min() < other.max():
                    found.append(F.cosine_similarity(one - one.mean(), other - other.mean(), dim=0).item())
            if not found:
                return "blank"
            return "picture" if sum(found) / len(found) >= limit else "network"

    def right_corrcoef():
        def verdict(heat_map, trained, untrained, images, labels, limit):
            pairs = zip(heat_map(trained, images, labels), heat_map(untrained, images, labels))
            values = torch.stack([torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in pairs])
            mean = values.nanmean()
            if mean.isnan():
                return "blank"
            return ["network", "picture"][int(mean >= limit)]

    def right_ranks_in_numpy():
        import numpy as np

        def verdict(heat_map, trained, untrained, images, labels, limit):
            maps = [heat_map(network, images, labels).detach().numpy() for network in (trained, untrained)]
            maps = [part.reshape(len(part), -1) for part in maps]
            usable = (np.ptp(maps[0], axis=1) > 0) & (np.ptp(maps[1], axis=1) > 0)
            if not usable.any():
                return "blank"
            a, b = (part[usable].argsort(1).argsort(1).astype(float) for part in maps)
            a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
            alike = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
            return "network" if alike.mean() < limit else "picture"

    wrong = [
        ("words-swapped", '"picture" if sum(found) / len(found) >= limit else "network"',
         '"network" if sum(found) / len(found) >= limit else "picture"', "brightness alone"),
        ("one-network-twice", "heat_map(untrained, images, labels)", "heat_map(trained, images, labels)", "both networks"),
        ("another-word", 'return "blank"', 'return "empty"', "three words"),
        ("zero-by-zero", "if one.min() < one.max() and other.min() < other.max():", "if True:", "constant"),
        ("exactly-equal", "", """
            def verdict(heat_map, trained, untrained, images, labels, limit):
                first, second = heat_map(trained, images, labels), heat_map(untrained, images, labels)
                if first.std() == 0:
                    return "blank"
                return "picture" if torch.allclose(first, second) else "network"
            """, "factor"),
        ("distance", "", """
            def verdict(heat_map, trained, untrained, images, labels, limit):
                first, second = heat_map(trained, images, labels), heat_map(untrained, images, labels)
                if first.std() == 0:
                    return "blank"
                return "picture" if (first - second).abs().mean() < 1 - limit else "network"
            """, "factor"),
        ("mean-not-taken-off", "F.cosine_similarity(one - one.mean(), other - other.mean(), dim=0)",
         "F.cosine_similarity(one, other, dim=0)", "constant added"),
        ("all-pictures-at-once", "", """
            def verdict(heat_map, trained, untrained, images, labels, limit):
                first, second = heat_map(trained, images, labels), heat_map(untrained, images, labels)
                if first.std() == 0:
                    return "blank"
                alike = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
                return "picture" if alike >= limit else "network"
            """, "each picture by itself"),
        ("first-picture", "sum(found) / len(found)", "found[0]", "mean over the pictures"),
        ("smallest", "sum(found) / len(found)", "min(found)", "mean over the pictures"),
        ("constant-counts-as-0", "", """
            def verdict(heat_map, trained, untrained, images, labels, limit):
                first = heat_map(trained, images, labels).flatten(1)
                second = heat_map(untrained, images, labels).flatten(1)
                found = F.cosine_similarity(first - first.mean(1, True), second - second.mean(1, True), dim=1)
                if first.std() == 0:
                    return "blank"
                return "picture" if found.mean() >= limit else "network"
            """, "left out"),
        ("limit-fixed", ">= limit", ">= 0.5", "limit"),
    ]  # fmt: skip
    explanation = """
    A heat map is shown with colours that are scaled to its own largest value, so its factor and its offset mean
    nothing. That leaves the **order of the places**, and a correlation measures that: it takes the mean and the size
    out of each map. It must be taken picture by picture. Over all pictures at once, one picture that is brighter than
    another makes any two sets of maps look alike.

    A constant map is the case that a test forgets. 0 / 0 is `nan`, each comparison with `nan` is false, and a method
    that shows nothing at all walks through an `if` as if it had passed.

    And what does the word "network" prove? That the map depends on the weights; not that it points at what the network
    used. For that the chapter hides the place, and compares with the middle and with edges.
    """
    marking = """
    Any correlation passes: the hidden maps are alike either clearly or clearly not. Ask aloud: a method gives the
    reverse of its map for random weights, correlation -1. Which word comes out, and is that what you want?
    """

    @check(points=1)
    def three_words(ask, values):
        """Three maps that are easy to judge."""
        found = {
            kind: ask(verdict_on, kind, values.pictures, values.side, 0.5) for kind in ("bright", "noise", "zeros")
        }
        for word in found.values():
            need(word in ("blank", "picture", "network"), f"{word!r} is none of the three words of the task")
        need(
            found["bright"] == "picture",
            f"a map of the brightness alone, which no weight changes, is called {found['bright']!r}",
        )
        need(found["noise"] == "network", "two maps that have nothing in common are called "
             f"{found['noise']!r}: is each of both networks asked for its own?")  # fmt: skip
        need(found["zeros"] == "blank", f"maps that are zero everywhere are called {found['zeros']!r}: they are constant, so "
             "there is no picture to judge by")  # fmt: skip

    @check(points=1, hidden=True)
    def scales(ask, values, reference):
        """Neither a factor nor a constant changes the word."""
        for kind, told in (("scaled", "another factor"), ("small", "another factor"), ("raised", "a constant added")):
            found, right = (
                part(verdict_on, kind, values.pictures, values.side, 0.5) for part in (ask, asker(reference))
            )
            need(
                found == right,
                f"the maps of the untrained network have {told}, and the word is {found!r}: scale is not what counts",
            )

    @check(points=1, hidden=True)
    def one_by_one(ask, values, reference):
        """Each picture by itself, and then the mean over the pictures."""
        size = values.pictures, values.side
        found = ask(verdict_on, "offsets", *size, 0.5)
        need(
            found == "network", "bright pictures and dark ones make the maps seem alike: compare each picture by itself"
        )
        for kind in ("first", "last"):
            found = ask(verdict_on, kind, *size, 0.5)
            need(found == asker(reference)(verdict_on, kind, *size, 0.5),
                 f"in all pictures but one the two maps are the same, and the word is {found!r}: it is the mean over the pictures "
                 "that counts")  # fmt: skip

    @check(points=1, hidden=True)
    def left_out(ask, values, reference):
        """Pictures with a constant map are left out."""
        for kind, limit in (("some blank", 0.7), ("some dead", 0.7), ("blank and noise", 0.3)):
            found, right = (
                part(verdict_on, kind, values.pictures, values.side, limit) for part in (ask, asker(reference))
            )
            need(
                found == right,
                f"where some pictures have a constant map the word is {found!r}: such pictures are to be left out",
            )

    @check(points=1, hidden=True)
    def the_limit(ask, values, reference):
        """The limit decides."""
        for limit in (0.3, 0.8):
            found = ask(verdict_on, "mixed", values.pictures, values.side, limit)
            need(found == asker(reference)(verdict_on, "mixed", values.pictures, values.side, limit),
                 f"maps that are half alike are called {found!r} with limit={limit}: is it this limit that decides?")  # fmt: skip


def asker(names):
    """Ask a probe beside the reference."""
    return lambda probe, *arguments: probe(names, *arguments)


def verdict_on(names, kind, pictures, side, limit):
    """What the student's test says of one kind of heat map; all of them are made by formula."""
    import torch
    from torch import nn

    def random(seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(pictures, side, side, generator=generator, dtype=torch.float64)

    images = random(0)[:, None].repeat(1, 3, 1, 1)
    networks = []
    for number in (1.0, 2.0):  # a weight that says which of both it is
        network = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(network.weight, number)
        networks.append(network)

    def heat_map(network, images, labels):
        number = int(network.weight.item())
        bright, noise = images.mean(1), random(number)
        constant = torch.full_like(bright, 0.5)
        even = (torch.arange(pictures) % 2 == 0)[:, None, None]
        one = torch.arange(pictures)[:, None, None]
        return {
            "bright": lambda: bright,
            "noise": lambda: noise,
            "zeros": lambda: 0 * bright,
            "scaled": lambda: bright * 40**number,
            "small": lambda: noise / 1e4,
            "raised": lambda: noise + 30 * (number - 1) + 20,
            "offsets": lambda: noise + 50 * one,
            "first": lambda: torch.where(one == 0, noise, bright),
            "last": lambda: torch.where(one == pictures - 1, noise, bright),
            "some blank": lambda: torch.where(even, constant, bright),
            "some dead": lambda: torch.where(even, constant, bright) if number == 2 else bright,
            "blank and noise": lambda: torch.where(even, constant, noise),
            "mixed": lambda: bright + 0.9 * noise,
        }[kind]()

    return probes.call(names, "verdict", heat_map, *networks, images, torch.zeros(pictures).long(), limit)
