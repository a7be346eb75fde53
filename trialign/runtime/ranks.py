"""Ranks before their process group exists and after it is destroyed. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_GIVEN_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_rank() -> int:
    """Return the rank that a launcher (torchrun, srun, Lightning) gave this process; needs no process group."""
    return int(next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0))


def end_other_ranks(*, first: bool) -> None:
    """Exit with 0 unless this is the first rank: it alone continues after several ranks have built a stage."""
    if not first:
        sys.exit(0)


@contextmanager
def ranks_for_a_while() -> Iterator[None]:
    """After the block, reset the process group that Lightning started in it: a later stage can start its own."""
    before = {name: os.environ[name] for name in _GIVEN_BY_LIGHTNING if name in os.environ}
    try:
        yield
    finally:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
        for name in _GIVEN_BY_LIGHTNING:
            os.environ.pop(name, None)
        os.environ |= before
