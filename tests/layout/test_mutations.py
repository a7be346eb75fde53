"""The changes of benchmarks.mutations fit this tree, and its verdicts are what happened."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import mutations
from benchmarks.mutations import CHECKOUT, LISTS, Mutation, apply, faults, load

ADDED = Mutation("adds", "shop.py", "a + b", "a - b", ["test_shop.py::test_total"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text("def total(a, b):\n    found = a + b\n    return found + 0\n")
    (tmp_path / "test_shop.py").write_text(
        "from shop import total\n\n\ndef test_total():\n    assert total(2, 3) == 5\n\n\n"
        "def test_idle():\n    assert total(0, 0) == 0\n"
    )
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_every_change_fits_the_tree() -> None:
    known = load(LISTS)
    assert faults(known, CHECKOUT) == []
    assert known


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"old": "a * b"}, "its old text is 0 times in shop.py"),
        ({"old": "found"}, "its old text is 2 times in shop.py"),
        ({"file": "stop.py"}, "its old text is 0 times in stop.py"),
        ({"new": "a + b"}, "another number of lines than one"),
        ({"new": "a - b\n    a = b"}, "another number of lines than one"),
        ({"new": "a -"}, "does not compile with it: invalid syntax"),
        ({"tests": []}, "no test is named"),
        ({"tests": ["test_stop.py"]}, "there is no test test_stop.py"),
        ({"tests": ["test_shop.py::test_sum"]}, "there is no test test_shop.py::test_sum"),
    ],
)
def test_a_change_that_does_not_fit_is_told(changed: dict[str, object], told: str, tree: Path) -> None:
    assert faults([ADDED], tree) == []
    (found,) = faults([replace(ADDED, **changed)], tree)  # type: ignore[arg-type]
    assert found.startswith("adds: ")
    assert told in found


def test_survivors_are_named_and_what_ends_otherwise_is_neither(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "LIMIT_S", 10)
    changes = [
        ADDED,
        replace(ADDED, name="unseen", tests=["test_shop.py::test_idle"]),
        replace(ADDED, name="endless", old="found = a + b", new="while True: found = a + b"),
        replace(ADDED, name="broken", old="def total(a, b):", new="def total(a, b=c):"),
        replace(ADDED, name="again"),
    ]
    before = (tree / "shop.py").read_text()
    survivors, errors = apply(changes, tree, jobs=1)
    assert survivors == ["unseen"]
    assert set(errors) == {"endless", "broken"}
    assert "not done after 10 s" in errors["endless"]
    assert "name 'c' is not defined" in errors["broken"]
    assert (tree / "shop.py").read_text() == before


def test_tests_that_are_red_anyway_are_refused(tree: Path) -> None:
    (tree / "shop.py").write_text("def total(a, b):\n    return a * b  # a + b\n")
    with pytest.raises(SystemExit, match="not green without a change"):
        apply([ADDED], tree, jobs=1)
