"""RL metrics between two log lines, as sums and counts over all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trialign.rl.loss import PolicySums
from trialign.runtime.collectives import all_reduce_sum, rank

_UPDATE = ("loss", "policy", "kl", "entropy", "clipped", "candidates")
_DRAWN = ("groups", "zero_variance", "drawn", "reward")


class RolloutMeter:
    """Accumulates metrics of updates and rollouts, like `TaskMeter` in supervised training.

    Args:
        rewards: names, in the order of a `tally`.
    """

    def __init__(self, rewards: Sequence[str]) -> None:
        self._names = [*_UPDATE, *_DRAWN, *(f"reward/{name}" for name in rewards)]
        self._sums: torch.Tensor | None = None

    def add(self, sums: PolicySums, tally: Sequence[float] | None) -> None:
        """Add a micro-batch, and the rollouts that were sampled for its step."""
        new = torch.stack([found.detach().double() for found in sums])
        drawn = new.new_tensor(tally if tally is not None else [0.0] * (len(self._names) - len(_UPDATE)))
        both = torch.cat([new, drawn])
        self._sums = both if self._sums is None else self._sums + both

    def total(self) -> torch.Tensor | None:
        """Return the sums since the last log line over all ranks, for a checkpoint; every rank must call it."""
        return None if self._sums is None else all_reduce_sum(self._sums)

    def restore(self, total: torch.Tensor | None) -> None:
        """Continue from `total`, whose sums only rank 0 keeps."""
        self._sums = total if rank() == 0 or total is None else torch.zeros_like(total)

    def flush(self) -> dict[str, float]:
        """Return the means since the last call over all ranks, and reset; every rank must call it.

        Returns:
            Per candidate: `loss`, `kl`, `entropy`, and `clipped`, the share of clipped ratios. Over all sampled groups,
            skipped ones included: `zero_variance`, the share of groups whose rewards are all equal; `reward`, and
            every reward by itself, means over candidates.
        """
        assert self._sums is not None
        sums = dict(zip(self._names, all_reduce_sum(self._sums).tolist(), strict=True))
        self._sums = None
        found = {name: sums[name] / sums["candidates"] for name in ("loss", "kl", "entropy", "clipped")}
        found["zero_variance"] = sums["zero_variance"] / sums["groups"]
        found |= {name: value / sums["drawn"] for name, value in sums.items() if name.startswith("reward")}
        return found
