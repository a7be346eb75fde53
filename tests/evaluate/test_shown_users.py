"""The users that an evaluation's page shows: where their targets stand, what is left out, and whose words they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from trialign.data.dataset import Evaluation
from trialign.evaluate.page import _examples
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
    page = "".join(_examples(dataset, sids, users, rankings))  # type: ignore[arg-type]
    assert "then chose, place 2<" in page
    assert "then chose, not among the first 3<" in page
    assert "recommended 2</b> <b>hit</b>" in page
    assert "5 earlier items of the history are not shown" in page, "two of the window, three older ones"
    assert "&lt;b&gt;u&lt;/b&gt;" in page
    assert "&lt;i&gt;lamp&lt;/i&gt;" in page
    assert "<i>" not in page
