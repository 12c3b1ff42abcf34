"""The comparison of golden runs; those in tests/golden are run in the same pytest run."""

import re
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from course_tools import runs
from course_tools.chapters import golden_path, read_notebook, tags
from course_tools.compare import outputs_difference, text_difference
from course_tools.staleness import check_golden

AGREE = [
    ("loss 1.234", "loss 1.240"),
    ("[-0.00001, 0.2]", "[ 0.00001, 0.2]"),
    ("a    1.0\nb", "a 1.0\nb"),
    ("1.00e-03", "1.01e-03"),
    ("accuracy 71.2 %", "accuracy 71.9 %"),
    ("96 images/s", "1,200 images/s"),
    ("12.3 s, 45.1 ms", "0.9 s, 9.0 ms"),
    ("2.31x faster", "5.00x faster"),
    ("0.0 s", "0.9 s"),
    ("<td>12.3 s</td>", "<td>15.3 s</td>"),
    ("Going on after epoch 2, from a2-norm-seed0.pt:", "Going on after epoch 2, from 07b238995183.pt:"),
]
DIFFER = [
    ("loss 1.234", "loss 1.334"),
    ("loss 0.0010", "loss 0.0013"),
    ("loss 1.234", "loss -1.234"),
    ("3 images", "4 images"),
    ("1,234 images", "1,235 images"),
    ("conv2", "conv3"),
    ("640x480", "640x481"),
    ("torch.Size([1, 2])", "torch.Size([1, 3])"),
    ("torch 2.14.1", "torch 2.14.2"),
    ("4x fewer", "5x fewer"),
    ("2.31x faster", "2.31x slower"),
    ("12.3 s", "12.3 ms"),
    ("12.3 s", "12.3"),
    ("12 s", "12.0 s"),
    ("12.3 s", "-12.3 s"),
    ("1.0 s", "-1.0 s"),
    ("0.1 s", "50.0 s"),
    ("a cat", "a dog"),
    ("from 07b238995183.pt", "from 07b238995183.npy"),
    ("1.0", "1.0 5.0"),
    ("1 2", "1"),
    ("1.0", "nan"),
    ("", "a"),
    ("<td>0.1234</td><td>7</td>", "<td>0.1234</td><td>8</td>"),
    ("<td>0.1234</td>", "<th>0.1234</th>"),
]


@pytest.mark.parametrize(("golden", "new"), AGREE)
def test_texts_that_agree(golden, new):
    assert text_difference(golden, new) is None and text_difference(new, golden) is None


@pytest.mark.parametrize(("golden", "new"), DIFFER)
def test_texts_that_differ(golden, new):
    assert text_difference(golden, new) and text_difference(new, golden)


def test_no_output_is_ignored():
    text, table = new_output("stream", text="1"), new_output("display_data", data={"text/html": "<p>1</p>"})
    picture = new_output("display_data", data={"image/png": "a", "text/plain": "<Figure size 640x480>"})
    warning = new_output("stream", name="stderr", text="careful")
    every = [text, table, picture, warning]
    assert outputs_difference(every, every) is None
    for missing in range(4):
        fewer = every[:missing] + every[missing + 1 :]
        assert outputs_difference(every, fewer) and outputs_difference(fewer, every)


PRINT = 'print("seven is 7, a third 0.3333, done in 0.5 s")'
SHOW = 'HTML("<table><tr><td>loss</td><td>0.1234</td><td>7</td></tr></table>")'
# what is changed in the outputs of a golden cell, and whether the run still agrees with it
CHANGES = [
    (PRINT, "", "", True),
    (PRINT, "0.3333", "0.3340", True),
    (PRINT, "0.5 s", "1.5 s", True),
    (PRINT, "0.3333", "0.3433", False),
    (PRINT, "7", "8", False),
    (PRINT, "third", "fourth", False),
    (SHOW, "", "", True),
    (SHOW, "<td>7<", "<td>8<", False),
    (SHOW, "0.1234", "0.1334", False),
    (PRINT, None, None, False),  # without its output
]


