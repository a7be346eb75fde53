"""Asked to save and stop after its last step, a training is saved and recorded first."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from trialign.launch.cli import script
from trialign.launch.doctor import TINY

import trialign.generate.train as training
import trialign.rl.train as reinforcement
from tests.tools import run_ranks
from trialign.config.compose import compose
from trialign.manifest import MANIFEST
from trialign.runtime.notice import PreemptedError
from trialign.stage import Stage
from trialign.stream.module import TrainedRows

SETTINGS = [*TINY, "embed/image=none", "evaluate.baselines=[popularity]", "runtime.threads=1"]
EARLIER = ("prepare", "enrich", "embed", "quantize", "assign", "baselines")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which all is made that a training reads."""
    run = tmp_path_factory.mktemp("before")
    for verb in EARLIER:
        script(verb)(compose(verb, [f"run={run}", *SETTINGS]))
    return run


def asked_at(where: str, rank: int, number: int) -> None:
    """Have a rank sent a signal in its last step, or while the first rank saves."""

    def ask(at: str) -> None:
        if at == where and int(os.environ.get("RANK", "0")) == rank:
            os.kill(os.getpid(), number)

    mark, save, stay = TrainedRows.on_train_batch_end, training.save_generator, Stage._wait_for_manifest

    def marked(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mark(self, trainer, module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            ask("step")

    def saved(*given: Any) -> None:
        ask("save")
        save(*given)

    def stayed(self: Stage, patience: float) -> None:
        ask("save")
        stay(self, patience)

    TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    training.save_generator = reinforcement.save_generator = saved  # type: ignore[assignment]
    Stage._wait_for_manifest = stayed  # type: ignore[method-assign]


def pipeline(overrides: list[str], where: str, rank: int, number: int) -> None:
    asked_at(where, rank, number)
    try:
        script("pipeline")(compose("pipeline", overrides))
    except PreemptedError as asked:
        sys.exit(asked.exit_code)


@pytest.mark.parametrize(
    ("where", "world_size", "rank", "number"),
    [
        ("step", 1, 0, signal.SIGUSR1),
        ("save", 1, 0, signal.SIGTERM),
        ("save", 2, 0, signal.SIGTERM),
        ("save", 2, 1, signal.SIGTERM),
    ],
)
def test_asked_after_its_last_step_a_training_is_finished_first(
    before: Path, tmp_path: Path, where: str, world_size: int, rank: int, number: int
) -> None:
    """Red: the process ends in the middle of the save; a collective in a handler waits for ever; no answer."""
    earlier = [f"from.{verb}={before}" for verb in EARLIER]
    how = [f"runtime.devices={world_size}", f"runtime.strategy={'single' if world_size == 1 else 'ddp'}"]
    overrides = [f"run={tmp_path}", *SETTINGS, *earlier, *how]
    found = run_ranks(pipeline, world_size, overrides, where, rank, number)
    assert (tmp_path / "train" / MANIFEST).exists()
    # The other ranks end with the training; the first rank is the one that continues to further stages, or not.
    assert found[0] == (PreemptedError.exit_code if rank == 0 else 0)
