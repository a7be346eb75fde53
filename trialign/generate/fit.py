"""Run the Lightning Trainer for a generator: supervised (`train`, the control of `rl`) or on rollouts (`rl`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trialign.config.runtime import RuntimeConfig
from trialign.config.tracking import Tracking
from trialign.generate.module import GeneratorModule, Validate
from trialign.manifest import MACHINE
from trialign.runtime.callbacks import GradientNorm, MachineUse, StepClock, training_flops
from trialign.runtime.checkpoint import TrainingCheckpoints, from_newest
from trialign.runtime.loss_watch import LossWatch
from trialign.runtime.preemption import Preemption
from trialign.runtime.seeds import StepSeeds
from trialign.runtime.tracking import MEMORY
from trialign.runtime.trainer import Plan, build_trainer
from trialign.runtime.universal import fingerprint, resume_from
from trialign.stage import CHECKPOINTS
from trialign.stream.module import TrainedRows

BEST = f"{CHECKPOINTS}/best.safetensors"
"""The best weights so far, while training continues."""


def fit(
    module: GeneratorModule,
    data: Any,
    folder: Path,
    plan: Plan,
    runtime: RuntimeConfig,
    *,
    seed: int,
    watching: Sequence[Validate] = (),
    tracking: Tracking | None = None,
) -> Any:
    """Train, resuming from the newest checkpoint if there is one; return the Lightning Trainer.

    Args:
        module: the module to train.
        data: a datamodule that records what was trained on and lists the records of a batch, like `LaneDataModule`.
        folder: of the stage, for checkpoints and logs.
        plan: steps, micro-batches per step, clipping, precision.
        runtime: ranks, checkpoints, what to do at a loss spike.
        seed: of dropout, by step.
        watching: callbacks, such as `Validate`.
        tracking: what W&B logs; None leaves it out.
    """
    if runtime.activation_checkpointing:
        module.generator.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    model, token_flops = fingerprint(module), training_flops(module.generator.backbone)
    strategy, ranks = runtime.strategy, runtime.nodes * runtime.devices
    saved = TrainingCheckpoints(folder / CHECKPOINTS, strategy=strategy, model=model, every=runtime.checkpoint_every)

    def attempt(checkpoint: Path | None) -> Any:
        clock, patience = StepClock(), 60.0 * runtime.patience_minutes
        resumed = resume_from(checkpoint, strategy=strategy, world_size=ranks, model=model, patience=patience)
        machine = MachineUse(clock, folder / "log" / MACHINE, token_flops=token_flops, precision=plan.precision)
        callbacks = [
            *resumed.checks,
            StepSeeds(seed),
            LossWatch(folder, policy=runtime.on_loss_spike, threshold=runtime.loss_spike_threshold),
            TrainedRows(),
            GradientNorm(),
            machine,
            *watching,
            saved,
            Preemption(saved),
        ]
        memory = folder / CHECKPOINTS / MEMORY
        trainer = build_trainer(
            folder, runtime, plan, callbacks=callbacks, resumed=resumed, tracking=tracking, memory=memory, clock=clock
        )
        trainer.fit(module, datamodule=data, ckpt_path=resumed.state, weights_only=True)
        return trainer

    return from_newest(folder / CHECKPOINTS, attempt)
