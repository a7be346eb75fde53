"""Training on histories: every position in one pass of packed rows, against one padded prompt per example.

    python -m benchmarks.train --data DIR --json benchmarks/results/train.json

`--data` holds amazon2014_beauty/. Both ways train the same model with the same loss and optimizer on the same
histories; a history of n items is n - 1 examples to the peer, which is how next-item prediction reaches most trainers
of language models: one prompt, one answer, shuffled, padded to the longest of its batch. The second peer groups prompts
by length, which leaves hardly any padding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trialign.launch import prepare

from benchmarks.record import Row, add_data, alone, arguments, compare, paired_seconds, record
from trialign.config.compose import compose
from trialign.config.train import ScratchConfig
from trialign.data.dataset import Dataset
from trialign.generate.backbone import build_backbone, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.loss import autoregressive_loss
from trialign.generate.model import Generator
from trialign.generate.task import Window
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.runtime.optim import adamw
from trialign.semid.table import SIDTable
from trialign.stream.rows import Examples, fill_rows, pack

SEQ_LEN, LANES = 256, 8
NUM_HISTORIES, REPEATS = 256, 5
PEER_BATCH = 64  # prompts per step: padded, about as many tokens as one of our steps

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Tokens, positions and targets, each [R, T]."""


def histories_of(data: Path, folder: Path) -> tuple[list[np.ndarray], int]:
    """Return the train histories of Beauty in hash order, each its last 50 items, and the number of items."""
    stage = prepare.run(compose("prepare", [f"run={folder}", "data=beauty", f"data.root={data}"]))
    dataset = Dataset(stage.folder)
    return [items[-50:] for items in dataset.train_histories() if len(items) > 1], dataset.num_items


def model_of(num_items: int, encoding: str) -> tuple[Generator, Template]:
    """Return the default generator with generated semantic IDs of 3 x 256 codes."""
    draws = np.random.default_rng(0)
    codes_NL = np.stack(np.unravel_index(draws.choice(256**3, num_items, replace=False), (256,) * 3), axis=1)
    sids = SIDTable(codes_NL, 256, [str(item) for item in range(num_items)], "reassign")
    tokenizer = TextTokenizer.train(["a title"], vocab_size=300)
    backbone = build_backbone(ScratchConfig(), vocab_size=tokenizer.size, max_positions=SEQ_LEN, seed=0)
    options = {"encoding": encoding, "id_embedding": False, "joint_nodes": 65536, "features_NF": None}
    items = build_items(sids, text_table(backbone).detach(), seed=0, **options)
    return Generator(backbone, items, dropout=0.1), Template(tokenizer, items.rows, ["history_to_item"], 32)


def packed(template: Template, histories: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Yield our steps: whole histories side by side in rows, a target at every item but the first."""
    examples = Examples.of([template.encode(0, Window(items, 0)) for items in histories])
    rows = pack(examples.lengths, SEQ_LEN)
    tokens_RT, targets_RT, _, positions_RT, _ = map(torch.from_numpy, fill_rows(examples, rows, SEQ_LEN))
    for start in range(0, len(rows), LANES):
        step = slice(start, start + LANES)
        yield tokens_RT[step].long(), positions_RT[step].long(), targets_RT[step]


def prompts(template: Template, histories: Sequence[np.ndarray], *, by_length: bool) -> Iterator[Batch]:
    """Yield the peer's steps: each item after its prompt, shuffled or prompts of about one length together, padded."""
    examples = [
        template.encode(0, Window(items[: end + 1], end)) for items in histories for end in range(1, len(items))
    ]
    draws = np.random.default_rng(0)
    examples = [examples[place] for place in draws.permutation(len(examples)).tolist()]
    if by_length:
        examples.sort(key=lambda example: len(example.tokens))
    for start in draws.permutation(range(0, len(examples), PEER_BATCH)).tolist():
        batch = examples[start : start + PEER_BATCH]
        tokens_BT, targets_BT = (
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(getattr(found, part)) for found in batch], True)
            for part in ("tokens", "targets")
        )
        yield tokens_BT, torch.arange(tokens_BT.shape[1]).expand(len(batch), -1), targets_BT


class Clock:
    """Adds up seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count what passed since the last lap as `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


def train_on(generator: Generator, optimizer: Any, batches: Iterator[Batch], precision: str) -> tuple[Clock, int, int]:
    """Take one optimizer step per batch; return where the time went, the tokens read and the targets learned."""
    clock, tokens, learned = Clock(), 0, 0
    for tokens_RT, positions_RT, targets_RT in batches:
        clock.lap("data")
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            groups = generator(tokens_RT, positions_RT, targets_RT, torch.zeros_like(tokens_RT))
            sums = autoregressive_loss(groups, 1)
        clock.lap("forward")
        count = int(targets_RT.sum())
        (sums.total / count).backward()
        clock.lap("backward")
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.lap("optimizer")
        tokens, learned = tokens + tokens_RT.numel(), learned + count
    return clock, tokens, learned


def measure(histories: Sequence[np.ndarray], num_items: int, encoding: str, precision: str) -> list[Row]:
    """Return our rate against the peer's, and where our time goes."""
    generator, template = model_of(num_items, encoding)
    optimizer = adamw(generator.train(), learning_rate=1e-3, weight_decay=0.05)
    ways: dict[str, Callable[..., Iterator[Batch]]] = {
        "ours": packed,
        "a prompt per example": partial(prompts, by_length=False),
        "a prompt per example, by length": partial(prompts, by_length=True),
    }
    found: dict[str, list[tuple[Clock, int, int]]] = {way: [] for way in ways}

    def run(way: str) -> None:
        found[way].append(train_on(generator, optimizer, ways[way](template, histories), precision))

    taken = dict(zip(ways, paired_seconds(*(partial(run, way) for way in ways), repeats=REPEATS), strict=True))
    assert len({learned for runs in found.values() for _, _, learned in runs}) == 1, "all learn the same targets"
    name = f"{encoding}, {precision}"
    rates = {way: len(histories) / seconds for way, seconds in taken.items()}
    rows = [
        compare("train.histories", name, rates["ours"], peer, rates[peer], "histories/s") for peer in list(ways)[1:]
    ]
    clock, tokens, _ = min(found["ours"][1:], key=lambda run: sum(run[0].seconds.values()))
    total = sum(clock.seconds.values())
    rows.append(alone("train.tokens", f"{name}, padding included", tokens / total, "tokens/s"))
    return rows + [alone(f"train.{part}", name, 100 * spent / total, "%") for part, spent in clock.seconds.items()]


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    add_data(parser)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        histories, num_items = histories_of(asked.data, Path(folder))
    rows: list[Row] = []
    for encoding in ("tokens", "position"):
        for precision in ("32-true", "bf16-mixed"):
            rows += measure(histories[:NUM_HISTORIES], num_items, encoding, precision)
    record(rows, asked.json)


if __name__ == "__main__":
    main()
