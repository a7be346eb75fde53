"""Which rank a process is by what its launcher says, and what is left of the ranks of a stage."""

from __future__ import annotations

import os

import pytest

from trialign.runtime.ranks import launched_rank, ranks_for_a_while

NAMES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),  # torchrun, on the second node
        ({"SLURM_PROCID": "4", "LOCAL_RANK": "0"}, 4),
    ],
)
def test_the_first_process_of_another_node_is_not_the_first_rank(
    given: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launched_rank() == rank


def test_the_ranks_of_a_stage_are_forgotten_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "n1")
    with ranks_for_a_while():
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert os.environ["MASTER_ADDR"] == "n1"
    assert "WORLD_SIZE" not in os.environ
