"""Stream of scored rollouts: sampled from the current policy, and each used `num_iterations` times.

A step's rollouts are sampled when its first batch is requested, so the loader must not prefetch: it has a length, from
which Lightning knows the last batch. Its state is the position in the prompts and, between two uses of the same
rollouts, the rollouts themselves, since the weights that sampled them are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.config.rl import RLConfig
from trialign.errors import TrainingError
from trialign.reward.functions import Candidates, score
from trialign.rl.advantage import advantages, differ
from trialign.rl.prompts import PromptBatch, Prompts
from trialign.rl.rollout import Policy
from trialign.runtime.collectives import all_reduce_sum, rank, world_size
from trialign.runtime.seeding import derive
from trialign.types import Items

_MOST_PROMPTS = 8
"""Times the wanted number of groups that are drawn at most in search of groups whose rewards differ."""


@dataclass  # dataclasses here are not frozen, because Lightning converts copies field by field
class RolloutGroups:
    """Scored rollouts of B prompts.

    `places_B`: of the prompts. `items_BG`, `log_probs_BG`: as sampled. `advantages_BG`. `reference`: `ItemPaths.levels`
    of the reference along the items' paths; empty until they are computed.
    """

    places_B: torch.Tensor
    items_BG: torch.Tensor
    log_probs_BG: torch.Tensor
    advantages_BG: torch.Tensor
    reference: list[torch.Tensor]

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> RolloutGroups:
        """Apply a function to every tensor and return the new groups."""
        return RolloutGroups(
            change(self.places_B),
            change(self.items_BG),
            change(self.log_probs_BG),
            change(self.advantages_BG),
            [change(level) for level in self.reference],
        )

    @classmethod
    def join(cls, parts: Sequence[RolloutGroups]) -> RolloutGroups:
        """Concatenate groups whose reference is not computed yet."""
        return cls(
            torch.cat([part.places_B for part in parts]),
            torch.cat([part.items_BG for part in parts]),
            torch.cat([part.log_probs_BG for part in parts]),
            torch.cat([part.advantages_BG for part in parts]),
            [],
        )


@dataclass
class RolloutState:
    """The state of a rank's rollouts after a step.

    Attributes:
        round: rounds of rollouts sampled so far.
        use: how often the newest rollouts were used, less than `num_iterations`.
        cursor: prompts used so far.
        skipped: groups skipped so far.
        held: the newest rollouts, if they will be used again.
        tally: counts of their sampling: groups, groups of zero variance, candidates, then summed rewards (the total
            and each).
    """

    round: int = 0
    use: int = 0
    cursor: int = 0
    skipped: int = 0
    held: RolloutGroups | None = None
    tally: tuple[float, ...] = ()


class SavedState(TypedDict):
    """A `RolloutState` in a checkpoint; `held`: the fields of its groups."""

    round: int
    use: int
    cursor: int
    skipped: int
    held: dict[str, Any] | None
    tally: tuple[float, ...]


@dataclass
class RolloutBatch:
    """One micro-batch: B groups of G candidates.

    Attributes:
        histories: of each prompt.
        groups: scored rollouts.
        step_candidates: candidates of this rank in the whole optimizer step.
        first_of_step: True for the first micro-batch of a step.
        tally: `RolloutState.tally`, in the first micro-batch of a step.
        after: the state after the step, in its last micro-batch.
    """

    histories: list[Items]
    groups: RolloutGroups
    step_candidates: int
    first_of_step: bool
    tally: tuple[float, ...] | None
    after: RolloutState | None

    @property
    def num_tokens(self) -> torch.Tensor:
        """The number of items that an update reads: each history once, and every candidate."""
        read = sum(len(history) for history in self.histories) + self.groups.items_BG.numel()
        return torch.tensor(read, device=self.groups.items_BG.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RolloutBatch:
        """Return the batch with its tensors on `device`."""
        return replace(self, groups=self.groups.map(lambda found: found.to(device, non_blocking=non_blocking)))


class RolloutSource:
    """Yields one rank's micro-batches of scored rollouts, for all steps of the training.

    Args:
        policy: the policy to sample from; its weights change between steps.
        reference: the policy of the KL term.
        prompts: the held-out positions.
        rewards: name -> weight.
        codes_NL: semantic IDs of the catalogue.
        quality_N: of the items, if a reward uses it.
        settings: rollouts per prompt, how they are sampled and used, the steps of the training.
        num_groups: groups per step of this rank.
        micro: groups per micro-batch; divides `num_groups`.
        seed: of the sampling.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Policy,
        prompts: Prompts,
        rewards: Mapping[str, float],
        codes_NL: NDArray[np.integer],
        quality_N: NDArray[np.floating] | None,
        settings: RLConfig,
        *,
        num_groups: int,
        micro: int,
        seed: int,
    ) -> None:
        assert num_groups % micro == 0, (num_groups, micro)
        self.policy, self._reference, self._prompts = policy, reference, prompts
        self._rewards, self._codes_NL, self._quality_N = dict(rewards), codes_NL, quality_N
        self._settings, self._num_groups, self._micro, self._seed = settings, num_groups, micro, seed
        self.place = RolloutState()

    def __len__(self) -> int:
        return self._settings.steps * (self._num_groups // self._micro)

    def __iter__(self) -> Iterator[RolloutBatch]:
        place = self.place
        self._reference.generator.to(self.policy.device)
        while True:
            if place.held is None:
                place = self.collect(place)
            groups, tally = place.held, place.tally
            assert groups is not None
            used = place.use + 1
            again = used < self._settings.num_iterations
            place = replace(place, use=used) if again else replace(place, use=0, held=None, tally=())
            yield from self._split(groups, tally, place)

    def asked(self, groups: RolloutGroups) -> PromptBatch:
        """Return the prompts of groups."""
        return self._prompts.at(groups.places_B.cpu().numpy())

    def collect(self, place: RolloutState) -> RolloutState:
        """Sample and score until enough groups have rewards that differ; return the state with these groups.

        Groups of equal rewards are skipped, and further prompts are used. If too many prompts were used, skipped groups
        fill the step; their advantages are 0. A collective.

        Raises:
            TrainingError: no group of any rank has rewards that differ.
        """
        device = self.policy.device
        draws = torch.Generator(device).manual_seed(derive(self._seed, "rollouts", place.round, rank()))
        kept: list[RolloutGroups] = []
        spare: list[RolloutGroups] = []
        tally: NDArray[np.float64] = np.zeros(4 + len(self._rewards))
        cursor, missing = place.cursor, self._num_groups
        with self.policy.unsharded() as policy:
            while any_rank(missing, device) and cursor - place.cursor < _MOST_PROMPTS * self._num_groups:
                groups, differs_B, counted = self._ask(policy, cursor, max(missing, 1), draws)
                cursor += len(differs_B)
                tally += counted
                good, flat = np.flatnonzero(differs_B)[:missing], np.flatnonzero(~differs_B)
                kept.append(groups.map(itemgetter(torch.from_numpy(good))))
                spare.append(groups.map(itemgetter(torch.from_numpy(flat))))
                missing -= len(good)
        if not any_rank(self._num_groups - missing, device):
            raise TrainingError(
                f"in all of {int(tally[0])} groups of {self._settings.group_size} candidates all rewards are equal",
                rule="a policy learns from candidates of which some are better than others",
                remedy="add a reward that tells near from far (rl.rewards.prefix=0.5), raise rl.group_size, or train "
                "the generator better first",
            )
        groups = RolloutGroups.join([*kept, *spare]).map(itemgetter(slice(self._num_groups)))
        held = replace(groups, reference=self._referred(groups))
        skipped = place.skipped + int(tally[1]) - missing
        return RolloutState(place.round + 1, 0, cursor, skipped, held, tuple(tally.tolist()))

    def _ask(
        self, policy: Policy, cursor: int, num_groups: int, draws: torch.Generator
    ) -> tuple[RolloutGroups, NDArray[np.bool_], NDArray[np.float64]]:
        places_B = (cursor + np.arange(num_groups)) * world_size() + rank()
        asked = self._prompts.at(places_B)
        drawn = policy.draw(asked.histories, self._settings.group_size, self._settings.sampler, draws)
        candidates = Candidates(
            drawn.items_BG.cpu().numpy(),
            asked.targets_B,
            drawn.log_probs_BG.double().cpu().numpy(),
            self._codes_NL,
            self._quality_N,
        )
        rewards_BG, parts = score(candidates, self._rewards)
        differs_B = differ(rewards_BG)
        advantages_BG = torch.from_numpy(advantages(rewards_BG, scale_rewards=self._settings.scale_rewards)).float()
        groups = RolloutGroups(
            torch.from_numpy(places_B).to(drawn.items_BG.device),
            drawn.items_BG,
            drawn.log_probs_BG,
            advantages_BG.to(drawn.items_BG.device),
            [],
        )
        sums = [rewards_BG.sum(), *(parts[name].sum() for name in self._rewards)]
        return groups, differs_B, np.array([num_groups, (~differs_B).sum(), rewards_BG.size, *sums])

    @torch.no_grad()
    def _referred(self, groups: RolloutGroups) -> list[torch.Tensor]:
        return self._reference.score_candidates(self.asked(groups).histories, groups.items_BG).levels

    def _split(self, groups: RolloutGroups, tally: tuple[float, ...], after: RolloutState) -> Iterator[RolloutBatch]:
        histories = self.asked(groups).histories
        for start in range(0, self._num_groups, self._micro):
            stop = start + self._micro
            yield RolloutBatch(
                histories[start:stop],
                groups.map(itemgetter(slice(start, stop))),
                step_candidates=self._num_groups * self._settings.group_size,
                first_of_step=start == 0,
                tally=tally if start == 0 else None,
                after=after if stop == self._num_groups else None,
            )


def any_rank(number: int, device: torch.device) -> bool:
    """Return whether the number is above zero on any rank. A collective."""
    return bool(all_reduce_sum(torch.tensor([number > 0], dtype=torch.int64, device=device)).item())


def to_state(place: RolloutState) -> SavedState:
    """Return a state as plain numbers and tensors, for a checkpoint."""
    held = None if place.held is None else dict(vars(place.held))
    return SavedState(
        round=place.round, use=place.use, cursor=place.cursor, skipped=place.skipped, held=held, tally=place.tally
    )


def from_state(state: SavedState, device: torch.device | str) -> RolloutState:
    """Return the state from the output of `to_state`."""
    held = None if state["held"] is None else RolloutGroups(**state["held"]).map(lambda found: found.to(device))
    return RolloutState(state["round"], state["use"], state["cursor"], state["skipped"], held, state["tally"])
