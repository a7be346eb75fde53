"""Render report.html: an evaluation as one file, with tables, charts and a few users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trialign.data.dataset import Dataset, Evaluation
from trialign.evaluate.protocol import Rankings
from trialign.evaluate.record import Details, EvaluationRecord, Grounding, Results
from trialign.evaluate.report import (
    against_best,
    against_filter,
    against_oracle,
    rows_of,
    seen_rule,
    sentences,
    short,
    title,
    told_of_seen,
)
from trialign.evaluate.slices import PLACES
from trialign.html import Markup, bars, forest, render, thumbnail
from trialign.ranking import METRICS
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM

_NUM_EXAMPLES = 6
_NUM_HISTORY = 8
_NUM_RECOMMENDED = 5
_CHARTED = ("ndcg@10", "recall@10")
_COLUMNS = tuple(name for name in METRICS if name != "ndcg@1")
"""Of the tables: N@1 is R@1 wherever a user has one target."""

Table = tuple[Sequence[str], list[tuple[str, ...]]]
"""Header and rows."""


def evaluation_page(
    record: EvaluationRecord, dataset: Dataset, sids: SIDTable, users: Evaluation, rankings: Rankings
) -> str:
    """Return the page as HTML.

    Args:
        record: the contents of metrics.json.
        dataset: for titles and pictures.
        sids: for semantic IDs.
        users: the evaluated users.
        rankings: the generator's rankings for them.
    """
    stated, other, details = record.stated, record.other_protocol, record.details
    return render(
        "evaluation.html",
        "Evaluation",
        heading=title(record),
        places=PLACES,
        sentences=sentences(record),
        metrics=_metrics(stated),
        charts=[(short(metric), _chart(stated, metric)) for metric in _CHARTED],
        intervals=[_intervals(stated, metric) for metric in _CHARTED] if stated.paired else [],
        other_rule=seen_rule(other),
        other_sentences=[*against_best(other), *against_oracle(other), *against_filter(other), *told_of_seen(other)],
        other_metrics=_metrics(other),
        seen=_seen(details),
        spread=_spread(details),
        levels=_levels(details),
        free=details.unconstrained_decoding,
        grounding=details.grounding,
        grounding_tables=[] if details.grounding is None else _grounding(details.grounding, dataset),
        examples=list(_examples(dataset, sids, users, rankings)),
    )


def _metrics(results: Results) -> Table:
    rows = [
        (label, *(f"{found[name]:.4f}" if name in found else "" for name in _COLUMNS))
        for label, found in rows_of(results)
    ]
    return ("", *map(short, _COLUMNS)), rows


def _chart(results: Results, metric: str) -> Markup:
    rows = [(label, found[metric]) for label, found in rows_of(results) if not label.startswith("oracle")]
    mark = ("oracle", results.oracle[metric]) if results.oracle is not None else None
    return bars(rows, mark=mark)


def _intervals(results: Results, metric: str) -> Markup:
    entries = [(f"{short(metric)}, {name}", row[metric]) for name, row in results.paired.items()]
    return forest([(name, entry.difference, entry.low, entry.high) for name, entry in entries])


def _seen(details: Details) -> Table:
    slices = details.recall_by_seen
    header = [f"{name} times, {found.targets:,} targets" for name, found in slices["model"].items()]
    rows = [
        (name, *(f"{found.recall_at_10:.4f}" if found.targets else "" for found in row.values()))
        for name, row in slices.items()
    ]
    return ("", *header), rows


def _spread(details: Details) -> Table:
    rows: list[tuple[str, ...]] = [
        (name, f"{found.coverage_at_10:.1%}", f"{found.head_share_at_10:.1%}") for name, found in details.spread.items()
    ]
    rows.append(("what users chose", "", f"{details.spread['model'].head_share_of_targets:.1%}"))
    return ("", "coverage", "head"), rows


def _levels(details: Details) -> Markup:
    shares = details.prefix_recall_at_10
    rows = [(f"first {name.removeprefix('prefix_')} of {len(shares)} codes", share) for name, share in shares.items()]
    return bars(rows, own=len(rows))


def _grounding(found: Grounding, dataset: Dataset) -> list[tuple[Sequence[str], list[tuple[str, ...]], int]]:
    """Return the header, rows and number of text columns of each grounding table."""
    rows: list[tuple[str, ...]] = []
    for name, row in found.finds.items():
        how = f"{name}, by the prompt of {row.through}" if row.through else name
        shares = (row.recall_at_1, row.recall_at_10, row.ceiling_at_1, row.ceiling_at_10)
        rows.append((how, f"{row.items:,}", *(f"{share:.1%}" for share in shares)))
    told: list[tuple[str, ...]] = [
        (name, f"{row.items:,}", f"{row.exact:.1%}", f"{row.token_f1:.3f}") for name, row in found.writes.items()
    ]
    written: list[tuple[Sequence[str], list[tuple[str, ...]], int]] = [
        ((name, "the item's own", "written"), [(dataset.keys[item], *texts) for item, *texts in row.examples], 3)
        for name, row in found.writes.items()
    ]
    return [
        (("found", "items", "R@1", "R@10", "ceiling@1", "ceiling@10"), rows, 1),
        (("written", "items", "exact", "token F1"), told, 1),
        *written,
    ]


@dataclass(frozen=True)
class _ShownItem:
    """An item of a user as the page shows it; of its codes `same` begin like the last chosen item's, `rest` follow."""

    what: str
    title: str
    same: str
    rest: str
    picture: str | None
    chance: str = ""
    recommended: bool = False
    came_next: bool = False


