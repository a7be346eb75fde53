"""quality.html: semantic IDs for the eye, in one file without a script or a link."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trialign.runtime.seeding import numpy_generator

_MAX_CODES = 128
_PER_CODE = 6
_NUM_EXAMPLES = 8
_SIDE = 72
"""Pixels of a picture's longer side."""

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 22px } h2 { font-size: 17px; margin-top: 2em }
p { max-width: 70em } .dim { color: #777 } code { background: #f2f2f2; padding: 0 .25em }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right } .row { display: flex; flex-wrap: wrap; gap: 1.6em }
.codes { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: .8em }
.card { border: 1px solid #ddd; border-radius: 4px; padding: .5em .7em }
.card b { display: block; margin-bottom: .3em } .card ul { margin: 0; padding-left: 1.1em }
.card li, .cut { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.pictures { display: flex; flex-wrap: wrap; gap: 4px; margin-bottom: .3em }
.pictures img { height: 60px; max-width: 72px; object-fit: contain }
.cut { max-width: 52em }
svg text { font: 11px system-ui, sans-serif; fill: #777 }
"""


def page(
    codes_NL: NDArray[np.int64],
    report: Mapping[str, Any],
    titles: Sequence[str],
    images: Iterable[tuple[int, bytes]],
) -> str:
    """Return the page as HTML.

    Args:
        codes_NL: the semantic IDs.
        report: what `quality` returned for them.
        titles: of the items; text from outside, shown as it is and never as markup.
        images: (item, encoded picture) of the items that have one.
    """
    cards = _members(codes_NL)
    examples = numpy_generator(0, "semid", "page").permutation(len(codes_NL))[:_NUM_EXAMPLES]
    near = {int(item): _nearest(codes_NL, int(item)) for item in examples}
    shown = (
        {item for _, _, items in cards for item in items} | set(near) | {i for found in near.values() for i in found}
    )
    pictures = {item: _thumbnail(data) for item, data in images if item in shown}
    histograms = "".join(_histogram(codes_N, level) for level, codes_N in enumerate(codes_NL.T, start=1))
    parts = [
        f"<h1>Semantic IDs of {len(codes_NL):,} items</h1>",
        _summary(report),
        "<h2>Collisions</h2>",
        _collisions(report),
        "<h2>Usage</h2>",
        "<p>Items per code of each level, most frequent first; a code that no item has is not drawn.</p>",
        f"<div class=row>{histograms}</div>",
        "<h2>Neighbours</h2>",
        f"<p>{len(near)} items drawn at random, and the items that share the longest prefix with each.</p>",
        "".join(_neighbours(codes_NL, item, found, titles, pictures) for item, found in near.items()),
        "<h2>First-level codes</h2>",
        _first_level_note(codes_NL, len(cards)),
        f"<div class=codes>{''.join(_card(*card, titles, pictures) for card in cards)}</div>",
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Semantic IDs</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _members(codes_NL: NDArray[np.int64]) -> list[tuple[int, int, list[int]]]:
    """Return (code, number of items, some of them) of the first level, the most frequent first."""
    counts_K = np.bincount(codes_NL[:, 0])
    order_N = np.lexsort(codes_NL.T[::-1])
    ends_K = counts_K.cumsum()
    found = []
    for code in np.argsort(-counts_K, kind="stable")[:_MAX_CODES]:
        if counts_K[code]:
            inside = order_N[ends_K[code] - counts_K[code] : ends_K[code]]
            # Spread over the second level: what its items have in common, not what two near ones have.
            picked = inside[np.linspace(0, len(inside) - 1, min(_PER_CODE, len(inside))).round().astype(int)]
            found.append((int(code), int(counts_K[code]), picked.tolist()))
    return found


def _nearest(codes_NL: NDArray[np.int64], item: int) -> list[int]:
    depth_N = np.cumprod(codes_NL == codes_NL[item], axis=1).sum(axis=1)
    depth_N[item] = 0
    order = np.argsort(-depth_N, kind="stable")[:_PER_CODE]
    return [int(other) for other in order if depth_N[other] > 0]


def _summary(report: Mapping[str, Any]) -> str:
    rows = [("items", f"{report['num_items']:,}"), ("share of all tuples taken", f"{report['load']:.5f}")]
    rows += [
        ("items moved to be unique", f"{report['items_moved']:,} ({report['items_moved'] / report['num_items']:.1%})")
    ]
    rows += [("distortion that moving added", f"{report['added_distortion']:.2%}")]
    rows += [("codes used, by level", ", ".join(f"{share:.1%}" for share in report["usage"]))]
    rows += [("perplexity, by level", ", ".join(f"{value:.0f}" for value in report["perplexity"]))]
    for key, name in (("category", "agreement with the category"), ("category_path", "agreement with its whole path")):
        if key in report:
            rows += [
                (f"{name} (adjusted mutual information)", _prefixes(report[key]["adjusted_mutual_information"], 3))
            ]
    if "neighbours" in report:
        rows += [("held-out neighbour lift", _prefixes(report["neighbours"]["lift"], 1))]
    return "<table>" + "".join(f"<tr><td>{name}<td>{value}" for name, value in rows) + "</table>"


def _prefixes(values: Mapping[str, float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f} at {name.replace('_', ' of ')}" for name, value in values.items())


def _collisions(report: Mapping[str, Any]) -> str:
    names = {
        "before": "as the codes came",
        "before_without_twins": "the same, items of identical evidence counted once",
        "after": "as assigned",
    }
    return (
        "<p>1 &minus; distinct tuples / items.</p><table>"
        + "".join(
            f"<tr><td>{name}<td class=n>{report['collisions'][key]:.2%}<td><svg width=320 height=12>"
            f"<rect width={320 * report['collisions'][key]:.1f} height=12 fill='#c0504d'/></svg>"
            for key, name in names.items()
        )
        + "</table>"
    )


def _histogram(codes_N: NDArray[np.int64], level: int) -> str:
    counts = np.sort(np.bincount(codes_N))[::-1]
    counts = counts[counts > 0]
    width, height = 250, 110
    step = width / len(counts)
    bars = "".join(
        f"<rect x={place * step:.2f} y={height - height * count / counts[0]:.1f} width={step:.2f} "
        f"height={height * count / counts[0]:.1f} fill='#4f81bd'/>"
        for place, count in enumerate(counts)
    )
    return (
        f"<div>level {level}: {len(counts)} codes<br><svg width={width} height={height + 16}>{bars}"
        f"<text x=0 y={height + 13}>{counts[0]:,} items</text>"
        f"<text x={width} y={height + 13} text-anchor=end>{counts[-1]:,}</text></svg></div>"
    )


def _neighbours(
    codes_NL: NDArray[np.int64], item: int, found: Sequence[int], titles: Sequence[str], pictures: Mapping[int, str]
) -> str:
    rows = "".join(
        f"<tr><td>{_picture(other, pictures)}<td><code>{' '.join(map(str, codes_NL[other]))}</code>"
        f"<td><div class=cut>{'<b>' if other == item else ''}{escape(titles[other] or '(no title)')}</div>"
        for other in (item, *found)
    )
    return f"<table style='margin-bottom: 1em'>{rows}</table>"


def _first_level_note(codes_NL: NDArray[np.int64], num_shown: int) -> str:
    num_used = len(np.unique(codes_NL[:, 0]))
    which = "All" if num_shown == num_used else f"The {num_shown} most frequent of"
    return f"<p>{which} {num_used} codes in use, each with items spread over its second level.</p>"


def _card(code: int, count: int, items: Sequence[int], titles: Sequence[str], pictures: Mapping[int, str]) -> str:
    seen = "".join(_picture(item, pictures) for item in items if item in pictures)
    names = "".join(f"<li>{escape(titles[item] or '(no title)')}" for item in items[: 3 if seen else None])
    strip = f"<div class=pictures>{seen}</div>" if seen else ""
    return f"<div class=card><b>{code} <span class=dim>{count:,} items</span></b>{strip}<ul>{names}</ul></div>"


def _picture(item: int, pictures: Mapping[int, str]) -> str:
    return f"<img alt='' height=60 src='data:image/jpeg;base64,{pictures[item]}'>" if item in pictures else ""


def _thumbnail(data: bytes) -> str:
    """Return a small JPEG in base64; the dataset holds only pictures that decode."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (_SIDE, _SIDE))
        small = picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=75)
    return base64.b64encode(out.getvalue()).decode()
