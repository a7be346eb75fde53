"""A recommendation as a person reads it: what was chosen, what is recommended, and the semantic IDs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from trialign.data.dataset import Dataset
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM, Items

_SHOWN_HISTORY = 10


def recommendation_page(
    dataset: Dataset, sids: SIDTable, name: str, history: Items, items: Sequence[Any], scores: Sequence[Any]
) -> Table:
    """Return one table: the end of the history, then the recommended items with their probability.

    Args:
        dataset: for titles.
        sids: for semantic IDs.
        name: whose history it is.
        history: item indices, oldest first.
        items: recommended item indices, best first, NO_ITEM where there are no more.
        scores: their log-probabilities.
    """
    titles = dataset.items["title"]
    table = Table(title=f"recommended to {name}", title_justify="left", title_style="bold")
    for column, justify in (("", "right"), ("item", "left"), ("semantic ID", "left"), ("title", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal
    left_out = len(history) - _SHOWN_HISTORY
    if left_out > 0:
        table.add_row("", f"({left_out} earlier)", "", "", style="dim")
    for item in history[-_SHOWN_HISTORY:]:
        table.add_row("chose", dataset.keys[item], _sid(sids.codes_NL[item]), titles[int(item)].as_py(), style="dim")
    table.add_section()
    for item, score in zip(items, scores, strict=True):
        if item != NO_ITEM:
            probability = f"{np.exp(score):.3f}"
            table.add_row(probability, dataset.keys[item], _sid(sids.codes_NL[item]), titles[int(item)].as_py())
    return table


def _sid(codes: NDArray[np.int64]) -> str:
    return "<" + " ".join(map(str, codes)) + ">"
