"""Which checkpoints stay, and which are opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trialign.runtime.checkpoint import TrainingCheckpoints, newest_checkpoint, step_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a folder that four checkpoints were saved into, of which two are kept."""
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, world_size=1)
    trainer.strategy = SimpleNamespace(barrier=lambda name: None)
    trainer.save_checkpoint = lambda path: path.write_text(f"{trainer.global_step:04d}")
    checkpoints = TrainingCheckpoints(tmp_path, strategy="single", model="m", every=1, keep=2)
    for step in (3, 6, 9, 12):
        trainer.global_step = step
        checkpoints.save(trainer)  # type: ignore[arg-type]  # as much of a trainer as is asked for
    return tmp_path


def test_the_newest_checkpoints_stay(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        *("step-00000009", "step-00000009.json", "step-00000012", "step-00000012.json"),
    ]
    newest = newest_checkpoint(saved)
    assert newest is not None
    assert step_of(newest) == 12


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("0013", "state", "holds other bytes than were written"),
        ("12", "state", "2 bytes, 4 were written"),
        ("0012", "more", "files that we did not write: more"),
    ],
)
def test_a_checkpoint_that_is_not_what_was_written_is_never_opened(
    text: str, name: str, told: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (saved / "step-00000012" / name).write_text(text)
    newest = newest_checkpoint(saved)
    assert newest is not None
    assert step_of(newest) == 9
    assert told in caplog.text
