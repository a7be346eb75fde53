"""What training says of itself, task by task."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trialign.generate.loss import LossSums
from trialign.runtime.collectives import all_reduce_sum, rank


class TaskMeter:
    """Adds up losses, counts and hits by task between two log lines.

    Args:
        tasks: names, in the order of their numbers.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = list(tasks)
        self._sums: torch.Tensor | None = None

    def add(self, sums: LossSums) -> None:
        """Count a micro-batch; nothing waits for the device."""
        # Doubles, so that it makes no difference to a log line where a checkpoint was taken.
        new = torch.stack([sums.losses, sums.counts, sums.correct]).double()
        self._sums = new if self._sums is None else self._sums + new

    def total(self) -> torch.Tensor | None:
        """Return what was added since the last log line over all ranks, for a checkpoint; called by every rank."""
        return None if self._sums is None else all_reduce_sum(self._sums)

    def restore(self, total: torch.Tensor | None) -> None:
        """Continue from `total`; it is one rank's from now on."""
        self._sums = total if rank() == 0 or total is None else torch.zeros_like(total)

    def flush(self) -> dict[str, float]:
        """Return the means since the last call over all ranks, and start again; called by every rank together.

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
