"""What the prose of a chapter claims is what the records say.

A chapter whose Markdown cells have claims in their metadata is checked by `test_claims_engine.py`, the others here.

`SENTENCES` holds each sentence with a measured number: it must stand in the chapter word for word, with
the number taken from the records. What is claimed without a number has a test of its own, at the end. A
percentage that is neither in `SENTENCES` nor among the figures that others reported fails.
"""

import math
import re

import pandas as pd
import pytest
import torch
from helpers import ROOT, chapter_definitions

from course_tools.chapters import all_chapters, chapter_path, read_notebook
from course_tools.claims import has_claims
from course_utils import count, load_records, networks, survey
from course_utils.race import RECIPES, REFERENCE_GFLOPS, passed_at

CNN, BLOCK, STEM, WAIST, FAST = (
    "ladder/01_plain_cnn",
    "ladder/02_residual_block",
    "ladder/03_stem",
    "ladder/04_bottleneck",
    "ladder/05_how_fast",
)
LENET, VGG, NIN, GOOGLENET, RESNET, DENSENET, AFTER, WHICH = (
    "survey/01_lenet_alexnet",
    "survey/02_vgg",
    "survey/03_nin",
    "survey/04_googlenet",
    "survey/05_resnet",
    "survey/06_densenet",
    "survey/07_after_resnet",
    "survey/08_which_one",
)
DEPTH, FAMILY, FOLDERS, SEES, DEVICES = (
    "depth/01_why_depth_is_hard",
    "depth/02_resnet_family",
    "depth/03_your_own_images",
    "depth/04_what_it_sees",
    "depth/05_more_than_one_device",
)


@pytest.fixture(scope="module")
def records(root) -> pd.DataFrame:
    return load_records("page", directory=root / "results")


class Run:
    """The records of one run: mean accuracies over its seeds, in per cent; seconds of the fastest."""

    def __init__(self, records: pd.DataFrame, chapter: str, run: str):
        self.rows = records[(records["chapter"] == chapter) & (records["run"] == run)]
        assert len(self.rows), f"there is no record of {run} in {chapter}"
        self.first = self.rows[self.rows["seed"] == 0].iloc[0]
        self.accuracy = 100 * self.rows["val_accuracy"].mean()
        self.spread = 100 * self.rows["val_accuracy"].std()
        self.train_accuracy = 100 * self.rows["train_accuracy"].mean()
        self.seconds = self.rows["seconds"].min()
        self.macs, self.parameters = self.first["macs"], self.first["parameters"]


@pytest.fixture
def runs(records):
    """runs(chapter)(run) is that run; runs(chapter)(run, other) is one of another chapter."""
    return lambda home: lambda run, chapter=home: Run(records, chapter, run)


def prose(root, chapter: str) -> str:
    """A chapter's Markdown in one line, folded answers left out."""
    cells = read_notebook(chapter_path(root, chapter)).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"(?s)<details>.*?</details>", "", text)
    return " ".join(text.split())


LENET_RUNS = (
    "a1-lenet", "a2-lenet-relu", "a3-lenet-max", "a4-lenet-both", "b1-alexnet", "b2-alexnet-old", "c1-32px", "c2-64px",
    "c3-96px", "c4-32px-wide",
)  # fmt: skip


VGG_RUNS = (
    "a1-xavier", "b1-kaiming", "b2-norm", "b3-xavier-warm", "b4-kaiming-warm", "c1-5x5", "d1-full"
)  # fmt: skip


NIN_RUNS = ("a1-nin", "a2-norm", "b1-without-1x1", "b2-linear", "c1-mnist")
GOOGLENET_RUNS = ("a1-googlenet", "b1-narrow", "b2-one-branch", "b3-no-reductions", "b4-norm")
RESNET_RUNS = ("a1-resnet18", "b1-survey", "b2-paper", "b3-ladder", "c1-few", "c2-augmented")
DENSENET_RUNS = ("a1-densenet", "b1-concatenate", "b2-add", "b3-neither")
BLOCK_RUNS = ("a1-basic", "b1-bottleneck", "b2-resnext", "c1-gate", "d1-inverted", "f1-convnext")
SCALED_RUNS = ("e1-small", "e2-deeper", "e3-wider", "e4-compound")


DEPTHS = ("08", "20", "32", "56")
DEPTH_RUNS = (
    *(f"a-{kind}-{depth}" for kind in ("plain", "residual") for depth in DEPTHS), "b-plain-32-slow",
    "c-plain-no-norm", "c-residual-no-norm-zero-start", "d-pre-activation-32", "d-relu-on-branch-32",
)  # fmt: skip


FAMILY_RUNS = (
    "a1-full-imagenet", "a2-quarter-cifar", "a3-quarter-imagenet", "a4-full-imagenet-slow", "a5-quarter-cifar-slow",
    "b1-advice", "b2-no-decay", "b3-no-momentum", "b4-no-momentum-10", "b5-half-batch", "b6-half-batch-rate",
    "b7-bare", "b8-constant", "b9-stays", "c1-cosine", "c2-one-cycle", "d1-few", "d2-decay", "d3-augmented",
    "d4-both", "d5-many",
)  # fmt: skip


FEW = ("50", "200", "1000")
FOLDERS_RUNS = (
    "a1-folder-resnet-18", "b1-uneven", "b2-weighted", "c1-imagenette",
    *(f"{way}-{amount}" for way in ("d1-frozen", "d2-tuned", "d3-scratch") for amount in FEW),
)  # fmt: skip


def errors(run, *names: str) -> list[float]:
    """Mean and spread of the training error of runs, in per cent."""
    return [value for name in names for value in (100 - run(name).train_accuracy, trained(run(name))[1])]


def both(run, *names: str) -> list[float]:
    """Validation and training accuracy of runs."""
    return [value for name in names for value in (run(name).accuracy, run(name).train_accuracy)]


def after(run: Run, epoch: int) -> list[float]:
    """Validation and training accuracy after an epoch, in per cent."""
    row = run.first["history"][epoch - 1]
    return [100 * row["val_accuracy"], 100 * row["train_accuracy"]]


def minutes(chapter: str, *runs: str):
    """How long the published training of a chapter took, all runs together."""
    sentence = "training on this page took {:.0f} minutes on two CPU cores"
    return chapter, sentence, lambda run: (sum(run(name).first["seconds"] for name in runs) / 60,)


def trained(run: Run) -> tuple[float, float]:
    """Mean and spread of the training accuracy, in per cent."""
    return run.train_accuracy, 100 * run.rows["train_accuracy"].std()


def difference(better: str, worse: str):
    """By how many points a run is better than another, and the two standard deviations together."""
    return lambda run: (run(better).accuracy - run(worse).accuracy, run(better).spread + run(worse).spread)


def all_minutes(chapter: str, *runs: str):
    """How long the training of a chapter took that trains each seed on its page."""
    sentence = "training on this page took {:.0f} minutes on two CPU cores"
    return chapter, sentence, lambda run: (sum(run(name).rows["seconds"].sum() for name in runs) / 60,)


def times_to(race: Run, accuracy: float) -> list[float]:
    """The seconds after which each run of a race passed an accuracy (0..1); all must have."""
    times = [passed_at(pd.DataFrame(history), accuracy) for history in race.rows["history"]]
    assert None not in times
    return times


def means_and_spreads(run, *names: str) -> list[float]:
    return [value for name in names for value in (run(name).accuracy, run(name).spread)]


def race_ends(run, name: str) -> list[float]:
    return means_and_spreads(lambda name: run(name, "race"), name)


def mean_after(run: Run, epoch: int) -> float:
    """Mean validation accuracy of a run after an epoch, in per cent."""
    return 100 * sum(history[epoch - 1]["val_accuracy"] for history in run.rows["history"]) / len(run.rows)


def by_seed(run: Run) -> list[float]:
    """Validation accuracies in per cent, in the order of the seeds."""
    return [100 * value for value in run.rows.sort_values("seed")["val_accuracy"]]


def printed(root, chapter: str, pattern: str) -> list[float]:
    """The numbers that a pattern finds in what the cells of the published chapter print."""
    texts = []
    for cell in read_notebook(chapter_path(root, chapter)).cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text", "") + output.get("data", {}).get("text/plain", ""))
    found = re.findall(pattern, "\n".join(texts))
    assert len(found) == 1, f"{chapter} prints {pattern!r} {len(found)} times"
    return [float(number) for number in (found[0] if isinstance(found[0], tuple) else found)]


def test_gradients_explode_in_a_plain_network(root):
    """200 times larger in the first layers than in the last; 8 with shortcuts; 20 is less uneven."""
    ratios = [
        printed(root, BLOCK, rf"(?m)^{name} +[\d.]+ +[\d.]+ +([\d.]+)$")[0]
        for name in ("plain, 40", "residual, 40", "plain, 20", "residual, 20")
    ]
    assert 180 < ratios[0] < 220 and 7.5 < ratios[1] < 8.5
    assert ratios[3] < ratios[2] < ratios[0] and ratios[3] < ratios[1]


def test_the_first_stage_takes_the_most_time(root):
    """More than twice as long as the fourth, with nearly the same MACs."""
    times = [printed(root, STEM, rf"(?m)stage {n} +([\d.]+) ms")[0] for n in range(1, 6)]
    assert times[0] == max(times) and times[0] > 2 * times[3]


def test_a_bottleneck_is_slower_at_the_same_cost(root):
    """About twice the time or more of a basic block with its MACs; several times faster at its width."""
    basic, bottleneck, wide = (
        printed(root, WAIST, rf"{name} channels +[\d,]+ +[\d.,]+ M +([\d.]+) ms")[0]
        for name in ("basic, 64", "bottleneck, 256", "basic, 256")
    )
    assert bottleneck > 1.8 * basic and wide > 3 * bottleneck
    times = [printed(root, WAIST, rf"(?m) +{n} +[\d.,]+ M +([\d.]+) ms")[0] for n in (34, 50)]
    assert times[1] > 1.15 * times[0]


def test_a_larger_crop_is_worse(root):
    """The sentence has both accuracies as the cell prints them, and the MACs grow by half."""
    (trained,) = printed(root, WAIST, r"128 px +[\d.,]+ M +[\d.]+ +([\d.]+) %")
    (larger,) = printed(root, WAIST, r"160 px +[\d.,]+ M +[\d.]+ +([\d.]+) %")
    assert LARGER.format(larger, trained) in prose(root, WAIST)
    assert larger < trained - 2


