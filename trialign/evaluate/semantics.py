"""What semantic IDs hold and what a generator understands of them, as named figures that runs are compared by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Figures = dict[str, float]

_LABELS = ("category", "style", "purpose", "caption", "interest")


def identifier_figures(quality: Mapping[str, Any]) -> Figures:
    """Return what a quality.json says of collisions before they are resolved, and of labels in prefixes.

    That is the adjusted mutual information of prefixes of one and two codes with the labels that items have.
    """
    found: Figures = {}
    if "collisions" in quality:
        found["collisions before"] = quality["collisions"]["before"]
    for name in _LABELS:
        if name in quality:
            prefixes = quality[name]["adjusted_mutual_information"]
            found |= {f"{name}, {n} code{'s' * (n > 1)}": prefixes[f"prefix_{n}"] for n in (1, 2)}
    return found


def grounding_figures(record: Mapping[str, Any]) -> Figures:
    """Return what a metrics.json says of unconstrained decoding and of grounding.

    Unconstrained decoding is left out where it is 0 by construction.
    """
    return dict([*_free(record.get("unconstrained_decoding")), *_told(record.get("grounding", {}))])


def _free(found: Mapping[str, Any] | None) -> Iterator[tuple[str, float]]:
    if found is None or found["by_construction"]:
        return
    yield from ((name.replace("_", " "), found[name]) for name in ("invalid_rate", "invalid_rate@10"))
    yield from ((f"illegal mass, level {level}", mass) for level, mass in enumerate(found["illegal_mass"], start=1))


def _told(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for task, figures in found.get("finds", {}).items():
        for k in (1, 10):
            yield f"{_words(task)} R@{k}", figures[f"recall@{k}"]
    for task, figures in found.get("writes", {}).items():
        yield f"{_words(task)} exact", figures["exact"]
        yield f"{_words(task)} F1", figures["token_f1"]


def _words(task: str) -> str:
    return task.replace("_to_", " to ")
