"""Compare captions and interests with the true styles and purposes of a generated dataset, for evaluation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trialign.enrich.evidence import Caption, ItemInterests

Truth = Mapping[str, Sequence[str | None]]


def judge_captions(truth: Truth, captions: Sequence[Caption]) -> dict[str, float]:
    """Return the share of captions that name exactly their item's style: of all items, and of those that show a style.

    Empty if no styles are known.
    """
    if "style" not in truth:
        return {}
    names = sorted({style for style in truth["style"] if style is not None})
    named = [[name for name in names if name in found.caption] for found in captions]
    right_N = np.array([own == [style] for own, style in zip(named, truth["style"], strict=True)])
    shown_N = np.array([style is not None for style in truth["style"]])
    return {"style_accuracy": float(right_N.mean()), "style_accuracy_of_pictures": float(right_N[shown_N].mean())}


def judge_interests(truth: Truth, interests: Sequence[ItemInterests]) -> dict[str, float]:
    """Return the share of items whose strongest interest is their purpose, and of interests that are the purpose.

    Empty if no purposes are known.
    """
    if "purpose" not in truth:
        return {}
    pairs = list(zip(truth["purpose"], (found.interests for found in interests), strict=True))
    return {
        "purpose_accuracy": float(np.mean([names[:1] == (own,) for own, names in pairs])),
        "purpose_precision": sum(own in names for own, names in pairs) / max(1, sum(len(names) for _, names in pairs)),
    }
