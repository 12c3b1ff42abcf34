"""Records and pages are kept when other code still gives the same: what was run says so, and nothing else."""

import json
import re
import shutil
import subprocess

import pytest
from helpers import ROOT, write_folder

from course_tools import confirm as confirming
from course_tools import fingerprints, runs, thin
from course_tools.__main__ import main
from course_tools.chapters import read_notebook, write_notebook
from course_tools.staleness import check

pytestmark = pytest.mark.slow
FIRST = "part/01_first"
PACKAGE = """\
RATE = 1
UNUSED = 2


def train(seed):
    return step(0.5 + seed / 100)


def step(value):
    if value > 5:
        return on_error(value)
    return value * RATE


def on_error(value):
    return UNUSED * value


def deviation(value):
    return value - 0.5


def count():
    return 1
"""
TRAINING = """\
import json, os
from pathlib import Path

from course_utils.net import train
accuracy = train(seed)
folder = Path(os.environ["COURSE_RESULTS"], chapter)
folder.mkdir(parents=True, exist_ok=True)
record = {
    "chapter": chapter, "run": "plain", "scale": scale, "seed": seed, "val_accuracy": accuracy, "precision": "float32",
    **json.loads(os.environ.get("COURSE_CODE") or "{}"), "commit": "unknown", "parameters": 1, "macs": 2, "data": {},
    "settings": {"epochs": 1, "rates": [1, 2]}, "history": [{"val_accuracy": accuracy, "seconds": 0.5}],
}
(folder / f"{scale}-plain-seed{seed}.json").write_text(json.dumps(record))
print(f"accuracy {accuracy:.3f} after 0.5 s")"""


@pytest.fixture(scope="module")
def template(toy_templates, tmp_path_factory):
    """A project under git with a package of its own and one toy chapter, published; its name of the first commit."""
    folder = tmp_path_factory.mktemp("confirm")
    shutil.copytree(toy_templates[0], folder, dirs_exist_ok=True)
    (folder / "notebooks/part/02_second.ipynb").unlink()
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters:\n  - file: notebooks/{FIRST}\n")
    (folder / ".gitignore").write_text("results\nbuild\ndata\n")
    (folder / "course_utils").mkdir()
    (folder / "course_utils/__init__.py").write_text("")
    (folder / "course_utils/net.py").write_text(PACKAGE)
    write_folder(folder / "data" / "pets", count=20)
    path = folder / f"notebooks/{FIRST}.ipynb"
    notebook = read_notebook(path)
    notebook.cells[3].source = TRAINING
    shows = "from course_utils.net import deviation\nprint(f'deviation {deviation(accuracy):.2f}')"
    notebook.cells[4].source, notebook.cells[4].metadata["tags"] = shows, ["figure"]
    write_notebook(notebook, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "PACKAGE", folder / "course_utils")
        patch.chdir(folder)
        subprocess.run(["git", "init", "-q"], check=True)
        made = commit()
        assert runs.publish(folder) == 0
        commit()
        record = folder / f"results/{FIRST}/page-plain-seed0.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"commit": made}))
    return folder


def commit() -> str:
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*run, "add", "-A"], check=True)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "a change"], check=True)
    return subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path / "project", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(confirming, "RECIPES", {})
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path / "project/course_utils")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "project/data"))
    return tmp_path / "project"


@pytest.fixture
def change(project):
    """change(old, new): in the package; it is committed."""

    def edit(old: str, new: str) -> str:
        path = project / "course_utils/net.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return commit()

    return edit


def stale(project) -> str:
    """The problems that `check` tells of the record and the page; golden runs are not made here."""
    return "\n".join(line for line in check(project) if "golden" not in line)


def record_of(project) -> dict:
    return json.loads((project / f"results/{FIRST}/page-plain-seed0.json").read_text())


