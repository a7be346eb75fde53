"""The users that an evaluation's page shows: where their targets are, and what is left out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from trialign.data.dataset import Evaluation
from trialign.evaluate.html import _examples
from trialign.evaluate.protocol import Rankings
from trialign.semid.table import SIDTable


def test_a_user_is_shown_with_places_from_one_and_all_that_is_hidden_counted() -> None:
    titles = ["<i>lamp</i>", *(f"item {number}" for number in range(1, 12))]
    table = pa.table({"title": titles, "has_image": [False] * 12})
    dataset = SimpleNamespace(items=table, images=lambda: iter(()))
    sids = SIDTable(np.arange(12)[:, None], 12, titles, "suffix")
    ranked = np.array([[3, 0, 5]], np.int32)
    users = Evaluation(
        users=["<b>u</b>"],
        histories=[np.arange(1, 11, dtype=np.int32)],  # ten, of which eight are shown
        targets=[np.array([0, 11], np.int32)],
        older=[np.array([0, 2, 11], np.int32)],
    )
    rankings = Rankings(ranked, np.zeros(ranked.shape, np.float32), 0.0)
    (shown,) = _examples(dataset, sids, users, rankings)  # type: ignore[arg-type]
    assert (shown.user, shown.left_out) == ("<b>u</b>", 5), "two of the window, three older ones"
    chosen = [f"item {number}" for number in range(3, 11)]
    assert [(row.what, row.title) for row in shown.rows] == [
        *(("chose", title) for title in chosen),
        ("recommended 1", "item 3"),
        ("recommended 2", "<i>lamp</i>"),
        ("recommended 3", "item 5"),
        ("then chose, place 2", "<i>lamp</i>"),
        ("then chose, not among the first 3", "item 11"),
    ]
    assert [row.what for row in shown.rows if row.hit] == ["recommended 2"]
