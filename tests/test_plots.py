"""The plots: each draws, says what its axes are, and does not rely on colour alone."""

import itertools

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from helpers import new_tiny_network  # noqa: E402

from course_utils import make_shapes, plots, summarize  # noqa: E402
from course_utils.comparison import Comparison  # noqa: E402


@pytest.fixture(autouse=True)
def style(monkeypatch):
    """Set the course's style, and leave none of it behind."""
    monkeypatch.setattr(plt, "show", lambda: None)
    with matplotlib.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def history(epochs: int, offset: float = 0.0) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    falling, rising = 2 / epoch + offset, np.minimum(0.1 * epoch + offset, 1)
    return pd.DataFrame({"epoch": epoch, "learning_rate": 0.05, "train_loss": falling, "train_accuracy": rising,
                         "val_loss": falling + 0.1, "val_accuracy": rising * 0.9, "seconds": 1.0})  # fmt: skip


def draw() -> list:
    """Render the picture, so that whatever fails while drawing fails here; return its panels."""
    figure = plt.gcf()
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba())[0, 0].tolist() == [255, 255, 255, 255]  # opaque white
    return figure.axes


def looks(lines) -> set:
    return {(line.get_marker(), line.get_linestyle()) for line in lines}


def texts(axes) -> set:
    return {text.get_text().strip() for text in axes.texts}


@pytest.mark.parametrize("count", [1, 2, 6])
def test_curves(count):
    plots.curves({f"run {number}": history(5, number / 20) for number in range(count)}, title="a title")
    (axes,) = draw()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("epoch", "validation accuracy (%)", "a title")
    assert len(axes.lines) == count
    assert len(looks(axes.lines)) == count  # told apart without colour
    assert len({line.get_color() for line in axes.lines}) == count
    assert texts(axes) == {f"run {number}" for number in range(count)}
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * history(5)["val_accuracy"])


@pytest.mark.parametrize(("metric", "label"), [("train_loss", "training loss"), ("learning_rate", "learning rate"),
                                               ("train_accuracy", "training accuracy (%)")])  # fmt: skip
def test_curves_of_another_metric(metric, label):
    plots.curves({"one": history(3), "two": history(7)}, metric)
    (axes,) = draw()
    assert axes.get_ylabel() == label
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 7]


def test_curves_over_seeds():
    """The mean as the line, the range of the seeds as a band around it, and the axis says so; one path for one seed."""
    seeds = [history(5, offset / 100) for offset in (0, 2, 7)]
    as_records = [seed.to_dict("records") for seed in seeds]
    plots.curves({"three": seeds, "recorded": as_records, "alone": history(5)})
    (axes,) = draw()
    assert axes.get_xlabel() == "epoch\nline: mean of 3 seeds, band: lowest to highest"
    values = 100 * np.stack([seed["val_accuracy"] for seed in seeds])
    for line, band in zip(axes.lines, axes.collections, strict=False):
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        outline = band.get_paths()[0].vertices
        for epoch in range(1, 6):
            heights = outline[outline[:, 0] == epoch][:, 1]
            assert (heights.min(), heights.max()) == pytest.approx(
                (values[:, epoch - 1].min(), values[:, epoch - 1].max())
            )
        assert band.get_alpha() < 0.5 and tuple(band.get_facecolor()[0][:3]) == matplotlib.colors.to_rgb(
            line.get_color()
        )
    assert len(axes.collections) == 2 and len(axes.lines) == 3
    np.testing.assert_allclose(axes.lines[2].get_ydata(), 100 * history(5)["val_accuracy"])
    assert texts(axes) == {"three", "recorded", "alone"}
    plots.curves({"one": [history(3)], "two": [history(3), history(3, 0.1)]}, "val_loss")
    assert draw()[0].get_xlabel() == "epoch\nline: mean of 2 seeds, band: lowest to highest"


def test_seeds_of_different_length_have_no_mean():
    with pytest.raises(ValueError, match="the seeds of 'cut' have not the same epochs: leave out those that were cut"):
        plots.curves({"cut": [history(5), history(4)]})


def comparison(run: str, difference: float, error: float | None = 0.5, several: int = 4, **others) -> Comparison:
    values = dict(run=run, baseline="the baseline", metric="val_accuracy", difference=difference, standard_error=error,
                  degrees_of_freedom=10.0, deviation=0.5, pooled=6, seeds=(3, 3), collapsed=(0, 0),
                  comparisons=several)  # fmt: skip
    return Comparison(**{**values, **others})


