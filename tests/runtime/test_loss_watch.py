"""What the loss watch takes for a spike, step by step; tests/generate/ watches whole trainings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from trialign.errors import TrainingError
from trialign.runtime.loss_watch import SKIPPED_BATCHES, LossWatch, RewoundError, skipped_batches


class Steps:
    """Feeds a watch the losses of steps of two micro-batches each."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.watch = LossWatch(folder, **{"policy": "stop", "threshold": 3.0, **settings})
        data = SimpleNamespace(batch_under_way=41, records_of=lambda batches: [{"items": batches}])
        self.trainer = cast(
            Any, SimpleNamespace(accumulate_grad_batches=2, global_step=0, datamodule=data, log_dir=str(folder / "log"))
        )

    def take(self, *losses: float) -> None:
        module = cast(Any, None)
        for loss in losses:
            for micro in range(2):
                self.watch.on_train_batch_start(self.trainer, module, micro, micro)
                self.watch.on_before_backward(self.trainer, module, torch.tensor(loss / 2))
                self.watch.on_after_backward(self.trainer, module)
            self.trainer.global_step += 1


def test_a_spike_is_told_from_ten_steps_on(tmp_path: Path) -> None:
    early = Steps(tmp_path)
    early.take(9.0, *[1.0] * 8, 5.0)  # nine before the last
    late = Steps(tmp_path)
    late.take(*[1.0] * 10, 4.0)  # three above is at most three above
    with pytest.raises(TrainingError, match=r"the loss of step 12 is 4\.1"):
        late.take(4.1)


@pytest.mark.parametrize("loss", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_finite_number_is_no_loss_from_the_first_step_on(loss: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss of step 1 is") as refused:
        Steps(tmp_path, threshold=0.0).take(loss)
    assert refused.value.rule == "a loss is a finite number"


def test_every_skipped_batch_stays_skipped(tmp_path: Path) -> None:
    (tmp_path / SKIPPED_BATCHES).write_text("[7, 3]")
    with pytest.raises(RewoundError, match="the loss of step 1 is nan"):
        Steps(tmp_path, policy="rewind").take(float("nan"))
    assert skipped_batches(tmp_path) == [7, 3, 41]
    told = json.loads((tmp_path / "log" / "spike-00000001-00000.json").read_text())
    assert told["records"] == [{"items": [0, 1]}]


def test_a_training_that_goes_on_knows_what_was_usual(tmp_path: Path) -> None:
    before, after = Steps(tmp_path), Steps(tmp_path)
    before.take(*[1.0] * 10)
    after.watch.load_state_dict(before.watch.state_dict())
    with pytest.raises(TrainingError, match="the loss of step 1 is 9"):
        after.take(9.0)
