from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from tests.stream.single import one_by_one
from trialign.config.train import StreamConfig
from trialign.errors import ConfigError
from trialign.stream.blocks import Record
from trialign.stream.lanes import LaneSource
from trialign.stream.module import LaneDataModule, TrainedRows, pl
from trialign.stream.rows import RowBatch, TokenizedExample
from trialign.stream.sample_log import SampleLog
from trialign.stream.shards import BlockStore


def encode(source: int, record: Record) -> TokenizedExample:
    tokens = record["items"].astype(np.int64)
    return TokenizedExample(tokens, np.ones(len(tokens), np.bool_), task=source)


def datamodule(store: BlockStore, **changes: Any) -> LaneDataModule:
    others: dict[str, Any] = {"seed": 3, "micro_batch_size": 2}
    others |= {
        name: changes.pop(name) for name in ("seed", "micro_batch_size", "sample_log", "skip") if name in changes
    }
    settings = replace(StreamConfig(global_batch_size=6, seq_len=24, packing_buffer=16), **changes)
    return LaneDataModule([LaneSource("a", store)], one_by_one(encode), settings, **others)


class Recorder(pl.LightningModule):
    """Learns nothing and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown: list[list[list[int]]] = []

    def training_step(self, batch: RowBatch) -> torch.Tensor:
        self.shown.append(batch.tokens_RT.tolist())
        return self.weight * batch.step_targets

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: LaneDataModule, folder: Path, max_steps: int, checkpoint: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        accumulate_grad_batches=3,
        callbacks=[TrainedRows()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{max_steps}.ckpt")
    return module


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_fit_is_shown_what_the_uninterrupted_one_was(
    tmp_path: Path, history_store: Callable[..., BlockStore], workers: int
) -> None:
    store = history_store(50, 7)
    whole = fit(datamodule(store), tmp_path, max_steps=7)
    assert len(whole.shown) == 21
    first = fit(datamodule(store, workers=workers), tmp_path, max_steps=3)
    second = fit(datamodule(store, workers=workers), tmp_path, max_steps=7, checkpoint=tmp_path / "3.ckpt")
    assert first.shown + second.shown == whole.shown


def test_skipped_batches_are_read_and_not_trained_on_over_a_resume_too(
    tmp_path: Path, history_store: Callable[..., BlockStore]
) -> None:
    store = history_store(50, 7)
    whole = fit(datamodule(store), tmp_path, max_steps=7).shown
    first = fit(datamodule(store, skip=[2, 6]), tmp_path, max_steps=2)
    data = datamodule(store, skip=[2, 6])
    second = fit(data, tmp_path, max_steps=5, checkpoint=tmp_path / "2.ckpt")
    # Three micro-batches a step; the second and the sixth of seven global batches are left out.
    assert first.shown + second.shown == [*whole[:3], *whole[6:15], *whole[18:]]
    assert data.state_dict()["read"] == 7


def test_the_state_is_of_rows_trained_on_not_of_rows_loaded(history_store: Callable[..., BlockStore]) -> None:
    data = datamodule(history_store(50, 7))
    batches = iter(data.train_dataloader())
    first = next(batches)
    next(batches)
    data.mark(first)
    assert data.state_dict()["lanes"] == [[0, 1], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 4}, "seed 3 -> 4"),
        ({"seq_len": 32}, "seq_len 24 -> 32"),
        ({"global_batch_size": 8}, "global_batch_size 6 -> 8"),
    ],
)
def test_the_state_of_another_stream_is_refused(
    history_store: Callable[..., BlockStore], change: dict[str, int], named: str
) -> None:
    store = history_store(50, 7)
    with pytest.raises(ConfigError, match=named):
        datamodule(store, **change).load_state_dict(datamodule(store).state_dict())


def test_other_data_is_another_stream(history_store: Callable[..., BlockStore]) -> None:
    with pytest.raises(ConfigError, match=r"sources \[\['a', 50, 7, 1\.0, .*\]\] -> \[\['a', 51, 7, 1\.0, .*\]\]"):
        datamodule(history_store(51, 7)).load_state_dict(datamodule(history_store(50, 7)).state_dict())


def test_the_state_survives_json(history_store: Callable[..., BlockStore]) -> None:
    data = datamodule(history_store(50, 7))
    data.mark(next(iter(data.train_dataloader())))
    state = data.state_dict()
    other = datamodule(history_store(50, 7))
    other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == state


def test_workers_are_lowered_with_a_warning(
    history_store: Callable[..., BlockStore], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        datamodule(history_store(50, 7), workers=4).train_dataloader()
    assert "stream.workers=4 lowered to 3" in caplog.text


def test_lanes_that_do_not_divide_are_refused(history_store: Callable[..., BlockStore]) -> None:
    with pytest.raises(ConfigError, match="micro_batch_size=3 or 6"):
        datamodule(history_store(50, 7), micro_batch_size=4).train_dataloader()


def test_epochs_become_steps(history_store: Callable[..., BlockStore]) -> None:
    data = datamodule(history_store(600, 50), packing_buffer=64)
    one = data.steps(1.0)
    # 600 histories of 5 tokens in the mean, 24 to a row, 6 rows a step.
    assert one == pytest.approx(600 * 5 / 24 / 6, rel=0.15)
    assert data.steps(10.0) == pytest.approx(10 * one, rel=0.05)
    assert data.steps(0.0001) == 1


def test_damaged_blocks_are_warned_of_once_and_counted_over_a_resume(
    history_store: Callable[..., BlockStore], caplog: pytest.LogCaptureFixture
) -> None:
    store = history_store(50, 7)
    shard = Path(store.folder) / "shards-000002.tar"  # blocks 6 and 7, the latter of one record
    shard.write_bytes(shard.read_bytes()[:100])
    data = datamodule(store, damaged="skip")
    with caplog.at_level(logging.WARNING):
        for batch in islice(data.train_dataloader(), 60):
            data.mark(batch)
    assert len(caplog.records) == 2
    assert "skipped 7 records: block 6 in " in caplog.text
    assert "shards-000002.tar ends after" in caplog.text
    assert data.damage() == {"blocks_skipped": 2, "records_skipped": 8}
    resumed = datamodule(store, damaged="skip")
    resumed.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert resumed.damage() == data.damage()
    assert datamodule(store).damage() == {}


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return a sample log as its documentation reads it."""
    return [line for path in sorted(folder.iterdir()) for line in pyarrow.json.read_json(path).to_pylist()]