def test_where_the_source_spends_its_time(root):
    """Each step of the table is faster than the one before; norm and ReLU take half as long as the convolution."""
    steps = ("px, float32", "channels-last", "is fast", "is kept", "ResNet-18", "short net", "96 px", "64 px")
    rates = [printed(root, FAST, rf"(?m){step} +([\d.]+) images/s +[\d.]+x$")[0] for step in steps]
    assert rates == sorted(rates)
    assert rates[-1] > 170 * rates[0]
    times = [printed(root, FAST, rf"(?m){name} +([\d.]+) ms$")[0] for name in ("convolution", "batch norm", "ReLU")]
    assert 0.5 * times[0] < times[1] + times[2] < times[0]


def test_a_few_directions_dominate_the_gradient(root):
    """About 70 times in the gradient, about 3 in Muon's step."""
    (gradient,) = printed(root, FAST, r"gradient: largest over smallest (\d+)")
    (step,) = printed(root, FAST, r"Muon's step: largest over smallest (\d+)")
    assert 65 <= gradient <= 75 and step == 3


def test_compiling_does_not_pay(root):
    """One size takes about as long to compile as the whole run, and the compiled network is no faster."""
    (seconds,) = printed(root, FAST, r"compiling took ([\d.]+) s")
    (eager,) = printed(root, FAST, r"batches of 128: ([\d.]+) images/s")
    (compiled,) = printed(root, FAST, r"compiled: ([\d.]+) images/s")
    (whole,) = printed(root, FAST, r"the recipe: [\d.]+ % in ([\d.]+) s")
    assert 0.6 < seconds / whole < 1.5
    assert compiled < 1.05 * eager


def test_the_ratio_to_the_source(root):
    """About a thousand, about ten hours against less than a minute, and the factors multiply to it."""
    names = ("computed better", "a smaller network", "smaller images", "fewer epochs", "all together")
    *factors, ratio = (printed(root, FAST, rf"(?m){name} +([\d.]+)x$")[0] for name in names)
    assert 700 < ratio < 1500
    assert math.prod(factors) == pytest.approx(ratio, rel=0.05)
    assert factors[0] == min(factors[0], factors[1] * factors[2] * factors[3])
    (hours,) = printed(root, FAST, r"at its speed here: ([\d.]+) h")
    assert 8.5 < hours < 11.5
    assert "On two CPU cores that would take about ten hours" in prose(root, FAST)
    assert "Together that is a factor of about a thousand" in prose(root, FAST)


