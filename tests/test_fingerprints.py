"""Fingerprints: what makes a published run, a golden run or a record stale, and what does not."""

import ast
import shutil

import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_notebook

from course_tools import fingerprints
from course_tools.chapters import UserError, all_chapters, chapter_path, read_notebook
from course_tools.fingerprints import fingerprint, training_fingerprint

FIRST = "notebooks/part/01_first.ipynb"


def test_fingerprint_follows_code_only(toy, edit):
    path = toy / FIRST
    full, training = fingerprint(read_notebook(path)), training_fingerprint(read_notebook(path))
    edit(path, 3, "folder.mkdir", "# a comment\n\nfolder.mkdir")
    edit(path, 0, "# part", "# Part")
    edit(path, 1, "github.com/a/b", "github.com/c/d")
    edit(path, 2, "seed = 0", "seed = 5")
    assert fingerprint(read_notebook(path)) == full
    edit(path, 5, "Image(", "Image(data=")
    assert fingerprint(read_notebook(path)) != full
    assert training_fingerprint(read_notebook(path)) == training
    edit(path, 3, "0.5 + seed", "0.6 + seed")
    assert training_fingerprint(read_notebook(path)) != training


def test_a_cell_that_does_not_parse_is_named():
    with pytest.raises(UserError, match=r"(?s)does not parse.*print\('half"):
        fingerprint(new_notebook(cells=[new_code_cell("print('half")]))


@pytest.fixture
def package(tmp_path):
    """A copy of course_utils, to be changed."""
    copy = tmp_path / "course_utils"
    shutil.copytree(ROOT / "course_utils", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def notebook():
    """The chapter on the stem: it trains with `fit` and takes blocks from `networks`."""
    return read_notebook(chapter_path(ROOT, next(c for c in all_chapters(ROOT) if c.endswith("stem"))))


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_what_a_module_does_as_a_program_trains_no_chapter(package, notebook):
    """`if __name__ == "__main__":` does nothing on import; any other bare statement acts on everything."""
    before = training_fingerprint(notebook, package)
    path = package / "settings.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + '\nif __name__ == "__main__":\n    print(1)\n', encoding="utf-8")
    assert training_fingerprint(notebook, package) == before
    path.write_text(text + "\nif True:\n    print(1)\n", encoding="utf-8")
    assert training_fingerprint(notebook, package) != before


def test_a_copy_has_the_same_fingerprint(package, notebook):
    assert training_fingerprint(notebook, package) == training_fingerprint(notebook)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("training", "weight_decay: float = 5e-4,", "weight_decay: float = 4e-4,"),
        ("training", "model.zero_grad()", "pass"),  # inside fit
        ("training", "dtype != torch.float32", "False"),  # in predict, which evaluate calls, which fit calls
        ("training", "(logits.argmax(1) == data.labels)", "(logits.argmin(1) == data.labels)"),
        ("data", "1.25 * image_size", "1.26 * image_size"),
        ("pictures", "draft(", "DRAFT("),  # in _decode, three calls below load_data
        ("data", 'name == "imagenette" else Path', 'name == "imagenet" else Path'),
        ("data", "9469", "9468"),  # a constant
        ("networks", "nn.init.zeros_(self.branch", "nn.init.ones_(self.branch"),
        ("settings", '"gpu" if torch.cuda.is_available() else "cpu"', '"cpu"'),
        ("summary", "model.parameters()", "model.buffers()"),
        ("training", "from __future__ import annotations\n", "from __future__ import annotations\nimport this\nA()\n"),
    ],
)
def test_what_decides_training_counts(package, notebook, module, old, new):
    change(package / f"{module}.py", old, new)
    assert training_fingerprint(notebook, package) != training_fingerprint(notebook)


def test_a_cell_without_code_trains_nothing():
    cell = new_code_cell("fit(a)")
    assert training_fingerprint(new_notebook(cells=[cell, new_code_cell("# exercise 1: your code here")])) == (
        training_fingerprint(new_notebook(cells=[cell]))
    )


def test_the_counting_for_records_counts_always(package):
    notebook = new_notebook(cells=[new_code_cell("from course_utils import save_record")])
    change(package / "summary.py", "sum(counts.values()) // 2", "sum(counts.values()) // 3")
    assert training_fingerprint(notebook, package) != training_fingerprint(notebook)


def test_what_the_chapter_does_not_reach_does_not_count(package, notebook):
    with open(package / "networks.py", "a") as file:
        file.write("\n\nclass LaterNetwork:\n    pass\n\n\ndef later_block(fit):\n    return fit, load_data\n")
    change(package / "plots.py", '"font.size": 11', '"font.size": 12')  # in use_style, which every chapter calls
    change(package / "records.py", "indent=1", "indent=2")  # in save_record
    assert training_fingerprint(notebook, package) == training_fingerprint(notebook)


@pytest.mark.parametrize("use", ["from course_utils.later import swish as act", "course_utils.later.swish(1)", "swish"])
def test_a_new_module_counts_once_it_is_used(package, notebook, use):
    (package / "later.py").write_text("def swish(x):\n    return x\n")
    assert training_fingerprint(notebook, package) == training_fingerprint(notebook)
    used = read_notebook(chapter_path(ROOT, "ladder/03_stem"))
    used.cells.append(new_code_cell(use))
    before = training_fingerprint(used, package)
    change(package / "later.py", "return x", "return -x")
    assert training_fingerprint(used, package) != before


@pytest.mark.parametrize("module", ["training", "data", "networks", "settings"])
def test_comments_layout_and_docstrings_do_not_count(package, notebook, module):
    path = package / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    path.write_text("# a comment\n\n" + text.replace("\n\n\n", "\n\n\n\n\n") + "\n# and one more\n", encoding="utf-8")
    change(path, '"""', '"""Another first line. ')
    assert training_fingerprint(notebook, package) == training_fingerprint(notebook)


def test_a_docstring_more_or_less_does_not_count(package, notebook):
    change(package / "training.py", "-> str:\n    return (\n", '-> str:\n    """Say it."""\n    return (\n')
    assert training_fingerprint(notebook, package) == training_fingerprint(notebook)


def test_empty_fields_do_not_count(notebook, monkeypatch):
    # from 3.12 on a function has an empty field more, and from 3.13 on ast.dump leaves such fields out
    before, parse = training_fingerprint(notebook), ast.parse

    class Later(ast.FunctionDef):
        _fields = (*ast.FunctionDef._fields, "added_later")

    Later.__name__ = "FunctionDef"

    def parse_later(*rest):
        tree = parse(*rest)
        for node in ast.walk(tree):
            if type(node) is ast.FunctionDef:
                node.__class__, node.added_later = Later, []
        return tree

    monkeypatch.setattr(fingerprints.ast, "parse", parse_later)
    assert training_fingerprint(notebook) == before
