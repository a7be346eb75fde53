"""quality.html: semantic IDs for the eye, in one file without a script or a link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.page import document, escape, thumbnail
from trialign.runtime.seeding import numpy_generator

_MAX_CODES = 128
_PER_CODE = 6
_NUM_EXAMPLES = 8
_SIDE = 96
"""Pixels of a picture's longer side; shown at two thirds, for screens that have more."""

_STYLE = """<style>
code b { color: #0969da } td:has(code) { width: 8em; white-space: nowrap } td.p { padding: 2px .6em 2px 0; width: 1px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8em; margin: 1.2em 0 }
.tile { border: 1px solid #ddd; border-radius: 4px; padding: .6em 1em } .tile b { display: block; font-size: 22px }
.codes { display: grid; grid-template-columns: repeat(auto-fill, minmax(285px, 1fr)); gap: .8em }
.near { align-items: start; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 1.2em 2em }
.card { overflow: hidden; margin: 0 } .card ul { margin: .3em 0 0; padding: 0; list-style: none; font-size: 12.5px }
.card li, .kind { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.fault { border-left: 4px solid #c0504d; padding-left: .8em }
.kind { color: #0969da; font-size: 12.5px } .cut { max-width: 30em } .bar { fill: #4c8fd6 }
.pictures { height: 64px; margin-top: .4em; overflow: hidden } .pictures img { height: 64px; max-width: none }
</style>"""
"""What this page adds to the look of all pages."""


@dataclass(frozen=True)
class Shown:
    """What the page says of items: words from outside (never markup), and small pictures in base64."""

    titles: Sequence[str]
    categories: Sequence[Sequence[str]]
    pictures: Mapping[int, str]

    def title(self, item: int) -> str:
        """Return an item's title as HTML."""
        return escape(self.titles[item]) or "<span class=dim>(no title)</span>"

    def picture(self, item: int) -> str:
        """Return an item's picture as HTML, nothing where it has none."""
        if item not in self.pictures:
            return ""
        return f"<img alt='' title=\"{escape(self.titles[item])}\" src='data:image/jpeg;base64,{self.pictures[item]}'>"


def page(
    codes_NL: NDArray[np.int64],
    report: Mapping[str, Any],
    titles: Sequence[str],
    categories: Sequence[Sequence[str]],
    images: Iterable[tuple[int, bytes]],
) -> str:
    """Return the page as HTML.

    Args:
        codes_NL: the semantic IDs.
        report: what `quality` returned for them, and `health`, where they were judged.
        titles: of the items; text from outside, shown as it is and never as markup.
        categories: each item's path from the root; likewise.
        images: (item, encoded picture) of the items that have one.
    """
    groups = _groups(codes_NL)
    picked = [(code, members, _spread(members)) for code, members in groups[:_MAX_CODES]]
    examples = numpy_generator(0, "semid", "page").permutation(len(codes_NL))[:_NUM_EXAMPLES].tolist()
    near = {item: _nearest(codes_NL, item) for item in examples}
    wanted = {item for _, _, items in picked for item in items} | set(near).union(*near.values())
    shown = Shown(titles, categories, {item: thumbnail(data, _SIDE) for item, data in images if item in wanted})
    some = "" if len(picked) == len(groups) else f" The {len(picked)} most frequent of {len(groups)} are shown."
    parts = [
        _STYLE,
        f"<div class=dim>{codes_NL.shape[1]} levels of {report['codebook_size']} codes</div>",
        _health(report.get("health", {})),
        _tiles(report),
        _agreements(report),
        _neighbourhoods(report.get("neighbourhoods", {})),
        "<h2>Usage</h2>",
        "<p>Items per code of each level, most frequent first, on a logarithmic scale; the dotted line is an even "
        "share.</p>",
        f"<div class=row>{''.join(_histogram(codes_NL, level, report) for level in range(codes_NL.shape[1]))}</div>",
        "<h2>Neighbours</h2>",
        f"<p>{len(near)} items drawn at random, and items that share the longest prefix with each.</p>",
        f"<div class='codes near'>{''.join(_neighbours(codes_NL, item, near[item], shown) for item in near)}</div>",
        "<h2>What the first codes look like</h2>",
        f"<p>Each with items spread over its second level, and its commonest category.{some}</p>",
        f"<div class=codes>{''.join(_card(*card, shown) for card in picked)}</div>",
    ]
    return document(f"Semantic IDs of {len(codes_NL):,} items", parts)


