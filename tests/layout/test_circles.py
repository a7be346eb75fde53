"""No module needs, by way of others, itself: imports for type checkers and those inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> set[str]:
    """Return the modules that a module imports anywhere in its file, parents of packages apart."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {other for other in named if other in modules and other != name}


def circle(folder: Path, package: str) -> list[str]:
    """Return the modules of a circle of imports below a folder, the first one again at its end; [] without one."""
    modules = {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter({name: imports_of(name, path, modules) for name, path in modules.items()}).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


def test_all_modules_import_each_other_in_one_direction() -> None:
    assert circle(CHECKOUT / "trialign", "trialign") == []


def test_a_circle_is_found_where_only_type_checkers_or_one_function_go_round(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text("def run():\n    from shop.second import total\n")
    assert circle(tmp_path, "shop") == []
    (tmp_path / "second.py").write_text("if TYPE_CHECKING:\n    from shop import first\n")
    assert circle(tmp_path, "shop") in (
        ["shop.first", "shop.second", "shop.first"],
        ["shop.second", "shop.first", "shop.second"],
    )
