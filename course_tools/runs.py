"""Run chapters with papermill: to try them, to publish them, to repeat them, to make golden runs."""

import base64
import copy
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from course_tools.chapters import (
    UserError,
    chapter_path,
    check_scale,
    choose_chapters,
    golden_path,
    read_notebook,
    records_of,
    tags,
    write_notebook,
)
from course_tools.fingerprints import fingerprint, page_code, training_code
from course_utils.settings import named_folder

GOLDEN_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "COURSE_PRECISION": "float32",
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "TQDM_DISABLE": "1",
}
STEADY = Path(__file__).with_name("steady")  # on PYTHONPATH it lets Muon compute in float32


@dataclass
class Outcome:
    """How one chapter went: status, seconds of wall time, final figures, what went wrong."""

    chapter: str
    status: str
    seconds: float
    figures: str = ""
    error: str = ""


@contextmanager
def environment(**values: str):
    """Set environment variables for a while; a kernel started inside inherits them."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _checkpoints(root: Path, scale: str, training: str) -> Path:
    """The folder for checkpoints that this training code writes at a scale."""
    return root / "build/checkpoints" / scale / training[:16]


def execute(root: Path, chapter: str, scale: str, seed: int, output: Path, results: Path, **env) -> Outcome:
    """Run one chapter into the notebook `output`, its records going to `results`.

    Checkpoints go to the folder that COURSE_CHECKPOINTS names, as data come from that of COURSE_DATA; `env` comes
    first. An error in the chapter does not raise: the outcome says which cell failed and how.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source = chapter_path(root, chapter)
    output.parent.mkdir(parents=True, exist_ok=True)
    start, wall = time.perf_counter(), time.time()
    try:
        training = training_code(read_notebook(source))
        paths, own = [str(root), os.environ.get("PYTHONPATH", "")], _checkpoints(root, scale, training.fingerprint)
        values = {
            "COURSE_DATA": str(named_folder("COURSE_DATA", root / "data").resolve()),
            "COURSE_RESULTS": str(results),
            "COURSE_CHECKPOINTS": str(named_folder("COURSE_CHECKPOINTS", own).resolve()),
            "COURSE_CODE": training.as_json(),
            "TQDM_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }
        if sys.platform == "win32":
            values["USE_LIBUV"] = "0"  # else torchrun asks for what PyTorch is built without there
        with environment(**(values | env)):
            papermill.execute_notebook(
                str(source),
                str(output),
                parameters={"scale": scale, "seed": seed},
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar={"desc": f"  {chapter}", "leave": False, "position": 1},
            )
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
        cell = "\n".join(f"    {line}" for line in error.source.splitlines()[:25])
        tail = "\n".join(f"    {line}" for line in trace[-12:])
        text = f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}\n{cell}\n\n{tail}"
        return Outcome(chapter, "failed", time.perf_counter() - start, error=text)
    except Exception as error:  # A kernel that died, a cell that does not parse: the others still run
        text = f"{type(error).__name__}: {error}"
        return Outcome(chapter, "failed", time.perf_counter() - start, error=text)
    seconds = time.perf_counter() - start
    figures = []
    for name, record in records_of(results, chapter, f"{scale}-*-seed{seed}.json").items():
        if (results / chapter / f"{name}.json").stat().st_mtime >= wall - 1:
            figures.append(f"{record['run']} {100 * record['val_accuracy']:.1f} %")
    return Outcome(chapter, "done", seconds, ", ".join(figures))


def print_table(outcomes: list[Outcome]) -> None:
    """Errors first, then one line for each chapter."""
    for outcome in outcomes:
        if outcome.error:
            print(f"\n{outcome.chapter}: {outcome.error}")
    width = max(len(outcome.chapter) for outcome in outcomes)
    print(f"\n{'chapter':{width}}  {'status':9}  {'seconds':>7}  validation accuracy, by run")
    for o in outcomes:
        print(f"{o.chapter:{width}}  {o.status:9}  {o.seconds:7.0f}  {o.figures}")


