"""Comparing runs: the words, the interval behind them, and how often it is wrong."""

import math
from functools import cache

import numpy as np
import pandas as pd
import pytest

from course_utils import records
from course_utils.comparison import (
    Comparison,
    _chance_of_equal,
    by_chance,
    collapsed,
    compare,
    compare_all,
    comparison_table,
    difference_of_means,
    half_width,
    mean_text,
    seeds_wanted,
    too_few_seeds,
)

DATA = {"name": "shapes", "image_size": 16, "train": 40, "val": 10_000, "classes": 10}
T2, T4, T6, T8 = 4.302653, 2.776445, 2.446912, 2.306004  # Student's t at 0.975, from a printed table


def rows_of(name: str, accuracies, seeds=None, chapter="part/01_one", seconds=100.0, data=DATA) -> list[dict]:
    """Records of one run, accuracies in per cent; its seeds are 0, 1, ... unless they are given."""
    seeds = range(len(accuracies)) if seeds is None else seeds
    return [
        {
            "chapter": chapter, "run": name, "label": f"the {name}", "seed": seed, "data": data, "seconds": seconds,
            "val_accuracy": value / 100, "val_loss": 2 - value / 100, "history": [{"gap": 0.0}, {"gap": value / 10}],
        }
        for seed, value in zip(seeds, accuracies, strict=True)
    ]  # fmt: skip


def table_of(*runs: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for run in runs for row in run])


def made(difference=2.1, error=0.5, freedom=10.0, **others) -> Comparison:
    """A comparison with given numbers."""
    values = dict(run="a", baseline="b", metric="val_accuracy", difference=difference, standard_error=error,
                  degrees_of_freedom=freedom, deviation=0.5, pooled=6, seeds=(3, 3), collapsed=(0, 0))  # fmt: skip
    return Comparison(**{**values, **others})


# The words


def test_words_of_better_and_worse():
    """Sign: the run's mean minus the baseline's, so worse is negative, and words leave the sign out."""
    error = 0.9 / float(half_width(1.0, 10.0))
    assert str(made(2.1, error)) == "better by 2.1 points (95 % interval 1.2 to 3.0)"
    assert str(made(-2.1, error)) == "worse by 2.1 points (95 % interval 1.2 to 3.0)"
    assert made(-2.1, error).interval() == pytest.approx((-3.0, -1.2))
    assert str(made(0.7, 1.2 * error / 0.9)) == "no difference above 1.9 points (95 % interval -0.5 to 1.9)"
    assert str(made(-0.7, 1.2 * error / 0.9)) == "no difference above 1.9 points (95 % interval -1.9 to 0.5)"


def test_words_where_less_is_better():
    error = 0.09 / float(half_width(1.0, 10.0))
    assert str(made(-0.2, error, metric="val_loss")) == "better by 0.200 (95 % interval 0.110 to 0.290)"
    assert str(made(0.2, error, metric="train_loss")) == "worse by 0.200 (95 % interval 0.110 to 0.290)"
    assert str(made(-20.0, 100 * error, metric="seconds")) == "better by 20.0 s (95 % interval 11.0 to 29.0)"


@pytest.mark.parametrize(
    ("low", "words"),
    [
        (0.0, "no difference above 2.0 points (95 % interval 0.0 to 2.0)"),
        (0.04, "better by 1.0 points (95 % interval 0.04 to 2.0)"),
        (0.0004, "better by 1.0 points (95 % interval 0.0004 to 2.0)"),
        (-0.04, "no difference above 2.0 points (95 % interval -0.04 to 2.0)"),
        (-0.96, "no difference above 3.0 points (95 % interval -1.0 to 3.0)"),
    ],
)
def test_words_at_the_boundary(low, words):
    """An interval that touches zero does not exclude it, and one that does not touch it is not printed as 0.0."""
    middle = 1.0
    unit = float(half_width(1.0, 10.0))
    one = made(middle, (middle - low) / unit)
    if low == 0:
        one = made(middle, 1.0)
        object.__setattr__(one, "interval", lambda comparisons=1: (0.0, 2.0))
    assert str(one) == words
    mirrored = made(-middle, one.standard_error)
    if low > 0:
        assert str(mirrored) == words.replace("better", "worse")


