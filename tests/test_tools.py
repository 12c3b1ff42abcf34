"""The tools that look after the course, on toy projects."""

import ast
import base64
import io
import json
import re
import subprocess

import numpy as np
import pytest
from helpers import ROOT
from nbformat.v4 import new_output
from PIL import Image

from course_tools import runs
from course_tools.__main__ import main
from course_tools.address import address, read_address
from course_tools.chapters import UserError, all_chapters, chapter_path, choose_chapters, golden_path, read_notebook
from course_tools.fingerprints import page_code
from course_tools.staleness import check

FIRST, SECOND = "part/01_first", "part/02_second"


def first(toy):
    return toy / "notebooks/part/01_first.ipynb"


def test_chapters_have_short_names(toy):
    for word in ("01", "01_first", "first", "part/01", FIRST, f"notebooks/{FIRST}.ipynb"):
        assert choose_chapters(toy, [word]) == [FIRST]
    assert choose_chapters(toy, None) == choose_chapters(toy, ["02,01"]) == [FIRST, SECOND]
    with pytest.raises(UserError, match=f"'07' is not a chapter. Valid: {FIRST}, {SECOND}"):
        choose_chapters(toy, ["01 07"])


CONTENTS = """\
format: jb-book
root: book/index
parts:
  - chapters:
      - file: book/how_to_use
      - file: notebooks/part/02_second
        sections:
          - file: notebooks/part/01_first.ipynb
"""


def test_chapters_are_those_of_the_contents(toy, capsys):
    """A copy, and a notebook that was only begun, change nothing and are said to be ignored."""
    (toy / "_toc.yml").write_text(CONTENTS)
    (toy / "notebooks/part/01_first-Copy1.ipynb").write_text(first(toy).read_text())
    (toy / "notebooks/Untitled.ipynb").write_text("")
    assert all_chapters(toy) == choose_chapters(toy, ["01", "02", "01_first"]) == [SECOND, FIRST]
    others = "notebooks/Untitled.ipynb, notebooks/part/01_first-Copy1.ipynb"
    ignored = f"Ignored, since _toc.yml does not name them: {others}."
    assert main(["run", "--chapters", "Untitled"]) == 2
    assert f"Valid: {SECOND}, {FIRST}. {ignored}\n" in capsys.readouterr().err
    main(["check"])
    told = capsys.readouterr().out
    assert told.count(ignored) == 1 and told.count("Untitled") == 1
    first(toy).unlink()
    assert main(["check"]) == 2
    assert f"_toc.yml names notebooks/{FIRST}, but that is not there" in capsys.readouterr().err


def as_colab_saves(path) -> dict:
    """Rewrite a notebook as Colab does: in format 4.0, the ids in the metadata; return it."""
    notebook = json.loads(path.read_text())
    notebook["nbformat_minor"] = 0
    for cell in notebook["cells"]:
        cell["metadata"]["id"] = cell.pop("id").replace("cell-", "MJBs_flRov")
    path.write_text(json.dumps(notebook))
    return notebook


@pytest.mark.slow
def test_a_chapter_that_colab_has_saved(toy):
    saved = as_colab_saves(first(toy))
    assert main(["publish", "--chapters", "01"]) == main(["golden", "--chapters", "01"]) == 0
    assert json.loads(first(toy).read_text())["nbformat_minor"] == 5
    cells = read_notebook(first(toy)).cells
    assert [cell.id for cell in cells] == [cell["metadata"]["id"] for cell in saved["cells"]]
    assert not any("id" in cell.metadata for cell in cells)
    for place in (first(toy), golden_path(toy, FIRST)):
        assert "accuracy 0.500" in {cell.id: cell for cell in read_notebook(place).cells}["MJBs_flRov3"].outputs[0].text
    assert [line for line in check(toy) if FIRST in line] == []


def test_cells_without_an_id_of_their_own_are_called_by_their_place(toy):
    saved = as_colab_saves(first(toy))
    for number, name in enumerate(["same", "same", "with a space", None]):
        saved["cells"][number]["metadata"] = {} if name is None else {"id": name}
    first(toy).write_text(json.dumps(saved))
    ids = [cell.id for cell in read_notebook(first(toy)).cells]
    assert ids == ["same", "cell-number-1", "cell-number-2", "cell-number-3", "MJBs_flRov4", "MJBs_flRov5"]


