"""Fingerprints: what makes a published run, a golden run or a record stale, and what does not."""

import ast
import shutil

import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_notebook

from course_tools import fingerprints
from course_tools.chapters import UserError, all_chapters, chapter_path, read_notebook
from course_tools.fingerprints import Code, changed, executed, fingerprint, page_code, training_code

FIRST = "notebooks/part/01_first.ipynb"


def test_fingerprint_follows_code_only(toy, edit):
    path = toy / FIRST
    full, training = fingerprint(read_notebook(path)), training_code(read_notebook(path)).fingerprint
    edit(path, 3, "folder.mkdir", "# a comment\n\nfolder.mkdir")
    edit(path, 0, "# part", "# Part")
    edit(path, 1, "github.com/a/b", "github.com/c/d")
    edit(path, 2, "seed = 0", "seed = 5")
    assert fingerprint(read_notebook(path)) == full
    edit(path, 5, "Image(", "Image(data=")
    assert fingerprint(read_notebook(path)) != full
    assert training_code(read_notebook(path)).fingerprint == training
    edit(path, 3, "0.5 + seed", "0.6 + seed")
    assert training_code(read_notebook(path)).fingerprint != training


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
    before = training_code(notebook, package).fingerprint
    path = package / "settings.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + '\nif __name__ == "__main__":\n    print(1)\n', encoding="utf-8")
    assert training_code(notebook, package).fingerprint == before
    path.write_text(text + "\nif True:\n    print(1)\n", encoding="utf-8")
    assert training_code(notebook, package).fingerprint != before


def test_a_copy_has_the_same_fingerprint(package, notebook):
    assert training_code(notebook, package).fingerprint == training_code(notebook).fingerprint


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("training", '"weight_decay": 5e-4', '"weight_decay": 4e-4'),
        ("training", "run.model.zero_grad()", "pass"),  # in _train_epoch, which fit calls
        ("evaluation", "dtype != torch.float32", "False"),  # in predict, which evaluate calls, which fit calls
        ("evaluation", "(logits.argmax(1) == data.labels)", "(logits.argmin(1) == data.labels)"),
        ("data", "1.25 * image_size", "1.26 * image_size"),
        ("pictures", "draft(", "DRAFT("),  # in _decode, three calls below load_data
        ("data", 'name == "imagenette" else Path', 'name == "imagenet" else Path'),
        ("data", "9469", "9468"),  # a constant
        ("networks", "nn.init.zeros_(self.branch", "nn.init.ones_(self.branch"),
        ("settings", '"page" if scale == "auto" else', '"smoke" if scale == "auto" else'),
        ("summary", "model.parameters()", "model.buffers()"),
        ("training", "from __future__ import annotations\n", "from __future__ import annotations\nimport this\nA()\n"),
    ],
)
def test_what_decides_training_counts(package, notebook, module, old, new):
    change(package / f"{module}.py", old, new)
    assert training_code(notebook, package).fingerprint != training_code(notebook).fingerprint


def test_a_network_named_by_text_counts(package):
    """`getattr(networks, settings.network)`: the name stands in quotes, in a cell or in what is reached."""
    devices = read_notebook(chapter_path(ROOT, "depth/05_more_than_one_device"))
    before = training_code(devices, package)
    assert {"resnet50", "Bottleneck", "Bottleneck.__init__"} <= before.definitions.keys()
    change(package / "networks.py", "out_channels // 4", "out_channels // 8")
    assert changed(before.definitions, training_code(devices, package)) == ["Bottleneck.__init__"]


def test_what_a_chapter_defines_itself_is_its_own(package):
    """Its list `sizes` is not the function of that name in `race`; an attribute of that name may be."""
    own, used = (
        new_notebook(cells=[new_code_cell(source)]) for source in ("sizes = [3, 4]\nlen(sizes)", "race.sizes(1)")
    )
    before = [training_code(notebook, package) for notebook in (own, used)]
    assert ["sizes" in code.definitions for code in before] == [False, True]
    change(package / "race.py", "all_sizes = range(first, last + 1, step)", "all_sizes = range(first, last, step)")
    assert training_code(own, package) == before[0] and training_code(used, package) != before[1]


