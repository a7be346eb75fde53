"""Encode an item's picture and text together with a pretrained vision-language model from transformers.

Shapes: B items, T tokens, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trialign.config.embed import JointConfig
from trialign.embed.batches import Rows
from trialign.embed.transformer import TEXT, pooled
from trialign.enrich.clip.pictures import decode
from trialign.errors import ConfigError, DataError, transformers_loads
from trialign.runtime.device import device_of

PICTURE = "{image}"
_BLOCK = 1024  # texts per call of the tokenizer


class TransformersJoint:
    """Encode items with a model of the Qwen-VL family, which reads an item's picture and text in one sequence.

    An item that has only a picture or only a text is encoded by it. Special tokens in an item's text are removed, so
    that a title cannot insert another picture.

    Args:
        settings: of `embed/joint=transformers`; the environment's offline switches are respected.

    Raises:
        ConfigError: the model cannot be loaded, or the template lacks picture or text.
    """

    def __init__(self, settings: JointConfig) -> None:
        if PICTURE not in settings.template or TEXT not in settings.template:
            raise ConfigError(
                f"embed.joint.template={settings.template!r}",
                rule=f"a template says where picture and text go, by {PICTURE} and {TEXT}",
                remedy=f"set embed.joint.template='{PICTURE}{TEXT}', or put both into yours",
            )
        self.settings = settings
        self.device = device_of("auto")
        self._processor, self._model = _load(settings.model, settings.dtype)
        self._model.to(self.device).eval()
        self._picture = f"<|vision_start|>{self._processor.image_token}<|vision_end|>"
        self.notes: list[str] = []

    @torch.inference_mode()
    def rows(
        self, images: Iterable[tuple[int, bytes]], texts: Sequence[str], item_keys: Sequence[str], *, skip: int
    ) -> Iterator[Rows]:
        """Yield (items, vectors): items with a picture in the order of the pictures, then the others, longest first.

        An item with neither picture nor text has no vector.

        Args:
            images: (item, encoded picture).
            texts: one per item.
            item_keys: the catalogue's key of each item.
            skip: items to leave out at the beginning of that order.

        Raises:
            DataError: a picture cannot be decoded or read by the model.
        """
        texts = self._prepared(texts)
        remaining = islice(in_order(images, texts), skip, None)
        while batch := list(islice(remaining, self.settings.batch_size)):
            items = [item for item, _ in batch]
            pictures = [None if data is None else self._scaled(decode(data, item_keys[item])) for item, data in batch]
            try:
                vectors_BD = self._encode([texts[item] for item in items], pictures)
            except ValueError as cause:
                raise DataError(
                    f"the model cannot read one of the items {', '.join(item_keys[item] for item in items)}: {cause}",
                    rule="pictures have a shape that the model's processor takes",
                    remedy="find it with embed.joint.batch_size=1, and replace or remove that picture",
                ) from cause
            yield items, vectors_BD

    def _prepared(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without special tokens, cut to the maximum length; note how many were cut."""
        tokenizer = self._processor.tokenizer
        special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, special)))
        plain = [pattern.sub(" ", text).strip() for text in texts]
        num_cut, most = 0, self.settings.max_tokens
        for start in range(0, len(plain), _BLOCK):
            block = plain[start : start + _BLOCK]
            read = tokenizer(block, add_special_tokens=False, return_offsets_mapping=True)
            for place, offsets in enumerate(read["offset_mapping"], start=start):
                if len(offsets) > most:
                    plain[place] = plain[place][: offsets[most - 1][1]]
                    num_cut += 1
        if num_cut:
            told = sum(map(bool, plain))
            self.notes = [f"{num_cut} of {told} texts are longer than {most} tokens and were cut"]
        return plain

    def _scaled(self, picture: Image.Image) -> Image.Image:
        shrink = math.sqrt(self.settings.max_pixels / (picture.width * picture.height))
        if shrink >= 1.0:
            return picture
        return picture.resize((max(1, int(picture.width * shrink)), max(1, int(picture.height * shrink))))

    def _encode(self, texts: Sequence[str], pictures: Sequence[Image.Image | None]) -> NDArray[np.float32]:
        filled = [
            self.settings.template.replace(PICTURE, self._picture if picture else "").replace(TEXT, text)
            for text, picture in zip(texts, pictures, strict=True)
        ]
        shown = [picture for picture in pictures if picture]
        given = self._processor(text=filled, images=shown or None, padding=True, return_tensors="pt").to(self.device)
        hidden_BTD = self._model(**given).last_hidden_state
        return pooled(hidden_BTD, given["attention_mask"], self.settings)


def in_order(images: Iterable[tuple[int, bytes]], texts: Sequence[str]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (item, picture or None): items with pictures in the pictures' order, then others, longest text first."""
    pictured = set()

    def with_picture() -> Iterator[tuple[int, bytes | None]]:
        for item, data in images:
            pictured.add(item)
            yield item, data

    def without() -> Iterator[tuple[int, bytes | None]]:
        rest = [item for item, text in enumerate(texts) if text and item not in pictured]
        yield from ((item, None) for item in sorted(rest, key=lambda item: -len(texts[item])))

    return chain(with_picture(), without())


def _load(model: str, dtype: str) -> tuple[Any, Any]:
    from trialign.runtime.transformers import AutoModel, AutoProcessor

    rule = (
        "embed.joint.model is a vision-language model of the Qwen-VL kind: a folder with config.json, weights and "
        "processor, or a name on the hub that can be reached or is in its cache"
    )
    with transformers_loads(model, rule):
        processor = AutoProcessor.from_pretrained(model)
        if not hasattr(processor, "image_token"):
            raise ValueError("its processor does not put pictures into a text")
        found = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype))
    # The last token of each text is found by its length.
    processor.tokenizer.padding_side = "right"
    return processor, found
