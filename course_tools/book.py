"""Build the book from the published notebooks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def book(root: Path) -> int:
    """Build into build/book; any warning, or reference that does not resolve, is a failure.

    What the builder says goes to build/book.log; here is how far it is, and on failure what it complains about.
    """
    page, log = root / "build/book/_build/html/index.html", root / "build/book.log"
    # a second build into the same folder would keep an old style sheet; the whole takes seconds
    shutil.rmtree(root / "build/book", ignore_errors=True)
    log.parent.mkdir(exist_ok=True)
    # jupyter-book 1 cannot be run with -m
    main = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-u", "-c", main, "build", ".", "-W", "-n", "--keep-going"]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONUTF8": "1"}
    with (
        open(log, "w", encoding="utf-8", newline="\n") as file,
        subprocess.Popen(
            [*command, "--path-output", "build/book"], cwd=root, env=environment, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as builder,
    ):  # fmt: skip
        _follow(builder.stdout, file)
    if builder.returncode or not page.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        complaints = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|\w*Error|\w*Exception):", line)]
        told = list(dict.fromkeys(complaints))[:20] or lines[-20:]
        print("\n".join(["The book was not built:", *told, f"All that the builder said is in {log}"]), file=sys.stderr)
        return 1
    print(f"The book is in {page.parent}\nOpen {page.as_uri()} in a browser.")
    return 0


def _follow(output, log) -> None:
    """Write every line of the builder into the log, and show in one line how far it is."""
    stage = ""
    for line in output:
        line = re.sub(r"\x1b\[[0-9;]*m", "", line)
        log.write(line)
        found = re.match(r"(reading sources|writing output)\.\.\. *\[ *(\d+)%\]", line)
        if found and sys.stdout.isatty():
            print(f"\rBuilding the book: {found[1]}, {found[2]:>3} %", end="", flush=True)
        elif found and found[1] != stage:
            print(f"Building the book: {found[1]}", flush=True)
        stage = found[1] if found else stage
    if stage and sys.stdout.isatty():
        print()
