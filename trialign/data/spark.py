"""Spark as the engine of tables, for logs that one machine cannot sort; `pip install trialign[spark]`, and Java.

The expressions are the same as on DuckDB. What is here is how the two backends of Ibis differ in reading and writing
Parquet.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ibis
from ibis.backends.pyspark import Backend
from pyspark import StatusTracker
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from trialign.errors import DataError
from trialign.progress import Progress, watched

_PARTS_PER_THREAD = 2
_LOOK = 1.0


class SparkTables(Backend):
    """Ibis' Spark backend, with `read_back` and `to_parquet` called as DuckDB's are."""

    def read_back(self, paths: Path | Sequence[Path], *, partitioned: bool = False) -> ibis.Table:
        """Return the rows that `to_parquet` wrote; see `DuckTables.read_back`."""
        folders = [paths] if isinstance(paths, Path) else paths
        reader = self._session.read
        if partitioned:
            reader = reader.option("basePath", str(*folders))
        name = ibis.util.gen_name("parquet")
        reader.parquet(*map(str, folders)).createOrReplaceTempView(name)
        return self.table(name)

    def to_parquet(  # type: ignore[override]
        self, expr: ibis.Table, /, path: Path, *, partition_by: str | None = None, **_: Any
    ) -> None:
        """Write rows into a folder of files, one folder below for each value of `partition_by`, encoded Spark's way."""
        super().to_parquet(expr, path, **({} if partition_by is None else {"partitionBy": partition_by}))


@contextmanager
def spark_tables(spill: Path, *, memory: str, threads: int | None) -> Iterator[SparkTables]:
    """Start Spark for the length of a block.

    Its master is the one that Spark's own configuration names, else this machine.

    Args:
        spill: what Spark shuffles on this machine goes here; removed at the end.
        memory: of the driver, e.g. `2GB`; on this machine it is all there is.
        threads: of this machine; None leaves them to Spark.

    Raises:
        DataError: Spark failed.
    """
    builder = SparkSession.builder.appName("trialign prepare").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", memory.lower().replace(" ", "").removesuffix("b").removesuffix("i"))
    builder = builder.config("spark.local.dir", str(spill)).config("spark.sql.warehouse.dir", str(spill))
    if threads:
        # Spark's default of 200 partitions is for clusters: on one machine each task costs more than its work.
        parts = str(_PARTS_PER_THREAD * threads)
        builder = builder.master(f"local[{threads}]").config("spark.sql.shuffle.partitions", parts)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    tables = SparkTables()
    tables.do_connect(session)
    try:
        with watched(partial(_look, session.sparkContext.statusTracker())):
            yield tables
    except PySparkException as cause:
        raise DataError(
            f"Spark gave up: {str(cause).splitlines()[0]}",
            rule="Spark has the memory and the room that the log needs",
            remedy="raise data.memory, free some space, or set data.engine=duckdb",
        ) from cause
    finally:
        tables.disconnect()
        shutil.rmtree(spill, ignore_errors=True)


def _look(tracker: StatusTracker, ended: threading.Event) -> None:
    """Report the tasks that Spark counts as finished."""
    done: dict[int, int] = {}
    with Progress("tasks of Spark") as progress:
        while not ended.wait(_LOOK):
            for number in tracker.getActiveStageIds():
                if (stage := tracker.getStageInfo(number)) is not None:
                    progress.add(max(0, stage.numCompletedTasks - done.get(number, 0)))
                    done[number] = stage.numCompletedTasks
