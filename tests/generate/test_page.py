"""What a recommendation says when it is shorter than asked for."""

from __future__ import annotations

import pytest

from trialign.generate.html import why_fewer


@pytest.mark.parametrize(
    ("found", "k", "filtered", "told"),
    [
        (10, 10, 30, None),
        (0, 10, 40, "0 of 10 items recommended: the catalogue has 40, of which 40 were chosen before and are filtered"),
        (3, 10, 37, "3 of 10 items recommended: the catalogue has 40, of which 37 were chosen before and are filtered"),
        (40, 50, 0, "40 of 50 items recommended: the catalogue has 40"),
    ],
)
def test_fewer_items_than_asked_for_are_explained(found: int, k: int, filtered: int, told: str | None) -> None:
    """Red: an empty list for a user who chose everything, and not a word."""
    words = why_fewer(found, k, 40, filtered)
    assert words is None if told is None else words is not None and words.startswith(told)
    assert ("recommend.exclude_seen=false" in (words or "")) is (told is not None and filtered > 0)
