"""The tools that look after the course, on toy projects."""

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

from course_tools import confirm as confirming
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
    for word in ("01", "01_first", "first", "part/01", FIRST, f"notebooks/{FIRST}.ipynb"):
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


@pytest.mark.slow
def test_repeats_only_add_records(published):
    before = first(published).read_text()
    assert runs.repeats(published, ["01"], seeds=3) == 0
    names = sorted(path.stem for path in (published / "results/part/01_first").iterdir())
    assert names == ["cpu-plain-seed0", "cpu-plain-seed1", "cpu-plain-seed2"]
    assert first(published).read_text() == before and check(published) == []


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture
def committed(published, monkeypatch):
    """A project of toy chapters under git, its records made by its first commit; commits what changed when called."""
    monkeypatch.setattr(confirming, "RECIPES", {})

    def commit() -> str:
        run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run([*run, "add", "-A"], check=True)
        subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "a change"], check=True)
        return subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "-q"], check=True)
    (published / ".gitignore").write_text("results\nbuild\n")
    made = commit()
    for path in (published / "results").rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": made}))
    return commit


def stale_records(root):
    return [line for line in check(root) if line.startswith("results/")]


@pytest.mark.slow
def test_confirm_keeps_records_of_code_that_trains_the_same(published, committed, edit, capsys):
    path = published / "results/part/01_first/cpu-plain-seed0.json"
    before = json.loads(path.read_text())
    for number in (1, 2):  # twice: the second time, the code of the first is what is compared
        edit(first(published), 3, "folder", "folder_again")
        assert len(stale_records(published)) == 1
        now = committed()
        assert main(["confirm"]) == 0
        assert "part/01_first: 1 records confirmed" in capsys.readouterr().out
        record = json.loads(path.read_text())
        assert stale_records(published) == [] and len(record["confirmed"]) == number
        assert record["confirmed"][-1]["commit"] == now
        assert {**record, "confirmed": 0, "code": 0} == {**before, "confirmed": 0, "code": 0}
    assert record["confirmed"][0]["code_before"] == before["code"] != record["code"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            '"val_accuracy": 0.5 + seed / 100, "seconds": 0.5}',
            '"val_accuracy": 0.5001, "seconds": 0.5}',
            "other figures",
        ),
        ('"parameters": 1', '"parameters": 2', "plain has other figures"),
        ("-plain-", "-other-", "the run plain is in one of them only"),
        ("json.dumps(record)", "json.dumps(records)", "could not be run.*name 'records' is not defined"),
        (").write_text(", ").with_suffix('').write_text(", "is in one of them only"),
    ],
)
def test_confirm_refuses_what_trains_otherwise(published, committed, edit, capsys, old, new, told):
    path = published / "results/part/01_first/cpu-plain-seed0.json"
    before = path.read_text()
    edit(first(published), 3, old, new)
    committed()
    assert main(["confirm", "--chapters", "01"]) == 1
    assert re.search(f"part/01_first: 1 records stay stale: .*{told}", capsys.readouterr().out, re.S)
    assert path.read_text() == before and len(stale_records(published)) == 1


@pytest.mark.slow
def test_confirm_looks_at_each_run_by_itself(published, committed, edit, capsys):
    """A run that is new changes nothing for the others; of two runs, the one with other figures stays stale."""
    path = published / "results/part/01_first/cpu-plain-seed0.json"
    loop = 'for name in ("plain", "more"):\n    (folder / f"{scale}-{name}-seed{seed}.json")'
    edit(first(published), 3, '(folder / f"{scale}-plain-seed{seed}.json")', loop)
    committed()
    assert main(["confirm", "--chapters", "01"]) == 0
    assert "part/01_first: 1 records confirmed" in capsys.readouterr().out
    other = path.with_name("cpu-more-seed0.json")
    other.write_text(path.read_text())
    figure = '.write_text(json.dumps(record | {"macs": 3 if name == "more" else 2}))'
    edit(first(published), 3, ".write_text(json.dumps(record))", figure)
    committed()
    assert main(["confirm", "--chapters", "01"]) == 1
    told = capsys.readouterr().out
    assert "1 records stay stale: more has other figures" in told and "part/01_first: 1 records confirmed" in told
    assert len(json.loads(path.read_text())["confirmed"]) == 2 and len(json.loads(other.read_text())["confirmed"]) == 1


