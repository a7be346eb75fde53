"""The engines of tables: DuckDB with a memory limit, spilling into the stage's folder, or Spark."""

from __future__ import annotations

import glob
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import duckdb
import ibis
from ibis.backends.duckdb import Backend

from trialign.errors import ConfigError, DataError
from trialign.files import disk_is_full
from trialign.progress import Progress, watched

_LOOK = 1.0
INTEGERS: dict[str, str | int] = {"parquet_version": "v2", "compression": "uncompressed", "dictionary_size_limit": 1}
"""How DuckDB writes integers that seldom repeat: their differences, packed. Twice as fast as its usual dictionaries and
Snappy, and a third smaller."""


class DuckTables(Backend):
    """Ibis' DuckDB backend, with a way to read back the files it wrote."""

    def read_back(self, paths: Path | Sequence[Path], *, partitioned: bool = False) -> ibis.Table:
        """Return the rows that `to_parquet` wrote.

        Paths are taken literally: DuckDB alone would read `runs/order=1` as a column and `runs/a[1]` as a pattern.

        Args:
            paths: files; where they are `partitioned`, the one folder that holds theirs.
            partitioned: whether they are. The partition key is not read as a column.
        """
        files = [paths] if isinstance(paths, Path) else paths
        if partitioned:
            files = sorted(file for folder in files for file in folder.glob("*/*.parquet"))
        return self.read_parquet([glob.escape(str(file)) for file in files], hive_partitioning=False)


def check_engine(engine: str) -> None:
    """Refuse an engine that this machine lacks.

    Raises:
        ConfigError: the engine is not installed.
    """
    if engine == "duckdb":
        return
    java = Path(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else shutil.which("java")
    lacking = [name for name, found in {"pyspark": find_spec("pyspark"), "Java": java}.items() if not found]
    if lacking:
        raise ConfigError(
            f"data.engine=spark without {' and '.join(lacking)}",
            rule="Spark runs in Java and is called through pyspark",
            remedy="pip install 'trialign[spark]', install Java 17 or 21, or set data.engine=duckdb: one machine does "
            "hundreds of millions of events",
        )


@contextmanager
def bounded_tables(spill: Path, *, memory: str, threads: int | None) -> Iterator[DuckTables]:
    """Set a DuckDB with a memory limit as Ibis' current backend for the length of a block.

    Args:
        spill: what does not fit into memory goes here; removed at the end.
        memory: the limit, e.g. `2GB`.
        threads: None for one per core.

    Raises:
        DataError: the memory does not suffice, or the disk is full; what was finished before stays.
    """
    before = ibis.options.default_backend
    limits = {"memory_limit": memory, "temp_directory": str(spill)} | ({"threads": threads} if threads else {})
    tables = DuckTables()
    tables.do_connect(**limits)
    ibis.set_backend(tables)
    try:
        tables.con.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        with _readable(spill.parent, memory), watched(partial(_look, tables, spill)):
            yield tables
    finally:
        ibis.options.default_backend = before
        tables.disconnect()
        shutil.rmtree(spill, ignore_errors=True)


def first_rows(table: ibis.Table, fault: ibis.ir.BooleanValue, tables: Backend) -> str:
    """Return the first three rows with a fault, in a fixed order, for an error message."""
    rows = tables.to_pyarrow(table.filter(fault).order_by(table.columns).limit(3)).to_pylist()
    return "; ".join(" ".join(f"{name}={value}" for name, value in row.items()) for row in rows)


def _look(tables: Backend, spill: Path, ended: threading.Event) -> None:
    """Report the progress of queries, from DuckDB's own percentage and from the size of `spill`."""
    with ExitStack() as told:
        progress, size = None, 0
        while not ended.wait(_LOOK):
            percent = int(tables.con.query_progress())  # of the last query; -1 before it is known
            if progress is not None and not progress.done <= percent < 100:
                progress.reach(100)  # another query started, or none runs
                told.close()
                progress = None
            if progress is None and 0 <= percent < 100:
                progress = told.enter_context(Progress("a query of the log, percent", 100))
            if progress is not None:
                progress.reach(percent)
                before, size = size, sum(path.stat().st_size for path in spill.glob("*"))
                if size != before:
                    progress.moved()


@contextmanager
def _readable(folder: Path, memory: str) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as cause:
        raise DataError(
            f"the tables do not fit into data.memory={memory}: {str(cause).splitlines()[0]}",
            rule="DuckDB works within data.memory and spills the rest to disk",
            remedy="raise data.memory, or lower data.threads: each thread needs its share",
        ) from cause
    except (OSError, duckdb.IOException) as cause:
        if not disk_is_full(cause):
            raise
        raise DataError(
            f"the disk is full while writing below {folder}: {str(cause).splitlines()[0]}",
            rule="prepare needs room for three copies of the log as Parquet, and for the dataset",
            remedy="free some space and run the same command again; it continues from the last finished step",
        ) from cause
