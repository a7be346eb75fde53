"""What the storefront's items really are, to judge captions and interests by; never to make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialign.data.storefront import Storefront
from trialign.enrich.evidence import Caption, ItemInterests

_STOREFRONT = "trialign.data.storefront.Storefront"


def storefront_of(settings: Mapping[str, Any]) -> Storefront | None:
    """Return the world that a prepared dataset was made from, by its group `data`; None if it was another source."""
    if settings["_target_"] != _STOREFRONT:
        return None
    names = ("seed", "num_items", "num_users", "style_weight", "purpose_weight")
    return Storefront(**{name: settings[name] for name in names})


def judge_captions(world: Storefront, keys: Sequence[str], captions: Sequence[Caption]) -> dict[str, float]:
    """Return the share of captions that name their item's style and no other: of all items, and of those pictured."""
    truth, index = world.attributes(), _index(keys)
    names = [style.name for style in world.world.styles]
    named = [[name for name in names if name in found.caption] for found in captions]
    right_N = np.array([own == [names[style]] for own, style in zip(named, truth.style_N[index], strict=True)])
    return {
        "style_accuracy": float(right_N.mean()),
        "style_accuracy_of_pictures": float(right_N[truth.pictured_N[index]].mean()),
    }


def judge_interests(world: Storefront, keys: Sequence[str], interests: Sequence[ItemInterests]) -> dict[str, float]:
    """Return the share of items whose strongest interest is their purpose: over all origins, and of each origin."""
    purposes = [world.world.purposes[purpose][0] for purpose in world.attributes().purpose_N[_index(keys)]]
    report = {"purpose_accuracy": _first_right(purposes, [found.interests for found in interests])}
    for origin in sorted({origin for found in interests for origin in found.origins}):
        told = [
            [name for name, own in zip(found.interests, found.origins, strict=True) if own == origin]
            for found in interests
        ]
        report[f"purpose_accuracy_by_{origin.replace('-', '_')}"] = _first_right(purposes, told)
    return report


def _first_right(purposes: Sequence[str], told: Sequence[Sequence[str]]) -> float:
    return float(np.mean([list(names[:1]) == [purpose] for purpose, names in zip(purposes, told, strict=True)]))


def _index(keys: Sequence[str]) -> list[int]:
    return [int(key.rpartition("-")[2]) for key in keys]
