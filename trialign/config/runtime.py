"""Group `runtime`: where and how fast a stage runs; a few settings change rounding or which batches are skipped."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option
from trialign.progress import Intervals

STRATEGIES = ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3", "zero3_offload")


@dataclass
class RuntimeConfig:
    """Devices and ranks, checkpoints, and what is reported on the way."""

    accelerator: str = option(
        "auto",
        "what ranks train on; auto: CUDA where torch sees a device",
        choices=("auto", "cpu", "cuda"),
        recorded=True,
    )
    devices: int = option(1, "processes per node", least=1, recorded=True)
    nodes: int = option(
        1, "nodes; more than one are started by `trialign submit` or another launcher", least=1, recorded=True
    )
    threads: int | None = option(
        None,
        "CPU threads per process; null: one per core. Two threads on a busy core wait for each other",
        least=1,
        recorded=True,
    )
    strategy: str = option(
        "single", "how ranks share the work; single is one process", choices=STRATEGIES, recorded=True
    )
    micro_batch_size: int = option(
        8,
        "rows per forward pass and rank; accumulation = global_batch_size / (nodes x devices x micro_batch_size)",
        least=1,
        recorded=True,
    )
    activation_checkpointing: bool = option(
        False, "keep no activations of the backbone's layers, compute them again: less memory, more time", recorded=True
    )
    checkpoint_every: int = option(
        200, "steps between two checkpoints of train, which a killed command continues from; 0: none", least=0
    )
    patience_minutes: float = option(
        60.0,
        "how long ranks wait for the first one where it works alone: the last save, the conversion of a checkpoint",
        above=0,
    )
    on_loss_spike: str = option(
        "stop",
        "at a loss that is no number or a spike: stop, or rewind (end with exit code 75; the same command continues "
        "from the last checkpoint without that batch)",
        choices=("stop", "rewind"),
        recorded=True,
    )
    loss_spike_threshold: float = option(
        3.0,
        "nats by which a step's loss may exceed the median of the last 50; 0: look for no spike",
        least=0,
        recorded=True,
    )
    log_every: int = option(10, "steps between two log lines; the last step has one too", least=1)
    progress: bool = option(True, "draw a bar, where standard error is a terminal")
    line_seconds: float = option(
        60.0, "between two lines in the log that say how far a stage is, how fast, how long it takes", least=0
    )
    beat_seconds: float = option(
        5.0, "between two writes of progress.json, by which a job's watchdog and `status` see a stage", least=0
    )

    @property
    def intervals(self) -> Intervals:
        """How often a stage reports its progress."""
        return Intervals(beat=self.beat_seconds, line=self.line_seconds)
