"""The reward model: a binary classifier of item and interest on a language-model encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from trialign.config.reward import TinyRewardConfig
from trialign.config.train import LoraConfig
from trialign.errors import ConfigError
from trialign.generate.adapters import add_adapters
from trialign.generate.tokenizer import TextTokenizer
from trialign.runtime.seeding import derive
from trialign.runtime.transformers import AutoConfig, AutoModel, AutoTokenizer

_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)


class Pairs(NamedTuple):
    """Tokens of some pairs, the interest first, padded on the right.

    `tokens_BT`: int64. `real_BT`: bool, not padding. `interest_BT`: bool, tokens of the interest; the item follows it.
    """

    tokens_BT: torch.Tensor
    real_BT: torch.Tensor
    interest_BT: torch.Tensor


class Reader:
    """Encodes pairs of texts as tokens, the interest first, so that only a long item is cut.

    Args:
        encode: text to tokens.
        separator: between interest and item.
        max_tokens: of a pair.
    """

    def __init__(self, encode: Any, separator: int, max_tokens: int) -> None:
        self._encode, self._separator, self._max_tokens = encode, separator, max_tokens

    def __call__(self, interests: Sequence[str], items: Sequence[str]) -> Pairs:
        """Return the pairs as one batch."""
        asked = [[*self._encode(interest), self._separator] for interest in interests]
        rows = [
            torch.tensor([*first, *self._encode(item)][: self._max_tokens])
            for first, item in zip(asked, items, strict=True)
        ]
        lengths_B, ends_B = (torch.tensor([len(row) for row in found]) for found in (rows, asked))
        tokens_BT = pad_sequence(rows, batch_first=True)
        places_T = torch.arange(tokens_BT.shape[1])
        return Pairs(tokens_BT, places_T < lengths_B[:, None], places_T < ends_B[:, None])


class RewardModel(nn.Module):
    """Classifier that returns the logit that an interest is good for its item.

    The encoder reads both as one text. A linear layer gets the mean state of the interest, that of the item, and their
    product, as in classifiers of sentence pairs (Conneau et al. 2017). Without the product, a small encoder from
    scratch does not learn which words belong together.

    Args:
        encoder: any encoder or decoder of transformers.
        width: of its states.
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(3 * width, 1)

    def forward(self, pairs: Pairs) -> torch.Tensor:
        """Return logits [B]."""
        states_BTD = self.encoder(input_ids=pairs.tokens_BT, attention_mask=pairs.real_BT.long()).last_hidden_state
        interest_BD = _mean(states_BTD, pairs.interest_BT & pairs.real_BT)
        item_BD = _mean(states_BTD, pairs.real_BT & ~pairs.interest_BT)
        logits_B: torch.Tensor = self.head(torch.cat([interest_BD, item_BD, interest_BD * item_BD], dim=1)).squeeze(1)
        return logits_B


def _mean(states_BTD: torch.Tensor, chosen_BT: torch.Tensor) -> torch.Tensor:
    """Return the mean [B, D] of the chosen states; zero if none is chosen."""
    chosen_BT1 = chosen_BT[..., None].to(states_BTD.dtype)
    mean_BD: torch.Tensor = (states_BTD * chosen_BT1).sum(dim=1) / chosen_BT1.sum(dim=1).clamp(min=1)
    return mean_BD


def tiny_model(
    texts: Sequence[str], settings: TinyRewardConfig, *, max_tokens: int, seed: int
) -> tuple[RewardModel, Reader]:
    """Return a small bidirectional encoder with random weights, and a BPE tokenizer trained on `texts`."""
    tokenizer = TextTokenizer.train(texts, vocab_size=settings.vocab_size)
    # Rotary embeddings, because the verb before a word depends on relative, not absolute, position.
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=tokenizer.size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=2 * settings.hidden_size,
        max_position_embeddings=max_tokens,
        embedding_dropout=settings.dropout,
        mlp_dropout=settings.dropout,
        global_attn_every_n_layers=1,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "reward model"))
        model = RewardModel(AutoModel.from_config(config), settings.hidden_size)
    return model, Reader(tokenizer.encode, tokenizer.end, max_tokens)


def pretrained_model(name: str, *, lora: LoraConfig | None, max_tokens: int, seed: int) -> tuple[RewardModel, Reader]:
    """Return any encoder or decoder of transformers, by name or path, with its own tokenizer.

    Args:
        name: a folder, or a name on the hub.
        lora: adapters; None trains everything.
        max_tokens: of a pair.
        seed: of the head and the adapters.

    Raises:
        ConfigError: it cannot be loaded, or has fewer positions than `max_tokens`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        encoder = AutoModel.from_pretrained(name, dtype=torch.float32)
    except _FAULTS as cause:
        raise ConfigError(
            f"transformers cannot open reward.model={name}: {str(cause).splitlines()[0]}",
            rule="it is a folder with config.json, weights and tokenizer, or a name on the hub",
            remedy="check the path or name, or leave reward.model at null for the small one",
        ) from cause
    room = getattr(encoder.config, "max_position_embeddings", max_tokens)
    if max_tokens > room:
        raise ConfigError(
            f"reward.max_tokens={max_tokens} with a {encoder.config.model_type} of {room} positions",
            rule="every place of a pair needs a position",
            remedy=f"set reward.max_tokens={room}",
        )
    if lora is not None:
        add_adapters(encoder, lora, seed=seed)
    ends = (tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    separator = next((int(token) for token in ends if token is not None), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "reward model"))
        model = RewardModel(encoder, encoder.config.hidden_size)
    return model, Reader(lambda text: tokenizer.encode(text, add_special_tokens=False), separator, max_tokens)
