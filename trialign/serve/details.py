"""What the page shows beyond recommendations: the walk of a search, codes and what they mean, pictures, users."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trialign.decode.walk import DROPPED, KEPT, LevelWalk
from trialign.foreign import Json
from trialign.serve.catalogue import Catalogue
from trialign.serve.explorer import Explorer, Prefix, words_of
from trialign.serve.lookup import Lookup
from trialign.types import Items

if TYPE_CHECKING:
    from trialign.generate.ranker import GeneratorRanker

_FATES = ("kept", "dropped", "filtered")
_LIKELIEST, _LEAST_DROPPED = 8, 3
"""Prefixes of a level that the page shows: the likeliest ones, and at least so many that were dropped."""

_EXAMPLES, _MOST_CODES, _MOST_ITEMS = 3, 64, 48


@dataclass(frozen=True)
class OfRun:
    """What only the page shows, of a run.

    Args:
        items: the item table of its dataset.
        lookup: reads its users and pictures.
        ranker: its generator.
        codebooks_LKD: the code vectors; None where they are not known.
    """

    items: pa.Table
    lookup: Lookup
    ranker: GeneratorRanker
    codebooks_LKD: NDArray[np.float32] | None


class Details:
    """What the page shows beyond recommendations.

    Args:
        catalogue: the items.
        of_run: their run; None for an exported bundle, which has no users, no pictures and no walk.
    """

    def __init__(self, catalogue: Catalogue, of_run: OfRun | None) -> None:
        self._catalogue, self.of_run = catalogue, of_run

    @cached_property
    def explorer(self) -> Explorer:
        """The prefixes of the semantic IDs, with what is known about items."""
        texts = {"word": words_of(self._catalogue.titles)}
        if self.of_run is None:
            return Explorer(self._catalogue.codes_NL, texts)
        brands = [[brand] if brand else [] for brand in self.of_run.items["brand"].to_pylist()]
        texts["brand"] = pa.array(brands, pa.list_(pa.string()))
        texts["category"] = self.of_run.items["categories"].combine_chunks()
        return Explorer(self._catalogue.codes_NL, texts, self.of_run.codebooks_LKD)

    def about(self) -> dict[str, Json]:
        """Return what the page can offer."""
        num_items, num_levels = self._catalogue.codes_NL.shape
        run = self.of_run
        return {
            "items": num_items,
            "levels": num_levels,
            "users": run is not None,
            "pictures": run is not None and bool(pc.any(run.items["has_image"]).as_py()),
            "walk": run is not None,
            "exact": run is not None and run.ranker.exact,
            "max_history": None if run is None else run.ranker.max_history,
        }

    def user(self, key: str) -> dict[str, Json]:
        """Return what a user chose, oldest first, and what came next where an event was held out.

        Raises:
            DataError: the logs hold no such user.
        """
        assert self.of_run is not None
        held_out = self.of_run.lookup.held_out(key)
        user, targets = (self.of_run.lookup.user(key), np.empty(0, np.int32)) if held_out is None else held_out
        return {"user": key, "items": self._items(user.seen), "next": self._items(targets)}

    def sample(self) -> dict[str, Json]:
        """Return a user of the logs, at random; three items where no users are known."""
        if self.of_run is not None:
            return self.user(self.of_run.lookup.some_user())
        num_items = len(self._catalogue.keys)
        return {"user": None, "items": self._items(random.sample(range(num_items), min(3, num_items))), "next": []}

    def codes(self, prefix: Prefix) -> dict[str, Json]:
        """Return what lies below a prefix and next to it.

        Raises:
            DataError: no item has the prefix.
        """
        low, high = self.explorer.span(prefix)
        children = self.explorer.children(prefix)
        return {
            "prefix": [*prefix],
            "items": high - low,
            "label": self.explorer.label(prefix),
            "shared": [trait._asdict() for trait in self.explorer.shared(prefix)],
            "codes": [self._row(*found) for found in children[:_MOST_CODES]],
            "more": len(children[_MOST_CODES:]),
            "neighbours": [self._row(*found) for found in self.explorer.neighbours(prefix)],
            "below": self._items(self.explorer.below(prefix, _MOST_ITEMS)),
        }

    def walk(self, history: Items, k: int, *, exclude: Items, stock: NDArray[np.bool_] | None) -> list[Json]:
        """Return the walk of the search for one history, level by level; arguments as `GeneratorRanker.walk`."""
        assert self.of_run is not None
        levels = self.of_run.ranker.walk(history, exclude=exclude, stock=stock)
        nodes = levels[-1].nodes[levels[-1].fates == KEPT]
        best: NDArray[np.intp] = nodes[:k]
        shown: list[Json] = []
        for depth in range(len(levels), 0, -1):
            level = levels[depth - 1]
            leads = {int(node): (np.flatnonzero(best == node) + 1).tolist() for node in best}
            going_on = None if depth == len(levels) else self.explorer.parents(nodes, depth + 1)
            nodes = level.nodes[level.fates == KEPT]
            shown.append(self._level(level, depth, leads, going_on))
            if depth > 1:
                best = self.explorer.parents(best, depth)
        return shown[::-1]

    def _level(
        self, level: LevelWalk, depth: int, leads: dict[int, list[int]], going_on: NDArray[np.intp] | None
    ) -> dict[str, Json]:
        kept, chances = level.fates == KEPT, np.exp(level.log_probs.astype(np.float64))
        wanted = np.isin(level.nodes, list(leads))
        wanted[:_LIKELIEST] = True
        wanted[np.flatnonzero(level.fates == DROPPED)[:_LEAST_DROPPED]] = True
        rows: list[Json] = []
        for place in np.flatnonzero(wanted):
            node = int(level.nodes[place])
            prefix = self.explorer.prefix_of(node, depth)
            low, high = self.explorer.span(prefix)
            row = self._row(prefix, high - low) | {
                "probability": float(chances[place]),
                "fate": _FATES[level.fates[place]],
                "leads": [*leads.get(node, [])],
                "kept_below": None if going_on is None else int((going_on == node).sum()),
            }
            rows.append(row)
        return {
            "weighed": len(kept),
            "kept": int(kept.sum()),
            "mass": float(chances[kept].sum()),
            "prefixes": rows,
        }

    def _row(self, prefix: Prefix, count: int) -> dict[str, Json]:
        examples = self._items(self.explorer.below(prefix, _EXAMPLES))
        return {"codes": [*prefix], "items": count, "label": self.explorer.label(prefix), "examples": examples}

    def _items(self, items: Iterable[int]) -> list[Json]:
        return [dict(self._catalogue.item(int(item))) for item in items]
