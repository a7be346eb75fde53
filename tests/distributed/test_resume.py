"""A killed training continues from its checkpoint and ends, bit for bit, as if nobody had killed it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, run_ranks, train_ring
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError
from trialign.files import disk_is_full
from trialign.runtime import strategy as strategies
from trialign.runtime.checkpoint import TrainingCheckpoints, checkpoints_in, fault_of
from trialign.runtime.collectives import all_gather_objects
from trialign.runtime.notice import PreemptedError
from trialign.semid.table import SIDTable
from trialign.stream.module import TrainedRows

STEPS, EVERY = 9, 3


def settings(**runtime: Any) -> dict[str, Any]:
    # Eight lanes, so that two micro-batches and more make a step; dropout, clipping and three tasks are on.
    stream = RING_SETTINGS["stream"] | {"global_batch_size": 8, "sample_log": True}
    return RING_SETTINGS | {
        "steps": STEPS,
        "validation": {"every": 2, "users": 0, "num_beams": 10, "patience": 0, "batch_size": 32},
        "stream": stream,
        "runtime": RING_SETTINGS["runtime"] | {"checkpoint_every": EVERY, "log_every": 2} | runtime,
    }


def train_rank(
    dataset: Path,
    folder: Path,
    runtime: dict[str, Any],
    kill_at: int | None,
    number: int = signal.SIGKILL,
    precision: str = "32-true",
    **backbone: Any,
) -> None:
    """Train; the first rank is sent a signal after the given micro-batch. Runs on every rank."""
    strategies.LEAST_CUT = 0  # the ring's matrices are small, and are to be cut up nevertheless
    if kill_at is not None:
        mark = TrainedRows.on_train_batch_end

        def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            mark(self, trainer, module, outputs, batch, batch_idx)
            if batch_idx == kill_at and os.environ.get("RANK", "0") == "0":
                os.kill(os.getpid(), number)

        TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    found = Dataset(dataset)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    changed = settings(**runtime) | {"precision": precision, "backbone": RING_SETTINGS["backbone"] | backbone}
    try:
        train_ring(found, {}, SIDTable(codes_NL, 3, found.keys, "reassign"), folder, **changed)
    except PreemptedError as asked:
        sys.exit(asked.exit_code)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    ring_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function from strategy, ranks and precision to the folder of a training that nobody killed, once."""

    @cache
    def train(strategy: str, world_size: int, precision: str = "32-true") -> Path:
        folder = tmp_path_factory.mktemp("uninterrupted")
        runtime = {"strategy": strategy, "devices": world_size}
        ended = run_ranks(train_rank, world_size, dataset, folder, runtime, None, signal.SIGKILL, precision)
        assert ended == [0] * world_size
        return folder

    return train


