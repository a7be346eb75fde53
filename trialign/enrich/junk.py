"""Give items of the storefront the interests of other items (`data.junk_share`), for a reward model to detect."""

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
    """Return the storefront that a prepared dataset was made from; None for any other source."""
    if prepared.setting("data._target_", str) != _STOREFRONT:
        return None
    from trialign.storefront import Storefront  # takes seconds to import

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
    """Return the items' interests, with those of the storefront's junk items replaced by another item's."""
    index = [int(key.rpartition("-")[2]) for key in keys]
    place = {item: row for row, item in enumerate(index)}
    donors = world.interests_from()[index].tolist()
    # If the other item is not in the catalogue (data.min_item_interactions), the item keeps its own interests.
    return [interests[place.get(donor, row)] for row, donor in enumerate(donors)]