LARGER = "**Worse:** {:.1f} % instead of {:.1f} %"
SENTENCES = [
    minutes(BLOCK, "a2-plain-5", "b1-plain-20", "b2-plain-40", "b3-residual-20", "b4-residual-40"),
    (
        BLOCK,
        "the plain network ends at {:.1f} ± {:.1f} %, the residual one at {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "b2-plain-40", "b4-residual-40"),
    ),
    (
        BLOCK,
        "{:.1f} ± {:.1f} % plain, {:.1f} ± {:.1f} % residual",
        lambda run: means_and_spreads(run, "b1-plain-20", "b3-residual-20"),
    ),
    (
        BLOCK,
        "The published seed alone has {:.1f} % and {:.1f} %",
        lambda run: [100 * run(name).first["val_accuracy"] for name in ("b1-plain-20", "b3-residual-20")],
    ),
    (
        BLOCK,
        "one point above the 5 convolutions of chapter 1, {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "a2-plain-5"),
    ),
    minutes(STEM, "a3-narrow-no-stem", "b1-narrow-stem", "b2-wide-no-stem", "a4-resnet18"),
    (
        STEM,
        "the narrow network from {:.1f} % to {:.1f} % and the wide one from {:.1f} % to {:.1f} %",
        lambda run: [
            run(name).accuracy for name in ("a3-narrow-no-stem", "b1-narrow-stem", "b2-wide-no-stem", "a4-resnet18")
        ],
    ),
    (
        STEM,
        "{:.1f} % wide against {:.1f} % narrow",
        lambda run: (run("b2-wide-no-stem").accuracy, run("a3-narrow-no-stem").accuracy),
    ),
    (
        STEM,
        "{:.1f} % in one run against {:.1f} ± {:.1f} % in three",
        lambda run: (run("a4-resnet18").accuracy, run("a2-with-norm", CNN).accuracy, run("a2-with-norm", CNN).spread),
    ),
    minutes(WAIST, "a5-resnet50"),
    (
        WAIST,
        "ResNet-50 ends at {:.1f} %, and ResNet-18 in chapter 3 at {:.1f} %",
        lambda run: (run("a5-resnet50").accuracy, run("a4-resnet18", STEM).accuracy),
    ),
    (
        FAST,
        "83.13 % in about {:.0f} seconds, in every one of three runs",
        lambda run: (sum(times_to(run("imagenette-83", "race"), 0.8313)) / 3,),
    ),
    (
        FAST,
        "It passes 87.43 % after about {:.0f} seconds and ends at {:.1f} ± {:.1f} %",
        lambda run: (sum(times_to(run("imagenette-87", "race"), 0.8743)) / 3, *race_ends(run, "imagenette-87")),
    ),
    (
        FAST,
        "It first passes 90 % after about {:.0f} seconds. Accuracy moves up and down from epoch to epoch, so the first "
        "time is a lucky one; but all three runs stand above the mark at their end as well, at {:.2f} ± {:.2f} %",
        lambda run: (sum(times_to(run("imagenette-90", "race"), 0.9)) / 3, *race_ends(run, "imagenette-90")),
    ),
    (
        FAST,
        "It ends at {:.1f} ± {:.1f} % after about {:.0f} seconds, each of three runs above 87.43 %",
        lambda run: (*race_ends(run, "imagenette-five"), run("imagenette-five", "race").rows["seconds"].mean()),
    ),
    (
        FAST,
        "`cifar10-87` ends at {:.1f} ± {:.1f} % after about {:.0f} seconds",
        lambda run: (*race_ends(run, "cifar10-87"), run("cifar10-87", "race").rows["seconds"].mean()),
    ),
    (
        FAST,
        "`cifar10-93` has wider maps and thirteen epochs, and ends at {:.1f} ± {:.1f} % after about {:.0f} seconds. "
        "That is four points below its mark, so this one is **missed** as well, and not for want of time: {:.1f} % of "
        "the training images are right",
        lambda run: (
            *race_ends(run, "cifar10-93"),
            run("cifar10-93", "race").rows["seconds"].mean(),
            100 * run("cifar10-93", "race").rows["train_accuracy"].mean(),
        ),
    ),
    (
        FAST,
        "one epoch of {:.1f} seconds at 22 pixels ends above that, at {:.1f} ± {:.1f} %",
        lambda run: (run("mnist-98", "race").rows["seconds"].mean(), *race_ends(run, "mnist-98")),
    ),
    (
        FAST,
        "Five epochs end at {:.2f} ± {:.2f} %",
        lambda run: race_ends(run, "mnist-99"),
    ),
    minutes(LENET, *LENET_RUNS),
    (
        LENET,
        "one image in ten is right. Then it begins to learn, and ends at {:.1f} %",
        lambda run: (run("a1-lenet").accuracy,),
    ),
    (
        LENET,
        "AlexNet ends at {:.1f} %, LeNet at {:.1f} %. In the last three epochs the two curves part: on its training "
        "images it ends at {:.1f} %",
        lambda run: (run("b1-alexnet").accuracy, run("a1-lenet").accuracy, run("b1-alexnet").train_accuracy),
    ),
    (
        LENET,
        "ReLU alone takes LeNet from {:.1f} % to {:.1f} %. Max pooling alone does nothing ({:.1f} %), and on top of "
        "ReLU a little: {:.1f} %. AlexNet with the old layers stays at {:.1f} % for all ten epochs. It has {:.0f} "
        "times as many parameters as LeNet",
        lambda run: (
            *(run(f"a{name}").accuracy for name in ("1-lenet", "2-lenet-relu", "3-lenet-max", "4-lenet-both")),
            run("b2-alexnet-old").accuracy,
            run("b2-alexnet-old").parameters / run("a1-lenet").parameters,
        ),
    ),
    (
        LENET,
        "Now compare AlexNet's {:.1f} % with the {:.1f} % of a LeNet",
        lambda run: (run("b1-alexnet").accuracy, run("a4-lenet-both").accuracy),
    ),
    (
        LENET,
        "{:.1f} % at 32 pixels, {:.1f} % at 64, {:.1f} % at 96, at four and nine times the computation",
        lambda run: [run(name).accuracy for name in ("c1-32px", "c2-64px", "c3-96px")],
    ),
    (
        LENET,
        "The same computation spent on channels gave {:.1f} %",
        lambda run: (run("c4-32px-wide").accuracy,),
    ),
    (
        LENET,
        "Ours ends at {:.1f} %, on a fifth of the images",
        lambda run: (run("b1-alexnet").accuracy,),
    ),
    minutes(VGG, *VGG_RUNS),
    (
        VGG,
        "The training loss creeps from {:.3f} to {:.3f}.",
        lambda run: [run("a1-xavier").first["history"][epoch]["train_loss"] for epoch in (0, -1)],
    ),
    (
        VGG,
        "at the end it is {:.1f} %, and {:.1f} % on the training images",
        lambda run: both(run, "a1-xavier"),
    ),
    (
        VGG,
        "are flat for four epochs. Then the network learns, and ends at {:.1f} %, and {:.1f} % on its training images. "
        "- **Batch norm** learns from the first epoch on, and ends at {:.1f} %, and {:.1f} % on its training images. "
        "- **A warm-up** gets Xavier weights going: {:.1f} %, and {:.1f} % on the training images. With Kaiming "
        "weights it ends at {:.1f} %, and {:.1f} %",
        lambda run: both(run, "b1-kaiming", "b2-norm", "b3-xavier-warm", "b4-kaiming-warm"),
    ),
    (
        VGG,
        "The pairs end at {:.1f} % and the single windows at {:.1f} %, on the training images at {:.1f} % and {:.1f} %",
        lambda run: (
            *(run(name).accuracy for name in ("b2-norm", "c1-5x5")),
            *(run(name).train_accuracy for name in ("b2-norm", "c1-5x5")),
        ),
    ),
    (
        VGG,
        "stands at {:.1f} %, and {:.1f} % on its training images. The quarter had {:.1f} % and {:.1f} % by then",
        lambda run: (*both(run, "d1-full"), *after(run("b2-norm"), 3)),
    ),
    (
        VGG,
        "Ours ended at {:.1f} % with Li's start and at {:.1f} % with batch norm",
        lambda run: [run(name).accuracy for name in ("a1-xavier", "b2-norm")],
    ),
    minutes(NIN, *NIN_RUNS),
    (
        NIN,
        "The training loss goes from {:.3f} to {:.3f} in four epochs, and at the end {:.1f} % of the validation images",
        lambda run: (
            *(run("a1-nin").first["history"][epoch]["train_loss"] for epoch in (0, -1)),
            run("a1-nin").accuracy,
        ),
    ),
    (
        NIN,
        "ends at {:.1f} % on the validation images and {:.1f} % on its training images. AlexNet ended at {:.1f} % and "
        "{:.1f} % in chapter 1",
        lambda run: (*both(run, "a2-norm"), *both(lambda name: run(name, LENET), "b1-alexnet")),
    ),
    (
        NIN,
        "{:.1f} % instead of {:.1f} %, with three quarters of the computation",
        lambda run: [run(name).accuracy for name in ("b1-without-1x1", "a2-norm")],
    ),
    (
        NIN,
        "Its training accuracy is *lower*, {:.1f} % against {:.1f} %",
        lambda run: [run(name).train_accuracy for name in ("b1-without-1x1", "a2-norm")],
    ),
    (
        NIN,
        "gives {:.1f} %, and {:.1f} % on the training images. That is within two points of NiN's {:.1f} %",
        lambda run: (*both(run, "b2-linear"), run("a2-norm").accuracy),
    ),
    (NIN, "pixels, {:.1f} % of the validation digits are right", lambda run: (run("c1-mnist").accuracy,)),
    (
        NIN,
        "Ours ends at {:.1f} % without batch norm after four epochs, and at {:.1f} % with it after ten",
        lambda run: [run(name).accuracy for name in ("a1-nin", "a2-norm")],
    ),
    all_minutes(GOOGLENET, *GOOGLENET_RUNS),
    (
        GOOGLENET,
        "in the first epoch the mean training loss is {:.3f}",
        lambda run: (run("a1-googlenet").first["history"][0]["train_loss"],),
    ),
    (
        GOOGLENET,
        "GoogLeNet ends at {:.1f} %, and at {:.1f} % on its training images. AlexNet ended at {:.1f} % in chapter 1",
        lambda run: (*both(run, "a1-googlenet"), run("b1-alexnet", LENET).accuracy),
    ),
    (
        GOOGLENET,
        "**nothing is left at the end**: {:.1f} % in each of three seeds. The picture shows that its first seed had "
        "begun to learn, and then fell back to the same answer for every image. Four branches end at {:.1f} ± "
        "{:.1f} %, four branches without reductions at {:.1f} ± {:.1f} %, and with batch norm at {:.1f} ± {:.1f} %",
        lambda run: (
            run("b2-one-branch").accuracy,
            *means_and_spreads(run, "b1-narrow", "b3-no-reductions", "b4-norm"),
        ),
    ),
    (
        GOOGLENET,
        "of its three seeds one ends at {:.1f} %, the best of all without norm, one at {:.1f} %, and one stays at "
        "{:.1f} %",
        lambda run: sorted(100 * run("b3-no-reductions").rows["val_accuracy"], reverse=True),
    ),
    (GOOGLENET, "Ours ends at {:.1f} %, on a fifth of the images", lambda run: (run("a1-googlenet").accuracy,)),
    all_minutes(RESNET, *RESNET_RUNS),
    (
        RESNET,
        "ResNet-18 ends at {:.1f} %, and at {:.1f} % on its training images. AlexNet ended at {:.1f} % in chapter 1",
        lambda run: (*both(run, "a1-resnet18"), run("b1-alexnet", LENET).accuracy),
    ),
    (
        RESNET,
        "The survey's block ends at {:.1f} ± {:.1f} %, the paper's at {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "b1-survey", "b2-paper"),
    ),
    (
        RESNET,
        "The ladder's block ends at **{:.1f} ± {:.1f} %**",
        lambda run: means_and_spreads(run, "b3-ladder"),
    ),
    (
        RESNET,
        "On the training images the ladder's is ahead as well: {:.1f} %, against {:.1f} % (paper's) and {:.1f} % "
        "(survey's)",
        lambda run: [run(name).train_accuracy for name in ("b3-ladder", "b2-paper", "b1-survey")],
    ),
    (
        RESNET,
        "reaches {:.1f} ± {:.1f} % on its training images, and {:.1f} ± {:.1f} % on the others: a gap of {:.0f} points."
        " With 10,000 images, and as many steps, it was {:.1f} % and {:.1f} %",
        lambda run: (
            *trained(run("c1-few")),
            *means_and_spreads(run, "c1-few"),
            run("c1-few").train_accuracy - run("c1-few").accuracy,
            run("b1-survey").train_accuracy,
            run("b1-survey").accuracy,
        ),
    ),
    (
        RESNET,
        "closes the gap: {:.1f} ± {:.1f} % on the training images. And the validation accuracy? {:.1f} ± {:.1f} %",
        lambda run: (*trained(run("c2-augmented")), *means_and_spreads(run, "c2-augmented")),
    ),
    (RESNET, "Ours ended at {:.1f} %, on a fifth of the images", lambda run: (run("a1-resnet18").accuracy,)),
    all_minutes(DENSENET, *DENSENET_RUNS),
    (
        DENSENET,
        "DenseNet ends at {:.1f} %, and at {:.1f} % on its training images",
        lambda run: both(run, "a1-densenet"),
    ),
    (
        DENSENET,
        "**Concatenating ends at {:.1f} ± {:.1f} %, adding at {:.1f} ± {:.1f} %, and neither at {:.1f} ± {:.1f} %**; "
        "on the training images at {:.1f} %, {:.1f} % and {:.1f} %",
        lambda run: (
            *means_and_spreads(run, *DENSENET_RUNS[1:]),
            *(run(name).train_accuracy for name in DENSENET_RUNS[1:]),
        ),
    ),
    (
        DENSENET,
        "with the same recipe, and ended at {:.1f} %, with all of its training images right",
        lambda run: (run("a1-resnet18", RESNET).accuracy,),
    ),
    (
        DENSENET,
        "concatenating took {:.1f} s in its fastest run and adding {:.1f} s",
        lambda run: [run(name).seconds for name in ("b1-concatenate", "b2-add")],
    ),
    (DENSENET, "Ours ends at {:.1f} %, on a fifth of the images", lambda run: (run("a1-densenet").accuracy,)),
    all_minutes(AFTER, *BLOCK_RUNS, *SCALED_RUNS),
    (
        AFTER,
        "Basic ends at {:.1f} ± {:.1f} %, the inverted residual at {:.1f} ± {:.1f} %, basic with a gate at {:.1f} "
        "± {:.1f} %, the bottleneck at {:.1f} ± {:.1f} %, ResNeXt at {:.1f} ± {:.1f} % and ConvNeXt at "
        "{:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(
            run, "a1-basic", "d1-inverted", "c1-gate", "b1-bottleneck", "b2-resnext", "f1-convnext"
        ),
    ),
    (
        AFTER,
        "from {:.0f} seconds for basic to {:.0f} for the inverted residual",
        lambda run: [run(name).seconds for name in ("a1-basic", "d1-inverted")],
    ),
    (AFTER, "{:.1f} points **below**, and the deviations are {:.1f}", difference("a1-basic", "b1-bottleneck")),
    (AFTER, "{:.1f} points **below** its bottleneck, deviations {:.1f}", difference("b1-bottleneck", "b2-resnext")),
    (AFTER, "{:.1f} point below basic, deviations {:.1f}", difference("a1-basic", "c1-gate")),
    (AFTER, "{:.1f} points **above** the bottleneck, deviations {:.1f}", difference("d1-inverted", "b1-bottleneck")),
    (AFTER, "{:.1f} points **below** the inverted block, deviations {:.1f}", difference("d1-inverted", "f1-convnext")),
    (
        AFTER,
        "The small one ends at {:.1f} ± {:.1f} %, deeper at {:.1f} ± {:.1f} %, wider at {:.1f} ± {:.1f} %, larger at "
        "{:.1f} ± {:.1f} %, and some of each at {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, *SCALED_RUNS[:3], "a1-basic", "e4-compound"),
    ),
    (AFTER, "better than deeper ({:.1f} points, deviations {:.1f})", difference("e4-compound", "e2-deeper")),
    (AFTER, "with larger ({:.1f} below, deviations {:.1f})", difference("a1-basic", "e4-compound")),
    (
        AFTER,
        "Ours lie between {:.1f} ± {:.1f} %, ConvNeXt, and {:.1f} ± {:.1f} %, basic",
        lambda run: means_and_spreads(run, "f1-convnext", "a1-basic"),
    ),
    all_minutes(DEPTH, *DEPTH_RUNS),
    (
        DEPTH,
        "layers end at a training error of {:.1f} ± {:.1f} %, {:.1f} ± {:.1f} %, {:.1f} ± {:.1f} % and "
        "{:.1f} ± {:.1f} %. It rises",
        lambda run: errors(run, *(f"a-plain-{depth}" for depth in DEPTHS)),
    ),
    (
        DEPTH,
        "The residual ones end at {:.1f} ± {:.1f} %, {:.1f} ± {:.1f} %, {:.1f} ± {:.1f} % and {:.1f} ± {:.1f} %. "
        "They rise too, by {:.0f} points where the plain ones rise by {:.0f}",
        lambda run: (
            *errors(run, *(f"a-residual-{depth}" for depth in DEPTHS)),
            run("a-residual-08").train_accuracy - run("a-residual-56").train_accuracy,
            run("a-plain-08").train_accuracy - run("a-plain-56").train_accuracy,
        ),
    ),
    (
        DEPTH,
        "The deepest plain network has {:.1f} % training error and {:.1f} % validation error",
        lambda run: (100 - run("a-plain-56").train_accuracy, 100 - run("a-plain-56").accuracy),
    ),
    (
        DEPTH,
        "It ends at {:.1f} %, where the three seeds at the full rate have {:.1f} ± {:.1f} %. The residual network of "
        "that depth takes the full rate without trouble and ends at {:.1f} ± {:.1f} %",
        lambda run: (100 - run("b-plain-32-slow").train_accuracy, *errors(run, "a-plain-32", "a-residual-32")),
    ),
    (
        DEPTH,
        "the plain and the residual network of this depth had {:.1f} ± {:.1f} % and {:.1f} ± {:.1f} %. Without, at a "
        "tenth of the rate, the plain one ends at {:.1f} ± {:.1f} %",
        lambda run: errors(run, "a-plain-20", "a-residual-20", "c-plain-no-norm"),
    ),
    (
        DEPTH,
        "the residual one that starts as the identity at {:.1f} ± {:.1f} %",
        lambda run: errors(run, "c-residual-no-norm-zero-start"),
    ),
    (
        DEPTH,
        "The first residual block has {:.1f} ± {:.1f} %, pre-activation {:.1f} ± {:.1f} %, the slip {:.1f} ± {:.1f} %",
        lambda run: errors(run, "a-residual-32", "d-pre-activation-32", "d-relu-on-branch-32"),
    ),
    (
        DEPTH,
        "their training error goes from {:.1f} ± {:.1f} % with 20 layers to {:.1f} ± {:.1f} % with 32 and "
        "{:.1f} ± {:.1f} % with 56",
        lambda run: errors(run, "a-residual-20", "a-residual-32", "a-residual-56"),
    ),
    all_minutes(FAMILY, *FAMILY_RUNS),
    (
        FAMILY,
        "the CIFAR stem ends at {:.1f} ± {:.1f} % and the ImageNet stem at {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "a2-quarter-cifar", "a3-quarter-imagenet"),
    ),
    (FAMILY, "That is {:.1f} points (deviations {:.1f})", difference("a2-quarter-cifar", "a3-quarter-imagenet")),
    (
        FAMILY,
        "At 0.1 the wide network with the ImageNet stem has {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "a1-full-imagenet"),
    ),
    (
        FAMILY,
        "At 0.02 it has {:.1f} ± {:.1f} %, and the narrow one with the CIFAR stem {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "a4-full-imagenet-slow", "a5-quarter-cifar-slow"),
    ),
    (
        FAMILY,
        "The wide network takes {:.1f} times as long",
        lambda run: (run("a1-full-imagenet").seconds / run("a2-quarter-cifar").seconds,),
    ),
    (FAMILY, "against {:.1f} ± {:.1f} % for the full advice", lambda run: means_and_spreads(run, "b1-advice")),
    (FAMILY, "| weight decay 5e-4 | {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b2-no-decay")),
    (FAMILY, "| momentum 0.9 | {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b3-no-momentum")),
    (FAMILY, "ten times the rate brings {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b4-no-momentum-10")),
    (FAMILY, "| batch 128, not 64 | {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b5-half-batch")),
    (FAMILY, "half the batch is better by {:.1f} points (deviations {:.1f})", difference("b5-half-batch", "b1-advice")),
    (FAMILY, "and still by {:.1f} ({:.1f}) with half the rate", difference("b6-half-batch-rate", "b1-advice")),
    (FAMILY, "| crop and flip | {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b7-bare")),
    (FAMILY, "it is {:.1f} points *higher*, within the spreads ({:.1f})", difference("b7-bare", "b1-advice")),
    (FAMILY, "| lower the rate | {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b8-constant")),
    (FAMILY, "a constant rate loses {:.1f} points (deviations {:.1f})", difference("b1-advice", "b8-constant")),
    (
        FAMILY,
        "It takes {:.0f} % more time",
        lambda run: (100 * (run("b5-half-batch").seconds / run("b1-advice").seconds - 1),),
    ),
    (
        FAMILY,
        "the network has {:.1f} % of its training images and {:.1f} % of the others, a gap of {:.0f} points; with them "
        "there is no gap at all ({:.1f} and {:.1f} %)",
        lambda run: (
            run("b7-bare").train_accuracy,
            run("b7-bare").accuracy,
            run("b7-bare").train_accuracy - run("b7-bare").accuracy,
            run("b1-advice").train_accuracy,
            run("b1-advice").accuracy,
        ),
    ),
    (
        FAMILY,
        "Cosine ends at {:.1f} ± {:.1f} %, one-cycle at {:.1f} ± {:.1f} %, steps at {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "c1-cosine", "c2-one-cycle", "b1-advice"),
    ),
    (FAMILY, "The constant rate has {:.1f} ± {:.1f} %", lambda run: means_and_spreads(run, "b8-constant")),
    (
        FAMILY,
        "After six epochs cosine is ahead with {:.0f} %, and one-cycle, whose rate is still near its peak, is last "
        "with {:.0f} %",
        lambda run: (mean_after(run("c1-cosine"), 6), mean_after(run("c2-one-cycle"), 6)),
    ),
    (
        FAMILY,
        "end at {:.1f} and {:.1f} %, where the same seeds have {:.1f} and {:.1f} % with the mended loop",
        lambda run: [value for name in ("b9-stays", "b1-advice") for value in by_seed(run(name))[:2]],
    ),
    (FAMILY, "so it stays at {:.1f} %", lambda run: by_seed(run("b9-stays"))[2:]),
    (
        FAMILY,
        "training images right and {:.1f} ± {:.1f} % of the others",
        lambda run: means_and_spreads(run, "d1-few"),
    ),
    (FAMILY, "nor the result ({:.1f} ± {:.1f} %)", lambda run: means_and_spreads(run, "d2-decay")),
    (
        FAMILY,
        "from {:.0f} points to {:.0f}, *and* help: {:.1f} ± {:.1f} %",
        lambda run: (
            *(run(name).train_accuracy - run(name).accuracy for name in ("d1-few", "d3-augmented")),
            *means_and_spreads(run, "d3-augmented"),
        ),
    ),
    (FAMILY, "than crop and flip alone ({:.1f} ± {:.1f} %)", lambda run: means_and_spreads(run, "d4-both")),
    (
        FAMILY,
        "5,000 images bring {:.1f} ± {:.1f} %, a gap of {:.0f} points",
        lambda run: (
            *means_and_spreads(run, "d5-many"),
            run("d5-many").train_accuracy - run("d5-many").accuracy,
        ),
    ),
    (FAMILY, "and {:.1f} points more than the best remedy (deviations {:.1f})", difference("d5-many", "d3-augmented")),
    all_minutes(FOLDERS, *FOLDERS_RUNS),
    (
        FOLDERS,
        "It ends at {:.1f} % on the validation pictures and {:.1f} % on its training pictures",
        lambda run: both(run, "a1-folder-resnet-18"),
    ),
    (
        FOLDERS,
        "With 50 of each class: fine-tuned {:.1f} ± {:.1f} %, head only {:.1f} ± {:.1f} %, from scratch "
        "{:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "d2-tuned-50", "d1-frozen-50", "d3-scratch-50"),
    ),
    (
        FOLDERS,
        "With 200: {:.1f} ± {:.1f} %, {:.1f} ± {:.1f} % and {:.1f} ± {:.1f} %",
        lambda run: means_and_spreads(run, "d2-tuned-200", "d1-frozen-200", "d3-scratch-200"),
    ),
    (
        FOLDERS,
        "With 1,000: {:.1f} ± {:.1f} %, {:.1f} % and {:.1f} ± {:.1f} %. Fine-tuned and from scratch are **level** (the "
        "difference, {:.1f} points,",
        lambda run: (
            *means_and_spreads(run, "d2-tuned-1000"),
            run("d1-frozen-1000").accuracy,
            *means_and_spreads(run, "d3-scratch-1000"),
            run("d2-tuned-1000").accuracy - run("d3-scratch-1000").accuracy,
        ),
    ),
    (
        FOLDERS,
        "has {:.1f} % of its training pictures right and was pushed to be surer and surer of them; it is as sure of "
        "others, of which it has {:.1f} %",
        lambda run: (run("d2-tuned-1000").train_accuracy, run("d2-tuned-1000").accuracy),
    ),
    all_minutes(SEES, "a1-seven", "a2-three", "a3-dilated"),
    (SEES, "The main network ends at {:.1f} %", lambda run: (run("a1-seven").accuracy,)),
    all_minutes(DEVICES, "a1-processes", "a2-processes"),
    (
        DEVICES,
        "the run on one process has {:.1f} %, the one on two has {:.1f} %, one run each",
        lambda run: (run("a1-processes").accuracy, run("a2-processes").accuracy),
    ),
    (
        DEVICES,
        "One process took {:.0f} s, two took {:.0f} s",
        lambda run: (run("a1-processes").seconds, run("a2-processes").seconds),
    ),
    all_minutes(WHICH, "a1-lenet", "a2-vgg"),
    (
        WHICH,
        "VGG ends at {:.1f} % with the common recipe. In chapter 2 it ended at {:.1f} % with Li's",
        lambda run: (run("a2-vgg").accuracy, run("b2-norm", VGG).accuracy),
    ),
    (
        WHICH,
        "without its 1x1 convolutions: {:.1f} % with {:.1f} M MACs",
        lambda run: (run("b1-without-1x1", NIN).accuracy, run("b1-without-1x1", NIN).macs / 1e6),
    ),
]


