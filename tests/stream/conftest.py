"""Blocks of records written to disk, for the tests of `trialign.stream`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from trialign.stream.blocks import TRAIN
from trialign.stream.shards import BlockStore, ShardWriter


@pytest.fixture
def history_store(tmp_path: Path) -> Callable[..., BlockStore]:
    """Return a function that writes `num_records` train records; record i is the history [i, i, ...] of some length."""

    def make(num_records: int, records_per_block: int, *, longest: int = 9, name: str = "train") -> BlockStore:
        folder = tmp_path / f"{name}-{num_records}-{records_per_block}-{longest}"
        lengths = np.random.default_rng(num_records).integers(1, longest + 1, num_records)
        lists = [[i] * int(length) for i, length in enumerate(lengths)]
        columns = [[str(i) for i in range(num_records)], lists, lists, [0] * num_records]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, TRAIN, strict=True)]
        with ShardWriter(folder, records_per_block=records_per_block, blocks_per_shard=3) as writer:
            writer.write(pa.RecordBatch.from_arrays(arrays, schema=TRAIN))
        return BlockStore(folder)

    return make
