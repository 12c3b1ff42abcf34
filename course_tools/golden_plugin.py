"""Teach pytest our golden runs: papermill executes a chapter once, and each golden cell is one of its tests."""

import tempfile
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from course_tools.chapters import chapter_path, read_notebook, tags
from course_tools.compare import outputs_difference
from course_tools.runs import golden_run, to_golden


def pytest_collect_file(file_path: Path, parent):
    if file_path.suffix == ".ipynb" and "golden" in file_path.parts:
        return GoldenFile.from_parent(parent, path=file_path)


class GoldenFile(IPyNbFile):
    """tests/golden/<chapter>.ipynb: the run of the chapter as a whole, then each cell."""

    def setup(self) -> None:
        """Run the chapter; the tests below tell what came of it."""
        root = next(folder for folder in self.path.parents if (folder / "_config.yml").is_file())
        self.chapter = self.path.relative_to(root / "tests" / "golden").with_suffix("").as_posix()
        with tempfile.TemporaryDirectory() as folder:
            self.outcome, executed = golden_run(root, self.chapter, Path(folder)), Path(folder) / "chapter.ipynb"
            found = []
            if executed.is_file():
                notebook = read_notebook(executed)
                # papermill marks a cell that failed by cells of its own
                notebook.cells = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in tags(cell)]
                found = to_golden(read_notebook(chapter_path(root, self.chapter)), notebook).cells
        self.ran = {cell.id: cell for cell in found}

    def teardown(self) -> None:
        """There is no kernel of nbval's to stop."""

    def collect(self):
        self.nb = read_notebook(self.path)
        for mark in ("sensitive", "slow"):
            self.add_marker(mark)
        yield GoldenRun.from_parent(self, name="run")
        for number, cell in enumerate(self.nb.cells):
            yield GoldenCell.from_parent(self, name=f"Cell {number}", cell_num=number, cell=cell, options={})


class GoldenRun(pytest.Item):
    """The chapter runs to its end, leaves a record and warns of nothing, and the golden run is of the same cells."""

    def runtest(self) -> None:
        outcome, ran = self.parent.outcome, self.parent.ran
        if outcome.status != "done":
            pytest.fail(outcome.error, pytrace=False)
        if not outcome.figures:
            pytest.fail("the run left no record", pytrace=False)
        for cell in ran.values():
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    pytest.fail(f"stderr: {output.text}\n\nof the cell\n\n{cell.source}", pytrace=False)
        if [(cell.id, cell.source) for cell in self.parent.nb.cells] != [(c.id, c.source) for c in ran.values()]:
            told = f"the golden run is of other cells. make golden CHAPTERS={self.parent.chapter}"
            pytest.fail(told, pytrace=False)


class GoldenCell(IPyNbCell):
    """One golden cell prints what the run printed."""

    def runtest(self) -> None:
        new = self.parent.ran.get(self.cell.id)
        if new is None or bool(new.execution_count) != bool(self.cell.execution_count):
            self.raise_cell_error("The run did not come to this cell, or it is not the chapter's any more")
        if why := outputs_difference(self.cell.outputs, new.outputs):
            self.raise_cell_error("Cell outputs differ", why)
