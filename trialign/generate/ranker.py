"""Rank the catalogue for histories with a trained generator: exactly where it is one softmax, else by beam search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.decode.beam import LevelScorer, Ranking, beam_search, best_items
from trialign.decode.index import PrefixIndex
from trialign.decode.walk import LevelWalk, prefix_walk, watch_search
from trialign.errors import ConfigError, DataError
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.progress import tracked
from trialign.types import NO_ITEM, Items

_MOST_BEAMS = 2**14
_MOST_CELLS = 2**24
"""Of the largest tensors of one search, so that it fits next to a model on a small machine."""


class GeneratorRanker:
    """Ranks by constrained beam search, or exactly where the generator is one softmax over items (a `Ranker`).

    Args:
        generator: a trained generator; moved to `device` in eval mode. Its weights must not change afterwards, because
            what does not depend on a history is computed once.
        template: turns histories into prompts.
        index: prefixes of the semantic IDs it was trained on.
        num_beams: W, also the most items that a search can rank. With as many beams as items it is exhaustive; more
            make no difference. An exact ranking has none.
        max_history: number of last items of a history that are read.
        batch_size: most users per search; fewer if their beams, or the scores of all items, need too much memory.
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
        # All items, or the larger of beams x beams and beams x codes.
        beams = self.num_beams * max(self.num_beams, index.codebook_size)
        cells = index.num_items if self.generator.items.one_softmax else beams
        self._batch_size = max(1, min(batch_size, _MOST_CELLS // cells))
        self._device = device

    def rank(
        self,
        histories: list[Items],
        k: int,
        *,
        exclude: Sequence[Items] | None,
        stock: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history and their log-probabilities; see `Ranker`.

        Args:
            histories: see `Ranker`.
            k: see `Ranker`.
            exclude: see `Ranker`.
            stock: bool [N] for all histories or [B, N], the items that may be recommended; None: all. The search goes
                to no prefix without such an item, and the scores of the others do not change.

        Raises:
            ConfigError: a search is needed, and `k` is more than its beams.
            DataError: `stock` has another shape or type.
        """
        items = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        searches = self.searches(histories, k, exclude=exclude, stock=stock)
        for users, found in tracked(searches, "searches", self.num_batches(histories)):
            items[users] = found.items.cpu().numpy()
            scores[users] = found.scores.cpu().numpy()
        return items, scores

    def searches(
        self,
        histories: Sequence[Items],
        k: int,
        *,
        exclude: Sequence[Items] | None,
        stock: NDArray[np.bool_] | None = None,
    ) -> Iterator[tuple[NDArray[np.intp], Ranking]]:
        """Yield the indices of the histories of each search, and their `k` best items; arguments as `rank`.

        Raises:
            ConfigError: as `rank`.
            DataError: as `rank`.
        """
        if k > self._most_items and not self.generator.items.one_softmax:
            raise ConfigError(
                f"{k} items from {self._most_items} beams",
                rule="a search returns at most as many items as it has beams",
                remedy=f"set num_beams={k} or more",
            )
        stock_BN = None if stock is None else self._checked(stock, len(histories))
        for users in self.batches(histories):
            batch = [histories[user] for user in users]
            exclude_BM = None if exclude is None else _padded([exclude[user] for user in users]).to(self._device)
            of_batch = stock_BN if stock_BN is None or len(stock_BN) == 1 else stock_BN[users]
            found = self._best(self._prompts(batch), k, exclude_BM, of_batch)
            yield users, Ranking(found.items[:, :k], found.scores[:, :k])

    @property
    def exact(self) -> bool:
        """Whether the best items are known without a search."""
        return self.generator.items.one_softmax

    @property
    def max_history(self) -> int:
        """The number of last items of a history that are read."""
        return self._max_history

    @torch.inference_mode()
    def walk(self, history: Items, *, exclude: Items, stock: NDArray[np.bool_] | None = None) -> list[LevelWalk]:
        """Return the prefixes that ranking one history weighs, level by level.

        Args:
            history: items, oldest first.
            exclude: items that are filtered out.
            stock: bool [N], as `rank`.

        Raises:
            DataError: as `rank`.
        """
        exclude_1M = _padded([exclude]).to(self._device)
        stocked = None if stock is None else self._index.stocked(self._checked(stock, 1))
        prompts = self._prompts([history])
        if self.exact:
            log_probs_1N = self.generator.items.item_log_probs(self.generator, prompts, self._vectors)
            return prefix_walk(log_probs_1N, self._index, exclude_1M=exclude_1M, stocked=stocked)
        return watch_search(self._scorer(prompts), self._index, self.num_beams, exclude_1M=exclude_1M, stocked=stocked)

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
            found = self._best([prompts[place] for place in places], k)
            items[places] = found.items[:, :k].cpu().numpy()
        return items

    def scorer(self, histories: Sequence[Items]) -> LevelScorer:
        """Return the `LevelScorer` of the next item after each history."""
        return self._scorer(self._prompts(histories))

    def _prompts(self, histories: Sequence[Items]) -> list[NDArray[np.int64]]:
        return [self.template.history_prompt(history[-self._max_history :]) for history in histories]

    @torch.inference_mode()
    def _scorer(self, prompts: Sequence[NDArray[np.int64]]) -> LevelScorer:
        return self.generator.items.scorer(self.generator, prompts, self._vectors)

    @torch.inference_mode()
    def _best(
        self,
        prompts: Sequence[NDArray[np.int64]],
        k: int,
        exclude_BM: torch.Tensor | None = None,
        stock_BN: torch.Tensor | None = None,
    ) -> Ranking:
        if self.generator.items.one_softmax:
            log_probs_BN = self.generator.items.item_log_probs(self.generator, prompts, self._vectors)
            return best_items(log_probs_BN, k, exclude_BM=exclude_BM, stock_BN=stock_BN)
        stocked = None if stock_BN is None else self._index.stocked(stock_BN)
        num_beams = max(k, self.num_beams)
        return beam_search(self._scorer(prompts), self._index, num_beams, exclude_BM=exclude_BM, stocked=stocked)

    def _checked(self, stock: NDArray[np.bool_], num_histories: int) -> torch.Tensor:
        """Return bool [1 or B, N] on the device."""
        num_items = self._index.num_items
        if stock.dtype != np.bool_ or stock.shape not in ((num_items,), (num_histories, num_items)):
            raise DataError(
                f"stock of shape {stock.shape} and type {stock.dtype}",
                rule=f"stock says of each of {num_items} items whether it may be recommended, to all or to each of "
                f"{num_histories} histories",
                remedy=f"pass a bool array [{num_items}] or [{num_histories}, {num_items}]",
            )
        return torch.from_numpy(np.atleast_2d(stock)).to(self._device)


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
