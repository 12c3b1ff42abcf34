"""Mutate each solution of the exercises, and count how many mutants their checks refuse.

cosmic-ray changes constants, operators, comparisons and the like; what it does not know, lines left out or in another
order and arguments left out, is added here. A mutant that survives is either named harmless, with the reason, in
assignments/harmless.yml, or a hole in the checks.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import io
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml
from tqdm import tqdm

from course_exercises.authoring import Assignment, Task
from course_exercises.trying import attempt, names_of
from course_tools.assignments import MASTERS, choose_assignments, load

LEAST = 0.95  # refused, or named harmless
SECONDS = 10
SEED = "other numbers"  # with which a mutant must pass, too: with some numbers, a sum happens to be right


def mutants_of(code: str) -> Iterator[tuple[str, str]]:
    """Every mutant of a solution, by a name that the same mutant of the solution with other numbers has, too."""
    seen, count = {ast.dump(ast.parse(code))}, Counter()
    for kind, mutant in [*_by_cosmic_ray(code), *_by_lines(code), *_by_arguments(code)]:
        count[kind] += 1
        kind = f"{kind} {count[kind]}"
        try:
            tree = ast.dump(ast.parse(mutant))
        except SyntaxError:
            continue
        if tree not in seen:
            seen.add(tree)
            yield kind, mutant


def _by_cosmic_ray(code: str) -> Iterator[tuple[str, str]]:
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        try:
            made = operator()
        except TypeError:  # those that want to know names of variables
            continue
        for occurrence in range(1000):
            if (mutant := mutate_code(code, made, occurrence)) is None:
                break
            yield name.partition("/")[2], mutant


def _blocks(tree: ast.AST) -> list[list[ast.stmt]]:
    return [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]


def _depend(one: ast.stmt, other: ast.stmt) -> bool:
    """Whether the order of two statements matters: one sets what the other one uses."""

    def sets(part: ast.stmt) -> set[str]:
        return {ast.unparse(node) for node in ast.walk(part) if isinstance(getattr(node, "ctx", None), ast.Store)} | (
            {part.name} if isinstance(part, (ast.FunctionDef, ast.ClassDef)) else set()
        )

    def uses(part: ast.stmt) -> set[str]:
        return {ast.unparse(node) for node in ast.walk(part) if isinstance(node, (ast.Name, ast.Attribute))}

    functions = (ast.FunctionDef, ast.ClassDef)
    if isinstance(one, functions) and isinstance(other, functions):  # their bodies run later
        return False
    ends = (ast.Return, ast.Raise, ast.Break, ast.Continue)
    return bool(sets(one) & uses(other) or sets(other) & uses(one)) or isinstance(other, ends)


def _by_lines(code: str) -> Iterator[tuple[str, str]]:
    """Each statement left out, and each two neighbours swapped."""
    tree = ast.parse(code)
    for place, block in enumerate(_blocks(tree)):
        for number in range(len(block)):
            other = copy.deepcopy(tree)
            body = _blocks(other)[place]
            body[number : number + 1] = [] if len(body) > 1 else [ast.Pass()]
            yield "left out", ast.unparse(ast.fix_missing_locations(other))
            if number + 1 < len(block) and _depend(block[number], block[number + 1]):
                other = copy.deepcopy(tree)
                body = _blocks(other)[place]
                body[number], body[number + 1] = body[number + 1], body[number]
                yield "swapped", ast.unparse(other)


def _by_arguments(code: str) -> Iterator[tuple[str, str]]:
    """Each argument of a call left out, and each two neighbours swapped."""
    tree = ast.parse(code)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for place, call in enumerate(calls):
        for number in range(len(call.args) + len(call.keywords)):
            other = copy.deepcopy(tree)
            found = [node for node in ast.walk(other) if isinstance(node, ast.Call)][place]
            if number < len(call.args):
                del found.args[number]
            else:
                del found.keywords[number - len(call.args)]
            yield "argument left out", ast.unparse(other)
        for number in range(len(call.args) - 1):
            other = copy.deepcopy(tree)
            found = [node for node in ast.walk(other) if isinstance(node, ast.Call)][place]
            found.args[number], found.args[number + 1] = found.args[number + 1], found.args[number]
            yield "arguments swapped", ast.unparse(other)


class _TooLong(BaseException):
    pass


def survives(assignment: Assignment, task: Task, code: str) -> bool:
    """Whether a mutant gets all points."""

    def stop(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return not any(part.said for part in attempt(assignment, task, code, to_the_end=False))
    except (_TooLong, SystemExit):
        return False
    finally:
        signal.alarm(0)


def is_given(task: Task, code: str) -> bool:
    """Whether a mutant changes only lines that the student was given: those are no answers."""
    given = {line.strip() for line in ast.unparse(ast.parse(task.stub)).splitlines()}
    old, new = (ast.unparse(ast.parse(text)).splitlines() for text in (task.solution, code))
    changes = [line for line in difflib.ndiff(old, new) if line[0] in "-+"]
    removed = [line[2:].strip() for line in changes if line[0] == "-"]
    return bool(removed) and all(line in given for line in removed)


def same_answers(assignment: Assignment, task: Task, code: str) -> bool:
    """Whether a mutant changes only how an answer is worked out, and comes to the same one."""
    asked = [
        ast.unparse(part.targets[0]) for part in ast.parse(task.stub).body
        if isinstance(part, ast.Assign) and ast.unparse(part.value) == "..."
    ]  # fmt: skip
    trees = [ast.parse(text).body for text in (task.solution, code)]
    defined = [[ast.dump(part) for part in body if isinstance(part, (ast.FunctionDef, ast.ClassDef))] for body in trees]
    if not asked or defined[0] != defined[1]:
        return False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = [names_of(assignment, text, task) for text in (task.solution, code)]
        return all(found[0][name] == found[1][name] for name in asked)
    except Exception:
        return False


def difference(before: str, after: str) -> str:
    """What a mutant changes, in one line: "- old + new"."""
    old, new = (ast.unparse(ast.parse(text)).splitlines() for text in (before, after))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    lines = [line for line in lines if not line.startswith("@@")]
    return " ".join(f"{line[0]} {line[1:].strip()}" for line in lines)


def mutants(root: Path, words: list[str] | None = None) -> int:
    """Print a table of all exercises; 1 if too many mutants pass or a survivor is not named harmless."""
    import torch

    torch.set_num_threads(1)
    path = root / MASTERS / "harmless.yml"
    harmless = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows, left, bad = [], [], 0
    for name in choose_assignments(root, words):
        assignment, variant = load(root, name), load(root, name, SEED)
        for task, other in zip(assignment.tasks, variant.tasks):
            made = [(kind, code) for kind, code in mutants_of(task.solution) if not is_given(task, code)]
            others = dict(mutants_of(other.solution))
            known = {entry["mutant"] for entry in (harmless.get(name) or {}).get(task.name, [])}
            through = [
                difference(task.solution, code)
                for kind, code in tqdm(made, desc=f"{name} {task.name}", leave=False, disable=None)
                if survives(assignment, task, code)
                and survives(variant, other, others.get(kind, ""))
                and not (same_answers(assignment, task, code) and same_answers(variant, other, others[kind]))
            ]
            open_ones = [told for told in through if told not in known]
            share = 1 - len(open_ones) / max(len(made), 1)
            bad += share < LEAST
            rows.append(
                f"{name:38} {task.name:28} {len(made):5} {len(through):5} {len(open_ones):5} {100 * share:6.1f} %"
            )
            print(rows[-1], flush=True)
            left += [f"{name} {task.name}: {told}" for told in open_ones]
    print(f"{'assignment':38} {'exercise':28} {'made':>5} {'pass':>5} {'open':>5} {'refused':>8}")
    print(
        "\n".join(["Survivors that are not named harmless:", *left] if left else ["Every survivor is named harmless."])
    )
    return int(bool(bad))