@pytest.mark.parametrize(("now", "told"), [(1, ""), (2, "few-40 has other figures")])
def test_confirm_of_a_run_that_a_setting_names(now, told):
    """It has another name at the smoke scale: then all runs there must be equal."""
    before = {"plain": [["0", 1]], "few-10": [["0", 1]], "few-40": [["0", 1]]}
    after = before | {"few-40": [["0", now]]}
    assert confirming._difference(before, after, "cpu-few-1000-seed0") == told
    assert confirming._difference(before, after, "cpu-few-10-seed0") == ""
    more = before | {"new": [["0", 1]]}
    assert confirming._difference(before, more, "cpu-few-1000-seed0") == "the run new is in one of them only"
    assert confirming._difference({}, {}, "cpu-plain-seed0") == "nothing was recorded"


def test_confirm_runs_nothing_where_only_the_rule_has_changed(published, committed, edit, monkeypatch, capsys):
    """Records of another rule's fingerprint: kept if the commit's own rule gives it, and the code is the same."""
    path = published / "results/part/01_first/cpu-plain-seed0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "by another rule"}))
    assert len(stale_records(published)) == 1 and main(["confirm", "--chapters", "01"]) == 1
    assert "holds the code that made them" in capsys.readouterr().out
    monkeypatch.setattr(confirming, "_code_by_its_rule", lambda then, source: "by another rule")
    monkeypatch.setattr(confirming, "_figures", lambda *_: pytest.fail("it was run"))
    assert main(["confirm", "--chapters", "01"]) == 0 and stale_records(published) == []
    assert json.loads(path.read_text())["confirmed"][0]["code_before"] == "by another rule"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "by another rule"}))
    edit(first(published), 3, "folder", "folder_again")
    committed()
    with pytest.raises(pytest.fail.Exception, match="it was run"):
        main(["confirm", "--chapters", "01"])


@pytest.mark.slow
def test_confirm_finds_a_notebook_that_was_committed_after_its_run(published, committed, edit, capsys):
    path = published / "results/part/01_first/cpu-plain-seed0.json"
    record = json.loads(path.read_text())
    before = first(published).read_text()
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    older = committed()
    first(published).write_text(before)
    committed()
    path.write_text(json.dumps(record | {"commit": older}))
    edit(first(published), 3, "folder", "folder_again")
    committed()
    assert main(["confirm", "--chapters", "01"]) == 0 and stale_records(published) == []
    assert "part/01_first: 1 records confirmed" in capsys.readouterr().out


def test_a_commits_own_rule(tmp_path):
    """The rule is that of the checkout, whatever is installed."""
    (tmp_path / "course_tools").mkdir()
    (tmp_path / "course_tools/__init__.py").touch()
    rule = "from pathlib import Path\nclass _chapter:\n    def __init__(self, name): self.name = name\n"
    rule += "    def code(self, root): return f'{self.name} of {root.name}'\n"
    (tmp_path / "course_tools/confirm.py").write_text(rule)
    source = confirming._chapter("part/01_first")
    assert confirming._code_by_its_rule(tmp_path, source) == f"part/01_first of {tmp_path.name}"


def test_confirm_wants_the_code_that_made_a_record(published, committed, edit, capsys):
    edit(first(published), 3, "0.5 + seed", "0.7 + seed")
    assert main(["confirm"]) == 2  # not committed
    assert "Commit the code first" in capsys.readouterr().err
    for path in (published / "results").rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": committed()}))
    assert main(["confirm"]) == 1
    assert re.search("stay stale: no commit of .* holds the code that made them", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "epochs"), [("smoke", [1, 2]), ("mnist-98", [1])])
def test_confirm_trains_a_recipe_of_the_race(recipe, epochs):
    first, again = (confirming._figures(ROOT, confirming._recipe(recipe)) for _ in range(2))
    assert first == again and list(first) == [recipe]
    ((seed, parameters, macs, data, history),) = first[recipe]
    assert seed == "0"
    assert [row["epoch"] for row in history] == epochs and data["train"] == 512 and parameters > 0 < macs


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
