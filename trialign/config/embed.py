"""Group `embed`: one vector per item and modality."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from trialign.config.enrich import DTYPES
from trialign.config.option import option


@dataclass
class EncoderConfig:
    """What every encoder has; of a class from outside, its settings are attributes too."""

    _target_: str = MISSING

    def files(self) -> dict[str, str | None]:
        """Return the names or paths of the encoder's model files: `model` and `checkpoint`, None where it has none."""
        return {name: vars(self).get(name) for name in ("model", "checkpoint")}


@dataclass
class TfidfConfig(EncoderConfig):
    """Builtin text encoder: TF-IDF and truncated SVD, fitted on the catalogue."""

    _target_: str = "trialign.embed.text.TfidfSvd"
    dim: int = option(
        256, "width of the text vectors; lowered to what the catalogue's rank allows, and said so", least=1
    )
    min_df: int = option(
        2, "a term must occur in this many items; 1 where fewer than two terms do, and said so", least=1
    )


@dataclass
class TransformersConfig(EncoderConfig):
    """A pretrained language model as text encoder, by name or path."""

    _target_: str = "trialign.embed.transformer.TransformersText"
    model: str = option("Qwen/Qwen3-Embedding-0.6B", "a name on the hub, or a folder with model and tokenizer")
    pooling: str = option(
        "last", "last: the last token's vector (decoders); mean: over all tokens (encoders)", choices=("last", "mean")
    )
    template: str = option("{text}", "what the model reads; an instruction goes around {text}")
    max_tokens: int = option(512, "longer texts are cut, and counted", least=1)
    dtype: str = option("float32", "of the weights", choices=DTYPES)
    normalize: bool = option(True, "bring vectors to length 1")
    batch_size: int = option(32, "texts per forward pass", least=1, recorded=True)


@dataclass
class SentenceConfig(EncoderConfig):
    """A pretrained encoder of the extra trialign[sentence-transformers], by name or path."""

    _target_: str = "trialign.embed.sentence.SentenceText"
    model: str = option("sentence-transformers/all-MiniLM-L6-v2", "a name on the hub, or a folder")
    prompt: str | None = option(None, "put before each text; null: the model's default")
    max_tokens: int | None = option(None, "longer texts are cut; null: the model's own limit", least=1)
    batch_size: int = option(32, "texts per forward pass", least=1, recorded=True)


@dataclass
class OpenClipConfig(EncoderConfig):
    """Image tower of open_clip, from a model config; without a checkpoint its weights are random, from a seed."""

    _target_: str = "trialign.embed.image.OpenClipTower"
    model: str = option(
        "trialign-tiny",
        "a file of trialign/enrich/clip/configs/, a name open_clip knows, local-dir:PATH, hf-hub:NAME, or enrich.clip",
    )
    checkpoint: str | None = option(None, "weights to load; none: random, and the manifest says so")
    seed: int = option(0, "seed of random weights")
    batch_size: int = option(64, "pictures per forward pass", least=1, recorded=True)


@dataclass
class PpmiConfig(EncoderConfig):
    """Collaborative vectors: PPMI and truncated SVD of what is near each other in train histories."""

    _target_: str = "trialign.embed.collaborative.PpmiSvd"
    dim: int = option(128, "width of the vectors; lowered to what the histories allow, and said so", least=1)
    window: int = option(5, "places; items at most so far apart co-occur, with weight 1 / places", least=1)
    smoothing: float = option(
        0.75, "exponent of the context's frequency; below 1 rare contexts count less", above=0, most=1
    )
    text_prior: float = option(
        0.0,
        "events that the mean of an item's ten nearest in text is worth next to its own; 0: text plays no part",
        least=0,
    )


@dataclass
class JointConfig(EncoderConfig):
    """A pretrained vision-language model that reads picture and text together, by name or path."""

    _target_: str = "trialign.embed.joint.TransformersJoint"
    model: str = option("Qwen/Qwen3-VL-Embedding-2B", "a name on the hub, or a folder with model and processor")
    pooling: str = option(
        "last",
        "last: the last token's vector; mean: over all tokens, those of the picture too",
        choices=("last", "mean"),
    )
    template: str = option(
        "<|im_start|>system\nRepresent the product.<|im_end|>\n<|im_start|>user\n{image}{text}<|im_end|>\n"
        "<|im_start|>assistant\n",
        "what the model reads: {image} is the picture, nothing where an item has none; an instruction goes around both",
    )
    max_tokens: int = option(512, "longer texts are cut, and counted; the picture does not count", least=1)
    max_pixels: int = option(262144, "larger pictures are scaled down to so many pixels", least=1)
    dtype: str = option("float32", "of the weights", choices=DTYPES)
    normalize: bool = option(True, "bring vectors to length 1")
    batch_size: int = option(16, "items per forward pass", least=1, recorded=True)


@dataclass
class OpenClipJointConfig(EncoderConfig):
    """The sum of picture and text vectors of a trained CLIP, by default the small one (set enrich/clip too)."""

    _target_: str = "trialign.embed.joint_clip.OpenClipJoint"
    model: str = option("enrich.clip", "enrich.clip, a name open_clip knows, local-dir:PATH or hf-hub:NAME")
    checkpoint: str | None = option(None, "weights to load, where the model does not bring its own")
    batch_size: int = option(64, "items per forward pass", least=1, recorded=True)


MODALITIES = ("text", "image", "joint", "collaborative")
"""Fields of EmbedConfig that hold an encoder, in the order they are embedded."""


@dataclass
class EmbedConfig:
    """Which modalities are embedded, each by an exchangeable encoder; null leaves a modality out."""

    text: EncoderConfig | None = option(
        None, "the item's text: embed/text=none, tfidf, transformers or sentence_transformers"
    )
    image: EncoderConfig | None = option(None, "the item's picture: embed/image=none, open_clip or clip")
    joint: EncoderConfig | None = option(None, "picture and text together: embed/joint=none, transformers or clip")
    collaborative: EncoderConfig | None = option(
        None, "what is chosen together: embed/collaborative=none, ppmi or ppmi_and_text"
    )
    evidence: list[str] = option(
        ["title", "description", "brand", "categories"],
        "what an item's text is made of, a line each",
        choices=("title", "description", "brand", "categories", "caption", "interests"),
    )
    interests: bool = option(
        False, "embed each interest too, by the text encoder: quantize.interest_weight is measured against these"
    )
    min_probability: float = option(
        0.0,
        "interests that the reward stage gives a smaller probability of being good are left out; 0 keeps all",
        least=0,
        below=1,
    )

    def encoders(self) -> dict[str, EncoderConfig]:
        """Return the settings of each modality that is embedded, in the order of MODALITIES."""
        found = {"text": self.text, "image": self.image, "joint": self.joint, "collaborative": self.collaborative}
        return {name: settings for name, settings in found.items() if settings is not None}