@pytest.mark.parametrize(("chapter_name", "sentence", "values"), SENTENCES)
def test_a_number_in_the_prose_is_the_recorded_one(root, records, chapter_name, sentence, values):
    told = sentence.format(*values(lambda run, chapter=chapter_name: Run(records, chapter, run)))
    assert told in prose(root, chapter_name), f"{chapter_name} should say: {told}"


# what is no measurement of ours: figures that papers and tutorials reported, and plain arithmetic
OTHER = {
    WAIST: {"83.13 %"},
    FAST: {"83.13 %", "87.43 %", "87 %", "90 %", "93 %", "98.66 %", "99.3 %", "94 %"},
    LENET: {"77.68 %"},
    VGG: {"53.88 %", "49.49 %", "10 %", "14 %"},
    NIN: {"50.00 %", "54.58 %", "98.66 %", "10.41 %", "8.81 %"},
    GOOGLENET: {"68.63 %", "10 %"},
    RESNET: {"81.63 %", "99.99 %", "28.54 %", "27.94 %", "27.88 %", "25.03 %"},
    WHICH: {"61.0 %", "62.0 %"},
    DENSENET: {"74.58 %", "75.19 %", "81.63 %"},
    DEPTH: {"6.61 %", "6.37 %", "7.84 %", "8.75 %", "7.51 %", "6.97 %"},
    FAMILY: {"86.8 to 87.0 %", "87 %", "87.0 %", "91.25 to 93.57 %", "93.57 %", "98.4 %", "79.2 %", "70 %", "69 %"},
    FOLDERS: {  # each has a test of its own below, or is arithmetic, or the 93.23 % of Hatim's tutorial
        "73.8 %",
        "80.3 %",
        "72.7 %",
        "71.4 %",
        "51.2 %",
        "50.0 %",
        "74.9 %",
        "93.23 %",
        "100 %",
        "90.9 %",
        "50 %",
        "3.3 %",
        "3.4 %",
        "90.7 %",
        "0.5 %",
        "51.4 %",
        "1.3 %",
        "10.7 %",
        "7.6 %",
        "1.8 %",
        "2.6 %",
        "2.7 %",
        "2.3 %",
        "90 %",
        "92.9 %",
        "99.1 %",
        "95.1 %",
    },
    DEVICES: {"90 %"},
    SEES: {"79.1 %", "77.4 %", "21.5 %", "55.8 %", "53.0 %", "14.0 %"},  # each has a test of its own below
}


