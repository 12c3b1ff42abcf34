"""Grade submitted notebooks: a table of marks, a page of feedback for each student, a summary for the instructor.

otter-grader runs the tests and counts the points. The student's code runs elsewhere, behind a fence (`fence`), and
the tests ask it through probes: so no submission sees a test, a solution or another submission.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from tqdm import tqdm

from course_tools import fence
from course_tools.assignments import edition_of
from course_tools.chapters import UserError

LARGEST, MOST_CODE = 150 * 2**20, 2**20  # bytes of a file, and of the code in it
ALIKE = 0.85


@dataclass
class Part:
    """One check of an exercise: points, what was reached, what is said of it."""

    name: str
    points: float
    reached: float
    hidden: bool
    said: str


@dataclass
class Result:
    """What became of one submission."""

    student: str
    file: str
    assignment: str
    reason: str = ""  # why something could not be graded
    notes: list[str] = field(default_factory=list)  # cells that failed
    exercises: dict[str, list[Part]] = field(default_factory=dict)

    def reached(self, exercise: str | None = None) -> float:
        """The points of an exercise, or of all."""
        chosen = self.exercises if exercise is None else {exercise: self.exercises.get(exercise, [])}
        return sum(part.reached for parts in chosen.values() for part in parts)


def read_submission(path: Path) -> tuple[list[str], dict]:
    """The code cells of a notebook, or of the one notebook in a zip file, and its metadata.

    Raises:
        ValueError: it is none; the message is for the student.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"the file has {path.stat().st_size / 2**20:.0f} MiB; more than {LARGEST >> 20} are not read")
    data = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [part for part in archive.infolist() if part.filename.endswith(".ipynb")]
            inside = [part for part in inside if not Path(part.filename).name.startswith("._")]
            if len(inside) != 1:
                raise ValueError(f"the zip file should hold one notebook, and holds {len(inside)}")
            with archive.open(inside[0]) as file:
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"the notebook in the zip file has more than {LARGEST >> 20} MiB")
    try:
        notebook = json.loads(data)
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        code = [_source(cell) for cell in cells if cell.get("cell_type") == "code"]
        metadata = notebook.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError("it is no notebook: download it again with File, Download .ipynb, and open it once") from error
    if sum(map(len, code)) > MOST_CODE:
        raise ValueError(f"its code has more than {MOST_CODE >> 10} KiB: was data pasted into a cell?")
    return code, metadata


def _source(cell: dict) -> str:
    source = cell.get("source", cell.get("input", ""))
    return source if isinstance(source, str) else "".join(map(str, source))


def find_assignment(cells: list[str], metadata: dict, known: dict[str, dict]) -> str | None:
    """Which assignment a submission is of: by its metadata, else by the checks that it calls."""
    course = metadata.get("course")
    if isinstance(course, dict) and course.get("assignment") in known:
        return course["assignment"]
    called = set(re.findall(r"check\(['\"](\w+)['\"]\)", "\n".join(cells)))
    counts = {name: len(called & {part["name"] for part in about["exercises"]}) for name, about in known.items()}
    best = max(counts, key=counts.get, default=None)
    return best if best and counts[best] else None


def load_autograders(folder: Path) -> dict[str, dict]:
    """What is known of each assignment of an edition, by its name."""
    found = {}
    for path in sorted(folder.rglob("about.yml")):
        about = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[about["assignment"]] = about | {"folder": str(path.parent)}
    return found


@cache
def _tests_text(folder: str) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in Path(folder).glob("*.py"))


@cache
def _references(folder: str) -> dict[str, dict[str, Any]]:
    """What the solutions of an assignment define, by exercise."""
    about = yaml.safe_load(Path(folder, "about.yml").read_text(encoding="utf-8"))
    found = {}
    for part in about["exercises"]:
        names: dict[str, Any] = {"__name__": "notebook"}
        exec(compile(about["setup"] + part["given"] + part["solution"], f"<{part['name']}>", "exec"), names)
        found[part["name"]] = names
    return found