@pytest.fixture(scope="module")
def golden_template(root, toy_templates, tmp_path_factory):
    """A project of one chapter with a cell for each change, and its golden run."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(toy_templates[0], folder, dirs_exist_ok=True)
    (folder / "conftest.py").write_text("pytest_plugins = 'course_tools.golden_plugin'\n")
    (folder / "notebooks/part/02_second.ipynb").unlink()
    path = folder / "notebooks/part/01_first.ipynb"
    notebook = read_notebook(path)
    notebook.cells += [new_code_cell(code) for code, *_ in CHANGES]
    nbformat.write(notebook, path)
    assert runs.golden(folder) == 0
    return folder


@pytest.fixture
def golden_toy(golden_template, pytester, root, monkeypatch):
    """A copy of it."""
    shutil.copytree(golden_template, pytester.path, dirs_exist_ok=True)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return pytester.path


def golden_results(pytester) -> tuple[list[str], str]:
    """The outcome of each golden test, in order, and all that was shown."""
    shown = pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider", "-p", "no:xdist").stdout.str()
    return re.findall(r"(?m)^tests/golden.* (PASSED|FAILED|ERROR) ", shown), shown


@pytest.mark.slow
def test_each_cell_is_compared_in_this_way(pytester, golden_toy):
    """One change in each golden cell: only the changes within the tolerance pass."""
    path = golden_path(golden_toy, "part/01_first")
    golden = read_notebook(path)
    for cell, (_, old, new, _) in zip(golden.cells[-len(CHANGES) :], CHANGES, strict=True):
        (output,) = cell.outputs
        if old is None:
            cell.outputs = []
        elif output.output_type == "stream":
            output.text = output.text.replace(old, new)
        else:
            output.data["text/html"] = output.data["text/html"].replace(old, new)
    nbformat.write(golden, path)
    agree = [True] * (1 + len(golden.cells) - len(CHANGES)) + [same for *_, same in CHANGES]
    assert golden_results(pytester)[0] == ["PASSED" if same else "FAILED" for same in agree]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "failed", "told"),
    [
        ("json.dumps(record)", "json.dumps(records)", {0, *range(4, 17)}, "raised NameError: name 'records' is not"),
        (".write_text(json.dumps(record))", "", {0}, "the run left no record"),
        ("print(", "import sys; sys.stderr.write('careful'); print(", {0, 4}, "stderr: careful"),
        ("seed / 100", "seed / 10 / 10", {0}, "of other cells. make golden CHAPTERS=part/01_first"),
    ],
    ids=["error", "no record", "warning", "stale"],
)
def test_the_run_as_a_whole_is_tested_too(pytester, golden_toy, edit, old, new, failed, told):
    edit(golden_toy / "notebooks/part/01_first.ipynb", 3, old, new)
    found, shown = golden_results(pytester)
    assert {number for number, result in enumerate(found) if result == "FAILED"} == failed
    assert told in shown


def test_golden_run_is_current(root, chapter):
    assert check_golden(root, chapter) == []


def test_golden_run_compares_every_cell(root, chapter):
    """Nothing in a chapter tells nbval to look away."""
    for cell in read_notebook(golden_path(root, chapter)).cells:
        assert cell.execution_count or not cell.source.strip()
        assert not any(tag.startswith("nbval") or tag == "raises-exception" for tag in tags(cell))
        assert "NBVAL" not in cell.source and "PYTEST_VALIDATE" not in cell.source


@pytest.mark.slow
def test_golden_run_has_code_and_parameters_but_no_pictures_or_times(toy):
    assert runs.golden(toy, ["01"]) == 0
    text, golden = golden_path(toy, "part/01_first").read_text(), read_notebook(golden_path(toy, "part/01_first"))
    assert [tags(cell) for cell in golden.cells][1:3] == [["parameters"], ["injected-parameters"]]
    assert 'scale = "smoke"' in golden.cells[2].source
    assert all(cell.cell_type == "code" for cell in golden.cells)
    assert [cell.execution_count for cell in golden.cells] == [1, 2, 3, 4, 5, 6]
    assert golden.cells[-1].outputs[0].data == {"text/plain": "<IPython.core.display.Image object>"}
    assert not any(word in text for word in ("papermill", "iopub", "image/png", '"execution"'))
    assert check_golden(toy, "part/01_first") == []
