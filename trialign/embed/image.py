"""The image tower of an open_clip model."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import trialign.runtime.torchvision_fault  # noqa: F401  (before open_clip)
from trialign.embed.store import Modality
from trialign.errors import ConfigError, DataError, suggest
from trialign.runtime.seeding import derive

_MODELS = Path(__file__).with_name("open_clip")
_WITH_WEIGHTS = ("hf-hub:", "local-dir:")


class OpenClipTower:
    """Pictures to vectors by the image half of a CLIP model.

    Without weights the tower is a fixed random projection of patches: colours stay linearly readable from it, patterns
    partly (together that is the storefront's style), objects do not. `notes` then says so.

    Args:
        model: a file of trialign/embed/open_clip/, a name open_clip knows, or `local-dir:PATH` / `hf-hub:NAME`, which
            bring their own weights.
        checkpoint: a file of weights or a tag open_clip knows; None for random weights.
        seed: of random weights.
        batch_size: pictures per forward pass.

    Raises:
        ConfigError: no such model.
    """

    def __init__(self, model: str, checkpoint: str | None, seed: int, batch_size: int) -> None:
        import open_clip  # seconds to import: only for those who embed pictures

        open_clip.add_model_config(_MODELS)
        logging.getLogger().addFilter(_is_not_said_below)
        if not model.startswith(_WITH_WEIGHTS) and model not in open_clip.list_models():
            raise ConfigError(
                f"embed.image.model={model}",
                rule="the model is one that open_clip can build",
                remedy=suggest(model, open_clip.list_models()),
            )
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "embed", "image"))
            tower, _, self._preprocess = open_clip.create_model_and_transforms(model, pretrained=checkpoint)
        self._tower = tower.to(self.device).eval()
        self.notes: list[str] = []
        if checkpoint is None and not model.startswith(_WITH_WEIGHTS):
            self.notes.append(f"the image tower {model} has random weights (seed {seed}); no checkpoint was named")

    @torch.inference_mode()
    def encode(self, images: Iterable[tuple[int, bytes]], item_keys: Sequence[str]) -> Modality:
        """Return the vector of every item that has a picture.

        Args:
            images: (item, encoded picture), in any order.
            item_keys: the catalogue's key of each item.

        Raises:
            DataError: a picture cannot be decoded.
        """
        present_N = np.zeros(len(item_keys), bool)
        vectors_ND: np.ndarray[Any, np.dtype[np.float32]] | None = None
        remaining = iter(images)
        while batch := list(islice(remaining, self.batch_size)):
            pixels = torch.stack([self._preprocess(_decode(picture, item_keys[item])) for item, picture in batch])
            vectors_BD = self._tower.encode_image(pixels.to(self.device)).float().cpu().numpy()
            if vectors_ND is None:
                vectors_ND = np.zeros((len(item_keys), vectors_BD.shape[1]), np.float32)
            items = [item for item, _ in batch]
            vectors_ND[items], present_N[items] = vectors_BD, True
        if vectors_ND is None:
            raise DataError(
                "the catalogue has no picture",
                rule="an image modality needs items with pictures",
                remedy="leave it out with embed/image=none",
            )
        return Modality(vectors_ND, present_N)


def _is_not_said_below(record: logging.LogRecord) -> bool:
    """Drop open_clip's warning of random weights; `notes` says the same, with the seed."""
    return "No pretrained weights loaded" not in record.getMessage()


def _decode(picture: bytes, key: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(picture)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(
            f"the picture of item {key!r} cannot be decoded ({len(picture)} bytes): {cause}",
            rule="pictures are whole files of a format Pillow reads",
            remedy="replace or remove that file; an item without a picture is legal",
        ) from cause
