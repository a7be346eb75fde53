"""How the ranks of a job attempt ended: which ended first, on which node, and with which error.

`srun` reports every rank that failed, in the order in which it hears of them. Its own exit code is the largest one,
often that of a rank that it killed itself. A rank that ends by an error writes its message to the folder that `ENDS`
names. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ENDS = "TRIALIGN_ENDS"
"""The variable of a rank that holds the folder of this attempt's ends."""

_HEARD = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<ranks>[\d,-]+): (?P<how>.+)")
_CODE = re.compile(r"exit code (\d+)")


@dataclass(frozen=True)
class End:
    """How a rank ended, as the rank itself recorded it.

    Attributes:
        rank: which it is.
        node: where it ran.
        code: its exit code.
        words: the whole error message, or the last line of an unforeseen exception.
        at: when, in seconds since 1970, by the clock of its node.
    """

    rank: int
    node: str
    code: int
    words: str
    at: float


@dataclass(frozen=True)
class Cause:
    """How the rank that ended first ended.

    Attributes:
        rank: which it is.
        node: where it ran.
        how: in the words of `srun`, e.g. `Killed`.
        code: its exit code; None where a signal ended it.
        words: its error message; empty if it left none.
    """

    rank: int
    node: str
    how: str
    code: int | None
    words: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.node}: {self.how}"


def note_end(code: int, words: str, at: float) -> None:
    """Record how this rank ended, for the supervisor; do nothing outside a supervised job."""
    if ENDS not in os.environ:
        return
    rank, node = int(os.environ["SLURM_PROCID"]), os.environ.get("SLURMD_NODENAME", "")
    path = Path(os.environ[ENDS]) / f"{rank}.json"
    with contextlib.suppress(OSError):  # the disk may be full; srun still reports the exit code
        aside = path.with_suffix(".partial")
        aside.write_text(json.dumps(asdict(End(rank, node, code, words, at))))
        aside.replace(path)


def ends_of(folder: Path) -> dict[int, End]:
    """Return how ranks ended, by rank, as they recorded it in a folder."""
    found = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found[int(path.stem)] = End(**json.loads(path.read_text()))
    return found


def first_cause(heard: Sequence[str], ends: Mapping[int, End]) -> Cause | None:
    """Return how the rank that ended first ended, None if neither srun nor a rank reported one.

    Args:
        heard: the messages of `srun`, in order.
        ends: how ranks ended, by rank, as they recorded it.
    """
    for line in heard:
        if (told := _HEARD.match(line)) is None:
            continue
        ranks = _ranks(told["ranks"])
        # One line reports several that ended at once: the first of them that left a record counts as the cause.
        first = min((ends[rank] for rank in ranks if rank in ends), key=lambda end: end.at, default=None)
        if first is not None:
            return Cause(first.rank, told["node"], told["how"], first.code, first.words)
        code = _CODE.search(told["how"])
        return Cause(ranks[0], told["node"], told["how"], int(code[1]) if code else None, "")
    last = min(ends.values(), key=lambda end: end.at, default=None)
    return None if last is None else Cause(last.rank, last.node, f"ended with {last.code}", last.code, last.words)


def _ranks(told: str) -> list[int]:
    """Return the ranks of a list such as `0,4-7`."""
    bounds = [part.partition("-") for part in told.split(",")]
    return [rank for first, _, last in bounds for rank in range(int(first), int(last or first) + 1)]
