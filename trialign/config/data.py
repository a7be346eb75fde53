"""Group `data`: where a catalogue and its events come from, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from trialign.config.option import option


@dataclass
class DataConfig:
    """What every source of data has."""

    _target_: str = MISSING
    split: str = option(
        "leave_one_out", "leave_one_out: a user's last event is the test target, the one before validation"
    )
    min_events: int = option(3, "users with fewer events are trained on, not evaluated (leave_one_out needs 3)")
    max_history: int = option(50, "items; a longer history becomes windows that overlap by half")
    block_records: int = option(1024, "records per block, the unit of shuffling and reading")
    shard_blocks: int = option(64, "blocks per shard file")
    images_per_shard: int = option(1000, "pictures per image shard")
    buckets: int = option(16, "user buckets of the prepared events, a power of 16")
    missing_items: str = option("refuse", "events of items without a catalogue entry: refuse, or drop (counted)")


@dataclass
class StorefrontConfig(DataConfig):
    """The built-in world (method.md 11)."""

    _target_: str = "trialign.data.storefront.Storefront"
    seed: int = option(0, "seed of the world: catalogue, pictures, users and their choices")
    num_items: int = option(2000, "items in the catalogue")
    num_users: int = option(6000, "users with a history")
    style_weight: float = option(1.0, "how much the style seen in pictures drives choice; 0 switches it off")
    purpose_weight: float = option(1.0, "how much the purpose of items drives choice; 0 switches it off")


@dataclass
class InterJsonConfig(DataConfig):
    """The inter.json / item.json pair of the LC-Rec and LETTER family; the order of a user's list is the only clock."""

    _target_: str = "trialign.data.sources.InterJson"
    root: str | None = option(
        "${oc.env:TRIALIGN_DATA,null}", "folder that holds the files; default $TRIALIGN_DATA", hashed=False
    )
    interactions: str = option(MISSING, "file below root: {user: [item, ...]}, oldest first")
    items: str = option(MISSING, "file below root: {item: {title, description, brand, categories}}")