@pytest.mark.parametrize(
    ("old", "new"), [('"cells"', '"sheets"'), ('"cells"', "<<<<<<< HEAD"), ('"cell_type": "code"', '"cell_type": "x"')]
)
def test_what_is_no_notebook_is_refused_before_anything_runs(toy, monkeypatch, capsys, old, new):
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("it was run"))
    text = first(toy).read_text()
    assert old in text
    first(toy).write_text(text.replace(old, new))
    assert main(["publish", "--chapters", "01"]) != 0
    told = capsys.readouterr()
    assert re.search(r"part.01_first\.ipynb is not a valid notebook \(.+\): mend it", told.out + told.err)


@pytest.mark.slow
def test_run_honours_the_folder_for_checkpoints(toy, edit, monkeypatch):
    """As the page "How to use this course" says; publish keeps a folder for each state of the code."""
    edit(first(toy), 3, "print(f", 'print(os.environ["COURSE_CHECKPOINTS"]); print(f')
    monkeypatch.setenv("HOME", str(toy))

    def printed(path) -> str:
        outputs = [output for cell in read_notebook(path).cells for output in cell.get("outputs", [])]
        return next(output.text for output in outputs if "text" in output).splitlines()[0]

    runs.run(toy, "smoke", ["01"])
    own = printed(toy / "build/runs/smoke/part/01_first.ipynb")
    assert own.startswith(str(toy / "build/checkpoints/smoke"))
    for value, meant in (("~/kept", "kept"), ("'kept here'", "kept here")):  # as a shell and as %env write it
        monkeypatch.setenv("COURSE_CHECKPOINTS", value)
        runs.run(toy, "smoke", ["01"])
        assert printed(toy / "build/runs/smoke/part/01_first.ipynb") == str(toy / meant)
    runs.publish(toy, ["01"])
    assert printed(first(toy)) == own.replace("/smoke/", "/page/")


