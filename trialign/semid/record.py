"""The record of semantic IDs, `quality.json`, as dataclasses; lists run over the levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Statistic = float | str | list[float] | dict[str, float]
"""A figure, or one per level, or per modality; of a quantizer from outside also a text."""


@dataclass(frozen=True)
class DistinctTuples:
    """The number of distinct tuples before and after collisions were resolved."""

    before: int
    after: int


@dataclass(frozen=True)
class Collisions:
    """1 - distinct tuples / items; over all items, and with items of identical evidence and tuple counted once."""

    before: float
    after: float
    before_without_twins: float


@dataclass(frozen=True)
class Agreement:
    """Adjusted mutual information of labels with prefixes, and with prefixes of the same tuples shuffled over items."""

    num_categories: int
    num_items: int
    adjusted_mutual_information: dict[str, float]
    random_codes: dict[str, float]


@dataclass(frozen=True)
class Neighbours:
    """How many times more often than by chance held-out neighbors share a prefix; about 1 for random codes."""

    num_pairs: int
    lift: dict[str, float]
    random_codes: dict[str, float]


@dataclass(frozen=True)
class Neighbourhood:
    """Share of an item's ten nearest neighbors in a modality that are also nearest in latents and semantic IDs.

    Attributes:
        num_items: items in the sample.
        before: neighbors preserved in the latents, before quantization.
        after: neighbors preserved by the semantic IDs.
        random_codes: neighbors preserved by the same tuples shuffled over items, the chance level.
    """

    num_items: int
    before: float
    after: float
    random_codes: float


@dataclass(frozen=True)
class Health:
    """The faults of the semantic IDs, and the thresholds they were checked against."""

    max_moved: float
    min_perplexity: float
    faults: list[str]


@dataclass(frozen=True)
class Quality:
    """The contents of quality.json.

    Attributes:
        num_items: N.
        codebook_size: K.
        load: share of all tuples that are taken.
        distinct_tuples: before and after.
        collisions: likewise.
        twins: items whose evidence is identical to an earlier item's, byte for byte.
        items_moved: items whose tuple was changed.
        added_distortion: distortion added by the changes, see `Assignment`.
        usage: share of the codes that some item has.
        dead_codes: how many no item has.
        perplexity: of the codes.
        perplexity_before: of the quantizer's codes, without the level that `suffix` adds.
        quantizer: the quantizer's own statistics; none for codes from a file.
        category: agreement with the category; None without such labels, as for the labels below.
        category_path: agreement with the whole path.
        style: agreement with the true style of a generated item.
        purpose: agreement with its true purpose.
        caption: agreement with captions.
        interest: agreement with the strongest interest.
        neighbours: of held-out events; None without any.
        neighbourhoods: by modality; None for codes from a file.
        health: faults and thresholds.
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
        """Return the agreement with every kind of label that is not None, by its readable name."""
        known = {
            "category": self.category,
            "whole category path": self.category_path,
            "style": self.style,
            "purpose": self.purpose,
            "caption": self.caption,
            "interest": self.interest,
        }
        return {name: found for name, found in known.items() if found is not None}
