"""The task mixture: which tasks a generator is trained on, and how many examples of each an epoch has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from trialign.data.dataset import Dataset
from trialign.embed.evidence import ENRICHED, Field
from trialign.errors import ConfigError
from trialign.generate.task import ItemTexts
from trialign.generate.tasks import load_task
from trialign.stream.lanes import LaneSource

MIXTURES = ("proportional", "temperature", "weights")


def open_sources(
    dataset: Dataset,
    texts: ItemTexts,
    tasks: Mapping[str, float],
    *,
    mixture: str = "proportional",
    temperature: float = 1.0,
) -> list[LaneSource]:
    """Return one source of the stream per task; a task's index in the list is its number.

    Let n be the examples of a task: windows of histories, or items that have the texts it needs. An epoch has of it

    * `proportional`: n times its weight;
    * `temperature`: a share that grows with (n times its weight) to the power 1 / temperature;
    * `weights`: a share that grows with its weight alone.

    For the last two, the number of examples of all tasks is their total n.

    Args:
        dataset: the prepared dataset.
        texts: of its items.
        tasks: name -> weight, not negative; 0 leaves the task out.
        mixture: one of MIXTURES.
        temperature: of the mixture `temperature`, positive; 1 equals `proportional`, a large one makes tasks equal.

    Raises:
        ConfigError: a task is unknown, none is left, or some have no example.
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
    served = {name: int(texts.known(*task.needs).sum()) for name, task in chosen.items()}
    if not all(served.values()):
        lacking = {name: task.needs for name, task in chosen.items() if not served[name]}
        raise _without_texts(lacking, all_of_them=len(lacking) == len(chosen))
    examples = {
        name: served[name] if task.source == "items" else stores[name].num_records for name, task in chosen.items()
    }
    shares = {
        name: tasks[name] if mixture == "weights" else (tasks[name] * number) ** (1 / temperature)
        for name, number in examples.items()
    }
    scale = 1.0 if mixture == "proportional" else sum(examples.values()) / sum(shares.values())
    # A source reads every record; records that are not an example take no room in a row.
    return [LaneSource(name, stores[name], scale * shares[name] / number) for name, number in examples.items()]


def tasks_without_texts(items: pa.Table, tasks: Mapping[str, float]) -> dict[str, list[Field]]:
    """Return the tasks with a weight that need a text that no item of the catalogue has, with that text."""
    texts = ItemTexts(items)
    lacking = {
        name: [field for field in load_task(name).needs if field not in ENRICHED and not texts.has(field).any()]
        for name, weight in tasks.items()
        if weight
    }
    return {name: fields for name, fields in lacking.items() if fields}


def in_words(fields: Iterable[Field], joined: str) -> str:
    """Return the missing fields as a phrase, e.g. "a brand and a title"."""
    nouns = {"categories": "categories", "interests": "interests"}
    return f" {joined} ".join(nouns.get(field, f"a {field}") for field in sorted(set(fields)))


def left_out(texts: ItemTexts, tasks: list[str]) -> dict[str, int]:
    """Return, for each task on the catalogue, the number of items that lack a text it needs, if any."""
    found = {name: load_task(name) for name in tasks}
    lacking = {name: int((~texts.known(*task.needs)).sum()) for name, task in found.items() if task.source == "items"}
    return {name: number for name, number in lacking.items() if number}


def _without_texts(tasks: Mapping[str, Sequence[Field]], *, all_of_them: bool) -> ConfigError:
    """Return the error for tasks without an example, with the texts they need and one remedy for all."""
    needed = in_words((field for needs in tasks.values() for field in needs), "and")
    remedy = " ".join([f"train.tasks.{name}=0" for name in tasks] + ["train.tasks.history_to_item=1"] * all_of_them)
    for field, group in (("caption", "captions"), ("interests", "interests")):
        if all(field in needs for needs in tasks.values()):
            remedy = f"enrich/{group}=builtin (or another backend), or {remedy}"
    return ConfigError(
        f"{', '.join(f'train.tasks.{name}' for name in tasks)}, but no item has {needed}",
        rule="a task has at least one example",
        remedy=f"set {remedy}",
    )
