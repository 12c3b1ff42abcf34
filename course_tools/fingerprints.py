"""Fingerprints of code: is what is stored still what this code makes, and if not, which definitions have changed?"""

import ast
import copy
import functools
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

import course_utils
from course_tools.chapters import UserError, tags

PACKAGE = Path(course_utils.__file__).parent
SHOWS_ONLY = ("charts", "comparison", "plots", "records", "versions")  # these show, store, or look at libraries
COUNTS = "count"  # whose figures `save_record` puts into each record


@dataclass(frozen=True)
class Code:
    """The code that something was made by: each cell and each definition that it reaches, with a hash of its own."""

    definitions: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it."""
        return _hash("\n".join(f"{name} {self.definitions[name]}" for name in sorted(self.definitions)), 64)

    def as_json(self) -> str:
        """What a record keeps: {"code", "definitions"}."""
        return json.dumps({"code": self.fingerprint, "definitions": self.definitions})


def changed(before: dict[str, str] | str, now: Code) -> list[str]:
    """The names of cells and definitions that differ, or are in one of the two only."""
    before = before if isinstance(before, dict) else {}
    return sorted(name for name in before | now.definitions if before.get(name) != now.definitions.get(name))


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


def _hash(text: str, length: int = 10) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _trees(notebook: nbformat.NotebookNode, skipped: set[str]) -> dict[str, ast.AST]:
    """The syntax trees of the code cells that hold code and none of the skipped tags, by "cell" and their id."""
    trees = {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and not skipped & set(tags(cell)):
            try:
                tree = parse_cell(cell.source)
            except SyntaxError as error:
                raise UserError(f"A cell does not parse: {error}\n{cell.source}") from error
            if tree.body:  # an exercise's empty cell does nothing
                trees[f"cell {cell.get('id', number)}"] = tree
    return trees


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the parsed code of a notebook, its parameters apart; comments and layout do not count."""
    trees = _trees(notebook, {"parameters", "injected-parameters"})
    return _hash("\n".join(map(code_text, trees.values())), 64)


def page_code(notebook: nbformat.NotebookNode, package: Path | None = None) -> Code:
    """The code that decides what a page shows: all its cells, and every definition of `course_utils` that they reach.

    What only shows is a part of it: another deviation in `records`, or another colour in `plots`, makes another page.
    """
    return _reaching(_trees(notebook, {"parameters", "injected-parameters"}), package, shown=True)


def training_code(notebook: nbformat.NotebookNode, package: Path | None = None) -> Code:
    """The code that decides what a chapter trains.

    These are its cells that are not tagged "figure", and every definition of `course_utils` whose
    name occurs in them, or in a definition that they reach in this way; a name in quotes counts, since
    `getattr` takes it. So a network that a later chapter adds to `course_utils` leaves the records of
    the earlier chapters as they are.
    """
    return _reaching(_trees(notebook, {"parameters", "injected-parameters", "figure"}), package)


def recipe_code(name: str, package: Path | None = None) -> Code:
    """The code that decides what `race` does with a recipe: its definition, and all that they reach."""
    return _reaching({"recipe": ast.parse(f"race({constant_name(name)})")}, package)


def program_code(path: Path, package: Path | None = None) -> Code:
    """The code that decides what a study trains: a program, and all that it reaches."""
    tree = _without_docstrings(ast.parse(path.read_text(encoding="utf-8")))
    return _reaching({path.name: tree}, package)


def constant_name(recipe: str) -> str:
    """The name of a recipe's definition: IMAGENETTE_83 for "imagenette-83"."""
    return recipe.upper().replace("-", "_")


def _reaching(trees: dict[str, ast.AST], package: Path | None, shown: bool = False) -> Code:
    """The trees and every definition of the package that they reach by name."""
    known = _definitions(package or PACKAGE, shown)
    own = set().union(*(_stored(tree) for tree in trees.values()))  # what a chapter defines itself is its own
    names = {COUNTS}.union(*(_names(tree, own) for tree in trees.values()))
    reached = {}
    while new := (names & known.keys()) - reached.keys():
        for name in new:
            for definition in known[name]:
                for part, (text, _) in definition.parts.items():
                    reached[part] = _hash(reached.get(part, "") + text)
            reached.setdefault(name, "")
            names |= set().union(*(definition.names for definition in known[name]))
    return Code({name: _hash(code_text(tree)) for name, tree in trees.items()} | reached)


