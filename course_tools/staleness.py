"""Say what is stale: outputs, golden runs and records that other code made than the code here."""

from pathlib import Path

from course_tools.chapters import (
    UserError,
    all_chapters,
    chapter_path,
    golden_path,
    read_notebook,
    records_of,
)
from course_tools.fingerprints import Code, changed, fingerprint, page_code, recipe_code, training_code
from course_tools.studies import read_study, study_code, study_names
from course_utils.race import RECIPES

RACE = "race"  # the folder of results that belongs to no chapter
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def _code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def _outputs(notebook, where: str, publish: str) -> list[str]:
    """Errors, warnings, cells that were not run in order, pictures without alternative text."""
    problems = []
    cells = _code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        problems.append(f"{where}: cells were not run from top to bottom. {publish}")
    for cell in cells:
        name = f"{where}, cell [{cell.execution_count}]"
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"{name}: shows an error ({output.ename}). {publish}")
            elif output.output_type == "stream" and output.name == "stderr":
                text = output.text.strip()[:100]
                problems.append(f"{name}: shows a warning or other stderr: {text!r}. Mend its cause.")
        pictures = any(key in output.get("data", {}) for output in cell.outputs for key in PICTURES)
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if pictures and not alt.strip():
            advice = 'Add cell metadata {"mystnb": {"image": {"alt": "..."}}}.'
            problems.append(f"{name}: a picture has no alternative text. {advice}")
    return problems


def _what(before: object, now: Code) -> str:
    """Which cells and definitions have changed, for the end of a sentence."""
    if not isinstance(before, dict):
        return ""
    names = changed(before, now)
    return f" ({', '.join(names[:12])}{', ...' if len(names) > 12 else ''})"


def _records(root: Path, chapter: str, training: Code, listed: list[str]) -> list[str]:
    problems = []
    records = records_of(root / "results", chapter)
    for name in sorted(set(listed) - set(records)):
        problems.append(f"results/{chapter}/{name}.json: is missing. make publish CHAPTERS={chapter}")
    for name, record in records.items():
        where = f"results/{chapter}/{name}.json"
        way_out = f"make publish CHAPTERS={chapter}"
        if record["scale"] == "page" and record["seed"] != 0:
            way_out = f"make repeats CHAPTERS={chapter} SEEDS={record['seed'] + 1}"
        elif record["scale"] != "page":
            way_out = f"Run the chapter at the {record['scale']} scale again, or delete the record."
        if record["code"] != training.fingerprint:
            problems.append(
                f"{where}: the chapter's training code, or what it uses of course_utils, has changed since it "
                f"was made{_what(record.get('definitions'), training)}. {way_out}, or make confirm"
            )
        if record["scale"] == "page" and record["seed"] == 0 and name not in listed:
            problems.append(f"{where}: the published run did not write it. {way_out}")
    return problems


def check_golden(root: Path, chapter: str) -> list[str]:
    """Problems with the golden run of one chapter: missing, stale, errors, cells without a run."""
    path, way_out = golden_path(root, chapter), f"make golden CHAPTERS={chapter}"
    where = f"tests/golden/{chapter}.ipynb"
    if not path.is_file():
        return [f"{where}: is missing. {way_out}"]
    golden = read_notebook(path)
    code = fingerprint(read_notebook(chapter_path(root, chapter)))
    if {fingerprint(golden), golden.metadata.get("course", {}).get("code")} != {code}:
        return [f"{where}: stale, the chapter's code has changed since it was made. {way_out}"]
    return _outputs(golden, where, way_out)


def check_published(root: Path, chapter: str) -> list[str]:
    """Problems with the stored outputs and records of one chapter."""
    notebook = read_notebook(chapter_path(root, chapter))
    where, way_out = f"notebooks/{chapter}.ipynb", f"make publish CHAPTERS={chapter}"
    course = notebook.metadata.get("course")
    if not course:
        return [f"{where}: has no published run. {way_out}"]
    problems = []
    code = page_code(notebook)
    if course["code"] != code.fingerprint:
        what = _what(course.get("definitions"), code)
        problems.append(
            f"{where}: stale, its code, or what it uses of course_utils, has changed since its outputs were "
            f"made{what}. {way_out}, or make confirm"
        )
    problems += _outputs(notebook, where, way_out)
    return problems + _records(root, chapter, training_code(notebook), course["records"])


def check_races(root: Path) -> list[str]:
    """Problems with the records of races: of no recipe, or made by other code."""
    problems = []
    for name, record in records_of(root / "results", RACE).items():
        where, recipe = f"results/{RACE}/{name}.json", record["run"]
        if recipe not in RECIPES:
            problems.append(f"{where}: there is no recipe of that name. Delete it.")
        elif record["code"] != (code := recipe_code(recipe)).fingerprint:
            problems.append(
                f"{where}: the recipe, or what it uses of course_utils, has changed since it was made"
                f"{_what(record.get('definitions'), code)}. "
                f"make race RECIPES={recipe} SEEDS={record['seed'] + 1} RECORD=1"
            )
    return problems


def check_study(root: Path, name: str) -> list[str]:
    """Problems with a study and its records: of no run, or made by other code; runs that are missing are none."""
    try:
        study = read_study(root, name)
    except UserError as error:
        return [str(error)]
    problems, codes, runs = [], {}, {run.record("page"): run for run in study.runs}
    for record_name, record in records_of(root / "results", study.folder).items():
        where, run = f"results/{study.folder}/{record_name}.json", runs.get(record_name)
        if run is None:
            problems.append(f"{where}: the study has no such run at the page scale. Delete it.")
            continue
        code = codes[run.name] = codes.get(run.name) or study_code(study.path, run.levels)
        if record["code"] != code.fingerprint:
            problems.append(
                f"{where}: the study, or what it uses of course_utils, has changed since it was made"
                f"{_what(record.get('definitions'), code)}. make study NAME={name}"
            )
    return problems


def check(root: Path) -> list[str]:
    """All problems of chapters, races and studies, one line each: the thing, what is wrong, the way out."""
    problems, chapters, studies = check_races(root), all_chapters(root), study_names(root)
    for study in studies:
        problems += check_study(root, study)
    others = {RACE, *(f"studies/{study}" for study in studies)}  # these have records, and are no chapters
    for chapter in chapters:
        problems += check_published(root, chapter) + check_golden(root, chapter)
    for folder, kind in (("results", "*.json"), ("tests/golden", "*.ipynb")):
        for path in sorted((root / folder).rglob(kind)):
            inside = path.relative_to(root / folder)
            chapter = (inside.parent if kind == "*.json" else inside.with_suffix("")).as_posix()
            if chapter not in chapters and not (kind == "*.json" and chapter in others):
                what = "study" if chapter.startswith("studies/") else "chapter"
                problems.append(f"{folder}/{inside.as_posix()}: belongs to no {what}. Delete it.")
    return problems