def test_what_is_the_same_is_kept_and_says_what_was_executed(project, change, capsys):
    before = record_of(project)
    now = change("return value * RATE", "return RATE * value")
    assert "has changed since it was made (step)" in stale(project)
    assert main(["confirm"]) == 0
    told = capsys.readouterr().out
    assert f"{FIRST}: 1 records confirmed; executed of what has changed: step" in told and "its page confirmed" in told
    assert stale(project) == ""
    record = record_of(project)
    entry = record["confirmed"][0]
    assert (entry["commit"], entry["commit_before"]) == (now, before["commit"])
    assert (entry["executed"], entry["by_hand"]) == (["step"], [])
    unchanged = {key: value for key, value in before.items() if key not in ("code", "definitions")}
    assert unchanged == {key: record[key] for key in unchanged}
    # the next time, it is compared with this commit
    change("return RATE * value", "return value * (RATE)  # the same\n")
    assert stale(project) != "" and main(["confirm"]) == 0
    assert record_of(project)["confirmed"][1]["commit_before"] in (now, commit()) and stale(project) == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("return value * RATE", "return value * RATE + 1e-6", "plain has other figures"),
        ("RATE = 1", "RATE = 1.001", "plain has other figures"),
        ("0.5 + seed / 100", "nothing", r"the run plain was not made again \(cell cell-3: NameError"),
    ],
)
def test_what_trains_otherwise_stays_stale(project, change, capsys, old, new, told):
    before = record_of(project)
    change(old, new)
    assert main(["confirm"]) == 1
    assert re.search(f"{FIRST}: 1 records stay stale: {told}", capsys.readouterr().out)
    assert record_of(project) == before and stale(project) != ""


@pytest.mark.parametrize(("old", "name"), [("UNUSED * value", "on_error"), ("UNUSED = 2", "UNUSED")])
def test_a_definition_that_was_not_executed_is_not_vouched_for(project, change, capsys, old, name):
    change(old, f"{old} + 1")
    assert main(["confirm"]) == 1
    told = capsys.readouterr().out
    assert f"1 records stay stale: changed and not executed here: {name}. --by-hand names" in told
    assert "its page stays stale" in told and stale(project) != ""
    assert main(["confirm", "--by-hand", name]) == 0
    assert record_of(project)["confirmed"][0]["by_hand"] == [name] and stale(project) == ""


def test_settings_are_compared_with_those_of_the_record(project, change, capsys):
    path = project / f"results/{FIRST}/page-plain-seed0.json"
    path.write_text(json.dumps(record_of(project) | {"settings": {"epochs": 2, "rates": [1, 2]}}))
    change("return value * RATE", "return RATE * value")
    assert main(["confirm"]) == 1
    assert "1 records stay stale: plain has other settings: epochs" in capsys.readouterr().out


def test_a_page_that_shows_something_else_stays_stale_its_records_do_not(project, change, capsys):
    change("value - 0.5", "value - 0.4")
    assert re.search(r"^notebooks/.*stale, its code.*\(deviation\)", stale(project)) and "results" not in stale(project)
    assert main(["confirm"]) == 1
    told = capsys.readouterr().out
    assert "its page stays stale: cell cell-4 shows something else: stdout: '0.00' became '0.10'" in told
    assert stale(project).startswith("notebooks/")


def test_an_older_confirmation_does_not_count(project, change):
    """It compared drawn shapes: the record goes back to the code and the commit that made it."""
    record = record_of(project)
    assert confirming._origin(record) == (record["code"], record["commit"])
    older = record | {"code": "now", "confirmed": [{"code_before": "first", "commit": "a"}, {"code_before": "b"}]}
    assert confirming._origin(older) == ("first", record["commit"])
    newer = record | {"code": "now", "confirmed": [{"commit": "c", "executed": []}]}
    assert confirming._origin(newer) == ("now", "c")


def test_code_must_be_committed_and_found_and_data_be_there(project, change, capsys, monkeypatch):
    (project / "course_utils/net.py").write_text(PACKAGE + "\n\ndef more():\n    return 1\n")
    assert main(["confirm"]) == 2
    assert "Commit the code first" in capsys.readouterr().err
    change("value * RATE", "RATE * value")
    path = project / f"results/{FIRST}/page-plain-seed0.json"
    path.write_text(json.dumps(record_of(project) | {"code": "of nobody"}))
    assert main(["confirm"]) == 1
    assert re.search("stay stale: no commit of .* holds the code that made them", capsys.readouterr().out)
    commit()
    monkeypatch.setenv("COURSE_DATA", str(project / "nowhere"))
    change("RATE * value", "value * RATE")
    assert main(["confirm"]) in (1, 2)
    assert "holds no data: set COURSE_DATA" in "".join(capsys.readouterr())


