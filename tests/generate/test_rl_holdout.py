"""What is held out is read and not learned; what is learned later is exactly what was held out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trialign.config.train import StreamConfig
from trialign.data.dataset import Dataset
from trialign.generate.encodings.encoding import ItemRows
from trialign.generate.encodings.position import PositionRows
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.rl_holdout import RLHoldout
from trialign.generate.task import NO_TEXTS, ItemTexts, Window
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace
from trialign.stream.blocks import TRAIN, Records
from trialign.stream.lanes import LaneSource, LaneStream
from trialign.stream.rl_holdout import held_out_for_rl

ITEMS = np.arange(10) % 7


def windows(*spans: tuple[str, int, int]) -> Records:
    """Windows (user, start, stop) of histories that go through ITEMS, one event per unit of time."""
    rows: list[dict[str, Any]] = [
        {"user": user, "items": ITEMS[a:b].tolist(), "times": list(range(100 + a, 100 + b)), "first_target": 0}
        for user, a, b in spans
    ]
    return Records(pa.RecordBatch.from_pylist(rows, schema=TRAIN))


def test_a_position_has_one_fate_whatever_window_it_is_read_in() -> None:
    whole = held_out_for_rl(windows(("u", 0, 10)), np.array([0]), 0.5)
    assert 0 < whole.sum() < 10
    parts = held_out_for_rl(windows(("v", 0, 3), ("u", 2, 7), ("u", 5, 10)), np.array([1, 2]), 0.5)
    assert parts.tolist() == [*whole[2:7], *whole[5:10]]
    assert (whole != held_out_for_rl(windows(("v", 0, 10)), np.array([0]), 0.5)).any()


def test_the_same_item_at_another_time_is_another_position() -> None:
    row = {"user": "u", "items": [3] * 40, "times": list(range(40)), "first_target": 0}
    found = held_out_for_rl(Records(pa.RecordBatch.from_pylist([row], schema=TRAIN)), np.array([0]), 0.5)
    assert 0 < found.sum() < 40


def test_shares_are_met_and_a_larger_one_holds_the_smaller() -> None:
    records = windows(*((f"user {number}", 0, 10) for number in range(1000)))
    small, large = (held_out_for_rl(records, np.arange(1000), share) for share in (0.2, 0.5))
    assert small.mean() == pytest.approx(0.2, abs=0.015)
    assert large.mean() == pytest.approx(0.5, abs=0.02)
    assert not (small & ~large).any()
    assert not held_out_for_rl(records, np.arange(1000), 0.0).any()


def test_windows_are_encoded_together_as_one_by_one(tokenizer: TextTokenizer) -> None:
    template = Template(tokenizer, PositionRows(tokenizer.size), ["history_to_item"], max_title_tokens=8)
    rows = [
        {"user": user, "items": items, "times": list(range(len(items))), "first_target": first}
        for user, items, first in (("u", [1, 4, 2], 0), ("v", [3, 0, 5, 6], 2), ("w", [2], 0))
    ]
    records = Records(pa.RecordBatch.from_pylist(rows, schema=TRAIN))
    together = template.encode_many(NO_TEXTS, 0, records, np.array([2, 0, 1]), np.zeros(3))
    spans = [slice(a, a + length) for a, length in zip(together.starts, together.lengths, strict=True)]
    assert together.lengths.tolist() == [0, 4, 5]
    for number, row in ((1, rows[0]), (2, rows[1])):
        alone = template.encode(0, Window(np.array(row["items"]), first_target=row["first_target"]))
        np.testing.assert_array_equal(together.tokens[spans[number]], alone.tokens)
        np.testing.assert_array_equal(together.targets[spans[number]], alone.targets)


@pytest.mark.parametrize("encoding_name", ["tokens", "position"])
def test_sft_and_what_follows_it_share_out_the_positions(
    encoding_name: str, tokenizer: TextTokenizer, sids: SIDTable
) -> None:
    space = TokenSpace(tokenizer.size, sids.num_levels, sids.codebook_size)
    encoding: ItemRows = TokensRows(sids.codes_NL, space) if encoding_name == "tokens" else PositionRows(tokenizer.size)
    template = Template(tokenizer, encoding, ["history_to_item"], max_title_tokens=8)
    records, chosen = windows(("u", 0, 10), ("v", 0, 6), ("w", 0, 2)), np.array([2, 0, 1])
    encode, draws = partial(template.encode_many, NO_TEXTS), np.zeros(3)
    everything = encode(0, records, chosen, draws)
    sft, later = (
        RLHoldout(encode, template.tasks, 0.4, only=only)(0, records, chosen, draws) for only in (False, True)
    )
    np.testing.assert_array_equal(sft.tokens, everything.tokens)
    np.testing.assert_array_equal(sft.targets | later.targets, everything.targets)
    assert not (sft.targets & later.targets).any()
    assert later.targets.sum() == encoding.positions_per_item * sum(
        held_out_for_rl(records, np.array([row]), 0.4)[1:].sum() for row in chosen
    )
    for found in (sft, later):
        learns = np.logical_or.reduceat(found.targets, found.starts)
        np.testing.assert_array_equal(found.lengths, np.where(learns, everything.lengths, 0))


def test_the_catalogue_is_learned_whole_and_a_stream_goes_on_as_it_would(
    dataset: Dataset, table: SIDTable, tokenizer: TextTokenizer
) -> None:
    encoding = TokensRows(table.codes_NL, TokenSpace(tokenizer.size, 3, 3))
    template = Template(tokenizer, encoding, ["history_to_item", "title_to_item"], max_title_tokens=8)
    encode, draws = partial(template.encode_many, ItemTexts(dataset.items)), np.zeros(4)
    holdout = RLHoldout(encode, template.tasks, 0.3)
    sources = [
        LaneSource("history_to_item", dataset.store("train")),
        LaneSource("title_to_item", dataset.store("items")),
    ]
    items = Records(dataset.store("items").read(0))
    np.testing.assert_array_equal(
        holdout(1, items, np.arange(4), draws).targets, encode(1, items, np.arange(4), draws).targets
    )
    shape = StreamConfig(global_batch_size=2, seq_len=64, packing_buffer=32)
    whole = LaneStream(sources, holdout, shape, seed=0).rows()
    rows = [next(whole) for _ in range(12)]
    state = {row.lane: (row.start, row.row) for row in rows[:6]}
    resumed = LaneStream(sources, holdout, shape, seed=0, state=state).rows()
    for row in rows[6:]:
        again = next(resumed)
        np.testing.assert_array_equal(again.tokens, row.tokens)
        np.testing.assert_array_equal(again.targets, row.targets)
