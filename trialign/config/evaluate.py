"""Groups `baselines`, `evaluate`, `report` and `recommend`."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.config.option import option


@dataclass
class ItemKNNConfig:
    """Nearness of items in the histories; the definition is in docs/evaluation.md."""

    window: int = option(
        10, "largest distance of a pair of events (each adds 1 / distance); also how many last items are read", least=1
    )
    decay: float = option(0.7, "weight of a history item per event of age", above=0, most=1)
    damping: float = option(0.5, "scores are divided by the popularity of the scored item to this power", least=0)


@dataclass
class SASRecConfig:
    """A causal transformer over items with full softmax cross-entropy, its items known by id and text."""

    text_dim: int = option(256, "width of the TF-IDF/SVD vectors in its item table; 0: item ids alone", least=0)
    dim: int = option(128, "width", least=1)
    num_layers: int = option(2, "transformer layers", least=1)
    num_heads: int = option(2, "attention heads", least=1)
    dropout: float = option(0.5, "on the input and on what every branch adds", least=0, below=1)
    max_history: int = option(50, "items that are read, the last ones", least=1)
    epochs: int = option(28, "passes over the train histories", least=1)
    batch_items: int = option(1024, "targets per step, about", least=1)
    learning_rate: float = option(1e-3, "peak, AdamW", above=0)
    weight_decay: float = option(0.0, "AdamW; not on norms, biases, embeddings", least=0)
    repeats: bool = option(True, "learn one bias on items of the history, as train.items.repeats")


@dataclass
class BaselinesConfig:
    """The baselines that are fitted, and how."""

    names: list[str] = option("${evaluate.baselines}", "baselines to fit")
    item_knn: ItemKNNConfig = field(default_factory=ItemKNNConfig)
    sasrec: SASRecConfig = field(default_factory=SASRecConfig)


@dataclass
class GroundingConfig:
    """How well semantic IDs are grounded: items from texts and texts from items (docs/evaluation.md)."""

    items: int = option(500, "items that are asked about, the same draw in every run; 0 leaves it out", least=0)


@dataclass
class EvaluateConfig:
    """What is ranked, by which search, and how intervals are drawn."""

    split: str = option("test", "the held-out targets that are ranked", choices=("validation", "test"))
    users: int | None = option(
        None, "rank a sample of so many users, the first in hash order; null: all of the split", least=1
    )
    generator: str = option(
        "train", "which generator: train, or rl; each in a run of its own (from.train=DIR)", choices=("train", "rl")
    )
    baselines: list[str] = option(["popularity", "item_to_item", "item_knn", "sasrec"], "rows next to the model")
    exclude_seen: bool = option(
        False, "filter items that the user chose before, however long ago; the other rule is always reported next to it"
    )
    num_beams: int = option(50, "beams of the constrained search, at least 50 for recall@50", least=50)
    unconstrained_users: int = option(
        2000, "users on whom decoding without the trie is measured; 0 leaves it out", least=0
    )
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    batch_size: int = option(64, "users per search", least=1, recorded=True)
    bootstrap_samples: int = option(2000, "resamples of users behind every interval", least=100)
    bootstrap_seed: int = option(0, "seed of the resampling")


@dataclass
class ReportConfig:
    """Which runs are compared."""

    runs: list[str] = option([], "directories of runs, or patterns of them; the others are compared with the first")
    split: str = option("test", "the split whose evaluations are compared", choices=("validation", "test"))


@dataclass
class RecommendConfig:
    """For whom items are recommended, and how many: one user, typed items, or as many users as there are."""

    user: str | None = option(None, "a user of the logs, as of its newest event")
    items: list[str] = option(
        [], "or a typed list of item keys, oldest first; keys are text as typed, in quotes with a comma inside"
    )
    k: int = option(10, "how many items to recommend", least=1)
    format: str = option("table", "table, or json: one object on stdout, messages on stderr", choices=("table", "json"))
    num_beams: int = option(50, "beams of the constrained search", least=1)
    exclude_seen: bool = option(True, "filter items that the user chose before, however long ago")
    users: str | None = option(
        None,
        "or many: all of the logs, or a file (Parquet, CSV, JSON lines) with a column user, and one of items where "
        "their histories are not those of the logs",
    )
    output: str = option("${run}/recommend", "folder of what is recommended to recommend.users", hashed=False)
    batch_size: int = option(64, "users of recommend.users per search", least=1)
    shards: int = option(1, "parts of recommend.users that are made by processes of their own", least=1)
    shard: int | None = option(None, "which of them this process makes, from 0; null: all that are missing", least=0)
    allowed: str | None = option(None, "a text file of the keys of items in stock, one a line; null: all are")
    blocked: str | None = option(None, "a text file of the keys of items that are not recommended, one a line")
