"""Keep records when the training code changed but still trains the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from course_tools.chapters import UserError, chapter_path, choose_chapters, read_notebook, records_of
from course_tools.fingerprints import recipe_fingerprint, training_fingerprint
from course_tools.runs import GOLDEN_ENVIRONMENT, execute
from course_utils.race import RECIPES

# a recipe's network and options, for two epochs at most, on a few small drawn shapes
SHORT_RACE = """
import sys
from dataclasses import replace
from course_utils import ImageData, make_shapes, race
recipe = race.RECIPES[sys.argv[1]]
channels = 1 if recipe.data == "mnist" else 3
def few(name, size, *_):
    for count in (512, 64):
        shapes = make_shapes(count, size, seed=count)
        yield ImageData(shapes.images[:, :channels], shapes.labels, shapes.classes, "shapes")
race.load_data = few
sizes = tuple(min(size, 48) for size in recipe.image_sizes[:2])
race.race(replace(recipe, data="shapes", image_sizes=sizes))
"""


@dataclass
class Source:
    """Where records come from: a chapter, or a recipe of the race."""

    name: str
    folder: str  # below results/
    pattern: str
    code: Callable[[Path], str]  # of a checkout: the fingerprint
    run: Callable[[Path, Path], str]  # a checkout and a folder for the small run's records: an error, or nothing


def confirm(root: Path, words: list[str] | None = None) -> int:
    """Compare the code that made stale records with the code as it is, and take over those that are the same.

    Both versions of a chapter are run at the smoke scale (and, without words, of each recipe of the race, for two
    epochs at most, on some drawn shapes). A run whose every figure is equal, to the last digit, keeps its records: they
    count as made by the present code, and each notes the commit. What has other figures stays stale. Runs that only
    one of the versions has change nothing for the others; a record whose run has another name at the smoke scale
    needs all of them equal. Nothing is run where the code that decides is the same
    and only the rule has changed by which a fingerprint is taken.

    Raises:
        UserError: the code is not committed, so no later check could find it again.
    """
    if changed := _git(root, "status", "--porcelain", "course_utils", "notebooks"):
        raise UserError(f"Commit the code first, since records name the commit that was compared:\n{changed}")
    sources = [_chapter(chapter) for chapter in choose_chapters(root, words)]
    sources += [] if words else [_recipe(name) for name in RECIPES]
    return max([_confirm(root, source) for source in tqdm(sources, leave=False)], default=0)


def _confirm(root: Path, source: Source) -> int:
    """Do it for one source; 1 if records stay stale."""
    now, figures, status = source.code(root), None, 0
    records = records_of(root / "results", source.folder, source.pattern)
    stale = {name: record for name, record in records.items() if record["code"] != now}
    for code in sorted({record["code"] for record in stale.values()}):
        names = [name for name, record in stale.items() if record["code"] == code]
        commits = sorted({stale[name].get("confirmed", [stale[name]])[-1]["commit"] for name in names})
        try:
            with _made_by(root, source, commits, code) as then:
                if source.code(then) == now:
                    differences = dict.fromkeys(names, "")
                else:
                    before = _figures(then, source)
                    figures = figures or _figures(root, source)
                    differences = {name: _difference(before, figures, name) for name in names}
        except UserError as error:
            differences = dict.fromkeys(names, str(error))
        for why in sorted(set(differences.values()) - {""}):
            tqdm.write(f"{source.name}: {list(differences.values()).count(why)} records stay stale: {why}")
            status = 1
        same = [name for name, why in differences.items() if not why]
        confirmed = {"commit": _git(root, "rev-parse", "HEAD"), "code_before": code}
        for name in same:
            path = root / "results" / source.folder / f"{name}.json"
            record = stale[name] | {"code": now, "confirmed": [*stale[name].get("confirmed", []), confirmed]}
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
        if same:
            tqdm.write(f"{source.name}: {len(same)} records confirmed")
    return status


def _chapter(name: str) -> Source:
    def code(root: Path) -> str:
        path = chapter_path(root, name)
        return training_fingerprint(read_notebook(path), _package(root)) if path.is_file() else ""

    def run(root: Path, folder: Path) -> str:
        with tempfile.TemporaryDirectory() as empty:
            env = GOLDEN_ENVIRONMENT | {"COURSE_CHECKPOINTS": f"{empty}/checkpoints", "COURSE_DATA": f"{empty}/data"}
            return execute(root, name, "smoke", 0, Path(empty, "run.ipynb"), folder, **env).error

    return Source(name, name, "*.json", code, run)


def _recipe(name: str) -> Source:
    def code(root: Path) -> str:
        return recipe_fingerprint(name, _package(root))

    def run(root: Path, folder: Path) -> str:
        with tempfile.TemporaryDirectory() as empty:
            # not in the golden environment: without the processor's bfloat16, Muon takes minutes
            env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
            env |= {"COURSE_CHECKPOINTS": empty, "COURSE_RESULTS": str(folder)}
            command = [sys.executable, "-c", SHORT_RACE, name]
            done = subprocess.run(
                command, cwd=root, env=env | {"PYTHONPATH": str(root)}, capture_output=True, text=True
            )
            return done.stderr if done.returncode else ""

    return Source(f"race {name}", "race", f"*-{name}-seed*.json", code, run)


def _package(root: Path) -> Path | None:
    """The checkout's own course_utils; None, so the installed one, where it has none."""
    return root / "course_utils" if (root / "course_utils").is_dir() else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _made_by(root: Path, source: Source, commits: list[str], code: str) -> Iterator[Path]:
    """A checkout of the first of the commits that holds the code that made records.

    A chapter may have been trained before its notebook was committed: so the commits of that notebook count, too.
    """
    later = _git(root, "rev-list", "--reverse", f"{commits[0]}..HEAD", "--", f"notebooks/{source.name}.ipynb")
    for commit in dict.fromkeys([*commits, *later.split()]):
        with tempfile.TemporaryDirectory() as folder:
            then = Path(folder) / "then"
            _git(root, "worktree", "add", "--detach", str(then), commit)
            try:
                if code == source.code(then) or code == _code_by_its_rule(then, source):
                    yield then
                    return
            finally:
                _git(root, "worktree", "remove", "--force", str(then))
    raise UserError(f"no commit of {', '.join(commit[:7] for commit in commits)} holds the code that made them")


