"""Run the recipes of the race and say when each mark was passed."""

from __future__ import annotations

from pathlib import Path

from course_tools.chapters import UserError, records_of
from course_tools.fingerprints import recipe_code
from course_tools.runs import environment
from course_utils.settings import named_folder


def race(root: Path, names: list[str] | None, seeds: int = 1, record: bool = False) -> int:
    """Train recipes, each with seeds 0 to seeds - 1; with `record`, keep the records in results/.

    What is recorded already by the code as it is, is not run again when records are kept.
    """
    from course_utils.race import RECIPES, race

    names = names or [name for name in RECIPES if name != "smoke"]
    if unknown := [name for name in names if name not in RECIPES]:
        raise UserError(f"There is no recipe {unknown[0]!r}. Valid: {', '.join(RECIPES)}.")
    results = root / ("results" if record else "build/race/results")
    for name in names:
        code = recipe_code(name)
        there = {
            r["seed"] for r in records_of(results, "race", f"*-{name}-*").values() if r["code"] == code.fingerprint
        }
        for seed in range(seeds):
            if record and seed in there:
                print(f"{name}, seed {seed}: recorded already")
                continue
            print(f"\n{name}, seed {seed}")
            values = {
                "COURSE_DATA": str(named_folder("COURSE_DATA", root / "data").resolve()),
                "COURSE_RESULTS": str(results),
                "COURSE_CHECKPOINTS": str(root / "build/checkpoints/race" / code.fingerprint[:16]),
                "COURSE_CODE": code.as_json(),
            }
            with environment(**values):
                marks = race(RECIPES[name], seed)
            print(marks.round(2).to_string(index=False))
    return 0