def grade_one(student: str, path: str, known: dict[str, dict], assignment: str | None, fenced: bool) -> Result:
    """Grade one submission; whatever it does, the result says what happened."""
    import torch

    torch.set_num_threads(1)
    try:
        cells, metadata = read_submission(Path(path))
    except (ValueError, OSError) as error:
        return Result(student, path, assignment or "", f"not graded: {error}")
    name = assignment or find_assignment(cells, metadata, known)
    if name is None:
        return Result(
            student, path, "", "not graded: it is of none of the assignments; was the check of an exercise kept?"
        )
    about = known[name]
    result = Result(student, path, name)
    course = metadata.get("course")
    if isinstance(course, dict) and course.get("edition") not in (None, about["edition"]):
        result.notes.append(f"it is a copy of edition {course['edition']}, and was graded as {about['edition']}")
    worker = None
    try:
        worker = fence.Worker(
            about["setup"], cells, fenced, warm="optim" in "".join(cells) + _tests_text(about["folder"])
        )
        result.notes += [f"code cell {number + 1}: {why}" for number, why in sorted(worker.failed.items())]
        ask = worker.ask
    except (fence.Broken, OSError) as error:
        result.reason = f"its cells could not be run: {error}"
        ask = _nobody
    try:
        for number, part in enumerate(about["exercises"], 1):
            tests = Path(about["folder"], f"{number}_{part['name']}.py")
            if worker is not None:
                worker.given = {name: value for name, value in part["values"].items() if not name.startswith("_")}
            result.exercises[part["name"]] = _run_tests(tests, ask, part, _references(about["folder"])[part["name"]])
    finally:
        if worker is not None:
            worker.stop()
    return result


def _nobody(*_: Any, **__: Any) -> None:
    from course_exercises import Wrong

    raise Wrong("its cells could not be run")


def _run_tests(tests: Path, ask: Any, about: dict, reference: dict) -> list[Part]:
    """Run an exercise's tests with otter-grader, partial credit for each."""
    from otter.test_files import ExceptionTestFile

    file = ExceptionTestFile.from_file(str(tests))
    file.run({"ask": ask, "values": SimpleNamespace(**about["values"]), "reference": reference})
    found = []
    for outcome in file.test_case_results:
        case = outcome.test_case
        said = "" if outcome.passed else _told(outcome.message)
        found.append(Part(case.name, case.points, case.points if outcome.passed else 0, case.hidden, said))
    return found


def _told(message: str) -> str:
    """What a check has said, out of otter's report of its exception."""
    kind, _, text = message.rpartition("\nNotAttempted: ")
    if kind:
        return f"not attempted: {text}"
    return (
        message.rpartition("\nWrong: ")[2] if "\nWrong: " in message else f"the check itself failed: {message[-300:]}"
    )


def grade(
    root: Path, submissions: Path, variant: str | None = None, assignment: str | None = None, jobs: int = 2
) -> int:
    """Grade a folder of notebooks as students upload them; what was graded before is not graded again.

    Args:
        root: the project.
        submissions: .ipynb and .zip files, at any depth; a student is called as the file is.
        variant: the secret seed of the edition; None for practice.
        assignment: of all files; None finds it for each.
        jobs: submissions at a time.

    Writes grades.csv, feedback/, and summary.html. Returns 0.

    Raises:
        UserError: there are no submissions, or the edition was not built.
    """
    edition = edition_of(variant)
    known = load_autograders(root / "build/assignments" / edition / "autograder")
    if not known:
        raise UserError(f"There are no tests of this edition yet: make assignments{' VARIANT=...' if variant else ''}")
    if assignment is not None:
        fits = [name for name in known if assignment in (name, name.split("/")[1], name.split("/")[1][3:])]
        if len(fits) != 1:
            raise UserError(f"{assignment!r} is not an assignment of this edition. Valid: {', '.join(known)}.")
        assignment = fits[0]
    files = sorted(path for path in submissions.rglob("*") if path.suffix in (".ipynb", ".zip") and path.is_file())
    files = [path for path in files if ".ipynb_checkpoints" not in path.parts and not path.name.startswith("._")]
    if not files:
        raise UserError(f"There is no .ipynb and no .zip in {submissions}.")
    students = {path.relative_to(submissions).with_suffix("").as_posix(): path for path in files}
    if len(students) < len(files):
        students = {path.relative_to(submissions).as_posix(): path for path in files}
    fenced = fence.fenced()
    if not fenced:
        print(
            "bubblewrap is not there, so submissions run with limits on time and memory only: they could read this "
            "machine's files and use its network. Install it (Debian: apt install bubblewrap), or use a machine that "
            "holds nothing else."
        )
    out = root / "build/grades" / edition
    results = _grade_all(out, students, known, assignment, fenced, jobs)
    _write_csv(out / "grades.csv", results, known)
    for result in results:
        page = out / "feedback" / f"{result.student}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(feedback(result, known), encoding="utf-8", newline="\n")
    alike = near_copies(students, results, known)
    (out / "summary.html").write_text(summary(results, known, alike), encoding="utf-8", newline="\n")
    print(f"{len(results)} submissions: {out / 'grades.csv'}, feedback/ beside it, and summary.html")
    return 0


