"""Keep what is stored when code has changed and still gives the same, to the last digit."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nbformat import NotebookNode
from tqdm import tqdm

from course_tools.chapters import UserError, chapter_path, choose_chapters, read_notebook, records_of, write_notebook
from course_tools.compare import outputs_difference
from course_tools.fingerprints import Code, changed, executed, page_code, recipe_code, training_code
from course_tools.rename import rename_outputs
from course_tools.studies import Run, read_study, studies_called, study_code, study_names
from course_tools.thin import Trial, run_chapter, run_recipe, run_study
from course_utils.race import RECIPES
from course_utils.settings import named_folder


@dataclass
class Source:
    """Where records come from: a chapter, a run of a study, or a recipe of the race."""

    name: str
    folder: str  # below results/
    pattern: str
    code: Callable[[Path], Code]  # of a checkout
    run: Callable[[Path, Path, str], Trial]  # a checkout, the real data, a precision
    notebook: str = ""


class Change:
    """What differs between two versions of code, and which part of it a small run has executed."""

    def __init__(self, before: Code, now: Code, ran: set[str], by_hand: set[str]):
        names = {name for name in changed(before.definitions, now) if name in now.definitions}
        done = executed(names, ran)
        self.executed, self.by_hand = sorted(done), sorted((names - done) & by_hand)
        left = ", ".join(sorted(names - done - by_hand))
        self.not_run = f"changed and not executed here: {left}. --by-hand names what tests answer for" if left else ""

    def entry(self, root: Path, commit: str) -> dict:
        """What is stored with whatever was confirmed."""
        head = _git(root, "rev-parse", "HEAD")
        return {"commit": head, "commit_before": commit, "executed": self.executed, "by_hand": self.by_hand}


def confirm(root: Path, words: list[str] | None = None, by_hand: list[str] | None = None) -> int:
    """Compare the code that made stale records and pages with the code as it is, and take over what is the same.

    Both versions run at the records' own settings on a part of the real data, and every function that is executed is
    noted. A record stays stale if its settings or any figure of its run differ, or if a definition that has changed
    was not executed: nobody knows then what it does. `by_hand` names definitions that somebody answers for, such as
    one that tests cover and no healthy run comes to; the record says so. A page stays stale if any output differs.

    Raises:
        UserError: the code is not committed, so no later check could find it again; or there are no real data.
    """
    if uncommitted := _git(root, "status", "--porcelain", "course_utils", "notebooks"):
        raise UserError(f"Commit the code first, since records name the commit that was compared:\n{uncommitted}")
    sources = list(_sources(root, words or []))
    return max([_confirm(root, source, set(by_hand or ())) for source in tqdm(sources, leave=False)], default=0)


def _sources(root: Path, words: list[str]) -> Iterator[Source]:
    """The chapters and studies that words call, or everything that has records."""
    studies = {word: studies_called(root, word) for word in words}
    chapters = [word for word, called in studies.items() if not called]
    if chapters or not words:
        yield from map(_chapter, choose_chapters(root, chapters))
    for name in sorted({*itertools.chain(*studies.values())}) if words else study_names(root):
        runs = {run.name: run for run in reversed(read_study(root, name).runs)}  # the first seed of each
        yield from (_study(name, run) for run in runs.values())
    if not words:
        yield from (_recipe(name) for name in RECIPES if name != "smoke")


def _confirm(root: Path, source: Source, by_hand: set[str]) -> int:
    """Do it for one source; 1 if something stays stale."""
    now, trials, status = source.code(root), {}, 0
    data = named_folder("COURSE_DATA", root / "data").resolve()

    def run_both(then: Path, precision: str) -> tuple[Trial, Trial]:
        with ThreadPoolExecutor(1) as pool:
            before = pool.submit(source.run, then, data, precision)
            if precision not in trials:
                trials[precision] = source.run(root, data, precision)
            return before.result(), trials[precision]

    records = records_of(root / "results", source.folder, source.pattern)
    stale = {name: record for name, record in records.items() if record["code"] != now.fingerprint}
    page, published = _stale_page(root, source)
    groups: dict[tuple[str, str], list[str]] = {}
    for name, record in stale.items():
        groups.setdefault((_origin(record)[0], record["precision"]), []).append(name)
    for (code, precision), names in sorted(groups.items()):
        commits = sorted({_origin(stale[name])[1] for name in names})
        try:
            with _made_by(root, source, [*published, *commits], code) as (then, commit):
                before, after = run_both(then, precision)
                again = partial(source.run, root, data, precision)
                change = Change(source.code(then), now, after.ran, by_hand)
                problems = {name: _difference(before, after, stale[name]) or change.not_run for name in names}
                if page is not None and _page_is_of(page, commit, published, then, source):
                    status |= _confirm_page(root, source, page, (then, commit), (before, after), again, by_hand)
                    page = None
        except UserError as error:
            problems = dict.fromkeys(names, str(error))
        for why in sorted(set(problems.values()) - {""}):
            tqdm.write(f"{source.name}: {list(problems.values()).count(why)} records stay stale: {why}")
            status = 1
        for name in [name for name, why in problems.items() if not why]:
            record = stale[name] | {"code": now.fingerprint, "definitions": now.definitions}
            record["confirmed"] = [*stale[name].get("confirmed", []), change.entry(root, commit)]
            path = root / "results" / source.folder / f"{name}.json"
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
        if same := list(problems.values()).count(""):
            told = ", ".join(change.executed) or "nothing"
            tqdm.write(f"{source.name}: {same} records confirmed; executed of what has changed: {told}")
    if page is not None:
        precision = next((record["precision"] for record in records.values()), "float32")
        again = partial(source.run, root, data, precision)
        for commit in published:
            with _checkout(root, commit) as then:
                if _page_is_of(page, commit, published, then, source):
                    return status | _confirm_page(
                        root, source, page, (then, commit), run_both(then, precision), again, by_hand
                    )
        tqdm.write(f"{source.name}: its page stays stale: no commit holds the code that made it")
        return 1
    return status


def _origin(record: dict) -> tuple[str, str]:
    """The code that a record is sure to be of, as its fingerprint, and a commit at which that was.

    Older confirmations looked at drawn shapes only, and do not say what they executed: they do not count.
    """
    confirmed = record.get("confirmed", [])
    if confirmed and "executed" in confirmed[-1]:
        return record["code"], confirmed[-1]["commit"]
    return (confirmed[0]["code_before"] if confirmed else record["code"]), record["commit"]


def _stale_page(root: Path, source: Source) -> tuple[NotebookNode | None, list[str]]:
    """The notebook of a source if its page is stale, and the commits that may hold the code that made it."""
    if not source.notebook:
        return None, []
    page = read_notebook(root / source.notebook)
    course = page.metadata.get("course")
    if not course or course["code"] == page_code(page).fingerprint:
        return None, []
    if "commit" in course:
        later = _git(root, "rev-list", "--reverse", f"{course['commit']}..HEAD", "--", source.notebook).split()
        return page, [course["commit"], *later]
    return page, _git(root, "log", "--format=%H", f"-S{course['code']}", "--", source.notebook).split()[-1:]


def _page_is_of(page: NotebookNode, commit: str, published: list[str], then: Path, source: Source) -> bool:
    """Whether a checkout holds the code that made a page; of pages that do not say which definitions, by history."""
    course = page.metadata["course"]
    if "definitions" not in course:
        return commit in published
    return page_code(read_notebook(then / source.notebook), _package(then)).fingerprint == course["code"]


def _confirm_page(
    root: Path,
    source: Source,
    page: NotebookNode,
    made: tuple[Path, str],
    trials: tuple[Trial, Trial],
    again: Callable[[], Trial],
    by_hand: set[str],
) -> int:
    """Note in a notebook that its outputs are also those of the code as it is; 1 if they are not."""
    (then, commit), now = made, page_code(page)
    change = Change(page_code(read_notebook(then / source.notebook), _package(then)), now, trials[1].ran, by_hand)
    if why := _page_difference(*trials, again) or change.not_run:
        tqdm.write(f"{source.name}: its page stays stale: {why}")
        return 1
    course = page.metadata["course"]
    course |= {"code": now.fingerprint, "definitions": now.definitions, "commit": _git(root, "rev-parse", "HEAD")}
    course["confirmed"] = [*course.get("confirmed", []), change.entry(root, commit)]
    write_notebook(page, root / source.notebook)
    tqdm.write(f"{source.name}: its page confirmed")
    return 0


def _page_difference(before: Trial, now: Trial, again: Callable[[], Trial]) -> str:
    """What differs between the outputs of two small runs, in one line; empty if nothing does, times apart.

    A picture that the same code draws otherwise a second time shows measured times, and is not compared.
    """
    differ = {}
    for name, outputs in now.outputs.items():
        if why := outputs_difference(rename_outputs(before.outputs.get(name, [])), outputs, exactly=True):
            differ[name] = why
    if differ and all(why.endswith("another picture") for why in differ.values()):
        second = again().outputs
        measured = {name for name in differ if outputs_difference(now.outputs[name], second[name], exactly=True)}
        differ = {name: why for name, why in differ.items() if name not in measured}
    return "; ".join(f"cell {name} shows something else: {why}" for name, why in differ.items())


def _difference(before: Trial, now: Trial, record: dict) -> str:
    """What differs between two small runs of a record's run, or in their settings; empty if nothing does."""
    figures = [_figures(trial, record["run"]) for trial in (before, now)]
    if not (figures[0] and figures[1]):
        errors = "; ".join(dict.fromkeys(before.errors[:1] + now.errors[:1]))
        return f"the run {record['run']} was not made again{f' ({errors})' if errors else ''}"
    if figures[0] != figures[1]:
        return f"{record['run']} has other figures"
    settings = next(made["settings"] for made in now.records if made["run"] == record["run"])
    other = [name for name in settings | record["settings"] if settings.get(name) != record["settings"].get(name)]
    return f"{record['run']} has other settings: {', '.join(other)}" if other else ""


