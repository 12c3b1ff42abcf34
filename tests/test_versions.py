"""What is promised about versions and systems: said in one place, tried by the workflow, told to the reader."""

import re
import subprocess
import sys
import tomllib

import PIL
import pytest
import torch
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

from course_utils.versions import LOWEST, check_versions


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name.lower(): requirement for requirement in found}


def lowest(requirement: Requirement) -> str:
    (version,) = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
    return version


def same(promised: str, tried: str) -> bool:
    """Whether a bound such as 2.9 is what is tried, such as 2.9.0."""
    return Version(promised) == Version(tried)


def test_every_lowest_version_is_promised_once_and_tried():
    promised, tried = requirements("requirements.txt"), requirements("constraints-lowest.txt")
    assert promised.keys() == tried.keys()
    assert [name for name in promised if not same(lowest(promised[name]), lowest(tried[name]))] == []
    tested = requirements("constraints.txt")
    assert [name for name in promised if not promised[name].specifier.contains(lowest(tested[name]))] == []


def test_the_package_promises_what_the_project_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = requirements("requirements.txt")
    for requirement in map(Requirement, project["dependencies"]):
        assert str(requirement) == str(promised[requirement.name])
    assert {name for name in LOWEST if lowest(promised[name]) != LOWEST[name][0]} == set()
    assert set(LOWEST) <= {Requirement(text).name for text in project["dependencies"]}


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("2.8.0+cu126", True), ("2.5.1", True), ("1.13.1+cpu", True), ("2.8.0a0+git1234", True),
        ("2.9.0a0", False), ("2.9.1+cpu", False), ("2.10.0", False), ("2.14.1+cpu", False), ("3.0.0", False),
    ],
)  # fmt: skip
def test_a_torch_that_is_too_old_is_named(monkeypatch, version, old):
    monkeypatch.setattr(torch, "__version__", version)
    if not old:
        return check_versions()
    with pytest.raises(RuntimeError) as caught:
        check_versions()
    told = str(caught.value)
    assert f"needs torch 2.9 or newer, for torch.optim.Muon, but here is torch {version}:" in told
    assert "on Colab, run `%pip install --upgrade torch torchvision`" in told
    assert "on a laptop, run `pip install --upgrade torch torchvision`" in told
    assert "\n" not in told and "pillow" not in told


def test_a_pillow_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(PIL, "__version__", "10.0.1")
    with pytest.raises(RuntimeError, match="needs pillow 10.1 or newer, .* here is pillow 10.0.1.*--upgrade pil"):
        check_versions()
    monkeypatch.setattr(torch, "__version__", "2.8.0")
    with pytest.raises(RuntimeError, match="torch 2.9 .* and pillow 10.1 .* torch 2.8.0 and pillow 10.0.1"):
        check_versions()


def test_what_is_missing_counts_whatever_the_version_says(monkeypatch):
    monkeypatch.delattr(Image.Image, "has_transparency_data")
    with pytest.raises(RuntimeError, match="needs pillow 10.1"):
        check_versions()


def test_the_first_cell_of_a_chapter_tells_it():
    """It catches ImportError only, and an AttributeError further down would say nothing to its reader."""
    program = "import torch\ndel torch.optim.Muon\ntry:\n    import course_utils\nexcept ImportError:\n    print('pip')"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "" and ran.stderr.splitlines()[-1].startswith("RuntimeError: the course needs torch 2.9")


# ---- the workflow ----


@pytest.fixture(scope="module")
def workflow() -> dict:
    (path,) = (ROOT / ".github/workflows").glob("*")  # a second one could publish without these tests
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(job: dict) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_systems_and_versions_that_are_promised_are_tried(workflow):
    job = workflow["jobs"]["systems"]
    matrix = job["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert job["runs-on"] == "${{ matrix.system }}"
    lines = {line["versions"]: line for line in matrix["include"]}
    assert {name: line["constraints"] for name, line in lines.items()} == {
        "lowest": "-c constraints-lowest.txt",
        "newest": "",
    }
    assert sorted(matrix["versions"]) == sorted(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={lines['lowest']['python']}"
    told = commands(job)
    assert any(line.endswith("-r requirements.txt ${{ matrix.constraints }}") for line in told)
    assert [line.partition("loadfile ")[2] for line in told if "-m pytest" in line] == [
        "--ignore tests/golden",
        'tests/golden -k "run and not Cell"',
    ]
    assert not any(re.search(r"\bmake\b", line) for line in told)
    assert commands(workflow["jobs"]["test"]) == ["make test"]


def test_the_book_is_published_after_the_tests_by_a_job_that_runs_nothing(workflow):
    jobs = workflow["jobs"]
    assert set(jobs["book"]["needs"]) == {"test", "systems", "grading"} and jobs["deploy"]["needs"] == "book"
    assert all("always()" not in str(job.get("if", "")) for job in jobs.values())
    assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs.items() if "permissions" in job] == ["deploy"]
    assert jobs["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step["uses"].split("@")[0] for step in jobs["deploy"]["steps"]] == ["actions/deploy-pages"]
    assert commands(jobs["deploy"]) == []
