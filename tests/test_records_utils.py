"""The records of training runs, and the tables made from them."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, new_tiny_network

from course_utils import choose_scale, count, fit, load_records, make_shapes, records, save_record, scoreboard

pytestmark = pytest.mark.sensitive

SETTINGS = choose_scale("smoke", {"epochs": (5, 4, 2), "image_size": (128, 64, 16), "learning_rate": (0.1, 0.1, 0.05)})
TRAIN, VAL = make_shapes(40, 16, 1), make_shapes(20, 16, 2)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Keep the records of these tests in a directory of their own."""
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("COURSE_CODE", raising=False)
    return tmp_path / "results"


@pytest.fixture(scope="module")
def trained():
    model = new_tiny_network()
    return model, fit(model, TRAIN, VAL, epochs=2, batch_size=16, device="cpu", precision="float32")


def save(trained, chapter="ladder/01_plain_cnn", run="a2-norm", label="plain CNN, batch norm", seed=0):
    model, history = trained
    return save_record(chapter, run, label, model, TRAIN, VAL, history, SETTINGS, seed)


def test_a_record_says_everything(trained, results):
    path = save(trained, seed=3)
    assert path == results / "ladder" / "01_plain_cnn" / "smoke-a2-norm-seed3.json"
    record = json.loads(path.read_text())
    model, history = trained
    assert record["chapter"] == "ladder/01_plain_cnn"
    assert (record["run"], record["label"]) == ("a2-norm", "plain CNN, batch norm")
    assert (record["scale"], record["seed"]) == ("smoke", 3)
    assert record["data"] == {
        "name": "shapes", "image_size": 16, "train": 40, "val": 20, "classes": 10,
        "digest": [TRAIN.digest(), VAL.digest()],
    }  # fmt: skip
    assert record["settings"] == {"epochs": 2, "image_size": 16, "learning_rate": 0.05}
    assert {name: record[name] for name in ("parameters", "macs")} == count(model, (3, 16, 16))
    assert record["epochs"] == len(record["history"]) == 2
    assert record["history"] == history.to_dict("records")
    assert record["val_accuracy"] == record["history"][-1]["val_accuracy"]
    assert record["val_loss"] == record["history"][-1]["val_loss"]
    assert record["train_accuracy"] == record["history"][-1]["train_accuracy"]
    assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in record["history"]))
    assert set(record["versions"]) == {"python", "torch", "torchvision", "numpy"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["device"] == "cpu"
    assert record["precision"] == "float32"
    assert record["threads"] == torch.get_num_threads()
    assert len(record["processor"]) > 1
    assert record["instructions"] == torch.backends.cpu.get_cpu_capability()
    if record["commit"] == "unknown":
        assert record["uncommitted_changes"] == "unknown"
    else:
        assert re.fullmatch("[0-9a-f]{40}", record["commit"])
        assert isinstance(record["uncommitted_changes"], bool)
    assert record["code"] == record["definitions"] == "unknown"
    made = datetime.fromisoformat(record["date"])
    assert abs((datetime.now(UTC) - made).total_seconds()) < 600


def test_a_record_holds_no_path_of_this_machine(trained):
    assert str(ROOT) not in save(trained).read_text()


def test_the_code_of_the_chapter_is_copied_from_its_runner(monkeypatch):
    monkeypatch.setenv("COURSE_CODE", json.dumps({"code": "abc123", "definitions": {"fit": "12"}}))
    model = new_tiny_network()
    history = fit(model, TRAIN, VAL, epochs=1, batch_size=16, device="cpu", precision="float32")
    record = json.loads(save((model, history)).read_text())
    assert record["code"] == "abc123" and record["definitions"] == {"fit": "12"}


def test_commit_and_changes_are_those_of_the_code(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "course_utils"
    package.mkdir(parents=True)
    (package / "module.py").write_text("x = 1\n")
    git = ["git", "-C", str(package.parent), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    found = records.provenance(torch.device("cpu"), torch.float32)
    assert (found["commit"], found["uncommitted_changes"]) == (head, False)
    (package / "module.py").write_text("x = 2\n")
    assert records.provenance(torch.device("cpu"), torch.float32)["uncommitted_changes"] is True


def test_without_git_commit_and_changes_are_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = records.provenance(torch.device("cpu"), torch.float32)
    assert found["commit"] == found["uncommitted_changes"] == "unknown"
    json.dumps(found)


def test_an_environment_inside_another_checkout_has_no_commit_of_its_own(tmp_path, monkeypatch):
    package = tmp_path / "other" / ".venv" / "lib" / "course_utils"
    package.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "other"), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["commit", "-qm", "first", "--allow-empty"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    found = records.provenance(torch.device("cpu"), torch.float32)
    assert found["commit"] == found["uncommitted_changes"] == "unknown"


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_run_that_is_not_finished_is_not_recorded(trained, results, epochs):
    part = trained[1].head(epochs)
    part.attrs = trained[1].attrs
    with pytest.raises(ValueError, match=f"the run 'a2-norm' has {epochs} of 2 epochs: only a finished run is record"):
        save((trained[0], part))
    with pytest.raises(ValueError, match="has 0 of 1 epochs"):
        save((trained[0], pd.DataFrame([])))
    assert not results.exists()


def test_numbers_from_numpy_can_be_recorded(trained, results):
    settings = choose_scale("smoke", {"rate": (1, 1, np.float32(0.5)), "sizes": (1, 1, np.array([1, 2]))})
    model, history = trained
    path = save_record("ladder/01_x", "a1", "net", model, TRAIN, VAL, history, settings, np.int64(1))
    record = json.loads(path.read_text())
    assert path.name == "smoke-a1-seed1.json" and record["seed"] == 1
    assert record["settings"] == {"rate": 0.5, "sizes": [1, 2]}


def test_a_second_run_of_the_same_seed_takes_the_place_of_the_first(trained):
    assert save(trained) == save(trained, label="another label")
    assert load_records("smoke")["label"].tolist() == ["another label"]


def test_records_stand_in_order_of_chapter_run_and_seed(trained):
    save(trained, "ladder/03_stem", "a4")
    for run, seed in [("a2", 2), ("a2-norm", 0), ("a2", 0), ("a1", 0), ("a2", 10)]:
        save(trained, "ladder/01_plain_cnn", run, seed=seed)
    found = load_records("smoke")
    assert found[["chapter", "run", "seed"]].values.tolist() == [
        ["ladder/01_plain_cnn", "a1", 0],
        ["ladder/01_plain_cnn", "a2", 0],
        ["ladder/01_plain_cnn", "a2", 2],
        ["ladder/01_plain_cnn", "a2", 10],
        ["ladder/01_plain_cnn", "a2-norm", 0],
        ["ladder/03_stem", "a4", 0],
    ]


def test_records_of_one_chapter_one_scale_and_another_directory(trained, tmp_path, results):
    save(trained, "ladder/01_plain_cnn")
    path = save(trained, "ladder/03_stem")
    shutil.copy(path, path.with_name("source-a2-norm-seed0.json"))
    assert len(load_records("smoke")) == 2
    assert len(load_records("source")) == 1
    assert load_records("smoke", "ladder/03_stem")["chapter"].tolist() == ["ladder/03_stem"]
    assert load_records("smoke", "ladder/02_residual_block").empty
    results.rename(tmp_path / "elsewhere")
    assert load_records("smoke").empty
    assert len(load_records("smoke", directory=tmp_path / "elsewhere")) == 2


def write(results, run, seed, accuracy, seconds=10.0, chapter="ladder/01_plain_cnn"):
    """Write a record by hand, with what the scoreboard needs."""
    path = results / chapter / f"page-{run}-seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"chapter": chapter, "run": run, "label": f"label of {run}", "scale": "page", "seed": seed}
    record |= {"parameters": 395674, "macs": 20646400, "seconds": seconds, "val_accuracy": accuracy}
    path.write_text(json.dumps(record))


def test_the_scoreboard(results):
    write(results, "a1", 0, 0.1)
    for seed, accuracy, seconds in ((0, 0.70, 11.0), (1, 0.71, 10.0), (2, 0.74, 13.5)):
        write(results, "a2", seed, accuracy, seconds)
    write(results, "a4", 0, 0.8216, chapter="ladder/03_stem")
    table = scoreboard("page")
    columns = ["chapter", "network", "parameters", "MACs", "training", "validation accuracy"]
    assert list(table.columns) == columns
    # mean 71.666..., sample deviation sqrt((1.667^2 + 0.667^2 + 2.333^2) / 2) = 2.0817
    assert table.values.tolist() == [
        ["01_plain_cnn", "label of a1", "395,674", "20.6 M", "10.0 s", "10.0 % (one run)"],
        ["01_plain_cnn", "label of a2", "395,674", "20.6 M", "10.0 s", "71.7 ± 2.1 % (3 seeds)"],
        ["03_stem", "label of a4", "395,674", "20.6 M", "10.0 s", "82.2 % (one run)"],
    ]
    assert scoreboard("page", "ladder/03_stem")["network"].tolist() == ["label of a4"]


def test_the_scoreboard_as_far_as_a_chapter(results):
    for chapter in ("ladder/01_plain_cnn", "ladder/03_stem", "ladder/05_how_fast", "depth/01_why", "race"):
        write(results, "a1", 0, 0.1, chapter=chapter)
    assert scoreboard("page", upto="ladder/04_bottleneck")["chapter"].tolist() == ["01_plain_cnn", "03_stem"]
    assert scoreboard("page", upto="depth/01_why")["chapter"].tolist() == ["01_why"]


def test_the_scoreboard_without_records():
    table = scoreboard("source")
    assert len(table) == 0
    assert list(table.columns) == ["chapter", "network", "parameters", "MACs", "training", "validation accuracy"]


def test_accuracy_in_words():
    assert records.accuracy_text(pd.Series([0.7123])) == "71.2 % (one run)"
    assert records.accuracy_text(pd.Series([0.70, 0.72])) == "71.0 ± 1.4 % (2 seeds)"


def test_where_things_go(monkeypatch):
    for name in ("COURSE_RESULTS", "COURSE_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    assert str(records.results_directory()) == "results"
    assert records.checkpoint_path("a2-norm", 1).as_posix() == "checkpoints/a2-norm-seed1"
    monkeypatch.setenv("COURSE_CHECKPOINTS", "elsewhere")
    path = records.checkpoint_path("a1-lenet", 1, "survey/08_which_one", "page")
    assert path.as_posix() == "elsewhere/survey/08_which_one/page-a1-lenet-seed1"