def test_words_of_several_together():
    unit, together = (float(half_width(1.0, 10.0, several)) for several in (1, 12))
    error = 0.9 / unit
    wide = together * error
    assert wide > 1.3
    assert str(made(2.1, error, comparisons=12)) == (
        f"better by 2.1 points (95 % interval 1.2 to 3.0; {2.1 - wide:.1f} to {2.1 + wide:.1f} for all 12 together)"
    )
    perhaps = made(-1.0, error, comparisons=12)
    assert perhaps.verdict == "perhaps worse"
    assert str(perhaps) == (
        f"perhaps worse by 1.0 points (95 % interval 0.1 to 1.9; {1 - wide:.1f} to {1 + wide:.1f} for all 12 together)"
    )
    open_ = made(0.5, error, comparisons=12)
    assert str(open_).startswith(f"no difference above {0.5 + wide:.1f} points (95 % interval -0.4 to 1.4;")


# The comparison of records


def test_pairs_alone():
    """Two runs with the same seeds and no others: Student's t of the pairs, mean 2, deviation 1, 2 degrees."""
    found = compare(table_of(rows_of("a", [71, 74, 77]), rows_of("b", [70, 72, 74])), "a", "b")
    assert found.difference == pytest.approx(2)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert (found.degrees_of_freedom, found.pooled, found.seeds, found.collapsed) == (2, 2, (3, 3), (0, 0))
    assert found.deviation == pytest.approx(math.sqrt((9 + 4) / 2))
    assert found.interval() == pytest.approx((2 - T2 / math.sqrt(3), 2 + T2 / math.sqrt(3)), abs=1e-4)
    assert (found.run, found.baseline, found.metric) == ("the a", "the b", "val_accuracy")
    # in the order of the records or in another
    shuffled = table_of(rows_of("a", [77, 71, 74], (2, 0, 1)), rows_of("b", [70, 72, 74]))
    assert compare(shuffled, "a", "b") == found


def test_other_seeds_alone():
    """Student's t with one deviation, and Welch's where they differ so much that it is the wider: 1 and 30 points."""
    a, steps = rows_of("a", [71, 72, 73]), np.sqrt(2 / 5) * np.array([-2, -1, 0, 1, 2])
    found = compare(table_of(a, rows_of("b", 70 + 2 * steps, range(3, 8))), "a", "b")
    assert found.difference == pytest.approx(2)
    assert found.standard_error == pytest.approx(math.sqrt((1 / 3 + 1 / 5) * (2 * 1 + 4 * 4) / 6))
    assert (found.degrees_of_freedom, found.pooled) == (pytest.approx(6), 2)
    wild = [40, 70, 100]
    found = compare(table_of(rows_of("a", 50 + steps), rows_of("b", wild, range(5, 8))), "a", "b")
    assert found.standard_error == pytest.approx(math.sqrt(1 / 5 + 900 / 3))
    assert found.degrees_of_freedom == pytest.approx((1 / 5 + 300) ** 2 / ((1 / 5) ** 2 / 4 + 300**2 / 2))


def lenders(*names: str) -> list[list[dict]]:
    """Runs whose deviation is about that of 70, 71, 72, each with values of its own."""
    patterns = ([0.0, 1.0, 2.0], [0.2, 0.9, 2.0], [2.0, 0.0, 0.8], [1.0, 2.0, 0.3])
    return [rows_of(name, 50 + np.array(pattern)) for name, pattern in zip(names, patterns)]


def by_hand(*runs) -> tuple[float, float]:
    """The mean squares within runs, and around runs and seeds, of a full table: the textbook's two-way analysis."""
    y = np.array(runs, dtype=float)
    within = y - y.mean(1, keepdims=True)
    noise = within - within.mean(0)
    k, n = y.shape
    return (within**2).sum() / (k * (n - 1)), (noise**2).sum() / ((k - 1) * (n - 1))


