"""The chapters as files: where they are and what they are called."""

import json
import re
from pathlib import Path

import nbformat

from course_utils.settings import SCALES, scale_name


class UserError(Exception):
    """A mistake in what was asked for; the message names it and the way out."""


def project_root() -> Path:
    """The nearest folder, from here upwards, that holds `_config.yml`."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "_config.yml").is_file():
            return folder
    raise UserError("No _config.yml here or above: run this inside a checkout of the course.")


def chapter_path(root: Path, chapter: str) -> Path:
    """The notebook of a chapter such as "ladder/01_plain_cnn"."""
    return root / "notebooks" / f"{chapter}.ipynb"


def golden_path(root: Path, chapter: str) -> Path:
    """The golden notebook of a chapter."""
    return root / "tests" / "golden" / f"{chapter}.ipynb"


def all_chapters(root: Path) -> list[str]:
    """Names of all chapters, in reading order within each part."""
    folder = root / "notebooks"
    found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.ipynb"))
    return sorted(path.as_posix() for path in found if ".ipynb_checkpoints" not in path.parts)


def choose_chapters(root: Path, words: list[str] | None) -> list[str]:
    """The chapters meant by words such as "plain_cnn", "ladder/01", "ladder/01_plain_cnn", "05,vgg".

    No words mean all chapters. Raises UserError, naming the valid ones, for a word that fits none
    or several.
    """
    chapters = all_chapters(root)
    if not chapters:
        raise UserError(f"There are no chapters in {root / 'notebooks'}.")
    words = [word for text in words or [] for word in re.split(r"[,\s]+", text) if word]
    chosen = []
    for word in words:
        plain = word.removeprefix("notebooks/").removesuffix(".ipynb")
        fits = [c for c in chapters if c == plain] or [c for c in chapters if plain in _short_names(c)]
        if len(fits) != 1:
            why = "fits several chapters" if fits else "is not a chapter"
            raise UserError(f"{word!r} {why}. Valid: {', '.join(fits or chapters)}.")
        chosen += [fits[0]] if fits[0] not in chosen else []
    return sorted(chosen) or chapters


def _short_names(chapter: str) -> list[str]:
    """01_plain_cnn, ladder/01, 01 and plain_cnn for ladder/01_plain_cnn."""
    part, name = chapter.rsplit("/", 1)
    number, _, title = name.partition("_")
    return [name, f"{part}/{number}", number, title]


def check_scale(scale: str) -> str:
    """The scale itself; raises UserError, naming the valid ones, if it is none of them."""
    scale = scale_name(scale)
    if scale not in SCALES:
        raise UserError(f"{scale!r} is not a scale. Valid: {', '.join(SCALES)}.")
    return scale


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook, in format 4."""
    return nbformat.read(path, as_version=4)


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a valid notebook; the file is whole or not there."""
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
    part.replace(path)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def records_of(results: Path, chapter: str, pattern: str = "*.json") -> dict[str, dict]:
    """The JSON records of a chapter in a results folder, by file name without ".json"."""
    folder = results / chapter
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob(pattern))}