def test_thin_data_is_a_part_of_each_class(tmp_path):
    write_folder(tmp_path / "data" / "pets", count=20)
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    for number in range(30):
        (tmp_path / f"data/MNIST/raw/{number}").write_bytes(b"1")
    (tmp_path / "data/cache").mkdir()
    (tmp_path / "data/cache/old.npy").write_bytes(b"1")
    thin.thin_data(tmp_path / "data", tmp_path / "thin")
    found = [
        len(list((tmp_path / "thin" / place).iterdir())) for place in ("pets/train/cat", "pets/val/dog", "MNIST/raw")
    ]
    assert found == [thin.PARTS["train"], thin.PARTS["val"], 30] and not (tmp_path / "thin/cache").exists()


def test_a_recipe_of_the_race_runs_as_it_stands(tmp_path):
    """Its own number of epochs, and what it executed, also in other threads."""
    write_folder(tmp_path / "pets", count=1)
    trial = thin.run_recipe(ROOT, "smoke", tmp_path, "float32")
    assert trial.errors == [] and len(trial.records[0]["history"]) == 3
    assert {"fit", "race", "ImageData.batches", "make_shapes"} <= trial.ran


PICTURE = """\
import io, time
import PIL.Image
from IPython.display import Image
file = io.BytesIO()
PIL.Image.new("L", (9, 9), {shade}).save(file, "PNG")
Image(data=file.getvalue())"""


@pytest.mark.parametrize(
    ("shade", "new", "status"),
    [("int(time.time() * 1000) % 251", "-0.5 + value", 0), ("round(100 * deviation(1))", "value - 0.4", 1)],
)
def test_a_picture_of_measured_times_is_not_compared(project, change, capsys, shade, new, status):
    """The same code draws it otherwise each time; one that it draws the same way each time is compared."""
    path = project / f"notebooks/{FIRST}.ipynb"
    notebook = read_notebook(path)
    notebook.cells[4].source = "from course_utils.net import deviation\nunused = deviation(1)"
    notebook.cells[5].source = PICTURE.format(shade=shade)
    write_notebook(notebook, path)
    commit()
    assert runs.publish(project) == 0
    commit()
    change("value - 0.5", new)
    assert main(["confirm"]) == status
    assert ("cell cell-5 shows something else: image/png: another picture" in capsys.readouterr().out) == bool(status)


STUDY = '''\
"""Does the offset help?"""

import json, os
from pathlib import Path
factors = {"offset": ["none", "some"]}
seeds = range(3, 5)


def train_one(seed, offset, scale="page"):
    from course_utils import net
    accuracy = net.train(seed) if offset == "none" else net.step(0.25)
    record = {
        "chapter": "studies/part/01_offsets", "run": offset, "scale": scale, "seed": seed, "val_accuracy": accuracy,
        "precision": "float32", "commit": COMMIT, "parameters": 1, "macs": 2, "data": {},
        "settings": {"offset": offset}, "history": [{"val_accuracy": accuracy, "seconds": 0.5}],
        **json.loads(os.environ["COURSE_CODE"] or "{}"),
    }
    folder = Path(os.environ["COURSE_RESULTS"], "studies/part/01_offsets")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{scale}-{offset}-seed{seed}.json").write_text(json.dumps(record))
'''


def test_each_run_of_a_study_is_confirmed_by_itself(project, change, capsys):
    """Its records say what was executed; a run that does something else by now stays stale, and no chapter is asked."""
    path = project / "notebooks/part/01_offsets.py"
    path.write_text(STUDY.replace("COMMIT", "''"))
    path.write_text(STUDY.replace("COMMIT", repr(commit())))
    made = commit()
    assert main(["study", "offsets"]) == 0 and stale(project) == ""
    folder = project / "results/studies/part/01_offsets"
    for record in folder.iterdir():
        record.write_text(json.dumps(json.loads(record.read_text()) | {"commit": made}))
    change("value * RATE", "RATE * value")
    assert stale(project).count("01_offsets/page") == 4 and main(["confirm", "--chapters", "offsets"]) == 0
    told = capsys.readouterr().out
    assert re.search("01_offsets none: 2 records confirmed; executed of what has changed: step", told)
    assert FIRST not in told and "01_offsets" not in stale(project) and FIRST in stale(project)
    entry = json.loads((folder / "page-some-seed4.json").read_text())["confirmed"][0]
    assert (entry["executed"], entry["commit_before"]) == (["step"], made)
    change("seed / 100", "seed / 101")  # which `some` does not come to
    assert main(["confirm", "--chapters", "01_offsets"]) == 1
    told = capsys.readouterr().out
    assert "01_offsets none: 2 records stay stale: none has other figures" in told
    assert "01_offsets some: 2 records stay stale: changed and not executed here: train" in told