def values(runs: list[list[dict]]) -> list[list[float]]:
    return [[100 * row["val_accuracy"] for row in run] for run in runs]


def test_the_deviation_is_pooled_over_the_chapter():
    """Same seeds: the noise of a two-way table, with (runs - 1)(seeds - 1) degrees of freedom."""
    runs = [rows_of("a", [71, 72, 73.5]), rows_of("b", [70, 71.5, 72]), *lenders("c", "d", "e")]
    found = compare(table_of(*runs), "a", "b")
    within, noise = by_hand(*values(runs))
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3 * noise))
    assert (found.degrees_of_freedom, found.pooled) == (pytest.approx(8), 5)
    assert found.deviation == pytest.approx(math.sqrt(within))
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(T8 * found.standard_error, rel=1e-5)


def test_other_seeds_with_the_deviation_of_the_chapter():
    """No seed in common, and nothing shared: (1/n + 1/m) times the squares within, over all five runs."""
    others = lenders("c", "d", "e")
    a, b = rows_of("a", [71, 72, 73.5]), rows_of("b", [70, 71.5, 72, 70.5, 71], range(3, 8))
    found = compare(table_of(a, b, *others), "a", "b")
    squares = sum(np.var(run) * len(run) for run in values([a, b, *others]))
    assert found.standard_error == pytest.approx(math.sqrt((1 / 3 + 1 / 5) * squares / 12))
    assert 2 < found.degrees_of_freedom <= 12.001
    assert found.pooled == 5


def test_some_seeds_in_common():
    """Five seeds and three of them: all five count, and what the seeds share is taken off once for each pair."""
    others = lenders("c", "d", "e")
    a, b = rows_of("a", [71, 72, 73.5, 71.2, 72.3]), rows_of("b", [70, 71.5, 72])
    found = compare(table_of(a, b, *others), "a", "b")
    assert found.seeds == (5, 3)
    assert found.difference == pytest.approx(np.mean(values([a])) - np.mean(values([b])))
    squares = sum(np.var(run) * len(run) for run in values([a, b, *others]))
    # seeds 3 and 4 are of one run only, so they say nothing about the noise
    full = [values([a])[0][:3], *values([b, *others])]
    within, noise = squares / 12, by_hand(*full)[1]
    expected = (1 / 5 + 1 / 3) * within - 2 * 3 / 15 * (within - noise)
    assert found.standard_error == pytest.approx(math.sqrt(expected))


def test_unequal_deviations_are_not_lent():
    """A quiet chapter lends nothing to two wild runs, and a wild chapter does not make two quiet ones sure."""
    quiet = [rows_of(name, 50 + np.array(pattern) / 100) for name, pattern in
             zip("cdef", ([0, 1, 2], [0, 2, 1], [1, 0, 2.5], [2, 1, 0.3]))]  # fmt: skip
    wild = [rows_of("a", [60, 72, 66]), rows_of("b", [70, 63, 55])]
    found = compare(table_of(*wild, *quiet), "a", "b")
    alone = compare(table_of(*wild), "a", "b")
    assert found.interval() == pytest.approx(alone.interval()) and found.pooled == alone.pooled == 2
    third = rows_of("w", [80, 70, 62])
    found = compare(table_of(*quiet, *wild, third), "c", "d")
    assert found.pooled == 7 and found.standard_error > 1
    # named by hand, the quiet ones lend each other theirs
    named = compare(table_of(*quiet, *wild, third), "c", "d", pool=["e", "f"])
    assert named.pooled == 4 and named.standard_error < 0.02


def test_who_lends():
    """Runs on the same data, in the chapters of the two; a run that two chapters have counts once."""
    a, b, (c,) = rows_of("a", [71, 72, 73.5]), rows_of("b", [70, 71.5, 72]), lenders("c")
    other_data = rows_of("d", [50, 51, 52.2], data={**DATA, "train": 20})
    other_chapter = rows_of("e", [50, 51, 52.4], chapter="part/02_two")
    once, repeated = rows_of("f", [55]), rows_of("g", values([c])[0])
    assert compare(table_of(a, b, c), "a", "b").pooled == 3
    assert compare(table_of(a, b, c, other_data, other_chapter, once, repeated), "a", "b").pooled == 3
    two = rows_of("b", [70, 71.5, 72], chapter="part/02_two")
    assert compare(table_of(a, two, c, other_chapter), "a", "b").pooled == 4


