"""Interests at the wrong items, as the storefront deals them out (`data.junk_share`), for a reward model to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialign.config.data import StorefrontConfig
from trialign.enrich.evidence import ItemInterests

if TYPE_CHECKING:
    from trialign.storefront import Storefront

_STOREFRONT = "trialign.storefront.Storefront"


def storefront_of(settings: Mapping[str, Any]) -> Storefront | None:
    """Return the world that a prepared dataset was made from, by its group `data`; None if it was another source."""
    if settings["_target_"] != _STOREFRONT:
        return None
    from trialign.storefront import Storefront  # seconds to import

    return Storefront(
        StorefrontConfig(
            seed=settings["seed"],
            num_items=settings["num_items"],
            num_users=settings["num_users"],
            style_weight=settings["style_weight"],
            purpose_weight=settings["purpose_weight"],
            junk_share=settings["junk_share"],
        )
    )


def with_junk(world: Storefront, keys: Sequence[str], interests: Sequence[ItemInterests]) -> list[ItemInterests]:
    """Return the interests that the items of this world carry, which may be those of others."""
    index = [int(key.rpartition("-")[2]) for key in keys]
    place = {item: row for row, item in enumerate(index)}
    donors = world.interests_from()[index].tolist()
    # One that left the catalogue (data.min_item_interactions) leaves an item with its own.
    return [interests[place.get(donor, row)] for row, donor in enumerate(donors)]
