"""Text token by token: with cached keys and values the same as reading everything again, for any batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trialign.generate.backbone import ARCHITECTURES
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.generate.writer import write_texts

POSITION = {"encoding": "position", "joint_nodes": 9}


def one_at_a_time(generator: Generator, prompt: np.ndarray, end: int, max_tokens: int) -> list[int]:
    """Return the likeliest next token again and again, everything read anew for each."""
    tokens = torch.from_numpy(prompt)
    written: list[int] = []
    while len(written) < max_tokens:
        hidden_1TD = generator.hidden(tokens[None], torch.arange(len(tokens))[None])
        token = int(generator.text_logits(hidden_1TD[0, -1]).argmax())
        if token == end:
            break
        written.append(token)
        tokens = torch.cat([tokens, torch.tensor([token])])
    return written


@pytest.mark.parametrize("options", [{}, POSITION], ids=["tokens", "position"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_equals_uncached_in_every_batch(
    architecture: str, options: dict[str, object], make_generator: Callable[..., Generator], template: Template
) -> None:
    generator = make_generator(architecture, options=options).eval()
    draws = np.random.default_rng(0)
    size = generator.text_vocab + (12 if options else generator.items.space.size - generator.text_vocab)
    prompts = [draws.integers(0, size, length) for length in (1, 9, 4, 4, 2, 13, 6)]
    with torch.no_grad():
        wanted = [one_at_a_time(generator, prompt, template.tokenizer.end, 12) for prompt in prompts]
    # Texts of random weights end by chance: an end token that one of them really writes.
    ends = [template.tokenizer.end, wanted[0][3]]
    for end in ends:
        with torch.no_grad():
            wanted = [one_at_a_time(generator, prompt, end, 12) for prompt in prompts]
        for batch_size in (1, 3, 7):
            assert write_texts(generator, prompts, end=end, max_tokens=12, batch_size=batch_size) == wanted
    assert any(len(text) < 12 for text in wanted)
    assert write_texts(generator, [], end=end, max_tokens=12) == []
