"""The one place where a Lightning Trainer is built."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.manifest import MACHINE
from trialign.runtime.callbacks import LastLine, StepClock
from trialign.runtime.device import device_of
from trialign.runtime.lightning import Callback, CSVLogger, SLURMEnvironment, pl
from trialign.runtime.progress import TrainingPace
from trialign.runtime.ranks import launched_rank
from trialign.runtime.strategy import build_strategy
from trialign.runtime.tracking import past_figures, wandb_logger
from trialign.runtime.universal import AT_THE_START, Resumed


@dataclass(frozen=True)
class Plan:
    """The length of a training, and how its optimizer steps are made.

    Args:
        max_steps: optimizer steps, or -1 for no limit.
        max_epochs: passes over a loader that ends, or -1 for no limit.
        accumulate: micro-batches per optimizer step.
        max_grad_norm: largest gradient norm; 0 clips nothing.
        precision: Lightning's name of it.
    """

    max_steps: int = -1
    max_epochs: int = -1
    accumulate: int = 1
    max_grad_norm: float = 0.0
    precision: str = "32-true"


def build_trainer(
    folder: Path,
    runtime: RuntimeConfig,
    plan: Plan,
    *,
    callbacks: Sequence[Callback] = (),
    resumed: Resumed = AT_THE_START,
    tracking: Tracking | None = None,
    memory: Path | None = None,
    clock: StepClock | None = None,
) -> pl.Trainer:
    """Return a Trainer that logs to `folder/log/metrics.csv`, and to W&B where that is asked for.

    Args:
        folder: a stage's directory.
        runtime: accelerator, ranks, strategy, log lines.
        plan: steps, micro-batches, clipping, precision.
        callbacks: Lightning callbacks of the stage.
        resumed: the checkpoint that training resumes from; the log continues behind its steps.
        tracking: what W&B logs; None leaves it out.
        memory: file by which a killed attempt's W&B run is continued, see `tracking`.
        clock: times micro-batches and the waiting for them.

    Raises:
        ConfigError: the strategy or the accelerator cannot be had.
    """
    on_cpu = device_of(runtime.accelerator).type == "cpu"
    zero_bf16 = runtime.strategy.startswith("zero") and plan.precision == "bf16-mixed"
    ranks = runtime.nodes * runtime.devices
    how = build_strategy(runtime.strategy, devices=ranks, on_cpu=on_cpu, bf16=zero_bf16, universal=resumed.universal)
    _quieten()
    log, past = _log(folder, 10 * runtime.log_every, resumed.steps)
    tracked = None
    if tracking is not None:
        machine = _lines(folder / "log" / MACHINE, resumed.steps)
        tracked = wandb_logger(tracking, memory, past_figures(past, machine))
    # Lightning's own requeue handler saves inside a signal handler; a killed stage is simply started again.
    plugins: list[Any] = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return pl.Trainer(
        default_root_dir=folder,
        max_steps=plan.max_steps,
        max_epochs=plan.max_epochs,
        accelerator=runtime.accelerator,
        devices=runtime.devices,
        num_nodes=runtime.nodes,
        strategy=how,
        precision="32-true" if zero_bf16 else plan.precision,  # type: ignore[arg-type]  # validated by Lightning
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=plan.max_grad_norm or None,
        log_every_n_steps=runtime.log_every,
        logger=[log, *([] if tracked is None else [tracked])],
        profiler=clock,
        callbacks=[*callbacks, TrainingPace(), LastLine()],
        plugins=plugins,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _log(folder: Path, flush_every: int, done_steps: int) -> tuple[CSVLogger, list[dict[str, str]]]:
    """Return the CSV logger, and its lines of earlier attempts up to the step that training resumes from."""
    log = CSVLogger(folder, name="log", version="", flush_logs_every_n_steps=flush_every)
    path = folder / "log" / "metrics.csv"
    lines = _lines(path, done_steps)
    if launched_rank() == 0 and path.exists():
        path.unlink()  # Lightning would do it, with a warning
        log.experiment.metrics = lines  # type: ignore[assignment]  # written back as they were
        log.save()
    return log, lines


def _lines(path: Path, done_steps: int) -> list[dict[str, str]]:
    """Return the lines that the first rank wrote into a CSV file up to a step."""
    if launched_rank() != 0 or not path.exists():
        return []
    with path.open(newline="") as file:
        return [line for line in csv.DictReader(file) if int(line["step"]) < done_steps]


def _quieten() -> None:
    """Filter Lightning's greetings and irrelevant advice out of the log; other warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    # Every rank logs its own greeting.
    for greeting in ("lightning_fabric.utilities.distributed", "pytorch_lightning.strategies.deepspeed"):
        logging.getLogger(greeting).setLevel(logging.WARNING)
    # Logs at every checkpoint how it will be loaded by default.
    logging.getLogger("pytorch_lightning.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
    # The loaders are small tensors in memory or a stream with workers of its own.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*IterableDataset.*__len__.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start.*")  # the policy of rl is, on purpose
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # its datamodule is
    warnings.filterwarnings("ignore", message=".*srun. command is available.*")  # a login node may train without it
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")  # a resumed attempt appends to it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated.*")  # DeepSpeed's own use
