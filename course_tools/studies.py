"""Run studies: sets of runs that answer one question and need more than one sitting.

A study is a Python file beside the chapter that it belongs to, such as notebooks/ladder/01_norm_seeds.py, whose
docstring begins with the question. It defines

    factors    what varies: each factor and its levels, {"norm": ["batch-norm", "no-norm"], "rate": [0.05, 0.1]}
    seeds      such as range(9)
    train_one  train_one(seed, norm, rate, scale="page") makes data and network, calls `fit` and `save_record`
    sensible   where some combinations make no sense: sensible(norm, rate) says whether one is run

A run is called by its levels ("batch-norm-0.05"), and they are among the settings of its record.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from course_tools.chapters import UserError, check_scale, records_of
from course_tools.fingerprints import Code, program_code
from course_utils.settings import named_folder

GRID = {"factors", "seeds", "sensible"}  # they say which runs there are, not how one is trained
STOPPED = "stopped"
OUT_OF_TIME, BY_HAND = "Stopped for want of time: ", "Stopped by hand: "

# What each run is: a program of its own, so that no run finds anything of another one in its memory
TRAIN = """
import json, runpy, sys
runpy.run_path(sys.argv[1], run_name="study")["train_one"](**json.loads(sys.argv[2]))
"""
# It ends with the program that started it, even if that is killed, since its standard input ends then
END_TOGETHER = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
"""

