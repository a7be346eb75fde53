"""The storefront: a built-in shop whose users choose by a stated function, so that the best possible result is known.

Every item has a category (its title says it), a style (only its picture shows it) and a purpose (its description hints
at it); see method.md 11. `world` holds parameters and attributes, `wording` the texts, `pictures` the pictures, `taste`
the choices, `corpus` what a pretrained model may know beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trialign.config.data import StorefrontConfig
from trialign.data.source import RawData
from trialign.progress import tracked
from trialign.runtime.seeding import numpy_generator
from trialign.storefront.pictures import paint
from trialign.storefront.taste import ExactOracle, Taste, draw_histories, draw_lengths, taste_of
from trialign.storefront.wording import Wording, write_items
from trialign.storefront.world import Attributes, Flags, Integers, World, draw_attributes, frozen_world

ITEMS_SCHEMA = pa.schema(
    {
        "item": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
    }
)
EVENTS_SCHEMA = pa.schema({"user": pa.string(), "item": pa.string(), "order": pa.int64()})


class Storefront:
    """A generated source of data; see `trialign.data.source.Source`.

    Catalogue, pictures and users draw from streams of their own: another number of users changes neither the catalogue
    nor what the first users choose.

    Args:
        settings: the group `data`. Histories never cover more than half of the catalog; `junk_share` is of the items,
            whose interests `interests_from` takes from others, and choices do not depend on it.
    """

    def __init__(self, settings: StorefrontConfig) -> None:
        self.world = frozen_world()
        self.settings = settings

    def sources(self) -> dict[str, Path]:
        """Return {}: nothing is read from outside."""
        return {}

    def load(self, folder: Path) -> RawData:
        """Make the world, write events.parquet, items.jsonl and images/ under `folder`, and hand it over."""
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        attributes, taste = self.attributes(), self.taste()
        keys = [f"item-{index:07d}" for index in range(self.settings.num_items)]
        items = _item_table(keys, write_items(self.world, attributes, self.settings.seed))
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items.to_pylist()))
        events = _event_table(keys, self.histories(taste))
        pq.write_table(events, folder / "events.parquet")
        files = {int(index): images / f"{keys[index]}.jpg" for index in np.flatnonzero(attributes.pictured_N)}
        for index, file in tracked(files.items(), "pictures drawn"):
            draws = numpy_generator(self.settings.seed, "storefront", "picture", index)
            file.write_bytes(paint(self.world.styles[attributes.style_N[index]], draws))

        def pictures() -> Iterator[tuple[str, bytes]]:
            for index, file in files.items():
                yield keys[index], file.read_bytes()

        return RawData(
            events=ibis.memtable(events),
            items=items,
            images=pictures,
            has_clock=False,
            oracle=ExactOracle(taste, keys),
            truth=_truth_table(self.world, keys, attributes),
        )

    def attributes(self) -> Attributes:
        """Return the true attributes of the items, which the catalogue shows in part; never for training."""
        return draw_attributes(self.world, self.settings.num_items, self.settings.seed)

    def interests_from(self) -> Integers:
        """Return the item whose interests each item carries: itself, or, where they are junk, one of another purpose.

        Half of the junk comes from the item's own category, so that it looks like what belongs there.
        """
        settings, truth = self.settings, self.attributes()
        draws = numpy_generator(settings.seed, "storefront", "junk interests")
        from_N = np.arange(settings.num_items)
        chance_N, places_N = draws.random(settings.num_items), draws.random(settings.num_items)
        for item in np.flatnonzero(chance_N < settings.junk_share):
            other_N = truth.purpose_N != truth.purpose_N[item]
            near_N = other_N & (truth.category_N == truth.category_N[item])
            inside = chance_N[item] < settings.junk_share / 2 and near_N.any()
            if len(donors := np.flatnonzero(near_N if inside else other_N)):
                from_N[item] = donors[int(places_N[item] * len(donors))]
        return from_N

    def taste(self) -> Taste:
        """Return the choice function of this storefront's users."""
        return taste_of(self.world, self.attributes(), self.settings)

    def histories(self, taste: Taste) -> list[Integers]:
        """Return the item indices that each user chose, in order."""
        settings = self.settings

        def draw(name: str) -> np.random.Generator:
            return numpy_generator(settings.seed, "storefront", "users", name)

        lengths_U = draw_lengths(self.world, settings.num_users, settings.num_items, draw("lengths"))
        chance_UT = draw("choices").random((settings.num_users, int(self.world.history["longest"])))
        return draw_histories(taste, lengths_U, chance_UT)


def _item_table(keys: list[str], wordings: list[Wording]) -> pa.Table:
    rows = [{"item": key} | asdict(wording) for key, wording in zip(keys, wordings, strict=True)]
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


def _truth_table(world: World, keys: list[str], attributes: Attributes) -> pa.Table:
    """Return category, style and purpose of every item, null where no evidence shows them."""

    def column(names: Sequence[str], values_N: Integers, evident_N: Flags) -> list[str | None]:
        return [names[value] if evident else None for value, evident in zip(values_N, evident_N, strict=True)]

    nouns, styles = [noun for _, noun in world.categories], [style.name for style in world.styles]
    purposes = [name for name, _ in world.purposes]
    columns = {
        "item": keys,
        "category": column(nouns, attributes.category_N, attributes.readable_N),
        "style": column(styles, attributes.style_N, attributes.pictured_N),
        "purpose": column(purposes, attributes.purpose_N, np.ones(len(keys), np.bool_)),
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _event_table(keys: list[str], histories: list[Integers]) -> pa.Table:
    lengths = [len(history) for history in histories]
    users = np.repeat([f"user-{number:07d}" for number in range(len(histories))], lengths)
    items = np.asarray(keys)[np.concatenate(histories)]
    order = np.concatenate([np.arange(length) for length in lengths])
    return pa.table([users, items, order], schema=EVENTS_SCHEMA)
