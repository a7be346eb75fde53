"""Group `reward`: the trained judge of mined interests."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.config.enrich import AnnotatorConfig, BackendConfig, EndpointBackendConfig, TransformersBackendConfig
from trialign.config.option import option
from trialign.config.train import LoraConfig


@dataclass
class TinyRewardConfig:
    """A small bidirectional encoder from scratch."""

    hidden_size: int = option(64, "width", least=1)
    num_layers: int = option(2, "layers", least=1)
    num_heads: int = option(2, "attention heads", least=1)
    dropout: float = option(0.1, "on states", least=0, below=1)
    vocab_size: int = option(2000, "BPE tokens trained on texts and interests", least=256)
    num_pairs: int = option(
        0,
        "descriptions of the storefront's pretraining corpus that it learns from first, as a language model has read",
        least=0,
    )


@dataclass
class AnnotatorJudgeConfig(AnnotatorConfig):
    """How a judge is asked: about an item's own interests and planted ones, 0 or 1 each."""

    max_failure_rate: float = option(
        0.05, "share of items that may stay without a usable reply; more stop the stage", least=0, most=1
    )


@dataclass
class TransformersJudgeConfig(AnnotatorJudgeConfig, TransformersBackendConfig):
    """A judge by any causal language model of transformers, e.g. Qwen/Qwen2.5-7B-Instruct."""


@dataclass
class EndpointJudgeConfig(AnnotatorJudgeConfig, EndpointBackendConfig):
    """A judge by a server of OpenAI-compatible chat completions."""


@dataclass
class RewardConfig:
    """A binary classifier of (item, interest), labeled by own interests against those of others, or by a judge."""

    judge: BackendConfig | None = option(
        None, "a model that labels the pairs: reward/judge=none, transformers or endpoint"
    )
    cache: str = option("${run}/replies", "folder of all replies of the judge, kept for good", hashed=False)
    model: str | None = option(None, "an encoder or decoder of transformers by name or path; null: reward.tiny")
    lora: LoraConfig | None = option(None, "adapters in a named model: reward/lora=none or lora")
    tiny: TinyRewardConfig = field(default_factory=TinyRewardConfig)
    max_tokens: int = option(96, "of interest and item together; a longer item is cut", least=1)
    held_out: float = option(
        0.2, "share of the items that the figures are of; as many more calibrate", above=0, below=0.5
    )
    epochs: int = option(6, "passes over the pairs of the other items", least=1)
    batch_size: int = option(64, "pairs per step", least=1)
    learning_rate: float = option(1e-3, "peak, AdamW; a named model wants 2e-5", above=0)
    weight_decay: float = option(0.05, "AdamW; not on norms, biases, embeddings", least=0)
