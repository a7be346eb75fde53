"""Show a recommendation as HTML or JSON: the history, the recommended items, and their semantic IDs."""

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
        name: name of the user.
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


def why_fewer(found: Recommendation, k: int, num_items: int) -> str | None:
    """Return a sentence that says why fewer than `k` items are recommended; None if there are `k`.

    Args:
        found: what is recommended.
        k: number of items requested.
        num_items: size of the catalogue.
    """
    if len(found.items) >= k:
        return None
    seen, stock = found.num_filtered, found.num_in_stock
    reasons = [f"{stock:,} are in stock"] if stock < num_items else []
    reasons += [f"{seen:,} were chosen before and are filtered out"] if seen else []
    left = f", of which {' and '.join(reasons)}" if reasons else ""
    remedy = "; recommend.exclude_seen=false keeps those" if seen else ""
    return f"{len(found.items):,} of {k:,} items recommended: the catalogue has {num_items:,}{left}{remedy}"


def recommendation_record(found: Recommendation, user: str | None, fewer: str | None) -> dict[str, Json]:
    """Return a recommendation as a JSON object, for programs.

    Args:
        found: what is recommended.
        user: its key, None for named items.
        fewer: why there are fewer than requested; None if there are not.
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