EPOCH = re.compile(r"epoch (\d+)/(\d+)\b")  # as `fit` prints them
EARLIER = re.compile(r"Going on after epoch (\d+) of|Trained already")


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    levels: dict[str, str | int | float | bool]
    seed: int

    @property
    def name(self) -> str:
        """What its record calls it."""
        return "-".join(map(str, self.levels.values()))

    def record(self, scale: str) -> str:
        """The name of its record's file."""
        return f"{scale}-{self.name}-seed{self.seed}"

    def __str__(self) -> str:
        return ", ".join(f"{factor} {level}" for factor, level in (self.levels | {"seed": self.seed}).items())


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it: seeds outermost, so that each stop leaves whole grids."""

    name: str
    path: Path
    question: str
    runs: list[Run]

    @property
    def folder(self) -> str:
        """Where its records are, below results/, and what they call their chapter."""
        return f"studies/{self.name}"


def study_names(root: Path) -> list[str]:
    """The names of all studies, such as "ladder/01_norm_seeds": Python files among the chapters with a `train_one`.

    Other Python files there, such as a chapter that jupytext keeps as text, are none, and nothing of them is run.
    """
    files = [path for path in (root / "notebooks").rglob("*.py") if ".ipynb_checkpoints" not in path.parts]
    studies = [path for path in files if re.search(r"(?m)^def train_one\(", path.read_text(encoding="utf-8"))]
    return sorted(path.relative_to(root / "notebooks").with_suffix("").as_posix() for path in studies)


def read_study(root: Path, name: str) -> Study:
    """A study by its name.

    Raises:
        UserError: its file fails, or does not define what a study needs.
    """
    path = root / "notebooks" / f"{name}.py"
    try:
        defined = runpy.run_path(str(path), run_name="study")
        if missing := {"factors", "seeds"} - defined.keys():
            raise ValueError(f"it defines no {' and no '.join(sorted(missing))}")
        runs = _grid(**{part: defined[part] for part in (*GRID, "train_one") if part in defined})
        if not (defined["__doc__"] or "").strip():
            raise ValueError("it begins with no docstring: say there which question it answers")
    except Exception as error:
        told = error if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise UserError(f"notebooks/{name}.py is no study yet: {told}.") from error
    return Study(name, path, defined["__doc__"].strip().splitlines()[0], runs)


def _grid(
    factors: dict[str, list], seeds: Iterable[int], train_one: Callable, sensible: Callable[..., bool] | None = None
) -> list[Run]:
    """The runs of a grid in their order; raises ValueError where it is none."""
    if not isinstance(factors, dict) or not factors or not all(isinstance(part, list) for part in factors.values()):
        raise ValueError('factors must be like {"norm": ["batch-norm", "no-norm"]}, with one factor at least')
    for factor, level in [(factor, level) for factor, levels in factors.items() for level in levels]:
        if not isinstance(level, (str, int, float)) or not re.fullmatch(r"[\w.+-]+", str(level)):
            raise ValueError(
                f"the level {level!r} of {factor} must be a number or a name of letters, digits, '.', '_', '+' and "
                "'-', since files are called by it"
            )
    seeds = list(seeds)
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len({*seeds}) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers from 0 on, not {seeds}")
    grid = [dict(zip(factors, levels)) for levels in itertools.product(*factors.values())]
    grid = [levels for levels in grid if sensible is None or sensible(**levels)]
    names = [Run(levels, 0).name for levels in grid]
    if not names:
        raise ValueError("no combination of levels is left")
    if same := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"several combinations of levels are called {same[0]!r}: rename a level")
    if taken := [name for name in names if re.match(r"[a-z]\d*-", name)]:
        raise ValueError(f"{taken[0]!r} begins like a run of a chapter, a letter and '-': rename the first level")
    try:
        inspect.signature(train_one).bind(seed=0, **grid[0], scale="smoke")
    except TypeError as error:
        raise ValueError(f"train_one must take seed, {', '.join(factors)} and scale ({error})") from error
    return [Run(levels, seed) for seed in seeds for levels in grid]


def studies_called(root: Path, word: str) -> list[str]:
    """The names of the studies meant by "norm_seeds", "01_norm_seeds" or "ladder/01_norm_seeds"."""
    names, plain = study_names(root), word.removeprefix("notebooks/").removesuffix(".py")

    def short(name: str) -> list[str]:
        stem = name.rsplit("/", 1)[-1]
        return [stem, stem.partition("_")[2]]

    return [name for name in names if name == plain] or [name for name in names if plain in short(name)]


def choose_study(root: Path, word: str) -> Study:
    """The study meant by a word, see `studies_called`.

    Raises:
        UserError: none or several are called so; or see `read_study`.
    """
    fits = studies_called(root, word)
    if len(fits) != 1:
        why = "fits several studies" if fits else "is not a study"
        valid = ", ".join(fits or study_names(root)) or "there are none yet"
        raise UserError(f"{word!r} {why}. Valid: {valid}.")
    return read_study(root, fits[0])


def study_code(path: Path, levels: dict, package: Path | None = None) -> Code:
    """The code that decides what a run of a study trains: its file and what that reaches, and its own levels.

    What says only which runs there are does not count, so that further levels and seeds leave the records of the
    others as they are; nor does what the file does as a program.
    """
    parts = ast.parse(path.read_text(encoding="utf-8")).body
    kept = [part for part in parts if not _is_grid(part)]
    if GRID & {node.id for part in kept for node in ast.walk(part) if isinstance(node, ast.Name)}:
        kept = parts  # the training itself looks at the grid
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, path.name)
        text = f"{ast.unparse(ast.Module(kept, []))}\n{levels!r}\n"
        own.write_text(text, encoding="utf-8", newline="\n")
        return program_code(own, package)


def _is_grid(part: ast.stmt) -> bool:
    if isinstance(part, ast.If):
        return ast.unparse(part.test).startswith("__name__ ==")
    targets = getattr(part, "targets", [getattr(part, "target", None)])
    return getattr(part, "name", "") in GRID or any(getattr(target, "id", "") in GRID for target in targets)


def states(root: Path, study: Study, scale: str = "page") -> list[str]:
    """What is known of each run of a study: "recorded" by the code as it is, "stale" or "missing"."""
    records = records_of(results_folder(root, scale), study.folder)
    codes: dict[str, str] = {}
    found = []
    for run in study.runs:
        if record := records.get(run.record(scale)):
            if run.name not in codes:
                codes[run.name] = study_code(study.path, run.levels).fingerprint
            found.append("recorded" if record["code"] == codes[run.name] else "stale")
        else:
            found.append("missing")
    return found


def results_folder(root: Path, scale: str) -> Path:
    """Where the records of a scale go: those of the page's are kept in results/, others are trials as with `run`."""
    return root / "results" if scale == "page" else root / "build/runs" / scale / "results"


