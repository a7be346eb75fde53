"""The interface of an item encoding (method.md 6): the tokens of items in a row, their vectors, their predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trialign.decode.beam import LevelScorer
from trialign.generate.backbone import HiddenStates
from trialign.generate.encodings.repeats import RepeatTerm, Seen, seen_before, seen_in_prompts
from trialign.generate.loss import Predictions, TablePredictions


class ItemRows(Protocol):
    """Items as token ids of a row: how many positions an item takes, and their ids. It holds no parameters."""

    @property
    def positions_per_item(self) -> int:
        """The number of positions of an item."""
        ...

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a sequence of items, int64 [n * positions_per_item]; all ids are above those of text."""
        ...

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Repeat each item's value for all of its positions."""
        ...


class ItemEncoding(nn.Module, ABC):
    """Embeds item tokens, and predicts them from hidden states.

    Attributes:
        name: the value of `train.items.encoding`.
        items_only: whether every answer is an item of the catalogue, even without the trie.
        rows: the token ids of items in a row.
        code_embedding: the input vectors of the codes.
        repeats: the repeat term; None leaves it out.
    """

    name: ClassVar[str]
    items_only: ClassVar[bool]
    rows: ItemRows
    code_embedding: CodeEmbedding
    repeats: RepeatTerm | None

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | float]:
        """What `build_items` needs apart from the semantic IDs and the weights to build it again."""

    @abstractmethod
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors [..., D] of item tokens [...]."""

    @abstractmethod
    def read(self, tokens_RT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's item, int64 with NO_ITEM for text, and whether it ends there; for the repeat term."""

    def seen_before(
        self, tokens_RT: torch.Tensor, positions_RT: torch.Tensor, places_2M: tuple[torch.Tensor, torch.Tensor]
    ) -> Seen | None:
        """Return what the repeat term needs at places of rows, see `seen_before`; None without the term."""
        return None if self.repeats is None else seen_before(*self.read(tokens_RT), positions_RT, places_2M)

    def seen_in_prompts(self, tokens_BT: torch.Tensor) -> Seen | None:
        """Return what the repeat term needs after prompts, see `seen_in_prompts`; None without the term."""
        return None if self.repeats is None else seen_in_prompts(*self.read(tokens_BT))

    @abstractmethod
    def predict(
        self, hidden_MD: torch.Tensor, answers_M: torch.Tensor, tasks_M: torch.Tensor, seen: Seen | None
    ) -> Sequence[Predictions | TablePredictions]:
        """Return groups of predictions of the item tokens `answers_M`; M may be 0. `seen` is for the repeat term."""

    @abstractmethod
    def scorer(
        self,
        generator: HiddenStates,
        prompts: Sequence[NDArray[np.int64]],
        vectors: Sequence[torch.Tensor] | None = None,
    ) -> LevelScorer:
        """Return the `LevelScorer` of a batch of prompts.

        Args:
            generator: in eval mode.
            prompts: tokens of each prompt, at least one.
            vectors: `search_vectors()`, if computed once for many batches.
        """

    @property
    def one_softmax(self) -> bool:
        """Whether the model is one softmax over all items, so that the best ones are known without a search."""
        return False

    def item_log_probs(
        self, generator: HiddenStates, prompts: Sequence[NDArray[np.int64]], vectors: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return the log-probabilities [B, N] of all items after each prompt, where the model is one softmax."""
        raise NotImplementedError(f"encoding {self.name} is not one softmax over all items")

    def search_vectors(self) -> list[torch.Tensor]:
        """Return what no search changes and every search needs; nothing by default."""
        return []


class CodeEmbedding(nn.Embedding):
    """Embedding of the codes of every level; level l, code c is row l * K + c.

    A subclass of nn.Embedding, so that it is exempt from weight decay like every other table.
    """

    def __init__(self, vectors_LKD: torch.Tensor) -> None:
        super().__init__(
            vectors_LKD.shape[0] * vectors_LKD.shape[1], vectors_LKD.shape[2], _weight=vectors_LKD.flatten(0, 1)
        )
        self.codebook_size = vectors_LKD.shape[1]

    def forward(self, levels: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the vectors [..., D] of codes at levels, both int64 [...]."""
        return super().forward(levels * self.codebook_size + codes)