def test_text_is_written_with_the_same_line_ends_everywhere():
    """Windows would write \\r\\n, and every file would differ."""
    without = []
    for path in sorted((ROOT / "course_tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                mode = [part.value for part in node.args[1:2] if isinstance(part, ast.Constant)]
                writes = name == "write_text" or (name == "open" and mode in (["w"], ["a"], ["x"]))
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                if writes and options.get("newline") != repr("\n"):
                    without.append(f"{path.name}:{node.lineno}")
    assert without == []


def test_unknown_scale_and_chapter_end_with_2_and_the_valid_names(toy, capsys):
    assert main(["run", "--scale", "huge"]) == 2
    assert "'huge' is not a scale. Valid: source, page, smoke" in capsys.readouterr().err
    assert main(["run", "--chapters", "07"]) == 2
    assert f"Valid: {FIRST}, {SECOND}" in capsys.readouterr().err


def test_run_leaves_what_is_stored_alone(toy, capsys):
    before = first(toy).read_text()
    assert main(["run", "--scale", "smoke", "--chapters", "01"]) == 0
    assert first(toy).read_text() == before and not (toy / "results").exists()
    assert (toy / "build/runs/smoke/part/01_first.ipynb").is_file()
    assert (toy / "build/runs/smoke/results/part/01_first/smoke-plain-seed0.json").is_file()
    table = capsys.readouterr().out
    assert "part/01_first  done" in table and "plain 50.0 %" in table


@pytest.mark.slow
def test_a_failing_chapter_is_shown_and_the_others_run(toy, edit, capsys):
    edit(first(toy), 4, "HTML(", "undefined_name(")
    assert main(["run"]) == 1
    shown = capsys.readouterr().out
    assert "cell [5] raised NameError: name 'undefined_name' is not defined" in shown
    assert "part/01_first   failed" in shown and "part/02_second  done" in shown


def test_a_failing_chapter_is_not_published(published, edit):
    results = published / "results/part/01_first"
    record = (results / "page-plain-seed0.json").read_text()
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    edit(first(published), 4, "HTML(", "undefined_name(")
    before = first(published).read_text()
    assert runs.publish(published, ["01"]) == 1
    assert first(published).read_text() == before
    assert [path.name for path in results.iterdir()] == ["page-plain-seed0.json"]
    assert (results / "page-plain-seed0.json").read_text() == record


@pytest.mark.slow
def test_published_notebook_is_the_source_with_outputs(toy):
    source = read_notebook(first(toy))
    assert runs.publish(toy, ["01"]) == 0
    notebook, text = read_notebook(first(toy)), first(toy).read_text()
    assert [(c.id, c.source, c.metadata) for c in notebook.cells] == [
        (c.id, c.source, c.metadata) for c in source.cells
    ]
    assert not any(word in text for word in ("papermill", "iopub", "injected", '"execution"'))
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert notebook.metadata["course"] == {
        "scale": "page",
        "seed": 0,
        "code": page_code(source).fingerprint,
        "definitions": page_code(source).definitions,
        "commit": "unknown",
        "records": ["page-plain-seed0"],
    }


@pytest.mark.slow
def test_repeats_only_add_records(published):
    before = first(published).read_text()
    assert runs.repeats(published, ["01"], seeds=3) == 0
    names = sorted(path.stem for path in (published / "results/part/01_first").iterdir())
    assert names == ["page-plain-seed0", "page-plain-seed1", "page-plain-seed2"]
    assert first(published).read_text() == before and check(published) == []


@pytest.mark.slow
def test_repeats_do_not_run_again_what_is_recorded(published, edit, capsys):
    folder = published / "results/part/01_first"
    assert runs.repeats(published, ["01"], seeds=2) == 0
    before = (folder / "page-plain-seed1.json").stat().st_mtime_ns
    capsys.readouterr()
    assert runs.repeats(published, ["01"], seeds=3) == 0
    assert "recorded already" in capsys.readouterr().out
    assert (folder / "page-plain-seed1.json").stat().st_mtime_ns == before
    assert (folder / "page-plain-seed2.json").is_file()
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    assert runs.repeats(published, ["01"], seeds=2) == 0
    assert json.loads((folder / "page-plain-seed1.json").read_text())["val_accuracy"] == pytest.approx(0.71)


@pytest.mark.parametrize(("noise", "kind"), [(True, "image/jpeg"), (False, "image/png")])
def test_large_photographs_are_stored_as_jpeg(noise, kind):
    values = np.random.default_rng(0).integers(0, 256 if noise else 2, (800, 800, 3))
    pixels = (values if noise else 255 * values).astype(np.uint8)  # two values: a PNG of one bit for eight
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    output = new_output("display_data", {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "x"})
    runs._shrink_photograph(output)
    assert set(output["data"]) == {kind, "text/plain"}
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(output["data"][kind]))).convert("RGB"))
    assert len(png.getvalue()) > 150_000 and again.shape == pixels.shape and abs(again.mean() - pixels.mean()) < 3


def test_a_new_figure_makes_outputs_and_golden_stale_but_no_record(published, edit):
    edit(first(published), 5, "Image(", "Image(data=")
    assert [problem.split(":")[0] for problem in check(published)] == [
        "notebooks/part/01_first.ipynb",
        "tests/golden/part/01_first.ipynb",
    ]


@pytest.mark.slow
def test_new_training_code_makes_records_stale(published, edit):
    assert runs.repeats(published, ["01"], seeds=2) == 0
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    problems = "\n".join(check(published))
    changed = (
        "the chapter's training code, or what it uses of course_utils, has changed since it was made (cell cell-3)"
    )
    assert f"seed0.json: {changed}. make publish CHAPTERS={FIRST}, or make confirm" in problems
    assert f"seed1.json: {changed}. make repeats CHAPTERS={FIRST} SEEDS=2, or make confirm" in problems
    assert runs.publish(published, ["01"]) == 0 and runs.golden(published, ["01"]) == 0
    assert not (published / "results/part/01_first/page-plain-seed1.json").exists()
    assert check(published) == []