def _grade_all(
    out: Path, students: dict[str, Path], known: dict, assignment: str | None, fenced: bool, jobs: int
) -> list[Result]:
    """Grade what is new or has changed, each in a file of its own as soon as it is done."""
    tests = hashlib.sha256()
    for about in known.values():
        for path in sorted(Path(about["folder"]).iterdir()):
            tests.update(path.read_bytes())
    done, todo = {}, []
    for student, path in students.items():
        key = hashlib.sha256(tests.digest() + path.read_bytes() + repr(assignment).encode()).hexdigest()
        place = out / "results" / f"{student}.json"
        try:
            stored = json.loads(place.read_text(encoding="utf-8"))
            if stored.pop("key") == key:
                done[student] = _from_json(stored)
                continue
        except (OSError, ValueError, KeyError):
            pass
        todo.append((student, path, key, place))
    if done:
        print(f"{len(done)} submissions were graded before, with the same tests.")
    with ProcessPoolExecutor(max(1, jobs), mp_context=get_context("spawn")) as pool:
        waiting = [
            (pool.submit(grade_one, student, str(path), known, assignment, fenced), student, key, place)
            for student, path, key, place in todo
        ]
        for future, student, key, place in tqdm(waiting, desc="Grading", disable=None, file=sys.stdout):
            try:
                result = future.result()
            except Exception as error:  # a fault of the grader must not cost the others their marks
                result = Result(student, str(students[student]), assignment or "", f"the grader failed: {error!r}")
            done[student] = result
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{place.name}.part")
            part.write_text(json.dumps({"key": key} | asdict(result), indent=1), encoding="utf-8", newline="\n")
            part.replace(place)
    return [done[student] for student in sorted(done)]


def _from_json(stored: dict) -> Result:
    parts = {name: [Part(**part) for part in listed] for name, listed in stored["exercises"].items()}
    return Result(**stored | {"exercises": parts})


def _write_csv(path: Path, results: list[Result], known: dict) -> None:
    """One line a submission: points by exercise, in all, and what went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = max((len(about["exercises"]) for about in known.values()), default=0)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = [f"exercise {number}" for number in range(1, width + 1)]
        writer.writerow(["student", "assignment", "points", "possible", *columns, "remark"])
        for result in results:
            about = known.get(result.assignment, {"exercises": []})
            possible = sum(part["points"] for part in about["exercises"])
            each = [f"{result.reached(part['name']):g}" for part in about["exercises"]]
            each += [""] * (width - len(each))
            remark = "; ".join(filter(None, [result.reason, *result.notes]))[:500]
            writer.writerow(
                [_cell(result.student), result.assignment, f"{result.reached():g}", possible, *each, _cell(remark)]
            )


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; vertical-align: top; border-bottom: 1px solid #8886; }}
td.n {{ text-align: right; white-space: nowrap; }}
</style></head><body><main>
{body}
</main></body></html>
"""


def feedback(result: Result, known: dict) -> str:
    """A student's page: points for each check, and what each that failed has said.

    Of hidden checks it says what they ask and what was wrong, not how they ask.
    """
    about = known.get(result.assignment)
    title = f"{about['title'] if about else 'Submission'}: {result.student}"
    body = [f"<h1>{html.escape(title)}</h1>"]
    if result.reason:
        body.append(f"<p><strong>{html.escape(result.reason)}</strong></p>")
    if about and result.exercises:
        possible = sum(part["points"] for part in about["exercises"])
        body.append(f"<p>{result.reached():g} of {possible} points.</p>")
        for part in about["exercises"]:
            parts = result.exercises.get(part["name"], [])
            heading = f"{part['title']}: {result.reached(part['name']):g} of {part['points']}"
            body.append(
                f"<h2>{html.escape(heading)}</h2><table><tr><th>check</th><th>points</th><th>what it found</th></tr>"
            )
            for each in parts:
                said = each.said or "passed"
                kind = " (hidden)" if each.hidden else ""
                body.append(
                    f"<tr><td>{html.escape(each.name.replace('_', ' '))}{kind}</td>"
                    f"<td class=n>{each.reached:g} of {each.points:g}</td><td>{html.escape(said)}</td></tr>"
                )
            body.append("</table>")
    if result.notes:
        lines = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
        body.append(f"<h2>While your cells ran</h2><ul>{lines}</ul>")
    return PAGE.format(title=html.escape(title), body="\n".join(body))


