"""Rank the catalogue for histories with a trained generator and constrained beam search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.decode.beam import LevelScorer, beam_search
from trialign.decode.index import PrefixIndex
from trialign.errors import ConfigError
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.progress import tracked
from trialign.types import NO_ITEM, Items

_MOST_BEAMS = 2**14
_MOST_CELLS = 2**24
"""Of the largest tensors of one search, so that it fits next to a model on a small machine."""


class GeneratorRanker:
    """Ranks by constrained beam search (a `Ranker`).

    Args:
        generator: a trained generator; moved to `device` in eval mode. Its weights must not change afterwards, because
            what does not depend on a history is computed once.
        template: turns histories into prompts.
        index: prefixes of the semantic IDs it was trained on.
        num_beams: W, also the most items that can be ranked. With as many beams as items the search is exhaustive;
            more make no difference.
        max_history: number of last items of a history that are read.
        batch_size: most users per search; fewer if their beams need too much memory.
        device: where to compute.

    Raises:
        ConfigError: the longest prompt has more positions than the backbone knows, or there are no beams or too many.
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
        require_room(max_history, template.rows.positions_per_item, room)
        self.num_beams = min(num_beams, index.num_items)
        if not 1 <= self.num_beams <= _MOST_BEAMS:
            raise ConfigError(
                f"num_beams={num_beams} over {index.num_items} items",
                rule=f"a search keeps 1 to {_MOST_BEAMS} beams: every beam is told from every other",
                remedy="set num_beams=50, or up to 1000 where time allows",
            )
        self.generator = generator.eval().to(device)
        self._most_items = num_beams
        with torch.inference_mode():
            self._vectors = self.generator.items.search_vectors()
        self.template = template
        self._index = index.to(device)
        self._max_history = max_history
        cells = self.num_beams * max(
            self.num_beams, index.codebook_size
        )  # the larger of beams x beams and beams x codes
        self._batch_size = max(1, min(batch_size, _MOST_CELLS // cells))
        self._device = device

    def rank(
        self, histories: list[Items], k: int, *, exclude: Sequence[Items] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history and their log-probabilities; see `Ranker`.

        Raises:
            ConfigError: `k` is more than the beams.
        """
        if k > self._most_items:
            raise ConfigError(
                f"{k} items from {self._most_items} beams",
                rule="a search returns at most as many items as it has beams",
                remedy=f"set num_beams={k} or more",
            )
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        for users in tracked(self.batches(histories), "searches", self.num_batches(histories)):
            batch = [histories[user] for user in users]
            exclude_BM = None if exclude is None else _padded([exclude[user] for user in users]).to(self._device)
            found = beam_search(self.scorer(batch), self._index, max(k, self.num_beams), exclude_BM=exclude_BM)
            items[users] = found.items[:, :k].cpu().numpy()
            scores[users] = found.scores[:, :k].cpu().numpy()
        return items, scores

    def batches(self, prompts: Sequence[NDArray[Any]]) -> Iterator[NDArray[np.intp]]:
        """Yield the indices of the prompts or histories of each search, those of similar length together."""
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        for start in range(0, len(prompts), self._batch_size):
            yield order[start : start + self._batch_size]

    def num_batches(self, prompts: Sequence[NDArray[Any]]) -> int:
        """Return how many searches `batches` yields."""
        return -(-len(prompts) // self._batch_size)

    def rank_prompts(self, prompts: Sequence[NDArray[np.int64]], k: int) -> NDArray[np.int32]:
        """Return the `k` best items after each prompt of any task that writes an item; `k` is at most `num_beams`."""
        items = np.empty((len(prompts), k), dtype=np.int32)
        for places in tracked(self.batches(prompts), "searches", self.num_batches(prompts)):
            found = beam_search(self._scorer([prompts[place] for place in places]), self._index, self.num_beams)
            items[places] = found.items[:, :k].cpu().numpy()
        return items

    def scorer(self, histories: Sequence[Items]) -> LevelScorer:
        """Return the `LevelScorer` of the next item after each history."""
        return self._scorer([self.template.history_prompt(history[-self._max_history :]) for history in histories])

    @torch.inference_mode()
    def _scorer(self, prompts: Sequence[NDArray[np.int64]]) -> LevelScorer:
        return self.generator.items.scorer(self.generator, prompts, self._vectors)


def require_room(max_history: int, positions_per_item: int, room: int) -> None:
    """Raise an error if the search needs more positions than the backbone has.

    Raises:
        ConfigError: task token, history, and all but the last level of the answer are more than `room`.
    """
    needed = (max_history + 1) * positions_per_item
    if needed > room:
        raise ConfigError(
            f"a history of {max_history} items takes {needed} positions, search included",
            rule=f"rows, and so the generator's positions, are {room} tokens long",
            remedy=f"set stream.seq_len={needed} or more for training, "
            f"or data.max_history={room // positions_per_item - 1} or less",
        )


def _padded(lists: Sequence[Items]) -> torch.Tensor:
    rows = [torch.from_numpy(np.asarray(items, dtype=np.int64)) for items in lists]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_ITEM)