@pytest.mark.parametrize(
    "chapter_name", [name for name in all_chapters(ROOT) if not has_claims(read_notebook(chapter_path(ROOT, name)))]
)
def test_every_percentage_in_the_prose_is_checked(root, records, chapter_name):
    """A figure that somebody typed in without a line in `SENTENCES` fails."""
    text = prose(root, chapter_name)
    for chapter, sentence, values in SENTENCES:
        if chapter == chapter_name:
            told = sentence.format(*values(lambda run, home=chapter_name: Run(records, home, run)))
            assert told in text, told
            text = text.replace(told, "")
    text = re.sub(re.escape(LARGER).replace(r"\{:\.1f\}", r"[\d.]+"), "", text)
    typed = set(re.findall(r"\d+(?:\.\d+)? ?%", text)) - OTHER.get(chapter_name, set())
    assert not typed, f"{chapter_name} says {', '.join(sorted(typed))}: take it from the records in SENTENCES"


def test_depth_hurts_plain_networks(runs):
    """Training accuracy falls with depth in all three seeds; 20 convolutions: 7 x the parameters, 8 x the MACs."""
    run = runs(BLOCK)
    five, twenty, forty = (run(name) for name in ("a2-plain-5", "b1-plain-20", "b2-plain-40"))
    columns = [list(each.rows.sort_values("seed")["train_accuracy"]) for each in (five, twenty, forty)]
    assert [len(column) for column in columns] == [3, 3, 3]
    assert all(a > b + 0.05 > c + 0.3 for a, b, c in zip(*columns))
    assert forty.train_accuracy < 35
    assert round(twenty.parameters / five.parameters) == 7 and round(twenty.macs / five.macs) == 8


def test_shortcuts_mend_depth(runs):
    """Each residual run ends above each plain one of its depth, and depth helps them; it does not pay yet."""
    run = runs(BLOCK)
    names = ("a2-plain-5", "b1-plain-20", "b2-plain-40", "b3-residual-20", "b4-residual-40")
    five, plain20, plain40, residual20, residual40 = (run(name) for name in names)
    assert residual40.accuracy > plain40.accuracy + 30
    for better, worse in ((residual20, plain20), (residual40, residual20), (residual40, five)):
        assert len(better.rows) == len(worse.rows) == 3
        assert better.rows["val_accuracy"].min() > worse.rows["val_accuracy"].max()
    assert plain20.spread > 2 * residual20.spread
    assert round(residual40.accuracy - five.accuracy) == 1 and residual20.accuracy < five.accuracy - 1
    assert round(residual40.macs / five.macs) == 17 and round(residual40.seconds / five.seconds) == 9


def test_the_stem_raised_the_accuracy(runs):
    """At equal MACs the stem raised the accuracy; width alone did not; a twentieth to a tenth of the time less."""
    run = runs(STEM)
    names = ("a3-narrow-no-stem", "b1-narrow-stem", "b2-wide-no-stem", "a4-resnet18")
    narrow, narrow_stem, wide, resnet18 = (run(name) for name in names)
    for without, stem in ((narrow, narrow_stem), (wide, resnet18)):
        assert stem.accuracy > without.accuracy + 4
        assert abs(stem.macs / without.macs - 1) < 0.03
        assert 0.05 < 1 - stem.seconds / without.seconds < 0.1
    assert wide.accuracy < narrow.accuracy and round(wide.macs / narrow.macs) == 4
    assert 0 < resnet18.accuracy - narrow_stem.accuracy < 3
    cnn = run("a2-with-norm", CNN)
    assert int(resnet18.macs / cnn.macs) == 32 and round(resnet18.seconds / cnn.seconds) in (11, 12, 13)


def test_depth_needs_more_than_five_epochs(runs):
    """ResNet-50 is hardly better than ResNet-18, at twice the MACs and over twice the time; it does not over-fit."""
    run = runs(WAIST)
    deep, resnet18 = run("a5-resnet50"), run("a4-resnet18", STEM)
    assert 0 < deep.accuracy - resnet18.accuracy < 1.5
    assert deep.accuracy < deep.train_accuracy < deep.accuracy + 2
    assert round(deep.macs / resnet18.macs) == 2 and deep.seconds > 2 * resnet18.seconds


def test_what_the_table_of_trials_says(root, records):
    """Each clause of "What it says" in chapter 5, in points below or above the recipe."""
    trials = records[records["chapter"] == FAST]
    assert set(trials.groupby("run")["seed"].count()) == {3}
    assert 0.35 < 100 * trials[trials["run"] == "a0-recipe"]["val_accuracy"].std() < 0.5
    accuracy = 100 * trials.groupby("run")["val_accuracy"].mean()
    seconds = trials.groupby("run")["seconds"].min()
    losses = trials.groupby("run")["history"].apply(lambda runs: runs.map(lambda run: run[0]["train_loss"]).mean())
    loss = accuracy["a0-recipe"] - accuracy
    others = ["b1-sgd", "b2-sgd", "b3-sgd", "b4-adamw"]
    assert loss[others].between(2.9, 4.3).all()
    assert (losses[others] - losses["a0-recipe"]).abs().max() < 0.05
    assert losses["e0-learned"] > losses["a0-recipe"] + 0.08 and seconds["e0-learned"] > 1.1 * seconds["a0-recipe"]
    assert 1.5 < loss["e0-learned"] < 2.5
    assert 1 < loss["d1-zero-start"] < 2
    assert accuracy["g4-start"] > accuracy["g3-flip"] + 10
    assert seconds["g1-short"] > 2 * seconds["g2-grow"] and accuracy["g1-short"] < accuracy["g2-grow"] + 1
    assert 1 < loss["c4-constant"] < 2
    assert seconds["c4-constant"] == pytest.approx(seconds["a0-recipe"], rel=0.1)
    assert loss[["f1-wide", "f2-deep", "e1-stem"]].between(1, 4).all()
    assert 0.5 < loss["f3-narrow"] < 1.5
    same = ["c1-no-flip", "c2-zoom", "c3-crop", "f4-fourth", "b7-no-smoothing", "d3-normalised", "b8-average"]
    same += ["d2-strides", "d5-excite", "d6-gelu", "b5-half", "b6-double"]
    assert loss[same].abs().max() < 1
    assert seconds[["d5-excite", "d6-gelu"]].between(1.1 * seconds["a0-recipe"], 1.22 * seconds["a0-recipe"]).all()
    assert (
        18 < accuracy["a0-recipe"] - accuracy["g3-flip"] < 20.5 and abs(accuracy["g3-flip"] - accuracy["g2-grow"]) < 1
    )
    minutes = trials[trials["seed"] == 0]["seconds"].sum() / 60
    assert f"training on this page took {minutes:.0f} minutes on two CPU cores, all trials together" in prose(
        root, FAST
    )
    assert "so 74 steps an epoch and 370 in all" in prose(root, FAST)  # 9,469 images


# how many of three runs passed the mark, and whether that was in its time
RACED = (
    ("imagenette-83", 3, True),
    ("imagenette-87", 3, True),
    ("imagenette-90", 3, True),
    ("imagenette-five", 3, True),
    ("cifar10-87", 3, False),
    ("cifar10-93", 0, False),
    ("mnist-98", 3, True),
    ("mnist-99", 3, True),
)


def test_the_race_on_the_page(runs):
    """Of three runs of a recipe so many passed its mark, each of them in time, or none."""
    for name, passed, in_time in RACED:
        run = runs("race")(name)
        assert len(run.rows) == 3
        speeds = [sum(pair) / 2 / REFERENCE_GFLOPS for pair in run.rows["matmul_gflops"]]
        for accuracy, allowed in RECIPES[name].marks:
            times = [passed_at(pd.DataFrame(history), accuracy) for history in run.rows["history"]]
            scaled = [time * speed for time, speed in zip(times, speeds) if time is not None]
            assert len(scaled) == passed
            assert all((time < allowed) == in_time for time in scaled)
            if passed == 0:
                assert 0.035 < accuracy - run.rows["val_accuracy"].mean() < 0.045  # "four points below"
            elif not in_time:  # "almost three times the four minutes"
                assert 2.7 < sum(scaled) / passed / allowed < 3


def test_five_epochs_by_the_rules_of_the_leaderboard(runs):
    """Five epochs, training and validation at 128 px, every run above its best mean."""
    run = runs("race")("imagenette-five")
    assert RECIPES["imagenette-five"].image_sizes == 5 * (128,)
    assert set(run.rows["epochs"]) == {5} and {data["image_size"] for data in run.rows["data"]} == {128}
    assert run.rows["val_accuracy"].min() > 0.8743
    assert runs("race")("imagenette-87").accuracy < 91.57 and runs("race")("imagenette-90").accuracy < 91.57


def test_how_often_the_verdict_is_luck():
    """Where there is no difference, means of three seeds differ by more than both deviations one time in twelve."""
    ours, theirs = torch.randn(2, 100_000, 3, generator=torch.Generator().manual_seed(0))
    lucky = (ours.mean(1) - theirs.mean(1)).abs() > ours.std(1) + theirs.std(1)
    assert 1 / 12.5 < lucky.float().mean() < 1 / 11.5


def test_lenet_stalls_for_four_epochs_and_alexnet_with_its_layers_for_ten(runs):
    run = runs(LENET)
    losses = [row["val_loss"] for row in run("a1-lenet").first["history"]]
    assert all(abs(loss - math.log(10)) < 0.025 for loss in losses[:4]) and losses[4] < math.log(10) - 0.025
    assert all(row["val_accuracy"] < 0.105 for row in run("b2-alexnet-old").first["history"])


def test_alexnet_over_fits_in_its_last_three_epochs(runs):
    gaps = [row["train_accuracy"] - row["val_accuracy"] for row in runs(LENET)("b1-alexnet").first["history"]]
    assert max(gaps[:7]) < 0.01 < gaps[-2] < gaps[-1]


def test_how_sigmoids_shrink_the_gradient(root):
    """More than ten million, less than a thousand; the pool: a factor of two, and of about six."""
    ratio = {}
    for activation in ("Sigmoid", "ReLU"):
        for pool in ("AvgPool2d", "MaxPool2d"):
            (value,) = printed(root, LENET, rf"{activation} +{pool} +\S+ +\S+ +(\d[\d.e-]+)")
            ratio[activation, pool] = value
    assert all((value < 1e-7) == (activation == "Sigmoid") and value < 1 for (activation, _), value in ratio.items())
    assert min(ratio["ReLU", pool] for pool in ("AvgPool2d", "MaxPool2d")) > 1e-3
    for activation, factor in (("Sigmoid", 2), ("ReLU", 6)):
        assert ratio[activation, "MaxPool2d"] / ratio[activation, "AvgPool2d"] == pytest.approx(factor, rel=0.15)


