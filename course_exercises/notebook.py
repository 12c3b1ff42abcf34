"""The checks of a student copy, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from course_exercises.asking import NotAttempted, Wrong, ask_here, unreadable


class Checks:
    """The checks of a notebook: `check("bottleneck")` says in words how far an exercise is.

    Args:
        names: the notebook's `globals()`.
        hidden: how many further checks grade each exercise, that the copy does not hold.
    """

    def __init__(self, names: dict[str, Any], hidden: dict[str, int] | None = None):
        self.names, self.hidden = names, hidden or {}
        self.checks: dict[str, tuple[list[Callable], SimpleNamespace]] = {}

    def add(self, exercise: str, checks: list[Callable], **values: Any) -> None:
        """Take the checks of an exercise, and the numbers that this copy has."""
        self.checks[exercise] = checks, SimpleNamespace(**values)

    def __call__(self, exercise: str) -> None:
        """Run the checks of an exercise and print what they found."""
        if exercise not in self.checks:
            print(f"There is no exercise {exercise!r} here. There are: {', '.join(self.checks)}.")
            return
        checks, values = self.checks[exercise]
        self.names.update(vars(values))  # another exercise may call other numbers by the same names
        passed = 0
        for check in checks:
            what = (check.__doc__ or check.__name__.replace("_", " ")).strip().splitlines()[0].rstrip(".")
            try:
                check(ask_here(self.names), values)
            except NotAttempted as missing:
                print(f"… not attempted yet: {missing}. Write your answer above, run that cell, and then this one.")
                return
            except Exception as error:
                told = error if isinstance(error, Wrong) else unreadable(error)
                print(f"✗ {what}\n  {told}")
                print(f"{passed} of {len(checks)} checks passed so far; the others wait for this one.")
                return
            passed += 1
            print(f"✓ {what}")
        end = f"All {passed} checks here passed." if passed > 1 else "The check here passed."
        if later := self.hidden.get(exercise):
            end += f" Grading adds {later} that this copy does not hold: they ask the same things of other numbers."
        print(end)
