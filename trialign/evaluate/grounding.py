"""Whether a generator knows what its semantic IDs mean: items from their texts, and texts from their items.

Every item of the catalogue was trained on, so this measures what was memorised, and how consistently both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import ItemList, ItemTexts, Kind, Text
from trialign.generate.writer import write_texts
from trialign.runtime.seeding import numpy_generator

_FINDS: dict[str, Kind] = {"title_to_item": "title", "caption_to_item": "caption"}
_WRITES: dict[str, Kind] = {"item_to_title": "title", "item_to_caption": "caption"}
_SHOWN = 5


def grounding(
    ranker: GeneratorRanker, texts: ItemTexts, interests: Sequence[Sequence[str]], num_items: int
) -> dict[str, Any]:
    """Return how well items are found by their texts, and texts written from their items, by tasks that were trained.

    Args:
        ranker: the generator.
        texts: of its items.
        interests: of its items, strongest first; none at all where there are none.
        num_items: how many items are asked about, drawn without regard to anything.

    Returns:
        `catalogue`, the number of items; `finds`: by task `items` asked about, `recall@1`, `recall@10` over the whole
        catalogue, and `ceiling@1`, `ceiling@10`, what nobody can pass because items share a text; `writes`: by task
        `items`, `exact`, `token_f1` and a few `examples` of (item, its text, what was written). Interests are no task:
        `interests_to_item` asks by the prompt of the task named `through`, which never read one.
    """
    order = numpy_generator(0, "understanding").permutation(len(texts.titles))
    tasks = ranker.template.tasks

    def chosen(known_N: NDArray[np.bool_]) -> list[int]:
        found: list[int] = order[known_N[order]][:num_items].tolist()
        return found

    finds = {
        name: _find(ranker, name, _texts_of(texts, kind), chosen(texts.known(kind)), kind)
        for name, kind in _FINDS.items()
        if name in tasks and texts.known(kind).any()
    }
    if interests and finds:
        told = [", ".join(found) for found in interests]
        through = max(finds, key=list(_FINDS).index)  # a caption's prompt, where there is one
        asked = chosen(np.array([bool(found) for found in told]))
        finds["interests_to_item"] = _find(ranker, through, told, asked, "caption") | {"through": through}
    writes = {
        name: _write(ranker, name, _texts_of(texts, kind), chosen(texts.known(kind)), kind)
        for name, kind in _WRITES.items()
        if name in tasks and texts.known(kind).any()
    }
    return {"catalogue": len(texts.titles), "finds": finds, "writes": writes}


def token_f1(written: str, truth: str) -> float:
    """Return the harmonic mean of precision and recall of words, each counted as often as it stands, case ignored."""
    one, other = Counter(written.lower().split()), Counter(truth.lower().split())
    shared = (one & other).total()
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def _texts_of(texts: ItemTexts, kind: Kind) -> Sequence[str]:
    return texts.titles if kind == "title" else texts.captions


def _find(ranker: GeneratorRanker, task: str, texts: Sequence[str], items: list[int], kind: Kind) -> dict[str, Any]:
    prompts = [ranker.template.prompt(task, [Text(texts[item], kind=kind)]) for item in items]
    places = min(10, ranker.num_beams)
    hits_IK = ranker.rank_prompts(prompts, places) == np.array(items)[:, None]
    # Nothing tells the items of one text apart: of n only K are among the first K.
    shared = Counter(texts)
    sharing_I = np.array([shared[texts[item]] for item in items])
    figures: dict[str, Any] = {"items": len(items)}
    for k in (1, 10):
        figures[f"recall@{k}"] = float(hits_IK[:, :k].any(axis=1).mean())
        figures[f"ceiling@{k}"] = float(np.minimum(1.0, k / sharing_I).mean())
    return figures


def _write(ranker: GeneratorRanker, task: str, texts: Sequence[str], items: list[int], kind: Kind) -> dict[str, Any]:
    template = ranker.template
    prompts = [template.prompt(task, [ItemList.read(np.array([item]))]) for item in items]
    limit = template.max_tokens[kind]
    found = write_texts(ranker.generator, prompts, end=template.tokenizer.end, max_tokens=limit)
    written = [template.tokenizer.decode(tokens).strip() for tokens in found]
    # A longer text was learned as far as it is cut, and is compared so.
    truths = [template.tokenizer.decode(template.tokenizer.encode(texts[item])[:limit]).strip() for item in items]
    pairs = list(zip(written, truths, strict=True))
    return {
        "items": len(items),
        "exact": float(np.mean([one == other for one, other in pairs])),
        "token_f1": float(np.mean([token_f1(one, other) for one, other in pairs])),
        "examples": [[item, truth, text] for item, (text, truth) in zip(items[:_SHOWN], pairs, strict=False)],
    }
