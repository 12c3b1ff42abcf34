"""Run the sensitive tests as other machines would: what passes in every mode does not depend on the processor."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from course_tools.chapters import UserError

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # without effect where there is no such thing
MODES = {
    "as-is": {},
    "threads": {"OMP_NUM_THREADS": "2"},
    "avx2": AVX2,
    "bfloat16": AVX2 | {"COURSE_PRECISION": "bfloat16"},
}


def _tests(root: Path, mode: str, options: list[str]) -> tuple[int, int]:
    """Run the tests in one mode; return how many passed and failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", f"--junitxml={report}"]
        environment = {"OMP_NUM_THREADS": "1"} | MODES[mode]
        done = subprocess.run([*command, *options], cwd=root, env=os.environ | environment)
        if not report.is_file():  # pytest did not come to its tests
            return 0, 1
        counts = ElementTree.parse(report).getroot().find("testsuite").attrib
    tests, skipped = int(counts["tests"]), int(counts["skipped"])
    failed = int(counts["failures"]) + int(counts["errors"])
    return tests - skipped - failed, failed or int(done.returncode != 0)


def portable(root: Path, modes: list[str] | None = None, short: bool = False) -> int:
    """Run the sensitive tests in several modes; print a table; 1 if a test failed in one of them.

    Args:
        modes: names of MODES; all if left out.
        short: without the golden runs and the tests that are marked slow.
    """
    if unknown := set(modes or []) - set(MODES):
        raise UserError(f"There is no mode {', '.join(sorted(unknown))}. Valid: {', '.join(MODES)}.")
    options = ["-m", "sensitive and not slow"] if short else ["-m", "sensitive"]
    rows = []
    for mode in modes or MODES:
        start = time.perf_counter()
        rows.append((mode, *_tests(root, mode, options), time.perf_counter() - start))
    print(f"\n{'mode':10}  {'passed':>6}  {'failed':>6}  {'seconds':>7}")
    for mode, passed, failed, seconds in rows:
        print(f"{mode:10}  {passed:6}  {failed:6}  {seconds:7.0f}")
    return int(any(failed for _, _, failed, _ in rows))
