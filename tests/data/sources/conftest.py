"""Files of events and catalogues in every format, and the sources that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trialign.data.sources import Examples, Tables

_CATALOGUE: dict[str, Any] = {
    "items": "items.csv",
    "item_columns": {},
    "category_separator": ",",
    "captions": None,
    "caption_after": None,
    "images": None,
    "delimiter": ",",
    "items_delimiter": None,
    "quotes": True,
    "format": None,
}
_EVENTS: dict[str, Any] = {"user": "user", "item": "item", "time": "time", "rank": None, "tie": None}
_EXAMPLES: dict[str, Any] = {"user": "user_id", "items": "item_id_list", "target": "item_id"}


@pytest.fixture
def tables(tmp_path: Path) -> Callable[..., Tables]:
    """Return a function from changed settings to a source; it writes a catalogue of a, b, c if there is none."""

    def make(events: Any = "events.csv", columns: dict[str, Any] | None = None, **changes: Any) -> Tables:
        if not (tmp_path / "items.csv").exists():
            (tmp_path / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
        settings = _CATALOGUE | {"time_unit": "s", "columns": _EVENTS | (columns or {})} | changes
        return Tables(root=tmp_path, events=events, **settings)

    return make


@pytest.fixture
def examples(tmp_path: Path) -> Callable[..., Examples]:
    """Return a function from changed settings to a source of examples in `<split>.inter`."""

    def make(**changes: Any) -> Examples:
        if not (tmp_path / "items.csv").exists():
            (tmp_path / "items.csv").write_text("item,title\na,A\nb,B\nc,C\n")
        files = {split: f"{split}.inter" for split in ("train", "validation", "test")}
        settings = _CATALOGUE | files | {"columns": _EXAMPLES, "item_separator": " "} | changes
        return Examples(root=tmp_path, **settings)

    return make
