"""Rankers that any model has to beat, fitted on train histories alone.

A new one is a file with a class that has `fit(histories, num_items, **options)`, `save(folder)`, `load(folder)` and
`rank`, and a line in BASELINES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trialign.errors import ConfigError, suggest
from trialign.evaluate.baselines.counts import CountingRanker
from trialign.evaluate.baselines.item_knn import ItemKNN
from trialign.evaluate.baselines.item_to_item import ItemToItem
from trialign.evaluate.baselines.popularity import Popularity
from trialign.types import Items

BASELINES: dict[str, type[Popularity] | type[ItemToItem] | type[ItemKNN]] = {
    Popularity.name: Popularity,
    ItemToItem.name: ItemToItem,
    ItemKNN.name: ItemKNN,
}


def check_names(names: Sequence[str]) -> None:
    """Refuse baselines that do not exist.

    Raises:
        ConfigError: naming the nearest one and all known ones.
    """
    for name in names:
        if name not in BASELINES:
            raise ConfigError(
                f"there is no baseline '{name}'", rule="a baseline that exists", remedy=suggest(name, BASELINES)
            )


def fit_baseline(
    name: str, histories: Sequence[Items], num_items: int, options: Mapping[str, Any] | None = None
) -> CountingRanker:
    """Fit a baseline by name on whole train histories, oldest item first; errors as `check_names`."""
    check_names([name])
    return BASELINES[name].fit(histories, num_items, **(options or {}))


def load_baseline(name: str, folder: Path) -> CountingRanker:
    """Read a fitted baseline from its folder; errors as `check_names` and `CountingRanker.load`."""
    check_names([name])
    return BASELINES[name].load(folder)
