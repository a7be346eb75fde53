"""Errors meant for a person: each names the value, the rule it breaks and the remedy.

The constructor asks for all three, so no error of this family can be raised that leaves its reader guessing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrialignError(Exception):
    """Something a user can mend.

    Args:
        value: what was found, with the offending value in it.
        rule: what should have been found.
        remedy: what to type or change.
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
        return _rebuild, (type(self), self.value, self.rule, self.remedy)


class ConfigError(TrialignError):
    """The configuration is refused; no work was started."""

    exit_code = 2


class DataError(TrialignError):
    """A catalogue, an interaction log or an artefact holds something that cannot be used."""


class StageError(TrialignError):
    """A stage of a run is missing, unfinished, changed, locked or made from something else."""


class TrainingError(TrialignError):
    """Training met numbers it cannot go on with."""


def _rebuild(kind: type[TrialignError], value: str, rule: str, remedy: str) -> TrialignError:
    return kind(value, rule=rule, remedy=remedy)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown `name`: the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listing = "known: " + ", ".join(known)
    return f"did you mean '{near[0]}'? {listing}" if near else listing
