"""What the prose of a chapter claims is what the records say.

`SENTENCES` holds each sentence with a measured number: it must stand in the chapter word for word, with
the number taken from the records. `COMPARISONS` holds what is claimed without a number. A number with a
unit that is in neither list, nor among the figures that the source reported, fails.
"""

import re

import pandas as pd
import pytest

from course_tools.chapters import chapter_path, read_notebook
from course_utils import load_records

CNN, BLOCK, STEM, WAIST = (
    "ladder/01_plain_cnn",
    "ladder/02_residual_block",
    "ladder/03_stem",
    "ladder/04_bottleneck",
)


@pytest.fixture(scope="module")
def records(root) -> pd.DataFrame:
    return load_records("cpu", directory=root / "results")


class Run:
    """The records of one run: means over its seeds, accuracies in per cent."""

    def __init__(self, records: pd.DataFrame, chapter: str, run: str):
        self.rows = records[(records["chapter"] == chapter) & (records["run"] == run)]
        assert len(self.rows), f"there is no record of {run} in {chapter}"
        self.first = self.rows[self.rows["seed"] == 0].iloc[0]
        self.accuracy = 100 * self.rows["val_accuracy"].mean()
        self.spread = 100 * self.rows["val_accuracy"].std()
        self.train_accuracy = 100 * self.rows["train_accuracy"].mean()
        self.seconds = self.rows["seconds"].mean()
        self.macs, self.parameters = self.first["macs"], self.first["parameters"]


def prose(root, chapter: str) -> str:
    """A chapter's Markdown in one line, folded answers left out."""
    cells = read_notebook(chapter_path(root, chapter)).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"(?s)<details>.*?</details>", "", text)
    return " ".join(text.split())
