"""The page of the stage: some items with what was said of them, and what could not be said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trialign.data.dataset import Dataset
from trialign.enrich.evidence import Caption, ItemInterests
from trialign.files import write_atomically
from trialign.page import document, escape, picture, table, thumbnail
from trialign.runtime.seeding import numpy_generator

PAGE = "enrich.html"
_NUM_SHOWN = 20
_PER_CAUSE = 5
_SIDE = 160  # pixels of a picture
_LONGEST = 400  # characters of a description or of reasoning


def write_page(
    folder: Path, dataset: Dataset, captions: Sequence[Caption] | None, interests: Sequence[ItemInterests] | None
) -> None:
    """Write `enrich.html`: 20 items drawn at random, and examples of every cause of failure."""
    told = captions or [Caption()] * dataset.num_items
    meant = interests or [ItemInterests()] * dataset.num_items
    drawn = numpy_generator(0, "enrich", "page").permutation(dataset.num_items)[:_NUM_SHOWN].tolist()
    pictures = {item: thumbnail(data, _SIDE) for item, data in dataset.images() if item in drawn}
    cards = [_card(dataset, item, pictures.get(item), told[item], meant[item]) for item in drawn]
    parts = [
        "<style>img { height: auto; max-width: 160px } .card { display: flex; gap: 1em } "
        ".card > div:first-child { width: 160px; flex: none } .bad { color: #a33 }</style>",
        f"<p>{dataset.num_items:,} items; {len(drawn)} drawn at random. Sources say who speaks; reasoning is for audit "
        "and no evidence.</p>",
        *cards,
        _failures("Captions", dataset, [found.failure for found in told]),
        _failures("Interests", dataset, [found.failure for found in meant]),
    ]
    write_atomically(folder / PAGE, document("Captions and interests", parts))


def _card(dataset: Dataset, item: int, jpeg: str | None, caption: Caption, interests: ItemInterests) -> str:
    title, description = (dataset.items[name][item].as_py() for name in ("title", "description"))
    lines = [
        f"<b>{escape(title) or '(no title)'}</b> <span class=dim>{escape(dataset.keys[item])}</span>",
        escape(_short(description)),
        _said("caption", escape(caption.caption), caption.source, caption.failure),
        _said("interests", _list(interests), interests.source, interests.failure),
    ]
    if interests.reasoning:
        lines.append(f"<span class=dim>reasoning: {escape(_short(interests.reasoning))}</span>")
    shown = picture(jpeg) or "<span class=dim>no picture</span>"
    return f"<div class=card><div>{shown}</div><div>{'<br>'.join(filter(None, lines))}</div></div>"


def _said(what: str, told: str, source: str, failure: str) -> str:
    if failure:
        return f"{what}: <span class=bad>{escape(failure)}</span>"
    return f"{what}: {told} <span class=dim>({escape(source)})</span>" if told else ""


def _list(found: ItemInterests) -> str:
    entries = zip(found.interests, found.confidences, found.origins, strict=True)
    return "; ".join(
        f"{escape(name)} <span class=dim>{confidence:.2f}{'' if origin == 'description' else ' ' + origin}</span>"
        for name, confidence, origin in entries
    )


def _failures(what: str, dataset: Dataset, causes: Sequence[str]) -> str:
    counts = Counter(filter(None, causes))
    if not counts:
        return ""
    rows = []
    for cause, number in counts.most_common():
        examples = [dataset.keys[item] for item, own in enumerate(causes) if own == cause][:_PER_CAUSE]
        rows.append([escape(cause), ", ".join(map(escape, examples)), f"{number:,}"])
    return f"<h2>{what} that failed</h2>" + table(["cause", "items, e.g.", "number"], rows, num_text=2)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
