"""The sample log: which records were trained on at which step, for audits.

Each rank appends to `rank-00000.jsonl` of its own, one line per step, lane, task and epoch. A resumed run, on whatever
number of ranks, first drops the lines of steps that it is going to take again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

RecordOf = tuple[int, int, str | int]
"""(source, epoch, key of the record: a user, or an item's index)."""


class SampleLine(TypedDict, total=False):
    """What one row held of one task and epoch: `users` or `items`."""

    lane: int
    task: str
    epoch: int
    users: list[str | int]
    items: list[str | int]


class SampleLog:
    """One rank's part of the sample log.

    Args:
        folder: made if missing.
        names: of the sources.
        rank: r.
        world_size: W; the present ranks also trim the files of ranks that no longer exist.
        step: the last optimizer step that counts; what was written after it is dropped.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, rank: int, world_size: int, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("rank-*.jsonl"):
            if int(path.stem.removeprefix("rank-")) % world_size == rank:
                _drop_after(path, step)
        self._names = list(names)
        self._file = (folder / f"rank-{rank:05d}.jsonl").open("a")

    def write(self, step: int, lane: int, records: Sequence[RecordOf]) -> None:
        """Append what one row of a step held."""
        for line in sample_log_lines(self._names, lane, records):
            self._file.write(json.dumps({"step": step, **line}) + "\n")

    def sync(self) -> None:
        """Fsync all lines, so that no checkpoint is ahead of the sample log."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Fsync all lines and close the file."""
        self.sync()
        self._file.close()


def sample_log_lines(names: Sequence[str], lane: int, records: Sequence[RecordOf]) -> list[SampleLine]:
    """Return what one row held: one line per task and epoch, with `users` or `items`; `names` are the sources'."""
    groups: dict[tuple[int, int], list[str | int]] = {}
    for source, epoch, key in records:
        groups.setdefault((source, epoch), []).append(key)
    lines: list[SampleLine] = []
    for (source, epoch), keys in groups.items():
        line: SampleLine = {"lane": lane, "task": names[source], "epoch": epoch}
        if isinstance(keys[0], str):
            line["users"] = keys
        else:
            line["items"] = keys
        lines.append(line)
    return lines


def _drop_after(path: Path, step: int) -> None:
    """Cut a file before its first line of a later step; the lines of a file are in the order of the steps."""
    keep = 0
    with path.open("rb+") as file:
        for line in file:
            # A killed process may have left a truncated line.
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            keep += len(line)
        file.truncate(keep)
