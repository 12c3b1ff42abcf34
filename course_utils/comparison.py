"""One rule for comparing runs: the difference of two means, with an interval that knows how few the seeds were.

An interval says what other seeds could have given, on these validation images. Other images would add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

GUESSING = 3  # an accuracy fewer standard errors of guessing than this above chance has learned nothing
UNEQUAL = 0.1  # deviations are not pooled where Bartlett's test finds them less likely than this to be equal


@dataclass(frozen=True)
class Comparison:
    """A run compared with a baseline: print it for the words, or draw several with `plots.forest`.

    Attributes:
        run, baseline: their labels.
        metric: what is compared.
        difference: the run's mean minus the baseline's. Accuracies are in points of per cent.
        standard_error: of the difference; None without a verdict.
        degrees_of_freedom: of the standard error.
        deviation: of one run, in the unit of the difference.
        pooled: from how many runs the deviation is; 2 are these two alone.
        seeds: how many seeds of each count.
        collapsed: how many runs of each stayed at chance, and do not count.
        comparisons: how many were made together, by `compare_all`.
    """

    run: str
    baseline: str
    metric: str
    difference: float
    standard_error: float | None
    degrees_of_freedom: float
    deviation: float
    pooled: int
    seeds: tuple[int, int]
    collapsed: tuple[int, int]
    comparisons: int = 1

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """Return the 95 % interval of the difference; of several comparisons, one for all of them to hold together.

        difference ± t(1 - 0.025 / comparisons) * standard_error. Sources: Student (1908); Bonferroni's inequality,
        which needs no independence. The tests of Holm (1979) find a little more, but they give no intervals.
        """
        if self.standard_error is None:
            return float("nan"), float("nan")
        half = float(half_width(self.standard_error, self.degrees_of_freedom, comparisons))
        return self.difference - half, self.difference + half

    @property
    def verdict(self) -> str:
        """Return "better", "worse", "undecided" or "no verdict"; "perhaps better" where all together undo it."""
        if self.standard_error is None:
            return "no verdict"
        (low, high), (lowest, highest) = self.interval(), self.interval(self.comparisons)
        if low <= 0 <= high:
            return "undecided"
        word = "better" if (self.difference > 0) != self.less_is_better else "worse"
        return f"perhaps {word}" if lowest <= 0 <= highest else word

    @property
    def less_is_better(self) -> bool:
        """Return whether the metric is a loss or a time."""
        return "loss" in self.metric or "seconds" in self.metric

    @property
    def unit(self) -> str:
        """Return "points", "s" or nothing."""
        return "points" if "accuracy" in self.metric else "s" if "seconds" in self.metric else ""

    @property
    def at_chance(self) -> str:
        """Return which runs stayed at chance, in words, or nothing."""
        parts = zip((self.run, self.baseline), self.collapsed, self.seeds)
        return ", ".join(f"{lost} of {lost + n} runs of '{name}' stayed at chance" for name, lost, n in parts if lost)

    def number(self, value: float) -> str:
        """Write a value with as many decimals as it takes that only 0 prints as 0."""
        decimals = 1 if self.unit else 3
        while decimals < 5 and value and not round(value, decimals):
            decimals += 1
        return f"{round(value, decimals) + 0.0:.{decimals}f}"  # never -0.0

    @property
    def words(self) -> str:
        """Return "better by 2.1 points", "no difference above 1.9 points", or "no verdict"."""
        if self.standard_error is None:
            return "no verdict"
        size = max(map(abs, self.interval(self.comparisons))) if self.verdict == "undecided" else abs(self.difference)
        start = "no difference above" if self.verdict == "undecided" else f"{self.verdict} by"
        return f"{start} {self.number(size)} {self.unit}".rstrip()

    def __str__(self) -> str:
        if 0 in self.seeds:
            return f"no verdict: {self.at_chance}"
        start = f"{self.at_chance}; the rest: " if self.at_chance else ""
        few = {0: "", 1: "one run of one of them", 2: "one run of each"}[self.seeds.count(1)]
        if self.standard_error is None:
            apart = f"{self.number(abs(self.difference))} {self.unit}".rstrip()
            return f"{start}no verdict: {apart} apart, {few} cannot decide"
        # worse by 2.1, so not -3.0 to -1.2
        sign = -1 if self.verdict != "undecided" and self.difference < 0 else 1
        ends = [sorted(sign * end for end in self.interval(several)) for several in (1, self.comparisons)]
        notes = "95 % interval {} to {}".format(*map(self.number, ends[0]))
        if self.comparisons > 1:
            notes += "; {} to {} for all {} together".format(*map(self.number, ends[1]), self.comparisons)
        if few:
            notes += f"; {few}, with the deviation of {self.pooled} run{'s' * (self.pooled > 1)}"
        return f"{start}{self.words} ({notes})"


def compare(
    table: pd.DataFrame, run: str, baseline: str, metric: str = "val_accuracy", pool: Iterable[str] | None = None
) -> Comparison:
    """Compare the mean of a run with that of a baseline, over their seeds.

    Args:
        table: what `load_records` returned.
        run, baseline: names such as "a2-norm", or "ladder/01_plain_cnn/a2-norm" where several chapters have one.
        metric: a column of the table, or of the last row of the histories.
        pool: names of runs whose deviation is expected to be the same; without it, all that were trained on
            the same data in the same chapters.

    Runs that stayed at chance are counted and not averaged, see `collapsed`. For the rest see `difference_of_means`.

    Raises:
        ValueError: a run is not in the table, or in several chapters, or has a seed twice, or is its own baseline;
            or there is no such metric.
    """
    pair = [_rows(table, name) for name in (run, baseline)]
    if pair[0].index.equals(pair[1].index):
        raise ValueError(f"the run '{run}' is compared with itself: name another baseline")
    if pool is None:
        chapters = {rows["chapter"].iloc[0] for rows in pair}
        data = [rows["data"].iloc[0] for rows in pair]
        kind = table[table["chapter"].isin(chapters) & table["data"].map(lambda each: each in data)]
        lenders = [rows for _, rows in kind.groupby(["chapter", "run"])]
    else:
        lenders = [_rows(table, name) for name in pool]
    runs = [_by_seed(rows[~collapsed(rows)], metric) for rows in (*pair, *lenders)]
    # a run lends its deviation once, also where two chapters have a record of it
    seen = [tuple(values.items()) for values in runs]
    runs = runs[:2] + [runs[k] for k in range(2, len(runs)) if len(runs[k]) > 1 and seen[k] not in seen[:k]]
    scale = 100 if "accuracy" in metric else 1
    found = (np.nan, np.nan, 0.0, np.nan, 0)
    if len(runs[0]) and len(runs[1]):
        step = scale / pair[0]["data"].iloc[0].get("val", np.inf) if "accuracy" in metric else 0.0
        values = scale * pd.concat(runs, axis=1).to_numpy().T
        found = [part.item() for part in difference_of_means(values, step)]
    difference, error, freedom, deviation, pooled = found
    return Comparison(
        run=pair[0]["label"].iloc[0],
        baseline=pair[1]["label"].iloc[0],
        metric=metric,
        difference=difference,
        standard_error=None if np.isnan(error) else error,
        degrees_of_freedom=freedom,
        deviation=deviation,
        pooled=pooled,
        seeds=(len(runs[0]), len(runs[1])),
        collapsed=(int(collapsed(pair[0]).sum()), int(collapsed(pair[1]).sum())),
    )


def compare_all(
    table: pd.DataFrame,
    runs: Iterable[str],
    baseline: str,
    metric: str = "val_accuracy",
    pool: Iterable[str] | None = None,
) -> list[Comparison]:
    """Compare several runs with one baseline, each as `compare` does, and remember how many they are.

    Of 20 comparisons between equals, one is outside its 95 % interval by chance. So the verdicts are those of wider
    intervals, which hold together in 95 of 100 such tables: see `Comparison.interval`, and `by_chance` for a page.
    """
    pool = None if pool is None else list(pool)
    found = [compare(table, run, baseline, metric, pool) for run in runs]
    decided = sum(one.standard_error is not None for one in found)
    return [replace(one, comparisons=max(1, decided)) for one in found]


def by_chance(comparisons: Sequence[Comparison]) -> str:
    """Return how many plain intervals of a table are expected to miss, in a sentence for below it."""
    several = comparisons[0].comparisons
    return (
        f"With {several} comparisons of networks that are equal, {0.05 * several:.1f} would lie outside their 95 % "
        f"intervals by chance. The verdicts use wider intervals, which hold for all {several} together with 95 %."
    )


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return comparisons as a table for a page: difference, intervals and verdict, one row each."""
    rows = []
    for one in comparisons:
        ends = [[one.number(end) for end in one.interval(several)] for several in (1, one.comparisons)]
        sure, missing = one.standard_error is not None, 0 in one.seeds
        row = {
            "network": one.run,
            "seeds": "{} and {}".format(*one.seeds),
            f"difference ({one.unit})" if one.unit else "difference": "" if missing else one.number(one.difference),
            "95 % interval": "{} to {}".format(*ends[0]) if sure else "",
            f"for all {one.comparisons} together": "{} to {}".format(*ends[1]) if sure else "",
            "verdict": "; ".join(filter(None, (one.words, one.at_chance))),
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(columns="for all 1 together", errors="ignore")


def difference_of_means(values: np.ndarray, resolution: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return difference, standard error, degrees of freedom, deviation of one run, and how many runs it is from.

    Args:
        values: (runs, seeds, ...), nan where a run has not that seed. The first run is compared with the second; the
            others lend their deviation. Further axes are tables of their own, with the same seeds.
        resolution: the step of the values, for an accuracy 1 / images. No variance is less than that of rounding.

    The model is value = run + seed + noise: what runs of one seed have in common is the order of their images, and
    maybe first weights. Squares around the runs' means (`within`) and around runs and seeds (`noise`), each divided
    by its degrees of freedom, are pooled over all runs. With n and m seeds, c of them in both, the variance of the
    difference is (1/n + 1/m) within - 2c/(nm) (within - noise). That is 2/n noise for the same seeds, as in a paired
    test, and (1/n + 1/m) within for others. Its degrees of freedom are Satterthwaite's.

    Where Bartlett's test finds the deviations unequal, the two runs alone may have an interval of their own, by pairs
    for the same seeds, else by Welch's test. Then the wider one holds, and none (nan) if a run has one seed only.

    Sources: Henderson, Biometrics 9 (1953), method 3; Satterthwaite, Biometrics Bulletin 2 (1946); Bartlett, Proc.
    Royal Society A 160 (1937); Welch, Biometrika 34 (1947).
    """
    shape, values = values.shape[2:], values.reshape(*values.shape[:2], -1)
    there, rounding = ~np.isnan(values[..., 0]), resolution**2 / 12
    counts, means = there.sum(1), np.nanmean(values, axis=1)
    residuals = np.where(there[..., None], values - means[:, None], 0.0)
    freedom = counts[counts > 1] - 1
    variances = np.maximum((residuals[counts > 1] ** 2).sum(1) / freedom[:, None], rounding)
    if counts[:2].min() > 1:
        found = _alone(values[:2], there[:2], variances[:2], rounding)
    else:
        found = [np.full(values.shape[2], part) for part in (np.nan, 0.0, np.nan, 0)]
    if len(freedom):
        lent = _together(residuals, there, variances, rounding)
        use = _chance_of_equal(variances, freedom) >= UNEQUAL
        use |= half_width(*lent[:2]) > half_width(*found[:2])
        found = [np.where(use, one, other) for one, other in zip(lent, found)]
    return tuple(part.reshape(shape) for part in (means[0] - means[1], *found))


def half_width(error: np.ndarray, freedom: np.ndarray, comparisons: int = 1) -> np.ndarray:
    """Return half the 95 % interval, t(1 - 0.025 / comparisons) error, with Student's t for the degrees of freedom."""
    from scipy.special import stdtrit  # loading it takes half a second

    return stdtrit(freedom, 1 - 0.025 / comparisons) * error


def _alone(values: np.ndarray, there: np.ndarray, variances: np.ndarray, rounding: float) -> list[np.ndarray]:
    """Return error, degrees of freedom, deviation and number of runs, from the two runs only."""
    if (there[0] == there[1]).all():
        pairs = (values[0] - values[1])[there[0]]
        variance = np.maximum(pairs.var(0, ddof=1), 2 * rounding) / len(pairs)
        freedom = np.full(len(variance), len(pairs) - 1.0)
    else:
        counts = there.sum(1)[:, None]
        variance = (variances / counts).sum(0)
        freedom = variance**2 / ((variances / counts) ** 2 / (counts - 1)).sum(0)
    return [np.sqrt(variance), freedom, np.sqrt(variances.mean(0)), np.full(len(variance), 2)]


def _together(residuals: np.ndarray, there: np.ndarray, variances: np.ndarray, rounding: float) -> list[np.ndarray]:
    """Return error, degrees of freedom, deviation and number of runs, from all runs."""
    runs, seeds = np.nonzero(there)
    design = np.hstack([np.eye(len(there))[runs], np.eye(there.shape[1])[seeds]])
    y = residuals[runs, seeds]
    noise = ((y - design @ (np.linalg.pinv(design) @ y)) ** 2).sum(0)
    within_freedom, noise_freedom = len(y) - len(there), len(y) - np.linalg.matrix_rank(design)
    n, m = there[:2].sum(1)
    # where no two runs have two seeds in common, nothing is known of what seeds share, and nothing is subtracted
    shared = 2 * (there[0] & there[1]).sum() / (n * m) if noise_freedom else 0.0
    rest = (1 / n + 1 / m - shared) / within_freedom
    # the same variance, written as a sum of two independent parts
    seed = np.maximum((y**2).sum(0) - noise, 0)
    noise = np.maximum(noise, noise_freedom * rounding + 1e-99)
    parts = np.stack([noise * (shared / max(noise_freedom, 1) + rest), seed * rest])
    variance = parts.sum(0)
    freedom = np.maximum([noise_freedom, within_freedom - noise_freedom], 1)
    freedom = variance**2 / (parts**2 / freedom[:, None]).sum(0)
    deviation = np.sqrt((residuals**2).sum((0, 1)) / within_freedom)
    error = np.sqrt(np.maximum(variance, rounding * (1 / n + 1 / m)))
    return [error, freedom, deviation, np.full(len(error), len(variances))]


def _chance_of_equal(variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Return Bartlett's chance that variances (runs, ...) differ so much if they are estimates of one."""
    from scipy.special import chdtrc

    if len(freedom) == 1:
        return np.ones(variances.shape[1])
    variances = np.maximum(variances, 1e-99)
    mean = np.average(variances, axis=0, weights=freedom)
    statistic = freedom.sum() * np.log(mean) - freedom @ np.log(variances)
    correction = 1 + ((1 / freedom).sum() - 1 / freedom.sum()) / (3 * (len(freedom) - 1))
    return chdtrc(len(freedom) - 1, np.maximum(statistic, 0) / correction)


def collapsed(table: pd.DataFrame) -> pd.Series:
    """Return for each row of records whether its run stayed at chance: its accuracy is at most that of guessing.

    At most 1 / classes + 3 sqrt(1 / classes (1 - 1 / classes) / images), three standard errors of a guess, with the
    validation images of the record. Where classes are of unequal size, guessing can do better than that.
    """
    chance = table["data"].map(lambda data: 1 / data.get("classes", np.inf))
    images = table["data"].map(lambda data: data.get("val", np.inf))
    return table["val_accuracy"] <= chance + GUESSING * np.sqrt(chance * (1 - chance) / images)


def mean_text(accuracies: pd.Series) -> str:
    """Return "68.5 ± 0.6 % (95 % interval of the mean, 9 seeds; deviation of one run 0.8)" for accuracies in 0..1.

    The interval is mean ± t(0.975, n - 1) deviation / sqrt(n), after Student (1908), from these seeds alone.
    """
    n, mean = len(accuracies), 100 * accuracies.mean()
    if n == 1:
        return f"{mean:.1f} % (one run)"
    deviation = 100 * accuracies.std()
    half = half_width(deviation / n**0.5, n - 1)
    return f"{mean:.1f} ± {half:.1f} % (95 % interval of the mean, {n} seeds; deviation of one run {deviation:.1f})"


def seeds_wanted(seconds: float) -> int:
    """Return how many seeds a run needs before it is compared: 5 if it takes less than a minute, else 3."""
    return 5 if seconds < 60 else 3


def too_few_seeds(table: pd.DataFrame, runs: Iterable[str]) -> list[str]:
    """Return a sentence for each run that has fewer seeds than `seeds_wanted`, by the time of its fastest."""
    sentences = []
    for name in runs:
        rows = _rows(table, name)
        wanted = seeds_wanted(rows["seconds"].min())
        if len(rows) < wanted:
            where = f"{rows['chapter'].iloc[0]}/{rows['run'].iloc[0]}"
            sentences.append(f"{where} has {len(rows)} seed{'s' * (len(rows) > 1)} and needs {wanted}")
    return sentences


def _rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the records of one run, named "a2-norm" or "ladder/01_plain_cnn/a2-norm"."""
    rows = table[(table["run"] == name) | (table["chapter"] + "/" + table["run"] == name)]
    chapters = list(rows["chapter"].unique())
    if len(chapters) != 1:
        where = f"in {' and in '.join(chapters)}: write chapter/run" if chapters else "not in this table of records"
        raise ValueError(f"the run '{name}' is {where}")
    if rows["seed"].duplicated().any():
        raise ValueError(f"the run '{name}' has a seed twice: give the records of one scale")
    return rows


def _by_seed(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric of each run, indexed by seed."""
    if metric in rows:
        values = rows[metric]
    elif all(metric in history[-1] for history in rows["history"]):
        values = [history[-1][metric] for history in rows["history"]]
    else:
        raise ValueError(f"there is no '{metric}' in the records of {rows['run'].iloc[0]}, nor in their histories")
    return pd.Series(list(values), index=rows["seed"], dtype=float)