def _groups(codes_NL: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return each first code and its items in the order of their tuples, the most frequent code first."""
    order_N = np.lexsort(codes_NL.T[::-1])
    codes, starts = np.unique(codes_NL[order_N, 0], return_index=True)
    members = np.split(order_N, starts[1:])
    return sorted(zip(codes.tolist(), members, strict=True), key=lambda group: -len(group[1]))


def _spread(members: NDArray[np.intp]) -> list[int]:
    """Return a few items spread over the second level: what a code has in common, not what two near items have."""
    places = np.linspace(0, len(members) - 1, min(_PER_CODE, len(members))).round().astype(int)
    return [int(item) for item in members[places]]


def _nearest(codes_NL: NDArray[np.int64], item: int) -> list[int]:
    """Return items that share the longest prefix with one, at least its first code."""
    depth_N = _shared(codes_NL, item)
    depth_N[item] = 0
    order = np.argsort(-depth_N, kind="stable")[:_PER_CODE]
    return [int(other) for other in order if depth_N[other] > 0]


def _shared(codes_NL: NDArray[np.int64], item: int) -> NDArray[np.int64]:
    depths_N: NDArray[np.int64] = np.cumprod(codes_NL == codes_NL[item], axis=1).sum(axis=1)
    return depths_N


def _health(health: Mapping[str, Any]) -> str:
    """Return what is wrong, or that nothing is by the thresholds."""
    if not health:
        return ""
    if health["faults"]:
        return "".join(f"<p class=fault><b>Unhealthy:</b> {escape(fault)}.</p>" for fault in health["faults"])
    return (
        f"<p class=dim>Healthy: at most {health['max_moved']:.1%} of the items moved, every level worth at least "
        f"{health['min_perplexity']:g} equally used codes.</p>"
    )


def _tiles(report: Mapping[str, Any]) -> str:
    collisions, num_items = report["collisions"], report["num_items"]
    tiles = [
        (f"{collisions['before']:.2%}", "collisions, as the codes came"),
        (f"{collisions['before_without_twins']:.2%}", f"without {report['twins']:,} twins (identical evidence)"),
        (f"{report['items_moved'] / num_items:.2%}", f"of items moved ({report['items_moved']:,})"),
        (f"{report['added_distortion']:.2%}", "distortion added by moving"),
        (f"{min(report['usage']):.1%}", "of codes used, by the worst level"),
        (f"{report['load']:.2g}", "of all tuples taken"),
    ]
    return f"<div class=tiles>{''.join(f'<div class=tile><b>{a}</b>{b}</div>' for a, b in tiles)}</div>"


def _agreements(report: Mapping[str, Any]) -> str:
    """Return the table of what prefixes say of items, beside what random codes would."""
    names = {
        "category": ("category", "adjusted mutual information", "adjusted_mutual_information", 3),
        "category_path": ("whole category path", "adjusted mutual information", "adjusted_mutual_information", 3),
        "style": ("style", "adjusted mutual information", "adjusted_mutual_information", 3),
        "purpose": ("purpose", "adjusted mutual information", "adjusted_mutual_information", 3),
        "caption": ("caption", "adjusted mutual information", "adjusted_mutual_information", 3),
        "interest": ("strongest interest", "adjusted mutual information", "adjusted_mutual_information", 3),
        "neighbours": ("held-out neighbours", "lift over chance", "lift", 1),
    }
    rows = "".join(
        f"<tr><td>{name}<td class=dim>{measure}"
        + "".join(f"<td class=n>{report[key][field].get(prefix, 0):.{digits}f}" for prefix in ("prefix_1", "prefix_2"))
        + f"<td class='n dim'>{report[key]['random_codes']['prefix_1']:.{digits}f}"
        for key, (name, measure, field, digits) in names.items()
        if key in report
    )
    if not rows:
        return ""
    titles = "<tr><th>agreement with<th><th class=n>first code<th class=n>first two<th class=n>random codes"
    return f"<table>{titles}{rows}</table>"


def _neighbourhoods(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of how many neighbours of each modality survive."""
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{name}<td class=n>{kept['before']:.1%}<td class=n>{kept['after']:.1%}"
        f"<td class='n dim'>{kept['random_codes']:.1%}"
        for name, kept in found.items()
    )
    titles = "<tr><th>modality<th class=n>before quantization<th class=n>by the semantic IDs<th class=n>by random codes"
    return (
        "<h2>What is left of the modalities</h2><p>Of an item's ten nearest neighbours in a modality, the share that "
        f"is among its ten nearest in the vectors before and after quantization.</p><table>{titles}{rows}</table>"
    )


