"""Encode the records of tasks as tokens: the task token, then the text and items that the task lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trialign.embed.evidence import FIELDS, Field
from trialign.enrich.evidence import Evidence
from trialign.errors import ConfigError
from trialign.generate.encodings.encoding import ItemRows
from trialign.generate.task import PROMPT_ITEMS, Given, ItemTexts, Part, Text
from trialign.generate.tasks import load_task
from trialign.generate.tokenizer import TextTokenizer
from trialign.stream.blocks import Records
from trialign.stream.order import Draws
from trialign.stream.rows import Examples, TokenizedExample

_SENTENCES: tuple[Field, ...] = ("description", "caption", "interests")
"""Fields that may be as long as a caption; the others are names, as long as a title at most."""
_REMEMBERED = 1 << 16
"""Texts whose tokens are kept: a title is read many times an epoch, and BPE is the cost of reading it."""

Piece = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Tokens, and which of them are targets."""


class Template:
    """Encodes examples of a fixed list of tasks in one token space.

    Args:
        tokenizer: of the text.
        rows: of the items.
        tasks: names; a task's index in the list is its number in examples and losses.
        max_title_tokens: limit of a title, brand or category path; longer ones are cut.
        max_caption_tokens: limit of a caption, description or interest; longer ones are cut.
        seq_len: limit of an example; the oldest of several input titles are left out until it fits. None: no limit.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        rows: ItemRows,
        tasks: Sequence[str],
        max_title_tokens: int,
        max_caption_tokens: int = 64,
        seq_len: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.rows = rows
        self.tasks = list(tasks)
        self.max_tokens = {field: max_caption_tokens if field in _SENTENCES else max_title_tokens for field in FIELDS}
        self.seq_len = seq_len
        self._tasks = [load_task(name) for name in tasks]
        self._remembered = lru_cache(_REMEMBERED)(self._text)

    def encode(self, task: int, given: Given) -> TokenizedExample:
        """Encode a record as an example of task number `task`; empty if the record is not an example."""
        parts = self._tasks[task].render(given)
        pieces = self._fitting([self._marker(self.tasks[task]), *map(self._piece, parts)], parts)
        tokens, targets = (np.concatenate(values) for values in zip(*pieces, strict=True))
        if not targets.any():
            tokens, targets = tokens[:0], targets[:0]
        return TokenizedExample(tokens, targets, task)

    def encode_many(
        self,
        texts: ItemTexts,
        task: int,
        records: Records,
        chosen: NDArray[np.int64],
        draws: Draws,
        learned: Sequence[NDArray[np.bool_]] | None = None,
    ) -> Examples:
        """Encode the chosen records of a block, as `encode` does; `learned` as in `Window`, one for each record."""
        given = self._tasks[task].given
        if (lists_of := self._tasks[task].lists) is None:
            every: Sequence[NDArray[np.bool_] | None] = [None] * len(chosen) if learned is None else learned
            found = zip(chosen.tolist(), draws.tolist(), every, strict=True)
            return Examples.of([self.encode(task, given(records[index], texts, *more)) for index, *more in found])
        lists = lists_of(records, chosen)
        lengths = lists.lengths * self.rows.positions_per_item + 1
        starts = np.cumsum(lengths) - lengths
        is_item = np.ones(lengths.sum(), np.bool_)
        is_item[starts] = False  # the task token
        tokens = np.full(len(is_item), self.tokenizer.task_token(self.tasks[task]))
        tokens[is_item] = self.rows.positions(lists.items)
        targets = np.zeros(len(is_item), np.bool_)
        may = lists.targets if learned is None else lists.targets & np.concatenate(learned)
        targets[is_item] = self.rows.spread(may)
        lengths[~np.logical_or.reduceat(targets, starts)] = 0  # not an example
        return Examples(tokens, targets, starts, lengths, np.full(len(lengths), task))

    def prompt(self, task: str, parts: Sequence[Part]) -> NDArray[np.int64]:
        """Return a task's prompt, which its answer follows: the task token, then `parts`."""
        return np.concatenate([tokens for tokens, _ in (self._marker(task), *map(self._piece, parts))])

    def history_prompt(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the prompt that the next item after a history follows; the history may be empty."""
        return np.concatenate([self._marker("history_to_item")[0], self.rows.positions(items)])

    def require_room(self) -> None:
        """Raise an error if the longest example of a task does not fit into a row.

        Raises:
            ConfigError: it does not fit.
        """
        if self.seq_len is None:
            return
        # Numbers do not share tokens with their neighbors, so this text exceeds every limit and is cut to it.
        longest = " ".join(map(str, range(max(self.max_tokens.values()) + 1)))
        record = {"item": 0, "items": np.zeros(PROMPT_ITEMS + 1, np.int32), "first_target": PROMPT_ITEMS}
        table = pa.table({"title": [longest], "description": [longest], "brand": [longest], "categories": [[longest]]})
        texts = ItemTexts(table, Evidence([longest], [[longest]], [[1.0]]))
        for number, name in enumerate(self.tasks):
            needed = len(self.encode(number, self._tasks[number].given(record, texts)).tokens)
            if needed > self.seq_len and self._tasks[number].needs:
                raise ConfigError(
                    f"an example of {name} may take {needed} tokens, a row holds {self.seq_len}",
                    rule="a row holds its examples whole, texts cut to train.max_title_tokens="
                    f"{self.max_tokens['title']} and train.max_caption_tokens={self.max_tokens['caption']}",
                    remedy=f"set stream.seq_len={needed} or more, or lower those two",
                )

    def _marker(self, task: str) -> Piece:
        return np.array([self.tokenizer.task_token(task)]), np.array([False])

    def _piece(self, part: Part) -> Piece:
        if isinstance(part, Text):
            tokens = self._remembered(part.text, part.field)
            return tokens, np.full(len(tokens), part.target)
        return self.rows.positions(part.items), self.rows.spread(part.targets)

    def _text(self, text: str, field: Field) -> NDArray[np.int64]:
        return np.array([*self.tokenizer.encode(text)[: self.max_tokens[field]], self.tokenizer.end])

    def _fitting(self, pieces: list[Piece], parts: Sequence[Part]) -> list[Piece]:
        """Return the pieces, task token first, without the oldest input texts if the example is too long."""
        to_read = [number for number, part in enumerate(parts, start=1) if isinstance(part, Text) and not part.target]
        too_many = sum(len(tokens) for tokens, _ in pieces) - (self.seq_len or np.inf)
        left_out = set()
        for number in to_read[:-1]:
            if too_many <= 0:
                break
            left_out.add(number)
            too_many -= len(pieces[number][0])
        return [piece for number, piece in enumerate(pieces) if number not in left_out]
