"""Sample candidates from the policy by constrained decoding; a prompt is read once for its whole group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trialign.decode.beam import beam_search
from trialign.decode.path import ItemPaths, Trie
from trialign.decode.sample import sample
from trialign.generate.model import Generator
from trialign.generate.template import Template
from trialign.types import Items


class Drawn(NamedTuple):
    """`items_BG`: int64, distinct in each group; `log_probs_BG`: float32, by the policy that sampled them."""

    items_BG: torch.Tensor
    log_probs_BG: torch.Tensor


class Policy:
    """A generator as a policy: samples items after histories, and scores given ones.

    Args:
        generator: in eval mode, so that sampling and scoring use the same distribution.
        template: turns histories into prompts.
        trie: of the catalogue; it is moved to the generator's device.

    Attributes:
        summon_full_params: gives the generator with its full weights; the LightningModule sets it, as a strategy may
            shard them.
    """

    def __init__(self, generator: Generator, template: Template, trie: Trie) -> None:
        self.generator = generator
        self._template = template
        self._trie = trie
        self.summon_full_params: Callable[[], AbstractContextManager[Generator]] = lambda: nullcontext(generator)

    @property
    def device(self) -> torch.device:
        """The generator's device."""
        return next(self.generator.parameters()).device

    def score_candidates(self, histories: Sequence[Items], items_BG: torch.Tensor) -> ItemPaths:
        """Return the `ItemPaths` of given items, with gradients if they are enabled."""
        return self.generator.score_candidates(self._prompts(histories), self._on_device(), items_BG)

    @contextmanager
    def unsharded(self) -> Iterator[Policy]:
        """Give the policy with full weights, so that ranks can sample without synchronization; a collective."""
        with self.summon_full_params() as generator:
            yield Policy(generator, self._template, self._on_device())

    @torch.no_grad()
    def draw(self, histories: Sequence[Items], num_items: int, sampler: str, draws: torch.Generator) -> Drawn:
        """Sample candidates.

        Args:
            histories: one per prompt.
            num_items: G, at most the size of the catalogue.
            sampler: `distinct`, sampled without replacement; `beams`, the most probable ones, which is biased and does
                not explore.
            draws: the random generator, on the generator's device.
        """
        scorer = self.generator.items.scorer(self.generator, self._prompts(histories))
        index = self._on_device().index
        if sampler == "beams":
            found: tuple[torch.Tensor, torch.Tensor] = beam_search(scorer, index, num_items)
        else:
            found = sample(scorer, index, num_items, draws, replacement=False)
        # Autograd cannot use tensors of inference mode; a copy can be used.
        return Drawn(*(values.clone() for values in found))

    def _on_device(self) -> Trie:
        if self._trie.nodes_DN.device != self.device:
            self._trie = self._trie.to(self.device)
        return self._trie

    def _prompts(self, histories: Sequence[Items]) -> list[NDArray[np.int64]]:
        return [self._template.history_prompt(history) for history in histories]
