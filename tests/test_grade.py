"""Grading: what students upload is read, nobody's code harms anybody, and the same folder gives the same marks.

These tests need the packages of requirements-grading.txt: make grading-test.
"""

import csv
import io
import json
import re
import shutil
import time
import zipfile

import nbformat
import pytest
import torch
from helpers import ROOT

from course_exercises import probes, wire
from course_tools import assignments

pytest.importorskip("otter")
from course_tools import fence, grade  # noqa: E402

SEED = "a seed for the tests of grading"
NAME = "ladder/02_residual_block"
POINTS = 18
FENCED = pytest.mark.skipif(not fence.fenced(), reason="bubblewrap is not there")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one assignment, built as an edition of its own."""
    root = tmp_path_factory.mktemp("grading")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, root / name)
    (root / "assignments/ladder").mkdir(parents=True)
    shutil.copy(ROOT / f"assignments/{NAME}.py", root / f"assignments/{NAME}.py")
    assert assignments.assignments(root, None, SEED) == 0
    return root


@pytest.fixture(scope="module")
def assignment(project):
    return assignments.load(project, NAME, SEED)


@pytest.fixture
def solved(project, assignment):
    """solved(names, first): a student's notebook in which some exercises are solved, with cells of its own in front."""
    tasks = {task.name: task for task in assignment.tasks}

    def make(names=tuple(tasks), first=(), last=(), **wrong):
        copy = assignments.student_copy(project, assignment, assignments.edition_of(SEED))
        for cell in copy.cells:
            task = tasks.get(cell.metadata.get("exercise"))
            if task:
                answer = task.wrong[wrong[task.name]][0] if task.name in wrong else task.solution
                if task.name in names or task.name in wrong:
                    cell.source = cell.source.replace(task.stub.strip("\n"), answer.strip("\n"))
        copy.cells[2:2] = [nbformat.v4.new_code_cell(source) for source in first]
        copy.cells += [nbformat.v4.new_code_cell(source) for source in last]
        return json.loads(nbformat.writes(copy))

    return make


@pytest.fixture
def graded(project, tmp_path):
    """graded({file name: notebook or bytes}): the table of marks, by student."""

    def run(files, again=False):
        folder = tmp_path / "submissions"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        out = project / "build/grades" / assignments.edition_of(SEED)
        if not again:
            shutil.rmtree(out, ignore_errors=True)
        assert grade.grade(project, folder, SEED) == 0
        with open(out / "grades.csv", encoding="utf-8", newline="") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    return run


def archive(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(f"{name}.ipynb", content)
    return data.getvalue()


def test_marks_in_part_and_what_is_said(project, solved, graded):
    rows = graded(
        {
            "all.ipynb": solved(),
            "half.ipynb": solved(("residual_block",)),
            "none.ipynb": solved(()),
            "wrong.ipynb": solved(residual_block="bias", shortcut_by_hand="norms-forgotten"),
        }
    )
    assert [rows[name]["points"] for name in ("all", "half", "none")] == [str(POINTS), "7", "0"]
    assert 5 < float(rows["wrong"]["points"]) < POINTS and rows["all"]["remark"] == ""
    out = project / "build/grades" / assignments.edition_of(SEED)
    page = (out / "feedback/wrong.html").read_text(encoding="utf-8")
    assert "does a convolution before a norm need a bias?" in page and "reference" not in page and SEED not in page
    summary = (out / "summary.html").read_text(encoding="utf-8")
    assert "need a bias" in summary and "<td>half</td>" not in summary


def test_notebooks_as_students_upload_them(solved, graded):
    """Without ids and metadata, in another order, split, without outputs or checks, in a folder, zipped, renamed."""
    colab = solved()
    colab |= {"metadata": {"colab": {"provenance": []}}, "nbformat_minor": 0, "cells": colab["cells"][::-1]}
    for cell in colab["cells"]:
        cell.pop("id")
        cell["metadata"] = {"id": "x1"}
    split = solved()
    code = [
        cell for cell in split["cells"] if "branch_macs" in "".join(cell["source"]) and cell["cell_type"] == "code"
    ][-1]
    lines = "".join(code["source"]).splitlines(keepends=True)
    place = split["cells"].index(code)
    split["cells"][place : place + 1] = [code | {"source": lines[:4]}, code | {"source": lines[4:]}]
    deleted = solved()
    deleted["cells"] = [cell for cell in deleted["cells"] if "Checks(globals()" not in "".join(cell["source"])]
    del deleted["metadata"]["course"]
    old = {
        "nbformat": 3,
        "worksheets": [{"cells": [c | {"input": c["source"]} for c in solved()["cells"]]}],
        "metadata": {},
    }
    rows = graded(
        {
            "Kopie von 02 (3).ipynb": colab, "split.ipynb": split, "a class/deleted.ipynb": deleted, "old.ipynb": old,
            "zipped.zip": archive(mine=json.dumps(solved()), **{"._mine": "mac"}),
        }
    )  # fmt: skip
    assert {name: row["points"] for name, row in rows.items()} == dict.fromkeys(
        ["Kopie von 02 (3)", "split", "a class/deleted", "old", "zipped"], str(POINTS)
    )


def test_what_is_no_submission_says_why(graded, solved, monkeypatch, tmp_path):
    large = solved()
    large["cells"][4]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "z" * 2**26}]
    rows = graded(
        {
            "a.ipynb": b'{"cells": [', "b.zip": archive(bomb=b"0" * (grade.LARGEST + 1)),
            "c.zip": archive(one=b"", two=b""),
            "d.ipynb": b"[" * 10**5, "e.ipynb": json.dumps({"cells": [], "metadata": {}}).encode(), "f.ipynb": large,
        }
    )  # fmt: skip
    told = {name: row["remark"] for name, row in rows.items()}
    assert "it is no notebook" in told["a"] and "more than" in told["b"] and "holds 2" in told["c"]
    assert "it is no notebook" in told["d"] and "none of the assignments" in told["e"]
    assert rows["f"]["points"] == str(POINTS), "a notebook with much output is graded as any other"
    monkeypatch.setattr(grade, "LARGEST", 2**10)
    (tmp_path / "g.ipynb").write_bytes(b" " * 2**11)
    with pytest.raises(ValueError, match="more than"):
        grade.read_submission(tmp_path / "g.ipynb")
    (tmp_path / "h.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": "x" * 2**21}]}))
    monkeypatch.setattr(grade, "LARGEST", 2**30)
    with pytest.raises(ValueError, match="was data pasted into a cell"):
        grade.read_submission(tmp_path / "h.ipynb")