FOREST = [
    comparison("better", 4.0),
    comparison("a network with a name that is far too long for one line of the picture, 56 layers", -4.0),
    comparison("perhaps", 1.2),
    comparison("undecided", -0.3),
    comparison("most at chance", -9.0, 1.5, seeds=(1, 3), collapsed=(2, 0)),
    comparison("all at chance", float("nan"), None, seeds=(0, 3), collapsed=(3, 0)),
]


def test_forest():
    plots.forest(FOREST, title="a title")
    (axes,) = draw()
    assert axes.get_title() == "a title"
    assert axes.get_xlabel() == (
        "validation accuracy, difference to the baseline\npoints; right is better; thick: 95 % interval; "
        "thin: all 4 together"
    )
    zero, *drawn = axes.lines
    assert set(zero.get_xdata()) == {0}
    places = axes.get_yticks()
    assert len(drawn) == 3 * 5  # nothing is drawn of what has no interval
    for one, place, number in zip(FOREST, places, range(5)):
        thin, thick, mark = drawn[3 * number : 3 * number + 3]
        assert tuple(thin.get_xdata()) == one.interval(4) and tuple(thick.get_xdata()) == one.interval()
        assert thin.get_linewidth() < thick.get_linewidth()
        assert mark.get_xdata()[0] == one.difference and mark.get_ydata()[0] == place
    looks = [(mark.get_marker(), mark.get_markerfacecolor() != "white") for mark in drawn[2::3]]
    assert looks == [("^", True), ("v", True), ("^", False), ("o", False), ("v", True)]  # told apart without colour
    assert [text.get_text().replace("\n", " ") for text in axes.texts] == [
        "better by 4.0 points", "worse by 4.0 points", "perhaps better by 1.2 points",
        "no difference above 1.8 points", "2 of 3 runs at chance worse by 9.0 points",
        "3 of 3 runs at chance no verdict",
    ]  # fmt: skip
    low, high = axes.get_xlim()
    assert all(low < end < high for one in FOREST[:5] for end in one.interval(4))
    assert list(places) == sorted(places) and axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is at the top


@pytest.mark.parametrize("count", [1, 2, 30])
def test_words_of_a_forest_do_not_overlap(count):
    plots.forest((FOREST * 5)[:count])
    (axes,) = draw()
    figure = axes.figure
    words = [*axes.get_yticklabels(), *axes.texts, axes.xaxis.label]
    boxes = [text.get_window_extent() for text in words]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    inside = axes.get_window_extent()
    assert not any(box.overlaps(inside) for box in boxes)
    assert inside.width > 0.35 * figure.bbox.width


def test_forest_of_other_baselines_and_metrics():
    plots.forest([comparison("a", -0.1, 0.01, 1, metric="val_loss"),
                  comparison("b", -0.2, 0.01, 1, metric="val_loss", baseline="c")])  # fmt: skip
    (axes,) = draw()
    assert axes.get_xlabel() == "validation loss, difference\nleft is better; thick: 95 % interval; 3 seeds each"
    assert [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()] == [
        "a, against the baseline", "b, against c"
    ]  # fmt: skip
    assert [line.get_marker() for line in axes.lines[3::3]] == ["^", "^"]
    plots.forest([comparison("a", 0.1, seeds=(3, 2), collapsed=(0, 1))])
    assert (
        draw()[0].get_xlabel().startswith("validation accuracy, difference to the baseline (1 of 3 runs at chance)\n")
    )


def test_names_at_the_ends_do_not_overlap():
    plots.curves({f"run {number}": history(4) for number in range(4)})
    (axes,) = draw()
    places = sorted(text.get_window_extent().y0 for text in axes.texts)
    heights = [text.get_window_extent().height for text in axes.texts]
    assert min(np.diff(places)) > 0.6 * max(heights)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_of_points_do_not_overlap_and_can_be_read(scale):
    _, axes = plt.subplots()
    points = [(10.0**k, 50 + k / 10, f"run {k}", colour) for k, colour in enumerate(plots.COLOURS)]
    points += [(10.0**3, 20.0, "far below", plots.PLAIN), (10.0**2, 10.0, "lowest", plots.VALIDATION)]
    for x, y, _, colour in points:
        axes.plot(x, y, marker="o", color=colour)
    axes.set(xscale=scale, yscale=scale)
    plots.name_points(axes, points)
    draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == len(points)
    for below, above in zip(boxes, boxes[1:]):
        assert above.y0 >= below.y1 - 1
    for (x, _, name, _), text in zip(sorted(points, key=lambda point: point[1]), axes.texts):
        assert (text.get_text().strip(), text.get_position()[0]) == (name, pytest.approx(x))
        red, green, blue = (
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in text.get_color()
        )
        assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 4.5  # WCAG's AA on white
    assert axes.texts[0].get_position()[1] == pytest.approx(10)  # alone, so at its point


