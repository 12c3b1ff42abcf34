"""Claims beside their sentences: every number in a chapter's Markdown is checked against what it is said to be.

The metadata of a Markdown cell says it, in the order of the text:

    "claims": [5, "run('a2-with-norm').ends", "number > run('a1-without-norm').seconds / 60",
               {"learns at once": "run('a2-with-norm', epoch=1).accuracy > 20"}]

- A number stands for itself: a kernel size, a question's own figure. What looks measured (a decimal, a thousand, a
  per cent, a unit behind it) may not be given so; where it is nobody's measurement, `given(0.9, "why")` says why.
- A text is Python, over the names of `vocabulary` and those that the chapter defines. Its value must be what the
  page prints, rounded to as many decimals; a list is several numbers. A comparison that uses `number`, which is what
  the page prints, is for words such as "less than" and "about": it must hold.
- A dictionary is for what is said without a number: the words, which must stand in the cell, and what must hold.

Every number counts, in folded answers and tables too, and a number in words before a unit ("ten times"), but for
code, addresses, names (ResNet-18), sizes (3x3), numbering (chapter 3), years, and the integers of formulas. "One",
"half", "twice" and words without a unit are rarely measurements: those that are belong into a dictionary.
"""

import ast
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from nbformat import NotebookNode

import course_utils
from course_tools.chapters import chapter_path, choose_chapters, project_root, read_notebook, write_notebook