@dataclass(frozen=True)
class Definition:
    """A statement at the top of a module: its parts, each with its text and the names that it uses, and all names.

    A class is its head, and each of its methods by itself.
    """

    parts: dict[str, tuple[str, set[str]]]
    names: set[str]
    is_variable: bool

    @classmethod
    def of(cls, name: str, statement: ast.AST) -> "Definition":
        parts = {name: statement}
        if isinstance(statement, ast.ClassDef):
            methods = {part.name: part for part in statement.body if isinstance(part, ast.FunctionDef)}
            head = copy.copy(statement)
            head.body = [part for part in statement.body if part not in methods.values()]
            parts = {name: head} | {f"{name}.{method}": tree for method, tree in methods.items()}
        told = {part: (code_text(tree), _names(tree, set())) for part, tree in parts.items()}
        return cls(told, _names(statement, set()), not isinstance(statement, (ast.FunctionDef, ast.ClassDef)))


def executed(names: set[str], ran: set[str], package: Path | None = None) -> set[str]:
    """Which of some cells and definitions took part where the functions `ran` were executed.

    A cell did; a function or method if it ran; a constant if something that took part uses it.
    """
    functions, users = set(), {}
    for definition in itertools.chain(*_definitions(package or PACKAGE, shown=True).values()):
        functions |= set() if definition.is_variable else definition.parts.keys()
        for part, (_, names_used) in definition.parts.items():
            for used in names_used:
                users.setdefault(used, set()).add(part)

    def took_part(name: str, above: tuple[str, ...] = ()) -> bool:
        if name in functions or name.startswith("cell "):
            return name in ran or name.startswith("cell ")
        using = users.get(name, set()) - {name, *above}
        return not using or any(took_part(user, (*above, name)) for user in using)

    return {name for name in names if took_part(name)}


def _names(tree: ast.AST, own: set[str]) -> set[str]:
    """Every name that a tree uses and that may be another module's: variables, attributes, imports, words in quotes.

    `own` are names that are bound elsewhere around it; those of a function's own variables are left out as well.
    """
    local = own | _bound_inside(tree)
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} - local
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return names | {node.name for node in nodes if isinstance(node, ast.alias)}


def _stored(tree: ast.AST) -> set[str]:
    """The names that a cell binds, imports apart."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names - {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}


def _bound_inside(tree: ast.AST) -> set[str]:
    """The variables and arguments of a function or method at the top of a module; nothing for other statements."""
    if not isinstance(tree, ast.FunctionDef):
        return set()
    nodes = list(ast.walk(tree))
    imported = {alias.asname or alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names}  # fmt: skip
    names = {node.arg for node in nodes if isinstance(node, ast.arg)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return names - imported


def _definitions(package: Path, shown: bool) -> dict[str, list[Definition]]:
    """What each name at the top of a module of the package is bound to, docstrings left out."""
    known: dict[str, list[Definition]] = {}
    for path in sorted(package.glob("*.py")):
        if shown or path.stem not in SHOWS_ONLY:
            for name, definition in _read_module(path.read_text(encoding="utf-8")):
                known.setdefault(name, []).append(definition)
    return known


@functools.cache
def _read_module(text: str) -> list[tuple[str, Definition]]:
    """The definitions of a module, by its text, since everything that is checked asks for the same ones."""
    found = []
    for statement in _without_docstrings(ast.parse(text)).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _for_programs(statement):
            continue
        inner = [part.target for part in ast.walk(statement) if isinstance(part, ast.comprehension)]
        bound = {id(node) for target in inner for node in ast.walk(target)}  # inside a comprehension only
        names = {node.id for node in ast.walk(statement) if isinstance(getattr(node, "ctx", None), ast.Store)
                 and isinstance(node, ast.Name) and id(node) not in bound}  # fmt: skip
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names = {statement.name}
        # a bare statement acts on everything
        found += [(name, Definition.of(name, statement)) for name in names or {COUNTS}]
    return found


def _for_programs(statement: ast.AST) -> bool:
    """Whether it is `if __name__ == "__main__":`, which does nothing where a module is imported."""
    return isinstance(statement, ast.If) and "__name__" in _names(statement.test, set())


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                del body[0]
    return tree
