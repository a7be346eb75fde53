"""Encode texts with a pretrained language model from transformers.

Shapes: B texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from trialign.config.embed import JointConfig, TransformersConfig
from trialign.embed.batches import Rows
from trialign.errors import ConfigError, transformers_loads
from trialign.runtime.device import device_of

TEXT = "{text}"
_BLOCK = 1024  # texts per call of the tokenizer


def mean_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over each text's own tokens."""
    mask_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)


def last_pool(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the vector of each text's last token; padding is on the right."""
    last_B = mask_BT.sum(dim=1) - 1
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B]


POOLINGS = {"last": last_pool, "mean": mean_pool}


def pooled(hidden_BTD: Tensor, mask_BT: Tensor, settings: TransformersConfig | JointConfig) -> NDArray[np.float32]:
    """Return the vectors that `settings.pooling` makes of the states, of length 1 where they are to be."""
    vectors_BD = POOLINGS[settings.pooling](hidden_BTD, mask_BT).float()
    if settings.normalize:
        vectors_BD = normalize(vectors_BD, dim=-1)
    found: NDArray[np.float32] = vectors_BD.cpu().numpy()
    return found


class TransformersText:
    """Encode texts with any model that `AutoModel` opens, in batches of similar length, longest first.

    Args:
        settings: of `embed/text=transformers`; the environment's offline switches are respected.

    Raises:
        ConfigError: the model cannot be loaded, or the template lacks the text.
    """

    def __init__(self, settings: TransformersConfig) -> None:
        if TEXT not in settings.template:
            raise ConfigError(
                f"embed.text.template={settings.template!r}",
                rule=f"a template says where the item's text goes, by {TEXT}",
                remedy=f"set embed.text.template='{TEXT}', or put {TEXT} into yours",
            )
        self.settings = settings
        self.device = device_of("auto")
        self._tokenizer, self._model = _load(settings.model, settings.dtype)
        self._model.to(self.device).eval()
        self.notes: list[str] = []

    @torch.inference_mode()
    def rows(self, texts: Sequence[str], *, skip: int) -> Iterator[Rows]:
        """Yield (items, vectors), longest texts first; an empty text has no vector.

        Args:
            texts: one per item.
            skip: texts to leave out at the beginning of that order.
        """
        items = np.array([item for item, text in enumerate(texts) if text], np.int64)
        lengths = self._lengths([text for text in texts if text])
        most, batch_size = self.settings.max_tokens, self.settings.batch_size
        if cut := int((lengths > most).sum()):
            self.notes = [f"{cut} of {len(items)} texts are longer than {most} tokens and were cut"]
        order = items[np.argsort(-lengths, kind="stable")]
        for start in range(skip, len(order), batch_size):
            batch = order[start : start + batch_size].tolist()
            yield batch, self._encode([texts[item] for item in batch])

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        lengths: list[int] = []
        for start in range(0, len(texts), _BLOCK):
            read = self._tokenizer([self._filled(text) for text in texts[start : start + _BLOCK]])
            lengths += map(len, read["input_ids"])
        return np.array(lengths, np.int64)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        filled = [self._filled(text) for text in texts]
        read = self._tokenizer(filled, truncation=True, max_length=self.settings.max_tokens)
        # Padded by hand: a decoder's tokenizer may have no padding token, and the mask hides the padding anyway.
        tokens_BT = pad_sequence([torch.tensor(ids) for ids in read["input_ids"]], batch_first=True)
        mask_BT = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in read["input_ids"]], batch_first=True)
        mask_BT = mask_BT.to(self.device)
        hidden_BTD = self._model(input_ids=tokens_BT.to(self.device), attention_mask=mask_BT).last_hidden_state
        return pooled(hidden_BTD, mask_BT, self.settings)

    def _filled(self, text: str) -> str:
        return self.settings.template.replace(TEXT, text)


def _load(model: str, dtype: str) -> tuple[Any, Any]:
    from trialign.runtime.transformers import AutoModel, AutoTokenizer

    rule = (
        "embed.text.model is a folder with config.json, weights and tokenizer, or a name on the hub that can be "
        "reached or is in its cache"
    )
    with transformers_loads(model, rule):
        tokenizer = AutoTokenizer.from_pretrained(model)
        # If a tokenizer's files are missing, transformers silently makes one with an empty vocabulary.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("its tokenizer has no vocabulary; tokenizer.json is missing or empty")
        found = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype))
    if found.config.is_encoder_decoder:
        found = found.get_encoder()
    return tokenizer, found
