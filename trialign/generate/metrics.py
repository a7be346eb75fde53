"""Training metrics per task: loss, accuracy and share of the target tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trialign.generate.loss import LossSums
from trialign.runtime.collectives import all_reduce_sum, rank


class TaskMeter:
    """Accumulates losses, counts and correct predictions by task between two log lines.

    Args:
        tasks: names, in the order of their numbers.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = list(tasks)
        self._sums: torch.Tensor | None = None

    def add(self, sums: LossSums) -> None:
        """Add a micro-batch, without a device synchronization."""
        # Doubles, so that a log line does not depend on where a checkpoint was taken.
        new = torch.stack([sums.losses, sums.counts, sums.correct]).double()
        self._sums = new if self._sums is None else self._sums + new

    def total(self) -> torch.Tensor | None:
        """Return the sums since the last log line over all ranks, for a checkpoint; every rank must call it."""
        return None if self._sums is None else all_reduce_sum(self._sums)

    def restore(self, total: torch.Tensor | None) -> None:
        """Continue from `total`, whose sums only rank 0 keeps."""
        self._sums = total if rank() == 0 or total is None else torch.zeros_like(total)

    def flush(self) -> dict[str, float]:
        """Return the means since the last call over all ranks, and reset; every rank must call it.

        Returns:
            `loss`; for each task that had targets `loss/TASK` and `accuracy/TASK`; for every task `share/TASK`, its
            part of the target tokens.
        """
        assert self._sums is not None
        losses, counts, correct = all_reduce_sum(self._sums).tolist()
        self._sums = None
        found = {"loss": sum(losses) / sum(counts)}
        for name, loss, count, hits in zip(self._tasks, losses, counts, correct, strict=True):
            found[f"share/{name}"] = count / sum(counts)
            if count:
                found |= {f"loss/{name}": loss / count, f"accuracy/{name}": hits / count}
        return found