def test_one_run_of_each():
    """Alone no verdict; with the deviation of the chapter an interval, which says where it is from."""
    a, b = rows_of("a", [71]), rows_of("b", [68.9])
    found = compare(table_of(a, b), "a", "b")
    assert found.standard_error is None and found.verdict == "no verdict"
    assert all(map(math.isnan, found.interval()))
    assert str(found) == "no verdict: 2.1 points apart, one run of each cannot decide"
    others = lenders("c", "d", "e")
    found = compare(table_of(a, b, *others), "a", "b")
    noise = by_hand(*values(others))[1]
    assert found.standard_error == pytest.approx(math.sqrt(2 * noise))
    assert found.degrees_of_freedom == pytest.approx(4)
    half = T4 * found.standard_error
    assert str(found) == (
        f"no difference above {2.1 + half:.1f} points (95 % interval {2.1 - half:.1f} to {2.1 + half:.1f}; "
        "one run of each, with the deviation of 3 runs)"
    )
    # unequal deviations can be lent to nobody
    found = compare(table_of(a, b, *others, rows_of("w", [40, 60, 80]), rows_of("v", [40.01, 40, 40])), "a", "b")
    assert found.verdict == "no verdict"


def test_one_run_of_one():
    a, b = rows_of("a", [75]), rows_of("b", [70, 71, 72])
    found = compare(table_of(a, b), "a", "b")
    # all that is known is the deviation of b, 1 point: (1 + 1/3) of its square, 2 degrees of freedom
    assert found.standard_error == pytest.approx(math.sqrt(4 / 3))
    assert found.degrees_of_freedom == pytest.approx(2)
    assert str(found) == ("no difference above 9.0 points (95 % interval -1.0 to 9.0; "
                          "one run of one of them, with the deviation of 1 run)")  # fmt: skip


def test_runs_at_chance_are_counted_and_not_averaged():
    lost = rows_of("a", [10.0, 71, 10.6, 74, 77])
    base = rows_of("b", [10, 70, 10, 72, 74])
    found = compare(table_of(lost, base), "a", "b")
    alone = compare(table_of(rows_of("a", [71, 74, 77]), rows_of("b", [70, 72, 74])), "a", "b")
    assert found.difference == pytest.approx(2) and found.standard_error == pytest.approx(alone.standard_error)
    assert (found.seeds, found.collapsed) == ((3, 3), (2, 2))
    assert str(found).startswith(
        "2 of 5 runs of 'the a' stayed at chance, 2 of 5 runs of 'the b' stayed at chance; the rest: no difference"
    )
    # nor pooled: a lender of which all or all but one stayed there lends nothing
    gone, nearly = rows_of("c", [10, 9, 11]), rows_of("d", [10, 50, 10])
    assert compare(table_of(lost, base, gone, nearly), "a", "b") == found


def test_all_runs_at_chance():
    table = table_of(rows_of("a", [10, 9.5, 10]), rows_of("b", [70, 72, 74]), *lenders("c", "d"))
    for one, other in (("a", "b"), ("b", "a")):
        found = compare(table, one, other)
        assert found.verdict == "no verdict" and found.standard_error is None
        assert str(found) == "no verdict: 3 of 3 runs of 'the a' stayed at chance"


def test_what_counts_as_chance():
    """Three standard errors of guessing above 1 / classes: 10 + 3 * 0.3 % with 10,000 images, 50 + 15 % with 100."""
    table = table_of(rows_of("a", [10.89, 10.91]), rows_of("b", [64.9, 65.1], data={"classes": 2, "val": 100}),
                     rows_of("c", [0.5, 99], data={}))  # fmt: skip
    assert collapsed(table).tolist() == [True, False, True, False, False, False]


