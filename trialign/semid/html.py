"""Render quality.html: a page about the semantic IDs, one file without scripts or links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.html import render, thumbnail
from trialign.runtime.seeding import numpy_generator
from trialign.semid.record import Neighbourhood, Quality

_MAX_CODES = 128
_PER_CODE = 6
_NUM_EXAMPLES = 8
_SIDE = 96
"""Pixels of a picture's longer side; shown at two thirds, for screens that have more."""

_WIDTH, _HEIGHT = 360, 110
"""Pixels of a histogram."""


def page(
    codes_NL: NDArray[np.int64],
    report: Quality,
    titles: Sequence[str],
    categories: Sequence[Sequence[str]],
    images: Iterable[tuple[int, bytes]],
) -> str:
    """Return the page as HTML.

    Args:
        codes_NL: the semantic IDs.
        report: the result of `quality` for them.
        titles: of the items; untrusted text, which is escaped.
        categories: each item's path from the root; likewise.
        images: (item, encoded picture) of the items that have one.
    """
    groups = _groups(codes_NL)
    picked = [(code, members, _spread(members)) for code, members in groups[:_MAX_CODES]]
    examples = numpy_generator(0, "semid", "page").permutation(len(codes_NL))[:_NUM_EXAMPLES].tolist()
    near = {item: _nearest(codes_NL, item) for item in examples}
    wanted = {item for _, _, items in picked for item in items} | set(near).union(*near.values())
    return render(
        "semantic_ids.html",
        f"Semantic IDs of {len(codes_NL):,} items",
        titles=titles,
        pictures={item: thumbnail(data, _SIDE) for item, data in images if item in wanted},
        codebook_size=report.codebook_size,
        health=report.health,
        tiles=_tiles(report),
        agreements=_agreements(report),
        neighbourhoods=_neighbourhoods(report.neighbourhoods or {}),
        width=_WIDTH,
        height=_HEIGHT,
        levels=[_histogram(codes_NL, level, report) for level in range(codes_NL.shape[1])],
        neighbours=[_neighbours(codes_NL, item, near[item]) for item in near],
        num_codes=len(groups),
        cards=[_card(code, members, items, categories) for code, members, items in picked],
    )


def _groups(codes_NL: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Group the items by first code, the most frequent code first; items are in the order of their tuples."""
    order_N = np.lexsort(codes_NL.T[::-1])
    codes, starts = np.unique(codes_NL[order_N, 0], return_index=True)
    members = np.split(order_N, starts[1:])
    return sorted(zip(codes.tolist(), members, strict=True), key=lambda group: -len(group[1]))


def _spread(members: NDArray[np.intp]) -> list[int]:
    """Return some items of a group with different second codes, to show what the first code has in common."""
    places = np.linspace(0, len(members) - 1, min(_PER_CODE, len(members))).round().astype(int)
    return [int(item) for item in members[places]]


def _nearest(codes_NL: NDArray[np.int64], item: int) -> list[int]:
    """Return the items that share the longest prefix with an item, at least its first code."""
    depth_N = _shared(codes_NL, item)
    depth_N[item] = 0
    order = np.argsort(-depth_N, kind="stable")[:_PER_CODE]
    return [int(other) for other in order if depth_N[other] > 0]


def _shared(codes_NL: NDArray[np.int64], item: int) -> NDArray[np.int64]:
    depths_N: NDArray[np.int64] = np.cumprod(codes_NL == codes_NL[item], axis=1).sum(axis=1)
    return depths_N


def _tiles(report: Quality) -> list[tuple[str, str]]:
    collisions, num_items = report.collisions, report.num_items
    return [
        (f"{collisions.before:.2%}", "collisions, as the codes came"),
        (f"{collisions.before_without_twins:.2%}", f"without {report.twins:,} twins (identical evidence)"),
        (f"{report.items_moved / num_items:.2%}", f"of items moved ({report.items_moved:,})"),
        (f"{report.added_distortion:.2%}", "distortion added by moving"),
        (f"{min(report.usage):.1%}", "of codes used, by the worst level"),
        (f"{report.load:.2g}", "of all tuples taken"),
    ]


def _agreements(report: Quality) -> list[tuple[str, ...]]:
    """Return the rows of agreement between prefixes and labels, next to that of random codes."""
    rows = [
        (
            "strongest interest" if name == "interest" else name,
            "adjusted mutual information",
            *_by_prefix(found.adjusted_mutual_information, found.random_codes, 3),
        )
        for name, found in report.agreements().items()
    ]
    if (found := report.neighbours) is not None:
        rows.append(("held-out neighbours", "lift over chance", *_by_prefix(found.lift, found.random_codes, 1)))
    return rows


def _by_prefix(figures: Mapping[str, float], random: Mapping[str, float], digits: int) -> tuple[str, ...]:
    shown = (figures["prefix_1"], figures.get("prefix_2", 0), random["prefix_1"])
    return tuple(f"{figure:.{digits}f}" for figure in shown)


def _neighbourhoods(found: Mapping[str, Neighbourhood]) -> list[tuple[str, ...]]:
    """Return the rows of the neighbors in each modality that quantization preserves."""
    return [
        (name, f"{kept.before:.1%}", f"{kept.after:.1%}", f"{kept.random_codes:.1%}") for name, kept in found.items()
    ]


def _histogram(codes_NL: NDArray[np.int64], level: int, report: Quality) -> dict[str, Any]:
    """Return the bar heights of a level's histogram, most frequent code first, and its caption."""
    counts = np.sort(np.bincount(codes_NL[:, level]))[::-1]
    counts = counts[counts > 0]
    top = np.log1p(counts[0])
    return {
        "used": len(counts),
        "dead": report.dead_codes[level],
        "perplexity": report.perplexity[level],
        "step": _WIDTH / report.codebook_size,
        "heights": _HEIGHT * np.log1p(counts) / top,
        "even": _HEIGHT - _HEIGHT * np.log1p(len(codes_NL) / report.codebook_size) / top,
        "most": f"{counts[0]:,}",
        "least": f"{counts[-1]:,}",
    }


def _neighbours(codes_NL: NDArray[np.int64], item: int, found: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for an item and each of its nearest ones, with the codes split after the shared prefix."""
    depth_N = _shared(codes_NL, item)
    rows = []
    for other in (item, *found):
        codes = [str(code) for code in codes_NL[other]]
        shared = int(depth_N[other])
        rows.append({"item": other, "same": " ".join(codes[:shared]), "rest": " ".join(codes[shared:])})
    return rows


def _card(
    code: int, members: NDArray[np.intp], items: Sequence[int], categories: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Return the card of a first code: some of its items and its most frequent category."""
    kinds = Counter(" \u203a ".join(categories[item][-2:]) for item in members if categories[item])
    told = [f"{count / len(members):.0%} {name}" for name, count in kinds.most_common(1)]
    return {"code": code, "count": len(members), "shown": items, "kind": "".join(told)}
