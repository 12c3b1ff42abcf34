"""Ask the student's code, and say what is wrong with the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Wrong(Exception):
    """What is wrong, in words for the student."""


class NotAttempted(Exception):
    """The student has not begun: a name is missing, or still holds the dots of the task."""


def need(holds: bool, message: str) -> None:
    """Raise Wrong with a message unless something holds."""
    if not holds:
        raise Wrong(message)


def find(names: dict[str, Any], name: str) -> Any:
    """What the student has called `name`.

    Raises:
        NotAttempted: there is none, or it is still `...`.
    """
    found = names.get(name, ...)
    if found is ... or (isinstance(found, (list, tuple)) and any(part is ... for part in found)):
        raise NotAttempted(name)
    return found


def made(name: str, result: Any) -> Any:
    """What a function of the student returned; raises NotAttempted where it returned nothing."""
    if result is None or result is ...:
        raise NotAttempted(name)
    return result


def number_of(found: Any, name: str) -> float:
    """An answer as a number; raises Wrong if it is none."""
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{name} should be a number, not {found!r}") from None


def explain(error: BaseException) -> str:
    """An error of the student's code in one line."""
    text = " ".join(str(error).split())
    return f"your code raised {type(error).__name__}" + (f": {text[:300]}" if text else "")


def unreadable(error: Exception) -> str:
    """What is said where a check itself stumbles over an answer, such as a word where it adds."""
    return f"your answer has a form that this check cannot read ({type(error).__name__}: {error})"


def ask_here(names: dict[str, Any]) -> Callable[..., Any]:
    """`ask(probe, ...)` for code in this process: it calls probe(names, ...).

    An error of the code becomes Wrong.
    """

    def ask(probe: Callable, *arguments: Any, **options: Any) -> Any:
        try:
            return probe(names, *arguments, **options)
        except (Wrong, NotAttempted):
            raise
        except Exception as error:
            raise Wrong(explain(error)) from error

    return ask
