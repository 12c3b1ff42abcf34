"""Teach nbval our comparison: it re-runs a golden notebook, compare.py says whether it agrees."""

import os
import tempfile
from pathlib import Path

from nbval.plugin import IPyNbCell, IPyNbFile

from course_tools.compare import outputs_difference
from course_tools.runs import GOLDEN_ENVIRONMENT, environment

ROOT = Path(__file__).resolve().parent.parent


def compare_outputs(self, test, ref, skip_compare=None) -> bool:
    """What nbval calls for each cell; it shows the traceback where the outputs differ."""
    difference = outputs_difference(ref, test)
    self.comparison_traceback = [difference] if difference else []
    return difference is None


def install() -> None:
    """Replace nbval's comparison, and start its kernels as the golden runs were started."""
    start, stop = IPyNbFile.setup, IPyNbFile.teardown

    def setup(self):
        # No records, no checkpoints, no cache: as in `python -m course_tools golden`
        self.course_folder = tempfile.TemporaryDirectory()
        names = ("results", "checkpoints", "data")
        folders = {f"COURSE_{name.upper()}": f"{self.course_folder.name}/{name}" for name in names}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with environment(**GOLDEN_ENVIRONMENT, **folders, PYTHONPATH=path):
            start(self)

    def teardown(self):
        stop(self)
        self.course_folder.cleanup()

    IPyNbCell.compare_outputs = compare_outputs
    IPyNbFile.setup, IPyNbFile.teardown = setup, teardown
