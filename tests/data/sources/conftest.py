"""Files of events and catalogues in every format, and the sources that read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trialign.config.data import EventColumns, ExamplesConfig, ItemColumns, TablesConfig
from trialign.data.sources import Examples, Tables

_COLUMNS = EventColumns(time="time")


@pytest.fixture
def tables(tmp_path: Path) -> Callable[..., Tables]:
    """Return a function from changed settings to a source; it writes a catalogue of a, b, c if there is none."""

    def make(events: Any = "events.csv", columns: dict[str, Any] | None = None, **changes: Any) -> Tables:
        if not (tmp_path / "items.csv").exists():
            (tmp_path / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
        if "item_columns" in changes:
            changes["item_columns"] = ItemColumns(**changes["item_columns"])
        named = replace(_COLUMNS, **(columns or {}))
        return Tables(
            TablesConfig(root=str(tmp_path), **{"events": events, "items": "items.csv", "columns": named} | changes)
        )

    return make


@pytest.fixture
def examples(tmp_path: Path) -> Callable[..., Examples]:
    """Return a function from changed settings to a source of examples in `<split>.inter`."""

    def make(**changes: Any) -> Examples:
        if not (tmp_path / "items.csv").exists():
            (tmp_path / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
        files = {split: f"{split}.inter" for split in ("train", "validation", "test")}
        return Examples(ExamplesConfig(root=str(tmp_path), **files | {"items": "items.csv"} | changes))

    return make