class Times:
    """How long the runs of a study have taken on this machine, kept in a file from one call to the next.

    They serve estimates only: a record holds its own seconds.
    """

    def __init__(self, root: Path, study: Study, scale: str):
        self.scale, self.path = scale, root / f"build/studies/{study.name}.times.json"
        there = self.path.is_file()
        self.begun, self.ended = json.loads(self.path.read_text(encoding="utf-8")) if there else ({}, {})

    def add(self, run: Run, seconds: float, ended: bool) -> None:
        """Note the seconds of a run, on top of what it took until it was stopped."""
        name = run.record(self.scale)
        self.begun[name] = self.begun.get(name, 0) + seconds
        if ended:
            self.ended[name] = self.begun.pop(name)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(json.dumps([self.begun, self.ended], indent=1) + "\n", encoding="utf-8", newline="\n")
        part.replace(self.path)

    def spent(self, run: Run) -> float:
        """The seconds of a run that was begun."""
        return self.begun.get(run.record(self.scale), 0)

    def expected(self, run: Run) -> float | None:
        """The seconds that are left of a run, by those that ended with its levels, else by all; None where none did."""
        ended = {name: seconds for name, seconds in self.ended.items() if name.startswith(f"{self.scale}-")}
        same = [s for name, s in ended.items() if name.rpartition("-seed")[0] == f"{self.scale}-{run.name}"]
        same = same or list(ended.values())
        return max(0, sum(same) / len(same) - self.spent(run)) if same else None

    def left(self, runs: list[Run], otherwise: float | None = None) -> float | None:
        """The seconds that are left of some runs; `otherwise` is for a run of which nothing is known."""
        each = [otherwise if (seconds := self.expected(run)) is None else seconds for run in runs]
        return None if None in each else sum(each)


