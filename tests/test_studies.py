"""Studies: which runs there are, in which order, and that they go on after whatever stopped them."""

import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import ROOT

from course_tools import fingerprints, studies
from course_tools.__main__ import main
from course_tools.chapters import UserError, all_chapters, records_of
from course_tools.staleness import check, check_study
from course_utils import records

# A study that trains nothing and imports no torch: what it did is its checkpoint, and each epoch lasts a minute
TINY = '''\
"""Does width help?

It is only a toy.
"""

import json
import os
import signal
import threading
from pathlib import Path

factors = {"width": [8, 16], "norm": ["with", "without"]}
seeds = range(2)


def sensible(width, norm):
    return (width, norm) != (8, "without")


def train_one(seed, width, norm, scale="page"):
    helper = "helper"  # a name of the package
    run, epochs = f"{width}-{norm}", 2 if norm == "with" else 6
    reached, done = Path(os.environ["COURSE_CHECKPOINTS"], "reached"), 0
    if reached.is_file():
        done = int(reached.read_text())
        print(f"Going on after epoch {done} of {epochs}, from reached:")
        print("".join(f"epoch {epoch}/{epochs}\\n" for epoch in range(1, done + 1)), end="")
    for epoch in range(done + 1, epochs + 1):
        reached.parent.mkdir(parents=True, exist_ok=True)
        reached.write_text(str(epoch))
        print(f"a minute of seed {seed}, {run}\\nepoch {epoch}/{epochs}")
    record = {
        "run": run, "scale": scale, "seed": seed, "settings": {"width": width, "norm": norm},
        "history": [{"epoch": epoch, "seconds": 60} for epoch in range(1, epochs + 1)], "val_accuracy": seed / 10,
        **json.loads(os.environ["COURSE_CODE"]),
    }
    folder = Path(os.environ["COURSE_RESULTS"], "studies/part/01_tiny")
    folder.mkdir(parents=True)
    (folder / f"{scale}-{run}-seed{seed}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    train_one(0, 8, "with")
'''
GRID = [(0, "8-with"), (0, "16-with"), (0, "16-without"), (1, "8-with"), (1, "16-with"), (1, "16-without")]
CONDITION = "    for epoch in range(done + 1, epochs + 1):\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture
def tiny(toy, monkeypatch) -> Path:
    """The file of a study in a project of toy chapters; all definitions of its package are `helper` and `other`."""
    package = toy / "package"
    package.mkdir()
    (package / "module.py").write_text("def helper():\n    return 1\n\n\ndef other():\n    return 1\n")
    monkeypatch.setattr(fingerprints, "PACKAGE", package)
    path = toy / "notebooks/part/01_tiny.py"
    path.write_text(TINY)
    return path


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def trained(root) -> list[tuple[int, str]]:
    """Which runs have trained an epoch, in the order in which they did; one entry for each epoch."""
    log = root / "build/studies/part/01_tiny.log"
    found = re.findall(r"a minute of seed (\d+), (\S+)", log.read_text() if log.is_file() else "")
    return [(int(seed), run) for seed, run in found]


def recorded(root) -> list[tuple[int, str]]:
    return sorted(
        (record["seed"], record["run"]) for record in records_of(root / "results", "studies/part/01_tiny").values()
    )


def problems(root) -> list[str]:
    return [line for line in check(root) if "tiny" in line or "studies" in line]


def test_the_grid_is_run_seed_by_seed(tiny, toy, capsys):
    study = studies.read_study(toy, "part/01_tiny")
    assert [(run.seed, run.name) for run in study.runs] == GRID
    assert study.question == "Does width help?"
    assert main(["study", "tiny"]) == 0
    assert list(dict.fromkeys(trained(toy))) == GRID and recorded(toy) == sorted(GRID)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "part/01_tiny: 0 of 6 runs are recorded"
    assert told[1] == "What each run prints goes to build/studies/part/01_tiny.log"
    assert re.fullmatch(r"run 2 of 6, width 16, norm with, seed 0: 0.0 %, \d+ s, about \d+ s left", told[3])
    assert re.fullmatch(r"run 6 of 6, width 16, norm without, seed 1: 10.0 %, \d+ s", told[7])
    assert told[8:] == ["6 of 6 runs are recorded in results/studies/part/01_tiny."]
    assert problems(toy) == []
    assert not list((toy / "build/checkpoints").rglob("reached"))  # those of a large study would fill the disk


