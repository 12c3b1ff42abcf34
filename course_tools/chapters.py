"""The chapters as files: where they are and what they are called."""

import json
import re
from pathlib import Path

import nbformat
import yaml

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
    """Names of all chapters: the notebooks that `_toc.yml` names, in its order.

    Without that file, those that are called like 01_plain_cnn.

    Raises:
        UserError: a notebook that it names is not there.
    """
    contents = root / "_toc.yml"
    if not contents.is_file():
        names = [name.removeprefix("notebooks/").removesuffix(".ipynb") for name in _notebooks(root)]
        return [name for name in names if re.fullmatch(r".+/\d\d_\w+", name)]
    files = _files(yaml.safe_load(contents.read_text(encoding="utf-8")))
    chapters = [name.removeprefix("notebooks/") for name in files if name.startswith("notebooks/")]
    if missing := [chapter for chapter in chapters if not chapter_path(root, chapter).is_file()]:
        raise UserError(f"_toc.yml names notebooks/{missing[0]}, but that is not there: add it, or take it out.")
    return chapters


def ignored_notebooks(root: Path) -> str:
    """A sentence that names the notebooks that are no chapter, such as copies; empty if there are none."""
    chapters = {f"notebooks/{chapter}.ipynb" for chapter in all_chapters(root)}
    others = [name for name in _notebooks(root) if name not in chapters]
    return f"Ignored, since _toc.yml does not name them: {', '.join(others)}." if others else ""


def _notebooks(root: Path) -> list[str]:
    """Every notebook in the folder of the chapters, such as "notebooks/ladder/01_plain_cnn.ipynb"."""
    found = (path.relative_to(root) for path in (root / "notebooks").rglob("*.ipynb"))
    return sorted(path.as_posix() for path in found if ".ipynb_checkpoints" not in path.parts)


def _files(entry: object) -> list[str]:
    """Every `file` of a part of `_toc.yml`, without its ending, in order."""
    if isinstance(entry, list):
        return [name for inner in entry for name in _files(inner)]
    if not isinstance(entry, dict):
        return []
    own = [str(entry["file"]).removesuffix(".ipynb")] if "file" in entry else []
    return own + [name for inner in entry.values() for name in _files(inner)]


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
            told = f"{word!r} {why}. Valid: {', '.join(fits or chapters)}. {ignored_notebooks(root)}"
            raise UserError(told.rstrip())
        chosen.append(fits[0])
    return [chapter for chapter in chapters if chapter in chosen] or chapters


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
    """A valid notebook in format 4.5, where each cell has an id of its own.

    Colab writes format 4.0 and puts the ids into the metadata: they are taken from there. A cell that has none,
    or that of an earlier cell, is called by its place.

    Raises:
        UserError: the file is not a notebook.
    """
    try:
        notebook = nbformat.reader.reads(path.read_text(encoding="utf-8"))
        notebook = notebook if notebook.nbformat == 4 else nbformat.convert(notebook, 4)
        ids = set()
        for number, cell in enumerate(notebook.cells):
            saved = cell.metadata.pop("id", "")
            name = str(cell.get("id", saved))
            usable = re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) and name not in ids
            cell.id = name if usable else f"cell-number-{number}"
            ids.add(cell.id)
        notebook.nbformat_minor = max(5, notebook.nbformat_minor)
        nbformat.validate(notebook)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a valid notebook ({reason}): mend it, or save it again.") from error
    return notebook


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a valid notebook; the file is whole or not there."""
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
    part.replace(path)


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def records_of(results: Path, chapter: str, pattern: str = "*.json") -> dict[str, dict]:
    """The JSON records of a chapter in a results folder, by file name without ".json"."""
    folder = results / chapter
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))}