def _code_by_its_rule(then: Path, source: Source) -> str:
    """The fingerprint as a checkout's own course_tools take it."""
    make = "_recipe" if source.folder == "race" else "_chapter"
    name = source.name.removeprefix("race ")
    program = f"from course_tools import confirm; print(confirm.{make}({name!r}).code(confirm.Path.cwd()))"
    env = os.environ | {"PYTHONPATH": str(then)}
    done = subprocess.run([sys.executable, "-c", program], cwd=then, env=env, capture_output=True, text=True)
    return done.stdout.strip()


def _figures(root: Path, source: Source) -> dict[str, list]:
    """The figures of a small run, seconds left out, by the name of the run: one list for each seed."""
    with tempfile.TemporaryDirectory() as folder:
        if error := source.run(root, Path(folder)):
            raise UserError(f"the code of {root} could not be run: {error}")
        records = records_of(Path(folder), source.folder)
    found = {}
    for name, record in records.items():
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in record["history"]]
        figures = [name.rpartition("-seed")[2], record["parameters"], record["macs"], record["data"], history]
        found.setdefault(_run(name), []).append(figures)
    return found


def _run(name: str) -> str:
    """The run of a record's name, which is scale-run-seedN."""
    return name.partition("-")[2].rpartition("-seed")[0]


def _difference(before: dict[str, list], now: dict[str, list], name: str) -> str:
    """What differs between two small runs for a record of this name; empty if nothing does."""
    runs = before.keys() | now.keys()
    runs = {_run(name)} & runs or runs  # a run that is named by a setting has another name at the smoke scale
    for run in sorted(runs):
        if run not in before or run not in now:
            return f"the run {run} is in one of them only"
        if before[run] != now[run]:
            return f"{run} has other figures"
    return "" if runs else "nothing was recorded"
