"""Group `rl`: reinforcement learning of the generator on what supervised training held out, and its control."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.config.option import option
from trialign.config.train import LoraConfig


@dataclass
class WatchConfig:
    """Validation while the policy learns, the start included; never the test users."""

    every: int = option(25, "optimizer steps between two validations, and one at the end", least=1)
    users: int = option(1000, "the first so many in hash order, a fair sample; 0: all of them", least=0)
    num_beams: int = option(50, "beams of the constrained search; Recall@50 is a stopping guard", least=50)
    patience: int = option(
        0, "stop after so many validations in a row without a better NDCG@10; 0: never early", least=0
    )
    batch_size: int = option(64, "users per search", least=1, recorded=True)


@dataclass
class StoppingGuardsConfig:
    """What ends the training; the best weights so far are kept."""

    recall_drop: float = option(
        0.1, "Recall@50 on validation falls by more than this share of its start", least=0, most=1
    )
    entropy_share: float = option(0.2, "entropy of the policy falls below this share of its start", least=0, most=1)
    kl: float = option(2.0, "divergence from the reference, nats per item, rises above this", above=0)
    zero_variance: float = option(
        0.99, "share of drawn groups whose rewards are all equal rises above this", least=0, most=1
    )


@dataclass
class RLConfig:
    """Group-relative policy optimization (GRPO) from the trained generator, or supervised training continued."""

    objective: str = option(
        "grpo",
        "grpo; or sft, the control: supervised training continues with the held-out positions (rows as `stream`)",
        choices=("grpo", "sft"),
    )
    rewards: dict[str, float] = option(
        {"hit": 1.0, "prefix": 0.5, "quality_exact": 0.0, "quality_item": 0.0, "rank": 0.0},
        "rewards and their weights; a quality_ one needs the reward stage",
    )
    sampler: str = option(
        "distinct",
        "distinct: rollouts drawn without replacement; beams: the most probable items",
        choices=("distinct", "beams"),
    )
    group_size: int = option(8, "rollouts per prompt", least=2)
    prompts_per_step: int = option(32, "prompts per optimizer step; a multiple of devices x micro_batch_size", least=1)
    num_iterations: int = option(2, "optimizer steps that share the same rollouts", least=1)
    steps: int = option(300, "optimizer steps", least=1)
    clip_ratio: float = option(0.2, "how far the ratio of probabilities may move from 1", above=0)
    kl_coef: float = option(1e-3, "weight of the divergence from the reference", least=0)
    scale_rewards: bool = option(True, "divide advantages by the standard deviation of their group")
    reference: str | None = option(None, "a finished train or rl folder; null: the generator that training starts from")
    lora: LoraConfig | None = option(None, "adapters instead of full training: rl/lora=none or lora")
    learning_rate: float = option(1e-5, "peak, AdamW; small models from scratch want more, e.g. 3e-4", above=0)
    weight_decay: float = option(0.0, "AdamW; not on norms, biases, embeddings", least=0)
    betas: list[float] = option([0.9, 0.98], "AdamW", least=0, below=1)
    warmup: float = option(0.05, "share of the steps; cosine decay to zero after it", least=0, most=1)
    max_grad_norm: float = option(1.0, "larger gradients are scaled down to this norm; 0: never", least=0)
    validation: WatchConfig = field(default_factory=WatchConfig)
    stopping_guards: StoppingGuardsConfig = field(default_factory=StoppingGuardsConfig)
