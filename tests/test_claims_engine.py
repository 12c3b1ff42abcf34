"""Every number in the Markdown of a chapter is what the metadata beside it says; and the check itself can fail."""

import copy
import json
import re

import nbformat
import pandas as pd
import pytest
from helpers import ROOT, chapter_definitions
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_tools import claims
from course_tools.chapters import all_chapters, chapter_path, read_notebook, write_notebook
from course_tools.fingerprints import fingerprint, training_code
from course_tools.runs import take_outputs
from course_utils import load_records

CNN = "ladder/01_plain_cnn"
MOVED = [name for name in all_chapters(ROOT) if claims.has_claims(read_notebook(chapter_path(ROOT, name)))]


@pytest.fixture(scope="module")
def table(root) -> pd.DataFrame:
    return load_records(claims.PAGE, directory=root / "results")


def wrong_in(chapter: str, notebook, table: pd.DataFrame) -> list[str]:
    """What is wrong with the claims of a chapter whose notebook and records may have been changed."""
    known = claims.vocabulary(ROOT, chapter, table, chapter_definitions(chapter_path(ROOT, chapter)))
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    return [message for cell in cells for message in claims.wrong_claims(chapter, cell, known)]


@pytest.mark.parametrize("moved", MOVED)
def test_every_number_of_the_chapter_is_what_its_claim_says(root, table, moved):
    wrong = wrong_in(moved, read_notebook(chapter_path(root, moved)), table)
    assert not wrong, "\n".join(wrong)


def test_the_first_chapter_keeps_its_claims(root):
    """Without any, it would fall back to the weaker check of `test_claims.py`."""
    cells = [cell for cell in read_notebook(chapter_path(root, CNN)).cells if claims.find_numbers(cell.source)]
    assert all("claims" in cell.metadata for cell in cells if cell.cell_type == "markdown")


# a cell and its claims, the records of two runs in three seeds, and a cell that printed something

TEXT = """Two runs: **61.0 ± 1.0 %** with norm, 30.5 % without it.
That is 2.0 times as much, in 12.5 s. The loss ends at 0.512.

<details>
<summary>Answer</summary>

ResNet-18 on 3x3 windows has 1,500 parameters, and 9 values in each window.
</details>"""
CLAIMS = [
    "run('b-norm').ends",
    "run('a-plain').accuracy",
    {"with norm": "run('b-norm').accuracy > run('a-plain').accuracy"},
    "run('b-norm').accuracy / run('a-plain').accuracy",
    "run('b-norm').seconds",
    "run('b-norm', seed=1, epoch=2).loss",
    "run('b-norm').parameters",
    9,
]


