"""report.html: one evaluation for the eye, with charts and a few users, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trialign.data.dataset import Dataset, Evaluation
from trialign.evaluate.protocol import Rankings
from trialign.evaluate.report import (
    against_best,
    against_filter,
    against_oracle,
    rows_of,
    seen_rule,
    sentences,
    short,
    title,
)
from trialign.evaluate.slices import PLACES
from trialign.html import Markup, bars, forest, render, thumbnail
from trialign.ranking import METRICS
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM

_NUM_EXAMPLES = 5
_NUM_HISTORY = 8
_NUM_RECOMMENDED = 5
_CHARTED = ("ndcg@10", "recall@10")

Table = tuple[Sequence[str], list[tuple[str, ...]]]
"""Header and rows."""


def evaluation_page(
    record: Mapping[str, Any], dataset: Dataset, sids: SIDTable, users: Evaluation, rankings: Rankings
) -> str:
    """Return the page as HTML.

    Args:
        record: what metrics.json holds.
        dataset: for titles and pictures.
        sids: for semantic IDs.
        users: whom was measured.
        rankings: what the generator ranked for them.
    """
    other = record["other_protocol"]
    return render(
        "evaluation.html",
        "Evaluation",
        heading=title(record),
        places=PLACES,
        sentences=sentences(record),
        metrics=_metrics(record),
        charts=[(short(metric), _chart(record, metric)) for metric in _CHARTED],
        intervals=[_intervals(record, metric) for metric in _CHARTED] if record["paired"] else [],
        other_rule=seen_rule(other),
        other_sentences=[*against_best(other), *against_oracle(other), *against_filter(other)],
        other_metrics=_metrics(other),
        seen=_seen(record),
        spread=_spread(record),
        levels=_levels(record),
        free=record.get("unconstrained_decoding"),
        grounding=_grounding(record, dataset),
        examples=list(_examples(dataset, sids, users, rankings)),
    )


def _metrics(figures: Mapping[str, Any]) -> Table:
    rows = [(label, *(f"{found[name]:.4f}" for name in METRICS)) for label, found in rows_of(figures)]
    return ("", *map(short, METRICS)), rows


def _chart(record: Mapping[str, Any], metric: str) -> Markup:
    rows = [(label, found[metric]) for label, found in rows_of(record) if not label.startswith("oracle")]
    mark = ("oracle", record["oracle"][metric]) if "oracle" in record else None
    return bars(rows, mark=mark, width=220)


def _intervals(record: Mapping[str, Any], metric: str) -> Markup:
    entries = [(f"{short(metric)}, {name}", row[metric]) for name, row in record["paired"].items()]
    return forest([(name, entry["difference"], entry["low"], entry["high"]) for name, entry in entries])


def _seen(record: Mapping[str, Any]) -> Table:
    slices = record["recall_by_seen"]
    header = [f"{name} times, {found['targets']:,} targets" for name, found in slices["model"].items()]
    rows = [
        (name, *(f"{found[f'recall@{PLACES}']:.4f}" if found["targets"] else "" for found in row.values()))
        for name, row in slices.items()
    ]
    return ("", *header), rows


def _spread(record: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = [
        (name, f"{found[f'coverage@{PLACES}']:.1%}", f"{found[f'head_share@{PLACES}']:.1%}")
        for name, found in record["spread"].items()
    ]
    rows.append(("what users chose", "", f"{record['spread']['model']['head_share_of_targets']:.1%}"))
    return ("", "coverage", "head"), rows


def _levels(record: Mapping[str, Any]) -> Markup:
    shares = record[f"prefix_recall@{PLACES}"]
    return bars(
        [(f"first {name.removeprefix('prefix_')} of {len(shares)} codes", share) for name, share in shares.items()]
    )


def _grounding(record: Mapping[str, Any], dataset: Dataset) -> dict[str, Any] | None:
    """Return the size of the catalogue, and each table's header, rows and number of columns that hold text."""
    found = record.get("grounding")
    if found is None:
        return None
    rows = []
    for name, row in found["finds"].items():
        how = f"{name}, by the prompt of {row['through']}" if "through" in row else name
        cells = (f"{row[f'{what}@{k}']:.1%}" for what in ("recall", "ceiling") for k in (1, 10))
        rows.append((how, f"{row['items']:,}", *cells))
    told = [
        (name, f"{row['items']:,}", f"{row['exact']:.1%}", f"{row['token_f1']:.3f}")
        for name, row in found["writes"].items()
    ]
    written = [
        ((name, "the item's own", "written"), [(dataset.keys[item], *texts) for item, *texts in row["examples"]], 3)
        for name, row in found["writes"].items()
    ]
    tables = [
        (("found", "items", "R@1", "R@10", "ceiling@1", "ceiling@10"), rows, 1),
        (("written", "items", "exact", "token F1"), told, 1),
        *written,
    ]
    return {"catalogue": found["catalogue"], "tables": tables}


def _examples(dataset: Dataset, sids: SIDTable, users: Evaluation, rankings: Rankings) -> Iterator[dict[str, Any]]:
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

    def shown(what: str, item: int, *, recommended: bool = False, hit: bool = False) -> dict[str, Any]:
        codes = " ".join(map(str, sids.codes_NL[item]))
        said = {"what": what, "recommended": recommended, "hit": hit, "codes": codes}
        return {**said, "title": titles[item].as_py(), "picture": pictures.get(item)}

    for row in examples:
        history = users.histories[row]
        rows = [shown("chose", int(item)) for item in history[-_NUM_HISTORY:]]
        for place, item in enumerate(rankings.items_UK[row, :_NUM_RECOMMENDED], start=1):
            if item != NO_ITEM:
                hit = bool(item in users.targets[row])
                rows.append(shown(f"recommended {place}", int(item), recommended=True, hit=hit))
        rows += [shown(f"then chose, {_place(int(item), rankings, row)}", int(item)) for item in users.targets[row]]
        left_out = len(history[:-_NUM_HISTORY]) + len(users.older[row])
        yield {"user": users.users[row], "left_out": left_out, "rows": rows}


def _place(item: int, rankings: Rankings, row: int) -> str:
    found = np.flatnonzero(rankings.items_UK[row] == item)
    return f"place {found[0] + 1}" if len(found) else f"not among the first {rankings.items_UK.shape[1]}"


def _pictures(dataset: Dataset, wanted: set[int]) -> dict[int, str]:
    """Return thumbnails of those of the wanted items that have a picture."""
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
