"""Each chapter: its form, and what may stand in it; tests/golden has a run of each."""

import ast
import dis
import re
import sys
from types import CodeType

import pytest

from course_tools.chapters import chapter_path, read_notebook, tags
from course_tools.fingerprints import parse_cell
from course_tools.runs import execute

COLAB = {"course_utils", "torch", "torchvision", "numpy", "matplotlib", "pandas", "tqdm", "PIL", "IPython"}
# one that trains by its own loop, one with networks that are fetched and exported, one with many networks
AS_READERS_DO = ("ladder/01_plain_cnn", "depth/03_your_own_images", "survey/07_after_resnet")


@pytest.fixture
def notebook(root, chapter):
    return read_notebook(chapter_path(root, chapter))


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def reads_and_defines(cell) -> tuple[set[str], set[str]]:
    """The names that a cell takes from other cells, and those that it defines for them."""
    reads, defines, todo = set(), set(), []
    for step in dis.get_instructions(compile(parse_cell(cell.source), "cell", "exec")):
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in defines:
            reads.add(step.argval)
        elif step.opname in ("STORE_NAME", "STORE_GLOBAL"):
            defines.add(step.argval)
        elif isinstance(step.argval, CodeType):
            todo.append(step.argval)
    while todo:  # the bodies of functions, classes and comprehensions
        for step in dis.get_instructions(todo.pop()):
            if step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in defines:
                reads.add(step.argval)
            elif isinstance(step.argval, CodeType):
                todo.append(step.argval)
    return reads, defines


def test_a_chapter_starts_as_all_do(notebook, code, chapter):
    title, set_up, parameters = notebook.cells[0].source, code[0].source, code[1]
    assert title.startswith("# ") and f"/notebooks/{chapter}.ipynb)" in title
    assert notebook.metadata.kernelspec.name == "python3"
    lines = set_up.splitlines()
    assert lines[:3] == ["try:", "    import course_utils", lines[2]] and lines[2].startswith("except ImportError:")
    assert re.fullmatch(r"    %pip install -q --no-deps git\+https://\S+", lines[3])
    assert len(lines) <= 8
    assert tags(parameters) == ["parameters"] and parameters.source.splitlines() == ['scale = "auto"', "seed = 0"]
    assert sum("parameters" in tags(cell) for cell in code) == 1


def test_nothing_of_a_run_is_left_in_the_metadata(notebook):
    assert "papermill" not in notebook.metadata
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in notebook.cells)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_a_chapter_imports_what_colab_has(code):
    for cell in code:
        for node in ast.walk(parse_cell(cell.source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top = module.split(".")[0]
                assert top in COLAB or top in sys.stdlib_module_names, f"Colab may lack {module}"


def test_figure_cells_only_draw(code):
    """What a figure cell defines is used nowhere else, and it trains nothing: so it may change freely."""
    drawn = {}
    for cell in code:
        reads, defines = reads_and_defines(cell)
        figure = "figure" in tags(cell)
        for name in reads & set(drawn):
            pytest.fail(f"{name!r} is defined by a figure cell:\n{drawn[name]}\n\nand used by:\n{cell.source}")
        for name in defines:
            drawn.pop(name, None)
            if figure:
                drawn[name] = cell.source
        if figure:
            assert not re.search(r"\bfit\(|\.backward\(|\.step\(|save_record\(", cell.source), cell.source


def test_prose_is_plain_markdown(notebook):
    level = 0
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = re.sub(r"(?s)```.*?```", "", cell.source)
        assert not re.search(r"(?m)^(:::|\s*```\{)|\{(ref|cite|doc|term|numref)[\w:]*\}`", cell.source), cell.source
        assert text.count("<details") == text.count("</details>"), cell.source
        for marks in re.findall(r"(?m)^(#+) ", text):
            assert len(marks) <= level + 1, f"a jump from a heading of level {level} to {len(marks)}:\n{cell.source}"
            level = len(marks)


def test_cells_are_short_enough_to_read(code):
    for cell in code:
        assert len(cell.source.splitlines()) <= 40, cell.source


@pytest.mark.sensitive
@pytest.mark.slow
@pytest.mark.parametrize("name", AS_READERS_DO)
def test_a_chapter_runs_as_readers_run_it(root, name, tmp_path):
    """Golden runs fix instructions and number type; here they are what the machine takes by itself, as for a reader."""
    env = {"COURSE_CHECKPOINTS": str(tmp_path / "checkpoints"), "COURSE_DATA": str(tmp_path / "data")}
    output, results = tmp_path / "chapter.ipynb", tmp_path / "results"
    outcome = execute(root, name, "smoke", 0, output, results, CUDA_VISIBLE_DEVICES="", **env)
    assert outcome.status == "done", outcome.error
    assert outcome.figures, "the run left no record"
    for cell in read_notebook(output).cells:
        for out in cell.get("outputs", []):
            assert out.get("name") != "stderr", out.text