@pytest.fixture
def toy_root(tmp_path):
    """A project of one chapter, in which a cell gives its settings and another one printed something."""
    settings = "choose_scale(scale, {'epochs': (90, 5, 1), 'image_size': (224, size, 32)})"
    shown = [
        new_output("stream", text="accuracy 61.0 %\n    images   1,500  of 30\n"),
        new_output("execute_result", data={"text/plain": "stage 1   0.5  0.25"}, execution_count=1),
    ]
    cells = [new_code_cell(settings, id="settings"), new_code_cell("show()", id="shows", outputs=shown)]
    write_notebook(new_notebook(cells=cells), chapter_path(tmp_path, "part/01_toy"))
    (tmp_path / "book").mkdir()
    (tmp_path / "book/reported.yml").write_text("tutorial: {loss: [0.990, 0.5]}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def toy_table() -> pd.DataFrame:
    rows = []
    for run, accuracy, seconds in (("a-plain", 0.295, 10.5), ("b-norm", 0.6, 12.5)):
        for seed in range(3):
            end = accuracy + seed / 100
            history = [
                {"val_accuracy": end / 2, "train_accuracy": 0.2, "val_loss": 2.0, "train_loss": 2.1, "seconds": 7.0},
                {"val_accuracy": end, "train_accuracy": 0.7, "val_loss": 0.512, "train_loss": 0.4, "seconds": 5.5},
            ]
            rows.append({
                "chapter": "part/01_toy", "run": run, "seed": seed, "parameters": 1500, "macs": 2_500_000, "epochs": 2,
                "seconds": seconds + seed, "data": {"train": 9469}, "history": history,
            })  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def wrong(toy_root, toy_table):
    """wrong(text, claims): the messages for a cell with this text and these claims."""

    def check(text: str, said: list, table: pd.DataFrame = toy_table) -> list[str]:
        known = claims.vocabulary(toy_root, "part/01_toy", table, {"size": 128, "double": lambda x: 2 * x})
        cell = new_markdown_cell(text, id="prose", metadata={"claims": said})
        return claims.wrong_claims("part/01_toy", cell, known)

    return check


def test_a_cell_that_says_what_the_records_say(wrong):
    assert wrong(TEXT, CLAIMS) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("61.0", "62.0", "the text says 62.0, the records say 61: run('b-norm').ends"),
        ("± 1.0", "± 1.1", "the text says 1.1, the records say 1: run('b-norm').ends"),
        ("30.5 %", "31 %", "the text says 31, the records say 30.5: run('a-plain').accuracy"),
        ("2.0 times", "2.1 times", "the text says 2.1, the records say 2: "),
        ("12.5 s", "12.4 s", "the text says 12.4, the records say 12.5: run('b-norm').seconds"),
        ("0.512", "0.513", "the text says 0.513, the records say 0.512: "),
        ("1,500", "1,501", "the text says 1,501, the records say 1,500: "),
        ("9 values", "8 values", "the text says 8, its claim says 9: 9"),
    ],
)
def test_a_changed_number_in_the_text(wrong, old, new, told):
    (message,) = wrong(TEXT.replace(old, new), CLAIMS)
    assert told in message


def test_the_message_says_where_and_which_sentence(wrong):
    (message,) = wrong(TEXT.replace("1,500", "1,501"), CLAIMS)  # in a folded answer
    sentence = "ResNet-18 on 3x3 windows has 1,501 parameters, and 9 values in each window."
    assert message == (
        f"part/01_toy, cell prose, \"{sentence}\": the text says 1,501, the records say 1,500: run('b-norm').parameters"
    )


def test_a_changed_record(wrong, toy_table):
    changed = toy_table.copy(deep=True)
    changed["history"] = changed["history"].map(copy.deepcopy)
    changed.at[3, "history"][-1]["val_accuracy"] += 0.03
    (message,) = wrong(TEXT, CLAIMS, changed)
    assert "the text says 61.0, the records say 62: run('b-norm').ends" in message
    changed = toy_table.assign(parameters=1600, seconds=12.5)
    (message,) = wrong(TEXT, CLAIMS, changed)
    assert "the text says 1,500, the records say 1,600" in message


@pytest.mark.parametrize(
    "more",
    [
        "50 %",
        "50%",
        "**50** %",
        "`50 %`",
        "$50\\,\\%$",
        "7.5",
        "12 s",
        "3 points",
        "ten times",
        "1,000",
        "4",
        "$2.303$",
    ],
)
def test_a_number_without_a_claim(wrong, more):
    """Wherever it stands: at the end, in a folded answer, in the middle of claimed ones."""
    number = re.search(r"[\d.,]*\d|ten", more).group()
    (message,) = wrong(f"It is {more} here.", [])
    assert f"{number} has no claim (the cell has 1 numbers, and claims for 0)" in message
    (message,) = wrong(f"{TEXT}\n\n<details>\n\n{more}\n</details>", CLAIMS)
    assert f"{number} has no claim (the cell has 9 numbers, and claims for 8)" in message
    (message,) = wrong(TEXT.replace("without it", f"without it, {more}"), CLAIMS)
    assert f"the text says {number}, the records say 2: " in message and "has 9 numbers, and claims for 8" in message