def test_the_resolution_of_an_accuracy():
    """Equal values of 100 images are equal to one image only: the interval is not of width 0."""
    data = {**DATA, "val": 100}
    found = compare(table_of(rows_of("a", [71, 71, 71], data=data), rows_of("b", [70, 70, 70], data=data)), "a", "b")
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3 / 12))
    assert str(found) == "no difference above 2.0 points (95 % interval -0.01 to 2.0)"
    third = rows_of("c", [60, 60, 60], data=data)
    found = compare(table_of(rows_of("a", [71, 71, 71], data=data), rows_of("b", [70, 70, 70], data=data), third),
                    "a", "b")  # fmt: skip
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3 / 12))


def test_other_metrics():
    table = table_of(rows_of("a", [71, 74, 77]), rows_of("b", [70, 72, 74]))
    loss = compare(table, "a", "b", "val_loss")
    assert (loss.difference, loss.standard_error) == pytest.approx((-0.02, 0.01 / math.sqrt(3)))
    assert str(compare(table, "a", "b", "gap")).startswith("no difference above 0.448 (")  # the last row of the history
    with pytest.raises(ValueError, match="there is no 'speed' in the records of a, nor in their histories"):
        compare(table, "a", "b", "speed")


def test_names_of_runs():
    table = table_of(rows_of("a", [71, 72]), rows_of("b", [70, 72]), rows_of("b", [60, 62], chapter="part/02_two"))
    with pytest.raises(ValueError, match="'b' is in part/01_one and in part/02_two: write chapter/run"):
        compare(table, "a", "b")
    assert compare(table, "a", "part/01_one/b").difference == pytest.approx(0.5)
    assert compare(table, "part/01_one/a", "part/02_two/b").difference == pytest.approx(10.5)
    with pytest.raises(ValueError, match="the run 'c' is not in this table of records"):
        compare(table, "a", "c")
    with pytest.raises(ValueError, match="the run 'a' is compared with itself: name another baseline"):
        compare(table, "a", "part/01_one/a")
    with pytest.raises(ValueError, match="the run 'a' has a seed twice: give the records of one scale"):
        compare(table_of(rows_of("a", [71, 72], (0, 0)), rows_of("b", [70])), "a", "b")
    assert records.compare is compare and records.compare_all is compare_all


# Several at once


def test_several_comparisons():
    table = table_of(rows_of("a", [71, 72, 73.5]), rows_of("b", [70, 71.5, 72]), *lenders("c", "d"),
                     rows_of("e", [10, 10, 10]))  # fmt: skip
    found = compare_all(table, iter(["a", "c", "d", "e"]), "b")
    assert [one.comparisons for one in found] == [3, 3, 3, 3]  # that at chance is none
    assert [one.difference for one in found[:3]] == [compare(table, run, "b").difference for run in "acd"]
    half = (found[0].interval(3)[1] - found[0].interval(3)[0]) / 2
    # the 5 % are shared out: 0.025 / 3 on each side, 6 degrees of freedom
    assert half == pytest.approx(3.287455 * found[0].standard_error, rel=1e-5)
    shown = comparison_table(found)
    assert list(shown.columns) == ["network", "seeds", "difference (points)", "95 % interval", "for all 3 together",
                                   "verdict"]  # fmt: skip
    assert shown["network"].tolist() == ["the a", "the c", "the d", "the e"]
    assert shown["verdict"].iloc[1].startswith("worse by 20")
    assert shown.iloc[3].tolist() == ["the e", "0 and 3", "", "", "",
                                      "no verdict; 3 of 3 runs of 'the e' stayed at chance"]  # fmt: skip
    assert "for all 1 together" not in comparison_table(compare_all(table, ["a"], "b"))
    assert by_chance(found).startswith("With 3 comparisons of networks that are equal, 0.2 would lie outside")
    named = compare_all(table, ["a", "c"], "b", pool=iter(["c", "d"]))
    assert [one.pooled for one in named] == [4, 3]  # c does not lend to itself


# How often it is wrong

