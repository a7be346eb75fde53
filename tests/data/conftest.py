"""Small worlds written to disk, for the tests of `trialign.data`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pytest
from PIL import Image

from trialign.config.data import DataConfig, InterJsonConfig
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import Oracle, RawData
from trialign.data.sources import InterJson

_SETTINGS = DataConfig(max_history=6, block_records=4, shard_blocks=2, images_per_shard=2)


@dataclass
class World:
    """A source from rows of events, or of ready examples, with whatever else a test wants to hand over.

    Rows of more than user, item and order continue with `columns`.
    """

    rows: Sequence[tuple[Any, ...]] = ()
    columns: Sequence[str] = ("tie",)
    keys: Sequence[str] = ("p", "q", "r")
    examples: Sequence[tuple[str | None, list[str] | None, list[str] | None, str | None]] | None = None
    images: Any = None
    oracle: Oracle | None = None
    has_clock: bool = False
    files: dict[str, Path] = field(default_factory=dict)

    def sources(self) -> dict[str, Path]:
        return self.files

    def load(self, folder: Path) -> RawData:
        empty = pa.array([""] * len(self.keys))
        items = pa.table(
            {
                "item": pa.array(self.keys, pa.string()),
                "title": empty,
                "description": empty,
                "brand": empty,
                "categories": pa.array([[] for _ in self.keys], pa.list_(pa.string())),
            }
        )
        if self.examples is not None:
            schema = {"user": pa.string(), "items": pa.list_(pa.string()), "target": pa.list_(pa.string())}
            table = _table(self.examples, schema | {"split": pa.string()})
            return RawData(items=items, has_clock=False, examples=ibis.memtable(table))
        wide = any(len(row) > 3 for row in self.rows)
        schema = {"user": pa.string(), "item": pa.string(), "order": pa.int64()}
        schema |= dict.fromkeys(self.columns if wide else (), pa.int64())
        events = ibis.memtable(_table(self.rows, schema))
        return RawData(items=items, has_clock=self.has_clock, events=events, images=self.images, oracle=self.oracle)


def _table(rows: Sequence[tuple[Any, ...]], schema: dict[str, Any]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([pa.array(c, t) for c, t in zip(columns, schema.values(), strict=True)], names=list(schema))


@pytest.fixture
def source_of() -> Callable[..., World]:
    """Return a function from rows, and what else `World` takes, to a source."""
    return World


@pytest.fixture
def world(tmp_path: Path, settings: DataConfig) -> Callable[..., tuple[Dataset, dict[str, Any]]]:
    """Return a function that prepares a `World` from its arguments; those that are settings of `prepare` go there."""

    def make(
        *rows: Sequence[tuple[Any, ...]], name: str | None = None, **changes: Any
    ) -> tuple[Dataset, dict[str, Any]]:
        known = {name: changes.pop(name) for name in list(changes) if name not in World.__dataclass_fields__}
        folder = tmp_path / (name or f"world-{len(list(tmp_path.iterdir()))}")
        folder.mkdir(parents=True)
        counts = prepare(World(*rows, **changes), folder, replace(settings, **known))
        return Dataset(folder), counts

    return make


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Return a function from a color, and a format, to an encoded picture."""

    def paint(color: str, form: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (2, 3), color).save(file, form)
        return file.getvalue()

    return paint


@pytest.fixture
def settings() -> DataConfig:
    """Return settings that fit a world of a few users."""
    return replace(_SETTINGS)


@pytest.fixture
def inter_json(tmp_path: Path) -> Callable[..., InterJson]:
    """Return a function from {user: items} and {item: fields} to a source; text is written as it is."""

    def write(interactions: object, items: object) -> InterJson:
        for name, content in {"inter.json": interactions, "item.json": items}.items():
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return InterJson(InterJsonConfig(root=str(tmp_path), interactions="inter.json", items="item.json"))

    return write


@pytest.fixture
def prepared(
    tmp_path: Path, inter_json: Callable[..., InterJson], settings: DataConfig
) -> Callable[..., tuple[Dataset, dict[str, int]]]:
    """Return a function that prepares {user: items} (catalogue of what occurs, unless given) with changed settings."""

    def make(
        lists: dict[str, list[int]], items: dict[str, Any] | None = None, **changes: object
    ) -> tuple[Dataset, dict[str, int]]:
        found = {str(item): {"title": f"item {item}"} for chosen in lists.values() for item in chosen}
        folder = tmp_path / f"prepared-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        counts = prepare(inter_json(lists, items or found), folder, replace(settings, **changes))
        return Dataset(folder), counts

    return make
