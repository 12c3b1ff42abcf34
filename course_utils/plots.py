"""One style and one meaning for each colour, for every picture of the course."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

if TYPE_CHECKING:
    from course_utils.comparison import Comparison

# Okabe and Ito's colours, which colour-blind readers can tell apart
TRAINING, VALIDATION = "#0072B2", "#D55E00"
PLAIN, RESIDUAL = "#7F7F7F", "#009E73"
COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#000000")  # for anything else
MARKERS = ("o", "s", "^", "D", "v", "P")
# verdict -> marker, colour, whether the marker is filled
FOREST = {
    "better": ("^", "#332288", True), "perhaps better": ("^", "#332288", False),
    "worse": ("v", "#882255", True), "perhaps worse": ("v", "#882255", False),
    "undecided": ("o", "#595959", False), "no verdict": ("", "#595959", False),
}  # fmt: skip


def use_style() -> None:
    """Set the course's Matplotlib style: opaque white, readable in a dark page, no top and right lines."""
    pd.set_option("display.width", 200, "display.max_columns", 20)  # tables in text are not folded
    plt.rcParams.update({
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
        "savefig.transparent": False, "figure.dpi": 110, "figure.figsize": (7.5, 3.8),
        "figure.constrained_layout.use": True, "font.size": 11, "axes.titlesize": 12,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "grid.color": "#E5E5E5", "lines.linewidth": 2, "lines.markersize": 5,
        "axes.prop_cycle": plt.cycler(color=COLOURS), "legend.frameon": False,
    })  # fmt: skip