def test_larger_images_at_the_same_network(runs):
    """The larger the worse, and the same computation as channels is better: by steps of more than two points."""
    ends = [runs(LENET)(name).accuracy for name in ("c3-96px", "c2-64px", "c1-32px", "c4-32px-wide")]
    assert all(after - before > 2 for before, after in zip(ends, ends[1:]))
    macs = [runs(LENET)(name).macs for name in ("c2-64px", "c4-32px-wide")]
    assert macs[1] < macs[0] < 1.15 * macs[1]


def test_how_each_start_of_vgg_goes(runs):
    """Xavier is twice above 14 % and back at 10 %; Kaiming is flat for four epochs; batch norm learns at once."""
    run = runs(VGG)
    curves = {name: [row["val_accuracy"] for row in run(name).first["history"]] for name in VGG_RUNS}
    above = [value > 0.14 for value in curves["a1-xavier"]]
    rises = [number for number in range(1, 10) if above[number] and not above[number - 1]]
    assert len(rises) == 2 and max(curves["a1-xavier"]) < 0.15
    assert all(any(abs(value - 0.1) < 0.002 for value in curves["a1-xavier"][rise:]) for rise in rises)
    assert max(curves["b1-kaiming"][:4]) < 0.125 < 0.18 < min(curves["b1-kaiming"][4:])
    assert curves["b2-norm"][0] > 0.17 and run("b2-norm").first["history"][0]["train_accuracy"] > 0.25
    jumps = [abs(after - before) for before, after in zip(curves["b2-norm"], curves["b2-norm"][1:])]
    assert sum(jump > 0.1 for jump in jumps) >= 4


def test_a_warm_up_takes_both_starts_farther_on_the_training_images(runs):
    run = runs(VGG)
    for plain, warm in (("a1-xavier", "b3-xavier-warm"), ("b1-kaiming", "b4-kaiming-warm")):
        assert run(warm).train_accuracy > run(plain).train_accuracy + 5


def test_pairs_against_single_windows_are_undecided(runs):
    run = runs(VGG)
    assert (
        run("c1-5x5").accuracy > run("b2-norm").accuracy
        and run("c1-5x5").train_accuracy < run("b2-norm").train_accuracy
    )


def test_what_the_full_vgg_costs_and_buys(runs):
    """An epoch takes four times as long, and three of them end no higher."""
    run = runs(VGG)
    full, quarter = (run(name).first["seconds"] / run(name).first["epochs"] for name in ("d1-full", "b2-norm"))
    assert full / quarter == pytest.approx(4, rel=0.1)
    assert all(mine < theirs for mine, theirs in zip(after(run("d1-full"), 3), after(run("b2-norm"), 3)))


def test_the_signal_in_a_fresh_vgg(root):
    """The numbers in the text: 0.29 to 0.006 with Xavier weights, 0.56 to 0.85 with Kaiming's, 1 behind each norm."""
    rows = [
        printed(root, VGG, rf"(?m)^{layer} +([\d.]+) +([\d.]+) +([\d.]+) +0\.7729 +([\d.]+)$") for layer in range(1, 12)
    ]
    xavier, by_hand, kaiming, norm = zip(*rows)
    assert (round(xavier[0], 2), round(xavier[-1], 3)) == (0.29, 0.006)
    assert (round(min(kaiming), 2), round(max(kaiming), 2)) == (0.56, 0.85)
    assert all(abs(value - 1) < 0.001 for value in norm[:8]) and list(norm[7:]) == sorted(norm[7:], reverse=True)
    assert all(hand < seen for hand, seen in list(zip(by_hand, xavier))[1:])


def seeds(run: Run) -> list[float]:
    """The validation accuracies of a run, in per cent, by seed."""
    return list(100 * run.rows.sort_values("seed")["val_accuracy"])


def counts(better: Run, worse: Run) -> bool:
    """The rule of the survey: a difference counts if it is larger than the two standard deviations together."""
    return better.accuracy - worse.accuracy > better.spread + worse.spread


def test_what_nin_s_end_costs_and_buys(runs):
    """Ten points above AlexNet, within two of its end with ten times the parameters; gaps of nearly 20 and of 14."""
    run = runs(NIN)
    nin, linear, without = (run(name) for name in ("a2-norm", "b2-linear", "b1-without-1x1"))
    alexnet = runs(LENET)("b1-alexnet")
    assert nin.accuracy - alexnet.accuracy == pytest.approx(10, abs=1) and 10 * nin.parameters < alexnet.parameters
    assert 0 < nin.accuracy - linear.accuracy < 2 and linear.parameters == pytest.approx(10 * nin.parameters, rel=0.02)
    gaps = [one.train_accuracy - one.accuracy for one in (nin, linear)]
    assert gaps == pytest.approx([19.7, 14.3], abs=0.2)
    assert without.macs / nin.macs == pytest.approx(0.77, abs=0.01)


def test_what_the_run_without_norm_has_left_of_nin(root):
    """All ten maps are zero everywhere, three layers before as well, and the spread of the logits is zero."""
    values = printed(root, NIN, r"NiN, after its run +([\d.]+) of 10 +([\d.]+) of 10 +([\d.]+) of 10 +([\d.]+)")
    assert (values[0], values[2], values[3]) == (1, 1, 0)


def test_nin_at_other_sizes(root):
    """The untrained weights change less than two points; 96 px cost seven, 131 more than twenty-five, 195 forty."""
    names = "67 72 96 99 131 195".split()
    rows = [printed(root, NIN, rf"{size} px +\d x \d +([\d.]+) % +([\d.]+) %") for size in names]
    assert all(whole == middle for whole, middle in rows[:3])
    assert all(abs(whole - middle) < 2 for whole, middle in rows[3:])
    lost = [rows[1][0] - whole for whole, _ in rows]
    assert lost[2] == pytest.approx(7, abs=0.6) and lost[4] > 25 and lost[5] == pytest.approx(40, abs=1)
    assert printed(root, NIN, r"smallest ([\d.]+), largest ([\d.]+)") == [0.844, 0.844]


def test_what_norm_and_branches_do_in_googlenet(runs):
    """One branch never starts; no reductions has the best seed without norm; norm adds ten points and more in each."""
    run = runs(GOOGLENET)
    assert all(value == pytest.approx(10) for value in seeds(run("b2-one-branch")))
    assert max(seeds(run("b3-no-reductions"))) > max(seeds(run("b1-narrow")))
    gains = [after - before for before, after in zip(seeds(run("b1-narrow")), seeds(run("b4-norm")))]
    assert min(gains) > 10 and sum(gains) / 3 == pytest.approx(15, abs=0.6)
    assert run("a1-googlenet").parameters / runs(LENET)("b1-alexnet").parameters == pytest.approx(0.277, abs=0.001)


def test_three_residual_blocks(runs):
    """Survey's and paper's are undecided, and change places on training images; the ladder's is four points ahead."""
    run = runs(RESNET)
    survey, paper, ladder = (run(name) for name in ("b1-survey", "b2-paper", "b3-ladder"))
    assert not counts(survey, paper) and not counts(paper, survey)
    assert counts(ladder, paper) and counts(ladder, survey) and ladder.accuracy - paper.accuracy > 4
    assert ladder.train_accuracy > paper.train_accuracy > survey.train_accuracy


def test_learned_by_heart(runs):
    """All 10,000 images are right at the end; the gap passes ten points in the fifth epoch; few images cost nine."""
    run = runs(RESNET)
    history = run("a1-resnet18").first["history"]
    assert history[-1]["train_accuracy"] == 1
    gaps = [row["train_accuracy"] - row["val_accuracy"] for row in history]
    assert min(gaps[4:]) > 0.1 and gaps[3] < 0.1
    many, few, augmented = (run(name) for name in ("b1-survey", "c1-few", "c2-augmented"))
    assert 8 < many.accuracy - few.accuracy < 9
    assert abs(augmented.accuracy - few.accuracy) < 0.1
    assert runs(DENSENET)("a1-densenet").accuracy - run("a1-resnet18").accuracy == pytest.approx(7, abs=0.2)


def test_concatenating_adding_and_neither(runs):
    """Both steps count by the rule: four points, and more than fourteen; over-fitting begins in the third epoch."""
    run = runs(DENSENET)
    dense, add, plain = (run(name) for name in DENSENET_RUNS[1:])
    assert counts(dense, add) and counts(add, plain)
    assert 4 < dense.accuracy - add.accuracy < 5 and add.accuracy - plain.accuracy > 14
    assert 1.2 < dense.parameters / add.parameters < 1.3 and 1 < dense.macs / add.macs < 1.05
    gaps = [row["train_accuracy"] - row["val_accuracy"] for row in run("a1-densenet").first["history"]]
    assert max(gaps[:2]) < 0.1 < min(gaps[2:])


def test_what_training_keeps_in_memory(runs):
    """830,968 and 568,128 numbers, 87,340 against 52,768: the text of chapter 6."""
    kept = [run.first["kept_values"] for run in map(runs(DENSENET), ("a1-densenet", "b1-concatenate", "b2-add"))]
    assert kept == [830_968, 87_340, 52_768]
    assert runs(RESNET)("a1-resnet18").first["kept_values"] == 568_128


def test_which_of_the_five_ideas_count(runs):
    """Bottleneck, groups and ConvNeXt lose, the inverted block wins, the gate is undecided; basic is ahead of all."""
    run = runs(AFTER)
    basic, bottleneck, groups, gate, inverted, convnext = map(run, BLOCK_RUNS)
    assert counts(basic, bottleneck) and counts(bottleneck, groups) and counts(inverted, convnext)
    assert counts(inverted, bottleneck) and not counts(basic, gate) and basic.accuracy > gate.accuracy
    assert basic.accuracy == max(run(name).accuracy for name in BLOCK_RUNS + SCALED_RUNS)
    assert max(map(run, BLOCK_RUNS), key=lambda one: one.seconds).first["run"] == "d1-inverted"
    assert inverted.seconds / basic.seconds == pytest.approx(2.8, abs=0.15)
    assert gate.seconds / basic.seconds == pytest.approx(1.25, abs=0.05)
    assert inverted.first["kept_values"] / basic.first["kept_values"] == pytest.approx(9, abs=0.1)


