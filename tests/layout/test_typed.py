"""How much of the package travels in mappings of anything, which mypy sees nothing of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 60
"""Such annotations today; the goal is 90. Lower it when you take some away."""
MAPPINGS = {"dict", "Mapping", "MutableMapping", "defaultdict"}
ANYTHING = {"Any", "object"}


def untyped(annotation: ast.expr, aliases: frozenset[str] = frozenset()) -> int:
    """Return how many mappings of an annotation hold anything at all, themselves or by an alias."""
    found = 0
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id in aliases:
            found += 1
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in MAPPINGS:
            names = {inner.id for inner in ast.walk(node.slice) if isinstance(inner, ast.Name)}
            found += bool(names & ANYTHING)
    return found


def aliases_of(tree: ast.Module) -> frozenset[str]:
    """Return the names by which a module calls such a mapping."""
    named = [(line.targets[0], line.value) for line in tree.body if isinstance(line, ast.Assign)]
    return frozenset(name.id for name, value in named if isinstance(name, ast.Name) and untyped(value))


def annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns


def test_an_annotation_by_hand() -> None:
    read = "def f(a: Mapping[str, object], b: list[Row], c: dict[str, int]) -> Row: ..."
    tree = ast.parse(f"Row = dict[str, Any]\n{read}")
    assert sum(untyped(found, aliases_of(tree)) for found in annotations(tree)) == 3


def test_mappings_of_anything_become_fewer() -> None:
    trees = {
        path.relative_to(ROOT): ast.parse(path.read_text())
        for folder in ("trialign", "launch")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    aliases = frozenset(name for tree in trees.values() for name in aliases_of(tree))
    found = {
        str(path): count
        for path, tree in trees.items()
        if (count := sum(untyped(annotation, aliases) for annotation in annotations(tree)))
    }
    assert sum(found.values()) <= MOST, f"{sum(found.values())} mappings of Any or object: {found}"
