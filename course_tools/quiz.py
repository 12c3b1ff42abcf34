"""The quiz bank: read it, and export it for Moodle (GIFT) and for Canvas (QTI)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from course_tools.assignments import MASTERS
from course_tools.chapters import UserError, all_chapters

LEAST = 6  # questions a chapter
ANSWERS = 4


@dataclass
class Answer:
    """An answer, whether it is right, and what is said to who chooses it."""

    text: str
    why: str
    right: bool = False


@dataclass
class Question:
    """A question with one right answer, and the learning goal that it asks for."""

    question: str
    goal: str
    answers: list[Answer]


def quiz_path(root: Path, chapter: str) -> Path:
    """The file of a chapter's questions."""
    return root / MASTERS / f"{chapter}.quiz.yml"


def read_quiz(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        UserError: one of them is not complete; the message says which and how.
    """
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        questions = [
            Question(entry["question"], entry["goal"], [Answer(**answer) for answer in entry["answers"]])
            for entry in listed
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path.name} is no quiz: {type(error).__name__}: {error}") from error
    for number, each in enumerate(questions, 1):
        where = f"{path.name}, question {number}"
        texts = [each.question, each.goal, *(part for answer in each.answers for part in (answer.text, answer.why))]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise UserError(f"{where}: a text is empty, or is no text (put it into quotes)")
        if len(each.answers) != ANSWERS or len({answer.text for answer in each.answers}) != ANSWERS:
            raise UserError(f"{where}: needs {ANSWERS} different answers")
        if sum(answer.right is True for answer in each.answers) != 1:
            raise UserError(f"{where}: needs one right answer")
    if len(questions) < LEAST:
        raise UserError(f"{path.name}: has {len(questions)} questions, and needs {LEAST}")
    return questions


def _gift(text: str) -> str:
    """A text with GIFT's own signs escaped, in one line."""
    return re.sub(r"([~=#{}:\\])", r"\\\1", " ".join(text.split()))


def to_gift(chapter: str, questions: list[Question]) -> str:
    """A file for Moodle: Question bank, Import, GIFT format. Every answer has its feedback."""
    parts = [f"$CATEGORY: {chapter}"]
    for number, each in enumerate(questions, 1):
        answers = "\n".join(
            f"\t{'=' if answer.right else '~'}{_gift(answer.text)}#{_gift(answer.why)}" for answer in each.answers
        )
        parts.append(f"::{_gift(f'{chapter} {number}')}::[markdown]{_gift(each.question)} {{\n{answers}\n}}")
    return "\n\n".join(parts) + "\n"


def to_text2qti(title: str, questions: list[Question]) -> str:
    """The text from which text2qti makes a file for Canvas."""

    def line(text: str) -> str:
        return " ".join(text.split())

    parts = [f"Quiz title: {title}", "shuffle answers: true", ""]
    for number, each in enumerate(questions, 1):
        parts.append(f"Points: 1\n{number}.  {line(each.question)}")
        for letter, answer in zip("abcd", each.answers):
            parts.append(f"{'*' if answer.right else ''}{letter})  {line(answer.text)}\n...  {line(answer.why)}")
        parts.append("")
    return "\n".join(parts) + "\n"


def quiz(root: Path) -> int:
    """Write build/quiz/<part>/<chapter>.gift and .zip (QTI) for every chapter."""
    out = root / "build/quiz"
    count = 0
    for chapter in all_chapters(root):
        questions = read_quiz(quiz_path(root, chapter))
        count += len(questions)
        place = out / chapter
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".gift").write_text(to_gift(chapter, questions), encoding="utf-8", newline="\n")
        _save_qti(place.with_suffix(".zip"), chapter, questions)
    print(
        f"{count} questions of {len(all_chapters(root))} chapters are in {out}: .gift for Moodle, .zip (QTI) for Canvas"
    )
    return 0


def _save_qti(path: Path, chapter: str, questions: list[Question]) -> None:
    try:
        from text2qti.config import Config
        from text2qti.qti import QTI
        from text2qti.quiz import Quiz
    except ImportError as error:
        raise UserError("text2qti is not installed: make quiz has an environment with it") from error
    made = Quiz(to_text2qti(chapter, questions), config=Config(), source_name=chapter)
    QTI(made).save(path)
