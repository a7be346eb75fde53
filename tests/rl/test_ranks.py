"""Rollouts are drawn from all of the weights and learned by the parts of them, however ranks share the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tools import NUM_ITEMS, run_ranks
from trialign.rl.module import PolicyModule, Watch
from trialign.rl.start import Start
from trialign.runtime import strategy as strategies
from trialign.runtime.collectives import rank

from .conftest import reinforced

STRATEGIES = ["ddp", "fsdp2", "zero2", "zero3"]
HISTORIES = [np.arange(start, start + 3, dtype=np.int32) % NUM_ITEMS for start in range(NUM_ITEMS)]


def learn(start: Start, folder: Path, settings: dict[str, Any], names: list[str], devices: int) -> None:
    """Train by one strategy after the other, writing down what is found by search on the way; runs on every rank."""
    strategies.LEAST_CUT = 0  # the ring's matrices are small, and are to be cut up nevertheless
    Watch.restore = lambda self, module: None  # type: ignore[method-assign]  # the last weights, were they the best or not
    measure = Watch._measure

    def searched(self: Watch, trainer: Any, module: PolicyModule, step: int) -> None:
        measure(self, trainer, module, step)
        with module._policy.unsharded() as policy:
            # A rank alone with its copy: what it searches for, and how often, no other rank need know.
            for history in HISTORIES[rank() :: 2] if devices == 2 else HISTORIES:
                found = policy.draw([history], NUM_ITEMS, "beams", torch.Generator())
                torch.save(found, folder / name / f"{step}-{history[0]}.pt")

    Watch._measure = searched  # type: ignore[assignment, method-assign]
    for name in names:
        (folder / name).mkdir(exist_ok=True)
        runtime = settings["runtime"] | {"strategy": name, "devices": devices}
        reinforced(start, folder / name, **settings | {"runtime": runtime})


@pytest.mark.parametrize("encoding", ["tokens", "position"])
def test_two_ranks_find_and_learn_what_one_does(
    encoding: str, trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    """Every item is drawn after every prompt, so chance decides nothing and no group is skipped.

    Red: rollouts of weights that are not the newest, a method that FSDP2 does not know of, gradients not averaged.
    """
    settings |= {"steps": 4, "group_size": NUM_ITEMS, "sampler": "beams"}
    settings["validation"] |= {"every": 2}
    assert run_ranks(learn, 1, trained(encoding), tmp_path, settings, ["single"], 1) == [0]
    assert run_ranks(learn, 2, trained(encoding), tmp_path, settings, STRATEGIES, 2) == [0, 0]
    started = load_file(trained(encoding).folder / "generator.safetensors")
    wanted = load_file(tmp_path / "single" / "generator.safetensors")
    assert max((wanted[name] - found).abs().max() for name, found in started.items()) > 1e-3
    for strategy in STRATEGIES:
        for step in (0, 2, 4):
            for history in HISTORIES:
                ours, theirs = (
                    torch.load(tmp_path / name / f"{step}-{history[0]}.pt", weights_only=False)
                    for name in (strategy, "single")
                )
                assert ours.items_BG.equal(theirs.items_BG), (strategy, step)
                torch.testing.assert_close(ours.log_probs_BG, theirs.log_probs_BG, atol=1e-4, rtol=0)
        ended = load_file(tmp_path / strategy / "generator.safetensors")
        for name, found in wanted.items():
            torch.testing.assert_close(ended[name], found, atol=2e-5, rtol=1e-3, msg=f"{strategy}: {name}")
