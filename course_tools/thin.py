"""Small runs at a record's own settings: a part of the real data, and a list of what was executed.

The code below `SITE` is what every process of such a run starts with, of this checkout or of an older one, so it
takes what the checkout has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from course_tools.chapters import UserError, chapter_path, read_notebook, records_of, tags
from course_tools.fingerprints import PACKAGE
from course_tools.studies import TRAIN


@dataclass
class Trial:
    """What a small run gave: records, the functions that it executed, each cell's outputs, errors."""

    records: list[dict]
    ran: set[str]
    outputs: dict[str, list]
    errors: list[str]


PARTS = {"train": 14, "val": 7}  # pictures of a class
SITE = """
import atexit, importlib.abc, importlib.util, json, os, sys, threading

package, log = {package!r} + os.sep, {log!r}
ran = set()

def note(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(package):
        ran.add(frame.f_code.co_qualname.replace(".<locals>", ""))

def tell():
    with open(os.path.join(log, str(os.getpid()) + ".json"), "w") as file:
        json.dump(sorted(ran), file)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "course_utils.data":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        whole = spec.loader.exec_module

        def load(module):
            import torch
            whole(module)
            counts = getattr(module, "IMAGENETTE_COUNTS", {{}})
            counts.update(dict.fromkeys(counts, 1))
            read = getattr(module, "_from_torchvision", None)
            few = lambda data: data.subset(240) if len(data) > 1000 else data
            module._from_torchvision = lambda *rest: tuple(map(few, read(*rest)))
            if {precision!r} == "float32":
                torch.cpu.get_capabilities = dict
        spec.loader.exec_module = load
        return spec

sys.meta_path.insert(0, Finder())
atexit.register(tell)
threading.setprofile(note)
sys.setprofile(note)
"""


def thin_data(source: Path, target: Path) -> None:
    """Make a data folder of links to a few pictures of each class, and to whatever lies in no class folder.

    Raises:
        UserError: there are no real data.
    """
    for place, folders, files in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "cache")
        here = target / Path(place).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        kept = PARTS.get(here.parent.name, len(files))
        for name in sorted(files)[:kept]:
            (here / name).symlink_to(Path(place, name).resolve())
    if not target.is_dir() or not any(target.iterdir()):
        raise UserError(f"{source} holds no data: set COURSE_DATA to the folder of the real images.")


@contextmanager
def thin_environment(package: Path, data: Path, results: Path, precision: str) -> Iterator[tuple[dict, Path]]:
    """Yield the environment of a small run with a package, and the folder in which its processes note what they ran."""
    with tempfile.TemporaryDirectory() as place:
        site, log = Path(place, "site"), Path(place, "ran")
        site.mkdir(), log.mkdir()
        text = SITE.format(package=str(package), log=str(log), precision=precision)
        (site / "sitecustomize.py").write_text(text, encoding="utf-8", newline="\n")
        thin_data(data, Path(place, "data"))
        yield (
            {
                "PYTHONPATH": os.pathsep.join([str(site), str(package.parent)]),
                "COURSE_DATA": f"{place}/data",
                "COURSE_CHECKPOINTS": f"{place}/checkpoints",
                "COURSE_RESULTS": str(results),
                "COURSE_CODE": "",
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "TQDM_DISABLE": "1",
            },
            log,
        )


def executed(log: Path) -> set[str]:
    """The functions that the processes of a small run have executed, such as "fit" and "ImageData.batches"."""
    return set().union(*(json.loads(path.read_text(encoding="utf-8")) for path in log.glob("*.json")))


def run_chapter(root: Path, chapter: str, data: Path, precision: str) -> Trial:
    """Run a chapter of a checkout at the page's scale on a part of the data; a cell that fails does not end it."""
    from nbclient import NotebookClient

    notebook = read_notebook(chapter_path(root, chapter))
    for cell in notebook.cells:
        if "parameters" in tags(cell):
            cell.source = f"scale = {page_scale(root)!r}\nseed = 0"
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        package = root / "course_utils" if (root / "course_utils").is_dir() else PACKAGE
        with thin_environment(package, data, results, precision) as (env, log):
            place = {"metadata": {"path": str(chapter_path(root, chapter).parent)}}
            client = NotebookClient(notebook, timeout=None, allow_errors=True, kernel_name="python3", resources=place)
            client.execute(env=os.environ | env)
            ran = executed(log)
        records = list(records_of(results, chapter).values())
    code = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    errors = [
        f"cell {name}: {output.ename}: {output.evalue}"
        for name, cell in code.items() for output in cell.outputs if output.output_type == "error"
    ]  # fmt: skip
    return Trial(records, ran, {name: cell.outputs for name, cell in code.items()}, errors)


RACE = """
import sys
from course_utils import race
race.race(race.RECIPES[sys.argv[1]])
"""


def run_recipe(root: Path, name: str, data: Path, precision: str) -> Trial:
    """Run a recipe of the race of a checkout as it stands, on a part of its data."""
    return _run_program(root, [RACE, name], "race", root, data, precision)


def run_study(root: Path, name: str, levels: dict, seed: int, data: Path, precision: str) -> Trial:
    """Run one run of a study of a checkout at the page's scale, on a part of its data."""
    path = root / f"notebooks/{name}.py"
    given = json.dumps(levels | {"seed": seed, "scale": "page"})
    return _run_program(root, [TRAIN, str(path), given], f"studies/{name}", path.parent, data, precision)


def _run_program(root: Path, program: list[str], folder: str, place: Path, data: Path, precision: str) -> Trial:
    """Run a program at a place; its records are in a folder of the results."""
    with tempfile.TemporaryDirectory() as results:
        with thin_environment(root / "course_utils", data, Path(results), precision) as (env, log):
            command = [sys.executable, "-c", *program]
            done = subprocess.run(command, cwd=place, env=os.environ | env, capture_output=True, text=True)
            ran = executed(log)
        records = list(records_of(Path(results), folder).values())
    return Trial(records, ran, {}, [done.stderr.strip().splitlines()[-1]] if done.returncode else [])


def page_scale(root: Path) -> str:
    """What the scale of the pages is called in a checkout."""
    path = root / "course_utils/settings.py"
    return "cpu" if path.is_file() and '"page"' not in path.read_text(encoding="utf-8") else "page"