def curves(
    histories: dict[str, pd.DataFrame | Sequence[pd.DataFrame]], metric: str = "val_accuracy", title: str = ""
) -> None:
    """Draw one metric of several runs over the epochs, each line named at its end.

    Args:
        histories: label -> what `fit` returned; or a list of it, one for each seed, also as records have it. Of
            several seeds the line is the mean, and a band goes from the lowest to the highest.
        metric: a column of the histories; accuracies are shown in per cent.

    Raises:
        ValueError: the seeds of a label have not the same epochs.
    """
    _, axes = plt.subplots()
    percent = "accuracy" in metric
    ends, counts = [], set()
    for number, (label, history) in enumerate(histories.items()):
        seeds = [history] if isinstance(history, pd.DataFrame) else list(map(pd.DataFrame, history))
        epochs = seeds[0]["epoch"]
        if any(not epochs.equals(seed["epoch"]) for seed in seeds):
            raise ValueError(f"the seeds of '{label}' have not the same epochs: leave out those that were cut short")
        values = np.stack([seed[metric] for seed in seeds]) * (100 if percent else 1)
        colour, marker = _colour(label, number), MARKERS[number % len(MARKERS)]
        if len(seeds) > 1:
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
            counts.add(str(len(seeds)))
        mean = values.mean(0)
        axes.plot(epochs, mean, color=colour, marker=marker)
        ends.append((epochs.iloc[-1], mean[-1], label, colour))
    name = _metric_name(metric)
    band = f"\nline: mean of {' or '.join(sorted(counts, key=int))} seeds, band: lowest to highest" if counts else ""
    axes.set(xlabel=f"epoch{band}", ylabel=f"{name} (%)" if percent else name, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    name_points(axes, ends)
    plt.show()


def _metric_name(metric: str) -> str:
    """Return a column of the histories in words, as axes show it."""
    return metric.replace("val_", "validation ").replace("train_", "training ").replace("_", " ")


def _colour(label: str, number: int) -> str:
    """Return the colour that plain and residual networks have everywhere, or one of the others."""
    for kind, colour in (("plain", PLAIN), ("residual", RESIDUAL)):
        if label.startswith(f"{kind},"):
            return colour
    return COLOURS[number % len(COLOURS)]


def history_curves(history: pd.DataFrame, title: str = "") -> None:
    """Draw training and validation, loss on the left and accuracy on the right, over the epochs."""
    _, panels = plt.subplots(1, 2, figsize=(9.5, 3.6))
    for axes, metric, factor in zip(panels, ("loss", "accuracy"), (1, 100)):
        ends = []
        for part, label, colour, marker in (
            ("train", "training", TRAINING, "o"),
            ("val", "validation", VALIDATION, "s"),
        ):
            values = history[f"{part}_{metric}"] * factor
            axes.plot(history["epoch"], values, color=colour, marker=marker)
            ends.append((history["epoch"].iloc[-1], values.iloc[-1], label, colour))
        axes.set(xlabel="epoch", ylabel=metric if factor == 1 else f"{metric} (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        name_points(axes, ends)
    if title:
        plt.suptitle(title)
    plt.show()


def forest(comparisons: Sequence[Comparison], title: str = "") -> None:
    """Draw what `compare_all` returned: each difference to the baseline in a row of its own, with its interval.

    The thick line is the 95 % interval of that comparison, the thin one that for all of them together. The words at
    the right say the verdict: a triangle up is better, one down is worse, an empty one perhaps, and a circle
    undecided. Runs that stayed at chance are counted in words.
    """
    first = comparisons[0]
    one_baseline = len({one.baseline for one in comparisons}) == 1
    labels = [one.run if one_baseline else f"{one.run}, against {one.baseline}" for one in comparisons]
    labels = [textwrap.fill(label, 32) for label in labels]
    words = [_at_chance(one, 0, "{}\n") + textwrap.fill(one.words, 32) for one in comparisons]
    heights = [1 + max(label.count("\n"), text.count("\n")) for label, text in zip(labels, words)]
    places = np.cumsum(heights) - np.array(heights) / 2 + 0.35 * np.arange(len(heights))  # in lines of text
    _, axes = plt.subplots(figsize=(8.5, 1.3 + 0.21 * (sum(heights) + 0.35 * len(heights))))
    axes.axvline(0, color="black", linewidth=1.2, zorder=1)
    for place, one, text in zip(places, comparisons, words):
        marker, colour, filled = FOREST[one.verdict]
        if one.standard_error is not None:
            axes.plot(one.interval(one.comparisons), (place, place), color=colour, linewidth=1.1)
            axes.plot(one.interval(), (place, place), color=colour, linewidth=3.5, solid_capstyle="butt")
            axes.plot(one.difference, place, marker, color=colour, markerfacecolor=colour if filled else "white",
                      markersize=8, markeredgewidth=1.5)  # fmt: skip
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5, color=colour)
    axes.set_yticks(places, labels, fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(places[-1] + heights[-1] / 2 + 0.35, -0.35)
    name = f"{_metric_name(first.metric)}, difference"
    if one_baseline:
        name += f" to {first.baseline}{_at_chance(first, 1, ' ({})')}"
    notes = [first.unit, f"{'left' if first.less_is_better else 'right'} is better", "thick: 95 % interval"]
    if first.comparisons > 1:
        notes.append(f"thin: all {first.comparisons} together")
    if len({n for one in comparisons for n in one.seeds}) == 1:
        notes.append(f"{first.seeds[0]} seeds each")
    axes.set(xlabel=f"{name}\n{'; '.join(filter(None, notes))}", title=title)
    plt.show()


def _at_chance(one: Comparison, which: int, text: str) -> str:
    """Write how many runs of a comparison (0: the run, 1: its baseline) stayed at chance into a text; "" if none."""
    lost = one.collapsed[which]
    return text.format(f"{lost} of {lost + one.seeds[which]} runs at chance") if lost else ""


def name_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside points (x, y, name, colour), moved up where they would overlap.

    Call it when everything is drawn and the axes have their scale. The text is darker than its
    colour, since light colours on white cannot be read.
    """
    to_axes = axes.transScale + axes.transLimits
    axes.autoscale_view()
    place = -np.inf
    for x, y, name, colour in sorted(points, key=lambda point: point[1]):
        across, up = to_axes.transform((x, y))
        place = max(up, place + 0.075)
        height = to_axes.inverted().transform((across, place))[1]
        axes.text(x, height, f"   {name}", va="center", color=_ink(colour))


def _ink(colour: str) -> tuple[float, ...]:
    """Return a colour as it is used for text: dark enough on white."""
    return tuple(0.6 * part for part in to_rgb(colour))


def image_grid(images: torch.Tensor, titles: Sequence[str] | None = None, columns: int = 5, size: float = 1.9) -> None:
    """Show images (N, 3, H, W), uint8 or float 0..1, in a grid with a title each."""
    rows = -(-len(images) // columns)
    _, panels = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.25 * bool(titles)) * rows))
    for axes in np.atleast_1d(panels).flat:
        axes.axis("off")
    for number, (axes, image) in enumerate(zip(np.atleast_1d(panels).flat, images)):
        axes.imshow(image.permute(1, 2, 0).cpu().numpy())
        if titles:
            axes.set_title(titles[number], fontsize=9)
    plt.show()


def confusion_matrix(labels: torch.Tensor, predictions: torch.Tensor, classes: Sequence[str]) -> None:
    """Show which class (N,) is taken for which (N,), each row in per cent of its true class."""
    size = len(classes)
    counts = torch.zeros(size, size)
    counts.index_put_((labels, predictions), torch.ones(len(labels)), accumulate=True)
    share = 100 * counts / counts.sum(1, keepdim=True).clamp(min=1)
    _, axes = plt.subplots(figsize=(7, 6))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row in range(size):
        for column in range(size):
            value = share[row, column].item()
            if value >= 0.5:
                colour = "white" if value > 55 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(size), classes, rotation=45, ha="right")
    axes.set_yticks(range(size), classes)
    axes.set(xlabel="predicted class", ylabel="true class", title="share of each true class (%)")
    axes.grid(False)
    plt.show()


def layer_bars(table: pd.DataFrame, columns: Sequence[str] = ("parameters", "MACs"), title: str = "") -> None:
    """Draw bars by layer for columns of a `summarize` table, each as its share of the whole in per cent."""
    _, axes = plt.subplots(figsize=(8.5, 3.8))
    width = 0.8 / len(columns)
    for number, column in enumerate(columns):
        share = 100 * table[column] / table[column].sum()
        place = np.arange(len(table)) + (number - (len(columns) - 1) / 2) * width
        axes.bar(place, share, width, label=column, color=COLOURS[number], hatch=("", "///", "...", "xxx")[number % 4],
                 edgecolor="white")  # fmt: skip
    axes.set_xticks(range(len(table)), table["layer"], rotation=45, ha="right")
    axes.set(xlabel="layer", ylabel="share of the network (%)", title=title)
    axes.legend()
    plt.show()


def branches(columns: Sequence[Sequence[str]], join: str, source: str = "input") -> None:
    """Draw a block as columns of layers that start from one input and are joined at the bottom.

    Args:
        columns: the layers of each branch, from top to bottom; an empty branch is a line, the shortcut.
        join: what happens at the bottom, such as "+" or "concatenate".
        source: the text at the top.
    """
    deepest, colour = max(map(len, columns)), "0.35"
    width, middle = 2.2, (len(columns) - 1) * 2.2 / 2
    high, low = deepest + 0.5, 0.5  # where the branches part and meet
    _, axes = plt.subplots(figsize=(max(5.0, 1.9 * len(columns)), 0.75 * (deepest + 2)))

    def box(x: float, y: float, text: str, edge: str) -> None:
        pale = tuple(0.82 + 0.18 * part for part in to_rgb(edge))
        style = {"boxstyle": "round,pad=0.45", "facecolor": pale, "edgecolor": edge}
        axes.text(x, y, text, ha="center", va="center", bbox=style, zorder=3)

    def arrow(x: float, start: float, end: float, shrink: tuple[float, float] = (13, 13)) -> None:
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": shrink[0], "shrinkB": shrink[1]}
        axes.annotate("", (x, end), (x, start), arrowprops=style)

    for number, layers in enumerate(columns):
        x = number * width
        heights = [deepest + 0.5 - (row + 0.5) * deepest / len(layers) for row in range(len(layers))]
        for start, end in zip([high, *heights], heights):
            arrow(x, start, end, (0 if start == high else 13, 13))
        for y, text in zip(heights, layers):
            box(x, y, text, COLOURS[number % len(COLOURS)])
        axes.plot([x, x], [heights[-1] if layers else high, low], color=colour, linewidth=1.2, zorder=1)
    for y in (high, low):
        axes.plot([0, (len(columns) - 1) * width], [y, y], color=colour, linewidth=1.2, zorder=1)
    axes.plot([middle, middle], [deepest + 1, high], color=colour, linewidth=1.2, zorder=1)
    arrow(middle, low, -0.1, (0, 13))
    box(middle, deepest + 1.1, source, "0.5")
    box(middle, -0.1, join, "0.5")
    axes.set(xlim=(-1.2, (len(columns) - 1) * width + 1.2), ylim=(-0.6, deepest + 1.6))
    axes.axis("off")
    plt.show()