def near_copies(students: dict[str, Path], results: list[Result], known: dict) -> list[tuple[str, str, float]]:
    """Pairs of submissions of one assignment whose code is nearly the same beyond what their copy gives."""
    from copydetect import CodeFingerprint, compare_files

    found = []
    for name, about in known.items():
        given = about["setup"] + "".join(part["given"] + part["stub"] for part in about["exercises"])
        prints = {}
        for result in results:
            if result.assignment == name:
                cells = [
                    cell for cell in read_submission(students[result.student])[0] if "Checks(globals()" not in cell
                ]
                code = "\n".join(line for line in "\n".join(cells).splitlines() if line.strip() and line not in given)
                if len(code) > 200:
                    prints[result.student] = CodeFingerprint("a.py", 25, 1, fp=io.StringIO(code), language="python")
        listed = sorted(prints)
        for place, one in enumerate(listed):
            for other in listed[place + 1 :]:
                _, shares, _ = compare_files(prints[one], prints[other])
                if min(shares) >= ALIKE:
                    found.append((one, other, min(shares)))
    return sorted(found, key=lambda pair: -pair[2])


def summary(results: list[Result], known: dict, alike: list[tuple[str, str, float]]) -> str:
    """The instructor's page: which exercises went badly, which wrong answers are common, what looks alike."""
    body = ["<h1>Summary</h1>"]
    failed = [result for result in results if result.reason]
    body.append(f"<p>{len(results)} submissions, {len(failed)} of which could not be graded in full.</p>")
    if failed:
        rows = "".join(f"<tr><td>{html.escape(r.student)}</td><td>{html.escape(r.reason)}</td></tr>" for r in failed)
        body.append(f"<table><tr><th>student</th><th>why</th></tr>{rows}</table>")
    for name, about in known.items():
        of_it = [result for result in results if result.assignment == name and result.exercises]
        if not of_it:
            continue
        body.append(f"<h2>{html.escape(about['title'])}</h2><p>{len(of_it)} submissions.</p>")
        body.append(
            "<table><tr><th>exercise</th><th>mean</th><th>full</th><th>none</th><th>most common remarks</th></tr>"
        )
        for part in about["exercises"]:
            reached = [result.reached(part["name"]) for result in of_it]
            said: dict[str, int] = {}
            for result in of_it:
                for each in result.exercises.get(part["name"], []):
                    if each.said:
                        text = re.sub(r"\d[\d,.]*", "N", each.said)
                        said[text] = said.get(text, 0) + 1
            common = sorted(said.items(), key=lambda pair: (-pair[1], pair[0]))[:4]
            remarks = "<br>".join(f"{count} x {html.escape(text[:160])}" for text, count in common)
            mean = f"{sum(reached) / len(reached):.1f} of {part['points']}"
            full, none = sum(r == part["points"] for r in reached), sum(r == 0 for r in reached)
            body.append(
                f"<tr><td>{html.escape(part['title'])}</td><td class=n>{mean}</td><td class=n>{full}</td>"
                f"<td class=n>{none}</td><td>{remarks}</td></tr>"
            )
        body.append("</table>")
    body.append("<h2>Nearly the same code</h2>")
    rows = "".join(
        f"<tr><td>{html.escape(one)}</td><td>{html.escape(other)}</td><td class=n>{100 * share:.0f} %</td></tr>"
        for one, other, share in alike
    )
    body.append(
        f"<table><tr><th>one</th><th>other</th><th>in common</th></tr>{rows}</table><p>Short answers are alike by "
        "nature: look at both before you ask anybody.</p>" if rows else "<p>None.</p>"
    )  # fmt: skip
    return PAGE.format(title="Summary", body="\n".join(body))
