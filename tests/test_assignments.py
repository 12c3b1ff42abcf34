"""Exercises: their checks pass what is right and refuse what is wrong, copies are current, and nothing leaks."""

import contextlib
import io
import random
import re
import shutil
import subprocess

import nbformat
import pytest
import torch
from helpers import ROOT

from course_exercises import Checks, NotAttempted, Wrong, asking, need, probes, reference
from course_exercises.authoring import fill, read_assignment
from course_exercises.trying import problems
from course_tools import assignments
from course_tools.__main__ import main
from course_tools.chapters import UserError

pytestmark = pytest.mark.sensitive
NAMES = assignments.assignment_names(ROOT)
SEED = "the seed number 0"
TOPICS = {"build", "compute", "read", "predict", "break", "design"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_right_ways_pass_and_wrong_answers_are_told_why(name):
    """Practice: solution, other right ways, the untouched stub, wrong answers with the message meant for each."""
    assert quietly(problems, assignments.load(ROOT, name)) == []


def test_each_chapter_has_its_exercises():
    """One assignment a chapter of the ladder and of depth, one for two of the survey; every kind; all that is asked."""
    chapters = [name.split("/")[0] for name in NAMES]
    assert (chapters.count("ladder"), chapters.count("depth"), chapters.count("survey")) == (5, 5, 4)
    kinds = set()
    for name in NAMES:
        tasks = assignments.load(ROOT, name).tasks
        kinds |= {task.of.kind for task in tasks}
        assert len(tasks) >= 3 and {task.of.kind for task in tasks} & {"predict", "break", "design"}, name
        for task in tasks:
            assert len(task.hints) >= 2 and 1 <= task.of.difficulty <= 5 and 1 <= task.of.importance <= 5, task.name
            assert 5 <= task.of.minutes <= 40 and task.points >= 2, task.name
    assert kinds == TOPICS
    assert all((ROOT / f"assignments/{part}/project.md").is_file() for part in ("ladder", "depth", "survey"))


def test_numbers_of_another_exercise_do_not_disturb(capsys):
    """A function that reads a number at its call would see that of a later exercise."""
    names = {"double": lambda: 2 * names["number"], "number": 7}
    check = Checks(names)
    check.add("task", [lambda ask, values: need(ask(probes.call, "double") == 4, "no")], number=2)
    check("task")
    assert "The check here passed." in capsys.readouterr().out


def test_what_is_stored_is_what_the_masters_give():
    assert assignments.stale_copies(ROOT) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_copy_runs_from_top_to_bottom(name):
    """Each check says what is still to do, and nothing raises."""
    copy = assignments.student_copy(ROOT, assignments.load(ROOT, name))
    names, said = {"__name__": "notebook"}, {}
    for cell in copy.cells:
        if cell.cell_type == "code":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(re.sub(r"(?m)^(\s*)%pip.*$", r"\1pass", cell.source), cell.id, "exec"), names)
            said[cell.id] = out.getvalue()
    told = [text for cell, text in said.items() if cell.endswith("-check")]
    assert told and all(text.startswith(("… not attempted yet", "✗")) for text in told), told


@pytest.mark.parametrize("seed", [None, SEED])
@pytest.mark.parametrize("name", NAMES)
def test_no_solution_leaks_into_a_student_copy(name, seed):
    assignment = assignments.load(ROOT, name, seed)
    copy = assignments.student_copy(ROOT, assignment, assignments.edition_of(seed))
    nbformat.validate(copy)
    text = "\n".join(cell.source for cell in copy.cells) + "\n" + str(copy.metadata)
    assert assignments.leaks(assignment, text) == []
    assert seed is None or seed not in nbformat.writes(copy)
    lines = assignment.tasks[0].solution.splitlines()
    leaked = [line for line in lines if assignments.leaks(assignment, f"{text}\n{line}")]
    assert leaked, "the test itself would find no leak"


def test_a_graded_variant_stays_out_of_the_repository(tmp_path):
    seed = "quite secret " + str(random.random())
    assert main(["assignments", "ladder/02", "--variant", seed]) == 0
    edition = assignments.edition_of(seed)
    folder = ROOT / "build/assignments" / edition
    try:
        assert main(["assignments", "ladder/03", "--variant", seed]) == 0  # later, for the next week
        made = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.stem for path in made if path.parent.name == "ladder" and "student" in path.parts} == {
            "02_residual_block", "03_stem"
        }  # fmt: skip
        assert {path.relative_to(folder).parts[0] for path in made} == {"student", "instructor", "autograder"}
        check = subprocess.run(["git", "check-ignore", *map(str, made)], cwd=ROOT, capture_output=True, text=True)
        assert len(check.stdout.split()) == len(made), "git would take some of it"
        handed_out = "".join(path.read_text(encoding="utf-8") for path in (folder / "student").rglob("*.*"))
        assert "Solution" not in handed_out and "_solutions" not in handed_out and seed not in handed_out
        listed = subprocess.run(["git", "grep", "-l", edition], cwd=ROOT, capture_output=True, text=True)
        assert listed.stdout == ""
    finally:
        shutil.rmtree(folder)


