"""Generate text with a trained generator: greedy decoding in batches with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trialign.generate.model import Generator
from trialign.progress import tracked
from trialign.runtime.transformers import DynamicCache


@torch.inference_mode()
def write_texts(
    generator: Generator, prompts: Sequence[NDArray[np.int64]], *, end: int, max_tokens: int, batch_size: int = 64
) -> list[list[int]]:
    """Return the tokens that a generator writes after each prompt, by greedy decoding over the text vocabulary.

    Args:
        generator: in eval mode; its own device is used.
        prompts: tokens of each, at least one.
        end: the token that ends a text; it is not returned.
        max_tokens: longest text.
        batch_size: prompts per batch.
    """
    written: list[list[int]] = [[] for _ in prompts]
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for start in tracked(range(0, len(prompts), batch_size), "batches of texts written"):
        chosen = order[start : start + batch_size]
        tokens = torch.stack(list(_tokens(generator, [prompts[place] for place in chosen], end, max_tokens)), dim=1)
        for place, text in zip(chosen.tolist(), tokens.tolist(), strict=True):
            written[place] = text[: text.index(end)] if end in text else text
    return written


def _tokens(
    generator: Generator, prompts: Sequence[NDArray[np.int64]], end: int, max_tokens: int
) -> Iterator[torch.Tensor]:
    """Yield the next token of every prompt, int64 [B], until all have ended or reached the limit."""
    device = generator.items.code_embedding.weight.device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    # Causal attention hides the padding on the right from the prompt; the mask hides it from the generated tokens.
    tokens_BT = nn.utils.rnn.pad_sequence([torch.from_numpy(p) for p in prompts], batch_first=True).to(device)
    places_T = torch.arange(tokens_BT.shape[1], device=device)
    cache = DynamicCache(config=generator.backbone.config)
    hidden_BTD = generator.hidden(tokens_BT, places_T.expand(len(prompts), -1), cache=cache)
    last_BD = hidden_BTD[torch.arange(len(prompts), device=device), lengths_B - 1]
    seen_BS = places_T < lengths_B[:, None]
    ended_B = torch.zeros_like(lengths_B, dtype=torch.bool)
    for number in range(max_tokens):
        chosen_B = generator.text_logits(last_BD).argmax(dim=1)
        yield chosen_B
        ended_B |= chosen_B == end
        if number + 1 == max_tokens or ended_B.all():
            return
        seen_BS = nn.functional.pad(seen_BS, (0, 1), value=True)
        mask = torch.zeros(seen_BS.shape, device=device).masked_fill_(~seen_BS, -torch.inf)[:, None, None]
        positions_B1 = (lengths_B + number)[:, None]
        last_BD = generator.hidden(chosen_B[:, None], positions_B1, mask=mask, cache=cache)[:, 0]
