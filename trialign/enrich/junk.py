"""Interests at the wrong items, as the storefront deals them out (`data.junk_share`), for a reward model to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trialign.config.data import StorefrontConfig
from trialign.enrich.evidence import ItemInterests
from trialign.manifest import Manifest

if TYPE_CHECKING:
    from trialign.storefront import Storefront

_STOREFRONT = "trialign.storefront.Storefront"


def storefront_of(prepared: Manifest) -> Storefront | None:
    """Return the world that a prepared dataset was made from, None if it was another source."""
    if prepared.setting("data._target_", str) != _STOREFRONT:
        return None
    from trialign.storefront import Storefront  # seconds to import

    return Storefront(
        StorefrontConfig(
            seed=prepared.setting("data.seed", int),
            num_items=prepared.setting("data.num_items", int),
            num_users=prepared.setting("data.num_users", int),
            style_weight=prepared.setting("data.style_weight", float),
            purpose_weight=prepared.setting("data.purpose_weight", float),
            junk_share=prepared.setting("data.junk_share", float),
        )
    )


def with_junk(world: Storefront, keys: Sequence[str], interests: Sequence[ItemInterests]) -> list[ItemInterests]:
    """Return the interests that the items of this world carry, which may be those of others."""
    index = [int(key.rpartition("-")[2]) for key in keys]
    place = {item: row for row, item in enumerate(index)}
    donors = world.interests_from()[index].tolist()
    # One that left the catalogue (data.min_item_interactions) leaves an item with its own.
    return [interests[place.get(donor, row)] for row, donor in enumerate(donors)]
