"""Prompt a model for interests and parse its replies strictly: a malformed reply is a failure and is not repaired."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trialign.data.dataset import Dataset
from trialign.enrich.bare import read_json
from trialign.enrich.evidence import DESCRIPTION, ItemInterests
from trialign.enrich.protocol import Failure, Request
from trialign.enrich.templates import interests_prompt
from trialign.enrich.words import is_foreign, is_marked_up

NO_EVIDENCE = "no_evidence"
_LONGEST = 120  # characters of one interest


def evidence_of(dataset: Dataset, captions: Sequence[str]) -> list[dict[str, str]]:
    """Return the title, description and caption of each item, without empty ones."""
    columns = {name: dataset.items[name].to_pylist() for name in ("title", "description")}
    columns["caption"] = list(captions) or [""] * dataset.num_items
    rows = zip(*columns.values(), strict=True)
    return [{name: text for name, text in zip(columns, row, strict=True) if text.strip()} for row in rows]


def interest_questions(
    evidence: Sequence[Mapping[str, str]], items: Collection[int], variant: str, max_interests: int
) -> Iterator[tuple[int, Request]]:
    """Yield the request for interests of each of `items`, all of which have evidence."""
    for item in sorted(items):
        yield item, Request(interests_prompt(variant, evidence[item], max_interests))


def parse_interests(text: str, variant: str, max_interests: int) -> ItemInterests | Failure:
    """Parse a reply as interests, or return the failure that makes it unusable.

    Args:
        text: the reply; what is around its JSON is left out, see `bare_json`.
        variant: `direct`, a list of `{"interest", "confidence"}`; `cot`, that list next to a `reasoning`.
        max_interests: more are a failure.

    Returns:
        The interests, without their source; or a failure: `empty`, `not_json`, `wrong_shape`, `too_many`,
        `confidence_range`, `duplicate`, `too_long`, `markup`, `other_language`.
    """
    if not text.strip():
        return Failure("empty")
    try:
        found = read_json(text)
    except ValueError:
        return Failure("not_json", text[:200])
    reasoning = ""
    if variant == "cot":
        if not isinstance(found, dict) or set(found) != {"reasoning", "interests"} or not _is_text(found["reasoning"]):
            return Failure("wrong_shape", text[:200])
        reasoning, found = found["reasoning"], found["interests"]
    return _judge(found, reasoning, max_interests)


def _judge(found: Any, reasoning: str, max_interests: int) -> ItemInterests | Failure:
    if not isinstance(found, list) or not all(_is_interest(one) for one in found):
        return Failure("wrong_shape", str(type(found).__name__))
    if not found:
        return Failure("empty")
    if len(found) > max_interests:
        return Failure("too_many", str(len(found)))
    if not all(0 <= one["confidence"] <= 1 for one in found):
        return Failure("confidence_range")
    found = sorted(found, key=lambda one: -one["confidence"])
    texts = [" ".join(one["interest"].split()) for one in found]
    if len({text.casefold() for text in texts}) < len(texts):
        return Failure("duplicate")
    if any(len(text) > _LONGEST for text in texts):
        return Failure("too_long", f"{max(map(len, texts))} characters")
    if any(map(is_marked_up, texts)):
        return Failure("markup", next(filter(is_marked_up, texts))[:200])
    if is_foreign(" ".join(texts)):
        return Failure("other_language", texts[0][:200])
    confidences, origins = tuple(float(one["confidence"]) for one in found), (DESCRIPTION,) * len(found)
    return ItemInterests(tuple(texts), confidences, origins, reasoning=reasoning)


def _is_interest(one: Any) -> bool:
    if not isinstance(one, dict) or set(one) != {"interest", "confidence"}:
        return False
    # True is an int to Python, not a confidence.
    number = isinstance(one["confidence"], int | float) and not isinstance(one["confidence"], bool)
    return (
        number and _is_text(one["interest"]) and bool(text := " ".join(one["interest"].split())) and text.isprintable()
    )


def _is_text(value: Any) -> bool:
    # A lone surrogate is legal JSON, but cannot be written as UTF-8.
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
