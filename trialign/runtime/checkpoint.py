"""Training checkpoints: what a killed run continues from, on its own.

A checkpoint is taken after an optimizer step, never inside an accumulation window: gradients summed so far are part of
no checkpoint. It is written under another name, brought to disk and renamed; next to it is an index of the sizes and
sha256 of its files, written last. Only a checkpoint that matches its index is ever opened. DeepSpeed unpickles what it
loads, so a file that we did not write could run code.

Who reads what, to hash it: at a save, and before a checkpoint is loaded, each rank its share, and all ranks come to one
verdict. Before ZeRO's is converted for other ranks, each rank the whole, as ranks that have not met cannot share.
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

from trialign.files import sha256_of, write_atomically
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
class WrittenFile:
    """Size and content of a file as it was written."""

    bytes: int
    sha256: str


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
    files: dict[str, WrittenFile]


class DamagedError(Exception):
    """A checkpoint is not what was written; the one before it is to be tried."""


class TrainingCheckpoints(StepCallback):
    """Saves the whole state of training every so many optimizer steps.

    At the start of the batch that follows the step: by then the step is validated, logged, and seen by everybody.

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
        """Save where an optimizer step has just been taken and one is due."""
        if self.every and step % self.every == 0:
            self.save(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count micro-batches as this number of ranks would have: Lightning tells by them where a step ends."""
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
            shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was killed while saving
            partial.mkdir(parents=True)
        trainer.strategy.barrier("checkpoint")
        trainer.save_checkpoint(partial / STATE)
        files = recorded_together(partial)
        if trainer.is_global_zero:
            seconds = time.monotonic() - begin
            publish(partial, path, CheckpointIndex(self.strategy, self.model, trainer.world_size, seconds, files))
            for old in sorted(self.folder.glob("step-*.json"))[: -self.keep]:
                old.unlink()  # first: without its index a checkpoint counts no more
                shutil.rmtree(old.with_suffix(""))
            for old in self.folder.glob(f"{UNIVERSAL}*"):  # of the checkpoint that this attempt began with
                old.unlink() if old.is_file() else shutil.rmtree(old)
        trainer.strategy.barrier("checkpoint")
        self.seconds += time.monotonic() - begin


class CheckedTogether(Callback):
    """Checks a checkpoint when the ranks have met, before anything of it is opened: each rank reads its share."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check it.

        Raises:
            DamagedError: some rank found fault with it; on every rank.
        """
        for fault in all_gather_objects(fault_of(self.checkpoint, rank(), world_size())):
            if fault is not None:
                raise DamagedError(fault)


def from_newest(folder: Path, attempt: Callable[[Path | None], T]) -> T:
    """Return what `attempt` makes of the newest checkpoint that is what was written, or of None.

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
    """Return the optimizer steps that a checkpoint has behind it."""
    return int(checkpoint.name.removeprefix("step-"))


def share_of(names: Sequence[str], rank: int, world_size: int) -> list[str]:
    """Return the files of a checkpoint that are a rank's to read: those that name it, the others dealt in their order.

    What a rank wrote is in its node's memory still, and only there it can be brought to disk for sure. Where more ranks
    wrote than are here, these take turns.
    """
    named = {name: int(found[1]) for name in names if (found := _OF_A_RANK.search(name))}
    turns = named | {name: turn for turn, name in enumerate(sorted(set(names) - named.keys()))}
    return [name for name in names if turns[name] % world_size == rank]


def recorded_together(folder: Path) -> dict[str, WrittenFile]:
    """Return `recorded` of all files that the ranks have just written; a collective, each rank reads its share.

    That all say first which files they see has two reasons: no rank reads what another still writes, and none reads by
    a list that a shared file system has remembered too long.
    """
    seen = all_gather_objects(names_in(folder))
    names = sorted(set().union(*seen), key=Path)
    shares = all_gather_objects(recorded(folder, share_of(names, rank(), world_size())))
    found = {name: written for share in shares for name, written in share.items()}
    return {name: found[name] for name in names}


def recorded(folder: Path, names: Iterable[str]) -> dict[str, WrittenFile]:
    """Bring files to disk and return what an index says of them."""
    record: dict[str, WrittenFile] = {}
    for name in names:
        file = folder / name
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        record[name] = WrittenFile(file.stat().st_size, sha256_of(file))
    return record


def publish(partial: Path, path: Path, written: CheckpointIndex) -> None:
    """Give a checkpoint its name, then its index."""
    index = path.with_suffix(".json")
    index.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    write_atomically(index, json.dumps(asdict(written), indent=2) + "\n")


def index_of(checkpoint: Path) -> CheckpointIndex:
    """Return what is written next to a checkpoint.

    Raises:
        DamagedError: it cannot be read.
    """
    try:
        found = parse_json(checkpoint.with_suffix(".json").read_text())
        files = {name: WrittenFile(**written) for name, written in found.pop("files").items()}
        return CheckpointIndex(**found, files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise DamagedError(str(cause)) from cause


def fault_of(checkpoint: Path, rank: int = 0, world_size: int = 1) -> str | None:
    """Return what is wrong with a rank's share of a checkpoint, or with the names of its files, or None."""
    try:
        record = index_of(checkpoint).files
        for name in share_of(list(record), rank, world_size):
            file, written = checkpoint / name, record[name]
            if file.stat().st_size != written.bytes:
                return f"{name} has {file.stat().st_size:,} bytes, {written.bytes:,} were written"
            if sha256_of(file) != written.sha256:
                return f"{name} holds other bytes than were written"
    except (DamagedError, OSError, KeyError, TypeError) as cause:
        return str(cause)
    strangers = set(names_in(checkpoint)) - record.keys()
    return f"it holds files that we did not write: {', '.join(sorted(strangers))}" if strangers else None


def names_in(folder: Path) -> list[str]:
    """Return all files below a folder, by their paths in it."""
    return [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
