"""The process in which a submission's code runs when it is graded: it runs cells and answers probes, nothing else.

It is started by the grader behind a fence, gets the cells and then one probe after the other through a pipe, and
sends plain data back. It holds no check, no solution and no marks.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

MEMORY = 3 * 2**30  # bytes beyond what PyTorch itself has taken
CELL_SECONDS, PROBE_SECONDS = 10, 10


class OutOfTime(BaseException):
    """A cell or a probe has used up its seconds."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def plain_python(cell: str) -> str:
    """A cell without what only a notebook understands: lines with % or !, and cells with %%."""
    if cell.lstrip().startswith("%%"):
        return ""
    return re.sub(r"(?m)^(\s*)[%!?].*$", r"\1pass", cell)


def run_cells(cells: list[str], skipped: list[int], names: dict[str, Any], tell: Any) -> dict[int, str]:
    """Run cells in their order, those that fail again after all others; return what each that failed says at last."""
    from course_exercises.asking import explain

    todo = [n for n in range(len(cells)) if n not in skipped and "Checks(globals()" not in cells[n]]
    stopped: dict[int, str] = {}
    failed: dict[int, str] = {}
    while todo:
        failed = {}
        for number in todo:
            tell({"cell": number})
            try:
                with _limited(CELL_SECONDS):
                    exec(compile(plain_python(cells[number]), f"<cell {number + 1}>", "exec"), names)
            except OutOfTime:
                stopped[number] = f"it was stopped after {CELL_SECONDS} seconds"
            except (SystemExit, KeyboardInterrupt, Exception) as error:
                failed[number] = explain(error)
        if len(failed) + len(stopped) >= len(todo):  # nothing that others define has helped
            break
        todo = list(failed)
    return failed | stopped


def pristine() -> Callable[[], None]:
    """Remember what PyTorch, Python and the probes are made of; returns a function that puts it back.

    A submission may have replaced `torch.allclose` or what a tensor says of itself.
    """
    import builtins
    import math

    import torch

    from course_exercises import asking, probes

    modules = (torch, torch.nn.functional, torch.nn.init, torch.random, builtins, math, asking, probes)
    owners = (*modules, torch.Tensor, torch.nn.Module)
    kept = [(owner, dict(vars(owner))) for owner in owners]

    def put_back(set_it: Callable = setattr, drop: Callable = delattr, of: Callable = vars, kind: type = type) -> None:
        for owner, before in kept:
            now = of(owner)
            for key, value in before.items():
                if now.get(key) is not value and key not in ("__dict__", "__weakref__", "__doc__"):
                    set_it(owner, key, value)
            if kind(owner) is not kind(modules[0]):  # a module loads parts of itself when they are asked for
                for key in [key for key in now if key not in before]:
                    drop(owner, key)

    return put_back


def answer(request: dict, names: dict[str, Any], put_back: Callable[[], None]) -> dict:
    """What a probe finds: {"value"}, {"wrong": why} or {"missing": the name that is not there yet}."""
    from course_exercises import asking, probes

    put_back()
    names.update(request["given"])  # another exercise may call other numbers by the same names
    try:
        with _limited(PROBE_SECONDS):
            if "source" in request:
                space = {"probes": probes, "Wrong": asking.Wrong, "need": asking.need, "number_of": asking.number_of}
                exec(compile(request["source"], "<probe>", "exec"), space)
                probe = space[request["probe"]]
            else:
                probe = getattr(probes, request["probe"])
            value = probe(names, *request["arguments"], **request["options"])
        return {"value": probes.plain(value)}
    except asking.NotAttempted as missing:
        return {"missing": str(missing)}
    except asking.Wrong as error:
        return {"wrong": str(error)[:2000]}
    except OutOfTime:
        return {"wrong": f"your code did not end within {PROBE_SECONDS} seconds"}
    except BaseException as error:
        return {"wrong": asking.explain(error)[:2000]}


def main() -> None:
    """Serve one submission."""
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    sys.stdin = io.StringIO()
    import torch

    from course_exercises import wire

    torch.set_num_threads(1)
    with contextlib.suppress(OSError, ValueError):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    request = wire.read(pipe_in)
    if request["warm"]:  # the first optimizer of a process takes seconds, which are no student's
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)

    def tell(data: dict) -> None:
        pipe_out.write(wire.encode(data))
        pipe_out.flush()

    put_back = pristine()
    names: dict[str, Any] = {"__name__": "notebook", "display": lambda *a, **k: None, "get_ipython": lambda: None}
    names["check"] = lambda *a, **k: None
    exec(compile(request["setup"], "<set-up>", "exec"), names)
    failed = run_cells(request["cells"], request["skipped"], names, tell)
    tell({"failed": {str(number): why for number, why in failed.items()}})
    while True:
        try:
            request = wire.read(pipe_in)
        except EOFError:
            os._exit(0)
        tell(answer(request, names, put_back))


if __name__ == "__main__":
    main()