def test_what_is_recorded_is_not_run_again(tiny, toy, capsys):
    main(["study", "tiny"])
    before = trained(toy)
    assert main(["study", "tiny"]) == 0 and trained(toy) == before
    assert capsys.readouterr().out.endswith("part/01_tiny: all 6 runs are recorded already.\n")
    (toy / "results/studies/part/01_tiny/page-16-with-seed1.json").unlink()
    assert main(["study", "tiny"]) == 0 and set(trained(toy)[len(before) :]) == {(1, "16-with")}


def test_further_seeds_and_levels_leave_the_others_as_they_are(tiny, toy):
    main(["study", "tiny"])
    before = trained(toy)
    change(tiny, "seeds = range(2)", "seeds = [0, 1, 5]")
    change(tiny, '{"width": [8, 16],', '{"width": [8, 16, 32],')
    change(tiny, '(8, "without")', '(16, "without")')
    change(tiny, "It is only a toy.", "It is a toy.")
    change(tiny, 'train_one(0, 8, "with")', 'train_one(1, 8, "with")')
    gone = "seed{}.json: the study has no such run at the page scale. Delete it."
    where = "results/studies/part/01_tiny/page-16-without-"
    assert problems(toy) == [where + gone.format(0), where + gone.format(1)]
    assert main(["study", "tiny"]) == 0
    new = [(0, "8-without"), (0, "32-with"), (0, "32-without")]
    new += [(1, run) for _, run in new] + [
        (5, run) for run in ("8-with", "8-without", "16-with", "32-with", "32-without")
    ]
    assert list(dict.fromkeys(trained(toy)[len(before) :])) == new


@pytest.mark.parametrize("edited", ["train_one", "package", "a grid that the training looks at"])
def test_what_decides_the_training_makes_records_stale(tiny, toy, edited, capsys):
    if edited.startswith("a grid"):
        change(tiny, '    helper = "helper"', '    helper = "helper", len(seeds)')
    main(["study", "tiny"])
    before = trained(toy)
    change(toy / "package/module.py", "def other():\n    return 1", "def other():\n    return 2")
    assert problems(toy) == []
    if edited == "package":
        change(toy / "package/module.py", "def helper():\n    return 1", "def helper():\n    return 2")
    elif edited == "train_one":
        change(tiny, "seed / 10", "seed / 20")
    else:
        change(tiny, "seeds = range(2)", "seeds = [0, 1]")
    name = "helper" if edited == "package" else "01_tiny.py"
    stale = problems(toy)
    assert len(stale) == 6 and stale[0] == (
        "results/studies/part/01_tiny/page-16-with-seed0.json: the study, or what it uses of course_utils, has "
        f"changed since it was made ({name}). make study NAME=part/01_tiny"
    )
    capsys.readouterr()
    main(["study"])
    assert "part/01_tiny: 0 of 6 runs are recorded (6 of them stale), about" in capsys.readouterr().out
    assert main(["study", "tiny"]) == 0
    assert trained(toy)[len(before) :] == before and problems(toy) == []


def test_a_level_reaches_what_it_names_for_its_own_runs_only(tiny, toy):
    change(tiny, '["with", "without"]', '["with", "other"]')
    change(tiny, '(8, "without")', "None")
    runs = studies.read_study(toy, "part/01_tiny").runs[:2]
    assert ["other" in studies.study_code(tiny, run.levels).definitions for run in runs] == [False, True]


