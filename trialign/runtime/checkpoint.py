"""Training checkpoints: saved every so many steps; a killed run continues from the newest one by itself.

A checkpoint is taken after an optimizer step, never inside an accumulation window: gradients summed so far are part of
no checkpoint. It is written under another name, fsynced and renamed; next to it is an index of the sizes and
sha256 of its files, written last. Only a checkpoint that matches its index is ever opened. DeepSpeed unpickles what it
loads, so a file that we did not write could run code.

At a save, and before a checkpoint is loaded, each rank hashes its share of the files, and all ranks come to one
verdict. Before a ZeRO checkpoint is converted, each rank hashes all files, as unconnected ranks cannot share.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from trialign.files import FileRecord, sha256_of, write_atomically
from trialign.foreign import parse_json
from trialign.runtime.callbacks import StepCallback
from trialign.runtime.collectives import all_gather_objects, rank, world_size
from trialign.runtime.lightning import Callback, pl

T = TypeVar("T")

logger = logging.getLogger(__name__)

STATE = "state"
"""The part of a checkpoint that Lightning reads: one file, or a folder where each rank has files of its own."""

UNIVERSAL = "universal-"
"""How the folders begin that hold a checkpoint of ZeRO for other ranks; see runtime/universal.py."""

_PARTIAL = "partial"

_OF_A_RANK = re.compile(r"(?:zero_pp_rank_|__)(\d+)_[^/]*$")
"""What DeepSpeed and torch call the files that each rank writes for itself."""


@dataclass(frozen=True)
class CheckpointIndex:
    """The JSON next to a checkpoint: the training that wrote it, how long that took, and its files by name.

    Attributes:
        strategy: how ranks shared the work.
        model: the fingerprint of what is trained.
        world_size: how many ranks they were.
        seconds: that writing took.
        files: by their paths in the checkpoint.
    """

    strategy: str
    model: str
    world_size: int
    seconds: float
    files: dict[str, FileRecord]


class DamagedError(Exception):
    """A checkpoint is corrupt; the caller tries the one before it."""


class TrainingCheckpoints(StepCallback):
    """Saves the whole state of training every so many optimizer steps.

    It saves at the start of the next batch: by then the step is validated and logged, and every callback has seen it.

    Args:
        folder: of this run's checkpoints.
        strategy: how ranks share the work; it decides who can read a checkpoint.
        model: the fingerprint of what is trained.
        every: optimizer steps between two of them; 0 saves none, unless asked for by `save`.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, *, strategy: str, model: str, every: int, keep: int = 2) -> None:
        self.folder = folder
        self.strategy, self.model = strategy, model
        self.every = every
        self.keep = keep
        self.seconds = 0.0  # spent saving
        self._newest = 0

    @override
    def on_step_start(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Save if a checkpoint is due after the last optimizer step."""
        if self.every and step % self.every == 0:
            self.save(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Convert the count of micro-batches to this number of ranks: Lightning derives from it where a step ends."""
        self._newest = checkpoint["global_step"]
        taken = self._newest * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            counts.update(ready=taken, started=taken, processed=taken, completed=taken)

    def save(self, trainer: pl.Trainer) -> None:
        """Save the state after the last optimizer step, once; called by every rank together."""
        if trainer.global_step == self._newest:
            return
        self._newest = trainer.global_step
        begin = time.monotonic()
        path = self.folder / f"step-{self._newest:08d}"
        partial = self.folder / _PARTIAL
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)  # left by an attempt that was killed while saving
            partial.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint")
        trainer.save_checkpoint(partial / STATE)
        files = recorded_together(partial)
        if trainer.is_global_zero:
            seconds = time.monotonic() - begin
            publish(partial, path, CheckpointIndex(self.strategy, self.model, trainer.world_size, seconds, files))
            for old in sorted(self.folder.glob("step-*.json"))[: -self.keep]:
                old.unlink()  # first: a checkpoint without its index is ignored
                shutil.rmtree(old.with_suffix(""))
            for old in self.folder.glob(f"{UNIVERSAL}*"):  # of the checkpoint that this attempt began with
                old.unlink() if old.is_file() else shutil.rmtree(old)
        trainer.strategy.barrier("checkpoint")
        self.seconds += time.monotonic() - begin