def test_missing_and_unknown_files_are_problems(published):
    record = published / "results/part/01_first/page-plain-seed0.json"
    record.rename(record.with_name("page-other-seed0.json"))
    golden = published / "tests/golden/part/01_first.ipynb"
    golden.rename(golden.with_name("03_gone.ipynb"))
    problems = "\n".join(check(published))
    assert "page-plain-seed0.json: is missing. make publish CHAPTERS=part/01_first" in problems
    assert "page-other-seed0.json: the published run did not write it" in problems
    assert "tests/golden/part/01_first.ipynb: is missing. make golden" in problems
    assert "tests/golden/part/03_gone.ipynb: belongs to no chapter" in problems


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda cell: cell.update(execution_count=9), "not run from top to bottom"),
        (lambda cell: cell["metadata"].pop("mystnb"), "a picture has no alternative text"),
        (
            lambda cell: cell["outputs"].append({"output_type": "stream", "name": "stderr", "text": "careful"}),
            "shows a warning or other stderr: 'careful'",
        ),
        (
            lambda cell: cell["outputs"].append(
                {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
            ),
            "shows an error (ValueError)",
        ),
    ],
)
def test_a_bad_output_is_a_problem(published, change, expected, capsys):
    notebook = json.loads(first(published).read_text())
    change(notebook["cells"][5])
    first(published).write_text(json.dumps(notebook))
    assert main(["check"]) == 1
    assert expected in capsys.readouterr().out


def test_address_is_copied_from_the_configuration(toy):
    (toy / "README.md").write_text(
        "git clone https://github.com/a/b\n[a](https://github.com/a/b/issues) [c](https://github.com/a/b-c)\n"
        "https://a.github.io/b/ https://colab.research.google.com/github/a/b/blob/main/notebooks/y.ipynb\n"
        "https://github.com/a/b.git git@github.com:a/b notebooks/a/b\n"
    )
    (toy / "CITATION.cff").write_text('repository-code: "https://github.com/a/b"\n')
    (toy / "picture").write_bytes(b"\xff https://github.com/a/b")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "-A"], check=True)
    (toy / "notes.md").write_text("https://github.com/a/b")  # not the project's
    assert address(toy) == []
    (toy / "_config.yml").write_text("repository:\n  url: https://github.com/new/place\n  branch: trunk\n")
    names = ["CITATION.cff", "README.md", f"notebooks/{FIRST}.ipynb", f"notebooks/{SECOND}.ipynb", "pyproject.toml"]
    assert address(toy, write=False) == names and main(["address", "--check"]) == 1
    assert main(["address"]) == 0 and main(["address", "--check"]) == 0
    cells = read_notebook(first(toy)).cells
    assert "https://colab.research.google.com/github/new/place/blob/trunk/notebooks/x.ipynb" in cells[0].source
    assert "git+https://github.com/new/place\n" in cells[1].source
    assert (toy / "README.md").read_text() == (
        "git clone https://github.com/new/place\n[a](https://github.com/new/place/issues) "
        "[c](https://github.com/a/b-c)\nhttps://new.github.io/place/ "
        "https://colab.research.google.com/github/new/place/blob/trunk/notebooks/y.ipynb\n"
        "https://github.com/new/place.git git@github.com:a/b notebooks/a/b\n"
    )
    (toy / "_config.yml").write_text("repository:\n  url: https://github.com/new/place\n  branch: main\n")
    assert address(toy) == ["README.md", f"notebooks/{FIRST}.ipynb", f"notebooks/{SECOND}.ipynb"]


def test_the_address_is_looked_for_in_a_checkout(toy, capsys):
    assert main(["address"]) == 2
    assert "in the files that git knows, but fatal: not a git repository" in capsys.readouterr().err


def test_the_address_is_the_same_everywhere(root, chapter):
    """What is looked for is what pyproject.toml says, so a chapter that was written with another one is found here."""
    url, branch = read_address(root)
    assert address(root, write=False) == []
    cells = read_notebook(chapter_path(root, chapter)).cells
    link = f"{url.replace('github.com', 'colab.research.google.com/github')}/blob/{branch}/notebooks/{chapter}.ipynb"
    assert f"]({link})" in cells[0].source
    installs = [line for cell in cells for line in cell.source.splitlines() if "%pip install" in line]
    assert [line.strip() for line in installs] == [f"%pip install -q --no-deps git+{url}"]


def test_a_chapter_that_was_edited_while_it_ran_is_not_stored(toy, edit, monkeypatch, capsys):
    """Else outputs of the old code would stand under the new code, and count as current."""
    execute = runs.execute

    def edited_meanwhile(*arguments, **options):
        outcome = execute(*arguments, **options)
        edit(first(toy), 5, "Image(", "Image(data=")
        return outcome

    monkeypatch.setattr(runs, "execute", edited_meanwhile)
    assert main(["publish", "--chapters", "01"]) == 1
    assert "was edited while it ran" in capsys.readouterr().out
    assert not (toy / "results").exists()
    assert not read_notebook(first(toy)).cells[3].outputs