def _histogram(codes_NL: NDArray[np.int64], level: int, report: Mapping[str, Any]) -> str:
    counts = np.sort(np.bincount(codes_NL[:, level]))[::-1]
    counts = counts[counts > 0]
    width, height = 360, 110
    step, top = width / report["codebook_size"], np.log1p(counts[0])
    heights = height * np.log1p(counts) / top
    bars = "".join(
        f"<rect class=bar x={place * step:.2f} y={height - tall:.1f} width={step:.2f} height={tall:.1f} />"
        for place, tall in enumerate(heights)
    )
    even = height - height * np.log1p(len(codes_NL) / report["codebook_size"]) / top
    return (
        f"<div><b>level {level + 1}</b> <span class=dim>{len(counts)} codes used, {report['dead_codes'][level]} not; "
        f"perplexity {report['perplexity'][level]:.0f}</span><br><svg width={width} height={height + 18}>{bars}"
        f"<line x1=0 x2={width} y1={even:.1f} y2={even:.1f} stroke='#57606a' stroke-dasharray='2 3' />"
        f"<text x=0 y={height + 14}>{counts[0]:,} items</text>"
        f"<text x={width} y={height + 14} text-anchor=end>{counts[-1]:,}</text></svg></div>"
    )


def _neighbours(codes_NL: NDArray[np.int64], item: int, found: Sequence[int], shown: Shown) -> str:
    depth_N = _shared(codes_NL, item)
    rows = "".join(
        f"<tr><td class=p>{shown.picture(other)}<td>{_sid(codes_NL[other], int(depth_N[other]))}"
        f"<td><div class=cut>{'<b>' if other == item else ''}{shown.title(other)}</div>"
        for other in (item, *found)
    )
    return f"<table>{rows}</table>"


def _sid(codes_L: NDArray[np.int64], shared: int) -> str:
    same, rest = (" ".join(map(str, part)) for part in (codes_L[:shared], codes_L[shared:]))
    return f"<code><b>{same}</b> {rest}</code>"


def _card(code: int, members: NDArray[np.intp], items: Sequence[int], shown: Shown) -> str:
    kinds = Counter(" \u203a ".join(shown.categories[item][-2:]) for item in members if shown.categories[item])
    kind = ""
    if kinds:
        (name, count), *_ = kinds.most_common(1)
        kind = f"<div class=kind>{count / len(members):.0%} {escape(name)}</div>"
    seen = "".join(map(shown.picture, items))
    strip = f"<div class=pictures>{seen}</div>" if seen else ""
    names = "".join(f"<li>{shown.title(item)}" for item in items[: 3 if seen else None])
    head = f"<b>{code}</b> <span class=dim>{len(members):,} item{'s' if len(members) > 1 else ''}</span>"
    return f"<div class=card>{head}{kind}{strip}<ul>{names}</ul></div>"