def test_a_short_seed_is_refused(capsys):
    assert main(["assignments", "--variant", "2026"]) == 2
    assert "needs 12 characters or more" in capsys.readouterr().err
    assert (
        assignments.edition_of("a" * 12) != assignments.edition_of("b" * 12)
        and assignments.edition_of(None) == "practice"
    )


def test_words_for_assignments():
    chosen = assignments.choose_assignments(ROOT, ["residual_block,ladder/03", "assignments/depth/04_what_it_sees.py"])
    assert chosen == ["ladder/02_residual_block", "ladder/03_stem", "depth/04_what_it_sees"]
    with pytest.raises(UserError, match="'resnet' is not an assignment. Valid: ladder/01_plain_cnn"):
        assignments.choose_assignments(ROOT, ["resnet"])


def test_what_is_missing_in_a_master_is_named(tmp_path):
    text = (ROOT / "assignments/ladder/02_residual_block.py").read_text(encoding="utf-8")
    for old, new, told in [
        ('goal = "write a', 'gaol = "write a', "ResidualBlock: it has no goal"),
        ("def stub():", "def stab():", "it has no stub"),
        ("<<width>>", "<<wide>>", "name 'wide' is not defined"),
        ('"self.branch[-1].weight"', '"self.branch[9].weight"', "stands 0 times in the solution"),
        ('return {"width": chance', 'return {"breadth": chance', "draw gives breadth"),
    ]:
        assert old in text, old
        path = tmp_path / f"{len(told)}_{old[:3].strip()}.py"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ValueError, match=re.escape(told)):
            read_assignment(path, "ladder/02_residual_block", SEED)
    with pytest.raises(ValueError, match="broken across two lines"):
        fill("a <<width\n+ 1>> b", {"width": 1})


def test_a_check_tells_how_far_one_is(capsys):
    names = {"double": ..., "given": 3}
    check = Checks(names, hidden={"task": 2})

    def doubles(ask, values):
        """Two is four."""
        need(ask(probes.call, "double", values.number) == 4, "double(2) should be twice as much")

    check.add("task", [doubles], number=2)
    check("task")
    assert capsys.readouterr().out.startswith("… not attempted yet: double.")
    names["double"] = lambda x: x
    check("task")
    assert capsys.readouterr().out.startswith("✗ Two is four\n  double(2) should be twice as much")
    names["double"] = lambda x: x / 0
    check("task")
    assert "your code raised ZeroDivisionError: division by zero" in capsys.readouterr().out
    names["double"] = lambda x: 2 * x
    check("task")
    told = capsys.readouterr().out
    assert told.startswith("✓ Two is four") and "Grading adds 2 that this copy does not hold" in told
    check("other")
    assert "There is no exercise 'other' here. There are: task." in capsys.readouterr().out
    check.add("odd", [lambda ask, values: need(ask(probes.value, "given") + "a", "")])
    check("odd")
    assert "has a form that this check cannot read (TypeError" in capsys.readouterr().out


def test_the_comparison_with_a_reference():
    """Names and order of definition do not matter; what is computed does."""
    from torch import nn

    class Ours(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 2)

        def forward(self, x):
            return self.b(self.a(x).relu().mean((2, 3)))

    class Theirs(Ours):
        def __init__(self, width):
            nn.Module.__init__(self)
            self.head = nn.Linear(width, 2)
            self.body = nn.Sequential(nn.Conv2d(3, width, (3, 3), padding="same"), nn.ReLU())

        def forward(self, x):
            return self.head(self.body(x).mean((-2, -1)))

    class Leaky(Ours):
        def forward(self, x):
            return self.b(torch.nn.functional.leaky_relu(self.a(x)).mean((2, 3)))

    class Biasless(Ours):
        def __init__(self, width):
            super().__init__(width)
            self.a = nn.Conv2d(3, width, 3, padding=1, bias=False)

    def compare(network):
        reference.need_same(asking.ask_here({"Net": network}), "Net", Ours, [2, 3, 6, 6], (5,))

    compare(Theirs)
    with pytest.raises(Wrong, match="what it computes is not"):
        compare(Leaky)
    with pytest.raises(Wrong, match="no bias.* is not as the task asks"):
        compare(Biasless)
    with pytest.raises(NotAttempted):
        compare(...)
    with pytest.raises(Wrong, match="should return a network"):
        compare(lambda width: 3)
