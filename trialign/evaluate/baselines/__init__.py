"""Baseline rankers, fitted on train histories and the catalogue's texts alone.

To add one, write a file with a class that has `fit(histories, num_items)`, `save(folder)`, `load(folder)` and `rank`,
and add a line to BASELINES.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trialign.config.evaluate import BaselinesConfig
from trialign.errors import ConfigError, suggest
from trialign.evaluate.baselines.item_knn import ItemKNN
from trialign.evaluate.baselines.item_to_item import ItemToItem
from trialign.evaluate.baselines.popularity import Popularity
from trialign.evaluate.baselines.sasrec import SASRec
from trialign.types import Items

Baseline = Popularity | ItemToItem | ItemKNN | SASRec

BASELINES: dict[str, type[Baseline]] = {
    Popularity.name: Popularity,
    ItemToItem.name: ItemToItem,
    ItemKNN.name: ItemKNN,
    SASRec.name: SASRec,
}


def check_names(names: Sequence[str]) -> None:
    """Raise an error if a baseline is unknown or named twice.

    Raises:
        ConfigError: with the most similar name and all known ones.
    """
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigError(
                f"baseline '{name}' is named twice", rule="a table has one row per baseline", remedy="name it once"
            )
        if name not in BASELINES:
            raise ConfigError(
                f"there is no baseline '{name}'", rule="a baseline that exists", remedy=suggest(name, BASELINES)
            )


def fit_baseline(
    name: str,
    histories: Sequence[Items],
    texts: Sequence[str],
    settings: BaselinesConfig,
    *,
    seed: int = 0,
) -> Baseline:
    """Fit a baseline by name; errors as `check_names` and the baseline's own.

    Args:
        name: a key of BASELINES.
        histories: whole train histories, oldest item first.
        texts: one per item of the catalogue; only sasrec reads them.
        settings: of all baselines.
        seed: of the training; only sasrec uses it.
    """
    check_names([name])
    kind = BASELINES[name]
    if issubclass(kind, SASRec):
        return kind.fit(histories, len(texts), settings.sasrec, texts=texts, seed=seed)
    if issubclass(kind, ItemKNN):
        return kind.fit(histories, len(texts), settings.item_knn)
    return kind.fit(histories, len(texts))


def load_baseline(name: str, folder: Path) -> Baseline:
    """Read a fitted baseline from its folder; errors as `check_names` and the class's `load`."""
    check_names([name])
    return BASELINES[name].load(folder)