def test_check_names_a_study_that_is_none_and_records_without_one(tiny, toy):
    main(["study", "tiny"])
    change(tiny, '"width": [8, 16],', '"width": (8, 16),')
    assert [line.split(":")[0] for line in problems(toy)] == ["notebooks/part/01_tiny.py is no study yet"]
    tiny.rename(tiny.with_name("01_other.py"))
    told = [line for line in check(toy) if "results/studies" in line]
    assert len(told) == 6 and all(line.endswith("belongs to no study. Delete it.") for line in told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"""Does width help?\n\nIt is only a toy.\n"""', "", "begins with no docstring"),
        ("seeds = range(2)", "", "defines no seeds"),
        ("seeds = range(2)", "seeds = [0, 0]", r"different whole numbers from 0 on, not \[0, 0\]"),
        ("seeds = range(2)", "seeds = [-1]", "different whole numbers"),
        ("seeds = range(2)", "seeds = []", "different whole numbers"),
        ("seeds = range(2)", "seeds = range(", "SyntaxError"),
        ("seeds = range(2)", "seeds = unknown", "NameError: name 'unknown' is not defined"),
        ('{"width": [8, 16], "norm": ["with", "without"]}', "{}", "with one factor at least"),
        ("[8, 16]", "8", "factors must be like"),
        ("[8, 16]", "[8, (16, 32)]", r"the level \(16, 32\) of width must be a number or a name of letters"),
        ("[8, 16]", "[8, 'a/b']", "the level 'a/b' of width"),
        ("[8, 16]", "[8, '8']", "several combinations of levels are called '8-with'"),
        ("[8, 16]", "['a2', 16]", "'a2-with' begins like a run of a chapter"),
        ('!= (8, "without")', "is None", "no combination of levels is left"),
        ("def sensible(width, norm)", "def sensible(width)", "TypeError: sensible.. got an unexpected key"),
        ('seed, width, norm, scale="page"', "seed, width", r"train_one must take seed, width, norm and scale \(got an"),
        ('seed, width, norm, scale="page"', "seed, rate, width, norm, scale", r"missing a required argument: 'rate'"),
    ],
)  # fmt: skip
def test_a_definition_that_is_none_is_named(tiny, toy, old, new, told, capsys):
    change(tiny, old, new)
    assert main(["study", "tiny"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"notebooks/part/01_tiny\.py is no study yet: .*{told}.*\.\n", error, re.S)
    assert main(["study"]) == 0 and capsys.readouterr().out == error
    assert check_study(toy, "part/01_tiny") == [error.strip()]


def test_studies_have_short_names_and_are_listed(tiny, toy, capsys):
    for word in ("tiny", "01_tiny", "part/01_tiny", "notebooks/part/01_tiny.py"):
        assert studies.choose_study(toy, word).name == "part/01_tiny"
    (toy / "notebooks/part/02_tiny.py").write_text(TINY)
    with pytest.raises(UserError, match="'tiny' fits several studies. Valid: part/01_tiny, part/02_tiny."):
        studies.choose_study(toy, "tiny")
    assert main(["study", "huge"]) == 2
    assert "'huge' is not a study. Valid: part/01_tiny, part/02_tiny." in capsys.readouterr().err
    assert main(["study", "01_tiny", "--scale", "huge"]) == main(["study", "01_tiny", "--limit", "0"]) == 2
    error = capsys.readouterr().err
    assert "'huge' is not a scale." in error and "0 is no limit: give minutes, more than 0." in error
    assert main(["study", "--list"]) == 0
    list_one = "part/0{}_tiny: 0 of 6 runs are recorded\n    Does width help?\n"
    assert capsys.readouterr().out == list_one.format(1) + list_one.format(2)
    assert all_chapters(toy) == ["part/01_first", "part/02_second"]


def test_other_programs_beside_the_chapters_are_no_studies_and_are_not_run(toy, capsys):
    (toy / "notebooks/part/01_first.py").write_text("raise SystemExit('this chapter as text was run')\n")
    copy = toy / "notebooks/part/.ipynb_checkpoints/01_tiny-checkpoint.py"
    copy.parent.mkdir()
    copy.write_text(TINY)
    assert main(["study"]) == 0
    assert capsys.readouterr().out == "There are no studies in notebooks/ yet.\n"
    assert main(["study", "first"]) == 2
    assert "'first' is not a study. Valid: there are none yet." in capsys.readouterr().err


def test_a_trial_at_another_scale_leaves_results_alone(tiny, toy):
    assert main(["study", "tiny", "--scale", "smoke"]) == 0
    assert not (toy / "results").exists()
    assert len(records_of(toy / "build/runs/smoke/results", "studies/part/01_tiny")) == 6
    assert studies.states(toy, studies.read_study(toy, "part/01_tiny")) == ["missing"] * 6


@pytest.fixture
def minutes(toy, monkeypatch):
    """A clock on which each epoch takes a minute, and nothing else takes any time."""

    class Clock:
        monotonic = staticmethod(lambda: 60 * len(trained(toy)))
        strftime = staticmethod(lambda _: "noon")

    monkeypatch.setattr(studies, "time", Clock)


def test_a_run_that_would_not_end_in_time_is_not_begun(tiny, toy, minutes, capsys):
    """With levels of 2, 2 and 6 minutes: the first may always begin, later ones by what their own levels took."""
    assert main(["study", "tiny", "--limit", "10"]) == 0
    assert recorded(toy) == sorted(GRID[:3]) and len(trained(toy)) == 10
    told = capsys.readouterr().out.splitlines()
    # after the first run nothing is known of the other levels; after the third there is
    assert [line.partition("about")[2] for line in told[2:5]] == [" 10 min left", " 8 min left", " 10 min left"]
    assert told[-1] == (
        "Stopped for want of time: 3 of 6 runs are recorded in results/studies/part/01_tiny. The same command goes on."
    )
    main(["study"])
    assert "part/01_tiny: 3 of 6 runs are recorded, about 10 min left\n" in capsys.readouterr().out
    assert main(["study", "tiny", "--limit", "9.9"]) == 0  # with 3 minutes each by the mean of all, it would begin
    assert recorded(toy) == sorted(GRID[:5]) and len(trained(toy)) == 14
    assert main(["study", "tiny", "--limit", "6"]) == 0
    assert recorded(toy) == sorted(GRID)


WAIT = """\
        if not seed and epoch in (1, 3, 5) or seed and epoch == done + 1 == 1:  # where it should be stopped
            threading.Event().wait(30)
"""


def test_a_run_that_lasts_too_long_stops_after_an_epoch(tiny, toy, minutes, capsys):
    change(tiny, "(width, norm) != ", "norm == 'without' and (width, norm) != ")
    change(tiny, "    record = {", WAIT + "    record = {")
    for call, epochs in enumerate((1, 3, 5), 1):
        assert main(["study", "tiny", "--limit", "1" if call == 1 else "2.5"]) == 0
        assert trained(toy) == [(0, "16-without")] * epochs and recorded(toy) == []
        told = capsys.readouterr().out.splitlines()
        assert told[-1].startswith("Stopped for want of time: 0 of 2 runs are recorded in ")
    # the two runs last 6 minutes each, of which 5 are behind it
    assert main(["study", "tiny", "--limit", "6.5"]) == 0
    assert trained(toy) == [(0, "16-without")] * 6 and recorded(toy) == [(0, "16-without")]
    assert "seed 0: 0.0 %, 60 s, about 6 min left" in capsys.readouterr().out
    assert main(["study", "tiny", "--limit", "1"]) == 0 and trained(toy)[6:] == [(1, "16-without")]
    main(["study"])
    assert "part/01_tiny: 1 of 2 runs are recorded, about 5 min left\n" in capsys.readouterr().out
    assert main(["study", "tiny"]) == 0 and recorded(toy) == [(0, "16-without"), (1, "16-without")]


FIRST_WIDE = "seed < (width == 16)"  # the two runs with width 16 of seed 0


GOING_ON, DONE = "Going on after epoch 2 of 3, from 5f.pt:", "Trained already, from 5f.pt:"
NEW = ["epoch 1/3  train loss 2.1", "epoch 2/3  train loss 2.0", "epoch 3/3  train loss 1.9"]


@pytest.mark.parametrize(
    ("lines", "epochs"),
    [
        (["made 3 images", *NEW, "done"], [1, 2, 3]),
        ([GOING_ON, *NEW], [3]),
        ([DONE, *NEW, *NEW], [1, 2, 3]),  # two trainings in one run
        ([GOING_ON, *NEW, *NEW], [3, 1, 2, 3]),
        ([DONE, *NEW, GOING_ON, *NEW], [3]),
    ],
)
def test_epochs_that_fit_prints_again_are_not_counted(lines, epochs):
    """A limit shorter than the start would otherwise stop a run again before it has done anything."""
    log = io.StringIO()
    lines = [f"{line}\n" for line in lines]
    assert list(studies._new_epochs(lines, log)) == [(epoch, 3) for epoch in epochs]
    assert log.getvalue() == "".join(lines)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    helper =", "    1 / (not BAD)\n    helper =", "ZeroDivisionError: "),
        pytest.param("    helper =", "    os.kill(os.getpid(), 9 * (BAD))\n    helper =", "it was killed (signal 9)",
                     marks=POSIX),
        ('01_tiny")', '01_tiny" + "s" * (BAD))', "should have saved the record studies/part/01_tiny/page-16-"),
        ("    folder.mkdir(", "    if BAD:\n        return\n    folder.mkdir(", "but saved none"),
        ('{"width": width,', '{"width": width + (BAD),', "the settings of its record lack its levels {'width': 16}"),
        ('(os.environ["COURSE_CODE"])', '(\'{"code": "old"}\' if BAD else os.environ["COURSE_CODE"])', "of other code"),
    ],
)  # fmt: skip
def test_a_run_that_fails_is_told_and_the_others_go_on(tiny, toy, old, new, told, capsys):
    change(tiny, old, new.replace("BAD", FIRST_WIDE))
    assert main(["study", "tiny"]) == 1
    assert recorded(toy) == sorted({*GRID} - {*GRID[1:3]})
    lines = capsys.readouterr().out.splitlines()
    for line, run in ((lines[3], "run 2 of 6, width 16, norm with"), (lines[4], "run 3 of 6, width 16, norm without")):
        assert line.startswith(f"{run}, seed 0: failed: ") and told in line
    assert lines[8] == "2 failed, and the log says more."
    assert lines[9].startswith("4 of 6 runs are recorded in ") and lines[9].endswith(" The same command goes on.")
    change(tiny, new.replace("BAD", FIRST_WIDE), old)
    before = trained(toy)
    assert main(["study", "tiny"]) == 0 and recorded(toy) == sorted(GRID)
    assert {*trained(toy)[len(before) :]} == {*GRID}  # all, since the code is another one


