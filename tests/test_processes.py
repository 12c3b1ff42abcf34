"""Several processes that train together: they do what one does, and say it when one of them is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from course_utils import CheckpointError, fit, make_shapes, processes
from course_utils.processes import ProcessError
from course_utils.training import choose_device

pytestmark = [pytest.mark.sensitive, pytest.mark.slow]

TESTS = Path(__file__).parent
# a machine's own name need not lead to it
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
TRAIN = ["-m", "course_utils.train", "--scale", "smoke"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """For a program: one thread a process, and its files into a folder."""
    places = {name: str(folder / name) for name in ("COURSE_CHECKPOINTS", "COURSE_RESULTS", "COURSE_DATA")}
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "PYTHONPATH": paths}
    return os.environ | places | quiet | more


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process found, what each of two found, and what the two printed."""
    folder = tmp_path_factory.mktemp("processes")
    program, env = [str(TESTS / "two_processes.py"), str(folder)], environment(folder)
    subprocess.run([sys.executable, *program], env=env, check=True, capture_output=True, timeout=300)
    command = [*TORCHRUN, "--nproc-per-node", "2", *program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    return one, first, second, done


@pytest.mark.parametrize("size", [30, 31])
def test_gradients_of_two_are_those_of_one(both, size):
    one, first, second, _ = both
    for a, b, c in zip(*(found[f"gradients {size}"] for found in (one, first, second))):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(b, a, rtol=0, atol=1e-6)
        torch.testing.assert_close(c, a, rtol=0, atol=1e-6)


def test_muon_has_the_gradients_of_one(both):
    """One matrix, whose numbers lie where the weight's lie; what is made of it is bfloat16, and another matter."""
    one, first, second, _ = both
    for a, b, c in zip(*(found["gradients for muon"] for found in (one, first, second)), strict=True):
        assert a.abs().max() > 1e-3
        torch.testing.assert_close(b, a, rtol=0, atol=1e-6)
        torch.testing.assert_close(c, a, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["plain", "weighted", "one image each"])
def test_training_of_two_is_that_of_one(both, case):
    """Weights, and the metrics over all images, with a last batch that cannot be shared evenly."""
    one, first, second, _ = both
    rows, weights = one[case]
    for found in (first, second):
        for row, expected in zip(found[case][0], rows, strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(found[case][1][name], value, rtol=1e-4, atol=1e-5)


# Muon's step has the norm 1 before three steps that make its small directions up to 3.4445 times larger each. It is
# rounded to bfloat16, to the 128th part, before them and in them
MUON_ROUNDING = 0.05 * 2 * 3.4445**3 / 128


def test_a_step_of_muon_is_that_of_one(both):
    one, first, second, _ = both
    (row,), weights = one["muon"]
    for found in (first, second):
        assert found["muon"][0][0]["train_loss"] == pytest.approx(row["train_loss"], rel=1e-5)
        for name, value in weights.items():
            difference = (found["muon"][1][name] - value).norm()
            assert difference < (MUON_ROUNDING if name == "2.weight" else 1e-5), name


@pytest.mark.parametrize("case", ["plain", "weighted", "one image each", "muon", "norm", "unbroken", "resumed"])
def test_all_processes_end_with_the_same_numbers(both, case):
    _, first, second, _ = both
    assert first[case][0] == second[case][0]
    assert all(torch.equal(value, second[case][1][name]) for name, value in first[case][1].items())


def test_norms_see_their_own_part(both):
    one, first, _, _ = both
    assert not torch.equal(one["norm"][1]["9.weight"], first["norm"][1]["9.weight"])


def test_statistics_are_the_mean_of_all_processes(both):
    one, first, second, _ = both
    x, _ = next(make_shapes(75, 16, 1).batches(30))
    norms = [nn.BatchNorm2d(3), nn.BatchNorm2d(3)]
    for number, norm in enumerate(norms):
        norm(x[number::2])
    variance = (norms[0].running_var + norms[1].running_var) / 2
    assert (norms[0].running_mean - norms[1].running_mean).abs().max() > 1e-4
    for found in (first, second):
        # the parts are equal, so the mean of their means is that of one process, which has seen all
        torch.testing.assert_close(found["statistics"][0], one["statistics"][0])
        torch.testing.assert_close(found["statistics"][1], variance)
        assert found["statistics"][2] == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(both, number):
    """With an average, norms and dropout: what process 0 writes must do for all."""
    for found in both[:1] if number == 1 else both[1:3]:
        (rows, weights), (expected_rows, expected) = found["resumed"], found["unbroken"]
        assert len(rows) == 4 and rows == expected_rows
        assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


def test_what_several_processes_cannot_train_is_told(both):
    one, first, second, _ = both
    assert first["told"] == second["told"]
    told = first["told"]
    assert told["batch"].startswith("ValueError: batch_size is 1, too small for 2 processes: each needs an image")
    assert told["images"].startswith("ValueError: there are 3 training images, too few for 2 processes")
    assert told["idle"].startswith("ProcessError: the loss does not depend on idle.weight, idle.bias, but")
    assert told["frozen"] is None
    assert set(one["told"].values()) == {None}


def test_only_one_process_prints(both):
    done = both[3]
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch 1/2")]
    assert len(lines) == 4  # the cases of two epochs
    assert "Warning" not in done.stderr


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_process_ends_the_run_or_starts_it_again(tmp_path, restarts):
    # torchrun looks once a second only, so that the other process has time to say what it sees
    command = [*TORCHRUN, "--nproc-per-node", "2", "--monitor-interval", "1"]
    command += ["--max-restarts", str(restarts), *TRAIN]
    env, output = environment(tmp_path), tmp_path / "output.txt"
    checkpoints = tmp_path / "COURSE_CHECKPOINTS" / "smoke-a2-processes-seed0"
    with open(output, "w") as file:
        run = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 100
            while not list(checkpoints.glob("*.pt")):
                assert run.poll() is None and time.monotonic() < end, output.read_text()
                time.sleep(0.05)
            os.kill(children(run.pid)[-1], signal.SIGKILL)
            status = run.wait(100)
        finally:
            run.kill()
    text = output.read_text()
    record = tmp_path / "COURSE_RESULTS/depth/05_more_than_one_device/smoke-a2-processes-seed0.json"
    assert "Signal 9 (SIGKILL)" in text or "signal 9" in text.lower() or "exitcode: -9" in text, text
    if restarts:
        assert status == 0 and "Going on after epoch 1 of 2" in text and record.exists(), text
    else:
        assert status != 0 and not record.exists(), text
        assert "another process of this run has ended" in text, text


def test_a_port_in_use_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command, env = [sys.executable, *TRAIN], environment(tmp_path, **VARIABLES | {"MASTER_PORT": port})
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"the 2 processes did not find each other at 127.0.0.1:{port}" in last and "--local-addr" in last


def test_a_checkpoint_of_another_number_of_processes_is_told(tmp_path):
    """One process does not go on with what two began: the norms would see other batches."""
    env = environment(tmp_path)
    subprocess.run([sys.executable, *TRAIN], env=env, check=True, capture_output=True, timeout=100)
    folder = tmp_path / "COURSE_CHECKPOINTS"
    (folder / "smoke-a1-processes-seed0").rename(folder / "smoke-a2-processes-seed0")
    command = [*TORCHRUN, "--nproc-per-node", "2", *TRAIN]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "Going on" not in done.stdout
    assert done.stdout.count("is of another training (processes 1 instead of 2") == 1


# ------------------------------------------------------------------ one process, as if it were one of several


@pytest.mark.parametrize("options", [{}, {"flip": True, "crop": 2}, {"zoom": 0.4, "image_size": 12}])
def test_the_parts_of_a_batch_are_those_of_the_whole(options):
    """The same order and the same augmentation, whoever works on an image."""
    data = make_shapes(23, 16, 1)

    def batches(**more):
        return list(data.batches(8, torch.Generator().manual_seed(3), **options, **more))

    parts = [batches(part=(number, 3)) for number in range(3)]
    for place, (x, y) in enumerate(batches()):
        for number in range(3):
            part_x, part_y = parts[number][place]
            assert torch.equal(part_x, x[number::3]) and torch.equal(part_y, y[number::3])


def test_a_process_without_an_image_has_no_batch():
    data = make_shapes(9, 16, 1)
    assert [len(list(data.batches(8, part=(number, 3)))) for number in range(3)] == [2, 1, 1]


def test_the_parts_of_a_set_are_the_set():
    data = make_shapes(10, 16, 1)
    parts = [data.part(number, 3) for number in range(3)]
    assert [len(part) for part in parts] == [4, 3, 3]
    assert sorted(sum((part.labels.tolist() for part in parts), [])) == sorted(data.labels.tolist())
    assert data.part(0, 1) is data


# as torchrun sets them
VARIABLES = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Set the environment as torchrun does: variables(WORLD_SIZE="4"); None takes one away. Nobody is waited for."""

    def nobody(*_):
        raise RuntimeError("nobody came")

    monkeypatch.setattr(processes.distributed, "rendezvous", nobody)

    def change(**changes: str | None) -> None:
        for name, value in (VARIABLES | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return change


def test_each_process_has_a_gpu_of_its_own(monkeypatch, variables):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda")
    variables(LOCAL_RANK="3", WORLD_SIZE="4")
    assert choose_device() == torch.device("cuda", 3)
    variables(LOCAL_RANK=None, WORLD_SIZE="4")
    assert choose_device() == torch.device("cuda")


@pytest.mark.parametrize("number", [None, "1", "", " 1 "])
def test_what_is_left_over_is_ignored_where_there_is_one_process(monkeypatch, variables, number):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    variables(WORLD_SIZE=number, LOCAL_RANK="3", RANK="3", MASTER_ADDR=None)
    assert choose_device() == torch.device("cuda")
    processes.join_processes(torch.device("cpu"))
    assert processes.world_size() == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"RANK": None, "MASTER_ADDR": None, "MASTER_PORT": None},
         "WORLD_SIZE is '2', and there is no RANK, MASTER_ADDR, MASTER_PORT, but torchrun sets them all"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is '2', and there is no MASTER_ADDR, but .* for one take WORLD_SIZE out"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', but torchrun sets them all"),
        ({"MASTER_ADDR": "nowhere.invalid"}, "the name 'nowhere.invalid' leads to no machine .*--local-addr 127.0.0.1"),
    ],
)  # fmt: skip
def test_variables_that_lead_nowhere_are_told_at_once(variables, changes, told):
    variables(**changes)
    with pytest.raises(ProcessError, match=told):
        processes.join_processes(torch.device("cpu"))


def test_a_device_for_one_process_only_is_told(variables):
    variables()
    with pytest.raises(ProcessError, match='not on mps: pass device="cpu"'):
        processes.join_processes(torch.device("mps"))


@pytest.mark.parametrize(
    ("images", "batch_size", "number", "steps"),
    [(75, 16, 1, 5), (65, 16, 1, 4), (75, 16, 5, 5), (75, 16, 6, 4), (16, 16, 16, 1), (3, 16, 1, 1), (7, 1, 1, 7)],
)
def test_steps_in_which_all_have_a_part(monkeypatch, images, batch_size, number, steps):
    monkeypatch.setattr(processes, "world_size", lambda: number)
    assert processes.count_steps(images, batch_size) == steps
    data = make_shapes(images, 16, 1)
    own = [len(list(data.batches(batch_size, part=(rank, number)))) for rank in range(number)]
    assert min(own) >= steps


@pytest.mark.parametrize(
    ("images", "batch_size", "told"),
    [(75, 3, "batch_size is 3, too small for 4 processes.* Make it 8 or more"), (7, 16, "7 training images, too few")],
)
def test_steps_in_which_some_would_wait_are_refused(monkeypatch, images, batch_size, told):
    monkeypatch.setattr(processes, "world_size", lambda: 4)
    with pytest.raises(ValueError, match=told):
        processes.count_steps(images, batch_size)


def test_more_processes_than_gpus_are_told(monkeypatch, variables):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    variables()
    with pytest.raises(ProcessError, match="process 1 of this machine needs a GPU of its own, and there are 1"):
        processes.join_processes(torch.device("cuda", 1))


def test_a_checkpoint_that_only_some_can_read_is_told(tmp_path, monkeypatch):
    from helpers import new_tiny_network

    train, val = make_shapes(20, 16, 1), make_shapes(10, 16, 2)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "sum_over_processes", lambda *values: (1,))  # the other one has an epoch
    monkeypatch.setattr(processes, "parallel", lambda model: model)
    with pytest.raises(CheckpointError, match="only some of the 2 processes found .*run.pt: put it where all can"):
        fit(new_tiny_network(), train, val, epochs=2, device="cpu", checkpoint=tmp_path / "run.pt")


def test_fewer_validation_images_than_processes_are_told(monkeypatch):
    from helpers import new_tiny_network

    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="there are 1 validation images for 2 processes"):
        fit(new_tiny_network(), make_shapes(20, 16, 1), make_shapes(20, 16, 2).subset(1), epochs=1, device="cpu")
