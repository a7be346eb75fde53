"""The record of semantic IDs, `quality.json`, as dataclasses; lists run over the levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Statistic = float | str | list[float] | dict[str, float]
"""A figure, or one per level, or per modality; of a quantizer from outside also a text."""


@dataclass(frozen=True)
class DistinctTuples:
    """How many tuples items had before they were made unique, and after."""

    before: int
    after: int


@dataclass(frozen=True)
class Collisions:
    """1 - distinct tuples / items; also with items that no quantizer can tell apart counted as one."""

    before: float
    after: float
    before_without_twins: float


@dataclass(frozen=True)
class Agreement:
    """Adjusted mutual information of labels with prefixes, and with those of the same tuples dealt out at random."""

    num_categories: int
    num_items: int
    adjusted_mutual_information: dict[str, float]
    random_codes: dict[str, float]


@dataclass(frozen=True)
class Neighbours:
    """How many times more often than by chance held-out neighbours share a prefix; of random codes about 1."""

    num_pairs: int
    lift: dict[str, float]
    random_codes: dict[str, float]


@dataclass(frozen=True)
class Neighbourhood:
    """Share of an item's ten nearest neighbours in a modality that are among its nearest elsewhere.

    Attributes:
        num_items: items looked at.
        before: in the vectors before quantization: what fusion and encoder leave.
        after: by the semantic IDs.
        random_codes: by the same tuples dealt out at random: chance.
    """

    num_items: int
    before: float
    after: float
    random_codes: float


@dataclass(frozen=True)
class Health:
    """What is wrong with the semantic IDs, and by which thresholds."""

    max_moved: float
    min_perplexity: float
    faults: list[str]


@dataclass(frozen=True)
class Quality:
    """What quality.json holds.

    Attributes:
        num_items: N.
        codebook_size: K.
        load: share of all tuples that are taken.
        distinct_tuples: before and after.
        collisions: likewise.
        twins: items whose evidence is that of an earlier one, byte for byte.
        items_moved: items whose tuple was changed.
        added_distortion: what moving them cost, see `Assignment`.
        usage: share of the codes that some item has.
        dead_codes: how many no item has.
        perplexity: of the codes.
        perplexity_before: of the codes as they came, without the level that `suffix` adds.
        quantizer: the quantizer's own statistics; none for codes from a file.
        category: agreement with the category, here and below None where there are no such labels.
        category_path: with the whole path.
        style: where the world is known.
        purpose: likewise.
        caption: where there are captions.
        interest: where there are interests: with the strongest.
        neighbours: of held-out events; None where there are none.
        neighbourhoods: by modality; None for codes from a file.
        health: as they were judged.
    """

    num_items: int
    codebook_size: int
    load: float
    distinct_tuples: DistinctTuples
    collisions: Collisions
    twins: int
    items_moved: int
    added_distortion: float
    usage: list[float]
    dead_codes: list[int]
    perplexity: list[float]
    perplexity_before: list[float]
    quantizer: dict[str, Statistic]
    category: Agreement | None = None
    category_path: Agreement | None = None
    style: Agreement | None = None
    purpose: Agreement | None = None
    caption: Agreement | None = None
    interest: Agreement | None = None
    neighbours: Neighbours | None = None
    neighbourhoods: dict[str, Neighbourhood] | None = None
    health: Health | None = None

    def agreements(self) -> Mapping[str, Agreement]:
        """Return the agreement with every kind of label that there is, by its name in words."""
        known = {
            "category": self.category,
            "whole category path": self.category_path,
            "style": self.style,
            "purpose": self.purpose,
            "caption": self.caption,
            "interest": self.interest,
        }
        return {name: found for name, found in known.items() if found is not None}
