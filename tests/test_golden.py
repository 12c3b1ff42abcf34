"""The comparison of golden runs; nbval re-runs those in tests/golden in the same pytest run."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

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


SOURCE = """\
from IPython.display import HTML
print("seven is 7, a third 0.3333, done in 0.5 s")
HTML("<table><tr><td>loss</td><td>0.1234</td><td>7</td></tr></table>")"""


def test_nbval_uses_this_comparison(pytester, root):
    """Golden notebooks with one change each: only the changes within the tolerance pass."""
    changes = {
        "same": ("", ""),
        "within": ("0.3333", "0.3340"),
        "measured": ("0.5 s", "1.5 s"),
        "float": ("0.3333", "0.3433"),
        "integer": ("7", "8"),
        "word": ("third", "fourth"),
        "cell": ("<td>7<", "<td>8<"),
        "cell_float": ("0.1234", "0.1334"),
        "missing": None,
    }
    for name, change in changes.items():
        code = new_code_cell(SOURCE, execution_count=1)
        old, new = change or ("", "")
        printed = SOURCE.split('"')[1] + "\n"
        data = {"text/plain": "<IPython.core.display.HTML object>", "text/html": SOURCE.split('"')[3]}
        if "<" in old or name == "cell_float":
            data["text/html"] = data["text/html"].replace(old, new)
        else:
            printed = printed.replace(old, new)
        code.outputs = [new_output("execute_result", data=data, execution_count=1)]
        if change is not None:
            code.outputs.insert(0, new_output("stream", text=printed))
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(new_notebook(cells=[code], metadata=metadata), pytester.path / f"{name}.ipynb")
    pytester.makeconftest(
        f"import sys\nsys.path.insert(0, {str(root)!r})\n"
        "from course_tools import golden_plugin\ngolden_plugin.install()\n"
    )
    result = pytester.runpytest_subprocess("--nbval", "--nbval-current-env", "-rA", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=6)
    for name in ("same", "within", "measured"):
        result.stdout.fnmatch_lines([f"PASSED {name}.ipynb*"])


def test_golden_run_is_current(root, chapter):
    assert check_golden(root, chapter) == []


def test_golden_run_compares_every_cell(root, chapter):
    """Nothing in a chapter tells nbval to look away."""
    for cell in read_notebook(golden_path(root, chapter)).cells:
        assert cell.execution_count or not cell.source.strip()
        assert not any(tag.startswith("nbval") or tag == "raises-exception" for tag in tags(cell))
        assert "NBVAL" not in cell.source and "PYTEST_VALIDATE" not in cell.source


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
