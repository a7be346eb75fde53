"""Ranks the catalogue for histories: every prompt is read once, every level of a search once more.

The W beams of one level are fed as W positions of one sequence. A mask lets each see the prompt and its own ancestors,
so the keys and values of a prompt exist once, however many beams share them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.errors import ConfigError
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.types import NO_ITEM, Items


class CachedScorer:
    """Scores levels for a batch of prompts (a `LevelScorer`).

    Args:
        generator: in eval mode.
        prompts: tokens of each prompt, at least one.
    """

    def __init__(self, generator: Generator, prompts: Sequence[NDArray[np.int64]]) -> None:
        device = generator.code_head.weight.device
        self._generator = generator
        self._lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        # Padding stands on the right, where causal attention keeps it out of sight of every prompt's own tokens.
        self._tokens_BT = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(p) for p in prompts], batch_first=True).to(
            device
        )
        self._cache = DynamicCache(config=generator.backbone.config)
        self._level = 0

    def start(self) -> torch.Tensor:
        """Read the prompts."""
        num_prompts, width = self._tokens_BT.shape
        places_T = torch.arange(width, device=self._tokens_BT.device)
        hidden_BTD = self._generator.hidden(self._tokens_BT, places_T.expand(num_prompts, -1), cache=self._cache)
        self._prompt_BS = places_T < self._lengths_B[:, None]
        self._family_BWS = self._prompt_BS.new_zeros((num_prompts, 1, 0))
        last_BD = hidden_BTD[torch.arange(num_prompts, device=hidden_BTD.device), self._lengths_B - 1]
        logits_BK: torch.Tensor = self._generator.code_head(last_BD, 0)
        return logits_BK

    def advance(self, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        """Read one more code of every beam."""
        num_prompts, num_beams = codes_BW.shape
        inherited_BWS = self._family_BWS.gather(1, parents_BW[..., None].expand(-1, -1, self._family_BWS.shape[2]))
        itself_BWS = torch.eye(num_beams, dtype=torch.bool, device=codes_BW.device).expand(num_prompts, -1, -1)
        self._family_BWS = torch.cat([inherited_BWS, itself_BWS], dim=2)
        seen_BWS = torch.cat([self._prompt_BS[:, None].expand(-1, num_beams, -1), self._family_BWS], dim=2)
        mask = torch.zeros(seen_BWS.shape, device=codes_BW.device).masked_fill_(~seen_BWS, -torch.inf)[:, None]
        space = self._generator.space
        tokens_BW = codes_BW + (space.text_vocab + self._level * space.codebook_size)
        positions_BW = (self._lengths_B + self._level)[:, None].expand(-1, num_beams)
        hidden_BWD = self._generator.hidden(tokens_BW, positions_BW, mask=mask, cache=self._cache)
        self._level += 1
        logits_BWK: torch.Tensor = self._generator.code_head(hidden_BWD, self._level)
        return logits_BWK


class GeneratorRanker:
    """Ranks by constrained beam search (a `Ranker`).

    Args:
        generator: a trained generator; put into eval mode and onto `device`.
        template: how it reads histories.
        index: prefixes of the semantic IDs it was trained on.
        num_beams: W; no more items than this can be ranked.
        max_history: items of a history that are read, the last ones.
        batch_size: users per search.
        device: where to compute.

    Raises:
        ConfigError: the longest prompt has more positions than the backbone knows.
    """

    def __init__(
        self,
        generator: Generator,
        template: Template,
        index: PrefixIndex,
        *,
        num_beams: int,
        max_history: int,
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        room = generator.backbone.config.max_position_embeddings
        require_room(max_history, template.encoding.positions_per_item, room)
        self._generator = generator.eval().to(device)
        self._template = template
        self._index = index.to(device)
        self._num_beams = num_beams
        self._max_history = max_history
        self._batch_size = batch_size
        self._device = device

    def rank(
        self, histories: list[Items], k: int, *, exclude_seen: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history and their log-probabilities; see `Ranker`.

        Raises:
            ConfigError: `k` is more than the beams.
        """
        if k > self._num_beams:
            raise ConfigError(
                f"{k} items from {self._num_beams} beams",
                rule="a search returns at most as many items as it has beams",
                remedy=f"set num_beams={k} or more",
            )
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        # Users with histories of one length together: prompts are padded to the longest of their batch.
        order = np.argsort([len(history) for history in histories], kind="stable")
        for start in range(0, len(histories), self._batch_size):
            users = order[start : start + self._batch_size]
            batch = [histories[user] for user in users]
            prompts = [self._template.history_prompt(history[-self._max_history :]) for history in batch]
            exclude_BM = _padded(batch).to(self._device) if exclude_seen else None
            with torch.inference_mode():
                found = beam_search(
                    CachedScorer(self._generator, prompts), self._index, self._num_beams, exclude_BM=exclude_BM
                )
            items[users] = found.items[:, :k].cpu().numpy()
            scores[users] = found.scores[:, :k].cpu().numpy()
        return items, scores


def require_room(max_history: int, positions_per_item: int, room: int) -> None:
    """Refuse histories whose search needs more positions than the backbone is built for.

    Raises:
        ConfigError: marker, history, and all but the last level of the answer are more than `room`.
    """
    needed = (max_history + 1) * positions_per_item
    if needed > room:
        raise ConfigError(
            f"a history of {max_history} items takes {needed} positions, search included",
            rule=f"rows, and so the generator's positions, are {room} tokens long",
            remedy=f"set stream.row_tokens={needed} or more for training, "
            f"or data.max_history={room // positions_per_item - 1} or less",
        )


def _padded(histories: Sequence[Items]) -> torch.Tensor:
    rows = [torch.from_numpy(np.asarray(history, dtype=np.int64)) for history in histories]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_ITEM)
