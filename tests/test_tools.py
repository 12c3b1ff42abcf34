"""The tools that look after the course, on toy projects."""

import base64
import io
import json

import numpy as np
import pytest
from nbformat.v4 import new_output
from PIL import Image

from course_tools import runs
from course_tools.__main__ import main
from course_tools.address import address
from course_tools.chapters import UserError, choose_chapters, read_notebook
from course_tools.fingerprints import fingerprint
from course_tools.staleness import check

FIRST, SECOND = "part/01_first", "part/02_second"


def first(toy):
    return toy / "notebooks/part/01_first.ipynb"


def test_chapters_have_short_names(toy):
    for word in ("01", "01_first", FIRST, f"notebooks/{FIRST}.ipynb"):
        assert choose_chapters(toy, [word]) == [FIRST]
    assert choose_chapters(toy, None) == choose_chapters(toy, ["02,01"]) == [FIRST, SECOND]
    with pytest.raises(UserError, match=f"'07' is not a chapter. Valid: {FIRST}, {SECOND}"):
        choose_chapters(toy, ["01 07"])


def test_unknown_scale_and_chapter_end_with_2_and_the_valid_names(toy, capsys):
    assert main(["run", "--scale", "huge"]) == 2
    assert "'huge' is not a scale. Valid: smoke, cpu, gpu" in capsys.readouterr().err
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


def test_a_failing_chapter_is_shown_and_the_others_run(toy, edit, capsys):
    edit(first(toy), 4, "HTML(", "undefined_name(")
    assert main(["run"]) == 1
    shown = capsys.readouterr().out
    assert "cell [5] raised NameError: name 'undefined_name' is not defined" in shown
    assert "part/01_first   failed" in shown and "part/02_second  done" in shown


def test_a_failing_chapter_is_not_published(published, edit):
    results = published / "results/part/01_first"
    record = (results / "cpu-plain-seed0.json").read_text()
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    edit(first(published), 4, "HTML(", "undefined_name(")
    before = first(published).read_text()
    assert runs.publish(published, ["01"]) == 1
    assert first(published).read_text() == before
    assert [path.name for path in results.iterdir()] == ["cpu-plain-seed0.json"]
    assert (results / "cpu-plain-seed0.json").read_text() == record


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
        "scale": "cpu",
        "seed": 0,
        "code": fingerprint(source),
        "records": ["cpu-plain-seed0"],
    }


def test_repeats_only_add_records(published):
    before = first(published).read_text()
    assert runs.repeats(published, ["01"], seeds=3) == 0
    names = sorted(path.stem for path in (published / "results/part/01_first").iterdir())
    assert names == ["cpu-plain-seed0", "cpu-plain-seed1", "cpu-plain-seed2"]
    assert first(published).read_text() == before and check(published) == []


def test_repeats_do_not_run_again_what_is_recorded(published, edit, capsys):
    folder = published / "results/part/01_first"
    assert runs.repeats(published, ["01"], seeds=2) == 0
    before = (folder / "cpu-plain-seed1.json").stat().st_mtime_ns
    capsys.readouterr()
    assert runs.repeats(published, ["01"], seeds=3) == 0
    assert "recorded already" in capsys.readouterr().out
    assert (folder / "cpu-plain-seed1.json").stat().st_mtime_ns == before
    assert (folder / "cpu-plain-seed2.json").is_file()
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    assert runs.repeats(published, ["01"], seeds=2) == 0
    assert json.loads((folder / "cpu-plain-seed1.json").read_text())["val_accuracy"] == pytest.approx(0.71)


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


def test_new_training_code_makes_records_stale(published, edit):
    assert runs.repeats(published, ["01"], seeds=2) == 0
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    problems = "\n".join(check(published))
    stale = "the chapter's training code, or what it uses of course_utils, has changed since it was made."
    assert f"seed0.json: {stale} make publish CHAPTERS={FIRST}" in problems
    assert f"seed1.json: {stale} make repeats CHAPTERS={FIRST} SEEDS=2" in problems
    assert runs.publish(published, ["01"]) == 0 and runs.golden(published, ["01"]) == 0
    assert not (published / "results/part/01_first/cpu-plain-seed1.json").exists()
    assert check(published) == []


def test_missing_and_unknown_files_are_problems(published):
    record = published / "results/part/01_first/cpu-plain-seed0.json"
    record.rename(record.with_name("cpu-other-seed0.json"))
    golden = published / "tests/golden/part/01_first.ipynb"
    golden.rename(golden.with_name("03_gone.ipynb"))
    problems = "\n".join(check(published))
    assert "cpu-plain-seed0.json: is missing. make publish CHAPTERS=part/01_first" in problems
    assert "cpu-other-seed0.json: the published run did not write it" in problems
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
    )
    (toy / "CITATION.cff").write_text('repository-code: "https://github.com/a/b"\n')
    assert address(toy) and address(toy, write=False) == []
    (toy / "_config.yml").write_text("repository:\n  url: https://github.com/new/place\n  branch: trunk\n")
    names = [f"notebooks/{FIRST}.ipynb", f"notebooks/{SECOND}.ipynb", "README.md", "CITATION.cff", "pyproject.toml"]
    assert address(toy, write=False) == names and main(["address", "--check"]) == 1
    assert main(["address"]) == 0 and main(["address", "--check"]) == 0
    cells = read_notebook(first(toy)).cells
    assert f"github.com/github/new/place/blob/trunk/notebooks/{FIRST}.ipynb" in cells[0].source.replace(
        "colab.research.google.com", "github.com"
    )
    assert "git+https://github.com/new/place\n" in cells[1].source
    assert (toy / "README.md").read_text() == (
        "git clone https://github.com/new/place\n[a](https://github.com/new/place/issues) "
        "[c](https://github.com/a/b-c)\nhttps://new.github.io/place/ "
        "https://colab.research.google.com/github/new/place/blob/trunk/notebooks/y.ipynb\n"
    )


def test_the_address_is_the_same_everywhere(root):
    assert address(root, write=False) == []


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