def test_a_run_whose_code_was_edited_meanwhile_is_not_kept(tiny, toy, capsys):
    """Its record would say that the code from before has made it."""
    edit = "Path(__file__).write_text(Path(__file__).read_text().replace('seed / 10', 'seed / 20'))"
    change(tiny, "    helper =", f"    if {FIRST_WIDE}:\n        {edit}\n    helper =")
    assert main(["study", "tiny"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "seed 0: failed: its code was edited while it ran, so nothing was stored" in lines[3]
    assert recorded(toy) == sorted({*GRID} - {GRID[1]})
    assert lines[-1].startswith("4 of 6 runs are recorded")  # the first one is of the code from before
    before = trained(toy)
    assert main(["study", "tiny"]) == 0 and {*trained(toy)[len(before) :]} == {*GRID[:2]}


STOP = """\
        if epoch == 2 and norm == "without" and Path("stop").is_file():
            Path("stop").unlink()
            os.kill(os.getpid(), signal.SIGINT)  # a terminal sends it to both
            os.kill(os.getppid(), signal.SIGINT)
            threading.Event().wait(30)
"""


@POSIX
def test_ctrl_c_stops_between_epochs_and_the_same_command_goes_on(tiny, toy, monkeypatch, capsys):
    change(tiny, CONDITION, CONDITION + STOP)
    stop = tiny.with_name("stop")
    stop.touch()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        assert main(["study", "tiny"]) == 1
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C came through")
    finally:
        signal.signal(signal.SIGINT, before)
    told = capsys.readouterr().out
    where = "results/studies/part/01_tiny"
    assert told.endswith(f"Stopped by hand: 2 of 6 runs are recorded in {where}. The same command goes on.\n")
    assert not stop.exists()
    before = trained(toy)
    assert main(["study", "tiny"]) == 0 and recorded(toy) == sorted(GRID)
    assert trained(toy)[len(before) :].count(GRID[2]) == 5  # its first epoch was not repeated


def test_one_study_runs_at_a_time(tiny, toy, capsys):
    (toy / "build/studies").mkdir(parents=True)
    (toy / "build/studies/lock").write_text("123456789\n")  # of a process that was killed
    with studies._alone(toy / "build/studies"):
        assert main(["study", "tiny"]) == 2
    told = f"A study is running already, as process {os.getpid()}: wait for it, or stop it with Ctrl-C.\n"
    assert capsys.readouterr().err == told and trained(toy) == []
    assert main(["study", "tiny"]) == 0


REAL = """\
\"""Does a real training go on?\"""

import os
import signal
import threading
from pathlib import Path

import torch
from torch import nn
from course_utils import choose_scale, fit, make_shapes, records, save_record

factors = {"rate": [0.05]}
seeds = [3]


def schedule(optimizer, steps):
    def share(step):
        if step == 11 and Path("kill").is_file():  # in the third epoch of the run
            import fcntl

            held = Path("alive").open("w")
            fcntl.flock(held, fcntl.LOCK_EX)
            Path("kill").unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            threading.Event().wait()
        return 1 - step / steps

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def train_one(seed, rate, scale="page"):
    torch.set_num_threads(1)
    settings = choose_scale(scale, {"rate": (rate,) * 3, "epochs": (3, 3, 3)})
    train, val = make_shapes(80, 16, 1), make_shapes(20, 16, 2)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10))
    checkpoint = records.checkpoint_path(f"{rate}", seed, "studies/part/03_real", scale)
    history = fit(
        model, train, val, epochs=3, learning_rate=rate, batch_size=16, schedule=schedule, seed=seed, flip=True,
        device="cpu", precision="float32", checkpoint=checkpoint,
    )
    save_record("studies/part/03_real", f"{rate}", "tiny", model, train, val, history, settings, seed)
"""


def figures(results: Path) -> dict:
    (record,) = records_of(results, "studies/part/03_real").values()
    kept = ("val_accuracy", "val_loss", "train_accuracy", "settings", "parameters", "data", "seed", "epochs")
    return {name: record[name] for name in kept} | {"history": [{**row, "seconds": 0} for row in record["history"]]}


@pytest.mark.slow
@POSIX
def test_a_study_that_is_killed_goes_on_and_ends_with_the_same_figures(tmp_path, monkeypatch):
    """`kill -9` of the command: the run that it has started ends with it, and the next call goes on in its midst."""
    import fcntl

    place = tmp_path / "notebooks/part"
    place.mkdir(parents=True)
    (tmp_path / "_config.yml").write_text("")
    (place / "03_real.py").write_text(REAL)
    (place / "kill").touch()
    command = [sys.executable, "-m", "course_tools", "study", "real"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode == -signal.SIGKILL
    assert not (place / "kill").exists()
    with open(place / "alive") as held:
        wait = threading.Thread(target=fcntl.flock, args=(held, fcntl.LOCK_EX), daemon=True)
        wait.start()
        wait.join(timeout=120)
        assert not wait.is_alive(), "the run has outlived the command that had started it"
    assert not (tmp_path / "results").exists()
    monkeypatch.chdir(tmp_path)
    assert main(["study", "real"]) == 0
    assert "Going on after epoch 2 of 3, from " in (tmp_path / "build/studies/part/03_real.log").read_text()

    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "unbroken"))
    monkeypatch.setenv("COURSE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    runpy.run_path(str(place / "03_real.py"))["train_one"](3, 0.05)
    assert figures(tmp_path / "results") == figures(tmp_path / "unbroken")


def test_a_page_loads_a_study_with_its_factors(toy):
    folder = toy / "results/studies/part/01_tiny"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        for width, precision in ((8, "auto"), (16, "float32")):
            record = dict.fromkeys(records.MEASURED, 0) | {
                "chapter": "studies/part/01_tiny", "run": f"{width}-{precision}", "scale": "page", "seed": seed,
                "settings": {"width": width, "precision": precision, "data": "shapes"}, "precision": "float32",
                "val_accuracy": width / 100 + seed / 10, "history": [{"epoch": 1}], "processor": "a fast one",
            }  # fmt: skip
            (folder / f"page-{width}-{precision}-seed{seed}.json").write_text(json.dumps(record))
    found = records.load_study("part/01_tiny", directory=toy / "results")
    assert list(found.columns) == ["width", "data", *records.MEASURED]
    assert found.groupby("width")["val_accuracy"].mean().round(6).to_dict() == {8: 0.13, 16: 0.21}
    assert found[["width", "seed"]].values.tolist() == [[16, 0], [16, 1], [8, 0], [8, 1]]
    assert found["precision"].unique().tolist() == ["float32"]  # what was chosen, not what was asked for
    assert found["history"][0] == [{"epoch": 1}] and found["processor"][0] == "a fast one"
    assert records.load_study("part/01_tiny", "smoke", toy / "results").empty
    assert records.load_records("page", "studies/part/01_tiny", toy / "results")["seed"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", studies.study_names(ROOT))
def test_the_studies_of_the_course_are_whole_and_current(root, name):
    assert studies.read_study(root, name).question.endswith("?")
    assert check_study(root, name) == []
    assert len((root / f"notebooks/{name}.py").read_text(encoding="utf-8").splitlines()) <= 60


def settings_of(function, *arguments) -> dict:
    """The settings that a study would train with at the page's scale."""
    chosen, names = [], function.__globals__
    real = names["choose_scale"]
    names["choose_scale"] = lambda *given: chosen.append(real(*given)) or chosen[0]
    names["load_data"] = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        function(*arguments)
    return chosen[0].as_dict()


@pytest.mark.slow
def test_the_seeds_of_batch_norm_are_those_of_chapter_1(root, tmp_path, monkeypatch):
    """The same settings, and the same network from the same weights: it is `plain_cnn` of which a test says so."""
    study = runpy.run_path(str(root / "notebooks/ladder/01_norm_seeds.py"), run_name="study")
    published = json.loads((root / "results/ladder/01_plain_cnn/page-a2-with-norm-seed0.json").read_text())
    assert settings_of(study["train_one"], 0, "batch-norm") == published["settings"] | {"norm": "batch-norm"}
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COURSE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    study = runpy.run_path(str(root / "notebooks/ladder/01_norm_seeds.py"), run_name="study")
    study["train_one"](1, "batch-norm", scale="smoke")
    made = records.load_study("ladder/01_norm_seeds", "smoke")
    assert made[["norm", "seed", "label"]].values.tolist() == [["batch-norm", 1, published["label"]]]
    assert made["parameters"][0] == published["parameters"] and made["val_accuracy"][0] > 0.3
