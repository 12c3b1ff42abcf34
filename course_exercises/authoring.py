"""How an exercise is written: one class for each, in a file for each assignment, below assignments/.

The methods of such a class are cells, not methods: `stub` is what the student finds, `solution` what fills it, and
each `right_...` another right way. The numbers in `practice`, or those that `draw` takes from a secret seed, are
variables in all of them, and <<width>> or <<2 * width>> in the texts.
"""

from __future__ import annotations

import ast
import copy
import inspect
import random
import re
import runpy
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_EXERCISES, LEAST_RIGHT, LEAST_WRONG = 3, 2, 6  # of a sheet; of an exercise, beside its solution


class Exercise:
    """What an author writes; see CONTRIBUTING.md.

    The docstring is the title, a blank line, and the task in Markdown. `kind` is build, compute, read, predict, break
    or design. `wrong` lists typical wrong answers as (name, old, new, message): the solution with `old` replaced by
    `new` must be refused with a message that holds `message`; old = "" replaces all of it. It may be a function of
    the numbers. An exercise that asks for a fault has no stub but `faults`: the stub is the solution with that of
    `_fault` planted, and with each (old, new) of `blank` replaced. Students do not see numbers that begin with _.
    """

    goal = ""
    kind = "build"
    minutes = 0
    difficulty = 1  # of 5
    importance = 3  # of 5
    practice: dict[str, Any] = {}
    hints: list[str] = []
    explanation = ""
    marking = ""
    wrong: list[tuple[str, str, str, str]] | Callable[[dict], list[tuple[str, str, str, str]]] = []
    faults: dict[str, tuple[str, str]] = {}
    blank: list[tuple[str, str]] = []

    def solution(): ...

    def draw(chance: random.Random) -> dict[str, Any]:
        """Other numbers, of about the same difficulty; `practice` if it has none."""
        return {}


def check(points: int, hidden: bool = False) -> Callable[[Callable], Callable]:
    """Mark a function of an exercise as check(ask, values); a hidden one may take `reference`, the solution's names."""

    def mark(function: Callable) -> Callable:
        function.points, function.hidden = points, hidden
        return function

    return mark


@dataclass
class Check:
    """One check: its source without the decorator, what it is worth, whether students see it."""

    name: str
    points: int
    hidden: bool
    source: str


@dataclass
class Task:
    """An exercise with its numbers, as text: what the tools build everything from."""

    name: str  # such as "bottleneck"
    title: str
    text: str
    of: type[Exercise]
    values: dict[str, Any]
    stub: str
    solution: str
    right: dict[str, str]
    wrong: dict[str, tuple[str, str]]  # the code, and what its message must hold
    hints: list[str]
    explanation: str
    marking: str
    checks: list[Check]

    @property
    def points(self) -> int:
        """What it is worth."""
        return sum(part.points for part in self.checks)

    @property
    def given(self) -> str:
        """The line or lines that set the numbers; empty if there are none."""
        return "".join(f"{name} = {value!r}\n" for name, value in self.values.items() if not name.startswith("_"))


@dataclass
class Assignment:
    """A file of exercises: a student copy, its solutions, and its tests."""

    name: str  # such as "ladder/02_residual_block"
    title: str
    intro: str
    setup: str  # imports that the student's code may use
    helpers: dict[str, str]  # functions and constants of the file, which checks use: name and source
    tasks: list[Task] = field(default_factory=list)


def read_assignment(path: Path, name: str, seed: str | None = None) -> Assignment:
    """An assignment with the numbers for practice, or with those that a secret seed draws.

    Raises:
        ValueError: something is missing or does not fit; the message says where and what.
    """
    defined = runpy.run_path(str(path), run_name="assignment")
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    heading, _, intro = inspect.cleandoc(defined["__doc__"] or "").partition("\n")
    found = Assignment(name, heading.lstrip("# ").strip(), intro.strip(), "", {})
    for part in tree.body:
        if isinstance(part, ast.FunctionDef) and part.name == "setup":
            found.setup = _body(text, part)
        elif isinstance(part, ast.FunctionDef):
            found.helpers[part.name] = _lines(text, part)
        elif isinstance(part, ast.Assign):
            found.helpers[ast.unparse(part.targets[0])] = _lines(text, part)
    if not found.title or not found.intro:
        raise ValueError(f"{path.name}: begin with a docstring: a title, a blank line, and what it is about")
    for part in tree.body:
        if isinstance(part, ast.ClassDef):
            made = defined[part.name]
            try:
                found.tasks.append(_task(text, part, made, found, seed))
            except Exception as error:
                raise ValueError(f"{path.name}, {part.name}: {error}") from error
    if len(found.tasks) < LEAST_EXERCISES:
        raise ValueError(f"{path.name}: has {len(found.tasks)} exercises, and needs {LEAST_EXERCISES}")
    return found


