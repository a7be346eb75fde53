"""Which checkpoints stay, which are opened, and which rank reads what of them."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from tests.tools import run_ranks
from trialign.files import sha256_of
from trialign.runtime import checkpoint as checkpoints
from trialign.runtime.checkpoint import (
    CheckedTogether,
    TrainingCheckpoints,
    checkpoints_in,
    fault_of,
    from_newest,
    share_of,
    step_of,
)

OWN = ["checkpoint/zero_pp_rank_{}_mp_rank_00_optim_states.pt", "__{}_0.distcp"]
"""What DeepSpeed and torch call the files that a rank writes for itself."""
SHARED = [".metadata", "checkpoint/mp_rank_00_model_states.pt", "latest"]


def saving(folder: Path, save: Any, world_size: int = 1) -> None:
    """Save four checkpoints, of which two are kept."""
    barrier = dist.barrier if world_size > 1 else lambda: None
    trainer = SimpleNamespace(global_step=0, world_size=world_size, save_checkpoint=lambda path: save(trainer, path))
    trainer.is_global_zero = world_size == 1 or dist.get_rank() == 0
    trainer.strategy = SimpleNamespace(barrier=lambda name: barrier())
    saves = TrainingCheckpoints(folder, strategy="single", model="m", every=1, keep=2)
    for step in (3, 6, 9, 12):
        trainer.global_step = step
        saves.save(trainer)  # type: ignore[arg-type]  # as much of a trainer as is asked for


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    saving(tmp_path, lambda trainer, path: path.write_text(f"{trainer.global_step:04d}"))
    return tmp_path


def test_the_newest_checkpoints_stay(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        *("step-00000009", "step-00000009.json", "step-00000012", "step-00000012.json"),
    ]
    assert [step_of(path) for path in checkpoints_in(saved)] == [12, 9]


def opened(checkpoint: Path | None) -> int:
    """Stand for a training that continues from a checkpoint."""
    if checkpoint is None:
        return 0
    CheckedTogether(checkpoint).setup(None, None, "fit")  # type: ignore[arg-type]  # neither is asked for anything
    return step_of(checkpoint)


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("0013", "step-00000012/state", "holds other bytes than were written"),
        ("12", "step-00000012/state", "2 bytes, 4 were written"),
        ("0012", "step-00000012/more", "files that we did not write: more"),
        ("{}", "step-00000012.json", "'files'"),
        ('{"files":', "step-00000012.json", "Expecting value"),
    ],
)
def test_a_checkpoint_that_is_not_what_was_written_is_never_opened(
    text: str, name: str, told: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (saved / name).write_text(text)
    assert from_newest(saved, opened) == 9
    assert told in caplog.text
    shutil.rmtree(saved / "step-00000009")
    assert from_newest(saved, opened) == 0


@pytest.mark.parametrize("wrote", [1, 2, 5])
@pytest.mark.parametrize("read", [1, 2, 3])
def test_each_file_is_one_ranks_to_read_and_its_own_are_the_writers(wrote: int, read: int) -> None:
    own = {name.format(rank): rank for rank in range(wrote) for name in OWN}
    names = [*own, *SHARED, "zero_pp_rank_1_parts/of_no_rank"]
    shares = [share_of(names, rank, read) for rank in range(read)]
    assert Counter(name for share in shares for name in share) == Counter(names)
    for name, rank in own.items():
        assert name in shares[rank % read]
    others = [len(share) - sum(name in own for name in share) for share in shares]
    assert max(others) - min(others) <= 1


def note_reading(by: Path) -> None:
    """Write down what this process reads to hash it."""

    def noted(path: Path) -> str:
        with by.open("a") as file:
            file.write(f"{path.name}\n")
        return sha256_of(path)

    checkpoints.sha256_of = noted  # type: ignore[attr-defined]


def save_on_rank(folder: Path) -> None:
    """Save; the second rank writes when the first, for all that it knows, is done."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    note_reading(folder / f"written-{rank}")

    def save(trainer: Any, path: Path) -> None:
        done = folder / f"done-{trainer.global_step}"
        if rank == 0:
            (path / "checkpoint").mkdir(parents=True)
            for name in SHARED:
                (path / name).write_text(f"{trainer.global_step:04d}")
        while rank == 1 and not done.exists():
            os.sched_yield()
        for name in OWN:
            (path / name.format(rank)).write_text(f"{trainer.global_step:04d} of {rank}")
        done.touch()

    saving(folder / "checkpoints", save, world_size=2)


def open_on_rank(folder: Path) -> None:
    """Continue from the newest."""
    dist.init_process_group("gloo")
    note_reading(folder / f"read-{dist.get_rank()}")
    (folder / f"step-{dist.get_rank()}").write_text(str(from_newest(folder / "checkpoints", opened)))


def names_of_rank(rank: int) -> set[str]:
    return {Path(name.format(rank)).name for name in OWN}


def test_two_ranks_read_their_own_files_and_leave_one_record_of_all(tmp_path: Path) -> None:
    """Red: the first rank reads all, or records what it saw before the second had written."""
    assert run_ranks(save_on_rank, 2, tmp_path) == [0, 0]
    newest = checkpoints_in(tmp_path / "checkpoints")[0]
    record = json.loads(newest.with_suffix(".json").read_text())
    written = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    assert len(written) == 2 * len(OWN) + len(SHARED)
    assert sorted(record["files"]) == written
    assert record["world_size"] == 2
    assert fault_of(newest) is None  # as one process reads it
    assert run_ranks(open_on_rank, 2, tmp_path) == [0, 0]
    for when, times in (("written", 4), ("read", 1)):
        found = [Counter((tmp_path / f"{when}-{rank}").read_text().split()) for rank in range(2)]
        assert set(found[0] + found[1]) == {Path(name).name for name in written}
        assert set((found[0] + found[1]).values()) == {times}
        assert names_of_rank(0) <= set(found[0])
        assert names_of_rank(1) <= set(found[1])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("readers", [1, 2])
def test_damage_that_one_rank_finds_is_damage_to_all(tmp_path: Path, rank: int, readers: int) -> None:
    """Red: one rank continues from the newest, the other from the one before."""
    assert run_ranks(save_on_rank, 2, tmp_path) == [0, 0]
    (tmp_path / "checkpoints/step-00000012/state" / OWN[0].format(rank)).write_text("0013 of 0")
    assert run_ranks(open_on_rank, readers, tmp_path) == [0] * readers
    assert [int((tmp_path / f"step-{reader}").read_text()) for reader in range(readers)] == [9] * readers


def test_two_ranks_open_what_one_saved(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(saved, folder / "checkpoints")
    assert run_ranks(open_on_rank, 2, folder) == [0, 0]
    assert [(folder / f"step-{rank}").read_text() for rank in range(2)] == ["12", "12"]
