"""A stranger's Colab: a chapter starts where there is only what Colab has, installed by its own line."""

import os
import re
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from course_tools.chapters import all_chapters, chapter_path, read_notebook, tags

pytestmark = pytest.mark.slow

HAS = ("torch", "torchvision", "numpy", "matplotlib", "tqdm", "pandas", "scipy", "ipykernel", "pip")


def closure(names: tuple[str, ...]) -> dict[str, object]:
    """Distributions by name: these and all that they need here."""
    found, todo = {}, list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name not in found:
            found[name] = distribution(name)
            needs = map(Requirement, found[name].requires or [])
            todo += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    """The Python of a new environment that borrows these distributions from the running one by links."""
    folder = tmp_path_factory.mktemp("colab") / "env"
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for dist in closure(HAS).values():
        for part in {file.parts[0] for file in dist.files or []} - {"..", "__pycache__"}:
            source, target = Path(dist.locate_file(part)), site / part
            if not target.exists() and source.exists():
                # A folder that several distributions share, such as nvidia/, is linked once
                target.symlink_to(source)
    return folder / "bin" / "python"


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is a Linux machine; this lays out an environment as there")
def test_a_strangers_colab(root, colab, tmp_path):
    chapter = all_chapters(root)[0]
    code = [cell for cell in read_notebook(chapter_path(root, chapter)).cells if cell.cell_type == "code"]
    first = []
    for cell in code:
        first.append('scale, seed = "smoke", 0' if "parameters" in tags(cell) else cell.source)
        if "load_data(" in cell.source:
            break
    else:
        pytest.fail("the chapter loads no data")
    line = re.search(r"%pip install -q --no-deps (git\+https://\S+)", first[0])
    checkout = tmp_path / "checkout"  # A copy, so that the build leaves nothing behind in this one
    code_files = [path for package in ("course_utils", "course_exercises") for path in (root / package).glob("*.py")]
    for name in ["pyproject.toml", *(path.relative_to(root) for path in code_files)]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((root / name).read_bytes())
    first[0] = first[0].replace(line[1], str(checkout))
    copy = read_notebook(root / "exercises/ladder/02_residual_block.ipynb")
    exercises = [cell.source.replace(line[0], "raise SystemExit") for cell in copy.cells if cell.cell_type == "code"]
    script = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for source in {[*first, *exercises]!r}:\n"
        "    result = shell.run_cell(source, store_history=False)\n"
        "    result.raise_error()\n"
        "import importlib.util\n"
        "import course_utils\n"
        "print('FROM', course_utils.__file__, len(shell.user_ns['train']))\n"
        "print('LACKS', [n for n in ('papermill', 'nbformat', 'sphinx', 'course_tools', 'timm')"
        " if importlib.util.find_spec(n)])\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COURSE_", "VIRTUAL"))}
    # -I: nothing from the current folder or the user's own packages
    ran = subprocess.run(
        [colab, "-I", "-c", script],
        cwd=tmp_path,
        env={**clean, "TQDM_DISABLE": "1", "MPLBACKEND": "agg", "PATH": f"{colab.parent}:{clean['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    where = re.search(r"FROM (\S+) (\d+)", ran.stdout)
    assert Path(where[1]).is_relative_to(colab.parent.parent) and int(where[2]) > 0
    assert "LACKS []" in ran.stdout
    # a student copy of the exercises runs there, too, and says what is still to do
    assert ran.stdout.count("not attempted yet") == 2 and "the block still has its fault" in ran.stdout
