"""The course's command line: python -m course_tools COMMAND. The Makefile calls the same commands."""

import argparse
import sys
from pathlib import Path

from course_tools.chapters import UserError, ignored_notebooks, project_root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_tools", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, chapters: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        if chapters:
            text = "such as 01, 01_plain_cnn or ladder/01_plain_cnn; all if left out"
            added.add_argument("--chapters", nargs="*", metavar="CHAPTER", help=text)
        return added

    added = command("run", "execute chapters into build/runs; nothing stored changes", True)
    added.add_argument("--scale", default="smoke", help="smoke (default), page or source")
    added.add_argument("--seed", type=int, default=0)
    command("publish", "run chapters at the page scale and store outputs and records", True)
    added = command("repeats", "run chapters with further seeds and store their records", True)
    added.add_argument("--seeds", type=int, default=3, help="seeds in all, the published 0 included")
    added = command("confirm", "keep records and pages whose code has changed and still gives the same", True)
    told = "changed definitions that no healthy run comes to, and that you answer for"
    added.add_argument("--by-hand", nargs="*", default=[], metavar="NAME", help=told)
    command("golden", "make the golden runs of chapters in tests/golden", True)
    command("check", "say which outputs, records and golden runs are stale")
    added = command("address", "copy the repository's address from _config.yml to where it is used")
    added.add_argument("--check", action="store_true", help="only say which files differ")
    command("rename", "give records and pages the names that the scales have today; figures stay")
    command("book", "build the book from the published notebooks")
    added = command("race", "train the recipes of chapter 5 and say when each mark was passed")
    added.add_argument("recipes", nargs="*", metavar="RECIPE", help="such as imagenette-83; all if left out")
    added.add_argument("--seeds", type=int, default=1, help="seeds in all, from 0")
    added.add_argument("--record", action="store_true", help="keep the records in results/")
    added = command("study", "run a study: runs of one question, which go on where they were stopped")
    added.add_argument("name", nargs="?", help="such as norm_seeds; all are listed if left out")
    added.add_argument("--limit", type=float, metavar="MINUTES", help="stop in good order after so many minutes")
    added.add_argument("--scale", default="page", help="page (default), smoke or source; only page is kept in results/")
    added.add_argument("--list", action="store_true", help="only say which studies there are, and how far they are")
    added = command("assignments", "build student copies, solutions, instructor copies and tests of the exercises")
    added.add_argument("words", nargs="*", metavar="ASSIGNMENT", help="such as ladder/02; all if left out")
    added.add_argument("--variant", metavar="SEED", help="a graded edition with other numbers, from your secret seed")
    command("quiz", "export the quiz bank for Moodle (GIFT) and Canvas (QTI)")
    added = command("grade", "grade a folder of submitted notebooks (make grade has the packages for it)")
    added.add_argument("submissions", help="a folder of .ipynb or .zip files")
    added.add_argument("--variant", metavar="SEED", help="the secret seed of the edition that was handed out")
    added.add_argument("--assignment", help="of all files; found for each if left out")
    added.add_argument("--jobs", type=int, default=2, help="submissions at a time (2)")
    added = command("mutants", "mutate the solutions of the exercises, and count what their checks refuse")
    added.add_argument("words", nargs="*", metavar="ASSIGNMENT", help="such as ladder/02; all if left out")
    added = command("portable", "run the sensitive tests as other machines would")
    added.add_argument("--modes", nargs="*", metavar="MODE", help="as-is, threads, avx2, bfloat16; all if left out")
    added.add_argument("--short", action="store_true", help="without golden runs and what else is slow")
    added = command("bench", "measure the speed ratios that the course promises")
    added.add_argument("--quick", action="store_true", help="fewer images and repeats")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is well, 1 something failed or is stale, 2 a mistake in the command."""
    options = _parser().parse_args(arguments)
    try:
        root = project_root()
        if options.command == "check":
            from course_tools.staleness import check

            if told := ignored_notebooks(root):
                print(told)
            return _report(check(root), "Everything stored was made by the code as it is now.")
        if options.command == "address":
            from course_tools.address import address

            files = address(root, write=not options.check)
            if not options.check:
                print("\n".join(f"{file}: mended" for file in files) or "Nothing to mend.")
                return 0
            lines = [f"{file}: its address is not that of _config.yml. make address" for file in files]
            return _report(lines, "The address is the same everywhere.")
        if options.command == "rename":
            from course_tools.rename import rename

            print("\n".join(rename(root)) or "Every scale has its name of today.")
            return 0
        if options.command == "book":
            from course_tools.book import book

            return book(root)
        if options.command == "assignments":
            from course_tools.assignments import assignments

            return assignments(root, options.words, options.variant)
        if options.command == "quiz":
            from course_tools.quiz import quiz

            return quiz(root)
        if options.command == "grade":
            from course_tools.grade import grade

            return grade(root, Path(options.submissions), options.variant, options.assignment, options.jobs)
        if options.command == "mutants":
            from course_tools.mutants import mutants

            return mutants(root, options.words)
        if options.command == "portable":
            from course_tools.portable import portable

            return portable(root, options.modes, options.short)
        if options.command == "bench":
            from course_tools.bench import bench

            return bench(quick=options.quick)

        if options.command == "race":
            from course_tools.race import race

            return race(root, options.recipes, options.seeds, options.record)

        if options.command == "study":
            from course_tools.studies import list_studies, study

            if options.list or not options.name:
                return list_studies(root, options.scale)
            return study(root, options.name, options.limit, options.scale)

        if options.command == "confirm":
            from course_tools.confirm import confirm

            return confirm(root, options.chapters, options.by_hand)

        from course_tools import runs

        if options.command == "run":
            return runs.run(root, options.scale, options.chapters, options.seed)
        if options.command == "repeats":
            return runs.repeats(root, options.chapters, options.seeds)
        return {"publish": runs.publish, "golden": runs.golden}[options.command](root, options.chapters)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _report(problems: list[str], well: str) -> int:
    print("\n".join(problems) or well)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
