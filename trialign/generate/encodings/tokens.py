"""Item encoding `tokens`: an item is L positions; embedding, output head and cached search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from trialign.decode.step import Beams
from trialign.generate.backbone import HiddenStates
from trialign.generate.encodings.encoding import CodeEmbedding, ItemEncoding
from trialign.generate.loss import Predictions
from trialign.runtime.transformers import DynamicCache
from trialign.semid.tokens import TokenSpace


class TokensRows:
    """An item is L positions, one per level, as in the papers.

    Args:
        codes_NL: the semantic IDs.
        space: the token space they live in.
    """

    def __init__(self, codes_NL: NDArray[Any], space: TokenSpace) -> None:
        self._tokens_NL = space.encode(codes_NL.astype(np.int64))

    @property
    def positions_per_item(self) -> int:
        """L."""
        return int(self._tokens_NL.shape[1])

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a sequence of items, int64 [n * L]."""
        # `take` is faster than indexing, because it copies whole rows.
        tokens: NDArray[np.int64] = self._tokens_NL.take(items, axis=0).reshape(-1)
        return tokens

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Repeat each item's value for all of its positions."""
        return np.repeat(per_item, self.positions_per_item)


class CodeHead(CodeEmbedding):
    """One output vector per code of every level, not tied to the embedding."""

    def forward(self, hidden_MD: torch.Tensor, level: int) -> torch.Tensor:  # type: ignore[override]
        """Return the logits [..., K] of the codes of one level."""
        size = self.codebook_size
        return functional.linear(hidden_MD, self.weight[level * size : (level + 1) * size])


class TokensEncoding(ItemEncoding):
    """Embeds the codes of an item and predicts them one after the other.

    Args:
        codes_NL: the semantic IDs.
        text_vocab: number of text tokens; those of codes follow.
        vectors_LKD: initial output vectors of all codes.
        read_scale: factor by which the initial input vectors are longer.
    """

    name = "tokens"
    items_only = False

    def __init__(
        self, codes_NL: NDArray[np.integer], text_vocab: int, vectors_LKD: torch.Tensor, read_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.space = TokenSpace(text_vocab, *vectors_LKD.shape[:2])
        self.rows = TokensRows(codes_NL, self.space)
        self.code_embedding = CodeEmbedding(vectors_LKD * read_scale)
        self.code_head = CodeHead(vectors_LKD.clone())

    @property
    def settings(self) -> dict[str, str | float]:
        """Nothing is chosen: an item is its codes."""
        return {"encoding": self.name, "id_embedding": False, "joint_nodes": 0, "feature_dim": 0, "read_scale": 1.0}

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors [..., D] of SID tokens [...]."""
        vectors: torch.Tensor = self.code_embedding(self.space.level(tokens), self.space.code(tokens))
        return vectors

    def predict(self, hidden_MD: torch.Tensor, answers_M: torch.Tensor, tasks_M: torch.Tensor) -> list[Predictions]:
        """Return one group of predictions per level, possibly empty, over the K codes of the level."""
        level_M = self.space.level(answers_M)
        groups = []
        for level in range(self.space.num_levels):
            (rows,) = torch.nonzero(level_M == level, as_tuple=True)
            logits_MK = self.code_head(hidden_MD[rows], level)
            groups.append(Predictions(logits_MK, self.space.code(answers_M[rows]), tasks_M[rows]))
        return groups

    def scorer(
        self,
        generator: HiddenStates,
        prompts: Sequence[NDArray[np.int64]],
        vectors: Sequence[torch.Tensor] | None = None,  # noqa: ARG002 (searches share nothing)
    ) -> CachedScorer:
        """Return the `LevelScorer` of a batch of prompts."""
        return CachedScorer(generator, self, prompts)


class CachedScorer:
    """A `LevelScorer` for encoding `tokens`: a forward pass for the prompts, then one for each further level.

    The W beams of a level are W positions of one sequence. A mask lets each attend to the prompt and its own ancestors,
    so the keys and values of a prompt are cached once for all beams.

    Args:
        generator: in eval mode.
        items: its `TokensEncoding`.
        prompts: tokens of each prompt, at least one.
    """

    def __init__(self, generator: HiddenStates, items: TokensEncoding, prompts: Sequence[NDArray[np.int64]]) -> None:
        device = items.code_head.weight.device
        self._generator = generator
        self._items = items
        self._lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # Padding is on the right, so causal attention hides it from the prompt's own tokens.
        self._tokens_BT = nn.utils.rnn.pad_sequence([torch.from_numpy(p) for p in prompts], batch_first=True).to(device)
        self._cache = DynamicCache(config=generator.backbone.config)
        self._level = 0

    def start(self) -> torch.Tensor:
        """Read the prompts and return the logits of the first level."""
        num_prompts, width = self._tokens_BT.shape
        places_T = torch.arange(width, device=self._tokens_BT.device)
        hidden_BTD = self._generator.hidden(self._tokens_BT, places_T.expand(num_prompts, -1), cache=self._cache)
        self._prompt_BS = places_T < self._lengths_B[:, None]
        self._family_BWS = self._prompt_BS.new_zeros((num_prompts, 1, 0))
        last_BD = hidden_BTD[torch.arange(num_prompts, device=hidden_BTD.device), self._lengths_B - 1]
        logits_BK: torch.Tensor = self._items.code_head(last_BD, 0)
        return logits_BK

    def advance(self, beams: Beams) -> torch.Tensor:
        """Read the last code of every beam and return the logits of the next level."""
        num_prompts, num_beams = beams.codes.shape
        inherited_BWS = self._family_BWS.gather(1, beams.parents[..., None].expand(-1, -1, self._family_BWS.shape[2]))
        itself_BWS = torch.eye(num_beams, dtype=torch.bool, device=beams.codes.device).expand(num_prompts, -1, -1)
        self._family_BWS = torch.cat([inherited_BWS, itself_BWS], dim=2)
        seen_BWS = torch.cat([self._prompt_BS[:, None].expand(-1, num_beams, -1), self._family_BWS], dim=2)
        mask = torch.zeros(seen_BWS.shape, device=beams.codes.device).masked_fill_(~seen_BWS, -torch.inf)[:, None]
        space = self._items.space
        tokens_BW = beams.codes + (space.text_vocab + self._level * space.codebook_size)
        positions_BW = (self._lengths_B + self._level)[:, None].expand(-1, num_beams)
        hidden_BWD = self._generator.hidden(tokens_BW, positions_BW, mask=mask, cache=self._cache)
        self._level += 1
        logits_BWK: torch.Tensor = self._items.code_head(hidden_BWD, self._level)
        return logits_BWK
