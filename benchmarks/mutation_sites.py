"""Where a source can be mutated, by Cosmic Ray's operators, and what each mutant reads like.

A site is a place in the source and a family of operators that change it: the ``+`` of a sum is one
site, whatever it is replaced with, so that eleven replacements of one sum do not count eleven times
as much as a number that has two. Sites are left out where no behaviour can depend on them:
annotations with the guard of their imports, and the words of messages (f-strings of a ``raise`` or
of a call that only speaks).
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Place = tuple[int, int]
Span = tuple[Place, Place]

SPEAKS = frozenset({"print", "say", "_say", "progress", "warn", "note", "debug", "info", "warning"})
"""Names of functions whose f-strings are read by a person and decide nothing."""


@dataclass(frozen=True)
class Site:
    """One place of a file, and the ``(operator, occurrence)`` that each mutate it."""

    path: str
    begin: Place
    end: Place
    family: str
    choices: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the lines as they are and as the mutant has them.

    ``line`` is the site's; ``code`` is the whole source of the mutant.
    """

    path: str
    line: int
    source: str
    mutant: str
    operator: str
    code: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it as long as its line stands in the file, wherever that moves to."""
        return self.path, self.source, self.mutant


@dataclass(frozen=True)
class Statement:
    """The lines of one statement, of a compound one those of its head."""

    first: int
    last: int
    imported: bool
    """Whether it runs when the module is imported: it stands in no function."""


@functools.cache
def operators() -> dict[str, object]:
    """Return Cosmic Ray's operators that need no arguments, by name."""
    import cosmic_ray.plugins

    found = {}
    for name in sorted(cosmic_ray.plugins.operator_names()):
        try:
            found[name] = cosmic_ray.plugins.get_operator(name)()
        except TypeError:  # it asks for the names of variables
            continue
    return found


def sites_of(path: str, source: str) -> list[Site]:
    """Return the sites of a source in its order, without annotations and messages."""
    from cosmic_ray.ast import ast_nodes, get_ast

    left_out = list(_left_out(ast.parse(source)))
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[tuple[Place, Place, str], list[tuple[str, int]]] = {}
    for name, operator in operators().items():
        family = name.split("/")[-1].split("_")[0]
        spans = (span for node in nodes for span in operator.mutation_positions(node))  # type: ignore[attr-defined]
        for occurrence, (begin, end) in enumerate(spans):
            if not any(a <= begin < b for a, b in left_out):
                found.setdefault((begin, end, family), []).append((name, occurrence))
    return [
        Site(path, begin, end, family, tuple(choices))
        for (begin, end, family), choices in sorted(found.items())
    ]


def mutate(site: Site, choice: int, source: str) -> Mutant | None:
    """Return one mutant of a site; None where the operator leaves the source as it is."""
    from cosmic_ray.mutating import mutate_code

    name, occurrence = site.choices[choice]
    code = mutate_code(source, operators()[name], occurrence)
    if code is None or code == source:
        return None
    before, after = source.splitlines(), code.splitlines()
    changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    first = next(change for change in changes if change[0] != "equal")
    old = " ".join(line.strip() for line in before[first[1] : first[2]]).strip()
    new = " ".join(line.strip() for line in after[first[3] : first[4]]).strip()
    return Mutant(site.path, site.begin[0], old, new, name.split("/")[-1], code)


def statements(source: str) -> dict[int, Statement]:
    """Return the statement that each line belongs to, the innermost one."""
    found: dict[int, Statement] = {}
    for node, imported in _statements(ast.parse(source), True):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        last = node.end_lineno or node.lineno
        body = getattr(node, "body", None) or getattr(node, "cases", None)
        if isinstance(body, list) and body:
            inner = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
            last = max(first, min(last, inner.lineno - 1))
        for line in range(first, last + 1):
            found[line] = Statement(first, last, imported)
    return found


def readers(source: str, line: int) -> set[int]:
    """Return the lines that read a name which the module's statement at a line binds.

    A constant runs once, on import; what shows its value is what reads it.
    """
    tree = ast.parse(source)
    names: set[str] = set()
    for node in tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if first <= line <= (node.end_lineno or node.lineno):
            name = getattr(node, "name", None)
            names |= {name} if name else set()
            names |= {
                inner.id for inner in ast.walk(node)
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            }  # fmt: skip
    return {
        node.lineno for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names
    }  # fmt: skip


def _statements(node: ast.AST, imported: bool) -> Iterator[tuple[ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, imported
        inside = imported and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _statements(child, inside)


def _left_out(tree: ast.AST) -> Iterator[Span]:
    """Yield the spans of annotations, of the guards of what they import, and of messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield _span(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield _span(node.returns)
        elif isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            yield (node.lineno, node.col_offset), _span(node.test)[1]
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _speaks(node.func)):
            yield from (_span(n) for n in ast.walk(node) if isinstance(n, ast.JoinedStr))


def _speaks(function: ast.expr) -> bool:
    name = getattr(function, "id", None) or getattr(function, "attr", None)
    return name in SPEAKS


def _span(node: ast.expr) -> Span:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def read_sources(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Return the sources that glob patterns name, by their paths below a root."""
    paths = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(paths)}
