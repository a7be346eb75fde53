"""Group `embed`: one vector per item and modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trialign.config.option import option


@dataclass
class TfidfConfig:
    """Builtin text encoder: TF-IDF and truncated SVD, fitted on the catalogue."""

    _target_: str = "trialign.embed.text.TfidfSvd"
    dim: int = option(256, "width of the text vectors; lowered to what the catalogue's rank allows, and said so")
    min_df: int = option(2, "a term must occur in this many items")


@dataclass
class OpenClipConfig:
    """Image tower of open_clip, from a model config; without a checkpoint its weights are random, from a seed."""

    _target_: str = "trialign.embed.image.OpenClipTower"
    model: str = option("trialign-tiny", "a model config in trialign/embed/open_clip/, or a name that open_clip knows")
    checkpoint: str | None = option(None, "weights to load; none: random, and the manifest says so")
    seed: int = option(0, "seed of random weights")
    batch_size: int = option(64, "pictures per forward pass", hashed=False)


@dataclass
class EmbedConfig:
    """Which modalities are embedded, each by an exchangeable encoder; null leaves a modality out."""

    text: Any = None
    image: Any = None
