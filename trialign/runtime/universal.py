"""Load a checkpoint on another number of ranks than wrote it.

Any number of ranks can load a checkpoint of one process, DDP or FSDP2. ZeRO shards the optimizer state by rank;
DeepSpeed's universal format, one file per parameter and state, serves any number of ranks of the same stage. One
process writes it before the ranks connect, so that no collective waits for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from trialign.errors import ConfigError, TrainingError
from trialign.runtime.checkpoint import (
    STATE,
    UNIVERSAL,
    CheckedTogether,
    CheckpointIndex,
    DamagedError,
    fault_of,
    index_of,
    names_in,
    publish,
    recorded,
    step_of,
)
from trialign.runtime.ranks import launched_rank

logger = logging.getLogger(__name__)

_ROOM = 3.0
"""Bytes of room per byte of the checkpoint: its parts, the parameters put together of them, and some to spare."""

_LOOK_EVERY = 0.5
"""Seconds between two looks of the ranks that wait."""

_TAG = "checkpoint"
"""The folder inside a checkpoint that DeepSpeed reads, as Lightning calls it."""


class Resumed(NamedTuple):
    """The checkpoint that Lightning loads, its number of steps, and the callback that verifies it."""

    state: Path | None = None
    steps: int = 0
    checks: tuple[CheckedTogether, ...] = ()
    universal: bool = False  # in DeepSpeed's format for any number of ranks


def fingerprint(model: nn.Module) -> str:
    """Return a hash of a model's parameters: names, shapes, and which are trained; before a strategy shards it."""
    parts = [f"{name} {list(p.shape)} {p.requires_grad}" for name, p in model.named_parameters()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


AT_THE_START = Resumed()
"""Of a training that has no checkpoint yet."""


def resume_from(checkpoint: Path | None, *, strategy: str, world_size: int, model: str, patience: float) -> Resumed:
    """Return the checkpoint to load, converted for these ranks if needed; every rank calls it before they connect.

    A checkpoint to convert is verified here, whole, by every rank; any other once the ranks are connected.

    Args:
        checkpoint: one that has an index; None to begin anew.
        strategy: how ranks share the work now.
        world_size: how many they are now.
        model: the `fingerprint` of what is trained now.
        patience: seconds that the other ranks wait for the first one to convert it.

    Raises:
        DamagedError: its index cannot be read, or it would have to be converted and is not what was written.
        ConfigError: the checkpoint is another model's, or another strategy's that cuts its state up otherwise.
        TrainingError: there is no room to convert it, or the process that does never ends.
    """
    if checkpoint is None:
        return AT_THE_START
    steps, made_by = step_of(checkpoint), index_of(checkpoint)
    logger.info("  continuing from step %d of an attempt that did not finish", steps)
    if made_by.model != model:
        raise ConfigError(
            f"{checkpoint} is of another model: its parameters have other names, shapes, or are trained otherwise",
            rule="training continues with the model that it began with",
            remedy=f"undo the change of the model, or delete {checkpoint.parent} to begin anew",
        )
    then, now = (made_by.strategy, made_by.world_size), (strategy, world_size)
    cut_up = [name for name in (then[0], strategy) if name.startswith(("zero", "fsdp2"))]
    if then[0] != strategy and cut_up:
        raise ConfigError(
            f"{checkpoint} is of {then[0]} on {then[1]} ranks, this is {now[0]} on {now[1]}",
            rule="the number of ranks may change, and `single` may become `ddp`; other strategies stay",
            remedy=f"set runtime.strategy={then[0]} on any number of ranks, or delete {checkpoint.parent}",
        )
    if then == now or not strategy.startswith("zero"):
        return Resumed(checkpoint / STATE, steps, (CheckedTogether(checkpoint),))
    if (fault := fault_of(checkpoint)) is not None:
        raise DamagedError(fault)
    return Resumed(_converted(checkpoint, made_by, world_size, patience), steps, universal=True)


def _converted(checkpoint: Path, made_by: CheckpointIndex, now: int, patience: float) -> Path:
    """Return the universal form of a checkpoint; the first rank writes it, the others wait for it."""
    path = checkpoint.parent / f"{UNIVERSAL}{step_of(checkpoint):08d}"
    index = path.with_suffix(".json")
    if launched_rank() == 0:
        if not index.exists() or fault_of(path) is not None:
            _convert(checkpoint, path, made_by, now)
        return path / STATE
    end = time.monotonic() + patience
    while not index.exists():
        if time.monotonic() > end:
            raise TrainingError(
                f"{index} is not there after {patience:.0f} s",
                rule="the first rank converts the checkpoint while the others wait (runtime.patience_minutes)",
                remedy="look into the first rank's log; start as many ranks as before to do without",
            )
        time.sleep(_LOOK_EVERY)
    return path / STATE


def _convert(checkpoint: Path, path: Path, made_by: CheckpointIndex, now: int) -> None:
    then = made_by.world_size
    size = sum(written["bytes"] for written in made_by.files.values())
    needed, free = _ROOM * size, shutil.disk_usage(checkpoint).free
    logger.info(
        "  %s is converted from %d ranks to %d: about %.2f GB next to it while that lasts; by the %.1f s that "
        "%d ranks took to write it, one process needs %.0f s or more",
        checkpoint.name,
        then,
        now,
        needed / 1e9,
        made_by.seconds,
        then,
        _ROOM * then * made_by.seconds,
    )
    if needed > free:
        raise TrainingError(
            f"{checkpoint} needs {needed / 1e9:.1f} GB to be converted, {free / 1e9:.1f} GB are free",
            rule="ZeRO's state is cut up by rank; another number of ranks needs it in another form",
            remedy=f"free some space, or start {then} ranks",
        )
    began = time.monotonic()
    partial = path.with_name(f"{UNIVERSAL}partial")
    shutil.rmtree(partial, ignore_errors=True)
    target = partial / STATE / _TAG
    target.mkdir(parents=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.checkpoint.ds_to_universal import main

    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(
            Namespace(
                input_folder=str(checkpoint / STATE / _TAG),
                output_folder=str(target),
                inject_missing_state=True,
                **options,
            )
        )
    (target.parent / "latest_universal").write_text(_TAG)
    files = recorded(partial, names_in(partial))
    publish(partial, path, replace(made_by, seconds=time.monotonic() - began, files=files))
    logger.info("  converted in %.1f s", time.monotonic() - began)
