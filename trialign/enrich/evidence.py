"""The two output tables of the enrich stage, captions and interests: how they are written and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trialign.errors import DataError

CAPTIONS, INTERESTS = "captions.parquet", "interests.parquet"
DESCRIPTION, CO_ENGAGEMENT = "description", "co-engagement"
"""Where an interest comes from: what is said of the item itself, or what the same users also chose."""
_CAPTIONS = pa.schema({"item": pa.int32(), "caption": pa.string(), "source": pa.string(), "failure": pa.string()})
_INTERESTS = pa.schema(
    {
        "item": pa.int32(),
        "interests": pa.list_(pa.string()),
        "confidences": pa.list_(pa.float32()),
        "origins": pa.list_(pa.string()),
        "source": pa.string(),
        "reasoning": pa.string(),
        "failure": pa.string(),
    }
)


@dataclass(frozen=True)
class Caption:
    """A caption of an item's picture and its source, or the cause why there is none."""

    caption: str = ""
    source: str = ""
    failure: str = ""


@dataclass(frozen=True)
class ItemInterests:
    """The interests of an item, strongest first, or the cause why there are none.

    Attributes:
        interests: distinct phrases.
        confidences: of each, in 0..1.
        origins: of each, `description` or `co-engagement`.
        source: the model or method that made them.
        reasoning: the model's reasoning, kept for audit and never embedded or trained on.
        failure: the cause why there are none; "" where there are interests.
    """

    interests: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    origins: tuple[str, ...] = ()
    source: str = ""
    reasoning: str = ""
    failure: str = ""


class Evidence(NamedTuple):
    """Captions and interests of all items in index order; a list is empty if the stage did not make that evidence.

    `captions`: "" where there is none; `interests`: strongest first; `confidences`: as many, in 0..1.
    """

    captions: list[str]
    interests: list[list[str]]
    confidences: list[list[float]]

    def likely(self, probabilities: Sequence[Sequence[float]], least: float) -> tuple[Evidence, int]:
        """Return the evidence without interests of a probability below `least`, and the number of those left out.

        Args:
            probabilities: per item, the probability of each of its interests to be good.
            least: 0 to 1.

        Raises:
            DataError: the probabilities do not match the interests.
        """
        if [len(found) for found in probabilities] != [len(found) for found in self.interests]:
            raise DataError(
                f"probabilities of {sum(map(len, probabilities))} interests, of {sum(map(len, self.interests))} mined",
                rule="the reward stage judged the interests that are embedded",
                remedy="run `trialign reward` again for this enrich stage",
            )
        kept = [[probability >= least for probability in found] for found in probabilities]

        def choose(rows: list[list[Any]]) -> list[list[Any]]:
            return [list(compress(row, keep)) for row, keep in zip(rows, kept, strict=True)]

        left_out = sum(map(len, kept)) - sum(map(sum, kept))
        return Evidence(self.captions, choose(self.interests), choose(self.confidences)), left_out


def write_captions(folder: Path, captions: Sequence[Caption]) -> None:
    """Write `captions.parquet`, a row per item."""
    _write(folder / CAPTIONS, captions, _CAPTIONS)


def write_interests(folder: Path, interests: Sequence[ItemInterests]) -> None:
    """Write `interests.parquet`, a row per item."""
    _write(folder / INTERESTS, interests, _INTERESTS)


def load_evidence(folder: Path) -> Evidence:
    """Load the captions and interests of a finished enrich stage, whichever of them it made."""
    captions = _columns(folder / CAPTIONS, "caption")
    return Evidence(*captions, *_columns(folder / INTERESTS, "interests", "confidences"))


def _write(path: Path, rows: Sequence[Caption] | Sequence[ItemInterests], schema: pa.Schema) -> None:
    columns = [pa.array(range(len(rows)), pa.int32())]
    for field in list(schema)[1:]:
        columns.append(pa.array([getattr(row, field.name) for row in rows], field.type))
    pq.write_table(pa.table(columns, schema=schema), path)


def _columns(path: Path, *names: str) -> list[list]:  # type: ignore[type-arg]  # as the caller knows
    if not path.exists():
        return [[] for _ in names]
    table = pq.read_table(path, columns=list(names))
    return [table[name].to_pylist() for name in names]
