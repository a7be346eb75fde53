"""However ranks share the work, the same numbers come out: every strategy, and every way to cut a global batch up.

Float32, 50 steps, no dropout, clipping. What turns each test red was tried, and is in its docstring.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, run_ranks, train_ring
from trialign.data.dataset import Dataset
from trialign.runtime import strategy as strategies
from trialign.semid.table import SIDTable

STEPS, LANES = 50, 8

BATCH_OF_8 = ("single", 1, {"micro_batch_size": 8})
ALONE = {
    "8 x 1": ("single", 1, {"micro_batch_size": 1}),
    "recomputed": ("single", 1, {"micro_batch_size": 8, "activation_checkpointing": True}),
}
TOGETHER = {
    "ddp": ("ddp", 2, {"micro_batch_size": 2}),
    "fsdp2": ("fsdp2", 2, {"micro_batch_size": 2}),
    "zero1": ("zero1", 2, {"micro_batch_size": 2}),
    "zero2": ("zero2", 2, {"micro_batch_size": 2}),
    "zero3": ("zero3", 2, {"micro_batch_size": 2}),
    "zero3_offload, recomputed": ("zero3_offload", 2, {"micro_batch_size": 4, "activation_checkpointing": True}),
}
Case = tuple[str, int, dict[str, Any]]


def train_cases(dataset: Path, cases: Mapping[Path, Case]) -> None:
    """Train one case after the other in the same processes; runs on every rank."""
    strategies.LEAST_CUT = 0  # the ring's matrices are small, and are to be cut up nevertheless
    found = Dataset(dataset)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    sids = SIDTable(codes_NL, 3, found.keys, "reassign")
    for folder, (strategy, devices, runtime) in cases.items():
        folder.mkdir(exist_ok=True)
        settings = RING_SETTINGS | {
            "steps": STEPS,
            "learning_rate": 1e-3,  # at ten times the rate rounding errors double every few steps
            "max_grad_norm": 1.0,  # at about every other step: neither its absence nor a constant factor goes unseen
            "backbone": RING_SETTINGS["backbone"] | {"dropout": 0.0, "num_layers": 2},
            "validation": {"every": 25, "users": 0, "num_beams": 10, "patience": 0, "batch_size": 32},
            "stream": RING_SETTINGS["stream"] | {"global_batch_size": LANES},
            "runtime": RING_SETTINGS["runtime"] | {"strategy": strategy, "devices": devices, "log_every": 1} | runtime,
        }
        train_ring(found, {}, sids, folder, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained: on one rank, and on two that take the strategies in turn."""
    folder = tmp_path_factory.mktemp("parity")
    ring_dataset(folder / "dataset")
    alone = {"batch of 8": BATCH_OF_8} | ALONE
    assert run_ranks(train_cases, 1, folder / "dataset", {folder / n: case for n, case in alone.items()}) == [0]
    together = {folder / name: case for name, case in TOGETHER.items()}
    assert run_ranks(train_cases, 2, folder / "dataset", together, timeout=600) == [0, 0]
    return folder


def outcome(folder: Path) -> tuple[list[float], list[str], dict[str, NDArray[np.float32]]]:
    """Return the loss of every step, what validation found, and the parameters."""
    with (folder / "log" / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    losses = [float(line["loss"]) for line in log if line["loss"]]
    assert len(losses) == STEPS
    found = [line[f"validation/{name}"] for line in log for name in ("recall@10", "ndcg@10")]
    return losses, [figure for figure in found if figure], load_file(folder / "generator.safetensors")


@pytest.mark.parametrize("case", [*ALONE, *TOGETHER])
def test_the_same_global_batch_trains_the_same_weights(folder: Path, case: str) -> None:
    """Red: gradients that are not averaged, a local mean, a lane that is dropped, no clipping, a loss divided twice."""
    losses, found, weights = outcome(folder / case)
    wanted_losses, wanted, wanted_weights = outcome(folder / "batch of 8")
    assert losses == pytest.approx(wanted_losses, rel=1e-5)
    assert found == wanted
    assert len(found) == 4
    assert weights.keys() == wanted_weights.keys()
    for name, values in wanted_weights.items():
        torch.testing.assert_close(torch.from_numpy(weights[name]), torch.from_numpy(values), rtol=0, atol=1e-4)
    assert wanted_losses[-1] < 0.6 * wanted_losses[0]
