"""The tutorials that the course starts from have names, and each page says where to look them up."""

import re

import pytest
from helpers import ROOT

from course_tools.chapters import all_chapters, chapter_path, read_notebook

PAGE = "book/sources.md"
NAMES = re.compile(
    r"anonymous (ResNet )?tutorial|Hatim's tutorial|timtom3's|Bu Shuhui's notebook|(Haodong )?Li's (lecture|start)"
)
# "the source" of a figure is nobody; the source code and the scale in code type are something else
ANONYMOUS = re.compile(
    r"\b(?:the|this|that|our|its|a|(?:the |a )?(?:first|second|third)|of our)\s+sources?\b(?!\s+(?:code|text)\b)",
    re.IGNORECASE,
)


def markdown(path) -> str:
    """The Markdown of a chapter or page, without what is set in code type."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        text = "\n\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown")
    return re.sub(r"(?s)```.*?```|`[^`\n]*`", "`code`", text)


CHAPTERS = {chapter: markdown(chapter_path(ROOT, chapter)) for chapter in all_chapters(ROOT)}
PAGES = {path.name: markdown(path) for path in sorted((ROOT / "book").glob("*.md"))}


@pytest.mark.parametrize("name", [*CHAPTERS, *PAGES])
def test_no_tutorial_is_left_without_a_name(name):
    text = {**CHAPTERS, **PAGES}[name]
    told = [text[max(0, found.start() - 60) : found.end() + 60] for found in ANONYMOUS.finditer(text)]
    assert not told, f"{name} should give the tutorial its name, see {PAGE}: {told}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_who_is_named_can_be_looked_up(name):
    if NAMES.search(CHAPTERS[name]):
        assert f"](../../{PAGE})" in CHAPTERS[name], f"{name} names a tutorial: link to {PAGE}"


def test_a_reported_accuracy_is_the_same_on_the_page_and_in_the_chapters():
    tables = "\n".join(line for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines() if line[:1] == "|")
    reported = set(re.findall(r"\d+\.\d+ %", tables)) - {"59.9 %"}  # after one epoch: no chapter tells it
    chapters = " ".join("\n".join(CHAPTERS.values()).split())
    assert len(reported) > 12
    assert [figure for figure in sorted(reported) if figure not in chapters] == []


def test_the_pattern_finds_what_is_anonymous():
    for told in (
        "The source reports 3 %",
        "the\nsource's advice",
        "the source of this survey",
        "A second source",
        "our sources",
    ):
        assert ANONYMOUS.search(told), told
    for told in ("the `code` scale", "the source code", "what it takes from each source", "The usual source: ImageNet"):
        assert not ANONYMOUS.search(told), told
