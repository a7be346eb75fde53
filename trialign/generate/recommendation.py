"""The dataclasses that the Python API returns: a recommendation and its items."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalogue, with its semantic ID.

    Attributes:
        key: its name in the interaction logs.
        title: "" if the catalogue has none, as for the other texts.
        description: the description.
        brand: the brand.
        categories: from the most general to the most special.
        sid: its semantic ID, L codes of 0..K-1, the coarsest first.

    Examples:
        >>> item = run.item("item-0000007")
        >>> item.key, len(item.sid)
        ('item-0000007', 3)
        >>> item.title == run.item_of(item.sid).title
        True
    """

    key: str
    title: str
    description: str
    brand: str
    categories: tuple[str, ...]
    sid: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The items that a run recommends after one history.

    Attributes:
        history: the items that were chosen, oldest first; the generator reads the last of them.
        items: the recommended items, best first; fewer than requested if the catalogue has no more.
        scores: the log-probability of each recommended item.
        num_older: distinct items that the user chose before `history`.
        num_filtered: distinct items that were left out because the user chose them before.
        num_in_stock: items of the catalogue that were allowed and not blocked.

    Examples:
        >>> (found,) = run.recommend([["item-0000007", "item-0000010"]], k=3)
        >>> len(found.items), found.num_filtered
        (3, 2)
        >>> all(score <= 0 for score in found.scores)
        True
    """

    history: tuple[Item, ...]
    items: tuple[Item, ...]
    scores: tuple[float, ...]
    num_older: int
    num_filtered: int
    num_in_stock: int
