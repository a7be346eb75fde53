"""Errors meant for a person: each names the value, the rule it breaks and the remedy.

The constructor asks for all three, so no error of this family can be raised that leaves its reader guessing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_LISTED = 40


class TrialignError(Exception):
    """Something a user can fix.

    Args:
        value: what was found, with the offending value in it.
        rule: what should have been found.
        remedy: what to type or change.

    Examples:
        >>> try:
        ...     run.item("item-000007")
        ... except trialign.TrialignError as error:
        ...     print(error.value)
        no item 'item-000007' among 64
    """

    exit_code = 1

    def __init__(self, value: str, *, rule: str, remedy: str) -> None:
        super().__init__(value)
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.value}\n  rule:   {self.rule}\n  remedy: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (DataLoader workers, sweeps); keyword arguments need help to be pickled.
        return partial(type(self), rule=self.rule, remedy=self.remedy), (self.value,)


class ConfigError(TrialignError):
    """The configuration is refused; no work was started."""

    exit_code = 2


class DataError(TrialignError):
    """A catalogue, an interaction log or an artifact holds something that cannot be used."""


class StageError(TrialignError):
    """A stage of a run is missing, unfinished, changed, locked or made from something else."""


class TrainingError(TrialignError):
    """Training met numbers it cannot continue with."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown `name`: the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'? {listing(known)}" if near else listing(known)


def listing(known: Iterable[str]) -> str:
    """Return the names that exist, sorted; of very many the first ones."""
    known = sorted(known)
    more = f", ... ({len(known)} in all)" if len(known) > _LISTED else ""
    return "known: " + ", ".join(known[:_LISTED]) + more


@contextmanager
def transformers_loads(model: str, rule: str) -> Iterator[None]:
    """Convert the error of the transformers library about a model that it cannot load.

    Raises:
        ConfigError: the block ended by such an error; `rule` says what the model should be.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as cause:
        told = f"transformers cannot load {model!r}: {cause}"
        raise ConfigError(told, rule=rule, remedy=model_remedy(model)) from cause


def model_remedy(model: str) -> str:
    """Return the remedy for a model that the transformers library cannot open: a name on the hub, or a path."""
    path = Path(model).expanduser()
    if (path / "manifest.json").is_file():
        return (
            f"{model} is the stage '{path.name}' of a run of trialign, taken by from.{path.name}={path.parent}; name a "
            "folder in the format of transformers here"
        )
    if path.is_dir():
        held = sorted(child.name for child in path.iterdir())
        wanted = "name a folder with config.json, weights and tokenizer" if held else "name the folder of a model"
        return f"{model} is a folder that holds {', '.join(held[:5]) or 'nothing'}; {wanted}"
    if path.exists() or model.startswith(("/", ".", "~")):
        return f"fix the path: {model} is {'a file' if path.exists() else 'not there'}, and a folder is needed"
    return f"check the name; without network run `hf download {model}` beforehand where there is one"
