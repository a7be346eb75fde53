"""Serving what was trained: the service under load, batch scoring, the exported graph.

    python -m benchmarks.serve --json FILE                     # all three
    python -m benchmarks.serve --only load --run runs/quickstart
    python -m benchmarks.serve --only batch --users 200000

`load` and `graph`: serve_load.py, serve_graph.py. `batch` recommends to the users of a generated shop by a model of the
quickstart's size, which is hardly trained: once in one go, and once killed (SIGKILL) in the middle and started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.record import Row, alone, arguments, record
from benchmarks.serve_graph import graph
from benchmarks.serve_load import measure as measure_load
from trialign.data.dataset import Dataset

_STAGES = ("prepare", "embed", "quantize", "assign", "train")
_LOOK = 0.05


def main() -> None:
    """Measure every row, or the one that `--only` names."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=sorted(ROWS), help="one measurement; default: all")
    parser.add_argument("--users", type=int, default=200_000, help="users of `batch`")
    parser.add_argument("--encoding", default="tokens", choices=("tokens", "position"), help="of hardly trained models")
    parser.add_argument("--run", type=Path, help="a finished run for `load`; default: a hardly trained one is made")
    parser.add_argument("--seconds", type=float, default=10, help="of every load")
    parser.add_argument("--minutes", type=float, default=0, help="of a soak by `load`, 64 clients; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=50, help="turns of `graph` for each batch size")
    chosen = parser.parse_args()
    wanted = ROWS if chosen.only is None else {chosen.only: ROWS[chosen.only]}
    record([row for measure in wanted.values() for row in measure(chosen)], chosen.json)


def load(chosen: Namespace) -> list[Row]:
    """Return what clients of the service saw."""
    with tempfile.TemporaryDirectory() as scratch:
        run = chosen.run or _hardly_trained(Path(scratch) / "r", 6000, chosen.encoding)
        return measure_load(run, Path(scratch), chosen.seconds, chosen.minutes)


def batch(chosen: Namespace) -> list[Row]:
    """Return users per second, peak memory, and how many users a killed and continued run repeated or lost."""
    with tempfile.TemporaryDirectory() as scratch:
        run = _hardly_trained(Path(scratch) / "r", chosen.users, chosen.encoding)
        began = time.perf_counter()
        whole = _start(run, Path(scratch) / "whole")
        _, status, used = os.wait4(whole.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"trialign recommend ended with {os.waitstatus_to_exitcode(status)}")
        wrong = _repeated_or_lost(run, Path(scratch) / "whole", Path(scratch) / "killed")
    setting = f"{chosen.users:,} users, 2,000 items, encoding {chosen.encoding}, one thread, start included"
    return [
        alone("serve.batch", setting, chosen.users / seconds, "users/s"),
        alone("serve.batch", setting + ", of its processor", chosen.users / (used.ru_utime + used.ru_stime), "users/s"),
        alone("serve.batch.memory", setting, used.ru_maxrss / 1024, "MiB"),
        alone("serve.batch.killed", setting, wrong, "users repeated, lost or other"),
    ]


def _hardly_trained(run: Path, users: int, encoding: str) -> Path:
    """Make a run of the quickstart's sizes up to the generator, which trains for 20 steps."""
    settings = [
        "experiment=quickstart",
        f"data.num_users={users}",
        "train.steps=20",
        f"train.items.encoding={encoding}",
    ]
    for stage in _STAGES:
        subprocess.run(_command(stage, f"run={run}", *settings), check=True, stdout=subprocess.DEVNULL)
    return run


def _repeated_or_lost(run: Path, whole: Path, killed: Path) -> int:
    """Kill a run when half of the blocks are there, continue it, and count users that are not there once, unchanged."""
    half = len(list(whole.glob("recommendations/*"))) // 2
    process = _start(run, killed)
    while len(list(killed.glob("recommendations/block-*"))) < half and process.poll() is None:
        time.sleep(_LOOK)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("the run was over before it was killed: take more users")
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("recommendations/block-*")}
    if (killed / "manifest.json").exists() or _start(run, killed).wait():
        raise SystemExit("the killed run counts as finished, or did not continue")
    if any(path.stat().st_mtime_ns != before for path, before in kept.items()):
        raise SystemExit("a block that was there was made again")
    users, _ = Dataset(run / "prepare").users(0, Dataset(run / "prepare").store("users").num_records)
    found, wanted = (pq.read_table(folder / "recommendations").to_pylist() for folder in (killed, whole))
    same = sum(one == other for one, other in zip(found, wanted, strict=True)) if len(found) == len(wanted) else 0
    there = [row["user"] for row in found]
    return len(set(users) ^ set(there)) + len(there) - len(set(there)) + len(wanted) - same


def _start(run: Path, output: Path) -> subprocess.Popen[bytes]:
    words = [f"run={run}", "recommend.users=all", f"recommend.output={output}", "runtime.threads=1"]
    return subprocess.Popen(_command("recommend", *words), stdout=subprocess.DEVNULL)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "trialign.launch.cli", *words]


ROWS: dict[str, Callable[[Namespace], list[Row]]] = {
    "load": load,
    "batch": batch,
    "graph": lambda chosen: graph(chosen.repeats),
}
"""By name; the order is that of the rows."""


if __name__ == "__main__":
    main()
