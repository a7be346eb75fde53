"""Groups `baselines`, `evaluate` and `recommend`."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.config.option import option


@dataclass
class ItemKNNConfig:
    """Nearness of items in the histories; the definition is in docs/evaluation.md."""

    window: int = option(
        10, "largest distance of a pair of events (each adds 1 / distance); also how many last items are read"
    )
    decay: float = option(0.7, "weight of a history item per event of age")
    damping: float = option(0.5, "scores are divided by the popularity of the scored item to this power")


@dataclass
class BaselinesConfig:
    names: list[str] = option([], "baselines to fit; follows evaluate.baselines")
    item_knn: ItemKNNConfig = field(default_factory=ItemKNNConfig)


@dataclass
class EvaluateConfig:
    split: str = option("test", "validation or test")
    baselines: list[str] = option(["popularity", "item_to_item", "item_knn"], "rows beside the model")
    exclude_seen: bool = option(False, "strike items of the history from every ranking")
    num_beams: int = option(50, "beams of the constrained search, at least 50 for recall@50")
    batch_size: int = option(64, "users per search", hashed=False)
    bootstrap_samples: int = option(2000, "resamples of users behind every interval")
    bootstrap_seed: int = option(0, "seed of the resampling")


@dataclass
class RecommendConfig:
    user: str | None = option(None, "a user of the logs; its whole history is used")
    items: list[str] = option([], "or a typed list of item ids, oldest first")
    k: int = option(10, "how many items to recommend")
    num_beams: int = option(50, "beams of the constrained search")
    exclude_seen: bool = option(True, "strike items of the history from the answer")