PIPE = """

for number in range(3, 30):
    try:
        os.write(number, bytes([255]) * 64)
    except OSError:
        pass
"""


@FENCED
def test_hostile_code_harms_nobody(graded, solved):
    """Each gets what could be graded, with a reason; the others get their marks."""
    bomb = "import os\ntry:\n    while True:\n        if os.fork() == 0:\n            import time; time.sleep(60)\n"
    files = {
        "a good one": {},
        "exit": {"first": ["import os; os._exit(0)"]},
        "forks": {"first": [bomb + "except OSError as error:\n    pass"]},
        "memory": {"first": ["x = ' ' * (20 * 2**30)"]},
        "home": {
            "first": ["import os, shutil\nshutil.rmtree(os.path.expanduser('~'), True); shutil.rmtree('/course', True)"]
        },
        "output": {
            "first": ["for number in range(200): print('x' * 10**6)", "open('large', 'wb').write(b'0' * 10**9)"]
        },
        "pipe": {"first": [PIPE]},
        "loop": {"last": ["def f():\n    try:\n        while True: pass\n    finally:\n        f()\nf()"]},
    }
    rows = graded({f"{name}.ipynb": solved(**cells) for name, cells in files.items()})
    assert {name: row["points"] for name, row in rows.items()} == dict.fromkeys(files, str(POINTS))
    assert "ended the whole notebook" in rows["exit"]["remark"] and "MemoryError" in rows["memory"]["remark"]
    assert "File too large" in rows["output"]["remark"] and "ended the whole notebook" in rows["pipe"]["remark"]
    assert re.search("stopped after|ended the whole|ran out|RecursionError", rows["loop"]["remark"])
    assert rows["a good one"]["remark"] == "" == rows["home"]["remark"]


@FENCED
def test_what_cheats_gets_nothing(graded, solved):
    """Patched comparisons, a grader that is overwritten, frames that are read: the checks run elsewhere."""
    patched = """
import inspect, sys, unittest, torch
import course_exercises, course_exercises.asking
torch.allclose = torch.equal = lambda *a, **k: True
torch.Tensor.__bool__ = lambda self: True
unittest.TestCase.assertEqual = lambda *a: None
course_exercises.need = course_exercises.asking.need = lambda *a: None
course_exercises.asking.Wrong = type("Wrong", (Exception,), {"__new__": lambda *a: Exception()})
"""
    frames = """
class Reader:
    def __getattr__(self, name):
        import inspect
        for frame in inspect.stack():
            for key, value in frame.frame.f_locals.items():
                if key in ("reference", "solution", "right"):
                    return value
        return 1
ResidualBlock = Block = lambda *a, **k: Reader()
fault = control = Reader()
"""
    rows = graded({"patched.ipynb": solved((), first=[patched]), "frames.ipynb": solved((), last=[frames])})
    assert [row["points"] for row in rows.values()] == ["0", "0"]


def opinion(names, x):
    import torch

    return [
        torch.allclose(x, x + 1),
        bool(x.sum() > 100),
        max(1, 2),
        float(x.abs().sum()),
        hasattr(torch.Tensor, "mine"),
    ]


REPLACED = """
import builtins, torch
torch.allclose = lambda *a, **k: True
torch.Tensor.__bool__ = lambda self: True
torch.Tensor.abs = lambda self: self * 1000
torch.Tensor.mine = 1
builtins.max = lambda *a: 77
"""


