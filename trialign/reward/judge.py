"""Label interests by a language model as judge: is this interest good for this item, 0 or 1 (method.md 8)?

The judge labels the pairs of `builtin_labels`, in which negatives are planted among an item's own interests, one
question per item. So a judge that calls everything good is detected. Replies are parsed strictly and cached; failures
are counted by cause.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from trialign.config.reward import AnnotatorJudgeConfig
from trialign.enrich.asking import Annotator
from trialign.enrich.bare import bare_json, read_json
from trialign.enrich.cache import ReplyCache
from trialign.enrich.protocol import Backend, Failure, Request
from trialign.enrich.templates import judge_prompt, template_hash
from trialign.errors import DataError, StageError
from trialign.foreign import Json
from trialign.reward.labels import KINDS, Labels
from trialign.runtime.seeding import numpy_generator

TEMPLATE = "judge"
Verdicts = tuple[bool, ...]


def parse_verdicts(text: str) -> Verdicts | Failure:
    """Read a reply: a JSON list of the numbers 0 and 1, alone or as `bare_json` finds it.

    Returns:
        The verdicts; or a failure: `empty`, `not_json`, `wrong_shape`.
    """
    if not text.strip():
        return Failure("empty")
    try:
        found = read_json(text)
    except ValueError:
        return Failure("not_json", text[:200])
    # True equals 1 in Python, but the judge must reply with numbers.
    if not isinstance(found, list) or not all(type(one) is int and one in (0, 1) for one in found):
        return Failure("wrong_shape", text[:200])
    return tuple(map(bool, found))


def judged_labels(
    labels: Labels,
    evidence: Sequence[Mapping[str, str]],
    backend: Backend,
    cache: ReplyCache,
    settings: AnnotatorJudgeConfig,
    *,
    seed: int,
) -> tuple[Labels, dict[str, Json]]:
    """Return the pairs with the judge's labels instead of the constructed ones, and counts.

    Args:
        labels: the pairs of `builtin_labels`.
        evidence: title, description and caption of every item.
        backend: the judge.
        cache: cached replies.
        settings: how it is asked; the pairs of items that stay without a usable reply are left out.
        seed: of the order of an item's phrases.

    Raises:
        StageError: too many items stay without a usable reply; all replies are kept.
        DataError: the judge does not distinguish an item's own interests from planted ones.
    """
    asked_about = _phrases(labels, seed)

    def questions(items: Collection[int]) -> Iterator[tuple[int, Request]]:
        for item in sorted(items):
            yield item, Request(judge_prompt(evidence[item], asked_about[item]))

    annotator: Annotator[Verdicts] = Annotator(
        what="judge",
        group="reward",
        backend=backend,
        questions=questions,
        read=parse_verdicts,
        bare=bare_json,
        prompt_hash=template_hash(TEMPLATE),
        settings=settings,
    )
    asked = annotator.ask(list(asked_about), cache)
    verdicts: dict[tuple[int, str], bool] = {}
    for item, phrases in asked_about.items():
        answer = asked.answers[item]
        if not isinstance(answer, Failure) and len(answer) != len(phrases):
            asked.answers[item] = answer = Failure("wrong_number", f"{len(answer)} for {len(phrases)}")
        if not isinstance(answer, Failure):
            verdicts |= {(item, phrase): good for phrase, good in zip(phrases, answer, strict=True)}
    counts = asked.counts()
    if (missing := len(asked_about) - counts["found"]) > settings.max_failure_rate * len(asked_about):
        causes = ", ".join(f"{cause} {number}" for cause, number in counts["failures"].items())
        raise StageError(
            f"{missing} of {len(asked_about)} items have no usable reply from {backend.source}: {causes}",
            rule=f"reward.judge.max_failure_rate={settings.max_failure_rate} of them may stay without one",
            remedy="see what it says in the cache of replies; raise reward.judge.retries, or name another model",
        )
    rows = [row for row, pair in enumerate(_pairs(labels)) if pair in verdicts]
    good_M = np.array([verdicts[pair] for pair in _pairs(labels) if pair in verdicts])
    found = Labels(labels.items_M[rows], [labels.interests[row] for row in rows], good_M, labels.kinds_M[rows])
    shares = {name: float(good_M[found.kinds_M == kind].mean()) for kind, name in enumerate(KINDS)}
    _check(shares, backend.source)
    return found, counts | {"called_good": shares}


def _phrases(labels: Labels, seed: int) -> dict[int, list[str]]:
    """Return every item's distinct phrases, shuffled so that the order does not reveal its own."""
    found: dict[int, list[str]] = {}
    for item, phrase in dict.fromkeys(_pairs(labels)):
        found.setdefault(item, []).append(phrase)
    draws = numpy_generator(seed, "judge order")
    return {item: [phrases[place] for place in draws.permutation(len(phrases))] for item, phrases in found.items()}


def _pairs(labels: Labels) -> list[tuple[int, str]]:
    return list(zip(labels.items_M.tolist(), labels.interests, strict=True))


def _check(shares: Mapping[str, float], source: str) -> None:
    planted = max(shares["far"], shares["generic"])
    if not shares["own"] > planted:
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        raise DataError(
            f"{source} calls good: {told}",
            rule="a judge calls an item's own interests good more often than those of unlike items, or phrases that "
            "fit everything",
            remedy="name another model with reward.judge.model, or leave the judge out (reward/judge=none)",
        )
