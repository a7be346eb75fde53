"""Which tasks a generator learns, and how often it meets each."""

from __future__ import annotations

from collections.abc import Mapping

from trialign.data.dataset import Dataset
from trialign.data.lanes import LaneSource
from trialign.errors import ConfigError
from trialign.generate.task import ItemTexts
from trialign.generate.tasks import load_task

MIXTURES = ("proportional", "temperature", "weights")


def open_sources(
    dataset: Dataset,
    texts: ItemTexts,
    tasks: Mapping[str, float],
    *,
    mixture: str = "proportional",
    temperature: float = 1.0,
) -> list[LaneSource]:
    """Return the stream's sources, one per task: a task's place in the list is its number.

    Let n be the examples of a task: windows of histories, or items that have the texts it needs. An epoch holds, of it,

    * `proportional`: n times its weight;
    * `temperature`: a share that grows with (n times its weight) to the power 1 / temperature;
    * `weights`: a share that grows with its weight alone.

    The last two share out as many examples as all of the tasks have together.

    Args:
        dataset: the prepared dataset.
        texts: of its items.
        tasks: name -> weight, not negative; 0 leaves the task out.
        mixture: one of MIXTURES.
        temperature: of the mixture of that name, positive; 1 is `proportional`, a large one makes tasks equal.

    Raises:
        ConfigError: a task is unknown, none is left, or one has no example.
    """
    assert mixture in MIXTURES, mixture
    chosen = {name: load_task(name) for name, weight in tasks.items() if weight != 0}
    if not chosen:
        raise ConfigError(
            "train.tasks leaves no task",
            rule="a generator learns at least one",
            remedy="set train.tasks.history_to_item=1",
        )
    stores = {name: dataset.store(task.source) for name, task in chosen.items()}
    examples = {}
    for name, task in chosen.items():
        served = int(texts.known(*task.needs).sum())
        if not served:
            raise _without_texts(name, task.needs)
        examples[name] = served if task.source == "items" else stores[name].num_records
    shares = {
        name: tasks[name] if mixture == "weights" else (tasks[name] * number) ** (1 / temperature)
        for name, number in examples.items()
    }
    scale = 1.0 if mixture == "proportional" else sum(examples.values()) / sum(shares.values())
    # A source is gone through record by record; those that are no example take no room.
    return [LaneSource(name, stores[name], scale * shares[name] / number) for name, number in examples.items()]


def left_out(texts: ItemTexts, tasks: list[str]) -> dict[str, int]:
    """Return, for each task that reads the catalogue, the items that lack a text it needs, where there are any."""
    found = {name: load_task(name) for name in tasks}
    lacking = {name: int((~texts.known(*task.needs)).sum()) for name, task in found.items() if task.source == "items"}
    return {name: number for name, number in lacking.items() if number}


def _without_texts(task: str, needs: tuple[str, ...]) -> ConfigError:
    remedy = f"set train.tasks.{task}=0"
    if "caption" in needs:
        remedy = f"set enrich/captions=builtin (or another backend), or {remedy.removeprefix('set ')}"
    return ConfigError(
        f"train.tasks.{task}, but no item has a {' and a '.join(needs)}",
        rule="a task has at least one example",
        remedy=remedy,
    )
