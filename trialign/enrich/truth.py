"""What the storefront's items really are, to judge captions and interests by; and its junk, to be told from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trialign.enrich.evidence import Caption, ItemInterests

if TYPE_CHECKING:
    from trialign.data.storefront import Storefront

_STOREFRONT = "trialign.data.storefront.Storefront"


def storefront_of(settings: Mapping[str, Any]) -> Storefront | None:
    """Return the world that a prepared dataset was made from, by its group `data`; None if it was another source."""
    if settings["_target_"] != _STOREFRONT:
        return None
    from trialign.data.storefront import Storefront  # seconds to import

    names = ("seed", "num_items", "num_users", "style_weight", "purpose_weight", "junk_share")
    # A dataset that was prepared before there was junk holds none.
    return Storefront(**{name: settings[name] for name in names if name in settings})


def with_junk(world: Storefront, keys: Sequence[str], interests: Sequence[ItemInterests]) -> list[ItemInterests]:
    """Return the interests that the items of this world carry, which may be those of others (`data.junk_share`)."""
    index = _index(keys)
    place = {item: row for row, item in enumerate(index)}
    donors = world.interests_from()[index].tolist()
    # One that left the catalogue (data.item_core) leaves an item with its own.
    return [interests[place.get(donor, row)] for row, donor in enumerate(donors)]


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
    """Return the share of items whose strongest interest is their purpose, and of all interests that are one."""
    purposes = [world.world.purposes[purpose][0] for purpose in world.attributes().purpose_N[_index(keys)]]
    told = [found.interests for found in interests]
    right = [purpose in names for purpose, names in zip(purposes, told, strict=True)]
    return {
        "purpose_accuracy": float(np.mean([names[:1] == (own,) for own, names in zip(purposes, told, strict=True)])),
        "purpose_precision": sum(right) / max(1, sum(map(len, told))),
    }


def _index(keys: Sequence[str]) -> list[int]:
    return [int(key.rpartition("-")[2]) for key in keys]
