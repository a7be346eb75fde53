"""How every benchmark times, prints and records its rows."""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measured claim.

    Attributes:
        name: what is measured, e.g. `stream.histories`.
        setting: on what.
        ours: our figure.
        peer: what it is compared with; None where there is no peer.
        theirs: the peer's figure in the same run.
        unit: of both figures, e.g. `s` or `histories/s`.
        ratio: how many times better ours is; above 1 ours is better.
    """

    name: str
    setting: str
    ours: float
    peer: str | None
    theirs: float | None
    unit: str
    ratio: float | None


def compare(name: str, setting: str, ours: float, peer: str, theirs: float, unit: str) -> Row:
    """Return the row of a paired measurement; a unit that ends in `/s` is a rate, of which more is better."""
    ratio = ours / theirs if unit.endswith("/s") else theirs / ours
    return Row(name, setting, ours, peer, theirs, unit, ratio)


def alone(name: str, setting: str, ours: float, unit: str) -> Row:
    """Return the row of a figure that has no peer."""
    return Row(name, setting, ours, None, None, unit, None)


def paired_seconds(
    *calls: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median seconds of each call; they take turns, so that a busy moment of the machine meets them all.

    By `time.process_time` they are seconds of this process alone: for work of one thread that never waits.
    """
    taken: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # caches, lazy imports and compiled kernels are not what is compared
    for _ in range(repeats):
        for call, seconds in zip(calls, taken, strict=True):
            gc.collect()
            begin = clock()
            call()
            seconds.append(clock() - begin)
    return [statistics.median(seconds) for seconds in taken]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return the parser that every benchmark starts from."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows are written")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--data`, the folder of the real data: by default $TRIALIGN_DATA, else shared/data next to the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    known = os.environ.get("TRIALIGN_DATA") or (beside if beside.is_dir() else None)
    parser.add_argument(
        "--data", type=Path, default=known, required=known is None, metavar="DIR", help="folder with amazon2014_beauty"
    )


def record(rows: Sequence[Row], path: Path | None) -> None:
    """Print the rows and write them to `path`."""
    for row in rows:
        peer = "" if row.peer is None else f"   {row.peer}: {row.theirs:.4g}   ratio {row.ratio:.2f}"
        print(f"{row.name:20} {row.setting:44} ours: {row.ours:.4g} {row.unit}{peer}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
