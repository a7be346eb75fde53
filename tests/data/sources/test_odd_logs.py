"""Odd logs, from file to dataset: what the place of a row in its file, or a twin of it, may not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trialign.data.prepare import prepare
from trialign.data.sources import Tables

Make = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def made(tmp_path: Path, tables: Callable[..., Tables], settings: dict[str, Any]) -> Make:
    """Return a function that writes the lines of a log, prepares it, and returns the dataset's folder and counts."""

    def make(lines: list[str], *, header: str = "user,item,time", **changes: Any) -> tuple[Path, dict[str, Any]]:
        known = {name: changes.pop(name) for name in list(changes) if name in _PREPARE}
        (tmp_path / "events.csv").write_text("\n".join([header, *lines]) + "\n")
        folder = tmp_path / f"made-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return folder, prepare(tables(**changes), folder, **(settings | known))

    return make


_PREPARE = ("split", "last_n", "cut_shares", "user_core", "item_core")


def _bytes(folder: Path) -> dict[str, str]:
    """Return a hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "settings_of",
    [
        {"split": "last_n", "last_n": 2},
        {"split": "temporal", "cut_shares": [0.6, 0.8]},
        {"user_core": 3, "item_core": 9},
    ],
)
def test_the_order_of_a_logs_rows_changes_no_byte_of_the_dataset(made: Make, settings_of: dict[str, Any]) -> None:
    draws = np.random.default_rng(1)
    lines = [
        f"u{draws.integers(40)},{'abc'[draws.integers(3)]},{1_700_000_000 + draws.integers(9)}" for _ in range(400)
    ]
    folder, counts = made(lines, **settings_of)
    assert counts["events_in_ties"] > 100
    for order in (sorted(lines), sorted(lines, reverse=True), [lines[row] for row in draws.permutation(len(lines))]):
        again, found = made(order, **settings_of)
        assert _bytes(again) == _bytes(folder)
        assert found == counts
