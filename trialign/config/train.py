"""Groups `train` and `stream`: the generator, its tasks, and the order of the rows it learns from."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.config.embed import MODALITIES
from trialign.config.option import option


@dataclass
class BackboneConfig:
    """What every backbone has; one of the three below is chosen."""

    dropout: float = option(0.1, "on input vectors, on what every branch adds, and before the heads", least=0, below=1)


@dataclass
class ScratchConfig(BackboneConfig):
    """A decoder language model with full attention and random weights; its tokenizer is trained on the catalog."""

    architecture: str = option("qwen3", "transformers model type", choices=("qwen3", "qwen2", "llama", "gpt2"))
    hidden_size: int = option(128, "width", least=1)
    num_layers: int = option(2, "decoder layers", least=1)
    num_heads: int = option(4, "attention heads (as many key-value heads)", least=1)
    intermediate_size: int = option(256, "width of the feed-forward layer", least=1)
    vocab_size: int = option(
        2000, "BPE tokens trained on the catalogue's text; fewer if the text yields fewer", least=256
    )


@dataclass
class ConfigFileConfig(BackboneConfig):
    """Random weights too, but everything about the model is in a transformers config file."""

    file: str = option("???", "a config.json of transformers, or the folder that holds one")
    vocab_size: int = option(
        2000, "BPE tokens trained on the catalogue's text; replaces the file's vocabulary", least=256
    )


@dataclass
class PretrainedConfig(BackboneConfig):
    """A language model with its weights and its tokenizer, by name or path."""

    model: str = option("???", "a folder with config.json, weights and tokenizer, or a name on the hub")
    dropout: float = option(0.0, "on input vectors, on what every branch adds, and before the heads", least=0, below=1)


@dataclass
class LoraConfig:
    """Low-rank adapters in a frozen pretrained backbone; merged into its weights when training ends."""

    rank: int = option(16, "of every update", least=1)
    alpha: float = option(32.0, "updates are scaled by alpha / rank", above=0)
    dropout: float = option(0.05, "on what the adapters read", least=0, below=1)
    targets: list[str] = option([], "linear layers by the last part of their name; empty: all of them")


@dataclass
class ValidationConfig:
    """How the held-out validation users are used while training; never the test users."""

    every: int = option(
        0, "optimizer steps between two validations, and one at the end; 0: train to the end unwatched", least=0
    )
    users: int = option(2000, "the first so many in hash order, a fair sample; 0: all of them", least=0)
    num_beams: int = option(20, "beams of the constrained search, at least 10", least=10)
    patience: int = option(
        0, "stop after so many validations in a row without a better NDCG@10; 0: never early", least=0
    )
    batch_size: int = option(64, "users per search", least=1, recorded=True)


@dataclass
class ItemsConfig:
    """How the generator reads and writes items (method.md 6)."""

    encoding: str = option(
        "tokens",
        "tokens: an item is L positions; position: one, scored by the trie's nodes",
        choices=("tokens", "position"),
    )
    id_embedding: bool = option(False, "position only: also a learned vector per item")
    features: list[str] = option(
        [], "position only: also these embeddings of the item, through a learned projection", choices=MODALITIES
    )
    joint_nodes: int = option(
        65536, "position only: one softmax over the deepest level with no more nodes; below it one per prefix", least=0
    )
    repeats: bool = option(True, "learn one bias on items of the history: whether users choose an item again")


@dataclass
class TasksConfig:
    """Weights of the tasks, 0 leaves one out. Sets: train/tasks=text3, text6, trialigngr8, history."""

    history_to_item: float = option(0.0, "1: semantic IDs of the history to the next one, at every position", least=0)
    title_to_item: float = option(0.0, "2: an item's title to its semantic ID", least=0)
    item_to_title: float = option(0.0, "3: an item's semantic ID to its title", least=0)
    history_to_title: float = option(
        0.0, "4: semantic IDs before a drawn position of a history to the title there", least=0
    )
    titles_to_item: float = option(0.0, "5: titles before a drawn position to the semantic ID there", least=0)
    titles_to_title: float = option(0.0, "6: titles before a drawn position to the title there", least=0)
    caption_to_item: float = option(0.0, "7: the caption of an item's picture to its semantic ID", least=0)
    caption_to_title: float = option(0.0, "8: the caption of an item's picture to its title", least=0)
    item_to_caption: float = option(0.0, "9: an item's semantic ID to its caption, for evaluation", least=0)

    def weights(self) -> dict[str, float]:
        """Return the weight of every task."""
        return {
            "history_to_item": self.history_to_item,
            "title_to_item": self.title_to_item,
            "item_to_title": self.item_to_title,
            "history_to_title": self.history_to_title,
            "titles_to_item": self.titles_to_item,
            "titles_to_title": self.titles_to_title,
            "caption_to_item": self.caption_to_item,
            "caption_to_title": self.caption_to_title,
            "item_to_caption": self.item_to_caption,
        }

    @property
    def enriched(self) -> list[str]:
        """The outputs of the enrich stage (`caption`, `interests`) that occur in the names of the trained tasks."""
        names = " ".join(name for name, weight in self.weights().items() if weight)
        return [field for field in ("caption", "interests") if field in names]


@dataclass
class TrainConfig:
    """The generator, its tasks, and how it learns."""

    backbone: BackboneConfig = option(
        BackboneConfig, "the language model: train/backbone=scratch, from_config or pretrained"
    )
    lora: LoraConfig | None = option(None, "adapters instead of full training: train/lora=none or lora")
    items: ItemsConfig = field(default_factory=ItemsConfig)
    tasks: TasksConfig = option(
        TasksConfig, "weights of the tasks: a set by train/tasks=NAME, single ones by train.tasks.TASK=WEIGHT"
    )
    mixture: str = option(
        "proportional",
        "share of a task: proportional (its examples times its weight), temperature (that to the power of "
        "1 / temperature), weights (its weight alone)",
        choices=("proportional", "temperature", "weights"),
    )
    temperature: float = option(1.0, "of train.mixture=temperature; the larger, the more equal the tasks", above=0)
    rl_holdout: float = option(
        0.0,
        "share of the positions of the histories that is not learned but left to `trialign rl`; still read",
        least=0,
        below=1,
    )
    epochs: float = option(8.0, "passes over the mixture of tasks; converted to steps and printed", above=0)
    steps: int | None = option(None, "optimizer steps; set, it overrides epochs", least=1)
    learning_rate: float = option(5e-3, "peak, AdamW", above=0)
    weight_decay: float = option(0.05, "AdamW; not on norms, biases, embeddings", least=0)
    betas: list[float] = option([0.9, 0.98], "AdamW", least=0, below=1)
    warmup: float = option(0.05, "share of the steps; cosine decay to zero after it", least=0, most=1)
    max_grad_norm: float = option(1.0, "larger gradients are scaled down to this norm; 0: never", least=0)
    precision: str = option(
        "32-true",
        "32-true, or bf16-mixed: products in bfloat16, weights and losses in float32",
        choices=("32-true", "bf16-mixed"),
    )
    max_title_tokens: int = option(32, "a longer title is cut; so are brands and categories", least=1)
    max_caption_tokens: int = option(64, "a longer caption is cut; so are descriptions and interests", least=1)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


@dataclass
class StreamConfig:
    """The exact, elastic stream (docs/method.md, Lanes)."""

    global_batch_size: int = option(
        8, "V, rows per global batch, fixed for a run; lowered to the examples there are, and said so", least=1
    )
    seq_len: int = option(
        256, "positions per packed row; long rows cost attention, short ones must hold a history", least=8
    )
    packing_buffer: int = option(256, "examples a lane packs at a time", least=1)
    workers: int = option(0, "DataLoader workers per rank; 0 reads where the training runs", least=0, hashed=False)
    prefetch: int = option(2, "optimizer steps that the workers read ahead", least=1, hashed=False)
    damaged: str = option(
        "stop",
        "at a damaged block: stop, or skip it (warned of, counted in the manifest)",
        choices=("stop", "skip"),
        recorded=True,
    )
    sample_log: bool = option(
        False, "write down which users every step was trained on (train/sample_log/)", hashed=False
    )
