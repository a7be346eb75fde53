"""Chance is a function of seed, name and where training is, and of nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from trialign.runtime import seeds
from trialign.runtime.seeding import derive


def test_streams_of_other_names_are_other_streams() -> None:
    """Red: names that are written one behind the other without a mark between them."""
    names: list[tuple[Any, ...]] = [(1, 23), (12, 3), (123,), (1, 2, 3), (1, "a", "b"), (1, "ab")]
    assert len({derive(*name) for name in names}) == len(names)
    assert derive(1, "a", 2) == derive(1, "a", "2") < 2**63


def drawn(seed: int, step: int, batch_idx: int) -> float:
    """Return what is drawn first in a micro-batch, two of which make a step."""
    trainer = cast(Any, SimpleNamespace(accumulate_grad_batches=2, global_step=step))
    seeds.StepSeeds(seed).on_train_batch_start(trainer, cast(Any, None), None, batch_idx)
    return float(torch.rand(()))


def test_dropout_differs_between_steps_micro_batches_ranks_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [drawn(0, 3, 6), drawn(0, 3, 7), drawn(0, 4, 8), drawn(1, 3, 6)]
    monkeypatch.setattr(seeds, "rank", lambda: 1)
    found.append(drawn(0, 3, 6))
    assert len(set(found)) == len(found)
    monkeypatch.undo()
    assert drawn(0, 3, 6) == found[0]
    assert drawn(0, 3, 2) == found[0]  # counted anew by an attempt that continues