def test_which_way_of_doubling_counts(runs):
    """Some of each beats deeper only; deeper does not beat the small one; larger is the best."""
    run = runs(AFTER)
    small, deeper, wider, compound = map(run, SCALED_RUNS)
    larger = run("a1-basic")
    assert counts(compound, deeper) and not counts(wider, compound) and not counts(larger, compound)
    assert deeper.accuracy < small.accuracy and wider.accuracy - compound.accuracy == pytest.approx(0.6, abs=0.05)
    assert all(1.8 < one.macs / small.macs < 1.92 for one in (deeper, wider, larger, compound))


SHOWN = {  # the rows of chapter 8's table, as it names them, and the runs that they come from
    "LeNet": (LENET, "a1-lenet"),
    "LeNet, new layers": (WHICH, "a1-lenet"),
    "AlexNet": (LENET, "b1-alexnet"),
    "VGG-11, a quarter": (WHICH, "a2-vgg"),
    "NiN, batch norm": (NIN, "a2-norm"),
    "GoogLeNet": (GOOGLENET, "a1-googlenet"),
    "ResNet-18": (RESNET, "a1-resnet18"),
    "DenseNet": (DENSENET, "a1-densenet"),
}


def shown(root, name: str) -> list[float]:
    """Training and inference time and accuracy in the published table of chapter 8."""
    return printed(
        root, WHICH, rf"(?m)^{name} {{2,}}[\d.]+ [kM] .*? ([\d.]+) ms +([\d.]+) ms .*? ([\d.]+)(?: ± [\d.]+)? %$"
    )


@pytest.mark.parametrize("name", SHOWN)
def test_the_table_of_all_networks_is_made_from_the_records_of_today(root, runs, name):
    assert shown(root, name)[-1] == pytest.approx(runs(SHOWN[name][0])(SHOWN[name][1]).accuracy, abs=0.051)


def test_who_is_on_which_front(root, runs):
    """DenseNet on all five; ResNet-18 and GoogLeNet on none; NiN on four, VGG on three, AlexNet on that of memory."""
    costs = {}
    for name, (chapter, run) in SHOWN.items():
        one = runs(chapter)(run)
        training, inference, _ = shown(root, name)
        kept = one.first["kept_values"]
        costs[name] = (one.parameters, one.macs, training, inference, kept, one.accuracy)
    fronts = {
        name: [
            number for number in range(5)
            if not any(one[number] <= mine[number] and one[-1] > mine[-1] for one in costs.values())
        ]
        for name, mine in costs.items()
    }  # fmt: skip
    assert fronts["DenseNet"] == fronts["LeNet, new layers"] == [0, 1, 2, 3, 4]
    assert fronts["ResNet-18"] == fronts["GoogLeNet"] == []
    assert (fronts["NiN, batch norm"], fronts["VGG-11, a quarter"], fronts["AlexNet"]) == ([1, 2, 3, 4], [1, 2, 4], [4])


def test_what_is_left_when_the_spread_is_taken_off(root, runs):
    """The median spread is 0.82, so 2.3 points: DenseNet and VGG undecided, ResNet-18 and NiN too; the rest stands."""
    (median,) = printed(root, WHICH, r"median of their standard deviations: ([\d.]+) points")
    assert 2 * math.sqrt(2) * median == pytest.approx(2.3, abs=0.05)
    ends = {name: runs(chapter)(run).accuracy for name, (chapter, run) in SHOWN.items()}
    order = ("DenseNet", "VGG-11, a quarter", "ResNet-18", "NiN, batch norm", "GoogLeNet", "AlexNet")
    steps = [ends[better] - ends[worse] for better, worse in zip(order, order[1:])]
    assert steps == pytest.approx([1.7, 5.2, 1.0, 6.5, 4.1], abs=0.1)
    assert printed(root, WHICH, r"rank correlation of the two orders: (-?[\d.]+)") == [-0.20]
    assert ends["VGG-11, a quarter"] - runs(VGG)("b2-norm").accuracy > 26


def worse(one: Run, other: Run) -> bool:
    """Whether the training error of one run is higher by more than the two standard deviations together."""
    return other.train_accuracy - one.train_accuracy > trained(one)[1] + trained(other)[1]


def test_depth_hurts_plain_networks_by_every_step(runs):
    """Each step counts by the rule, no network over-fits, and shortcuts make no difference with 8 layers."""
    run = runs(DEPTH)
    plain, residual = ([run(f"a-{kind}-{depth}") for depth in DEPTHS] for kind in ("plain", "residual"))
    assert all(len(one.rows) == 3 for one in plain + residual)
    assert all(worse(deep, shallow) for shallow, deep in zip(plain, plain[1:]))
    assert not worse(plain[0], residual[0]) and not worse(residual[0], plain[0])
    assert all(one.train_accuracy - one.accuracy < 2 for one in plain + residual)
    assert max(trained(one)[1] for one in plain + residual) < 5


def test_where_norm_and_relu_belong(runs):
    """The slip costs about four points, pre-activation wins one and a half, and both count."""
    run = runs(DEPTH)
    first, before, slip = (run(name) for name in ("a-residual-32", "d-pre-activation-32", "d-relu-on-branch-32"))
    assert worse(slip, first) and worse(first, before)
    assert first.train_accuracy - slip.train_accuracy == pytest.approx(4, abs=0.5)
    assert before.train_accuracy - first.train_accuracy == pytest.approx(1.5, abs=0.1)


def test_without_norm_two_networks_are_undecided(runs):
    """One of the plain one's three seeds hardly leaves the start; both lie far behind those with norm."""
    run = runs(DEPTH)
    plain, zero = run("c-plain-no-norm"), run("c-residual-no-norm-zero-start")
    assert not worse(plain, zero) and not worse(zero, plain)
    assert 100 * plain.rows["train_accuracy"].min() < 13
    assert worse(plain, run("a-plain-20")) and worse(zero, run("a-residual-20"))


def test_the_stems(runs):
    """At equal width the stem counts; at equal cost it hangs on the rate; a loss of 233 where guessing has 2.3."""
    run = runs(FAMILY)
    wide, narrow, same_stem, wide_slow, narrow_slow = (run(name) for name in FAMILY_RUNS[:5])
    assert counts(narrow, same_stem) and counts(narrow, wide)
    assert narrow.accuracy - wide.accuracy == pytest.approx(20, abs=2)
    for one in (narrow, narrow_slow):
        assert not counts(one, wide_slow) and not counts(wide_slow, one)
    assert not counts(narrow, narrow_slow)  # it bears both rates
    assert round(max(history[0]["val_loss"] for history in wide.rows["history"])) == 233
    assert round(narrow.macs / same_stem.macs) == 13 and round(wide.parameters / narrow.parameters) == 16
    assert abs(wide.macs / narrow.macs - 1) < 0.06


def test_which_advice_held(runs):
    """By the rule: momentum and a falling rate count, half the batch is better, decay and augmentation not seen."""
    run = runs(FAMILY)
    advice = run("b1-advice")
    assert all(len(run(name).rows) == 3 for name in FAMILY_RUNS)
    assert counts(advice, run("b3-no-momentum")) and counts(advice, run("b8-constant"))
    assert advice.accuracy - run("b3-no-momentum").accuracy == pytest.approx(8, abs=0.5)
    assert counts(run("b5-half-batch"), advice) and counts(run("b6-half-batch-rate"), advice)
    for name in ("b2-no-decay", "b7-bare"):
        assert run(name).accuracy > advice.accuracy and not counts(run(name), advice)
    rival = run("b4-no-momentum-10")
    gap = advice.accuracy - rival.accuracy
    assert 0.9 < gap / (advice.spread + rival.spread) < 1  # just within
    assert rival.accuracy - run("b3-no-momentum").accuracy > gap  # most of it


def test_that_the_rate_comes_down_and_not_how(runs):
    run = runs(FAMILY)
    falling = [run(name) for name in ("b1-advice", "c1-cosine", "c2-one-cycle")]
    assert not any(counts(one, other) for one in falling for other in falling)
    assert all(counts(one, run("b8-constant")) for one in falling)
    middle = [mean_after(one, 6) for one in (*falling, run("b8-constant"))]
    assert max(middle) == middle[1] and min(middle) == middle[2]
    assert mean_after(falling[0], 7) - mean_after(falling[0], 6) == pytest.approx(6, abs=0.5)


def test_a_seed_is_lost_in_evaluation_mode(runs):
    """Seed 2 has no finite loss from epoch 2 on; the others fall in epoch 2 and learn again."""
    rows = runs(FAMILY)("b9-stays").rows.sort_values("seed")["history"]
    for seed, history in enumerate(rows):
        finite = [math.isfinite(row["train_loss"]) for row in history]
        assert finite == [True] + [seed < 2] * 11
    assert all(h[1]["train_accuracy"] < h[0]["train_accuracy"] < h[-1]["train_accuracy"] for h in rows[:2])


def test_what_closes_the_gap(runs):
    run = runs(FAMILY)
    nothing, decay, augmented, together, many = (
        run(name) for name in ("d1-few", "d2-decay", "d3-augmented", "d4-both", "d5-many")
    )
    assert nothing.train_accuracy > 99.95 and decay.train_accuracy > 99.95
    assert not counts(nothing, decay) and counts(augmented, nothing) and counts(many, augmented)
    assert augmented.accuracy - nothing.accuracy == pytest.approx(6, abs=0.5)
    assert not counts(augmented, together) and augmented.accuracy > together.accuracy
    assert many.first["epochs"] * 5000 == augmented.first["epochs"] * 1000  # images shown


def test_when_a_borrowed_body_helps(runs):
    """With few pictures it counts, a head alone is no better at 200 and the last at 1,000; fine-tuned is level then."""
    run = runs(FOLDERS)
    frozen, tuned, scratch = (
        {amount: run(f"{way}-{amount}") for amount in FEW} for way in ("d1-frozen", "d2-tuned", "d3-scratch")
    )
    assert all(len(one.rows) == 3 for way in (frozen, tuned, scratch) for one in way.values())
    assert counts(frozen["50"], scratch["50"]) and counts(tuned["50"], frozen["50"])
    assert tuned["50"].accuracy - scratch["50"].accuracy == pytest.approx(5, abs=0.5)
    assert tuned["50"].accuracy - frozen["50"].accuracy == pytest.approx(1, abs=0.5)
    assert counts(tuned["200"], scratch["200"])
    assert not counts(scratch["200"], frozen["200"]) and scratch["200"].accuracy > frozen["200"].accuracy
    assert not counts(tuned["1000"], scratch["1000"]) and counts(scratch["1000"], frozen["1000"])


