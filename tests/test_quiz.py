"""The quiz bank: complete, and what is exported says the same when it is read back."""

import re
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest
from helpers import ROOT

from course_tools import quiz
from course_tools.chapters import UserError, all_chapters

CHAPTERS = all_chapters(ROOT)
GOOD = """\
- question: "{question}"
  goal: "say why"
  answers:
    - text: "a"
      why: "no: it is = {{not}} #1 ~ at all"
    - text: "b"
      right: true
      why: "yes"
    - text: "c"
      why: "no"
    - text: "d"
      why: "no"
"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_chapter_has_its_questions(name):
    questions = quiz.read_quiz(quiz.quiz_path(ROOT, name))
    places = {[answer.right for answer in each.answers].index(True) for each in questions}
    assert len(places) > 1, "the right answer always stands at the same place"


def read_gift(text: str) -> list[tuple[str, dict[str, tuple[bool, str]]]]:
    """Questions of a GIFT file: their text, and each answer with whether it is right and its feedback."""
    hide, show = {f"\\{sign}": chr(0xE000 + place) for place, sign in enumerate("~=#{}:\\")}, {}
    show = {hidden: escaped[1] for escaped, hidden in hide.items()}
    text = re.sub(r"\\[~=#{}:\\]", lambda found: hide[found[0]], text)

    def plain(part: str) -> str:
        return "".join(show.get(sign, sign) for sign in part).strip()

    found = []
    for _, question, body in re.findall(r"::(.*?)::\[markdown\](.*?) \{\n(.*?)\n\}", text, re.S):
        answers = {}
        for sign, answer, why in re.findall(r"\t([=~])(.*?)#(.*)", body):
            answers[plain(answer)] = (sign == "=", plain(why))
        found.append((plain(question), answers))
    return found


def one_line(text: str) -> str:
    return " ".join(text.split())


def wanted(questions) -> list:
    return [
        (one_line(each.question), {one_line(a.text): (a.right, one_line(a.why)) for a in each.answers})
        for each in questions
    ]


@pytest.mark.parametrize("name", CHAPTERS)
def test_gift_read_back(name):
    questions = quiz.read_quiz(quiz.quiz_path(ROOT, name))
    assert read_gift(quiz.to_gift(name, questions)) == wanted(questions)


@pytest.mark.parametrize("name", CHAPTERS)
def test_qti_read_back(name, tmp_path):
    """As many questions and answers, each right one marked, each feedback there."""
    pytest.importorskip("text2qti")
    questions = quiz.read_quiz(quiz.quiz_path(ROOT, name))
    path = tmp_path / "quiz.zip"
    quiz._save_qti(path, name, questions)
    with zipfile.ZipFile(path) as archive:
        texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".xml")]
    tree = next(tree for tree in map(ElementTree.fromstring, texts) if tree.tag.endswith("questestinterop"))
    items = [part for part in tree.iter() if part.tag.endswith("}item")]
    assert len(items) == len(questions)
    for item, each in zip(items, questions):
        labels = [part for part in item.iter() if part.tag.endswith("}response_label")]
        blocks = [part for part in item.iter() if part.tag.endswith("}respcondition")]
        scoring = [block for block in blocks if any(part.tag.endswith("}setvar") for part in block)]
        right = [part.text for block in scoring for part in block.iter() if part.tag.endswith("}varequal")]
        numbers = [label.get("ident") for label in labels]
        assert len(labels) == len(each.answers) and right == [numbers[[a.right for a in each.answers].index(True)]]
        feedback = [part for part in item.iter() if part.tag.endswith("}itemfeedback")]
        assert len(feedback) == len(each.answers)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("right: true", "right: false", "question 2: needs one right answer"),
        ('text: "c"', 'text: "a"', "question 2: needs 4 different answers"),
        ('why: "yes"', 'why: ""', "question 2: a text is empty"),
        ('goal: "say why"', "gaol: 1", "is no quiz: KeyError: 'goal'"),
        ("answers:", "answers: [", "is no quiz: ParserError"),
    ],
)
def test_what_is_wrong_with_a_quiz_is_named(tmp_path, old, new, told):
    path = tmp_path / "01.quiz.yml"
    good = "".join(GOOD.format(question=f"question {number}") for number in range(6))
    path.write_text(good)
    assert (
        len(quiz.read_quiz(path)) == 6
        and read_gift(quiz.to_gift("a", quiz.read_quiz(path)))[0][1]["a"][1][-6:] == "at all"
    )
    first, rest = good[: len(good) // 6], good[len(good) // 6 :]
    path.write_text(first + rest.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(told)):
        quiz.read_quiz(path)
    path.write_text(first)
    with pytest.raises(UserError, match="has 1 questions, and needs 6"):
        quiz.read_quiz(path)