class CheckedTogether(Callback):
    """Verifies a checkpoint before any file of it is loaded, once the ranks are connected; each rank hashes a share."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Verify the checkpoint.

        Raises:
            DamagedError: some rank found fault with it; on every rank.
        """
        for fault in all_gather_objects(fault_of(self.checkpoint, rank(), world_size())):
            if fault is not None:
                raise DamagedError(fault)


def from_newest(folder: Path, attempt: Callable[[Path | None], T]) -> T:
    """Call `attempt` with the newest intact checkpoint, or with None if there is none, and return its result.

    Args:
        folder: of the checkpoints.
        attempt: raises DamagedError, on all ranks alike; then it is called with the one before, after a warning.
    """
    for checkpoint in checkpoints_in(folder):
        try:
            return attempt(checkpoint)
        except DamagedError as damage:
            logger.warning("  checkpoint %s is skipped: %s", checkpoint, damage)
    return attempt(None)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints that have an index, the newest first; damaged ones too."""
    return [index.with_suffix("") for index in sorted(folder.glob("step-*.json"), reverse=True)]


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps taken before a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def share_of(names: Sequence[str], rank: int, world_size: int) -> list[str]:
    """Return the files of a checkpoint that a rank hashes: those named after it, and its share of the others.

    A rank's own files are still in its node's page cache, and only there fsync is sure to work. If more ranks wrote
    than are here, these take turns.
    """
    named = {name: int(found[1]) for name in names if (found := _OF_A_RANK.search(name))}
    turns = named | {name: turn for turn, name in enumerate(sorted(set(names) - named.keys()))}
    return [name for name in names if turns[name] % world_size == rank]


def recorded_together(folder: Path) -> dict[str, FileRecord]:
    """Fsync and hash all files that the ranks have just written; a collective in which each rank reads its share.

    All ranks first exchange the files they see, for two reasons: no rank reads what another still writes, and none uses
    a listing that a shared file system has cached for too long.
    """
    seen = all_gather_objects(names_in(folder))
    names = sorted(set().union(*seen), key=Path)
    shares = all_gather_objects(recorded(folder, share_of(names, rank(), world_size())))
    found = {name: written for share in shares for name, written in share.items()}
    return {name: found[name] for name in names}


def recorded(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Fsync files and return their sizes and hashes for the index."""
    record: dict[str, FileRecord] = {}
    for name in names:
        file = folder / name
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        record[name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    return record


def publish(partial: Path, path: Path, written: CheckpointIndex) -> None:
    """Rename a checkpoint to its final name, then write its index."""
    index = path.with_suffix(".json")
    index.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    write_atomically(index, json.dumps(asdict(written), indent=2) + "\n")


def index_of(checkpoint: Path) -> CheckpointIndex:
    """Return the index of a checkpoint.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        return CheckpointIndex(**parse_json(checkpoint.with_suffix(".json").read_text()))
    except (OSError, ValueError, TypeError) as cause:
        raise DamagedError(str(cause)) from cause


def fault_of(checkpoint: Path, rank: int = 0, world_size: int = 1) -> str | None:
    """Return the fault in a rank's share of a checkpoint or in the names of its files, or None."""
    try:
        record = index_of(checkpoint).files
        for name in share_of(list(record), rank, world_size):
            file, written = checkpoint / name, record[name]
            if file.stat().st_size != written["bytes"]:
                return f"{name} has {file.stat().st_size:,} bytes, {written['bytes']:,} were written"
            if sha256_of(file) != written["sha256"]:
                return f"{name} holds other bytes than were written"
        strangers = set(names_in(checkpoint)) - record.keys()
    except (DamagedError, OSError, KeyError, TypeError, AttributeError) as cause:
        return str(cause)
    return f"it holds files that we did not write: {', '.join(sorted(strangers))}" if strangers else None


def names_in(folder: Path) -> list[str]:
    """Return all files below a folder, by their paths in it."""
    return [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
