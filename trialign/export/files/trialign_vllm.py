"""Logits processors for vLLM: every step writes a code that continues an item of the catalogue in the folder above.

`TrieProcessor` has the interface for whole batches (`update_state`, `apply`), `TrieRequests` the one for single
requests. vLLM keeps the level of neither: it is read off the last tokens, so that a beam search that sends a prompt
anew for every step is served too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

try:
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor, LogitsProcessor
except ImportError:  # so that the classes can be driven where vLLM is not installed
    AdapterLogitsProcessor = LogitsProcessor = object

BUNDLE = Path(__file__).resolve().parent.parent


@cache
def _processor(device: torch.device | str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the processor of transformers, by the code that lies in the bundle."""
    spec = importlib.util.spec_from_file_location("bundle_generate", BUNDLE / "custom_generate" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = module.TrieProcessor(module.Catalogue(BUNDLE, device))
    return made


class TrieProcessor(LogitsProcessor):  # type: ignore[misc]
    """The batch form; vLLM makes one per engine.

    Args:
        vllm_config: is not read.
        device: where the logits are.
        is_pin_memory: is not read.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._process = _processor(device)
        self._device = device
        self._rows: dict[int, tuple[Sequence[int], Sequence[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Accept every request."""

    def is_argmax_invariant(self) -> bool:
        """Return that greedy decoding needs it too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests through the rows of the batch; what they wrote is in lists that vLLM extends."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, _, prompt, output in batch_update.added:
            self._rows[row] = (prompt or (), output)
        for one, other, direction in batch_update.moved:
            first, second = self._rows.pop(one, None), self._rows.pop(other, None)
            if first is not None:
                self._rows[other] = first
            if second is not None and direction.name == "SWAP":
                self._rows[one] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of the codes that continue an item, -inf for all other tokens."""
        rows = sorted(self._rows)
        if not rows:
            return logits
        told = [[*prompt, *output] for prompt, output in (self._rows[row] for row in rows)]
        width = max(map(len, told))
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in told], device=self._device)
        logits[rows] = self._process(tokens, logits[rows])
        return logits


class TrieRequests(AdapterLogitsProcessor):  # type: ignore[misc]
    """The form for single requests, which vLLM wraps for its batches."""

    def is_argmax_invariant(self) -> bool:
        """Return that greedy decoding needs it too."""
        return False

    def new_req_logits_processor(
        self,
        params: Any,  # noqa: ARG002
    ) -> Callable[[Sequence[int], Sequence[int], torch.Tensor], torch.Tensor]:
        """Return what processes the logits [V] of one request, given the tokens of its prompt and its output."""

        def process(prompt: Sequence[int], output: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
            tokens = torch.tensor([[*prompt, *output]], device=logits.device)
            return _processor(logits.device)(tokens, logits[None])[0]

        return process