def held(batches: list[RowBatch]) -> list[tuple[int, int, set[str]]]:
    """Return (step, lane, users), one micro-batch of all lanes a step; `encode` writes the user as every token."""
    return [
        (step, int(lane), {str(token) for token in tokens[segments > 0].tolist()})
        for step, batch in enumerate(batches, start=1)
        for lane, tokens, segments in zip(batch.lanes_R, batch.tokens_RT, batch.segments_RT, strict=True)
    ]


def test_the_sample_log_holds_what_was_trained_on_and_a_resumed_run_goes_on_in_it(
    tmp_path: Path, history_store: Callable[..., BlockStore]
) -> None:
    store = history_store(50, 7)
    folder = tmp_path / "sample_log"

    def steps(data: LaneDataModule, number: int) -> list[RowBatch]:
        batches = list(islice(data.train_dataloader(), number))
        for batch in batches:
            data.mark(batch)
        return batches

    data = datamodule(store, micro_batch_size=6, sample_log=folder)
    batches = steps(data, 9)
    state = data.state_dict()
    steps(data, 5)  # trained on after the checkpoint, and lost with the process
    assert max(line["step"] for line in lines(folder)) == 9  # the rest is not yet on disk
    data.teardown("fit")
    assert max(line["step"] for line in lines(folder)) == 14
    with (folder / "rank-00000.jsonl").open("a") as file:
        file.write('{"step": 15, "la')  # half a line, as kill -9 leaves it
    resumed = datamodule(store, micro_batch_size=6, sample_log=folder)
    resumed.load_state_dict(state)
    batches += steps(resumed, 4)
    resumed.teardown("fit")
    found: dict[tuple[int, int], set[str]] = {}
    for line in lines(folder):
        found.setdefault((line["step"], line["lane"]), set()).update(line["users"])
        assert line["task"] == "a"
    assert [(step, lane, users) for (step, lane), users in sorted(found.items())] == sorted(held(batches))


def test_a_run_that_starts_again_starts_its_sample_log_again(
    tmp_path: Path, history_store: Callable[..., BlockStore]
) -> None:
    for _ in range(2):
        data = datamodule(history_store(50, 7), micro_batch_size=6, sample_log=tmp_path / "sample_log")
        data.mark(next(iter(data.train_dataloader())))
        data.teardown("fit")
    # A row may hold more than one epoch of so few records: a line each.
    found = [(line["step"], line["lane"], line["epoch"]) for line in lines(tmp_path / "sample_log")]
    assert len(found) == len(set(found))
    assert {(step, lane) for step, lane, _ in found} == {(1, lane) for lane in range(6)}


def test_fewer_ranks_drop_the_later_lines_of_ranks_that_are_no_more(tmp_path: Path) -> None:
    for rank in range(3):
        sample_log = SampleLog(tmp_path, ["a"], rank=rank, world_size=3, step=0)
        for step in (1, 2, 3):
            sample_log.write(step, rank, [(0, 0, f"user {rank}"), (0, 1, f"other {rank}")])
        sample_log.close()
    SampleLog(tmp_path, ["a"], rank=0, world_size=1, step=2).close()
    assert sorted({(line["step"], line["lane"]) for line in lines(tmp_path)}) == [
        (step, lane) for step in (1, 2) for lane in range(3)
    ]
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1] * 6


def _train_on_rank(rank: int, store: BlockStore, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    data = datamodule(store, micro_batch_size=3)
    for batch in islice(data.train_dataloader(), 5):
        data.mark(batch)
    (folder / f"{rank}.json").write_text(json.dumps(data.state_dict()))
    dist.destroy_process_group()


def test_two_ranks_gather_one_state_that_one_rank_goes_on_from(
    tmp_path: Path, history_store: Callable[..., BlockStore]
) -> None:
    store = history_store(50, 7)
    torch.multiprocessing.start_processes(_train_on_rank, (store, tmp_path), nprocs=2, start_method="fork")
    states = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert states[0] == states[1]
    resumed, alone = datamodule(store, micro_batch_size=6), datamodule(store, micro_batch_size=6)
    resumed.load_state_dict(states[0])
    expected = [batch.tokens_RT for batch in islice(alone.train_dataloader(), 8)][5:]
    found = [batch.tokens_RT for batch in islice(resumed.train_dataloader(), 3)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
