"""A recommendation as a person reads it: what was chosen, what is recommended, and the semantic IDs behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from trialign.foreign import Json
from trialign.generate.recommendation import Recommendation

_SHOWN_HISTORY = 10


def recommendation_page(found: Recommendation, name: str) -> Table:
    """Return one table: the end of the history, then the recommended items with their probability.

    Args:
        found: what is recommended.
        name: whose history it is.
    """
    table = Table(title=f"recommended to {name}", title_justify="left", title_style="bold")
    for column, justify in (("", "right"), ("item", "left"), ("semantic ID", "left"), ("title", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # rich's literal
    left_out = len(found.history[:-_SHOWN_HISTORY]) + found.num_older
    if left_out:
        table.add_row("", f"({left_out} earlier)", "", "", style="dim")
    for item in found.history[-_SHOWN_HISTORY:]:
        table.add_row("chose", item.key, _sid(item.sid), item.title, style="dim")
    table.add_section()
    for item, score in zip(found.items, found.scores, strict=True):
        table.add_row(f"{np.exp(score):.3f}", item.key, _sid(item.sid), item.title)
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


def recommendation_record(found: Recommendation, user: str | None, fewer: str | None) -> dict[str, Json]:
    """Return the same for a program: one object of JSON.

    Args:
        found: what is recommended.
        user: its key, None for named items.
        fewer: why there are fewer than asked for, if so.
    """
    return {
        "user": user,
        "history": [item.key for item in found.history],
        "items": [
            {"rank": rank, "item": item.key, "title": item.title, "score": score}
            for rank, (item, score) in enumerate(zip(found.items, found.scores, strict=True), start=1)
        ],
        "fewer": fewer,
    }


def _sid(codes: Sequence[int]) -> str:
    return "<" + " ".join(map(str, codes)) + ">"