def test_one_epoch_is_a_point():
    """One point draws no line: it is seen by its marker alone."""
    plots.curves({"one": history(1)})
    drawn = list(draw())
    plots.history_curves(history(1))
    drawn += draw()
    lines = [line for axes in drawn for line in axes.get_lines()]
    assert len(lines) == 5
    assert all(len(line.get_xdata()) == 1 and line.get_marker() not in ("", "None", None) for line in lines)


def test_history_curves():
    plots.history_curves(history(5), title="a title")
    loss, accuracy = draw()
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in (loss, accuracy)] == [
        ("epoch", "loss"), ("epoch", "accuracy (%)")
    ]  # fmt: skip
    for axes in (loss, accuracy):
        assert len(looks(axes.lines)) == 2
        assert [line.get_color() for line in axes.lines] == [plots.TRAINING, plots.VALIDATION]
        assert texts(axes) == {"training", "validation"}
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), 100 * history(5)["val_accuracy"])


@pytest.mark.parametrize("count", [1, 4, 5, 7])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_image_grid(count, kind):
    images = make_shapes(count, 16, 0).images
    images = images if kind == "uint8" else images / 255
    plots.image_grid(images, [f"number {number}" for number in range(count)])
    panels = [axes for axes in draw() if axes.images]
    assert [axes.get_title() for axes in panels] == [f"number {number}" for number in range(count)]
    np.testing.assert_array_equal(panels[-1].images[0].get_array(), images[-1].permute(1, 2, 0))


def test_image_grid_without_titles_in_one_column():
    plots.image_grid(make_shapes(3, 16, 0).images, columns=1)
    assert len(draw()) == 3


def test_confusion_matrix():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    predictions = torch.tensor([0, 0, 0, 1, 0, 1])
    plots.confusion_matrix(labels, predictions, ["cat", "dog", "fish"])
    (axes,) = draw()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "fish"]
    # rows are true classes; a class without images has no share of anything
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25, 0], [50, 50, 0], [0, 0, 0]])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "50", "50"]


@pytest.mark.parametrize("columns", [("parameters",), ("parameters", "MACs"), ("parameters", "MACs", "activations")])
def test_layer_bars(columns):
    table = summarize(new_tiny_network(), (3, 16, 16))
    table["activations"] = range(1, len(table) + 1)
    plots.layer_bars(table, columns, title="a title")
    (axes,) = draw()
    assert axes.get_ylabel() == "share of the network (%)"
    assert axes.get_xlabel() == "layer"
    assert [label.get_text() for label in axes.get_xticklabels()] == list(table["layer"])
    assert len(axes.containers) == len(columns)
    for container, column in zip(axes.containers, columns):
        heights = [bar.get_height() for bar in container]
        assert sum(heights) == pytest.approx(100)
        np.testing.assert_allclose(heights, 100 * table[column] / table[column].sum())
    hatches = {container[0].get_hatch() for container in axes.containers}
    assert len(hatches) == len(columns)  # told apart without colour
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(columns)


@pytest.mark.parametrize("columns", [[["a", "b", "c"], []], [["a"], ["b", "c"], ["d", "e"], []]])
def test_branches(columns):
    """Boxes from the source down to the join, no two over each other, and as many lines as branches."""
    plots.branches(columns, "+", "x")
    figure = plt.gcf()
    (axes,) = draw()
    assert texts(axes) - {""} == {"x", "+", *(layer for column in columns for layer in column)}
    boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts if text.get_text()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    for column in columns:
        down = [heights[name] for name in ("x", *column, "+")]
        assert down == sorted(down, reverse=True)
    assert sum(len(set(line.get_xdata())) == 1 for line in axes.lines) == len(columns) + 1  # and that from the source


def test_the_style_is_opaque_and_the_colours_are_told_apart():
    assert matplotlib.rcParams["savefig.transparent"] is False
    assert matplotlib.rcParams["figure.facecolor"] == "white"
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == len(set(plots.MARKERS))
    assert len({plots.TRAINING, plots.VALIDATION, plots.PLAIN, plots.RESIDUAL}) == 4
