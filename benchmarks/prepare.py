"""Seconds, peak memory and growth of `trialign prepare` on logs with heavy-tailed users and items, 5-core on.

    python -m benchmarks.prepare --json benchmarks/results/prepare.json

Each log is prepared in a process of its own, whose memory (with all its children's) is sampled from /proc. A row's
figure is events of the log per second; growth is the slope of log seconds over log events.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.record import alone, arguments, record

_SAMPLE_SECONDS = 0.05
_MIB = 1 << 20


@dataclass(frozen=True)
class Run:
    """What one log took."""

    events: int
    seconds: float
    core_seconds: float
    peak_mib: float
    counts: dict[str, int]


def write_log(path: Path, num_events: int) -> None:
    """Write a log of Parquet: the k-th of N/50 items is chosen as 1/k, the k-th of N/10 users as k^(-2/3).

    Draws are hashes of the row's number, so a log has the same rows wherever and however it is made.
    """
    import duckdb

    def draw(salt: int) -> str:
        return f"(hash(3 * row + {salt}) / 18446744073709551616.0)"

    tables = duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": False})
    tables.execute(
        f"""
        COPY (
            SELECT 'user-' || CAST(floor({num_events // 10} * pow({draw(0)}, 3)) AS BIGINT) AS "user",
                'item-' || CAST(floor(pow({num_events // 50}, {draw(1)})) AS BIGINT) AS item,
                1500000000 + CAST(floor(100000000 * {draw(2)}) AS BIGINT) AS "order"
            FROM range({num_events}) log(row)
        ) TO '{path}' (FORMAT parquet)
        """
    )
    tables.close()


def measure(num_events: int, folder: Path) -> Run:
    """Generate a log, prepare it in another process, and remove both."""
    folder.mkdir()
    call = [sys.executable, "-m", "benchmarks.prepare", "--worker", str(folder), "--events", str(num_events)]
    write_log(folder / "log.parquet", num_events)
    started = time.perf_counter()
    worker = subprocess.Popen(call)
    peak = pid = status = 0
    while not pid:
        peak = max(peak, resident_bytes(worker.pid))
        time.sleep(_SAMPLE_SECONDS)
        # The kernel's own account of processor time tells the work from a busy machine's waiting.
        pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"prepare of {num_events:,} events ended with status {status}")
    counts = json.loads((folder / "counts.json").read_text())
    shutil.rmtree(folder)
    return Run(num_events, seconds, usage.ru_utime + usage.ru_stime, peak / _MIB, counts)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all its children; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(resident_bytes(int(child)) for child in children)


def prepare_log(folder: Path, num_events: int) -> None:
    """Prepare `folder`/log.parquet as the command does, with a catalogue of all items that can occur."""
    import ibis
    import pyarrow as pa

    from trialign.config.data import DataConfig
    from trialign.data.prepare import prepare
    from trialign.data.source import RawData

    class Log:
        def sources(self) -> dict[str, Path]:
            return {"log": folder / "log.parquet"}

        def load(self, _: Path) -> RawData:
            keys = pa.array([f"item-{item}" for item in range(num_events // 50 + 1)])
            texts = pa.array([""] * len(keys))
            categories = pa.array([[]] * len(keys), pa.list_(pa.string()))
            items = pa.table(
                {"item": keys, "title": keys, "description": texts, "brand": texts, "categories": categories}
            )
            return RawData(events=ibis.read_parquet(folder / "log.parquet"), items=items, has_clock=True)

    dataset = folder / "prepare"
    dataset.mkdir()
    counts = prepare(
        Log(),
        dataset,
        DataConfig(min_user_interactions=5, min_item_interactions=5),
    )
    (folder / "counts.json").write_text(json.dumps(counts))


def main() -> None:
    """Prepare logs of growing size and record a row for each."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--events", type=int, nargs="+", default=[10_000_000, 30_000_000, 90_000_000])
    parser.add_argument("--folder", type=Path, help="where logs and datasets are put for a while; default: a new one")
    parser.add_argument(
        "--worker", type=Path, help="prepare the log in this folder; what the benchmark calls itself with"
    )
    chosen = parser.parse_args()
    if chosen.worker is not None:
        prepare_log(chosen.worker, chosen.events[0])
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        runs = [measure(num_events, Path(scratch) / str(num_events)) for num_events in chosen.events]
    rows = []
    for run in runs:
        left = run.counts["events"]
        setting = f"{run.events:,} events, 5-core: {len(run.counts['core_rounds'])} rounds, {left:,} events left"
        setting += f"; {run.seconds:.0f} s, {run.core_seconds:.0f} core-seconds"
        rows.append(alone("prepare.events", setting, run.events / run.seconds, "events/s"))
    if len(runs) > 1:
        setting = " to ".join(f"{size:,}" for size in (runs[0].events, runs[-1].events)) + " events"
        for what, taken in (("seconds", lambda run: run.seconds), ("core-seconds", lambda run: run.core_seconds)):
            slope = np.polyfit(np.log([run.events for run in runs]), np.log([taken(run) for run in runs]), 1)[0]
            rows.append(alone("prepare.growth", setting, float(slope), f"exponent of {what}"))
    rows += [alone("prepare.peak", f"{run.events:,} events, process tree", run.peak_mib, "MiB") for run in runs]
    record(rows, chosen.json)


if __name__ == "__main__":
    main()