def test_a_claim_too_many(wrong):
    (message,) = wrong(TEXT, [*CLAIMS, 9])
    assert "the claim 9 finds no number left" in message and "has 8 numbers, and claims for 9" in message
    for text in ("No number at all.", ""):
        (message,) = wrong(text, [9])
        assert "the claim 9 finds no number left" in message
    (message,) = wrong(TEXT.replace("61.0 ± 1.0 %", "61.0 %"), CLAIMS)
    assert "has 7 numbers, and claims for 8" in message


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("about 70 % of it", 70),
        ("about 70 % of it", "70"),
        ("0.9 as usual", 0.9),
        ("30.5 % of it", [30.5]),
        ("1,500 images", 1500),
        ("three times", 3),
        ("7 s", "+7"),
        ("5e-4 as usual", 0.0005),
    ],
)
def test_what_looks_measured_is_not_simply_given(wrong, text, claim):
    (message,) = wrong(text, [claim])
    assert "looks measured: say what it comes from" in message
    assert wrong(text, [f"given({claim}, 'as usual')"]) == []
    (message,) = wrong(text, [f"given({claim}, ' ')"])
    assert "given() needs a reason" in message


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ("number", "claim compares `number` with something"),
        ("given(number, 'why')", "claim compares `number` with something"),
        ("run('b-norm').accuracy > 3", "claim compares `number` with something"),
        ("number > 3", "number > 3 does not hold"),  # with nothing that was measured
        ("number > run('b-norm').accuracy", "does not hold"),
        ("run('c').accuracy", "LookupError: there is no record of 'c' in part/01_toy"),
        ("run('b-norm', 'part/02').accuracy", "there is no record of 'b-norm' in part/02"),
        ("run('b-norm', seed=7).accuracy", "there is no record"),
        ("accuracy('b-norm')", "NameError"),
        ("run('b-norm'.accuracy", "SyntaxError"),
        ("open('file')", "NameError"),
        ("'sixty'", "ValueError"),
    ],
)
def test_a_claim_that_says_nothing(wrong, claim, told):
    (message,) = wrong("It has 60 % right.", [claim])
    assert told in message


def test_words_about_a_number(wrong):
    assert wrong("less than 13 s", ["number > run('b-norm').seconds"]) == []
    assert wrong("about ten minutes", ["near(60 * number, 50 * run('b-norm').seconds)"]) == []
    assert "does not hold" in wrong("about ten minutes", ["near(60 * number, 60 * run('b-norm').seconds)"])[0]


