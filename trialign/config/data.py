"""Group `data`: where a catalogue and its events come from, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from trialign.config.option import option


@dataclass
class DataConfig:
    """What every source of data has; of a class from outside, its further settings are attributes too."""

    _target_: str = MISSING
    split: str = option(
        "leave_one_out",
        "leave_one_out: a user's last event is the test target, the one before validation; last_n: the last n, the n "
        "before; temporal: all events after two global times; given: ready examples come with theirs",
        choices=("leave_one_out", "last_n", "temporal", "given"),
    )
    last_n: int = option(10, "targets per user of last_n", least=1)
    cut_times: list[int] | None = option(None, "the two times of temporal, in seconds; null: by cut_shares")
    cut_shares: list[float] = option(
        [0.8, 0.9], "shares of all events before the two times of temporal", above=0, below=1
    )
    min_eval_events: int = option(
        3, "users with fewer events are trained on, not evaluated (leave_one_out needs 3)", least=3
    )
    min_user_interactions: int = option(
        0, "users with fewer events leave the data, before the split; 0 keeps all", least=0
    )
    min_item_interactions: int = option(
        0, "items with fewer events leave log and catalogue; with min_user_interactions, until all have enough", least=0
    )
    core_rounds: int = option(
        100, "rounds of min_user_interactions and min_item_interactions before giving up", least=1
    )
    max_history: int = option(50, "items; a longer history becomes windows that overlap by half", least=2)
    block_records: int = option(1024, "records per block, the unit of shuffling and reading", least=1)
    shard_blocks: int = option(64, "blocks per shard file", least=1)
    images_per_shard: int = option(1000, "pictures per image shard", least=1)
    buckets: int = option(16, "user buckets of the prepared events, a power of 16", choices=(1, 16, 256, 4096, 65536))
    missing_items: str = option(
        "refuse", "events of items without a catalogue entry: refuse, or drop (counted)", choices=("refuse", "drop")
    )
    repeated_events: str = option(
        "drop",
        "events of one user, item and time (and tie) after the first: drop, keep or refuse; counted",
        choices=("drop", "keep", "refuse"),
    )
    max_bad_events: float = option(
        0.001,
        "share of the events that may be left out, counted: without user, item or order, or of an impossible time;"
        " more are refused, and 0 refuses any",
        least=0,
        most=1,
    )
    broken_images: str = option(
        "refuse",
        "pictures that cannot be decoded or are too large: refuse, or drop (counted)",
        choices=("refuse", "drop"),
    )
    read_html: bool = option(False, "read texts of the catalogue as HTML (counted); false: they are kept as they are")
    max_pixels: int = option(
        50_000_000, "width x height of a picture; read from its header, before anything is decoded", least=1
    )
    memory: str = option("2GB", "limit of the tables that prepare computes; the rest spills to disk", hashed=False)
    threads: int | None = option(None, "threads of these tables; null: one per core", least=1, hashed=False)
    engine: str = option(
        "duckdb",
        "where the log is checked, cored and spread: duckdb, or spark (pyspark, Java)",
        choices=("duckdb", "spark"),
        hashed=False,
    )


@dataclass
class StorefrontConfig(DataConfig):
    """The built-in shop with rendered pictures, whose best possible recommender is known (method.md 11)."""

    _target_: str = "trialign.storefront.Storefront"
    seed: int = option(0, "seed of the world: catalogue, pictures, users and their choices")
    num_items: int = option(2000, "items in the catalogue", least=16)
    num_users: int = option(6000, "users with a history", least=1)
    style_weight: float = option(1.0, "how much the style seen in pictures drives choice; 0 switches it off", least=0)
    purpose_weight: float = option(1.0, "how much the purpose of items drives choice; 0 switches it off", least=0)
    junk_share: float = option(
        0.0,
        "share of the items whose mined interests are junk: those of another item, half of them of its category",
        least=0,
        most=1,
    )


@dataclass
class InterJsonConfig(DataConfig):
    """Your own inter.json and item.json in the form of LC-Rec and LETTER; a user's list is in order of time."""

    _target_: str = "trialign.data.sources.InterJson"
    root: str | None = option(
        "${oc.env:TRIALIGN_DATA,null}", "folder that holds the files; default $TRIALIGN_DATA", hashed=False
    )
    interactions: str = option(MISSING, "file below root: {user: [item, ...]}, oldest first")
    items: str = option(MISSING, "file below root: {item: {title, description, brand, categories}}")