@dataclass(frozen=True)
class _ShownUser:
    """A user's last items, recommendations and targets, and how many items of the history are not shown."""

    user: str
    left_out: int
    rows: list[_ShownItem]


def _examples(dataset: Dataset, sids: SIDTable, users: Evaluation, rankings: Rankings) -> Iterator[_ShownUser]:
    examples = range(min(_NUM_EXAMPLES, len(users.users)))
    wanted = {
        int(item)
        for row in examples
        for item in (
            *users.histories[row][-_NUM_HISTORY:],
            *rankings.items_UK[row, :_NUM_RECOMMENDED],
            *users.targets[row],
        )
    }
    pictures = _pictures(dataset, wanted)
    titles = dataset.items["title"]

    def shown(
        what: str, item: int, last: int | None = None, chance: str = "", *, came_next: bool = False
    ) -> _ShownItem:
        codes = sids.codes_NL[item]
        same = 0 if last is None else int(np.cumprod(codes == sids.codes_NL[last]).sum())
        begins, rest = (" ".join(map(str, part)) for part in (codes[:same], codes[same:]))
        return _ShownItem(what, titles[item].as_py(), begins, rest, pictures.get(item), chance, bool(chance), came_next)

    for row in examples:
        history = users.histories[row]
        last = int(history[-1]) if len(history) else None
        rows = [shown("chose", int(item)) for item in history[-_NUM_HISTORY:]]
        best = zip(rankings.items_UK[row].tolist(), np.exp(rankings.scores_UK[row]).tolist(), strict=True)
        for place, (item, chance) in enumerate(list(best)[:_NUM_RECOMMENDED], start=1):
            if item != NO_ITEM:
                hit = item in users.targets[row]
                rows.append(shown(f"place {place}", item, last, f"{chance:.1%}", came_next=hit))
        for item in users.targets[row].tolist():
            rows.append(shown(f"then chose, {_place(item, rankings, row)}", item, last, came_next=True))
        left_out = len(history[:-_NUM_HISTORY]) + len(users.older[row])
        yield _ShownUser(users.users[row], left_out, rows)


def _place(item: int, rankings: Rankings, row: int) -> str:
    found = np.flatnonzero(rankings.items_UK[row] == item)
    return f"place {found[0] + 1}" if len(found) else f"not among the first {rankings.items_UK.shape[1]}"


def _pictures(dataset: Dataset, wanted: set[int]) -> dict[int, str]:
    """Return the thumbnails of the wanted items that have a picture."""
    has_image = dataset.items["has_image"].to_numpy()
    left = {item for item in wanted if item != NO_ITEM and has_image[item]}
    found: dict[int, str] = {}
    for item, data in dataset.images() if left else ():
        if item in left:
            found[item] = thumbnail(data)
            left.remove(item)
            if not left:
                break
    return found