def _duration(seconds: float) -> str:
    """Seconds in a unit that suits them: "40 s", "12 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _in_words(left: float | None) -> str:
    """Seconds for the end of a sentence: ", about 12 min left"; empty for None."""
    return "" if left is None else f", about {_duration(left)} left"


def list_studies(root: Path, scale: str = "page") -> int:
    """Print each study: how many of its runs are recorded, how long the others may take, its question."""
    names = study_names(root)
    if not names:
        print("There are no studies in notebooks/ yet.")
    for name in names:
        try:
            study = read_study(root, name)
        except UserError as error:
            print(error)
            continue
        found = states(root, study, check_scale(scale))
        todo = [run for run, state in zip(study.runs, found) if state != "recorded"]
        stale = f" ({found.count('stale')} of them stale)" if "stale" in found else ""
        left = _in_words(Times(root, study, scale).left(todo)) if todo else ""
        print(f"{name}: {len(study.runs) - len(todo)} of {len(study.runs)} runs are recorded{stale}{left}")
        print(f"    {study.question}")
    return 0


def study(root: Path, word: str, limit: float | None = None, scale: str = "page") -> int:
    """Run what is missing or stale of a study, one run after the other; each leaves a record.

    Args:
        root: the project.
        word: which study, see `choose_study`.
        limit: minutes. A run that would not end in time is not begun, but for the first; one that lasts longer than
            was thought stops at the end of an epoch.
        scale: of the runs.

    A run that was stopped or killed goes on after its last finished epoch in the next call. One that fails is told,
    and the others go on. Returns 0 if all went well, 1 if a run failed or Ctrl-C was pressed.

    Raises:
        UserError: see `choose_study`; or another study runs already, or the limit is none.
    """
    if limit is not None and not limit > 0:
        raise UserError(f"{limit:g} is no limit: give minutes, more than 0.")
    end = time.monotonic() + (math.inf if limit is None else 60 * limit)
    scale, chosen = check_scale(scale), choose_study(root, word)
    count, place = len(chosen.runs), root / "build/studies" / chosen.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(root / "build/studies"), open(f"{place}.log", "a", 1, encoding="utf-8", newline="\n") as log:
        todo = [run for run, state in zip(chosen.runs, states(root, chosen, scale)) if state != "recorded"]
        if not todo:
            print(f"{chosen.name}: all {count} runs are recorded already.")
            return 0
        sitting = Sitting(root, chosen, scale, end, Times(root, chosen, scale), log)
        left = _in_words(sitting.times.left(todo))
        print(f"{chosen.name}: {count - len(todo)} of {count} runs are recorded{left}")
        print(f"What each run prints goes to {Path(log.name).relative_to(root).as_posix()}")
        why, failed = _train_all(sitting, todo)
    recorded = states(root, chosen, scale).count("recorded")
    if failed:
        print(f"{failed} failed, and the log says more.")
    end_of_it = " The same command goes on." if recorded < count else ""
    print(f"{why}{recorded} of {count} runs are recorded in {sitting.records.relative_to(root).as_posix()}.{end_of_it}")
    return int(failed > 0 or why == BY_HAND)


@dataclass
class Sitting:
    """One call of `study`, and what its runs share."""

    root: Path
    study: Study
    scale: str
    end: float  # on the clock of time.monotonic
    times: Times
    log: TextIO

    def __post_init__(self):
        self.records = results_folder(self.root, self.scale) / self.study.folder
        self.start = time.monotonic()
        self.bar = tqdm(bar_format="{desc}", leave=False, file=sys.stdout, dynamic_ncols=True, disable=None)

    def record(self, run: Run) -> Path:
        """The place of a run's record."""
        return self.records / f"{run.record(self.scale)}.json"

    def accuracy(self, run: Run) -> str:
        """What a run has reached: "71.2 %"."""
        return f"{100 * json.loads(self.record(run).read_text(encoding='utf-8'))['val_accuracy']:.1f} %"

    def tell(self, text: str) -> None:
        """Show the line of progress, where there is a screen."""
        self.bar.set_description_str(f"{text}, {_duration(time.monotonic() - self.start)} so far")


def _train_all(sitting: Sitting, todo: list[Run]) -> tuple[str, int]:
    """Run one after the other; return why it stopped early, if it did, and how many failed."""
    failed, count, times = 0, len(sitting.study.runs), sitting.times
    try:
        for number, run in enumerate(todo):
            start, later = time.monotonic(), todo[number + 1 :]
            if number and start + (times.expected(run) or 0) > sitting.end:
                return OUT_OF_TIME, failed
            where, problem = f"run {count - len(todo) + number + 1} of {count}, {run}", STOPPED
            try:
                problem = _train(sitting, run, later, where)
            finally:
                seconds = time.monotonic() - start
                times.add(run, seconds, ended=not problem)
            if problem == STOPPED:
                return OUT_OF_TIME, failed
            failed += bool(problem)
            left = _in_words(times.left(later)) if later else ""
            told = f"failed: {problem}" if problem else f"{sitting.accuracy(run)}, {_duration(seconds)}"
            sitting.bar.write(f"{where}: {told}{left}")
    except KeyboardInterrupt:
        return BY_HAND, failed
    finally:
        sitting.bar.close()
    return "", failed