def test_words_without_a_number(wrong):
    holds, does_not = "run('b-norm').spread < 2", "run('b-norm').spread < 1"
    assert wrong("The runs\nagree.", [{"The runs agree": holds}]) == []
    assert "'The runs agree' does not hold: " in wrong("The runs agree.", [{"The runs agree": does_not}])[0]
    assert "which the cell does not say" in wrong("The runs differ.", [{"The runs agree": holds}])[0]
    for condition in ("True", "run('b-norm').spread", "[run('b-norm').seeds == 3, run('b-norm').seeds == 4]"):
        assert "does not hold" in wrong("The runs agree.", [{"The runs agree": condition}])[0]


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("30.5 %", "run('a-plain').accuracy"),
        ("70.0 % and 20 %", "[run('b-norm', epoch=epoch).train_accuracy for epoch in (2, 1)]"),
        ("0.4 and 2.10", "[run('b-norm').train_loss, run('b-norm', epoch=1).train_loss]"),
        ("5.5 s an epoch", "run('b-norm', epoch=2).seconds"),
        ("61 and 60.0 %", "[run('b-norm', seed=seed).accuracy for seed in (1, 0)]"),
        ("30.5 points", "run('b-norm').accuracy - run('a-plain').accuracy"),
        ("three seeds times 3", "run('b-norm').seeds"),
        ("2.5 M MACs", "run('b-norm').macs / 1e6"),
        ("2 epochs", "run('b-norm').epochs"),
        ("9,469 images", "run('b-norm').data['train']"),
        ("5 epochs, 128 px", "[setting('epochs'), setting('image_size')]"),
        ("224 px", "setting('image_size', course_utils.settings.SCALES[0])"),
        ("0.990 and 0.500", "reported('tutorial', 'loss')"),
        ("61.0 %", "printed('shows', 'accuracy # %')"),
        ("1,500 images of 30", "printed('shows', 'images # of #')"),
        ("0.25", "printed('shows', 'stage 1 # #')[1]"),
        ("14", "double(7)"),
        ("$\\ln 10 = 2.303$", "math.log(10)"),
        ("$a_1 \\ge 3.0 \\times 10^4$", "given(3, 'the formula')"),
        ("5e-4, 1.5e-3", "[double(0.00025), double(0.00075)]"),
        ("-3.5 and \u22123.5", "[double(-1.75), double(-1.75)]"),
        ("A thousand times", "double(500.2)"),
    ],
)
def test_what_a_claim_can_name(wrong, text, claim):
    assert wrong(text, [claim]) == []
    if "given" not in claim:
        digit = re.search(r"thousand|\d(?!.*\d)", text).group()
        other = "hundred" if digit == "thousand" else str((int(digit) + 5) % 10)
        assert wrong(text[::-1].replace(digit[::-1], other[::-1], 1)[::-1], [claim])


def test_words_of_an_output_must_stand_there_once(wrong):
    for words in ("loss #", "#"):
        assert "LookupError" in wrong("5 of them", [f"printed('shows', {words!r})"])[0]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("ResNet-18, VGG-11, CIFAR-10, bfloat16, a T4, a stride-2 window, 3D", []),
        ("3x3 and 11x11 windows, 256 x 4 x 4 values", []),
        ("## 1. Look\n\n1. First\n\n> 2. Second\n\n**3. Third**: chapters 3 and 14, section 4, Hint 1", []),
        ("in 2015, and (1998), but 2,015 and 2015 points", ["2,015", "2015"]),
        ("`epochs=5` and\n\n```\n69.2 %\n```\n\n<a id='5'></a> [5](x/69.html) https://a.b/69", ["5"]),
        ("$n = 3$, $\\frac{1}{10}$ and $p = 0.5$", ["0.5"]),
        ("$$\\text{at } 3 \\quad 69 \\%$$", ["69"]),
        ("chapter 3 has 4 cells, 16, 32 and 64 of 128", ["4", "16", "32", "64", "128"]),
        ("step 3 %, stage 69.2", ["3", "69.2"]),
        ("5e-4, 1e6, 1,024, 12,000.5, (3, 128)", ["5e-4", "1e6", "1,024", "12,000.5", "3", "128"]),
        ("| a | 69.2 ± 0.2 % |\n|---|---|", ["69.2", "0.2"]),
        ("100 + 4 - 5, 40-60, at -3, a (-2)", ["100", "4", "5", "40", "60", "-3", "-2"]),
        ("two networks, ten times, at ten\nminutes, one point, twice", ["ten", "ten"]),
        ("it ends at\n69. Then", ["69"]),
    ],
)
def test_what_counts_as_a_number(text, numbers):
    assert [number.text for number in claims.find_numbers(text)] == numbers


@pytest.mark.parametrize(
    ("text", "measured"),
    [("128 px", False), ("3 to 16 channels", False), ("69, 70 and 71 %", True), ("3 s", True), ("2 x", True)]
    + [
        ("$50$ %", True),
        ("$50\\,\\%$", True),
        ("7 MB", True),
        ("96 images/s", True),
        ("5 ± 1", True),
        ("**50** %", True),
        ("4 weightings", False),
    ],
)
def test_what_looks_measured(text, measured):
    assert {number.measured for number in claims.find_numbers(text)} == {measured}


