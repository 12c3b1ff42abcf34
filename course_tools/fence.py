"""Run a submission's code where it can do no harm: a process of its own, with limits, behind bubblewrap."""

from __future__ import annotations

import inspect
import os
import resource
import selectors
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import course_exercises
from course_exercises import probes, wire
from course_exercises.asking import NotAttempted, Wrong

SECONDS = 90  # of a submission as a whole
FILE_SIZE, DISK, PROCESSES = 64 * 2**20, 128 * 2**20, 64
ENVIRONMENT = {
    "HOME": "/tmp", "MPLBACKEND": "Agg", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"
}  # fmt: skip
MOST_RESTARTS = 4
SILENCE = 15  # seconds without a word, more than the worker gives to a cell or a probe
NOBODY = 65534


class Broken(Exception):
    """The process has ended, or says nothing that can be read; why, in words."""


def fenced() -> bool:
    """Whether bubblewrap is there and works."""
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _command(fence: bool) -> list[str]:
    """The worker's command, with nothing in sight but Python, its packages and the course's own code."""
    worker = [sys.executable, "-I", "-c", START.format(paths=_paths(fence))]
    if not fence:
        return worker
    apart = [f"--unshare-{what}" for what in (("ipc", "pid", "net", "uts") if os.getuid() == 0 else ("all",))]
    command = ["bwrap", *apart, "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(DISK), "--tmpfs", "/tmp"]
    for folder in ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.exists(folder):
            command += ["--ro-bind", folder, folder]
    seen = {sys.prefix, sys.base_prefix, *(path for path in sys.path if path.endswith("-packages"))}
    bound = {folder: folder for folder in sorted(seen) if os.path.isdir(folder) and not folder.startswith("/usr")}
    bound |= {str(package): f"/course/{package.name}" for package in _packages()}
    # bubblewrap makes the folders on the way unreadable to others
    for parent in sorted({str(up) for place in bound.values() for up in Path(place).parents} - {"/", *bound.values()}):
        command += ["--perms", "0755", "--dir", parent]
    for folder, place in bound.items():
        command += ["--ro-bind", folder, place]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    return [*command, "--chdir", "/tmp", *(DROP if os.getuid() == 0 else ["--cap-drop", "ALL"]), *worker]


# Root's processes know no limit on their number, so root becomes nobody behind the fence
DROP = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
START = "import sys; sys.path[:0] = {paths!r}; from course_exercises.worker import main; main()"


def _packages() -> list[Path]:
    """The folders of the course's packages that student code may import."""
    root = Path(course_exercises.__file__).parent
    return [folder for folder in (root, root.parent / "course_utils") if folder.is_dir()]


def _paths(fence: bool) -> list[str]:
    return ["/course"] if fence else [str(_packages()[0].parent)]


def _limits() -> None:
    """Limits on files, processes and seconds, set in the new process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    user = str(os.getuid() or NOBODY)
    try:
        own = sum(int(_status(name, "Threads")) for name in os.listdir("/proc") if _status(name, "Uid") == user)
        resource.setrlimit(resource.RLIMIT_NPROC, (own + PROCESSES, own + PROCESSES))
    except (OSError, ValueError):
        pass


def _status(process: str, key: str) -> str:
    try:
        with open(f"/proc/{process}/status") as file:
            return next(line.split()[1] for line in file if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        return "0"


def source_of(probe: Callable) -> str:
    """The source of a probe, and of the functions and constants of its file that it uses."""
    found: dict[str, str] = {}

    def take(function: Callable) -> None:
        found[function.__name__] = textwrap.dedent(inspect.getsource(function))
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            codes += [part for part in code.co_consts if inspect.iscode(part)]
            for name in set(code.co_names) & function.__globals__.keys() - found.keys():
                used = function.__globals__[name]
                if inspect.isfunction(used) and used.__code__.co_filename == function.__code__.co_filename:
                    take(used)
                elif isinstance(used, (int, float, str, tuple, list, dict)) and not name.startswith("__"):
                    found[name] = f"{name} = {used!r}"

    take(probe)
    return "\n\n".join(found.values())


class Worker:
    """A process that has run the cells of a submission and answers probes.

    A cell that ends the process, or hangs in a way that nothing inside can stop, is left out the next time.
    """

    def __init__(self, setup: str, cells: list[str], fence: bool = True, warm: bool = False):
        self.setup, self.cells, self.fence, self.warm = setup, cells, fence, warm
        self.end = time.monotonic() + SECONDS
        self.skipped: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self.given: dict[str, Any] = {}  # the numbers of the exercise that is asked about
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """Start the process and run the cells; raises Broken if it cannot be done."""
        for _ in range(MOST_RESTARTS + 1):
            self.stop()
            self.process = subprocess.Popen(
                _command(self.fence), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                preexec_fn=_limits, start_new_session=True,
            )  # fmt: skip
            cell = None
            try:
                self._send({"setup": self.setup, "cells": self.cells, "skipped": list(self.skipped), "warm": self.warm})
                while "failed" not in (told := self._read()):
                    cell = int(told["cell"])
                self.failed = {int(number): str(why) for number, why in told["failed"].items()} | self.skipped
                return
            except (Broken, KeyError, TypeError, ValueError, AttributeError) as error:
                if cell is None or time.monotonic() > self.end:
                    raise Broken(str(error) or "it does not answer") from error
                self.skipped[cell] = f"it ended the whole notebook ({error})"
        raise Broken("too many of its cells end the whole notebook")

    def ask(self, probe: Callable, *arguments: Any, **options: Any) -> Any:
        """Run a probe there; see `course_exercises.asking.ask_here`."""
        request = {"probe": probe.__name__, "arguments": list(arguments), "options": options, "given": self.given}
        if probe.__module__ != probes.__name__:
            request["source"] = source_of(probe)
        try:
            if self.process is None:
                self.start()
            self._send(request)
            told = self._read()
        except Broken as error:
            self.stop()
            raise Wrong(f"your code ended the notebook's process ({error})") from error
        if "missing" in told:
            raise NotAttempted(str(told["missing"]))
        if "wrong" in told:
            raise Wrong(str(told["wrong"]))
        if "value" not in told:
            self.stop()
            raise Wrong("your code answered in the place of the probe")
        return told["value"]

    def stop(self) -> None:
        """End the process and all that it has started."""
        if self.process is not None:
            for file in (self.process.stdin, self.process.stdout):
                file.close()
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None

    def _send(self, data: Any) -> None:
        try:
            self.process.stdin.write(wire.encode(data))
            self.process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            raise Broken(self._why()) from error

    def _read(self) -> Any:
        try:
            told = wire.read(self)
        except EOFError as error:
            raise Broken(self._why()) from error
        except wire.WireError as error:
            raise Broken(f"it sent {error}") from error
        if not isinstance(told, dict):
            raise Broken("it sent something else than an answer")
        return told

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of what the process sends, before its time is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, min(self.end - time.monotonic(), SILENCE))):
                raise Broken("it ran out of time")
        return os.read(self.process.stdout.fileno(), min(count, 2**20))

    def _why(self) -> str:
        try:
            status = self.process.wait(2)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        if status < 0 or status > 128:
            number = -status if status < 0 else status - 128
            return f"killed by signal {number}"
        return f"it ended with status {status}"
