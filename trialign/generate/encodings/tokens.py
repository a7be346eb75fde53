"""Item encoding `tokens`: an item is L positions; embedding, output head and cached search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.decode.step import Beams
from trialign.generate.backbone import HiddenStates
from trialign.generate.encodings.encoding import CodeEmbedding, ItemEncoding
from trialign.generate.encodings.repeats import RepeatTerm, Seen
from trialign.generate.loss import Predictions
from trialign.generate.softmax import add_at
from trialign.runtime.transformers import DynamicCache
from trialign.semid.table import flat_codes
from trialign.semid.tokens import TokenSpace
from trialign.types import NO_ITEM


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
        repeats: learn the repeat term.
    """

    codes_NL: torch.Tensor
    flat_N: torch.Tensor
    order_N: torch.Tensor

    name = "tokens"
    items_only = False

    def __init__(
        self,
        codes_NL: NDArray[np.integer],
        text_vocab: int,
        vectors_LKD: torch.Tensor,
        read_scale: float = 1.0,
        *,
        repeats: bool = False,
    ) -> None:
        super().__init__()
        self.space = TokenSpace(text_vocab, *vectors_LKD.shape[:2])
        self.rows = TokensRows(codes_NL, self.space)
        self.code_embedding = CodeEmbedding(vectors_LKD * read_scale)
        self.code_head = CodeHead(vectors_LKD.clone())
        self.repeats = None
        if repeats:
            size = self.space.codebook_size
            self.repeats = RepeatTerm(Trie.from_index(PrefixIndex.from_codes(codes_NL, size)))
            self.register_buffer("codes_NL", torch.from_numpy(codes_NL.astype(np.int64)), persistent=False)
            flat_N, order_N = torch.from_numpy(flat_codes(codes_NL, size)).sort()
            self.register_buffer("flat_N", flat_N, persistent=False)
            self.register_buffer("order_N", order_N, persistent=False)

    @property
    def settings(self) -> dict[str, str | float]:
        """Nothing but the repeat term is chosen: an item is its codes."""
        return {
            "encoding": self.name,
            "id_embedding": False,
            "joint_nodes": 0,
            "feature_dim": 0,
            "read_scale": 1.0,
            "repeats": self.repeats is not None,
        }

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors [..., D] of SID tokens [...]."""
        vectors: torch.Tensor = self.code_embedding(self.space.level(tokens), self.space.code(tokens))
        return vectors

    def read(self, tokens_RT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item of each token, and whether the token is its last one."""
        num_levels = self.space.num_levels
        levels_RT = self.space.level(tokens_RT).clamp(min=-1)
        first_RT = torch.arange(tokens_RT.shape[1], device=tokens_RT.device) - levels_RT
        places_RTL = first_RT[..., None] + torch.arange(num_levels, device=tokens_RT.device)
        whole_RT = (levels_RT >= 0) & (places_RTL[..., -1] < tokens_RT.shape[1])
        places_RTL = places_RTL.clamp(0, tokens_RT.shape[1] - 1)
        rows_R11 = torch.arange(len(tokens_RT), device=tokens_RT.device)[:, None, None]
        weights_L = self.space.codebook_size ** torch.arange(num_levels - 1, -1, -1, device=tokens_RT.device)
        flat_RT = (self.space.code(tokens_RT[rows_R11, places_RTL]) * weights_L).sum(dim=-1)  # as `flat_codes`
        found_RT = torch.searchsorted(self.flat_N, flat_RT).clamp(max=len(self.flat_N) - 1)
        is_item_RT = whole_RT & (self.flat_N[found_RT] == flat_RT)
        items_RT = torch.where(is_item_RT, self.order_N[found_RT], NO_ITEM)
        return items_RT, levels_RT == num_levels - 1

    def _same_prefix(self, level: int, items_Q: torch.Tensor, others_Q: torch.Tensor) -> torch.Tensor:
        """Return whether two items share their first `level` codes, bool [Q]."""
        return (self.codes_NL[items_Q, :level] == self.codes_NL[others_Q, :level]).all(dim=1)

    def predict(
        self, hidden_MD: torch.Tensor, answers_M: torch.Tensor, tasks_M: torch.Tensor, seen: Seen | None = None
    ) -> list[Predictions]:
        """Return one group of predictions per level, possibly empty, over the K codes of the level."""
        level_M = self.space.level(answers_M)
        groups = []
        for level in range(self.space.num_levels):
            (rows,) = torch.nonzero(level_M == level, as_tuple=True)
            logits_MK = self.code_head(hidden_MD[rows], level)
            if self.repeats is not None and seen is not None:
                places_Q, items_Q = self.repeats.marked(level, seen)
                here_Q = (level_M[places_Q] == level) & self._same_prefix(level, seen.answers_M[places_Q], items_Q)
                slots_M = torch.cumsum(level_M == level, dim=0) - 1
                codes_Q = self.codes_NL[items_Q[here_Q], level]
                logits_MK = add_at(logits_MK, (slots_M[places_Q[here_Q]], codes_Q), self.repeats())
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
        self._seen = items.seen_in_prompts(self._tokens_BT)
        self._codes_BWL = self._tokens_BT.new_zeros((len(prompts), 1, 0))
        self._level = 0

    def start(self) -> torch.Tensor:
        """Read the prompts and return the logits of the first level."""
        num_prompts, width = self._tokens_BT.shape
        places_T = torch.arange(width, device=self._tokens_BT.device)
        hidden_BTD = self._generator.hidden(self._tokens_BT, places_T.expand(num_prompts, -1), cache=self._cache)
        self._prompt_BS = places_T < self._lengths_B[:, None]
        self._family_BWS = self._prompt_BS.new_zeros((num_prompts, 1, 0))
        last_BD = hidden_BTD[torch.arange(num_prompts, device=hidden_BTD.device), self._lengths_B - 1]
        return self._biased(self._items.code_head(last_BD, 0)[:, None])[:, 0]

    def advance(self, beams: Beams) -> torch.Tensor:
        """Read the last code of every beam and return the logits of the next level."""
        num_prompts, num_beams = beams.codes.shape
        before_BWL = self._codes_BWL.gather(1, beams.parents[..., None].expand(-1, -1, self._level))
        self._codes_BWL = torch.cat([before_BWL, beams.codes[..., None]], dim=2)
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
        return self._biased(self._items.code_head(hidden_BWD, self._level))

    def _biased(self, logits_BWK: torch.Tensor) -> torch.Tensor:
        """Return logits with the repeat term on codes that lead from a beam to seen items alone."""
        repeats, level = self._items.repeats, self._level
        if repeats is None or self._seen is None:
            return logits_BWK
        rows_Q, items_Q = repeats.marked(level, self._seen)
        codes_QL = self._items.codes_NL[items_Q]
        from_QW = (self._codes_BWL[rows_Q] == codes_QL[:, None, :level]).all(dim=2)
        marks_X, beams_X = torch.nonzero(from_QW, as_tuple=True)
        return add_at(logits_BWK, (rows_Q[marks_X], beams_X, codes_QL[marks_X, level]), repeats())
