"""Make the captions and interests of a catalogue with the configured method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trialign.config.enrich import AnnotatorCaptionsConfig, AnnotatorInterestsConfig, BackendConfig, annotator_of
from trialign.config.instantiate import create
from trialign.data.dataset import Dataset
from trialign.enrich.asking import AnnotationResult, Annotator, Part
from trialign.enrich.bare import bare_json
from trialign.enrich.cache import ReplyCache
from trialign.enrich.captions import NO_PICTURE, TEMPLATE, caption_questions, parse_caption
from trialign.enrich.evidence import Caption, ItemInterests
from trialign.enrich.interests import NO_EVIDENCE, evidence_of, interest_questions, parse_interests
from trialign.enrich.templates import template_hash

Counts = dict[str, Any]


def make_captions(
    settings: BackendConfig, dataset: Dataset, clip: Path | None, replies: Callable[[], ReplyCache], part: Part
) -> tuple[list[Caption], Counts]:
    """Make a caption for every item; return them with counts for the manifest.

    Args:
        settings: group `enrich/captions`.
        dataset: the catalogue.
        clip: folder of the small CLIP, where there is one.
        replies: opens the cache.
        part: which items a model is asked about; others have no caption.

    Raises:
        TrialignError: as the backend says.
    """
    backend = create(settings, "enrich.captions", AnnotatorCaptionsConfig)
    asking = annotator_of(settings, AnnotatorCaptionsConfig)
    if asking is None:
        captions: list[Caption] = backend.captions(dataset, clip)
        causes = Counter(found.failure for found in captions if found.failure)
        return captions, {"found": sum(bool(found.caption) for found in captions), "failures": dict(causes)}
    has_image = dataset.items["has_image"].to_pylist()
    annotator = Annotator(
        what="captions",
        backend=backend,
        questions=lambda items: caption_questions(dataset, items),
        read=parse_caption,
        prompt_hash=template_hash(TEMPLATE),
        max_side=asking.max_side,
        settings=asking,
    )
    asked = _ask(annotator, [item for item in range(dataset.num_items) if has_image[item]], replies, part)

    def caption(item: int) -> Caption:
        answer = asked.answers.get(item)
        if isinstance(answer, str):
            return Caption(answer, backend.source)
        return Caption(failure=NO_PICTURE if answer is None else answer.cause)

    return [caption(item) for item in range(dataset.num_items)], _counted(asked, NO_PICTURE, has_image, part)


def make_interests(
    settings: BackendConfig,
    dataset: Dataset,
    captions: Sequence[str],
    replies: Callable[[], ReplyCache],
    part: Part,
    *,
    storefront: bool,
) -> tuple[list[ItemInterests], Counts]:
    """Make the interests of every item; return them with counts for the manifest.

    Args:
        settings: group `enrich/interests`.
        dataset: the catalogue.
        captions: one per item, or none at all.
        replies: opens the cache.
        part: which items a model is asked about; others have no interests.
        storefront: whether the catalogue is the storefront's.

    Raises:
        TrialignError: as the backend says.
    """
    backend = create(settings, "enrich.interests", AnnotatorInterestsConfig)
    asking = annotator_of(settings, AnnotatorInterestsConfig)
    if asking is None:
        interests: list[ItemInterests] = backend.interests(dataset, captions, storefront=storefront)
        causes = Counter(found.failure for found in interests if found.failure)
        return interests, {"found": sum(bool(found.interests) for found in interests), "failures": dict(causes)}
    variant, most = asking.variant, asking.max_interests
    evidence, num_cut = _cut(evidence_of(dataset, captions), asking.max_characters)
    annotator = Annotator(
        what="interests",
        backend=backend,
        questions=lambda items: interest_questions(evidence, items, variant, most),
        read=lambda text: parse_interests(text, variant, most),
        bare=bare_json,
        prompt_hash=template_hash(f"interests_{variant}"),
        settings=asking,
    )
    told = [bool(found) for found in evidence]
    asked = _ask(annotator, [item for item in range(dataset.num_items) if told[item]], replies, part)

    def interest(item: int) -> ItemInterests:
        answer = asked.answers.get(item)
        if isinstance(answer, ItemInterests):
            return replace(answer, source=backend.source)
        return ItemInterests(failure=NO_EVIDENCE if answer is None else answer.cause)

    counts = _counted(asked, NO_EVIDENCE, told, part)
    return [interest(item) for item in range(dataset.num_items)], counts | {"cut": num_cut}


def _ask(
    annotator: Annotator[Any], items: Sequence[int], replies: Callable[[], ReplyCache], part: Part
) -> AnnotationResult[Any]:
    cache = replies()
    try:
        return annotator.ask([item for item in items if item in part], cache)
    finally:
        cache.close()


def _counted(asked: AnnotationResult[Any], cause: str, has_evidence: Sequence[bool], part: Part) -> Counts:
    counts = asked.counts()
    without = sum(not has for item, has in enumerate(has_evidence) if item in part)
    if without:
        counts["failures"] = {cause: without} | counts["failures"]
    return counts


def _cut(evidence: Sequence[Mapping[str, str]], most: int) -> tuple[list[dict[str, str]], int]:
    """Cut the texts of the evidence to a number of characters; return them and the number of items cut."""
    cut = [{name: text[:most] for name, text in own.items()} for own in evidence]
    return cut, sum(own != whole for own, whole in zip(cut, evidence, strict=True))
