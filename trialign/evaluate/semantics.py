"""Metrics of semantic IDs and of grounding as named figures, to compare runs."""

from __future__ import annotations

from collections.abc import Iterator

from trialign.evaluate.record import Details, Figures, Grounding, UnconstrainedDecoding
from trialign.semid.record import Quality


def identifier_figures(quality: Quality | None) -> Figures:
    """Return the figures of a quality.json: collisions before they are resolved, and agreement of prefixes with labels.

    Agreement is the adjusted mutual information of prefixes of one and two codes with the items' labels.
    """
    if quality is None:
        return {}
    found = {"collisions before": quality.collisions.before}
    for name, told in quality.agreements().items():
        if told is not quality.category_path:
            prefixes = told.adjusted_mutual_information
            found |= {f"{name}, {n} code{'s' * (n > 1)}": prefixes[f"prefix_{n}"] for n in (1, 2)}
    return found


def grounding_figures(details: Details) -> Figures:
    """Return the figures of a metrics.json: unconstrained decoding and grounding.

    Unconstrained decoding is left out where it is 0 by construction.
    """
    return dict([*_free(details.unconstrained_decoding), *_told(details.grounding)])


def _free(found: UnconstrainedDecoding | None) -> Iterator[tuple[str, float]]:
    if found is None or found.by_construction:
        return
    yield "invalid rate", found.invalid_rate
    yield "invalid rate@10", found.invalid_rate_at_10
    yield from ((f"illegal mass, level {level}", mass) for level, mass in enumerate(found.illegal_mass, start=1))


def _told(grounding: Grounding | None) -> Iterator[tuple[str, float]]:
    if grounding is None:
        return
    for task, found in grounding.finds.items():
        yield f"{_words(task)} R@1", found.recall_at_1
        yield f"{_words(task)} R@10", found.recall_at_10
    for task, written in grounding.writes.items():
        yield f"{_words(task)} exact", written.exact
        yield f"{_words(task)} F1", written.token_f1


def _words(task: str) -> str:
    return task.replace("_to_", " to ")