def outcome(folder: Path) -> tuple[bytes, list[dict[str, str]], list[str]]:
    """Return the weights, the log and what was trained on."""
    with (folder / "log" / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    sample_log = [line for path in (folder / "sample_log").iterdir() for line in path.read_text().splitlines()]
    return (folder / "generator.safetensors").read_bytes(), log, sorted(sample_log)


@pytest.mark.parametrize(
    ("strategy", "world_size", "kill_at", "precision"),
    [
        ("single", 1, 4 * 4 + 2, "32-true"),  # in the fifth step, inside its window of four micro-batches
        ("ddp", 2, 4 * 2 + 0, "bf16-mixed"),
        ("fsdp2", 2, 4 * 2 + 0, "32-true"),
        ("zero2", 2, 7 * 2 + 0, "bf16-mixed"),
        pytest.param("zero3", 2, 4 * 2 + 0, "32-true", marks=pytest.mark.slow),
    ],
)
def test_killed_inside_a_window_it_ends_as_if_it_had_not_been(
    dataset: Path,
    tmp_path: Path,
    uninterrupted: Callable[..., Path],
    strategy: str,
    world_size: int,
    kill_at: int,
    precision: str,
) -> None:
    """Red: lanes as they were before the last batch, gradients of a window lost, an optimizer without its past."""
    ended, signalled = [0] * world_size, signal.SIGKILL
    killed_run = dataset, tmp_path / "killed", {"strategy": strategy, "devices": world_size}
    assert -signalled in run_ranks(train_rank, world_size, *killed_run, kill_at, signalled, precision)
    assert not (tmp_path / "killed" / "generator.safetensors").exists()
    assert run_ranks(train_rank, world_size, *killed_run, None, signalled, precision) == ended
    whole, killed = outcome(uninterrupted(strategy, world_size, precision)), outcome(tmp_path / "killed")
    assert whole[0] == killed[0]
    assert whole[1] == killed[1]
    assert whole[2] == killed[2]
    assert [int(line["step"]) for line in whole[1] if line["loss"]] == [1, 3, 5, 7, 8]


def rows_by_step(folder: Path) -> dict[int, list[str]]:
    """Return what every step was trained on, whichever rank held it."""
    steps: dict[int, list[str]] = {}
    for line in outcome(folder)[2]:
        steps.setdefault(json.loads(line)["step"], []).append(line)
    return steps


def test_two_ranks_then_one_then_two_see_the_rows_of_two(
    dataset: Path, tmp_path: Path, uninterrupted: Callable[..., Path]
) -> None:
    """Red: lanes of the first rank alone, a lane that begins anew, micro-batches counted as the old world counts."""
    two, one = {"strategy": "ddp", "devices": 2}, {"strategy": "single", "devices": 1}
    folder = tmp_path / "changing"
    # Killed in step 5, saved at 3; continues from there, killed in step 8, saved at 6.
    assert -signal.SIGKILL in run_ranks(train_rank, 2, dataset, folder, two, 4 * 2 + 0)
    assert run_ranks(train_rank, 1, dataset, folder, one, 7 * 4 + 1) == [-signal.SIGKILL]
    assert run_ranks(train_rank, 2, dataset, folder, two, None) == [0, 0]
    assert rows_by_step(folder) == rows_by_step(uninterrupted("ddp", 2))
    assert [int(line["step"]) for line in outcome(folder)[1] if line["loss"]] == [1, 3, 5, 7, 8]


def moments(trainer: Any, module: Any) -> dict[str, torch.Tensor]:
    """Return AdamW's first and second moments, whole, on every rank; of ZeRO-2 by group, as it lays them out."""
    optimizer = trainer.optimizers[0]
    found = {}
    for moment in ("exp_avg", "exp_avg_sq"):
        if hasattr(optimizer, "single_partition_of_fp32_groups"):
            for number, mine in enumerate(optimizer.single_partition_of_fp32_groups):
                size = sum(parameter.numel() for parameter in optimizer.bit16_groups[number])
                parts = all_gather_objects(optimizer.optimizer.state[mine][moment])
                found[f"{number} {moment}"] = torch.cat(parts)[:size].clone()
            continue
        for name, parameter in module.named_parameters():
            if hasattr(parameter, "ds_id"):
                from deepspeed.utils import safe_get_full_optimizer_state

                value = safe_get_full_optimizer_state(parameter, moment)
            else:
                value = optimizer.state[parameter][moment]
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
            found[f"{name} {moment}"] = value.detach().clone()
    return found


def train_in_turn(dataset: Path, folder: Path, names: list[str], devices: int, ask_at: int | None) -> None:
    """Train by one strategy after the other until asked to save and stop, and write down the moments at both ends."""
    load, save = TrainedRows.on_train_start, TrainingCheckpoints.save

    def started(self: Any, trainer: Any, module: Any) -> None:
        load(self, trainer, module)
        if trainer.global_step:
            torch.save(moments(trainer, module), folder / f"{name}.loaded.{trainer.global_step}.{devices}")

    def saved(self: Any, trainer: Any) -> None:
        save(self, trainer)
        torch.save(moments(trainer, trainer.lightning_module), folder / f"{name}.saved.{trainer.global_step}.{devices}")

    TrainedRows.on_train_start, TrainingCheckpoints.save = started, saved  # type: ignore[method-assign]
    mark = TrainedRows.on_train_batch_end
    for name in names:
        TrainedRows.on_train_batch_end = mark  # type: ignore[method-assign]
        runtime = {"strategy": name, "devices": devices, "checkpoint_every": 0}
        with contextlib.suppress(SystemExit):
            train_rank(dataset, folder / name, runtime, ask_at, signal.SIGUSR1, dropout=0.0)


def test_checkpoints_serve_other_ranks_moments_included(dataset: Path, tmp_path: Path) -> None:
    """2 -> 1 -> 2 ranks ends where two uninterrupted ranks do. Red: moments that are not restored, a dropped lane."""
    names = ["ddp", "fsdp2", "zero2", "zero3"]
    (tmp_path / "whole").mkdir()
    assert run_ranks(train_in_turn, 2, dataset, tmp_path / "whole", ["ddp"], 2, None, timeout=900) == [0, 0]
    assert run_ranks(train_in_turn, 2, dataset, tmp_path, names, 2, 2 * 2, timeout=900) == [0, 0]  # saved after step 4
    assert run_ranks(train_in_turn, 1, dataset, tmp_path, names, 1, 5 * 4, timeout=900) == [
        0
    ]  # asked in step 6, saved after 7
    assert run_ranks(train_in_turn, 2, dataset, tmp_path, names, 2, None, timeout=900) == [0, 0]
    whole = load_file(tmp_path / "whole" / "ddp" / "generator.safetensors")
    for name in names:
        for step, before, after in ((4, 2, 1), (7, 1, 2)):
            saved, loaded = (
                torch.load(tmp_path / f"{name}.{word}.{step}.{ranks}")
                for word, ranks in (("saved", before), ("loaded", after))
            )
            assert saved.keys() == loaded.keys()
            for key, value in saved.items():
                assert value.abs().sum() > 0, key
                torch.testing.assert_close(loaded[key], value, rtol=0, atol=1e-7)
        assert rows_by_step(tmp_path / name) == rows_by_step(tmp_path / "whole" / "ddp")
        ended = load_file(tmp_path / name / "generator.safetensors")
        for key, value in whole.items():
            torch.testing.assert_close(ended[key], value, rtol=0, atol=1e-5)


def test_another_stage_and_another_model_are_refused(dataset: Path, tmp_path: Path) -> None:
    runtime = {"strategy": "single", "devices": 1}
    run_ranks(train_rank, 1, dataset, tmp_path, runtime, 4 * 4)
    with pytest.raises(ConfigError, match="is of single on 1 ranks, this is zero2 on 1") as raised:
        train_rank(dataset, tmp_path, {"strategy": "zero2", "devices": 1}, None)
    assert "set runtime.strategy=single on any number of ranks" in raised.value.remedy
    with pytest.raises(ConfigError, match="is of another model"):
        train_rank(dataset, tmp_path, runtime, None, hidden_size=16)


def fill_disk(dataset: Path, folder: Path, runtime: dict[str, Any]) -> None:
    """Train on a disk that takes no checkpoint after the first."""
    save = TrainingCheckpoints.save

    def limited(self: TrainingCheckpoints, trainer: Any) -> None:
        if trainer.global_step == 2 * EVERY:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        save(self, trainer)

    TrainingCheckpoints.save = limited  # type: ignore[method-assign]
    try:
        train_rank(dataset, folder, runtime, None)
    except Exception as cause:
        sys.exit(28 if disk_is_full(cause) else 1)


@pytest.mark.parametrize("strategy", ["single", "zero2"])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(dataset: Path, tmp_path: Path, strategy: str) -> None:
    assert run_ranks(fill_disk, 1, dataset, tmp_path, {"strategy": strategy, "devices": 1}) == [28]
    (left,) = checkpoints_in(tmp_path / "checkpoints")
    assert left.name == "step-00000003"
    assert fault_of(left) is None


@pytest.mark.parametrize(
    ("strategy", "world_size", "name"),
    [
        ("single", 1, "state"),
        ("fsdp2", 2, "state/__1_0.distcp"),
        ("zero2", 2, "state/checkpoint/zero_pp_rank_1_mp_rank_00_optim_states.pt"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_the_one_before_leads_to_the_same_end(
    dataset: Path,
    tmp_path: Path,
    uninterrupted: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    strategy: str,
    world_size: int,
    name: str,
) -> None:
    """Red: only the rank that read the damaged file goes back."""
    runtime = {"strategy": strategy, "devices": world_size}
    run_ranks(train_rank, world_size, dataset, tmp_path / "killed", runtime, 7 * 4 // world_size)
    newest = tmp_path / "killed" / "checkpoints" / "step-00000006"
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    capfd.readouterr()
    assert run_ranks(train_rank, world_size, dataset, tmp_path / "killed", runtime, None) == [0] * world_size
    told = f"step-00000006 is skipped: {name} holds other bytes than were written"
    assert capfd.readouterr().err.count(told) == world_size
    assert outcome(tmp_path / "killed") == outcome(uninterrupted(strategy, world_size))


@pytest.mark.parametrize(("strategy", "world_size"), [("single", 1), ("zero2", 2)])
def test_killed_while_saving_it_goes_on_from_the_checkpoint_before(
    dataset: Path,
    tmp_path: Path,
    uninterrupted: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    world_size: int,
) -> None:
    runtime = {"strategy": strategy, "devices": world_size}
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.name == "step-00000006":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        assert -signal.SIGKILL in run_ranks(train_rank, world_size, dataset, tmp_path / "killed", runtime, None)
    assert (tmp_path / "killed" / "checkpoints" / "partial").is_dir()
    (left,) = checkpoints_in(tmp_path / "killed" / "checkpoints")
    assert left.name == "step-00000003"
    assert fault_of(left) is None
    assert run_ranks(train_rank, world_size, dataset, tmp_path / "killed", runtime, None) == [0] * world_size
    assert outcome(tmp_path / "killed") == outcome(uninterrupted(strategy, world_size))


@pytest.mark.parametrize(("strategy", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_save_and_stop_all_ranks_save_and_ask_to_be_queued_again(
    dataset: Path,
    tmp_path: Path,
    uninterrupted: Callable[..., Path],
    strategy: str,
    world_size: int,
    number: signal.Signals,
) -> None:
    runtime = {"strategy": strategy, "devices": world_size, "checkpoint_every": 0}
    inside = 4 // world_size * 4  # in the fifth step, whose count is taken already: the sixth carries the word
    found = run_ranks(train_rank, world_size, dataset, tmp_path / "moved", runtime, inside, number)
    assert found[0] == 75
    assert [path.name for path in (tmp_path / "moved" / "checkpoints").glob("*.json")] == ["step-00000006.json"]
    assert run_ranks(train_rank, world_size, dataset, tmp_path / "moved", runtime, None) == [0] * world_size
    assert outcome(tmp_path / "moved") == outcome(uninterrupted(strategy, world_size))