@pytest.mark.parametrize(
    ("printed", "value", "same"),
    [("69.2", 69.24, True), ("69.2", 69.26, False), ("69", 69.4, True), ("70", 69.4, False), ("0.990", 0.99, True)]
    + [("0.0", -0.04, True), ("395,178", 395178, True), ("395,000", 395178, False), ("5e-4", 0.00052, True)]
    + [("5e-4", 0.0006, False), ("ten", 9.6, True)],
)
def test_a_number_is_the_rounded_value(printed, value, same):
    (number,) = claims.find_numbers(f"{printed} minutes")
    assert number.agrees(value) == same


def test_claims_change_no_fingerprint_and_outlive_a_publishing(root, tmp_path):
    path = chapter_path(root, CNN)
    notebook, bare = read_notebook(path), read_notebook(path)
    for cell in bare.cells:
        cell.metadata.pop("claims", None)
    assert claims.has_claims(notebook) and not claims.has_claims(bare)
    assert fingerprint(notebook) == fingerprint(bare)
    assert training_code(notebook).fingerprint == training_code(bare).fingerprint
    said = [cell.metadata.get("claims") for cell in notebook.cells]
    write_notebook(take_outputs(notebook, copy.deepcopy(notebook)), tmp_path / "copy.ipynb")
    nbformat.validate(nbformat.read(tmp_path / "copy.ipynb", as_version=4))
    cells = json.loads((tmp_path / "copy.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["metadata"].get("claims") for cell in cells] == said


def test_the_first_chapter_with_one_figure_changed(root, table):
    """Of the records, of the text, of a folded answer: each is found in the chapter itself."""
    notebook = read_notebook(chapter_path(root, CNN))
    changed = table.copy()
    changed["history"] = changed["history"].map(copy.deepcopy)
    row = changed[(changed["chapter"] == CNN) & (changed["run"] == "a2-with-norm")].index[0]
    changed.at[row, "history"][-1]["val_accuracy"] += 0.01
    assert any("With norm the runs agree, 69.2" in message for message in wrong_in(CNN, notebook, changed))
    for old, new in (("69.2 ±", "69.3 ±"), ("= 49.5", "= 48.5"), ("No class is", "No class, not one with 50 %, is")):
        broken = copy.deepcopy(notebook)
        (cell,) = (cell for cell in broken.cells if cell.cell_type == "markdown" and old in cell.source)
        cell.source = cell.source.replace(old, new)
        assert len(wrong_in(CNN, broken, table)) == 1


def test_a_draft_leaves_only_what_was_measured_to_be_said(wrong):
    notebook = new_notebook(cells=[new_markdown_cell(TEXT), new_markdown_cell("words"), new_code_cell("5")])
    claims.draft(notebook)
    said = [cell.metadata.get("claims") for cell in notebook.cells]
    assert said[1:] == [None, None]
    assert said[0] == ["? 61.0", "? 1.0", "? 30.5", "? 2.0", "? 12.5", "? 0.512", "? 1,500", 9]
    notebook.cells[0].metadata["claims"] = CLAIMS
    claims.draft(notebook)
    assert notebook.cells[0].metadata["claims"] == CLAIMS


def test_a_verdict_is_that_of_the_rule_for_comparisons(root, table):
    known = claims.vocabulary(root, CNN, table, {})
    block = "ladder/02_residual_block"
    said = f"compare(run('b4-residual-40', '{block}'), run('b2-plain-40', '{block}'))"
    for words, holds in ((f"{said} == 'better'", True), (f"{said} == 'worse'", False)):
        cell = new_markdown_cell("It is better.", id="prose", metadata={"claims": [{"better": words}]})
        assert (claims.wrong_claims(CNN, cell, known) == []) == holds