WAYS_TO_TEST = {
    "right: evaluation mode, val": "The right figure is {:.1f} %",
    "slip 1: evaluation mode, train": "**Slip 1** makes it {:.1f} %",
    "slip 2: training mode, val, mixed batches of 32": "with mixed batches of 32 gives {:.1f} %",
    "slip 2: training mode, val, mixed batches of 8": "Batches of 8 give {:.1f} %",
    "slip 2: training mode, val, in the order of files": "and the same network has {:.1f} %",
    "slip 2: training mode, val, one by one": "One by one it has {:.1f} %",
    "both: training mode, train, mixed batches of 8": "as in Hatim's tutorial, give {:.1f} %",
}


def test_what_a_wrong_test_says(root):
    """Each wrong figure; slip 1 flatters by six and a half points."""
    found = {way: printed(root, FOLDERS, rf"(?m)^{way} +([\d.]+) %$")[0] for way in WAYS_TO_TEST}
    for way, told in WAYS_TO_TEST.items():
        assert told.format(found[way]) in prose(root, FOLDERS), way
    right, flattered, *wrong = found.values()
    assert flattered - right == pytest.approx(6.5, abs=0.1)
    assert sorted(wrong[:4], reverse=True) == wrong[:4] and right - wrong[0] < 2


def test_uneven_classes(root):
    """Recalls, accuracy and balanced accuracy of the three ways, as the table has them."""
    number = r" +([\d.]+) ± ([\d.]+) %"
    rows = {
        way: printed(root, FOLDERS, rf"(?m)^{way}{4 * number}$") for way in ("as they come", "weighted", "corrected")
    }
    told = "finds {0:.1f} ± {1:.1f} % of the cats. Its accuracy at these shares is {4:.1f} ± {5:.1f} %, which"
    text = prose(root, FOLDERS)
    assert told.format(*rows["as they come"]) in text
    assert "balanced accuracy, {6:.1f} ± {7:.1f} %, tells".format(*rows["as they come"]) in text
    told = "it finds {0:.1f} ± {1:.1f} % of them and {2:.1f} ± {3:.1f} % of the dogs: balanced {6:.1f} ± {7:.1f} %"
    assert told.format(*rows["weighted"]) in text
    told = "it finds {0:.1f} ± {1:.1f} % and {2:.1f} ± {3:.1f} %: balanced {6:.1f} ± {7:.1f} %"
    assert told.format(*rows["corrected"]) in text
    assert f"({rows['weighted'][1]:.1f} against {rows['corrected'][1]:.1f} points)" in text
    assert rows["as they come"][4] == pytest.approx(1000 / 11, abs=0.3)  # always saying "dog": 90.9 %
    (weighted, spread), (corrected, other) = rows["weighted"][6:], rows["corrected"][6:]
    assert corrected - weighted < spread + other


def test_how_sure_it_is(root):
    text = prose(root, FOLDERS)
    for name, told in (
        ("ResNet-18", "T = {:.1f}, and the error falls from {:.2f} to {:.2f}"),
        ("fine-tuned", "T = {:.1f}, and one number takes the error from {:.2f} to {:.2f}"),
    ):
        found = printed(root, FOLDERS, rf"(?m)^{name} +T = ([\d.]+), error ([\d.]+), then ([\d.]+)$")
        assert told.format(*found) in text


def test_it_is_surer_of_churches(root):
    (let_in,) = printed(root, FOLDERS, r"and lets in ([\d.]+) % of others")
    assert f"that keeps 90 % of cats and dogs lets in {let_in:.1f} % of the others" in prose(root, FOLDERS)
    assert let_in > 90
    areas = [
        printed(root, FOLDERS, rf"(?m)^{name}: area ([\d.]+)$")[0]
        for name in ("fine-tuned", "head only", "from scratch")
    ]
    assert all(area < 0.5 for area in areas)
    assert "0.42 against 0.43" in prose(root, FOLDERS) and "(0.39)" in prose(root, FOLDERS)
    assert areas == [0.43, 0.39, 0.42]


def test_what_each_depth_keeps(root):
    """0.32 by pixels, 0.38 behind the stem, 0.75 behind the last stage; the brightness 0.98 and 0.95."""
    pixels = printed(root, SEES, r"8x8 pixels +([\d.]+)")
    stem, end = (printed(root, SEES, rf"(?m)^\d +{name} +([\d.]+) +([\d.]+)$") for name in ("stem", "stage 3"))
    assert [round(value, 2) for value in (*pixels, stem[0], end[0], stem[1], end[1])] == [
        0.32, 0.38, 0.75, 0.98, 0.95,
    ]  # fmt: skip
    assert "0.95 against 0.98" in prose(root, SEES)


def test_the_dilated_network_works_with_other_weights(root):
    accuracies = [printed(root, SEES, rf"{name}: validation accuracy ([\d.]+) %")[0] for name in ("main", "weights")]
    told = "It is right for {1:.1f} % of the validation pictures, the main network for {0:.1f} %"
    assert told.format(*accuracies) in prose(root, SEES)


def test_training_made_the_effective_field_narrower(root):
    """By the width of the gradient; the other two networks within two pixels."""
    rows = [
        printed(root, SEES, rf"{name} +width in pixels: paths ([\d.]+), before ([\d.]+), after ([\d.]+)")
        for name in ("7x7 stem", "three 3x3", "dilated")
    ]
    told = "a width of {:.1f}, the gradient before training one of {:.1f}, and after training one of {:.1f}"
    assert told.format(*rows[0]) in prose(root, SEES)
    assert all(paths < after < before for paths, before, after in rows)
    assert all(abs(one - first) < 2 for row in rows for one, first in zip(row, rows[0]))
    assert rows[0][1] == pytest.approx(2**0.5 * rows[0][0], abs=3)


def test_what_excites_a_unit(root):
    names = ("random numbers", "stem", "stage 1", "stage 2", "stage 3")
    shares = [printed(root, SEES, rf"(?m)^{name} +([\d.]+)$")[0] for name in names]
    assert shares == sorted(shares) and shares[1] - shares[0] < 0.1
    told = "0.35 in the stem, hardly more than for random numbers, then 0.48, 0.54 and 0.76"
    assert told in prose(root, SEES) and shares[1:] == pytest.approx([0.35, 0.48, 0.54, 0.76], abs=0.006)


SQUARES = {
    "nowhere": "Without a square the mean probability is {:.2f}",
    "where the fall is largest": "The square at the best place takes it down to {:.2f}",
    "where it is highest: trained": "Where Grad-CAM of the trained network is highest it goes down to {:.2f}",
    "in the middle": "in the middle to {:.2f}",
    "where it is highest: edges": "at the edges' place to {:.2f}",
    "anywhere": "and anywhere to {:.2f}",
    "where it is highest: random head": "With a random head it is {:.2f}",
    "where it is highest: all random": "with everything random {:.2f}",
}


def test_grad_cam_points_at_more_than_the_middle(root):
    """Each number of the trial, and their order."""
    found = {name: printed(root, SEES, rf"(?m)^{name} +([\d.]+)$")[0] for name in SQUARES}
    for name, told in SQUARES.items():
        assert told.format(found[name]) in prose(root, SEES), name
    trained, middle = found["where it is highest: trained"], found["in the middle"]
    assert found["where the fall is largest"] < trained < middle < found["anywhere"] < found["nowhere"]


def test_where_the_middle_is_not_needed(root):
    whole, border, middle = (
        printed(root, SEES, rf"{name} +([\d.]+) % right")[0] for name in ("whole picture", "border only", "middle only")
    )
    told = "falls from {:.1f} % to {:.1f} % without the middle, and to {:.1f} % with the middle alone"
    assert told.format(whole, border, middle) in prose(root, SEES)
    thing, around = (printed(root, SEES, rf"class of the {name}: ([\d.]+) %")[0] for name in ("middle", "border"))
    told = "The middle's class is named in {:.1f} % of the cases, the border's in {:.1f} %"
    assert told.format(thing, around) in prose(root, SEES) and round(100 / around) == 7


def test_blue_is_enough_for_a_parachute(root):
    names = ("plain sky blue", "mean of all plain colours", "corners, last class", "corners, all other classes")
    blue, colours, own, others = (printed(root, SEES, rf"{name}: +([\d.]+)")[0] for name in names)
    text = prose(root, SEES)
    told = "a probability of {:.2f}; the mean over all plain colours is {:.2f}"
    assert told.format(blue, colours) in text
    assert f"parachute pictures have {own:.2f}, those of all other classes {others:.2f}" in text


def test_two_processes_bring_no_third_core(runs):
    """The difference varies from run to run, in both directions; half of the time would be a gain."""
    one, two = (runs(DEVICES)(f"a{number}-processes") for number in (1, 2))
    assert 0.9 < two.seconds / one.seconds < 1.25


def test_who_pays_for_the_exchange(root):
    """AlexNet a quarter of its whole step or more, two about a tenth, ResNet-50 and DenseNet about a twentieth."""
    shares = {}
    for name in ("alexnet", "vgg11", "resnet18", "resnet50", "densenet"):
        pattern = rf"{name}: [\d.]+ MB, step ([\d.]+) s, with exchange ([\d.]+) s"
        without, whole = printed(root, DEVICES, pattern)
        shares[name] = (whole - without) / whole
    assert shares["alexnet"] == max(shares.values()) and shares["alexnet"] > 0.24
    assert shares["vgg11"] == pytest.approx(0.1, abs=0.03) == shares["resnet18"]
    assert shares["resnet50"] == pytest.approx(0.05, abs=0.03) == shares["densenet"]


def test_what_is_predicted_for_many_gpus():
    """No network waits in one machine; over Ethernet ResNets lose a fifth, VGG two thirds, AlexNet nearly all."""
    names = chapter_definitions(chapter_path(ROOT, DEVICES))
    nets = [survey.alexnet(224), survey.vgg(image_size=224), networks.resnet18(), networks.resnet50()]
    nets += [survey.googlenet(), survey.densenet()]
    costs = [count(net, (3, 224, 224)).values() for net in nets]
    assert all(names["efficiency"](*cost, 8, 200e9) == 1 for cost in costs)
    over = [names["efficiency"](*cost, 64, 12.5e9) for cost in costs]
    assert over == pytest.approx([0.125, 0.32, 0.81, 0.81, 1, 1], abs=0.015)


def test_a_ring_adds_everything_up():
    """Chapter 5's ring gives every process all sums, whatever the numbers; one sum each is complete half way."""
    ring = chapter_definitions(chapter_path(ROOT, DEVICES))["ring"]
    values = torch.rand(5, 5, dtype=torch.float64).numpy()
    states = ring(values)
    assert len(states) == 2 * 4 + 1
    assert abs(states[-1] - values.sum(0)).max() < 1e-12
    assert (abs(states[4] - values.sum(0)) < 1e-12).sum(1).tolist() == [1] * 5
