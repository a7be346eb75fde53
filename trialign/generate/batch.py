"""Recommend to many users: a Parquet file per block of them, made by any number of processes, joined by a manifest."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.config.evaluate import RecommendConfig
from trialign.data.many_users import ManyUsers, UserBlock
from trialign.generate.ranker import GeneratorRanker
from trialign.lock import HeldError
from trialign.progress import Progress
from trialign.stage import Stage
from trialign.types import NO_ITEM, Items

log = logging.getLogger("trialign")

FOLDER = "recommendations"
"""Of the blocks, below that of the stage."""


def recommend_to_many(
    stage: Stage,
    people: ManyUsers,
    ranker: GeneratorRanker,
    keys: Sequence[str],
    stock_N: NDArray[np.bool_] | None,
    wanted: RecommendConfig,
    *,
    rebuild: bool,
) -> None:
    """Write the blocks of a shard that are missing; whoever finds all blocks there finishes the stage.

    Args:
        stage: opened and not finished.
        people: the users.
        ranker: the generator.
        keys: of all items.
        stock_N: bool, the items that may be recommended; None: all.
        wanted: k, the rule for seen items, and which shard.
        rebuild: clear the folder first.

    Raises:
        StageError: the folder holds blocks of something else.
    """
    names = pa.array(keys, pa.string())
    num_blocks = -(-people.num_users // people.size)
    mine = [number for number in range(num_blocks) if wanted.shard is None or number % wanted.shards == wanted.shard]
    with stage.adding(anew=rebuild) as folder:
        (folder / FOLDER).mkdir(exist_ok=True)
        missing = {number for number in mine if not _file(folder, number).exists()}
        sizes = {number: min(people.size, people.num_users - number * people.size) for number in mine}
        with Progress("users", sum(sizes.values())) as progress:
            progress.add(sum(size for number, size in sizes.items() if number not in missing), reused=True)
            for block in people.blocks(missing.__contains__):
                _write(_file(folder, block.number), _rank(block, ranker, names, stock_N, wanted, progress))
        left = [number for number in range(num_blocks) if not _file(folder, number).exists()]
    if left:
        log.info(
            "  %d of %d blocks are there; the manifest is written when all are", num_blocks - len(left), num_blocks
        )
        return
    stage.counts = {"users": people.num_users, "blocks": num_blocks}
    try:
        with stage.building(keep=[FOLDER]):
            for path in (stage.folder / FOLDER).glob(".*"):  # of a process that was killed while it wrote
                path.unlink()
    except HeldError:
        log.info("  all %d blocks are there, and another process finishes the folder", num_blocks)


def _rank(
    block: UserBlock,
    ranker: GeneratorRanker,
    names: pa.Array,
    stock_N: NDArray[np.bool_] | None,
    wanted: RecommendConfig,
    progress: Progress,
) -> pa.Table:
    """Return one row per user: `user`, `items` (keys, best first) and `scores` (log-probabilities)."""
    seen: list[Items] = [user.seen for user in block.users]
    histories = [user.history for user in block.users]
    items_BK = np.empty((len(histories), wanted.k), np.int32)
    scores_BK = np.empty(items_BK.shape, np.float32)
    exclude = seen if wanted.exclude_seen else None
    for users, found in ranker.searches(histories, wanted.k, exclude=exclude, stock=stock_N):
        items_BK[users], scores_BK[users] = found.items.cpu().numpy(), found.scores.cpu().numpy()
        progress.add(len(users))
    there_BK = items_BK != NO_ITEM
    offsets = pa.array(np.concatenate([[0], there_BK.sum(axis=1).cumsum()]), pa.int32())
    items = names.take(pa.array(items_BK[there_BK]))
    scores = pa.array(scores_BK[there_BK], pa.float32())
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (items, scores)]
    return pa.table({"user": pa.array(block.keys, pa.string()), "items": lists[0], "scores": lists[1]})


def _file(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"block-{number:06d}.parquet"


def _write(path: Path, table: pa.Table) -> None:
    """Write a block whole or not at all; readers of the folder pass over names that begin with a dot."""
    aside = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}")
    with aside.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