def _each(chapters: list[str], work) -> int:
    """Do the work for each chapter below a progress bar; then the table; 1 if a chapter failed."""
    outcomes = []
    try:
        with tqdm(chapters, unit="chapter", desc="chapters", position=0) as bar:
            for chapter in bar:
                outcomes.append(work(chapter))
                if outcomes[-1].error:
                    bar.write(f"{chapter}: failed")
    except KeyboardInterrupt:
        left = chapters[len(outcomes) :]
        outcomes += [Outcome(left[0], "stopped", 0)] + [Outcome(c, "not run", 0) for c in left[1:]]
    print_table(outcomes)
    return int(any(outcome.status not in ("done", "published") for outcome in outcomes))


def run(root: Path, scale: str, words: list[str] | None = None, seed: int = 0) -> int:
    """Execute chapters into build/runs/<scale>; notebooks and published records stay as they are."""
    scale = check_scale(scale)
    folder = root / "build/runs" / scale
    status = _each(
        choose_chapters(root, words),
        lambda chapter: execute(root, chapter, scale, seed, folder / f"{chapter}.ipynb", folder / "results"),
    )
    print(f"\nThe executed notebooks are in {folder}")
    return status


def _shrink_photograph(output) -> None:
    """Turn a large PNG picture into JPEG where that is less than half: so with photographs, not with plots."""
    data = output.get("data", {})
    png = base64.b64decode(data.get("image/png", ""))
    if len(png) > 150_000:
        jpeg = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=85, optimize=True)
        if 2 * len(jpeg.getvalue()) < len(png):
            del data["image/png"]
            data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


def take_outputs(source, executed):
    """The source notebook with the outputs of an executed copy; its cells stay as they were.

    Cells count from 1, since the parameters that papermill injects are left out.
    """
    notebook = copy.deepcopy(source)
    injected = any("injected-parameters" in tags(cell) for cell in source.cells)
    # by place: papermill gives a cell of an older format an id of its own
    same = [cell for cell in executed.cells if injected or "injected-parameters" not in tags(cell)]
    if [cell.cell_type for cell in same] != [cell.cell_type for cell in notebook.cells]:
        raise UserError("The notebook was edited while it ran; nothing was stored. Run it again.")
    count = 0
    for cell, ran in zip(notebook.cells, same):
        if cell.cell_type == "code":
            count += 1 if ran.execution_count else 0
            cell.execution_count = count if ran.execution_count else None
            cell.outputs = []
            for output in copy.deepcopy(ran.outputs):
                last = cell.outputs[-1] if cell.outputs else {}
                if output.output_type == "stream" and last.get("name") == output.name:
                    last.text += output.text  # printed in pieces
                    continue
                cell.outputs.append(output)
                if output.output_type == "execute_result":
                    output.execution_count = cell.execution_count
    notebook.metadata.pop("papermill", None)
    notebook.metadata.setdefault("language_info", {"name": "python", "pygments_lexer": "ipython3"})
    return notebook


def _run_apart(root: Path, chapter: str, seed: int, accept) -> Outcome:
    """Run at the page scale with records in a folder of its own; `accept` takes them if all went well.

    The folder starts with the published records, but for those of this chapter that are stale.
    """
    with tempfile.TemporaryDirectory() as folder:
        results, output = Path(folder) / "results", Path(folder) / "chapter.ipynb"
        if (root / "results").is_dir():
            shutil.copytree(root / "results", results)
        training = training_code(read_notebook(chapter_path(root, chapter))).fingerprint
        for name, record in records_of(results, chapter).items():
            if record["seed"] == seed or record["code"] != training:
                if record["scale"] == "page":
                    (results / chapter / f"{name}.json").unlink()
        before = set(records_of(results, chapter))
        # never one that is named by hand: what is published must not go on from what other code has trained
        kept = str(_checkpoints(root, "page", training))
        outcome = execute(root, chapter, "page", seed, output, results, COURSE_CHECKPOINTS=kept)
        if not outcome.error:
            try:
                accept(results / chapter, sorted(set(records_of(results, chapter)) - before), output)
            except UserError as error:
                return Outcome(chapter, "failed", outcome.seconds, error=str(error))
        return outcome


