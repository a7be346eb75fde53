"""Every field of every settings dataclass is read in typed Python: whoever renames one is told by mypy where."""

from __future__ import annotations

import ast
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SETTINGS = ("option.py", "taken.py", "verbs.py", "config.py", "registry.py")
DRAWN, SEED = 10, 20261130


def declarations() -> dict[tuple[str, str], list[tuple[Path, int]]]:
    """Return (class, field) -> the lines that declare it; a field that subclasses declare anew is the base's."""
    classes: dict[str, tuple[Path, ast.ClassDef]] = {}
    for path in sorted((ROOT / "trialign" / "config").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or path.name in NOT_SETTINGS:
                continue
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                classes[node.name] = (path, node)

    def bases(name: str) -> list[str]:
        own = [base.id for base in classes[name][1].bases if isinstance(base, ast.Name) and base.id in classes]
        return [name, *(found for base in own for found in bases(base))]

    fields = {
        name: {
            line.target.id: line.lineno
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
        for name, (_, node) in classes.items()
    }
    found: dict[tuple[str, str], list[tuple[Path, int]]] = {}
    for name, own in fields.items():
        for field, line in own.items():
            first = [base for base in bases(name) if field in fields[base]][-1]
            found.setdefault((first, field), []).append((classes[name][0], line))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_renamed_field_turns_mypy_red(tmp_path: Path) -> None:
    for part in ("trialign", "launch", "conf", "setup.cfg"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    if (ROOT / ".mypy_cache").is_dir():  # minutes less
        shutil.copytree(ROOT / ".mypy_cache", tmp_path / ".mypy_cache")
    known = declarations()
    assert len(known) > 300
    drawn = random.Random(SEED).sample(sorted(known), DRAWN)
    assert checked(tmp_path) == "", "the copy as it is"
    for name, field in drawn:
        touched = {path: (tmp_path / path.relative_to(ROOT)).read_text() for path, _ in known[name, field]}
        for path, line in known[name, field]:
            copy = tmp_path / path.relative_to(ROOT)
            lines = copy.read_text().splitlines(keepends=True)
            lines[line - 1] = lines[line - 1].replace(f"{field}:", f"{field}_renamed:", 1)
            copy.write_text("".join(lines))
        assert "error" in checked(tmp_path), f"nobody reads {name}.{field} in typed Python"
        for path, text in touched.items():
            (tmp_path / path.relative_to(ROOT)).write_text(text)


def checked(folder: Path) -> str:
    """Return what strict mypy says of the package in a folder; nothing where it is content."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / ".mypy_cache")]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return told.stdout if told.returncode else ""
