"""The figures of the counting baselines on real logs, as others measured them (leave-one-out, full ranking)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trialign.config.evaluate import BaselinesConfig
from trialign.evaluate.baselines import fit_baseline
from trialign.evaluate.protocol import evaluate

BEAUTY = ("amazon2014_beauty", "Beauty.inter.json")
SCIENTIFIC = ("amazon2018_scientific", "Scientific.inter.json")


@pytest.mark.parametrize(
    ("place", "name", "exclude_seen", "recall_at_10"),
    [
        (BEAUTY, "popularity", False, 0.0114),
        (BEAUTY, "item_to_item", False, 0.0659),
        (BEAUTY, "item_knn", False, 0.0643),
        (BEAUTY, "item_knn", True, 0.0716),
        (SCIENTIFIC, "popularity", False, 0.0231),
        (SCIENTIFIC, "item_to_item", False, 0.0898),
        (SCIENTIFIC, "item_knn", False, 0.0974),
        (SCIENTIFIC, "item_knn", True, 0.1047),
    ],
)
def test_published_recall_is_reproduced_to_every_printed_digit(
    shared_data: Callable[[str], Path], place: tuple[str, str], name: str, exclude_seen: bool, recall_at_10: float
) -> None:
    folder, file = place
    logs = json.loads((shared_data(folder) / file).read_text())
    users = [np.array([int(item) for item in items], np.int32) for items in logs.values()]
    num_items = 1 + max(int(user.max()) for user in users)
    ranker = fit_baseline(name, [user[:-2] for user in users], [""] * num_items, BaselinesConfig())
    measured = evaluate(
        ranker,
        [user[:-1] for user in users],
        [user[-1:] for user in users],
        num_items=num_items,
        exclude=[user[:-1] for user in users] if exclude_seen else None,
        batch_size=1024,
    )
    assert round(measured.means()["recall@10"], 4) == recall_at_10
    assert measured.invalid_rate == 0
