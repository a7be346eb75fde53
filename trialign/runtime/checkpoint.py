"""Training checkpoints: what a killed run goes on from, on its own.

A checkpoint is taken after an optimizer step, never inside an accumulation window: gradients summed so far are part of
no checkpoint. It is written under another name, brought to disk and renamed; beside it stands an index of the sizes and
sha256 of its files, written last. Only a checkpoint that matches its index is ever opened. DeepSpeed unpickles what it
loads, so a file that we did not write could run code.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from trialign.manifest import sha256_of, write_atomically

logger = logging.getLogger(__name__)

STATE = "state"
"""The part of a checkpoint that Lightning reads: one file, or a folder where each rank has files of its own."""

UNIVERSAL = "universal-"
"""How the folders begin that hold a checkpoint of ZeRO for other ranks; see runtime/universal.py."""

_PARTIAL = "partial"


class TrainingCheckpoints(Callback):
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
        self.made_by = {"strategy": strategy, "model": model}
        self.every = every
        self.keep = keep
        self.seconds = 0.0  # spent saving
        self._newest = 0

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save where an optimizer step has just been taken and one is due."""
        if self.every and begins_step(trainer, batch_idx) and trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_load_checkpoint(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
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
        if trainer.is_global_zero:
            publish(partial, path, self.made_by | {"world_size": trainer.world_size}, began=begin)
            for old in sorted(self.folder.glob("step-*.json"))[: -self.keep]:
                old.unlink()  # first: without its index a checkpoint counts no more
                shutil.rmtree(old.with_suffix(""))
            for old in self.folder.glob(f"{UNIVERSAL}*"):  # of the checkpoint that this attempt began with
                old.unlink() if old.is_file() else shutil.rmtree(old)
        trainer.strategy.barrier("checkpoint")
        self.seconds += time.monotonic() - begin


def begins_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether a micro-batch is the first of its optimizer step."""
    return batch_idx % trainer.accumulate_grad_batches == 0


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is what was written, or None; a damaged one is skipped with a warning."""
    for index in sorted(folder.glob("step-*.json"), reverse=True):
        path = index.with_suffix("")
        if (fault := fault_of(path, index)) is None:
            return path
        logger.warning("  checkpoint %s is skipped: %s", path, fault)
    return None


def step_of(checkpoint: Path) -> int:
    """Return the optimizer steps that a checkpoint has behind it."""
    return int(checkpoint.name.removeprefix("step-"))


def publish(partial: Path, path: Path, made_by: dict[str, Any], *, began: float) -> None:
    """Bring a checkpoint to disk, give it its name, then its index, with the seconds since `began`."""
    index = path.with_suffix(".json")
    index.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    record: dict[str, Any] = {}
    for file in files_of(partial):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        record[str(file.relative_to(partial))] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    partial.rename(path)
    write_atomically(
        index, json.dumps(made_by | {"seconds": time.monotonic() - began, "files": record}, indent=2) + "\n"
    )


def fault_of(path: Path, index: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        record = json.loads(index.read_text())["files"]
        for name, written in record.items():
            file = path / name
            if file.stat().st_size != written["bytes"]:
                return f"{name} has {file.stat().st_size:,} bytes, {written['bytes']:,} were written"
            if sha256_of(file) != written["sha256"]:
                return f"{name} holds other bytes than were written"
    except (OSError, ValueError, KeyError, TypeError) as cause:
        return str(cause)
    strangers = {str(file.relative_to(path)) for file in files_of(path)} - record.keys()
    return f"it holds files that we did not write: {', '.join(sorted(strangers))}" if strangers else None


def files_of(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return sorted(file for file in folder.rglob("*") if file.is_file())
