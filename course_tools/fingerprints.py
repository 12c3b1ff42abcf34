"""Fingerprints of code: is what is stored still what this code makes?"""

import ast
import hashlib
import re
from pathlib import Path

import nbformat

import course_utils
from course_tools.chapters import UserError, tags

PACKAGE = Path(course_utils.__file__).parent
SHOWS_ONLY = ("charts", "plots", "records")  # these modules show and store what was trained
COUNTS = "count"  # whose figures `save_record` puts into each record


def parse_cell(source: str) -> ast.AST:
    """The syntax tree of a code cell, magics included; raises SyntaxError where it does not parse."""
    from IPython.core.inputtransformer2 import TransformerManager

    # The install line holds the repository's address and trains nothing
    source = re.sub(r"(?m)^(\s*)%pip\b.*$", r"\1pass", source)
    return ast.parse(TransformerManager().transform_cell(source))


def code_text(node: object) -> str:
    """A syntax tree as text that is the same in every version of Python: empty fields do not count."""
    if isinstance(node, list):
        return f"[{', '.join(map(code_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, code_text(value)) for name, value in ast.iter_fields(node))
    told = ", ".join(f"{name}={text}" for name, text in fields if text not in ("[]", "None"))
    return f"{type(node).__name__}({told})"


def _trees(notebook: nbformat.NotebookNode, skipped: set[str]) -> list[ast.AST]:
    """The syntax trees of the code cells that have none of the skipped tags."""
    trees = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and not skipped & set(tags(cell)):
            try:
                trees.append(parse_cell(cell.source))
            except SyntaxError as error:
                raise UserError(f"A cell does not parse: {error}\n{cell.source}") from error
    return trees


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the parsed code of a notebook, its parameters apart; comments and layout do not count."""
    trees = _trees(notebook, {"parameters", "injected-parameters"})
    return hashlib.sha256("\n".join(map(code_text, trees)).encode()).hexdigest()


def training_fingerprint(notebook: nbformat.NotebookNode, package: Path | None = None) -> str:
    """SHA-256 over the code that decides what a chapter trains.

    These are its cells that are not tagged "figure", and every definition of `course_utils` whose
    name occurs in them, or in a definition that they reach in this way. So a network that a later
    chapter adds to `course_utils` leaves the records of the earlier chapters as they are.
    """
    trees = _trees(notebook, {"parameters", "injected-parameters", "figure"})
    return _reaching([tree for tree in trees if tree.body], package)  # an exercise's empty cell trains nothing


def recipe_fingerprint(name: str, package: Path | None = None) -> str:
    """SHA-256 over the code that decides what `race` does with a recipe: its definition, and all that they reach."""
    return _reaching([ast.parse(f"race({constant_name(name)})")], package)


def constant_name(recipe: str) -> str:
    """The name of a recipe's definition: IMAGENETTE_83 for "imagenette-83"."""
    return recipe.upper().replace("-", "_")


def _reaching(trees: list[ast.AST], package: Path | None) -> str:
    """SHA-256 over trees and every definition of the package that they reach by name."""
    known = _definitions(package or PACKAGE)
    reached, names = {}, {COUNTS}.union(*map(_names, trees))
    while new := (names & known.keys()) - reached.keys():
        for name in new:
            reached[name] = " ".join(map(code_text, known[name]))
            names |= set().union(*map(_names, known[name]))
    text = [code_text(tree) for tree in trees] + [reached[name] for name in sorted(reached)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _names(tree: ast.AST) -> set[str]:
    """Every name that a tree uses: variables, attributes, imports."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | {node.name for node in nodes if isinstance(node, ast.alias)}


def _definitions(package: Path) -> dict[str, list[ast.AST]]:
    """What each name at the top of a module of the package is bound to, docstrings left out."""
    known: dict[str, list[ast.AST]] = {}
    for path in sorted(package.glob("*.py")):
        if path.stem in SHOWS_ONLY:
            continue
        for statement in _without_docstrings(ast.parse(path.read_text(encoding="utf-8"))).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)) or _for_programs(statement):
                continue
            inner = [part.target for part in ast.walk(statement) if isinstance(part, ast.comprehension)]
            bound = {id(node) for target in inner for node in ast.walk(target)}  # inside a comprehension only
            names = {node.id for node in ast.walk(statement) if isinstance(getattr(node, "ctx", None), ast.Store)
                     and isinstance(node, ast.Name) and id(node) not in bound}  # fmt: skip
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                names = {statement.name}
            for name in names or {COUNTS}:  # a bare statement acts on everything
                known.setdefault(name, []).append(statement)
    return known


def _for_programs(statement: ast.AST) -> bool:
    """Whether it is `if __name__ == "__main__":`, which does nothing where a module is imported."""
    return isinstance(statement, ast.If) and "__name__" in _names(statement.test)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                del body[0]
    return tree
