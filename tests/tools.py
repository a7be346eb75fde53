"""Test tools: several ranks on the CPU of one machine, and a tiny world to train on."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import ibis
import numpy as np
import pyarrow as pa
from typing_extensions import override

from trialign.config.data import DataConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.config.train import (
    BackboneConfig,
    ConfigFileConfig,
    PretrainedConfig,
    ScratchConfig,
    StreamConfig,
    TrainConfig,
)
from trialign.data.dataset import Dataset
from trialign.data.prepare import prepare
from trialign.data.source import RawData, Source
from trialign.embed.store import Modality
from trialign.enrich.evidence import Evidence
from trialign.foreign import Json
from trialign.generate.task import ItemTexts
from trialign.semid.table import SIDTable

Settings = TypeVar("Settings")

NUM_ITEMS, NUM_USERS, LENGTH = 12, 60, 6

RING_SETTINGS: dict[str, Json] = {
    "seed": 0,
    "max_history": 8,
    "backbone": {
        "architecture": "qwen3",
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 64,
        "dropout": 0.1,
        "vocab_size": 300,
    },
    "items": {"encoding": "tokens", "id_embedding": False, "features": [], "joint_nodes": 0},
    "tasks": {"history_to_item": 1.0, "title_to_item": 1.0, "item_to_title": 0.5, "titles_to_title": 0.25},
    "epochs": 1.0,
    "steps": None,
    "learning_rate": 1e-2,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
    "warmup": 0.05,
    "max_grad_norm": 1.0,
    "precision": "32-true",
    "max_title_tokens": 16,
    "stream": {"global_batch_size": 4, "seq_len": 64, "packing_buffer": 32, "workers": 0},
    "runtime": {
        "accelerator": "cpu",
        "devices": 1,
        "nodes": 1,
        "strategy": "single",
        "micro_batch_size": 2,
        "activation_checkpointing": False,
        "checkpoint_every": 0,
        "patience_minutes": 5.0,
        "on_loss_spike": "stop",
        "loss_spike_threshold": 0.0,
        "log_every": 10,
    },
}


class Ring(Source):
    """A source of data: each user walks on from item to item.

    Args:
        last_by: seed by which each user's last item is drawn at random; None: it is the next one too.
        every_field: whether items have a description, a brand and categories, not titles alone.
    """

    def __init__(self, last_by: int | None = None, *, every_field: bool = False) -> None:
        self._draws = None if last_by is None else np.random.default_rng(last_by)
        self._every_field = every_field

    def sources(self) -> dict[str, Path]:
        """Read no file."""
        return {}

    @override
    def load(self, folder: Path) -> RawData:
        """Return the walks of all users and the things they meet."""
        events = [
            {"user": f"u{user:02d}", "item": f"{(user + step) % NUM_ITEMS:02d}", "order": step}
            for user in range(NUM_USERS)
            for step in range(LENGTH)
        ]
        if self._draws is not None:
            for event in events[LENGTH - 1 :: LENGTH]:
                event["item"] = f"{self._draws.integers(NUM_ITEMS):02d}"
        items = [
            {
                "item": f"{item:02d}",
                "title": f"thing {item}",
                "description": f"things of size {item}" * self._every_field,
                "brand": f"brand {item % 3}" * self._every_field,
                "categories": ["things", f"kind {item % 2}"] * self._every_field,
            }
            for item in range(NUM_ITEMS)
        ]
        schema = pa.schema(
            {name: pa.string() for name in ("item", "title", "description", "brand")}
            | {"categories": pa.list_(pa.string())}
        )
        table = pa.Table.from_pylist(items, schema=schema)
        return RawData(events=ibis.memtable(pa.Table.from_pylist(events)), items=table, images=None, has_clock=False)


def catalogue_texts(
    titles: Sequence[str],
    captions: Sequence[str] = (),
    interests: Sequence[Sequence[str]] = (),
    **columns: Sequence[str] | Sequence[Sequence[str]],
) -> ItemTexts:
    """Return the texts of a catalogue that has only these fields; `columns`: description, brand, categories."""
    made = Evidence(list(captions), [list(found) for found in interests], [])
    return ItemTexts(pa.table({"title": pa.array(titles, pa.string()), **columns}), made)


def train_ring(
    dataset: Dataset,
    modalities: Mapping[str, Modality],
    sids: SIDTable,
    folder: Path,
    *,
    seed: int,
    max_history: int,
    stream: Mapping[str, Json],
    runtime: Mapping[str, Json],
    enriched: Evidence | None = None,
    tracking: Tracking | None = None,
    **train: Any,
) -> dict[str, Json]:
    """Train a generator by settings as plain mappings, e.g. `**RING_SETTINGS | {"steps": 3}`; returns its counts."""
    from trialign.generate.build import TrainingData
    from trialign.generate.train import train as train_generator

    data = TrainingData(dataset, sids, max_history, modalities, enriched)
    return train_generator(
        data,
        folder,
        settings_of(TrainConfig, train),
        settings_of(StreamConfig, stream),
        settings_of(RuntimeConfig, runtime),
        seed=seed,
        tracking=tracking,
    )


def settings_of(kind: type[Settings], values: Mapping[str, Json]) -> Settings:
    """Return a dataclass of settings from plain mappings, nested as it is; what they leave out keeps its default."""
    kinds = get_type_hints(kind)
    return kind(**{name: _field_of(kinds[name], value) for name, value in values.items()})


def _field_of(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if kind is BackboneConfig:
        kind = PretrainedConfig if "model" in value else ConfigFileConfig if "file" in value else ScratchConfig
    found = next((part for part in (kind, *get_args(kind)) if isinstance(part, type) and is_dataclass(part)), None)
    return value if found is None else settings_of(found, value)


def ring_dataset(folder: Path, last_by: int | None = None, *, every_field: bool = False) -> Dataset:
    """Prepare the world in `folder`; the others as of `Ring`."""
    settings = DataConfig(max_history=8, block_records=16, shard_blocks=2, images_per_shard=10, buckets=1)
    prepare(Ring(last_by, every_field=every_field), folder, settings)
    return Dataset(folder)


def run_ranks(target: Callable[..., None], world_size: int, *args: Any, timeout: float = 240.0) -> list[int]:
    """Run `target(*args)` in that many new processes, which find each other as torchrun's would.

    As soon as one ends otherwise than well the others are killed, as a cluster's launcher does.

    Args:
        target: a function; it runs in forks of this process.
        world_size: W.
        args: of the function.
        timeout: seconds until all are killed.

    Returns:
        The exit code of every rank; a negative one is the signal that ended it.

    Raises:
        TimeoutError: they did not end in time.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        context.Process(target=_as_rank, args=(rank, world_size, port, target, args)) for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    try:
        _wait(ranks, timeout)
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
            process.join()
    return [process.exitcode or 0 for process in ranks]


def _wait(ranks: Sequence[BaseProcess], timeout: float) -> None:
    end = time.monotonic() + timeout
    while alive := [process for process in ranks if process.exitcode is None]:
        multiprocessing.connection.wait([process.sentinel for process in alive], max(0.0, end - time.monotonic()))
        if any(process.exitcode for process in ranks):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{len(alive)} of {len(ranks)} ranks still ran after {timeout:.0f} s")


def _as_rank(rank: int, world_size: int, port: int, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests.tools",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
    logging.basicConfig(force=True)  # to standard error, not to what the test's own process collects
    target(*args)
