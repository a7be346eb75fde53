"""Whether a generator knows what its semantic IDs mean: items from their texts, and texts from their items.

Every item of the catalogue was trained on, so this measures what was memorised, and how consistently both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import CatalogueItem, ItemTask, ItemTexts, Part, Text
from trialign.generate.tasks import load_task
from trialign.generate.writer import write_texts
from trialign.runtime.seeding import numpy_generator

_INTERESTS = "interests_to_item"
_THROUGH = ("caption_to_item", "title_to_item")
"""By whose prompt interests are asked, the first of them that was trained."""
_SHOWN = 5


def grounding(ranker: GeneratorRanker, texts: ItemTexts, num_items: int) -> dict[str, Any]:
    """Return how well items are found by their texts, and texts written from their items, by tasks that were trained.

    Args:
        ranker: the generator.
        texts: of its items.
        num_items: how many items are asked about, drawn without regard to anything.

    Returns:
        `catalogue`, the number of items; `finds`: by task `items` asked about, `recall@1`, `recall@10` over the whole
        catalogue, and `ceiling@1`, `ceiling@10`, what nobody can pass because items share a text; `writes`: by task
        `items`, `exact`, `token_f1` and a few `examples` of (item, its text, what was written). Where interests are no
        task that was trained, `interests_to_item` asks by the prompt of the task named `through`, which never read one.
    """
    order = numpy_generator(0, "understanding").permutation(len(texts))

    def chosen(known_N: NDArray[np.bool_]) -> list[int]:
        found: list[int] = order[known_N[order]][:num_items].tolist()
        return found

    scored: dict[str, dict[str, Any]] = {"finds": {}, "writes": {}}
    for name in ranker.template.tasks:
        task = load_task(name)
        if not isinstance(task, ItemTask) or not task.evaluation or not (known_N := texts.known(*task.needs)).any():
            continue
        if task.evaluation == "finds":
            scored["finds"][name] = _find(ranker, name, partial(_asked, task, texts), known_N, chosen(known_N))
        else:
            scored["writes"][name] = _write(ranker, name, task, texts, chosen(known_N))
    through = next((name for name in _THROUGH if name in scored["finds"]), None)
    if through and _INTERESTS not in scored["finds"] and (known_N := texts.has("interests")).any():
        found = _find(ranker, through, partial(_interests, texts), known_N, chosen(known_N))
        scored["finds"][_INTERESTS] = found | {"through": through}
    return {"catalogue": len(texts), **scored}


def token_f1(written: str, truth: str) -> float:
    """Return the harmonic mean of precision and recall of words, each counted as often as it stands, case ignored."""
    one, other = Counter(written.lower().split()), Counter(truth.lower().split())
    shared = (one & other).total()
    return 2 * shared / (one.total() + other.total()) if shared else 0.0


def _asked(task: ItemTask, texts: ItemTexts, item: int) -> list[Part]:
    return task.parts(CatalogueItem(item, texts))[:-1]


def _interests(texts: ItemTexts, item: int) -> list[Part]:
    return [CatalogueItem(item, texts).text("interests")]


def _find(
    ranker: GeneratorRanker,
    task: str,
    asked: Callable[[int], list[Part]],
    known_N: NDArray[np.bool_],
    items: list[int],
) -> dict[str, Any]:
    prompts = [ranker.template.prompt(task, asked(item)) for item in items]
    places = min(10, ranker.num_beams)
    hits_IK = ranker.rank_prompts(prompts, places) == np.array(items)[:, None]
    # Nothing tells the items of one text apart: of n only K are among the first K.
    shared = Counter(_spelled(asked(item)) for item in np.flatnonzero(known_N).tolist())
    sharing_I = np.array([shared[_spelled(asked(item))] for item in items])
    figures: dict[str, Any] = {"items": len(items)}
    for k in (1, 10):
        figures[f"recall@{k}"] = float(hits_IK[:, :k].any(axis=1).mean())
        figures[f"ceiling@{k}"] = float(np.minimum(1.0, k / sharing_I).mean())
    return figures


def _spelled(parts: list[Part]) -> tuple[Any, ...]:
    return tuple(part.text if isinstance(part, Text) else tuple(part.items.tolist()) for part in parts)


def _write(ranker: GeneratorRanker, name: str, task: ItemTask, texts: ItemTexts, items: list[int]) -> dict[str, Any]:
    template = ranker.template
    rendered = [task.parts(CatalogueItem(item, texts)) for item in items]
    prompts = [template.prompt(name, parts[:-1]) for parts in rendered]
    answers = [parts[-1] for parts in rendered if isinstance(parts[-1], Text)]
    limit = template.max_tokens[answers[0].field]
    found = write_texts(ranker.generator, prompts, end=template.tokenizer.end, max_tokens=limit)
    written = [template.tokenizer.decode(tokens).strip() for tokens in found]
    # A longer text was learned as far as it is cut, and is compared so.
    truths = [template.tokenizer.decode(template.tokenizer.encode(answer.text)[:limit]).strip() for answer in answers]
    pairs = list(zip(written, truths, strict=True))
    return {
        "items": len(items),
        "exact": float(np.mean([one == other for one, other in pairs])),
        "token_f1": float(np.mean([token_f1(one, other) for one, other in pairs])),
        "examples": [[item, truth, text] for item, (text, truth) in zip(items[:_SHOWN], pairs, strict=False)],
    }
