"""When a training that was asked to save and stop ends: behind a whole step, by the word of any rank."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trialign.runtime import notice
from trialign.runtime.checkpoint import TrainingCheckpoints
from trialign.runtime.notice import PreemptedError
from trialign.runtime.preemption import Preemption


class Saves(TrainingCheckpoints):
    """Notes the steps behind which it was asked to save."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), strategy="single", model="", every=0)
        self.behind: list[int] = []

    def save(self, trainer: Any) -> None:
        self.behind.append(trainer.global_step)


def test_room_is_made_between_two_steps_and_not_inside_one() -> None:
    saves, module = Saves(), cast(Any, SimpleNamespace(preemption_requested=False, preempted=True))
    trainer = cast(Any, SimpleNamespace(accumulate_grad_batches=2, global_step=7))
    preemption = Preemption(saves)
    preemption.on_train_batch_start(trainer, module, None, 15)  # the second micro-batch of a step
    assert saves.behind == []
    with pytest.raises(PreemptedError, match="saved after step 7"):
        preemption.on_train_batch_start(trainer, module, None, 16)
    assert saves.behind == [7]


@pytest.fixture
def signals_given_back() -> Iterator[None]:
    """What Lightning does at the end of a training."""
    numbers = (*notice.SIGNALS, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_given_back")
@pytest.mark.parametrize("heard", [False, True])
def test_a_word_from_before_the_training_is_heard_in_its_first_step(
    heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_heard", heard)
    trainer = cast(Any, SimpleNamespace(accumulate_grad_batches=1, global_step=0))
    module = cast(Any, SimpleNamespace(preemption_requested=None, preempted=False))
    preemption = Preemption(Saves())
    preemption.on_train_start(trainer, module)
    preemption.on_train_batch_start(trainer, module, None, 0)
    assert module.preemption_requested is heard
