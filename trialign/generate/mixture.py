"""Which tasks a generator learns, and how often it meets each."""

from __future__ import annotations

from collections.abc import Mapping

from trialign.data.dataset import Dataset
from trialign.data.lanes import LaneSource
from trialign.errors import ConfigError
from trialign.generate.tasks import load_task


def open_sources(dataset: Dataset, tasks: Mapping[str, float]) -> list[LaneSource]:
    """Return the stream's sources, one per task: a task's place in the list is its number.

    The mixture is proportional: each task's examples count once per epoch, times its multiple.

    Args:
        dataset: the prepared dataset.
        tasks: name -> multiple; 0 leaves the task out.

    Raises:
        ConfigError: a task is unknown, or none is left.
    """
    chosen = {name: (load_task(name), multiple) for name, multiple in tasks.items() if multiple != 0}
    if not chosen:
        raise ConfigError(
            "train.tasks leaves no task",
            rule="a generator learns at least one",
            remedy="set train.tasks.history_to_item=1",
        )
    return [LaneSource(name, dataset.store(task.source), multiple) for name, (task, multiple) in chosen.items()]