PAGE = course_utils.settings.SCALES[1]  # the scale whose records the pages show
BUILTINS = (abs, all, any, dict, float, int, len, list, max, min, range, round, set, sorted, str, sum, tuple, zip)
WORDS = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13)))
WORDS |= {"fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
WORDS |= {"hundred": 100, "thousand": 1000, "million": 1_000_000}

UNIT = (
    r"(?:[\s*$`]|\\[,;]?)*(?:[%±]|per\s+cent|(?:images/s|points?|times|x|[mµ]?s|seconds?|min|minutes?|h|hours?"
    r"|[kMG]i?B?|GFLOPS|MACs?|parameters?|weights?)(?!\w))"
)
# what looks measured has a unit, or is listed with what has one: "69, 70 and 71 %"
NUMBER = re.compile(
    r"(?P<spread>±\s*)?(?P<digits>(?:(?<![\w)])[-−])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?P<power>e[-+]?\d+)?"
    rf"(?=(?P<unit>(?:\s*(?:,|and|or|to|–|-)\s*[\d.,]*\d)*{UNIT})?)"
    rf"|\b(?P<word>{'|'.join(WORDS)})(?=\s+(?:times|points|seconds|minutes|hours|per\s+cent)\b)",
    re.IGNORECASE,
)
CODE = re.compile(r"```.*?```|`[^`]*[A-Za-z][^`]*`", re.DOTALL)  # `96 %` is none
FORMULA = re.compile(r"(?:\$\$.+?\$\$|\$[^$]+\$)(?:\s*%)?", re.DOTALL)
FORMULA_INTEGER = re.compile(r"\\[A-Za-z]+|(?<![\d.])\d+(?![\d.]*\d|[\s\\,;$]*%)")
NO_CLAIM = re.compile(
    r"</?[A-Za-z][^>]*>|\]\([^)]*\)|https?://\S+"  # HTML tags, addresses
    r"|(?:\A|\n\s*\n|^#+)[>#*\s]*\d{1,2}\.(?=\s)"  # the number of a heading, a question, an item
    r"|\b(?:[Cc]hapter|[Ss]ection|[Ee]xercise|[Qq]uestion|[Hh]int|[Ss]tep|[Ss]tage|[Ss]eed|[Ll]ayer)s?\s\d+"
    rf"(?:(?:,|\sand|\sto)\s\d+)*(?![\d.,]*\d|{UNIT})"  # chapters 13 and 14
    r"|(?<!\w)[A-Za-z]+[-_]?\d+\w*(?:[-_]\w+)*|\d+D\b"  # ResNet-18, bfloat16, stride-2, 3D
    r"|\d+(?:\s?[x×]\s?\d+)+"  # 3x3, 256 x 4 x 4
    rf"|(?<![\d.,])(?:19[5-9]|20[012])\d(?![\d.,]*\d|{UNIT})",  # years
    re.DOTALL | re.MULTILINE,
)
SENTENCE_END = re.compile(r"[.!?:][*_'\")]*\s+|\n\s*\n|\n(?=\s*(?:[-*>|#]|\d+\.)\s)|</?[A-Za-z][^>]*>")


@dataclass
class Number:
    """A number of a Markdown text: as it is printed, what it is worth, where it stands, whether it looks measured."""

    text: str
    value: float
    start: int
    measured: bool

    def agrees(self, value: float) -> bool:
        """Say whether a value, rounded to as many decimals as are printed, is this number."""
        digits, power, _ = ("", "", "") if self.text.lower() in WORDS else self.text.lower().partition("e")
        decimals = len(digits.partition(".")[2])
        return float(f"{value:.{decimals}{power or 'f'}}") == self.value


class Run:
    """The records of one run: means over its seeds, accuracies in per cent; of an epoch (from 1) if there is one."""

    def __init__(self, rows: pd.DataFrame, epoch: int | None = None):
        self.rows, self.epoch = rows, epoch
        first = rows.iloc[0]
        self.parameters, self.macs, self.epochs, self.data = (
            first[n] for n in ("parameters", "macs", "epochs", "data")
        )
        self.seeds = len(rows)
        self.accuracy, self.spread = self._mean("val_accuracy", 100)
        self.train_accuracy, self.train_spread = self._mean("train_accuracy", 100)
        self.loss, self.train_loss = self._mean("val_loss")[0], self._mean("train_loss")[0]
        self.ends = [self.accuracy, self.spread]  # "69.2 ± 0.2 %"
        # of the fastest seed, as on the scoreboard, since other work on the machine only adds to it
        self.seconds = rows["seconds"].min() if epoch is None else min(self.each("seconds"))

    def each(self, column: str) -> list[float]:
        """Return a column of the history at the epoch, or at the end, as it is recorded: one value a seed."""
        return [history[(self.epoch or 0) - 1][column] for history in self.rows["history"]]

    def _mean(self, column: str, factor: int = 1) -> tuple[float, float]:
        values = factor * pd.Series(self.each(column))
        return values.mean(), values.std()


def vocabulary(root: Path, chapter: str, table: pd.DataFrame, defined: dict) -> dict:
    """Return what the claims of a chapter can name.

    Args:
        root: the project.
        chapter: such as "ladder/01_plain_cnn".
        table: the records of the scale that the pages show, as `load_records` returns them.
        defined: what the chapter itself defines: `make_cnn`.
    """
    cells = {cell.id: cell for cell in read_notebook(chapter_path(root, chapter)).cells}

    def run(name: str, chapter: str = chapter, seed: int | None = None, epoch: int | None = None) -> Run:
        """The records of a run: of all its seeds, or of one."""
        rows = table[(table["chapter"] == chapter) & (table["run"] == name)].sort_values("seed")
        rows = rows if seed is None else rows[rows["seed"] == seed]
        if rows.empty:
            raise LookupError(f"there is no record of {name!r} in {chapter}")
        return Run(rows, epoch)

    def setting(name: str, scale: str = PAGE):
        """A setting of a scale, from the table that the chapter gives to `choose_scale`."""
        for cell in cells.values():
            if cell.cell_type == "code" and "choose_scale(" in cell.source:
                for node in ast.walk(ast.parse(cell.source)):
                    if isinstance(node, ast.Call) and ast.unparse(node.func) == "choose_scale":
                        values = eval(ast.unparse(node.args[1]), dict(defined))
                        return course_utils.choose_scale(scale, values).as_dict()[name]
        raise LookupError("the chapter calls choose_scale nowhere")

    def printed(cell: str, words: str):
        """The number that a cell's stored output prints at each # of some words; they must stand there once."""
        shown = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cells[cell].outputs]
        pattern = re.escape(" ".join(words.split())).replace(r"\#", r"([-\d.,e+]*\d)")
        found = re.findall(pattern, " ".join(" ".join(shown).split()))
        if len(found) != 1:
            raise LookupError(f"the output of cell {cell} prints {words!r} {len(found)} times")
        numbers = [float(text.replace(",", "")) for text in (found if isinstance(found[0], str) else found[0])]
        return numbers if len(numbers) > 1 else numbers[0]

    def reported(*keys: str):
        """A figure of one of the sources, by its place in book/reported.yml."""
        value = yaml.safe_load((root / "book/reported.yml").read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
        return value

    def given(value: float | list, why: str):
        """A number that nobody measured, and the reason why it stands there."""
        if not why.strip():
            raise ValueError("given() needs a reason")
        return value

    def near(one: float, other: float, within: float = 0.1) -> bool:
        """Whether two numbers differ by at most a tenth of the second."""
        return abs(one - other) <= within * abs(other)

    def compare(one: Run, other: Run) -> str:
        """The verdict on the accuracies of two runs, over all their seeds, such as "better": `records.compare`."""
        names = [f"{each.rows['chapter'].iloc[0]}/{each.rows['run'].iloc[0]}" for each in (one, other)]
        return course_utils.records.compare(table, *names).verdict

    words = (run, setting, printed, reported, given, near, compare)
    known = {word.__name__: word for word in (*BUILTINS, *words)} | {"math": math, "course_utils": course_utils}
    return defined | known | {"__builtins__": {}}


def find_numbers(source: str) -> list[Number]:
    """Return the numbers of a Markdown text that need a claim, in order."""

    def blank(match: re.Match) -> str:
        return re.sub(r"\S", " ", match.group())

    text = FORMULA.sub(lambda match: FORMULA_INTEGER.sub(blank, match.group()), CODE.sub(blank, source))
    numbers = []
    for match in NUMBER.finditer(NO_CLAIM.sub(blank, text)):
        if match["word"]:
            numbers.append(Number(match["word"], WORDS[match["word"].lower()], match.start(), True))
        else:
            told = match["digits"] + (match["power"] or "")
            measured = bool(match["spread"] or match["unit"] or set(told) & set(",.e"))
            value = float(told.replace(",", "").replace("−", "-"))
            numbers.append(Number(told, value, match.start("digits"), measured))
    return numbers


def has_claims(notebook: NotebookNode) -> bool:
    """Say whether a chapter's Markdown has claims: then each of its numbers needs one."""
    return any("claims" in cell.metadata for cell in notebook.cells)


def wrong_claims(chapter: str, cell: NotebookNode, known: dict) -> list[str]:
    """Return what is wrong with the numbers of a Markdown cell, a message each; `known` is the chapter's vocabulary."""
    source, left, wrong = cell.source, find_numbers(cell.source), []
    count, claimed = len(left), 0
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(source)), len(source)]

    def note(text: str, number: Number | None) -> None:
        at = number.start if number else max(0, len(source) - 1)
        start, stop = max(end for end in ends if end <= at), next((end for end in ends if end > at), at)
        wrong.append(f'{chapter}, cell {cell.id}, "{" ".join(source[start:stop].split())}": {text}')

    for claim in cell.metadata.get("claims", []):
        number = left[0] if left else None
        try:
            if isinstance(claim, dict):
                for words, condition in claim.items():
                    holds = [value is True for value in _values(condition, known)] == [True]
                    if " ".join(words.split()) not in " ".join(source.split()):
                        note(f"a claim is about {words!r}, which the cell does not say", number)
                    elif not (holds and _uses(condition, ast.Call)):
                        note(f"{words!r} does not hold: {condition}", number)
                continue
            values = _values(claim, known | {"number": number and number.value})
            calls, literal = _uses(claim, ast.Call), not _uses(claim, ast.Call, ast.BinOp, ast.Name)
            compares = any(node.id == "number" for node in _uses(claim, ast.Name))
        except Exception as error:  # a slip in a claim is a message too
            note(f"the claim {claim!r} raises {type(error).__name__}: {error}", number)
            return wrong  # nobody knows how many numbers it stands for
        claimed += len(values)
        for value in values:
            number = left.pop(0) if left else None
            if number is None:
                note(f"the claim {claim!r} finds no number left in the text", None)
            elif isinstance(value, bool) != compares:
                note(f"a claim compares `number` with something, or it is a number; {claim!r} does neither", number)
            elif compares and not (value and calls):
                note(f"the text says {number.text}, for which {claim} does not hold", number)
            elif literal and number.measured:
                note(f"{number.text} looks measured: say what it comes from, in the place of {claim!r}", number)
            elif not compares and not number.agrees(value):
                whose = "the records say" if "run(" in str(claim) else "its claim says"
                note(f"the text says {number.text}, {whose} {value:,.9g}: {claim}", number)
    for number in left[:1]:
        note(f"{number.text} has no claim", number)
    if wrong and claimed != count:  # then what follows the first is out of step
        return [f"{wrong[0]} (the cell has {count} numbers, and claims for {claimed})"]
    return wrong


def _values(claim: str | float | list, known: dict) -> list[float | bool]:
    """The numbers or truth values that a claim stands for."""
    value = eval(str(claim), known)
    value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy, pandas or torch
    values = value if isinstance(value, list | tuple) else [value]
    return [one if isinstance(one, bool) else float(one) for one in values]


def _uses(claim: str | float | list, *kinds: type) -> list[ast.AST]:
    return [node for node in ast.walk(ast.parse(str(claim), mode="eval")) if isinstance(node, kinds)]


def draft(notebook: NotebookNode) -> None:
    """Give each Markdown cell without claims a first draft: its numbers in order, a "?" where more is needed."""
    for cell in notebook.cells:
        numbers = find_numbers(cell.source) if cell.cell_type == "markdown" else []
        if numbers and "claims" not in cell.metadata:
            cell.metadata["claims"] = [f"? {one.text}" if one.measured else int(one.value) for one in numbers]


if __name__ == "__main__":
    for name in choose_chapters(project_root(), sys.argv[1:]):
        chapter = read_notebook(chapter_path(project_root(), name))
        draft(chapter)
        write_notebook(chapter, chapter_path(project_root(), name))
