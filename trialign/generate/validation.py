"""Measure a generator in training on the validation users, with the same ranking as `evaluate`.

Only users of the validation split are used. Rank r takes users r, r + W, ...; sums and counts are reduced, so the
figures do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from trialign.data.dataset import Evaluation
from trialign.decode.index import PrefixIndex
from trialign.errors import ConfigError
from trialign.generate.loss import autoregressive_loss
from trialign.generate.model import Generator
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import Window
from trialign.generate.template import Template
from trialign.ranking import find_hits, ndcg_at_k, recall_at_k
from trialign.runtime.collectives import all_reduce_sum, rank, world_size

TASK = "history_to_item"
DEPTH = 10
"""Of the figure that decides."""


class Validation:
    """Measures a generator on validation users.

    Args:
        users: the split; the first `num_users` are taken, a fair sample because they are in hash order.
        template: turns histories into prompts.
        index: prefixes of the semantic IDs.
        num_users: 0 takes all.
        num_beams: of the constrained search, at least DEPTH and the largest cutoff.
        max_history: items of a history that are read.
        batch_size: users per search.
        cutoffs: depths of the recall that is measured.

    Raises:
        ConfigError: there is no validation user, or history_to_item is not a task of the generator.
    """

    def __init__(
        self,
        users: Evaluation,
        template: Template,
        index: PrefixIndex,
        *,
        num_users: int,
        num_beams: int,
        max_history: int,
        batch_size: int,
        cutoffs: Sequence[int] = (DEPTH,),
    ) -> None:
        if not users.users:
            raise ConfigError(
                "train.validation.every is set, but the validation split is empty",
                rule="a checkpoint is chosen on users who are held out for it",
                remedy="set train.validation.every=0, or a data.split that holds validation events out",
            )
        if TASK not in template.tasks:
            raise ConfigError(
                f"train.validation.every is set, but {TASK} is not among train.tasks",
                rule="validation ranks the next item",
                remedy=f"set train.validation.every=0, or give train.tasks.{TASK} a weight",
            )
        self.num_users = min(num_users or len(users.users), len(users.users))
        mine = slice(rank(), self.num_users, world_size())
        self._histories, self._targets = users.histories[mine], users.targets[mine]
        self._template, self._index, self._max_history = template, index, max_history
        self._cutoffs = list(cutoffs)
        self._search = {"num_beams": num_beams, "max_history": max_history, "batch_size": batch_size}

    @torch.inference_mode()
    def measure(self, generator: Generator, device: torch.device) -> dict[str, float]:
        """Return `loss` (nats per token of each user's next item), `recall@` every cutoff and `ndcg@10`. A collective.

        The generator is left in eval mode.
        """
        ranker = GeneratorRanker(generator, self._template, self._index, device=device, **self._search)
        sums = torch.zeros(4 + len(self._cutoffs), dtype=torch.float64)
        if self._histories:
            items_UK, _ = ranker.rank(self._histories, max(DEPTH, *self._cutoffs, 0), exclude=None)
            hits_UK, num_targets_U = find_hits(items_UK, self._targets)
            recalls = [recall_at_k(hits_UK, num_targets_U, k).sum() for k in self._cutoffs]
            ndcg = ndcg_at_k(hits_UK, num_targets_U, DEPTH).sum()
            sums[2:] = torch.tensor([len(self._histories), ndcg, *recalls])
            for users in ranker.batches(self._histories):
                sums[:2] += self._losses(generator, users, device).cpu()
        loss, tokens, count, ndcg, *recalls = all_reduce_sum(sums.to(device)).tolist()
        found = {f"recall@{k}": recall / count for k, recall in zip(self._cutoffs, recalls, strict=True)}
        return {"loss": loss / max(tokens, 1.0), **found, "ndcg@10": ndcg / count}

    def _losses(self, generator: Generator, users: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return (summed loss, tokens) of the next items of some users, float64 [2]."""
        task = self._template.tasks.index(TASK)
        examples = [self._template.encode(task, self._window(user)) for user in users]
        # Padding is on the right and positions do not restart, so a row is one example and causal attention hides it.
        tokens_BT, targets_BT = (
            pad_sequence([torch.from_numpy(part) for part in parts], batch_first=True).to(device)
            for parts in zip(*((example.tokens, example.targets) for example in examples), strict=True)
        )
        places_BT = torch.arange(tokens_BT.shape[1], device=device).expand(len(tokens_BT), -1)
        sums = autoregressive_loss(generator(tokens_BT, places_BT, targets_BT, torch.zeros_like(tokens_BT)), 1)
        return torch.stack([sums.losses[0], sums.counts[0]]).double()

    def _window(self, user: int) -> Window:
        items = np.append(self._histories[user], self._targets[user][0])[-self._max_history :]
        return Window(items, first_target=len(items) - 1)