def test_what_a_submission_has_replaced_is_put_back():
    worker = fence.Worker("", [REPLACED, "ready = 1"], fence=False)
    try:
        ready, told = worker.ask(probes.value, "ready"), worker.ask(opinion, torch.zeros(2))
    finally:
        worker.stop()
    assert ready == 1, "the cells have run"
    assert told == [False, False, 2, 0.0, False]


LOOK = """
import glob, os, socket
seen = {"environment": sorted(os.environ), "root": sorted(os.listdir("/"))}
seen["project"] = os.path.exists(PROJECT)
seen["tests"] = [p for p in glob.glob("/course/**", recursive=True) if "assignments" in p or "harmless" in p]
seen["passwords"] = os.path.exists("/etc/shadow")
try:
    socket.create_connection(("1.1.1.1", 80), 3)
    seen["network"] = "open"
except OSError:
    seen["network"] = "closed"
try:
    open("/course/course_exercises/probes.py", "a")
    seen["write"] = "open"
except OSError:
    seen["write"] = "closed"
seen["processes"] = [name for name in os.listdir("/proc") if name.isdigit()]
"""


@FENCED
def test_what_a_submission_sees(monkeypatch):
    """Neither this machine's files, environment and network nor the tests: only Python and the course's packages."""
    monkeypatch.setenv("A_SECRET", "secret")
    worker = fence.Worker("", [f"PROJECT = {str(ROOT / 'assignments')!r}", LOOK])
    try:
        seen = worker.ask(probes.value, "seen")
    finally:
        worker.stop()
    assert "A_SECRET" not in seen["environment"] and not seen["project"] and not seen["tests"] and not seen["passwords"]
    assert (seen["network"], seen["write"]) == ("closed", "closed") and len(seen["processes"]) <= 3
    assert not {"home", "mnt", "media", "srv", "opt", "var"} & set(seen["root"])


def test_the_same_folder_gives_the_same_table_and_each_is_graded_once(project, graded, solved, monkeypatch):
    files = {"one.ipynb": solved(), "two.ipynb": solved(("find_the_fault",), first=["while True: pass"])}
    graded(files)
    out = project / "build/grades" / assignments.edition_of(SEED)
    table = (out / "grades.csv").read_bytes()
    stored = {path.name: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    graded(files, again=True)
    assert {path.name: path.stat().st_mtime_ns for path in (out / "results").iterdir()} == stored
    (out / "results/one.json").unlink()  # as if it had been killed before that one was done
    (out / "results/two.json.part").write_text("{")
    graded(files, again=True)
    assert (out / "grades.csv").read_bytes() == table
    shutil.rmtree(out)
    monkeypatch.setattr(grade, "ProcessPoolExecutor", lambda jobs, mp_context: real(1, mp_context=mp_context))
    graded(files)
    assert (out / "grades.csv").read_bytes() == table
    graded({"one.ipynb": solved(())}, again=True)
    assert (out / "grades.csv").read_bytes() != table, "a new upload is graded anew"


real = grade.ProcessPoolExecutor


def test_near_copies_are_shown(project, graded, solved):
    """Two with the same answers in other cells and names of files; a third that was solved in another way is not."""
    other = solved(())
    tasks = assignments.load(project, NAME, SEED).tasks
    for cell in other["cells"]:
        for task in tasks:
            if cell["metadata"].get("exercise") == task.name:
                cell["source"] = [*cell["source"], "\n", task.right[sorted(task.right)[0]]]
    graded({"ann.ipynb": solved(), "bob.ipynb": solved(last=["# mine"]), "cem.ipynb": other})
    page = (project / "build/grades" / assignments.edition_of(SEED) / "summary.html").read_text(encoding="utf-8")
    alike = page.partition("Nearly the same code")[2]
    assert "<td>ann</td><td>bob</td>" in alike and "cem" not in alike


def test_a_submission_takes_few_seconds(solved, tmp_path, project):
    (tmp_path / "a.ipynb").write_text(json.dumps(solved()))
    known = grade.load_autograders(project / "build/assignments" / assignments.edition_of(SEED) / "autograder")
    grade.grade_one("a", str(tmp_path / "a.ipynb"), known, None, fence.fenced())
    start = time.monotonic()
    result = grade.grade_one("a", str(tmp_path / "a.ipynb"), known, None, fence.fenced())
    assert result.reached() == POINTS and time.monotonic() - start < 15


def test_no_formula_gets_into_the_table():
    assert grade._cell("=HYPERLINK(1)") == "'=HYPERLINK(1)" and grade._cell("anna") == "anna"


def test_messages_are_read_without_trust():
    for data in (None, 1, 1.5, "a", [1, [2, {"b": None}]], {"$tensor": 1, "c": [True]}):
        assert wire.read(io.BytesIO(wire.encode(data))) == data
    with pytest.raises(wire.WireError, match="bytes"):
        wire.read(io.BytesIO(b"\xff" * 64))
    with pytest.raises(wire.WireError, match="no message"):
        wire.decode(b'{"$tensor": ["torch.float64", [1000000000], 8]}', b"12345678")
    with pytest.raises(EOFError):
        wire.read(io.BytesIO(b"\0\0\0\5"))
