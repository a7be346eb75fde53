"""From the records of tasks to tokens: marker first, then text and items as the task lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialign.data.blocks import Record, Records
from trialign.data.rows import Examples, TokenizedExample
from trialign.generate.encoding import ItemEncoding
from trialign.generate.task import Text
from trialign.generate.tasks import load_task
from trialign.generate.tokenizer import TextTokenizer


class Template:
    """Writes examples of a fixed list of tasks in one token space.

    Args:
        tokenizer: text to tokens.
        encoding: items to tokens.
        tasks: names; a task's place in the list is its number in examples and losses.
        max_title_tokens: a longer text is cut.
    """

    def __init__(
        self, tokenizer: TextTokenizer, encoding: ItemEncoding, tasks: Sequence[str], max_title_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.tasks = list(tasks)
        self.max_title_tokens = max_title_tokens
        self._tasks = [load_task(name) for name in tasks]

    def encode(self, task: int, record: Record) -> TokenizedExample:
        """Return the example that task number `task` makes of a record; empty where there is nothing to learn."""
        tokens = [np.array([self.tokenizer.marker(self.tasks[task])])]
        targets = [np.array([False])]
        for part in self._tasks[task].parts(record):
            if isinstance(part, Text):
                text = self.tokenizer.encode(part.text)[: self.max_title_tokens]
                tokens.append(np.array([*text, self.tokenizer.end]))
                targets.append(np.full(len(text) + 1, part.target))
            else:
                tokens.append(self.encoding.positions(part.items))
                targets.append(self.encoding.spread(part.targets))
        example = TokenizedExample(tokens=np.concatenate(tokens), targets=np.concatenate(targets), task=task)
        return example if example.targets.any() else TokenizedExample(example.tokens[:0], example.targets[:0], task)

    def encode_many(self, task: int, records: Records, chosen: NDArray[np.int64]) -> Examples:
        """Return what `encode` makes of each of the chosen records of a block."""
        if (lists_of := self._tasks[task].lists) is None:
            return Examples.of([self.encode(task, records[index]) for index in chosen.tolist()])
        lists = lists_of(records, chosen)
        lengths = lists.lengths * self.encoding.positions_per_item + 1
        starts = np.cumsum(lengths) - lengths
        is_item = np.ones(lengths.sum(), np.bool_)
        is_item[starts] = False  # there stands the marker
        tokens = np.full(len(is_item), self.tokenizer.marker(self.tasks[task]))
        tokens[is_item] = self.encoding.positions(lists.items)
        targets = np.zeros(len(is_item), np.bool_)
        targets[is_item] = self.encoding.spread(lists.targets)
        lengths[~np.logical_or.reduceat(targets, starts)] = 0  # nothing to learn
        return Examples(tokens, targets, starts, lengths, np.full(len(lengths), task))

    def history_prompt(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return what the generator reads before it writes the item after a history; the history may be empty."""
        marker = np.array([self.tokenizer.marker("history_to_item")])
        return np.concatenate([marker, self.encoding.positions(items)])
