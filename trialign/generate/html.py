"""A recommendation as a person reads it: what was chosen, what is recommended, and the semantic IDs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from trialign.data.dataset import Dataset
from trialign.semid.table import SIDTable
from trialign.types import Items

_SHOWN_HISTORY = 10


def recommendation_page(
    dataset: Dataset,
    sids: SIDTable,
    name: str,
    history: Items,
    ranked: Sequence[tuple[int, float]],
    *,
    num_older: int,
) -> Table:
    """Return one table: the end of the history, then the recommended items with their probability.

    Args:
        dataset: for titles.
        sids: for semantic IDs.
        name: whose history it is.
        history: item indices, oldest first.
        ranked: recommended item indices with their log-probabilities, best first.
        num_older: distinct items that were chosen before the history and are not in it.
    """
    titles = dataset.items["title"]
    table = Table(title=f"recommended to {name}", title_justify="left", title_style="bold")
    for column, justify in (("", "right"), ("item", "left"), ("semantic ID", "left"), ("title", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal
    left_out = len(history[:-_SHOWN_HISTORY]) + num_older
    if left_out:
        table.add_row("", f"({left_out} earlier)", "", "", style="dim")
    for item in history[-_SHOWN_HISTORY:]:
        table.add_row("chose", dataset.keys[item], _sid(sids.codes_NL[item]), titles[int(item)].as_py(), style="dim")
    table.add_section()
    for item, score in ranked:
        table.add_row(f"{np.exp(score):.3f}", dataset.keys[item], _sid(sids.codes_NL[item]), titles[item].as_py())
    return table


def why_fewer(num_found: int, k: int, num_items: int, num_filtered: int) -> str | None:
    """Return why fewer items than asked for are recommended, in words; None where they are not.

    Args:
        num_found: items recommended.
        k: items asked for.
        num_items: size of the catalogue.
        num_filtered: distinct items that were chosen before and are left out for it.
    """
    if num_found >= k:
        return None
    filtered = f", of which {num_filtered:,} were chosen before and are filtered out" if num_filtered else ""
    remedy = "; recommend.exclude_seen=false keeps those" if num_filtered else ""
    return f"{num_found:,} of {k:,} items recommended: the catalogue has {num_items:,}{filtered}{remedy}"


def recommendation_record(
    dataset: Dataset, user: str | None, history: Items, ranked: Sequence[tuple[int, float]], fewer: str | None
) -> dict[str, Any]:
    """Return the same for a program: one object of JSON.

    Args:
        dataset: for keys and titles.
        user: its key, None for named items.
        history: item indices that were read, oldest first.
        ranked: as `recommendation_page`.
        fewer: why there are fewer than asked for, if so.
    """
    titles = dataset.items["title"]
    return {
        "user": user,
        "history": [dataset.keys[item] for item in history],
        "items": [
            {"rank": rank, "item": dataset.keys[item], "title": titles[item].as_py(), "score": score}
            for rank, (item, score) in enumerate(ranked, start=1)
        ],
        "fewer": fewer,
    }


def _sid(codes: NDArray[np.int64]) -> str:
    return "<" + " ".join(map(str, codes)) + ">"
