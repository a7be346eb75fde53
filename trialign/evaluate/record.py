"""The record of an evaluation, `metrics.json`, as dataclasses; docs/evaluation.md describes every key."""

from __future__ import annotations

from dataclasses import dataclass, field

from trialign.record import INLINE

Figures = dict[str, float]
"""Figures by name, such as `recall@10`."""


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95 % interval, or the reason why there is none."""

    difference: float
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class FilteredTargets:
    """How many of the targets their user had chosen before: where seen items are filtered, nobody can find them."""

    count: int
    targets: int
    share: float


@dataclass(frozen=True)
class Results:
    """Metrics of the model, the baselines and the oracle under one rule for seen items.

    Attributes:
        exclude_seen: whether items of the history were filtered.
        model: every metric, and `invalid_rate`.
        baselines: the same, by baseline.
        paired: model minus baseline, by baseline and metric.
        invalid_rate: the model's.
        filtered_targets: only where seen items are filtered.
        oracle: the best attainable metrics, where the world is known.
        share_of_oracle: model / oracle, likewise.
    """

    exclude_seen: bool
    model: Figures
    baselines: dict[str, Figures]
    paired: dict[str, dict[str, Difference]]
    invalid_rate: float
    filtered_targets: FilteredTargets | None = None
    oracle: Figures | None = None
    share_of_oracle: Figures | None = None


@dataclass(frozen=True)
class SeenSlice:
    """Recall of the targets that occur so many times in train histories."""

    targets: int
    recall_at_10: float


@dataclass(frozen=True)
class Spread:
    """How much of the catalogue is recommended, and how far recommendations lean to popular items.

    Attributes:
        coverage_at_10: share of the catalogue on any of the first ten places of any user.
        head_share_at_10: share of those places held by the tenth of the items with the most train events.
        head_share_of_targets: the same of the targets; a ranking above it leans further to the head than the users do.
    """

    coverage_at_10: float
    head_share_at_10: float
    head_share_of_targets: float


@dataclass(frozen=True)
class UnconstrainedDecoding:
    """What the generator names without the trie: a lower bound, since a code of a wrong level cannot be written.

    Attributes:
        invalid_rate: share of users whose best tuple is not an item.
        invalid_rate_at_10: share of the best ten tuples that are not items.
        illegal_mass: per level, the probability of codes that lead to no item, along the target's own.
        num_users: users measured.
        by_construction: the item encoding scores nodes of the trie alone, so that the figures are 0.
    """

    invalid_rate: float
    invalid_rate_at_10: float
    illegal_mass: list[float]
    num_users: int
    by_construction: bool


@dataclass(frozen=True)
class Found:
    """How many items a task finds by their texts; `ceiling` is what nobody can pass, as items share a text.

    Attributes:
        through: the task by whose prompt was asked, where that is another.
    """

    items: int
    recall_at_1: float
    ceiling_at_1: float
    recall_at_10: float
    ceiling_at_10: float
    through: str | None = None


@dataclass(frozen=True)
class Written:
    """How well a task writes the texts of items; examples are (item, its text, what was written)."""

    items: int
    exact: float
    token_f1: float
    examples: list[tuple[int, str, str]]


@dataclass(frozen=True)
class Grounding:
    """How well the generator finds items by their texts and writes texts of items, by task."""

    catalogue: int
    finds: dict[str, Found]
    writes: dict[str, Written]


@dataclass(frozen=True)
class Details:
    """What is measured of the first ten places beyond averages; of every row of the table, or of the model.

    Attributes:
        recall_by_seen: by row and by how often a target occurs in train histories.
        spread: by row.
        prefix_recall_at_10: of the model, by length of the prefix.
        unconstrained_decoding: None where it is not measured.
        grounding: likewise.
    """

    recall_by_seen: dict[str, dict[str, SeenSlice]]
    spread: dict[str, Spread]
    prefix_recall_at_10: Figures
    unconstrained_decoding: UnconstrainedDecoding | None = None
    grounding: Grounding | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """What metrics.json holds.

    Attributes:
        split: whose users were ranked.
        num_users: users evaluated.
        num_users_in_split: users of the split, of which a sample may be evaluated.
        num_examples: histories ranked.
        stated: results under the rule for seen items that the configuration states.
        other_protocol: results under the other rule.
        details: of the stated rule.
    """

    split: str
    num_users: int
    num_users_in_split: int
    num_examples: int
    stated: Results = field(metadata=INLINE)
    other_protocol: Results
    details: Details = field(metadata=INLINE)
