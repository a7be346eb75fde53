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
from trialign.page import bars, document, escape, forest, picture, table, thumbnail
from trialign.ranking import METRICS
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM

_NUM_EXAMPLES = 5
_NUM_HISTORY = 8
_NUM_RECOMMENDED = 5
_CHARTED = ("ndcg@10", "recall@10")


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
    parts = [
        f"<p>{escape(title(record))}.</p>",
        _said(sentences(record)),
        _metrics_table(record),
        _charts(record),
        *_intervals(record),
        f"<h2>The same, {seen_rule(other)}</h2>",
        _said([*against_best(other), *against_oracle(other), *against_filter(other)]),
        _metrics_table(other),
        *_seen(record),
        *_spread(record),
        *_levels(record),
        *_free(record),
        *_understanding(record, dataset),
        *_examples(dataset, sids, users, rankings),
    ]
    return document("Evaluation", parts)


def _said(told: Sequence[str]) -> str:
    return "<p>" + "<br>".join(escape(sentence) for sentence in told) + "</p>"


def _metrics_table(figures: Mapping[str, Any]) -> str:
    rows = [(escape(label), *(f"{found[name]:.4f}" for name in METRICS)) for label, found in rows_of(figures)]
    return table(("", *map(short, METRICS)), rows)


def _charts(record: Mapping[str, Any]) -> str:
    charts = []
    for metric in _CHARTED:
        rows = [(label, found[metric]) for label, found in rows_of(record) if not label.startswith("oracle")]
        mark = ("oracle", record["oracle"][metric]) if "oracle" in record else None
        charts.append(f"<div><h2>{short(metric)}</h2>{bars(rows, mark=mark, width=220)}</div>")
    return f"<div class=row>{''.join(charts)}</div>"


def _intervals(record: Mapping[str, Any]) -> Iterator[str]:
    if not record["paired"]:
        return
    yield "<h2>Model minus baseline</h2>"
    yield (
        "<p>Differences on the same users, with 95 % intervals of a paired bootstrap over users. Grey: the interval "
        "holds 0, no difference shown. The luck of training is not in it: another seed is another model.</p>"
    )
    for metric in _CHARTED:
        entries = [(f"{short(metric)}, {name}", row[metric]) for name, row in record["paired"].items()]
        yield forest([(name, entry["difference"], entry["low"], entry["high"]) for name, entry in entries])


def _seen(record: Mapping[str, Any]) -> Iterator[str]:
    slices = record["recall_by_seen"]
    yield "<h2>By how often the target was seen in training</h2>"
    yield f"<p>Share of the targets among the first {PLACES} places.</p>"
    header = [f"{name} times, {found['targets']:,} targets" for name, found in slices["model"].items()]
    rows = [
        (escape(name), *(f"{found[f'recall@{PLACES}']:.4f}" if found["targets"] else "" for found in row.values()))
        for name, row in slices.items()
    ]
    yield table(("", *header), rows)


