"""Give records, published pages and golden runs the names that the scales have today; no figure changes."""

import copy
import json
import re
from pathlib import Path

from course_tools.chapters import all_chapters, chapter_path, golden_path, read_notebook, write_notebook
from course_utils.settings import OLD_NAMES

# in the table of settings; the old name keeps its width, so that columns of text stay in line where they can
_HEADINGS = [
    (rf"(?<=[ >]) {{0,{len(new) - len(old)}}}\b{old}( \(this run\))?(?=\s|<)", new) for old, new in OLD_NAMES.items()
]


def rename(root: Path) -> list[str]:
    """Rename what still has an old name and return it, one line each."""
    renamed = []
    for old, new in OLD_NAMES.items():
        for path in sorted((root / "results").rglob(f"{old}-*.json")):
            record = json.loads(path.read_text(encoding="utf-8")) | {"scale": new}
            text = json.dumps(record, indent=1) + "\n"
            path.with_name(new + path.name.removeprefix(old)).write_text(text, encoding="utf-8", newline="\n")
            path.unlink()
            renamed.append(f"{path.relative_to(root).as_posix()}: {new}")
    for chapter in all_chapters(root):
        for path in (chapter_path(root, chapter), golden_path(root, chapter)):
            if path.is_file() and _rename_in(path):
                renamed.append(path.relative_to(root).as_posix())
    return renamed


def _rename_in(path: Path) -> bool:
    """Rename the scales in a notebook's table of settings and in what it says of its run; say whether any was."""
    notebook = read_notebook(path)
    before = json.dumps(notebook)
    course = notebook.metadata.get("course", {})
    if course.get("scale") in OLD_NAMES:
        course["scale"] = OLD_NAMES[course["scale"]]
        for old, new in OLD_NAMES.items():
            course["records"] = [re.sub(f"^{old}-", f"{new}-", name) for name in course["records"]]
    for cell in notebook.cells:
        if cell.cell_type == "code" and "settings.table" in cell.source:
            cell.outputs = rename_outputs(cell.outputs)
    if json.dumps(notebook) == before:
        return False
    write_notebook(notebook, path)
    return True


def rename_outputs(outputs: list) -> list:
    """The outputs of a cell with the scales' names of today in the headings of its tables."""
    outputs = copy.deepcopy(outputs)
    for output in outputs:
        for kind in ("text/html", "text/plain"):
            if text := output.get("data", {}).get(kind):
                for heading, new in _HEADINGS:
                    text = re.sub(heading, rf"{new}\1", text)
                output["data"][kind] = text
    return outputs
