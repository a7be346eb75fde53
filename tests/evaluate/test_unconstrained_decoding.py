"""What unconstrained decoding counts, on a generator whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trialign.evaluate.record import UnconstrainedDecoding
from trialign.evaluate.unconstrained_decoding import unconstrained_decoding

CODES = np.array([[0, 0], [0, 1], [1, 1]])
"""Three items over K = 2, L = 2: (1, 0) is no item."""


class Scorer:
    """Prefers code 1, then code 0: the best tuple is always the impossible (1, 0)."""

    def start(self) -> torch.Tensor:
        return torch.log(torch.tensor([[0.25, 0.75]]))

    def advance(self, beams: Any) -> torch.Tensor:
        return torch.log(torch.tensor([0.6, 0.4])).expand(*beams.codes.shape, 2)


class Ranker:
    num_beams = 4

    def __init__(self, *, items_only: bool) -> None:
        self.generator = SimpleNamespace(items=SimpleNamespace(items_only=items_only))

    def batches(self, histories: list[Any]) -> list[np.ndarray]:
        return [np.array([user]) for user in range(len(histories))]

    def num_batches(self, histories: list[Any]) -> int:
        return len(histories)

    def scorer(self, histories: list[Any]) -> Scorer:
        return Scorer()


def test_by_hand() -> None:
    targets = [np.array([2, 0]), np.array([0])]  # the first of each is the path
    found = unconstrained_decoding(Ranker(items_only=False), CODES, 2, [np.array([0])] * 2, targets, places=3)  # type: ignore[arg-type]
    # In order: (1, 0) .45, no item; (1, 1) .3; (0, 0) .15. After code 1, code 0 leads nowhere; after 0 both lead on.
    assert found == UnconstrainedDecoding(
        invalid_rate=1.0,
        invalid_rate_at_10=pytest.approx(1 / 3),
        illegal_mass=pytest.approx([0.0, 0.3]),
        num_users=2,
        by_construction=False,
    )


def test_positions_cannot_err() -> None:
    found = unconstrained_decoding(Ranker(items_only=True), CODES, 2, [np.array([0])], [np.array([2])])  # type: ignore[arg-type]
    assert found == UnconstrainedDecoding(0.0, 0.0, [0.0, 0.0], 1, by_construction=True)
