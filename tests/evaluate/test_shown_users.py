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
    rankings = Rankings(ranked, np.log(np.array([[0.5, 0.25, 0.125]], np.float32)), 0.0)
    (shown,) = _examples(dataset, sids, users, rankings)  # type: ignore[arg-type]
    assert (shown.user, shown.left_out) == ("<b>u</b>", 5), "two of the window, three older ones"
    chosen = [f"item {number}" for number in range(3, 11)]
    assert [(row.what, row.title) for row in shown.rows] == [
        *(("chose", title) for title in chosen),
        ("place 1", "item 3"),
        ("place 2", "<i>lamp</i>"),
        ("place 3", "item 5"),
        ("then chose, place 2", "<i>lamp</i>"),
        ("then chose, not among the first 3", "item 11"),
    ]
    came_next = [row.what for row in shown.rows if row.came_next]
    assert came_next == ["place 2", "then chose, place 2", "then chose, not among the first 3"]
    assert [row.chance for row in shown.rows if row.recommended] == ["50.0%", "25.0%", "12.5%"]


def test_the_codes_that_begin_like_the_last_chosen_items_are_told_apart() -> None:
    codes_NL = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0]])
    table = pa.table({"title": ["", "", "", ""], "has_image": [False] * 4})
    dataset = SimpleNamespace(items=table, images=lambda: iter(()))
    users = Evaluation(["u"], [np.array([3, 1], np.int32)], [np.array([3], np.int32)], [np.empty(0, np.int32)])
    rankings = Rankings(np.array([[2, 0]], np.int32), np.zeros((1, 2), np.float32), 0.0)
    sids = SIDTable(codes_NL, 2, list("abcd"), "suffix")
    (shown,) = _examples(dataset, sids, users, rankings)  # type: ignore[arg-type]
    told = [(row.same, row.rest) for row in shown.rows]
    assert told == [("", "1 1 0"), ("", "0 1 0"), ("0 1", "1"), ("0", "0 0"), ("", "1 1 0")]
