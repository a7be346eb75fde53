"""The processors for vLLM, driven through vLLM's own interface; vLLM itself is not installed here."""

from __future__ import annotations

import importlib.util
import json
from enum import Enum, auto
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trialign.export.files.generate import Catalogue, load


class Direction(Enum):
    """As vLLM's MoveDirectionality."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


class BatchUpdate(NamedTuple):
    """As vLLM's: rows that ended, rows that began (with lists that the engine extends), rows that moved."""

    batch_size: int
    removed: list[int]
    added: list[tuple[int, Any, list[int] | None, list[int]]]
    moved: list[tuple[int, int, Direction]]


@pytest.fixture(scope="module")
def carried(bundle: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("trialign_vllm", bundle / "vllm" / "trialign_vllm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(bundle: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(bundle).eval()


def logits_of(model: Any, rows: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(torch.tensor([row])).logits[:, -1] for row in rows])


def test_a_beam_search_by_single_steps_returns_the_rankers_list(bundle: Path, carried: ModuleType, model: Any) -> None:
    """As vLLM's: every step asks anew for the log-probabilities after each beam, prompt and beam in one."""
    catalogue, width = Catalogue(bundle), 12
    processor = carried.TrieProcessor(None, torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    beams: list[tuple[list[int], float]] = [(catalogue.prompt([3, 4, 5]), 0.0)]
    for _ in range(catalogue.num_levels):
        added = [(row, None, beam, []) for row, (beam, _) in enumerate(beams)]
        processor.update_state(BatchUpdate(len(beams), [], added, []))
        found = processor.apply(logits_of(model, [beam for beam, _ in beams])).log_softmax(-1)
        processor.update_state(BatchUpdate(0, [row for row, *_ in added], [], []))
        further = [
            ([*beam, token], score + float(found[row, token]))
            for row, (beam, score) in enumerate(beams)
            for token in torch.nonzero(found[row] > -torch.inf)[:, 0].tolist()
        ]
        beams = sorted(further, key=lambda one: -one[1])[:width]
    items = catalogue.read(torch.tensor([beam for beam, _ in beams]))[0][:, -1]
    expected, scores = load(bundle).rank_items([np.array([3, 4, 5])], 10)
    np.testing.assert_array_equal(items[:10], expected[0])
    np.testing.assert_allclose([score for _, score in beams[:10]], scores[0], atol=1e-5)


def test_requests_that_come_move_and_go_keep_their_own_prompts(bundle: Path, carried: ModuleType, model: Any) -> None:
    catalogue = Catalogue(bundle)
    prompts = [catalogue.prompt(items) for items in ([], [1, 2], [7])]
    written: list[list[int]] = [[], [], []]
    processor = carried.TrieProcessor(None, torch.device("cpu"), False)
    processor.update_state(None)
    processor.update_state(BatchUpdate(3, [], [(row, None, prompts[row], written[row]) for row in range(3)], []))
    alone = carried.TrieRequests().new_req_logits_processor(None)

    def check(order: list[int]) -> None:
        logits = logits_of(model, [prompts[request] + written[request] for request in order])
        expected = [alone(prompts[request], written[request], logits[row]) for row, request in enumerate(order)]
        torch.testing.assert_close(processor.apply(logits.clone()), torch.stack(expected))

    check([0, 1, 2])
    for request in range(3):
        written[request].append(catalogue.first_code)
    check([0, 1, 2])
    processor.update_state(BatchUpdate(3, [], [], [(0, 2, Direction.SWAP)]))
    check([2, 1, 0])
    processor.update_state(BatchUpdate(2, [0], [], [(2, 0, Direction.UNIDIRECTIONAL)]))
    check([0, 1])


def test_the_readme_names_the_flags(bundle: Path) -> None:
    text = (bundle / "README.md").read_text()
    beams = json.loads((bundle / "generation_config.json").read_text())["num_beams"]
    assert f"--logprobs-mode processed_logprobs --max-logprobs {2 * beams}" in text
    assert "PYTHONPATH=vllm vllm serve . " in text
