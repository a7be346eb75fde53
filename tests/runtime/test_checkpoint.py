"""Which checkpoints stay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from trialign.runtime.checkpoint import TrainingCheckpoints, newest_checkpoint, step_of


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, world_size=1)
    trainer.strategy = SimpleNamespace(barrier=lambda name: None)
    trainer.save_checkpoint = lambda path: path.write_text(str(trainer.global_step))
    checkpoints = TrainingCheckpoints(tmp_path, strategy="single", model="m", every=1, keep=2)
    for step in (3, 6, 9, 12):
        trainer.global_step = step
        checkpoints.save(trainer)  # type: ignore[arg-type]  # as much of a trainer as is asked for
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("step-00000009", "step-00000009.json", "step-00000012", "step-00000012.json"),
    ]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 12
