"""Group `enrich`: evidence that is made, and the models that make it."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class ClipConfig:
    """The small CLIP: trained here on pairs of picture and text; `embed/image=clip` embeds by it."""

    pairs: str = option(
        "catalogue", "storefront: that world's pretraining corpus; catalogue: the items' own pictures and texts"
    )
    model: str = option("trialign-tiny", "a model config in trialign/enrich/clip/configs/, or a name open_clip knows")
    num_pairs: int = option(20000, "pairs to generate (storefront), or at most to take (catalogue)")
    held_out: float = option(0.1, "share of the pairs that tag accuracy is measured on, never trained on")
    num_epochs: int = option(6, "passes over the others")
    batch_size: int = option(64, "pairs per step")
    learning_rate: float = option(1e-3, "peak; linear rise over a tenth of the steps, cosine to zero")
    weight_decay: float = option(0.1, "AdamW")
    seed: int = option(0, "of weights, order and corpus")


@dataclass
class EnrichConfig:
    """What the stage makes; nothing unless something is asked of it."""

    clip: ClipConfig | None = option(None, "the small CLIP: enrich/clip=none, storefront or catalogue")
