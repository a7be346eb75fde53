"""The same expressions on Spark: equal contents bucket by bucket, an equal dataset, and a plain word where it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from trialign.config.data import DataConfig
from trialign.data.catalogue import index_catalogue
from trialign.data.dataset import Dataset
from trialign.data.events import partition_by_user
from trialign.data.examples import spread_examples
from trialign.data.tables import bounded_tables
from trialign.errors import ConfigError, DataError

World = Callable[..., tuple[Dataset, dict[str, Any]]]
KEYS = [f"item {key}" for key in range(30)]
LIMITS = {"memory": "1GB", "threads": 2}


@pytest.fixture(scope="module")
def tables(skip_for: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return both engines by name; Spark is started once."""
    lacking = [what for what, found in {"pyspark": find_spec("pyspark"), "Java": which("java")}.items() if not found]
    if lacking:
        skip_for("spark", f"{' and '.join(lacking)} is not installed")
    folder = tmp_path_factory.mktemp("spill")
    from trialign.data.spark import spark_tables

    with bounded_tables(folder / "duckdb", **LIMITS) as duckdb, spark_tables(folder / "spark", **LIMITS) as spark:
        yield {"duckdb": duckdb, "spark": spark}


def log(num_events: int = 3000) -> list[tuple[str, str, int, int]]:
    """Return events of heavy-tailed users and items, equal times among them, names that are not all ASCII."""
    draws = np.random.default_rng(0)
    users = (60 * draws.random(num_events) ** 3).astype(int)
    items = (len(KEYS) * draws.random(num_events) ** 2).astype(int)
    return [
        (f"ü {user}" if user % 2 else f"user'{user}", KEYS[item], 10**9 + int(time), int(tie))
        for user, item, time, tie in zip(
            users, items, draws.integers(0, 500, num_events), draws.integers(0, 9, num_events), strict=True
        )
    ]


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of the sorted rows of every bucket below a folder, their columns and types included."""

    def digest(bucket: Path) -> str:
        rows = pq.read_table(bucket, partitioning=None)
        columns = sorted(rows.column_names)
        rows = rows.select(columns).sort_by(
            [(name, "ascending") for name in columns if name not in ("items", "target")]
        )
        typed = [f"{field.name} {field.type}" for field in rows.schema]
        return hashlib.sha256(repr((typed, rows.to_pylist())).encode()).hexdigest()

    return {str(bucket.relative_to(folder)): digest(bucket) for bucket in sorted(folder.glob("*/bucket=*"))}


@pytest.mark.parametrize("changes", [{}, {"min_user_interactions": 30, "min_item_interactions": 60}, {"buckets": 1}])
def test_both_engines_spread_the_same_events_bucket_by_bucket(
    tables: dict[str, Any], tmp_path: Path, source_of: Callable[..., Any], changes: dict[str, int]
) -> None:
    rows = [*log(), ("stranger", "nobody's item", 10**9, 0)]
    settings = replace(DataConfig(missing_items="drop"), **changes)
    counts = {}
    for engine, found in tables.items():
        raw = source_of(rows, keys=KEYS, has_clock=True).load(tmp_path)
        counts[engine] = partition_by_user(raw, index_catalogue(raw.items), tmp_path / engine, settings, tables=found)
    assert counts["duckdb"] == counts["spark"]
    assert counts["spark"]["events_dropped"] == 1
    assert bool(counts["spark"].get("core_rounds")) == bool(changes.get("min_user_interactions"))
    hashes = contents(tmp_path / "duckdb")
    assert len(hashes) > 10 or changes == {"buckets": 1}
    assert contents(tmp_path / "spark") == hashes
    assert np.array_equal(np.load(tmp_path / "duckdb" / "items.npy"), np.load(tmp_path / "spark" / "items.npy"))


def test_both_engines_spread_the_same_examples(
    tables: dict[str, Any], tmp_path: Path, source_of: Callable[..., Any]
) -> None:
    examples = [(f"u{n % 40}", KEYS[: n % 5 + 1], [KEYS[n % 30]], "train" if n % 3 else "test") for n in range(300)]
    for engine, found in tables.items():
        raw = source_of(examples=examples, keys=KEYS).load(tmp_path)
        catalogue = index_catalogue(raw.items)
        folder = tmp_path / engine
        spread_examples(raw.examples, catalogue, folder, DataConfig(buckets=16), tables=found)

    def rows(engine: str) -> list[str]:
        return sorted(map(repr, pq.read_table(tmp_path / engine / "examples").to_pylist()))

    assert len(rows("duckdb")) == 300
    assert rows("spark") == rows("duckdb")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("a", "item 1", 10**12, 0),
            r"1 of 3001 times look like milliseconds among seconds, e\.g\. user=a item=item 1",
        ),
        (("a", "item 99", 10**9, 0), r"1 of \d+ events name 1 items that are not in the catalogue, e\.g\. item 99"),
    ],
)
def test_faults_are_named_alike(
    tables: dict[str, Any], tmp_path: Path, source_of: Callable[..., Any], row: tuple[Any, ...], message: str
) -> None:
    raw = source_of([*log(), row], keys=KEYS, has_clock=True).load(tmp_path)
    for engine, found in tables.items():
        with pytest.raises(DataError, match=message):
            partition_by_user(
                raw, index_catalogue(raw.items), tmp_path / engine, DataConfig(max_bad_events=0.0), tables=found
            )


def test_without_java_spark_is_refused_before_anything_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(
        ConfigError, match=r"data\.engine=spark without .*Java\n.*\n.*trialign\[spark\].*data\.engine=duckdb"
    ):
        world([("a", "p", 1)], engine="spark")
