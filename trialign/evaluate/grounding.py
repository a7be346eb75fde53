"""SID grounding probes: find items by their texts, and write texts of items, from a generator's semantic IDs.

Training saw every item of the catalogue, so this measures memorization and its consistency in both directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.evaluate.record import Found, Grounding, Written
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import CatalogueItem, ItemTask, ItemTexts, Part, Text
from trialign.generate.tasks import load_task
from trialign.generate.writer import write_texts
from trialign.runtime.seeding import numpy_generator

_INTERESTS = "interests_to_item"
_THROUGH = ("caption_to_item", "title_to_item")
"""By whose prompt interests are asked, the first of them that was trained."""
_SHOWN = 5


def grounding(ranker: GeneratorRanker, texts: ItemTexts, num_items: int) -> Grounding:
    """Return the metrics of finding items by their texts and writing texts of items, by task that was trained.

    Args:
        ranker: the generator.
        texts: of its items.
        num_items: size of the uniform random sample of items.

    Returns:
        The figures by task. If no trained task reads interests, `interests_to_item` uses the prompt of the task named
        in `through`, which was not trained on them.
    """
    order = numpy_generator(0, "understanding").permutation(len(texts))

    def chosen(known_N: NDArray[np.bool_]) -> list[int]:
        found: list[int] = order[known_N[order]][:num_items].tolist()
        return found

    scored = Grounding(len(texts), finds={}, writes={})
    for name in ranker.template.tasks:
        task = load_task(name)
        if not isinstance(task, ItemTask) or not task.evaluation or not (known_N := texts.known(*task.needs)).any():
            continue
        if task.evaluation == "finds":
            scored.finds[name] = _find(ranker, name, partial(_asked, task, texts), known_N, chosen(known_N))
        else:
            scored.writes[name] = _write(ranker, name, task, texts, chosen(known_N))
    through = next((name for name in _THROUGH if name in scored.finds), None)
    if through and _INTERESTS not in scored.finds and (known_N := texts.has("interests")).any():
        found = _find(ranker, through, partial(_interests, texts), known_N, chosen(known_N))
        scored.finds[_INTERESTS] = replace(found, through=through)
    return scored


def token_f1(written: str, truth: str) -> float:
    """Return the F1 of the words of two texts, with multiplicity and without case."""
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
) -> Found:
    prompts = [ranker.template.prompt(task, asked(item)) for item in items]
    places = min(10, ranker.num_beams)
    hits_IK = ranker.rank_prompts(prompts, places) == np.array(items)[:, None]
    # Items with equal texts cannot be told apart: of n such items only K fit into the top K.
    shared = Counter(_spelled(asked(item)) for item in np.flatnonzero(known_N).tolist())
    sharing_I = np.array([shared[_spelled(asked(item))] for item in items])
    return Found(
        items=len(items),
        recall_at_1=float(hits_IK[:, :1].any(axis=1).mean()),
        ceiling_at_1=float(np.minimum(1.0, 1 / sharing_I).mean()),
        recall_at_10=float(hits_IK.any(axis=1).mean()),
        ceiling_at_10=float(np.minimum(1.0, 10 / sharing_I).mean()),
    )


def _spelled(parts: list[Part]) -> tuple[Any, ...]:
    return tuple(part.text if isinstance(part, Text) else tuple(part.items.tolist()) for part in parts)


def _write(ranker: GeneratorRanker, name: str, task: ItemTask, texts: ItemTexts, items: list[int]) -> Written:
    template = ranker.template
    rendered = [task.parts(CatalogueItem(item, texts)) for item in items]
    prompts = [template.prompt(name, parts[:-1]) for parts in rendered]
    answers = [parts[-1] for parts in rendered if isinstance(parts[-1], Text)]
    limit = template.max_tokens[answers[0].field]
    found = write_texts(ranker.generator, prompts, end=template.tokenizer.end, max_tokens=limit)
    written = [template.tokenizer.decode(tokens).strip() for tokens in found]
    # Training cut longer texts, so the comparison cuts them too.
    truths = [template.tokenizer.decode(template.tokenizer.encode(answer.text)[:limit]).strip() for answer in answers]
    pairs = list(zip(written, truths, strict=True))
    return Written(
        items=len(items),
        exact=float(np.mean([one == other for one, other in pairs])),
        token_f1=float(np.mean([token_f1(one, other) for one, other in pairs])),
        examples=[(item, truth, text) for item, (text, truth) in zip(items[:_SHOWN], pairs, strict=False)],
    )
