"""The command that runs the sensitive tests as other machines would."""

import pytest

from course_tools.__main__ import main
from course_tools.chapters import UserError
from course_tools.portable import MODES, portable

TESTS = """\
import os
import pytest

@pytest.mark.sensitive
def test_in_every_mode():
    assert os.environ["OMP_NUM_THREADS"] in "12"

@pytest.mark.sensitive
def test_not_in_bfloat16():
    assert os.environ.get("COURSE_PRECISION") != "bfloat16"

@pytest.mark.sensitive
def test_not_with_avx2_only():
    assert "ATEN_CPU_CAPABILITY" not in os.environ or "COURSE_PRECISION" in os.environ

@pytest.mark.sensitive
@pytest.mark.slow
def test_a_slow_one():
    assert int(os.environ["OMP_NUM_THREADS"]) > 0

def test_that_is_not_sensitive():
    raise AssertionError
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with tests that pass in some of the modes."""
    (tmp_path / "_config.yml").write_text("")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    sensitive\n    slow\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_some.py").write_text(TESTS)
    monkeypatch.chdir(tmp_path)
    for name in {name for mode in MODES.values() for name in mode}:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def rows(capfd) -> dict[str, tuple[int, int]]:
    """mode -> passed, failed, as the table shows them."""
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    return {line[0]: (int(line[1]), int(line[2])) for line in lines if len(line) == 4 and line[0] in MODES}


@pytest.mark.slow
def test_each_mode_has_its_row(project, capfd):
    assert main(["portable"]) == 1
    assert rows(capfd) == {"as-is": (4, 0), "threads": (4, 0), "avx2": (3, 1), "bfloat16": (3, 1)}


@pytest.mark.slow
def test_some_modes_without_what_is_slow(project, capfd):
    assert main(["portable", "--modes", "as-is", "--short"]) == 0
    assert rows(capfd) == {"as-is": (3, 0)}


@pytest.mark.slow
def test_tests_that_cannot_be_run_are_a_failure(project, capfd):
    (project / "tests/test_some.py").write_text("import nothing_of_that_name")
    assert main(["portable", "--modes", "as-is"]) == 1
    (project / "tests/test_some.py").write_text("")  # no test at all
    assert main(["portable", "--modes", "as-is"]) == 1


def test_an_unknown_mode(project):
    with pytest.raises(UserError, match="There is no mode arm. Valid: as-is, threads, avx2, bfloat16"):
        portable(project, ["arm"])
