"""Write enrich.html: a sample of items with their captions and interests, and examples of failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialign.data.dataset import Dataset
from trialign.enrich.evidence import Caption, ItemInterests
from trialign.files import write_atomically
from trialign.html import render, thumbnail
from trialign.runtime.seeding import numpy_generator

PAGE = "enrich.html"
_NUM_SHOWN = 20
_PER_CAUSE = 5
_SIDE = 160  # pixels of a picture
_LONGEST = 400  # longest description or reasoning shown, in characters


def write_page(
    folder: Path, dataset: Dataset, captions: Sequence[Caption] | None, interests: Sequence[ItemInterests] | None
) -> None:
    """Write `enrich.html`: 20 items drawn at random, and examples of every cause of failure."""
    told = captions or [Caption()] * dataset.num_items
    meant = interests or [ItemInterests()] * dataset.num_items
    drawn = numpy_generator(0, "enrich", "page").permutation(dataset.num_items)[:_NUM_SHOWN].tolist()
    pictures = {item: thumbnail(data, _SIDE) for item, data in dataset.images() if item in drawn}
    cards = [_card(dataset, item, pictures.get(item), told[item], meant[item]) for item in drawn]
    failures = {
        "Captions": _failures(dataset, [found.failure for found in told]),
        "Interests": _failures(dataset, [found.failure for found in meant]),
    }
    page = render(
        "enrichment.html",
        "Captions and interests",
        num_items=f"{dataset.num_items:,}",
        cards=cards,
        failures=[(what, rows) for what, rows in failures.items() if rows],
    )
    write_atomically(folder / PAGE, page)


def _card(dataset: Dataset, item: int, jpeg: str | None, caption: Caption, interests: ItemInterests) -> dict[str, Any]:
    return {
        "key": dataset.keys[item],
        "title": dataset.items["title"][item].as_py(),
        "description": _short(dataset.items["description"][item].as_py()),
        "picture": jpeg,
        "caption": caption,
        "interests": interests,
        "ranked": list(zip(interests.interests, interests.confidences, interests.origins, strict=True)),
        "reasoning": _short(interests.reasoning),
    }


def _failures(dataset: Dataset, causes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the causes of failure, most frequent first, each with its count and some items."""
    rows = []
    for cause, number in Counter(filter(None, causes)).most_common():
        examples = [dataset.keys[item] for item, own in enumerate(causes) if own == cause][:_PER_CAUSE]
        rows.append((cause, ", ".join(examples), f"{number:,}"))
    return rows


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