@dataclass
class ItemColumns:
    """Columns of a catalogue; null: the column of that name, where the file has one. Lists are put together."""

    item: str | None = option(None, "key of an item")
    title: Any = option(None, "title; several columns are joined line by line")
    description: Any = option(None, "description; several columns are joined line by line")
    brand: str | None = option(None, "brand")
    categories: str | None = option(None, "categories, a list or one text")
    image: str | None = option(None, "name of the picture; null and no such column: pictures are named as their items")
    caption: str | None = option(None, "caption, in data.captions where that is set")


@dataclass
class FilesConfig(DataConfig):
    """A catalogue in files, for whoever brings events or examples next to it."""

    root: str | None = option(
        "${oc.env:TRIALIGN_DATA,null}", "folder that holds the files; default $TRIALIGN_DATA", hashed=False
    )
    format: str | None = option(
        None,
        "of events or examples; null: by suffix, also of the catalogue",
        choices=("parquet", "csv", "tsv", "jsonl", "recbole"),
    )
    delimiter: str = option(",", "one character between the values of CSV files of events or examples")
    items_delimiter: str | None = option(None, "the same in CSV files of the catalogue; null: as delimiter")
    quotes: bool = option(True, "quotes around a value of CSV or TSV are no part of it; false: they are text")
    items: Any = option(MISSING, "catalogue: a path, folder or pattern below root, or a list of them")
    item_columns: ItemColumns = field(default_factory=ItemColumns)
    category_separator: str = option(",", "what joins categories in a text")
    captions: Any = option(None, "files of captions; null: the catalogue's column, where it has one")
    caption_after: str | None = option(None, "a caption is what follows this mark in its text; null: all of it")
    images: Any = option(None, "pictures: folders and tar files (WebDataset's too) below root; null: none")


@dataclass
class EventColumns:
    """Columns of the events."""

    user: str = option("user", "key of a user")
    item: str = option("item", "key of an item")
    time: str | None = option(None, "when it happened; or give a rank")
    rank: str | None = option(None, "place in the user's list, where there is no time")
    tie: str | None = option(None, "whole numbers that decide between events of one user and time")


@dataclass
class TablesConfig(FilesConfig):
    """Your own events in Parquet, CSV, TSV, JSON lines or RecBole's .inter, next to a catalog (docs/data.md)."""

    _target_: str = "trialign.data.sources.Tables"
    events: Any = option(MISSING, "a path, folder or pattern below root, or a list of them")
    columns: EventColumns = field(default_factory=EventColumns)
    time_unit: str = option(
        "s",
        "of times: s, ms, us, ns (since 1970) or iso (text); a column of timestamps needs none",
        choices=("s", "ms", "us", "ns", "iso"),
    )


@dataclass
class ExampleColumns:
    """Columns of ready examples."""

    user: str = option("user_id", "key of a user")
    items: str = option("item_id_list", "what the user had chosen, oldest first")
    target: str = option("item_id", "what came next")


@dataclass
class ExamplesConfig(FilesConfig):
    """Ready examples with a given split, one set of files per split, next to a catalog (docs/data.md)."""

    _target_: str = "trialign.data.sources.Examples"
    split: str = option("given", "the split that the files are")
    train: Any = option(MISSING, "a path, folder or pattern below root, or a list of them")
    validation: Any = option(MISSING, "the same")
    test: Any = option(MISSING, "the same")
    columns: ExampleColumns = field(default_factory=ExampleColumns)
    item_separator: str = option(" ", "what joins the items of a history in a text")
