"""The steps of a training, counted where a bar and a beat look, and no longer once it has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trialign.progress import Intervals, counted, read_progress, telling
from trialign.runtime.lightning import pl
from trialign.runtime.progress import TrainingPace


class Line(pl.LightningModule):
    """One weight; may fail after some steps."""

    def __init__(self, fails_after: int | None) -> None:
        super().__init__()
        self.line, self._fails_after = nn.Linear(1, 1), fails_after
        self.seen: list[str] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen += [f"{progress.what} {progress.done}" for progress in counted()]
        if batch_idx == self._fails_after:
            raise RuntimeError("no more")
        return self.line(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(line: Line, folder: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=4,
        callbacks=[TrainingPace()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(line, DataLoader(torch.ones(4, 1), batch_size=1))


def test_steps_are_counted_while_they_are_taken(tmp_path: Path) -> None:
    line = Line(fails_after=None)
    with telling("train", tmp_path, Intervals()):
        fit(line, tmp_path)
    assert line.seen == ["train 0", "steps 0", "train 0", "steps 1", "train 0", "steps 2", "train 0", "steps 3"]


def test_a_training_that_failed_has_said_how_far_it_came_and_is_counted_no_longer(tmp_path: Path) -> None:
    """Red: it is, for as long as its process lives."""
    with pytest.raises(RuntimeError, match="no more"), telling("train", tmp_path, Intervals(beat=1000)):
        fit(Line(fails_after=2), tmp_path)
    left = read_progress(tmp_path)
    assert left is not None
    assert (left.what, left.done) == ("steps", 2)
    with telling("train", tmp_path, Intervals()):
        with pytest.raises(RuntimeError, match="no more"):
            fit(Line(fails_after=2), tmp_path)
        assert [progress.what for progress in counted()] == ["train"]