def test_a_variable_inside_a_function_is_no_definition_elsewhere(package):
    (package / "later.py").write_text("def helper():\n    sizes = [1]\n    return sizes\n")
    notebook = new_notebook(cells=[new_code_cell("helper()")])
    assert "sizes" not in training_code(notebook, package).definitions
    (package / "later.py").write_text("def helper():\n    from course_utils.race import sizes\n    return sizes\n")
    assert "sizes" in training_code(notebook, package).definitions


@pytest.mark.parametrize(
    ("module", "old", "new", "name"),
    [
        ("records", ".std():.1f}", ".sem():.1f}", "accuracy_text"),
        ("plots", '"font.size": 11', '"font.size": 12', "use_style"),
        ("training", "run.model.zero_grad()", "pass", "_train_epoch"),
    ],
)
def test_a_page_depends_on_what_it_shows_as_well(package, notebook, module, old, new, name):
    before = page_code(notebook, package)
    change(package / f"{module}.py", old, new)
    assert changed(before.definitions, page_code(notebook, package)) == [name]


def test_what_changed_is_named():
    code = Code({"fit": "1", "cell a": "2"})
    assert changed({"fit": "0", "cell a": "2", "gone": "3"}, code) == ["fit", "gone"]
    assert changed("unknown", code) == ["cell a", "fit"]


def test_what_took_part_in_a_run(package):
    """Functions that ran, cells, and constants that something which took part uses, through other constants too."""
    (package / "later.py").write_text(
        "LOW = 1\nHIGH = LOW + 1\nUNUSED = 3\n\n\ndef ran():\n    return HIGH\n\n\ndef did_not():\n    return UNUSED\n"
    )
    names = {"cell a", "LOW", "HIGH", "UNUSED", "ran", "did_not"}
    assert executed(names, {"ran"}, package) == {"cell a", "LOW", "HIGH", "ran"}


def test_a_cell_without_code_trains_nothing():
    cell = new_code_cell("fit(a)")
    assert training_code(new_notebook(cells=[cell, new_code_cell("# exercise 1: your code here")])).fingerprint == (
        training_code(new_notebook(cells=[cell])).fingerprint
    )


def test_the_counting_for_records_counts_always(package):
    notebook = new_notebook(cells=[new_code_cell("from course_utils import save_record")])
    change(package / "summary.py", "operations // 2", "operations // 3")
    assert training_code(notebook, package).fingerprint != training_code(notebook).fingerprint


def test_what_the_chapter_does_not_reach_does_not_count(package, notebook):
    with open(package / "networks.py", "a") as file:
        file.write("\n\nclass LaterNetwork:\n    pass\n\n\ndef later_block(fit):\n    return fit, load_data\n")
    change(package / "plots.py", '"font.size": 11', '"font.size": 12')  # in use_style, which every chapter calls
    change(package / "records.py", "indent=1", "indent=2")  # in save_record
    assert training_code(notebook, package).fingerprint == training_code(notebook).fingerprint


@pytest.mark.parametrize("use", ["from course_utils.later import swish as act", "course_utils.later.swish(1)", "swish"])
def test_a_new_module_counts_once_it_is_used(package, notebook, use):
    (package / "later.py").write_text("def swish(x):\n    return x\n")
    assert training_code(notebook, package).fingerprint == training_code(notebook).fingerprint
    used = read_notebook(chapter_path(ROOT, "ladder/03_stem"))
    used.cells.append(new_code_cell(use))
    before = training_code(used, package).fingerprint
    change(package / "later.py", "return x", "return -x")
    assert training_code(used, package).fingerprint != before


@pytest.mark.parametrize("module", ["training", "data", "networks", "settings"])
def test_comments_layout_and_docstrings_do_not_count(package, notebook, module):
    path = package / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    path.write_text("# a comment\n\n" + text.replace("\n\n\n", "\n\n\n\n\n") + "\n# and one more\n", encoding="utf-8")
    change(path, '"""', '"""Another first line. ')
    assert training_code(notebook, package).fingerprint == training_code(notebook).fingerprint


def test_a_docstring_more_or_less_does_not_count(package, notebook):
    change(package / "training.py", "-> str:\n    return (\n", '-> str:\n    """Say it."""\n    return (\n')
    assert training_code(notebook, package).fingerprint == training_code(notebook).fingerprint


def test_empty_fields_do_not_count(notebook, monkeypatch):
    # from 3.12 on a function has an empty field more, and from 3.13 on ast.dump leaves such fields out
    before, parse = training_code(notebook).fingerprint, ast.parse

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
    assert training_code(notebook).fingerprint == before
