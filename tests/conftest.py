import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_tools import runs, staleness
from course_tools.chapters import all_chapters

pytest_plugins = ["pytester", "course_tools.golden_plugin"]
# two tests run side by side, and all that they start: more threads would only wait for each other
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
ROOT = Path(__file__).resolve().parent.parent


def pytest_generate_tests(metafunc):
    if "chapter" in metafunc.fixturenames:
        metafunc.parametrize("chapter", all_chapters(ROOT))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project."""
    return ROOT


TRAINING = """\
folder = Path(os.environ["COURSE_RESULTS"], chapter)
folder.mkdir(parents=True, exist_ok=True)
record = {
    "run": "plain", "scale": scale, "seed": seed, "val_accuracy": 0.5 + seed / 100,
    **json.loads(os.environ["COURSE_CODE"]), "commit": "unknown", "parameters": 1, "macs": 2, "data": {},
    "history": [{"val_accuracy": 0.5 + seed / 100, "seconds": 0.5}],
}
(folder / f"{scale}-plain-seed{seed}.json").write_text(json.dumps(record))
print(f"accuracy {record['val_accuracy']:.3f} after 0.5 s")"""


def toy_chapter(name: str) -> nbformat.NotebookNode:
    """A chapter that trains nothing, but leaves a record and shows text, a table and a picture."""
    alt = {"mystnb": {"image": {"alt": "A dot"}}, "tags": ["figure"]}
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    badge = "[![](badge)](https://colab.research.google.com/github/a/b/blob/main/notebooks/x.ipynb)"
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# {name}\n\n{badge}"),
            new_code_cell(
                "try:\n    import json, os\nexcept ImportError:\n"
                "    %pip install -q --no-deps git+https://github.com/a/b\n"
                "from pathlib import Path\nfrom IPython.display import HTML, Image\n"
                f"import base64\nchapter = {name!r}"
            ),
            new_code_cell('scale = "auto"\nseed = 0', metadata={"tags": ["parameters"]}),
            new_code_cell(TRAINING),
            new_code_cell('HTML("<table><tr><td>loss</td><td>0.1234</td><td>7</td></tr></table>")'),
            new_code_cell(f'Image(base64.b64decode("{picture}"))', metadata=alt),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
    return notebook


@pytest.fixture(scope="session")
def toy_templates(tmp_path_factory) -> tuple[Path, Path]:
    """Two projects with two toy chapters: nothing stored; everything stored and current."""
    bare, full = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("full")
    (bare / "_config.yml").write_text("repository:\n  url: https://github.com/a/b\n  branch: main\n")
    (bare / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/a/b"\n')
    for name in ("part/01_first", "part/02_second"):
        path = bare / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(toy_chapter(name), path)
    shutil.copytree(bare, full, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        toy_environment(patch, full)
        assert runs.publish(full) == 0 and runs.golden(full) == 0
        assert staleness.check(full) == []
    return bare, full


def toy_environment(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)


@pytest.fixture
def toy(toy_templates, tmp_path, monkeypatch) -> Path:
    """A project with two toy chapters and nothing published."""
    shutil.copytree(toy_templates[0], tmp_path, dirs_exist_ok=True)
    toy_environment(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def published(toy_templates, tmp_path, monkeypatch) -> Path:
    """The same project with everything stored and current."""
    shutil.copytree(toy_templates[1], tmp_path, dirs_exist_ok=True)
    toy_environment(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def edit():
    """Change the source of one cell: edit(path, number, old, new)."""

    def change(path: Path, number: int, old: str, new: str) -> None:
        notebook = json.loads(path.read_text())
        source = "".join(notebook["cells"][number]["source"])
        assert old in source
        notebook["cells"][number]["source"] = source.replace(old, new)
        path.write_text(json.dumps(notebook))

    return change