def _train(sitting: Sitting, run: Run, later: list[Run], where: str) -> str:
    """Train one run in a process of its own and keep its record; return what went wrong, STOPPED, or nothing."""
    root, study, times = sitting.root, sitting.study, sitting.times
    code, made, start = study_code(study.path, run.levels), root / "build/studies" / study.name, time.monotonic()
    checkpoints = root / "build/checkpoints" / study.folder / f"{run.record(sitting.scale)}-{code.fingerprint[:16]}"
    shutil.rmtree(made, ignore_errors=True)
    sitting.tell(f"{where}{_in_words(times.left([run, *later]))}")
    sitting.log.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {run}, at the {sitting.scale} scale\n")
    process = _start(sitting, run, code, made, checkpoints)
    try:
        for new, (epoch, epochs) in enumerate(_new_epochs(process.stdout, sitting.log), 1):
            now = time.monotonic()
            whole = (times.spent(run) + now - start) / epoch * epochs
            left = times.left(later, otherwise=whole) + whole * (1 - epoch / epochs)
            sitting.tell(f"{where}: epoch {epoch} of {epochs}{_in_words(left)}")
            if epoch < epochs and now + (now - start) / new > sitting.end:
                return STOPPED
        if status := process.wait():
            last = Path(sitting.log.name).read_text(encoding="utf-8").rstrip().splitlines()[-1]
            return f"it was killed (signal {-status})" if status < 0 else last
    finally:
        process.stdin.close()  # which ends it, if it is still there
        process.wait()
        process.stdout.close()
    if study_code(study.path, run.levels) != code:
        return "its code was edited while it ran, so nothing was stored"
    problem = _store(sitting, run, made, code)
    if not problem:
        shutil.rmtree(checkpoints, ignore_errors=True)  # those of a large study would fill the disk
    return problem


def _start(sitting: Sitting, run: Run, code: Code, results: Path, checkpoints: Path) -> subprocess.Popen:
    """Start the program of a run; what it prints can be read from its `stdout`."""
    root, path = sitting.root, sitting.study.path
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    values = {
        "COURSE_DATA": str(named_folder("COURSE_DATA", root / "data").resolve()),
        "COURSE_RESULTS": str(results),
        "COURSE_CHECKPOINTS": str(checkpoints),
        "COURSE_CODE": code.as_json(),
        "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUTF8": "1",
    }
    given = json.dumps(run.levels | {"seed": run.seed, "scale": sitting.scale})
    return subprocess.Popen(
        [sys.executable, "-u", "-c", END_TOGETHER + TRAIN, str(path), given],
        cwd=path.parent,
        env=os.environ | values,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _new_epochs(lines: Iterable[str], log: TextIO) -> Iterator[tuple[int, int]]:
    """Write down what a run prints; yield each epoch that it has done itself, and of how many."""
    earlier = 0.0
    for line in lines:
        log.write(line)
        if found := EARLIER.match(line):  # `fit` prints those again
            earlier = float(found[1] or math.inf)
        elif found := EPOCH.match(line):
            epoch, epochs = int(found[1]), int(found[2])
            if epoch > earlier:
                yield epoch, epochs
            elif epoch == min(earlier, epochs):
                earlier = 0.0


def _store(sitting: Sitting, run: Run, made: Path, code: Code) -> str:
    """Put the record that a run has written into its place; return what is wrong with it, or nothing."""
    wanted = f"{sitting.study.folder}/{run.record(sitting.scale)}.json"
    found = [path.relative_to(made).as_posix() for path in sorted(made.rglob("*.json"))]
    if found != [wanted]:
        return f"it should have saved the record {wanted}, but saved {', '.join(found) or 'none'}"
    text = (made / wanted).read_text(encoding="utf-8")
    record = json.loads(text)
    if lacks := {name: level for name, level in run.levels.items() if record["settings"].get(name) != level}:
        return f"the settings of its record lack its levels {lacks}"
    if record["code"] != code.fingerprint:
        return "its record is of other code: give fit the checkpoint records.checkpoint_path(...)"
    place = sitting.record(run)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(place)
    return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only study that runs in a checkout, since two would fight for the processor and change their times.

    The system itself lets go of the lock when its process ends, in whichever way.

    Raises:
        UserError: another one runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8", newline="\n") as file:
        try:
            _lock(file)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"A study is running already, as process {file.read().strip()}: wait for it, or stop it with Ctrl-C."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


try:
    import fcntl

    def _lock(file: TextIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows, where nobody could read the bytes that are locked: so one far behind them
    import msvcrt

    def _lock(file: TextIO) -> None:
        file.seek(2**30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
