"""Try an assignment without a notebook: does an answer pass the checks, and which message does it get?"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from course_exercises import asking, probes, reference
from course_exercises.authoring import LEAST_RIGHT, LEAST_WRONG, Assignment, Task, helpers_of


@dataclass
class Outcome:
    """What became of one check: points reached, and what was said if it failed."""

    name: str
    points: int
    reached: int
    said: str


def names_of(assignment: Assignment, code: str, task: Task) -> dict[str, Any]:
    """What a notebook would define: imports, numbers, and the code of an answer.

    Raises whatever the code raises.
    """
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(assignment.setup + task.given + code, f"<{task.name}>", "exec"), names)
    return names


def checks_of(assignment: Assignment, task: Task) -> dict[str, Any]:
    """The functions of an exercise's checks, as they run where copies are graded."""
    names: dict[str, Any] = {part.__name__: part for part in (asking.need, asking.number_of, asking.Wrong)}
    names |= {"probes": probes, "need_same": reference.need_same}
    sources = [part.source for part in task.checks]
    exec(compile("\n\n".join([helpers_of(assignment, sources), *sources]), f"<checks of {task.name}>", "exec"), names)
    return {part.name: names[part.name] for part in task.checks}


def attempt(
    assignment: Assignment, task: Task, code: str, hidden: bool = True, to_the_end: bool = True
) -> list[Outcome]:
    """Check an answer: each check by itself, so that there is partial credit, or only until one has failed."""
    own = {} if not hidden else names_of(assignment, task.solution, task)
    try:
        names = names_of(assignment, code, task)
    except Exception as error:
        names = {}
        failed = asking.explain(error)
    else:
        failed = ""
    found = []
    functions = checks_of(assignment, task)
    for part in task.checks:
        if part.hidden and not hidden:
            continue
        function = functions[part.name]
        more = (
            {"reference": own} if "reference" in function.__code__.co_varnames[: function.__code__.co_argcount] else {}
        )
        said = ""
        try:
            function(asking.ask_here(names), SimpleNamespace(**task.values), **more)
        except asking.NotAttempted as missing:
            said = failed or f"not attempted yet: {missing}"
        except asking.Wrong as error:
            said = str(error)
        except Exception as error:
            said = asking.unreadable(error)
        found.append(Outcome(part.name, part.points, 0 if said else part.points, said))
        if said and not to_the_end:
            break
    return found


def problems(assignment: Assignment) -> list[str]:
    """What is wrong with an assignment itself: its solutions, other right ways, stubs and wrong answers."""
    told = []
    for task in assignment.tasks:
        where = f"{assignment.name}, {task.name}"
        for called, code in {"solution": task.solution, **task.right}.items():
            for part in attempt(assignment, task, code):
                if part.said:
                    told.append(f"{where}: {called} fails {part.name}: {part.said}")
        for part in attempt(assignment, task, task.stub):
            if part.reached:
                told.append(f"{where}: the untouched stub passes {part.name}")
        shown = [part for part in attempt(assignment, task, task.stub, hidden=False) if part.said]
        if not task.of.faults and (not shown or not shown[0].said.startswith("not attempted")):
            told.append(f"{where}: of the untouched stub is said: {shown[0].said if shown else 'nothing'}")
        for called, (code, message) in task.wrong.items():
            said = [part.said for part in attempt(assignment, task, code, to_the_end=False) if part.said]
            if not said:
                told.append(f"{where}: the wrong answer {called} passes")
            elif message not in said[0]:
                told.append(f"{where}: the wrong answer {called} is told {said[0]!r}, not {message!r}")
        for what, found, least in (
            ("other right ways", task.right, LEAST_RIGHT),
            ("wrong answers", task.wrong, LEAST_WRONG),
        ):
            if len(found) < least:
                told.append(f"{where}: has {len(found)} {what}, and needs {least}")
    return told
