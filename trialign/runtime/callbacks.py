"""Callbacks that log throughput, FLOPs, memory, the wait for data, and the norm of the gradient.

Figures of the machine differ from run to run and go to `log/machine.csv`; `log/metrics.csv` holds figures that the same
command reproduces.
"""

from __future__ import annotations

import csv
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from trialign.runtime.collectives import all_reduce_sum, world_size
from trialign.runtime.lightning import Callback, DeepSpeedStrategy, Profiler, pl
from trialign.runtime.tracking import ABOUT

_TRAINING, _WAITING = "run_training_batch", "train_dataloader_next"  # what Lightning calls them

PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
}
"""Dense bfloat16 products per second, by the vendor's data sheets, by the name that torch gives."""


class StepClock(Profiler):
    """Sums the seconds of micro-batches and of the wait for data; validation and saving count as neither."""

    def __init__(self) -> None:
        super().__init__()
        self._trained = self._waited = 0.0
        self._begun: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start timing an action."""
        if action_name == _TRAINING or action_name.endswith(_WAITING):
            self._begun[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stop timing an action."""
        begun = self._begun.pop(action_name, None)
        if begun is None:
            return
        seconds = time.perf_counter() - begun
        if action_name == _TRAINING:
            self._trained += seconds
        else:
            self._waited += seconds

    def take(self) -> tuple[float, float]:
        """Return the seconds of training and of waiting since the last call, the micro-batch under way included."""
        now = time.perf_counter()
        trained, waited = self._trained + now - self._begun.get(_TRAINING, now), self._waited
        if _TRAINING in self._begun:
            self._begun[_TRAINING] = now
        self._trained = self._waited = 0.0
        return trained, waited


class StepCallback(Callback):
    """A callback that is called once per optimizer step, where Lightning's are called once per micro-batch.

    Subclasses implement `on_step_start`, `on_step_end` or both; `step` counts the optimizer steps taken so far. A
    subclass that needs each micro-batch as well overrides Lightning's hook and calls this class's first.
    """

    def on_step_start(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Act before the first micro-batch of a step."""

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Act after the optimizer step."""

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Call `on_step_start` at the first micro-batch of a step."""
        if place_in_step(trainer, batch_idx) == 0:
            self.on_step_start(trainer, pl_module, trainer.global_step)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call `on_step_end` after the last micro-batch of a step."""
        if ends_step(trainer, batch_idx):
            self.on_step_end(trainer, pl_module, trainer.global_step)


def place_in_step(trainer: pl.Trainer, batch_idx: int) -> int:
    """Return the index of a micro-batch within its optimizer step, from 0."""
    return batch_idx % trainer.accumulate_grad_batches


def ends_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether a micro-batch is the last of its optimizer step."""
    return place_in_step(trainer, batch_idx) == trainer.accumulate_grad_batches - 1


def logs_at(trainer: pl.Trainer, step: int) -> bool:
    """Return whether training writes a log line after so many steps: every `runtime.log_every`, and the last."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its constructor
    return step % every == 0 or step == trainer.max_steps


class LastLine(StepCallback):
    """Makes Lightning write a log line at the last step, wherever it falls between two others."""

    @override
    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Ask for the end, which comes anyway: between two log lines Lightning writes only when it is asked for."""
        if step == trainer.estimated_stepping_batches:
            trainer.should_stop = True


class MachineUse(StepCallback):
    """Logs throughput and memory to `log/machine.csv` and to the loggers next to the CSV one, when training logs.

    Args:
        clock: the Trainer's profiler.
        path: the file; a later attempt appends to it.
        token_flops: training FLOPs per token, see `training_flops`.
        precision: Lightning's name of it; the peaks are those of bfloat16.
    """

    def __init__(self, clock: StepClock, path: Path, *, token_flops: float, precision: str) -> None:
        self._clock, self._path = clock, path
        self._token_flops, self._precision = token_flops, precision
        self._tokens: torch.Tensor | None = None

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the micro-batch's tokens, without padding; do not wait for the device."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        tokens = batch.num_tokens
        self._tokens = tokens if self._tokens is None else self._tokens + tokens

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Write a line for the steps since the last line."""
        if not logs_at(trainer, step):
            return
        assert self._tokens is not None
        tokens = float(all_reduce_sum(self._tokens.double()))
        self._tokens = None
        values = self._values(tokens, *self._clock.take(), module.device)
        if trainer.is_global_zero:
            _append(self._path, {"step": step - 1} | values)
            for logger in trainer.loggers[1:]:
                logger.log_metrics({f"{ABOUT}{name}": value for name, value in values.items()}, step - 1)

    def _values(self, tokens: float, trained: float, waited: float, device: torch.device) -> dict[str, float]:
        rate = tokens / (trained + waited)
        values = {"tokens_per_second": rate, "data_wait": waited / (trained + waited)}
        values["flops_per_second"] = rate * self._token_flops
        if device.type != "cuda":
            # Kilobytes on Linux.
            return values | {"memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
        peak = PEAK_FLOPS.get(torch.cuda.get_device_name(device))
        if peak is not None and self._precision == "bf16-mixed":
            values["mfu"] = values["flops_per_second"] / (peak * world_size())
        return values | {"memory_bytes": float(torch.cuda.max_memory_allocated(device))}


class GradientNorm(StepCallback):
    """Logs the norm of the gradient before clipping, when training logs."""

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Log the norm, except under DeepSpeed: it shards gradients, and its engine computes the norm in its step."""
        if not logs_at(trainer, trainer.global_step + 1) or isinstance(trainer.strategy, DeepSpeedStrategy):
            return
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        pl_module.log("gradient_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Log the norm that DeepSpeed's engine computed."""
        if isinstance(trainer.strategy, DeepSpeedStrategy) and logs_at(trainer, step):
            module.log("gradient_norm", float(trainer.strategy.deepspeed_engine.get_global_grad_norm()))


def training_flops(model: nn.Module) -> float:
    """Return the training FLOPs per token in matrix products with weights: a lower bound of all FLOPs.

    Two per weight forward, two for the gradient of the input, two more for the gradient of a trained weight.
    Attention scores, embedding tables and output heads are left out. The model is the backbone as it is built, before a
    strategy shards it.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    # GPT-2's Conv1D is a linear layer under another name.
    linear = [
        module
        for module in model.modules()
        if module is not head and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]
    weights = [module.get_parameter("weight") for module in linear]
    return float(sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in weights))


def _append(path: Path, values: dict[str, float]) -> None:
    """Append a line; if an earlier attempt on another machine wrote other columns, rewrite the file with both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known, lines = [], []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            known = list(reader.fieldnames or ())
            lines = [] if set(values) <= set(known) else list(reader)
    columns = list(dict.fromkeys([*known, *values]))
    anew = columns != known
    with path.open("w" if anew else "a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if anew:
            writer.writeheader()
        writer.writerows([*lines, values])
