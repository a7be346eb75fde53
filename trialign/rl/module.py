"""LightningModule and DataModule of RL: loss, rollouts and early stopping. Formulas are in other modules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from trialign.config.rl import RLConfig
from trialign.generate.loss import scaled_loss, step_totals
from trialign.generate.module import GeneratorModule, Validate
from trialign.rl.loss import policy_loss
from trialign.rl.metrics import RolloutMeter
from trialign.rl.rollout import Policy
from trialign.rl.source import RolloutBatch, RolloutSource, RolloutState, SavedState, from_state, to_state
from trialign.rl.stopping_guards import stopping_reason
from trialign.runtime.collectives import all_gather_objects, rank, world_size
from trialign.runtime.lightning import pl

logger = logging.getLogger(__name__)


class PolicyModule(GeneratorModule):
    """Trains a generator on its rollouts, with automatic optimization.

    Args:
        policy: the policy to train.
        settings: of the loss, the optimizer and the stopping guards.
        rewards: names, for the log.
    """

    def __init__(self, policy: Policy, settings: RLConfig, *, rewards: list[str]) -> None:
        super().__init__(policy.generator, settings, tasks=[], num_steps=settings.steps)
        self._policy = policy
        policy.summon_full_params = self.summon_full_params
        self._clip, self._kl_weight, self._limits = settings.clip_ratio, settings.kl_coef, settings.stopping_guards
        self._meter = RolloutMeter(rewards)  # type: ignore[assignment]  # it does for rollouts what the other does
        self._first: dict[str, float] = {}
        self.stopped: str | None = None
        self.train()

    @override
    def train(self, mode: bool = True) -> PolicyModule:
        """Stay in eval mode: with dropout, the ratio of probabilities would be noise."""
        super().train(False)
        return self

    def training_step(self, batch: RolloutBatch) -> torch.Tensor:  # type: ignore[override]  # other batches
        """Return this micro-batch's share of the step's loss."""
        if batch.first_of_step:
            self._num_targets, self.preempted = step_totals(
                batch.step_candidates, self.preemption_requested, self.device
            )
        groups = batch.groups
        now = self._policy.score_candidates(batch.histories, groups.items_BG)
        sums = policy_loss(
            now,
            groups.log_probs_BG,
            groups.reference,
            groups.advantages_BG,
            clip=self._clip,
            kl_weight=self._kl_weight,
        )
        self._meter.add(sums, batch.tally)  # type: ignore[call-arg, arg-type]
        accumulation = self.trainer.accumulate_grad_batches
        return scaled_loss(sums.total, self._num_targets, world_size=world_size(), accumulation=accumulation)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Log metrics, and stop the training if they exceed a stopping guard's limit."""
        super().log_dict(dictionary, *args, **kwargs)
        self._first = self._first or dict(dictionary)
        self.watch(dictionary, self._first)

    def watch(self, now: Any, start: Any) -> None:
        """Stop the training if a limit is exceeded; all ranks see the same figures."""
        reason = stopping_reason(now, start, self._limits)
        if reason is not None and self.stopped is None:
            self.stopped = f"step {self.global_step}: {reason}"
            logger.warning("  stopped, the best weights are kept: %s", self.stopped)
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the first log line, which later ones are compared with."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["first"] = self._first

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the first log line."""
        super().on_load_checkpoint(checkpoint)
        self._first = checkpoint["first"]


class Watch(Validate):
    """Validates also before the first step: the start is kept if nothing is better; Recall@50 is compared to it."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the start."""
        assert isinstance(pl_module, GeneratorModule)
        if not self.measured:
            self._measure(trainer, pl_module, 0)

    def _measure(self, trainer: pl.Trainer, module: GeneratorModule, step: int) -> None:
        super()._measure(trainer, module, step)
        if isinstance(module, PolicyModule):
            module.watch({"recall@50": self.measured[-1]["recall@50"]}, self.measured[0])


class RolloutDataModule(pl.LightningDataModule):
    """DataModule of the rollouts; its state is every rank's `RolloutState` after the last trained step.

    Args:
        source: this rank's rollouts.
    """

    def __init__(self, source: RolloutSource) -> None:
        super().__init__()
        self.source = source

    def train_dataloader(self) -> RolloutSource:
        """Return this rank's micro-batches."""
        return self.source

    def begin_step(self) -> None:
        """Do nothing: a batch lists its own prompts."""

    @property
    def batch_under_way(self) -> int:
        """The number of the current step, from 1."""
        assert self.trainer is not None
        return self.trainer.global_step + 1

    def mark(self, batch: RolloutBatch) -> None:
        """Record that the rollouts of a micro-batch were trained on."""
        if batch.after is not None:
            self.source.place = batch.after

    def state_dict(self) -> dict[str, list[SavedState]]:
        """Return the rollout states of all ranks, as one object that is equal on every rank; a collective."""
        return {"places": all_gather_objects(to_state(self.source.place))}

    def load_state_dict(self, state_dict: dict[str, list[SavedState]]) -> None:
        """Restore the rollout states; saved rollouts need the same number of ranks."""
        places = state_dict["places"]
        # Rollouts belong to the rank that sampled them; with another number of ranks they are sampled again.
        self.source.place = (
            from_state(places[rank()], self.source.policy.device)
            if len(places) == world_size()
            else RolloutState(round=max(p["round"] for p in places), cursor=max(p["cursor"] for p in places))
        )

    def records_of(self, batches: Sequence[RolloutBatch]) -> list[dict[str, list[int]]]:
        """Return the prompts of a step's micro-batches, for an error report."""
        return [
            {"items": [*history.tolist(), target]}
            for batch in batches
            for history, target in zip(batch.histories, self.source.asked(batch.groups).targets_B.tolist(), strict=True)
        ]
