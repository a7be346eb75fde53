"""The image tower of an open_clip model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch

from trialign.embed.batches import Rows
from trialign.enrich.clip.model import brings_weights, build
from trialign.enrich.clip.pictures import decode
from trialign.runtime.device import device_of


class OpenClipTower:
    """Pictures to vectors by the image half of a CLIP model.

    Without weights the tower is a fixed random projection of patches: colours stay linearly readable from it, patterns
    partly (together that is the storefront's style), objects do not. `notes` then says so.

    Args:
        model: a file of trialign/enrich/clip/configs/, a name open_clip knows, or `local-dir:PATH` / `hf-hub:NAME`,
            which bring their own weights.
        checkpoint: a file of weights or a tag open_clip knows; None for random weights.
        seed: of random weights.
        batch_size: pictures per forward pass.

    Raises:
        ConfigError: no such model, or its weights cannot be loaded.
    """

    def __init__(self, model: str, checkpoint: str | None, seed: int, batch_size: int) -> None:
        self.batch_size = batch_size
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