def head(root: Path) -> str:
    """The commit that is checked out, "unknown" where there is none."""
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def publish(root: Path, words: list[str] | None = None) -> int:
    """Run chapters at the page scale, seed 0; store outputs in notebooks/ and records in results/.

    A chapter that fails leaves both as they were. Records of the chapter that another version of its
    training code made are removed.
    """

    def work(chapter: str) -> Outcome:
        def accept(folder: Path, names: list[str], output: Path) -> None:
            path = chapter_path(root, chapter)
            source, executed = read_notebook(path), read_notebook(output)
            if fingerprint(source) != fingerprint(executed):
                raise UserError(f"{path} was edited while it ran; nothing was stored. Publish it again.")
            notebook = take_outputs(source, executed)
            for cell in notebook.cells:
                for output in cell.get("outputs", []):
                    _shrink_photograph(output)
            code = page_code(source)
            notebook.metadata["course"] = {
                "scale": "page",
                "seed": 0,
                "code": code.fingerprint,
                "definitions": code.definitions,
                "commit": head(root),
                "records": names,
            }
            kept = {file.stem for file in folder.glob("*.json")}
            target = root / "results" / chapter
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copy2(folder / f"{name}.json", target)
            for name in set(records_of(root / "results", chapter)) - kept:
                (target / f"{name}.json").unlink()
                tqdm.write(f"{chapter}: removed the stale record {name}")
            write_notebook(notebook, path)

        outcome = _run_apart(root, chapter, 0, accept)
        outcome.status = "published" if outcome.status == "done" else outcome.status
        return outcome

    return _each(choose_chapters(root, words), work)


def repeats(root: Path, words: list[str] | None = None, seeds: int = 3) -> int:
    """Run chapters again with seeds 1 to seeds - 1 at the page scale; only adds records to results/.

    What is recorded already by the code as it is, is not run again.
    """
    status = 0

    for seed in range(1, seeds):

        def work(chapter: str, seed: int = seed) -> Outcome:
            training = training_code(read_notebook(chapter_path(root, chapter))).fingerprint
            current = [r for r in records_of(root / "results", chapter, "page-*").values() if r["code"] == training]
            there = {r["run"] for r in current if r["seed"] == seed}
            if there and there == {r["run"] for r in current if r["seed"] == 0}:
                return Outcome(chapter, "done", 0, "recorded already")

            def accept(folder: Path, names: list[str], output: Path) -> None:
                (root / "results" / chapter).mkdir(parents=True, exist_ok=True)
                for name in names:
                    shutil.copy2(folder / f"{name}.json", root / "results" / chapter)

            return _run_apart(root, chapter, seed, accept)

        print(f"Seed {seed} of 1 to {seeds - 1}")
        status |= _each(choose_chapters(root, words), work)
    print("\nmake publish shows the new records in the chapters; what is trained already is reused.")
    return status


def golden_run(root: Path, chapter: str, folder: Path) -> Outcome:
    """Run a chapter at the smoke scale into `folder`/chapter.ipynb, so that it prints the same on every machine.

    It starts with no records, no checkpoints and no data, and computes in float32, with one thread and the
    instructions that every x86-64 processor of the last ten years has.
    """
    paths = [str(STEADY), str(root), os.environ.get("PYTHONPATH", "")]
    env = GOLDEN_ENVIRONMENT | {
        "COURSE_CHECKPOINTS": f"{folder}/checkpoints",
        "COURSE_DATA": f"{folder}/data",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    return execute(root, chapter, "smoke", 0, folder / "chapter.ipynb", folder / "results", **env)


def golden(root: Path, words: list[str] | None = None) -> int:
    """Run chapters at the smoke scale and keep code and outputs, without pictures, in tests/golden."""

    def work(chapter: str) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            outcome = golden_run(root, chapter, Path(folder))
            if not outcome.error:
                source = read_notebook(chapter_path(root, chapter))
                executed = read_notebook(Path(folder) / "chapter.ipynb")
                write_notebook(to_golden(source, executed), golden_path(root, chapter))
            return outcome

    return _each(choose_chapters(root, words), work)


def to_golden(source, executed):
    """A golden notebook: the code cells and injected parameters with their outputs, no pictures."""
    with_parameters = copy.deepcopy(source)
    for index, cell in enumerate(executed.cells):
        if "injected-parameters" in tags(cell):
            injected = copy.deepcopy(cell)
            injected.id = executed.cells[index].id = "injected-parameters"
            injected.metadata = {"tags": ["injected-parameters"]}
            with_parameters.cells.insert(index, injected)
    notebook = take_outputs(with_parameters, executed)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        for output in cell.outputs:
            for picture in ("image/png", "image/jpeg"):
                output.get("data", {}).pop(picture, None)
    notebook.metadata["course"] = {"scale": "smoke", "seed": 0, "code": fingerprint(source)}
    return notebook
