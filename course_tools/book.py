"""Build the book from the published notebooks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def book(root: Path) -> int:
    """Build into build/book; any warning, or reference that does not resolve, is a failure."""
    page = root / "build/book/_build/html/index.html"
    # a second build into the same folder would keep an old style sheet; the whole takes seconds
    shutil.rmtree(root / "build/book", ignore_errors=True)
    # jupyter-book 1 cannot be run with -m
    main = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "build", ".", "-W", "-n", "--keep-going"]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run([*command, "--path-output", "build/book"], cwd=root, env=environment)
    if done.returncode or not page.is_file():
        print("\nThe book was not built: see the warnings above.", file=sys.stderr)
        return 1
    print(f"\nThe book is in {page.parent}\nOpen {page.as_uri()} in a browser.")
    return 0