DRAWS = 40_000
MONTE_CARLO = 100 * math.sqrt(0.05 * 0.95 / DRAWS)  # 0.11 per cent: the standard error of a simulated 5 %
THREE, FIVE = (0, 1, 2), (0, 1, 2, 3, 4)
DESIGNS = {
    "3 and 3, alone": [THREE, THREE],
    "3 and 3 others, alone": [THREE, (3, 4, 5)],
    "3 and 3": [THREE] * 6,
    "5 and 5": [FIVE] * 6,
    "3 and 3 of many": [THREE] * 12,
    "5 and 3": [FIVE, THREE, *[THREE] * 4],
    "5 and 3 among fives": [FIVE, THREE, *[FIVE] * 4],
    "9 and 3": [range(9), THREE, *[THREE] * 4],
    "3 and 3 others": [THREE, (3, 4, 5), *[THREE] * 4],
    "5 and 3 others": [FIVE, (5, 6, 7), *[THREE] * 4],
}


@cache
def simulate(design: str, shared: float) -> tuple[np.ndarray, ...]:
    """Compare equal runs DRAWS times; `shared` is the part of the variance that runs with one seed have in common."""
    random = np.random.default_rng(list(DESIGNS).index(design))
    runs = DESIGNS[design]
    seeds = 1 + max(map(max, runs))
    noise, common = random.standard_normal((len(runs), seeds, DRAWS)), random.standard_normal((1, seeds, DRAWS))
    values = 70 + 0.5 * (math.sqrt(1 - shared) * noise + math.sqrt(shared) * common)
    for number, have in enumerate(runs):
        values[number, [seed for seed in range(seeds) if seed not in have]] = np.nan
    return difference_of_means(values)


def missed(design: str, shared: float) -> float:
    """Per cent of the intervals that miss the true difference, 0: the false alarms."""
    difference, error, freedom, _, _ = simulate(design, shared)
    return 100 * np.mean(np.abs(difference) > half_width(error, freedom))


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("design", ["3 and 3, alone", "3 and 3", "5 and 5", "3 and 3 of many"])
def test_false_alarms_with_the_same_seeds(design, shared):
    """At most 5 %, and not far fewer."""
    assert 4 < missed(design, shared) < 5 + 3 * MONTE_CARLO


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("design", ["5 and 3", "5 and 3 among fives", "9 and 3", "3 and 3 others", "5 and 3 others"])
def test_false_alarms_with_other_seeds(design, shared):
    """Between 4 and 6 %: the degrees of freedom are an approximation. Where the shorter run's seeds are the longer's,
    at most 5 %."""
    most = 6 if "others" in design else 5 + 3 * MONTE_CARLO
    assert 4 < missed(design, shared) < most