def _task(text: str, tree: ast.ClassDef, made: type[Exercise], found: Assignment, seed: str | None) -> Task:
    values = copy.deepcopy(made.practice)
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", made.__name__).lower()
    if seed is not None:
        drawn = made.draw(random.Random(f"{seed} {found.name} {name}"))
        if unknown := drawn.keys() - values.keys():
            raise ValueError(f"draw gives {', '.join(sorted(unknown))}, which practice does not have")
        values |= drawn
    parts = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef)}
    cells = {key: fill(_body(text, part), values) for key, part in parts.items() if not part.decorator_list}
    if "solution" not in cells:
        raise ValueError("it has no solution")
    if made.faults:
        cells["stub"] = cells["solution"]
        for old, new in [made.faults[values["_fault"]], *made.blank]:
            cells["stub"] = _replace(cells["stub"], fill(old, values), fill(new, values), "the stub")
    if "stub" not in cells:
        raise ValueError("it has no stub, and no faults")
    right = {key[6:]: cell for key, cell in cells.items() if key.startswith("right_")}
    doc = inspect.cleandoc(made.__doc__ or "")
    title, _, told = doc.partition("\n")
    for key in ("goal", "minutes", "hints", "explanation", "marking"):
        if not getattr(made, key):
            raise ValueError(f"it has no {key}")
    checks = []
    for key, part in parts.items():
        if part.decorator_list:
            marked = vars(made)[key]
            source = _lines(text, part, decorated=False)
            checks.append(Check(key, marked.points, marked.hidden, source))
    if not any(not part.hidden for part in checks):
        raise ValueError("it has no check that students see")
    wrong = {}
    for called, old, new, message in made.wrong(values) if callable(made.wrong) else made.wrong:
        old, new, message = (fill(part, values) for part in (old, new, message))
        code = _replace(cells["solution"], old, new, f"wrong answer {called}") if old else inspect.cleandoc(new)
        wrong[called] = code, message
    return Task(
        name=name, of=made, values=values,
        title=fill(title.strip().rstrip("."), values), text=fill(told.strip(), values),
        stub=cells["stub"], solution=cells["solution"], right=right, wrong=wrong,
        hints=[fill(inspect.cleandoc(hint), values) for hint in made.hints],
        explanation=fill(inspect.cleandoc(made.explanation), values),
        marking=fill(inspect.cleandoc(made.marking), values), checks=checks,
    )  # fmt: skip


def _replace(code: str, old: str, new: str, where: str) -> str:
    """A text with the one place of `old` replaced."""
    if code.count(old) != 1:
        raise ValueError(f"{where}: {old!r} stands {code.count(old)} times in the solution")
    return code.replace(old, new)


def _body(text: str, part: ast.FunctionDef) -> str:
    """What stands in a function, comments included, moved to the left."""
    lines = text.splitlines()[part.lineno : part.end_lineno]  # definitions here fit into one line
    return textwrap.dedent("\n".join(lines)).strip("\n") + "\n"


def _lines(text: str, part: ast.stmt, decorated: bool = True) -> str:
    """The lines of a statement, moved to the left."""
    start = part.decorator_list[0].lineno if decorated and getattr(part, "decorator_list", []) else part.lineno
    return textwrap.dedent("\n".join(text.splitlines()[start - 1 : part.end_lineno]))


def helpers_of(assignment: Assignment, sources: list[str]) -> str:
    """The functions and constants of an assignment's file that some checks use, in the order of the file."""
    wanted, todo = set(), list(sources)
    while todo:
        names = {node.id for node in ast.walk(ast.parse(todo.pop())) if isinstance(node, ast.Name)}
        for name in names & assignment.helpers.keys() - wanted:
            wanted.add(name)
            todo.append(assignment.helpers[name])
    return "\n\n\n".join(source for name, source in assignment.helpers.items() if name in wanted)


def fill(text: str, values: dict[str, Any]) -> str:
    """A text with <<expressions>> of the numbers worked out; raises ValueError where one is broken across lines."""
    if broken := re.search(r"<<(?:(?!>>).)*\n", text):
        raise ValueError(f"{broken[0].strip()!r} is broken across two lines")
    known = {"__builtins__": {"min": min, "max": max, "len": len, "round": round}}
    return re.sub(r"<<(.+?)>>", lambda found: str(eval(found[1], known, values)), text)
