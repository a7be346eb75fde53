"""The image tower of an open_clip model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch

from trialign.config.embed import OpenClipConfig
from trialign.embed.batches import Rows
from trialign.enrich.clip.model import brings_weights, build
from trialign.enrich.clip.pictures import decode
from trialign.runtime.device import device_of


class OpenClipTower:
    """Encode pictures with the image tower of a CLIP model.

    Without weights the tower is a fixed random projection of patches. Colors can be read from it linearly, patterns
    partly (together they are the storefront's style), objects not. `notes` reports this.

    Args:
        settings: of `embed/image=open_clip`; a model `local-dir:PATH` or `hf-hub:NAME` brings its own weights.

    Raises:
        ConfigError: no such model, or its weights cannot be loaded.
    """

    def __init__(self, settings: OpenClipConfig) -> None:
        model, checkpoint, seed = settings.model, settings.checkpoint, settings.seed
        self.batch_size = settings.batch_size
        self.device = device_of("auto")
        tower, self._preprocess = build(model, checkpoint, seed, "embed.image")
        self._tower = tower.to(self.device).eval()
        self.notes: list[str] = []
        if not brings_weights(model, checkpoint):
            self.notes.append(f"the image tower {model} has random weights (seed {seed}); no checkpoint was named")

    @torch.inference_mode()
    def rows(self, images: Iterable[tuple[int, bytes]], item_keys: Sequence[str], *, skip: int) -> Iterator[Rows]:
        """Yield (items, vectors) in the order of the pictures.

        Args:
            images: (item, encoded picture).
            item_keys: the catalogue's key of each item.
            skip: pictures to leave out at the beginning.

        Raises:
            DataError: a picture cannot be decoded.
        """
        remaining = islice(images, skip, None)
        while batch := list(islice(remaining, self.batch_size)):
            pixels = torch.stack([self._preprocess(decode(picture, item_keys[item])) for item, picture in batch])
            vectors_BD = self._tower.encode_image(pixels.to(self.device)).float().cpu().numpy()
            yield [item for item, _ in batch], vectors_BD