def _spread(record: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Coverage and popularity</h2>"
    yield (
        f"<p>Coverage: share of the catalogue that stands among anybody's first {PLACES} places. Head: share of these "
        "places held by the tenth of the items with the most train events; above the users' own share, a ranking "
        "leans further to the head than they do.</p>"
    )
    rows = [
        (escape(name), f"{found[f'coverage@{PLACES}']:.1%}", f"{found[f'head_share@{PLACES}']:.1%}")
        for name, found in record["spread"].items()
    ]
    rows.append(("what users chose", "", f"{record['spread']['model']['head_share_of_targets']:.1%}"))
    yield table(("", "coverage", "head"), rows)


def _levels(record: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Level by level</h2>"
    yield (
        f"<p>Share of the targets whose first codes stand among the first {PLACES} places. Semantic IDs are unique "
        "here, so the whole ID counts items; who counts strings of colliding IDs prints something between the last "
        "two.</p>"
    )
    shares = record[f"prefix_recall@{PLACES}"]
    yield bars(
        [(f"first {name.removeprefix('prefix_')} of {len(shares)} codes", share) for name, share in shares.items()]
    )


def _free(record: Mapping[str, Any]) -> Iterator[str]:
    found = record.get("free_decoding")
    if found is None:
        return
    yield "<h2>Without the trie</h2>"
    if found["by_construction"]:
        yield "<p>This encoding scores nodes of the trie alone: it cannot name an item that does not exist.</p>"
        return
    yield (
        f"<p>The same beams over all codes of each level, {found['num_users']:,} users. Of the best tuples "
        f"{found['invalid_rate']:.2%} are no item, of the best {PLACES} {found[f'invalid_rate@{PLACES}']:.2%}. "
        "Probability given to codes that lead to no item, along the target's own: "
        + ", ".join(f"{mass:.2%} on level {level}" for level, mass in enumerate(found["illegal_mass"], start=1))
        + ". A lower bound of what an unconstrained model would invent: a code of the wrong level cannot occur.</p>"
    )


def _understanding(record: Mapping[str, Any], dataset: Dataset) -> Iterator[str]:
    found = record.get("understanding")
    if found is None:
        return
    yield "<h2>What the semantic IDs are understood to mean</h2>"
    yield (
        "<p>Every item was trained on, so this is what was memorised, both ways. Found: by the constrained search over "
        f"all {found['catalogue']:,} items, after a text alone; the ceiling is what nobody can pass, because items "
        "share a text. Written: token by token, the likeliest first; exact, and F1 of its words.</p>"
    )
    rows = []
    for name, row in found["finds"].items():
        how = f"{escape(name)}, by the prompt of {escape(row['through'])}" if "through" in row else escape(name)
        cells = (f"{row[f'{what}@{k}']:.1%}" for what in ("recall", "ceiling") for k in (1, 10))
        rows.append((how, f"{row['items']:,}", *cells))
    yield table(("found", "items", "R@1", "R@10", "ceiling@1", "ceiling@10"), rows)
    told = [
        (escape(name), f"{row['items']:,}", f"{row['exact']:.1%}", f"{row['token_f1']:.3f}")
        for name, row in found["writes"].items()
    ]
    yield table(("written", "items", "exact", "token F1"), told)
    for name, row in found["writes"].items():
        lines = [(escape(dataset.keys[item]), escape(truth), escape(text)) for item, truth, text in row["examples"]]
        yield table((escape(name), "the item's own", "written"), lines, num_text=3)


def _examples(dataset: Dataset, sids: SIDTable, users: Evaluation, rankings: Rankings) -> Iterator[str]:
    examples = range(min(_NUM_EXAMPLES, len(users.users)))
    yield f"<h2>{len(examples)} users</h2><p>The first in hash order, not chosen.</p>"
    shown = {
        int(item)
        for row in examples
        for item in (
            *users.histories[row][-_NUM_HISTORY:],
            *rankings.items_UK[row, :_NUM_RECOMMENDED],
            *users.targets[row],
        )
    }
    pictures = _pictures(dataset, shown)
    titles = dataset.items["title"]

    def cells(item: int) -> tuple[str, str, str]:
        name = escape(titles[item].as_py() or "(no title)")
        codes = " ".join(map(str, sids.codes_NL[item]))
        return picture(pictures.get(item)), f"<div class=cut>{name}</div>", f"<code>{codes}</code>"

    for row in examples:
        history = users.histories[row]
        left_out = len(history[:-_NUM_HISTORY]) + len(users.older[row])
        more = f"<p class=dim>{left_out} earlier items of the history are not shown</p>" if left_out else ""
        rows = [("chose", *cells(int(item))) for item in history[-_NUM_HISTORY:]]
        for place, item in enumerate(rankings.items_UK[row, :_NUM_RECOMMENDED], start=1):
            if item != NO_ITEM:
                hit = " <b>hit</b>" if item in users.targets[row] else ""
                rows.append((f"<b>recommended {place}</b>{hit}", *cells(int(item))))
        rows += [(f"then chose, {_place(int(item), rankings, row)}", *cells(int(item))) for item in users.targets[row]]
        shown_rows = table(("", "", "", "semantic ID"), rows, num_text=4)
        yield f"<div class=card><b>{escape(users.users[row])}</b>{more}{shown_rows}</div>"


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