@pytest.mark.parametrize("runs", [3, 6, 12])
@pytest.mark.parametrize("unequal", [0.3, 0.5, 0.8])
def test_false_alarms_where_deviations_differ(runs, unequal):
    """At most 6 % where two deviations of a chapter differ by a factor of 1.3, 1.6 or 2.1, in the median."""
    random = np.random.default_rng(runs)
    deviations = np.exp(unequal * random.standard_normal((runs, 1, DRAWS // 2)))
    difference, error, freedom, *_ = difference_of_means(deviations * random.standard_normal((runs, 3, DRAWS // 2)))
    assert np.mean(np.abs(difference) > half_width(error, freedom)) < 0.06
    ratio = np.exp(np.median(np.abs(np.log(deviations[0] / deviations[1]))))
    assert round(float(ratio), 1) == {0.3: 1.3, 0.5: 1.6, 0.8: 2.1}[unequal]


@pytest.mark.parametrize("counts", [(3, 3), (3, 3, 3, 3, 3, 3), (5, 3, 2, 9)])
def test_bartletts_test(counts):
    """The same as scipy's, which takes over a second to load."""
    from scipy.stats import bartlett

    random = np.random.default_rng(0)
    samples = [random.normal(0, 1 + number, count) for number, count in enumerate(counts)]
    variances, freedom = np.array([[sample.var(ddof=1)] for sample in samples]), np.array(counts) - 1
    assert _chance_of_equal(variances, freedom) == pytest.approx(bartlett(*samples).pvalue)


def test_pooling_makes_intervals_narrower():
    """With three seeds, by a third and more; the interval of the pairs grows when seeds share nothing."""

    def width(design, shared):
        _, error, freedom, _, _ = simulate(design, shared)
        return np.median(half_width(error, freedom)) / 0.5

    assert width("3 and 3", 0.0) < 0.67 * width("3 and 3, alone", 0.0)
    assert width("3 and 3", 0.5) < 0.75 * width("3 and 3", 0.0)
    # the width that these degrees of freedom give on average, for one deviation
    assert width("3 and 3", 0.0) == pytest.approx(2.228 * math.sqrt(2 / 3), rel=0.05)


def test_several_together_are_seldom_wrong():
    """Of 2,000 tables with ten comparisons of equal runs, at most 5 % have one that is called better or worse."""
    random = np.random.default_rng(0)
    tables = random.standard_normal((11, 3, 2000))
    wrong, plain = np.zeros(2000, bool), np.zeros(2000, bool)
    for run in range(1, 11):
        order = [run, 0, *(other for other in range(1, 11) if other != run)]
        difference, error, freedom, _, _ = difference_of_means(tables[order])
        wrong |= np.abs(difference) > half_width(error, freedom, 10)
        plain |= np.abs(difference) > half_width(error, freedom)
    assert 0.02 < wrong.mean() < 0.05
    assert plain.mean() > 0.25  # what the wider intervals are for


# Three seeds and nine


def test_three_seeds_agree_by_luck(root):
    """Chapter 1's network: seeds 0 to 2 say 69.2 ± 0.2, nine seeds 68.6 ± 0.8, and it is one network."""
    first, others = pd.Series([69.32, 69.32, 68.97]), [67.6, 67.3, 68.7, 68.0, 69.5, 68.4]
    nine = pd.Series([*first, *others])
    sentence = (
        "ended at {:.1f}, {:.1f} and {:.1f} % with its first three seeds, a deviation of {:.1f} points. Six more "
    )
    sentence += "seeds went from {} to {} %, and the deviation of all nine is {:.1f}"
    told = sentence.format(*first, first.std(), min(others), max(others), nine.std())
    assert told in (root / "book" / "how_to_use.md").read_text(encoding="utf-8")
    assert records.accuracy_text(first / 100) == "69.2 ± 0.2 % (3 seeds)"
    assert records.accuracy_text(nine / 100) == "68.6 ± 0.8 % (9 seeds)"
    assert mean_text(first / 100) == "69.2 ± 0.5 % (95 % interval of the mean, 3 seeds; deviation of one run 0.2)"
    assert mean_text(nine / 100) == "68.6 ± 0.6 % (95 % interval of the mean, 9 seeds; deviation of one run 0.8)"
    found = compare(table_of(rows_of("a", first), rows_of("b", others, range(3, 9))), "a", "b")
    assert found.verdict == "undecided", str(found)
    assert found.interval()[0] < 0 < found.difference


def test_the_mean_with_its_interval():
    assert mean_text(pd.Series([0.7123])) == "71.2 % (one run)"
    text = mean_text(pd.Series([0.70, 0.71, 0.72]))
    assert text == "71.0 ± 2.5 % (95 % interval of the mean, 3 seeds; deviation of one run 1.0)"
    assert round(T2 / math.sqrt(3), 1) == 2.5


# How many seeds


def test_seeds_wanted():
    assert [seeds_wanted(seconds) for seconds in (1, 59.9, 60, 900)] == [5, 5, 3, 3]


def test_a_seed_too_few():
    table = table_of(
        rows_of("a", [70] * 5, seconds=59), rows_of("b", [70] * 4, seconds=59), rows_of("c", [70] * 3, seconds=61),
        rows_of("d", [70] * 2, seconds=61), rows_of("e", [70], seconds=10),
    )  # fmt: skip
    assert too_few_seeds(table, "ac") == []
    assert too_few_seeds(table, "abcde") == [
        "part/01_one/b has 4 seeds and needs 5",
        "part/01_one/d has 2 seeds and needs 3",
        "part/01_one/e has 1 seed and needs 5",
    ]