def _figures(trial: Trial, run: str) -> dict[int, list]:
    """What a small run gave, by seed; seconds left out."""
    found = {}
    for record in trial.records:
        if record["run"] == run:
            history = [{key: value for key, value in row.items() if key != "seconds"} for row in record["history"]]
            data = {key: value for key, value in record["data"].items() if key != "digest"}
            found[record["seed"]] = [record["parameters"], record["macs"], data, record["settings"], history]
    return found


def _chapter(name: str) -> Source:
    def code(root: Path) -> Code:
        path = chapter_path(root, name)
        return training_code(read_notebook(path), _package(root)) if path.is_file() else Code({})

    def run(root: Path, data: Path, precision: str) -> Trial:
        return run_chapter(root, name, data, precision)

    return Source(name, name, "*.json", code, run, f"notebooks/{name}.ipynb")


def _recipe(name: str) -> Source:
    def code(root: Path) -> Code:
        return recipe_code(name, _package(root))

    def run(root: Path, data: Path, precision: str) -> Trial:
        return run_recipe(root, name, data, precision)

    return Source(f"race {name}", "race", f"*-{name}-seed*.json", code, run)


def _study(name: str, run: Run) -> Source:
    def code(root: Path) -> Code:
        path = root / f"notebooks/{name}.py"
        return study_code(path, run.levels, _package(root)) if path.is_file() else Code({})

    def train(root: Path, data: Path, precision: str) -> Trial:
        return run_study(root, name, run.levels, run.seed, data, precision)

    return Source(f"{name} {run.name}", f"studies/{name}", f"page-{run.name}-seed*.json", code, train)


