"""What a recommendation says when it is shorter than asked for."""

from __future__ import annotations

import pytest

from trialign.generate.html import why_fewer
from trialign.generate.recommendation import Item, Recommendation


@pytest.mark.parametrize(
    ("found", "k", "filtered", "stock", "told"),
    [
        (10, 10, 30, 40, None),
        (0, 10, 40, 40, "0 of 10 items recommended: the catalogue has 40, of which 40 were chosen before"),
        (3, 10, 37, 40, "3 of 10 items recommended: the catalogue has 40, of which 37 were chosen before"),
        (40, 50, 0, 40, "40 of 50 items recommended: the catalogue has 40"),
        (3, 10, 0, 3, "3 of 10 items recommended: the catalogue has 40, of which 3 are in stock"),
        (2, 10, 9, 5, "2 of 10 items recommended: the catalogue has 40, of which 5 are in stock and 9 were chosen"),
    ],
)
def test_fewer_items_than_asked_for_are_explained(
    found: int, k: int, filtered: int, stock: int, told: str | None
) -> None:
    """Red: an empty list for a user who chose everything, and not a word."""
    item = Item("key", "", "", "", (), (0,))
    words = why_fewer(Recommendation((), (item,) * found, (0.0,) * found, 0, filtered, stock), k, 40)
    assert words is None if told is None else words is not None and words.startswith(told)
    assert ("recommend.exclude_seen=false" in (words or "")) is (told is not None and filtered > 0)