def _package(root: Path) -> Path | None:
    """The checkout's own course_utils; None, so the installed one, where it has none."""
    return root / "course_utils" if (root / "course_utils").is_dir() else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _made_by(root: Path, source: Source, commits: list[str], code: str) -> Iterator[tuple[Path, str]]:
    """A checkout of the first of some commits that holds the code that made records, and that commit.

    A chapter may have been trained before its notebook was committed: so the later commits of that notebook count, too.
    """
    later = ""
    if source.notebook:
        later = _git(root, "rev-list", "--reverse", f"{commits[-1]}..HEAD", "--", source.notebook)
    for commit in dict.fromkeys([*commits, *later.split()]):
        with _checkout(root, commit) as then:
            if code in (source.code(then).fingerprint, _code_by_its_rule(then, source)):
                yield then, commit
                return
    raise UserError(f"no commit of {', '.join(commit[:7] for commit in commits)} holds the code that made them")


@contextmanager
def _checkout(root: Path, commit: str) -> Iterator[Path]:
    """A checkout of a commit, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        then = Path(folder) / "then"
        _git(root, "worktree", "add", "--detach", str(then), commit)
        try:
            yield then
        finally:
            _git(root, "worktree", "remove", "--force", str(then))


RULE = """
from pathlib import Path
from course_tools import fingerprints
from course_tools.chapters import chapter_path, read_notebook
name = {name!r}
if name.startswith("race "):
    print(fingerprints.recipe_fingerprint(name[5:]))
else:
    print(fingerprints.training_fingerprint(read_notebook(chapter_path(Path.cwd(), name))))
"""


def _code_by_its_rule(then: Path, source: Source) -> str | None:
    """The fingerprint as an older checkout's own course_tools take it; None where they cannot."""
    env, command = os.environ | {"PYTHONPATH": str(then)}, [sys.executable, "-c", RULE.format(name=source.name)]
    return subprocess.run(command, cwd=then, env=env, capture_output=True, text=True).stdout.strip() or None
