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
    """The number of targets that their user had chosen before, which no ranker can find if seen items are filtered."""

    count: int
    targets: int
    share: float


@dataclass(frozen=True)
class SeenPlaces:
    """Items of the history among the ten recommended, where seen items are kept.

    Attributes:
        per_user: how many of the ten places they hold, on average.
        right: share of these places that are a target.
    """

    per_user: float
    right: float


@dataclass(frozen=True)
class Results:
    """Metrics of the model, the baselines and the oracle under one rule for seen items.

    Attributes:
        exclude_seen: whether items of the history were filtered.
        model: every metric, and `invalid_rate`.
        baselines: the same, by baseline.
        paired: model minus baseline, by baseline and metric.
        invalid_rate: the model's.
        seen_places: by row, the model's among them; only where seen items are kept.
        filtered_targets: only where seen items are filtered.
        oracle: the best attainable metrics; None without a known oracle.
        share_of_oracle: model / oracle; None likewise.
    """

    exclude_seen: bool
    model: Figures
    baselines: dict[str, Figures]
    paired: dict[str, dict[str, Difference]]
    invalid_rate: float
    seen_places: dict[str, SeenPlaces] | None = None
    filtered_targets: FilteredTargets | None = None
    oracle: Figures | None = None
    share_of_oracle: Figures | None = None


@dataclass(frozen=True)
class SeenSlice:
    """Recall of the targets whose number of train events is in a given range."""

    targets: int
    recall_at_10: float


@dataclass(frozen=True)
class Spread:
    """Catalogue coverage and popularity bias of the recommendations.

    Attributes:
        coverage_at_10: share of the catalogue in the top ten of any user.
        head_share_at_10: share of the top-ten places that have one of the 10 % of items with the most train events.
        head_share_of_targets: the same share of the targets; a ranking above it favors popular items more than users.
    """

    coverage_at_10: float
    head_share_at_10: float
    head_share_of_targets: float


@dataclass(frozen=True)
class UnconstrainedDecoding:
    """Invalid items of the generator without the trie: a lower bound, since codes of a wrong level are ruled out.

    Attributes:
        invalid_rate: share of users whose best tuple is not an item.
        invalid_rate_at_10: share of the best ten tuples that are not items.
        illegal_mass: per level, the probability of codes that continue to no item, along the target's path.
        num_users: users measured.
        by_construction: True if the item encoding scores only nodes of the trie, so that all figures are 0.
    """

    invalid_rate: float
    invalid_rate_at_10: float
    illegal_mass: list[float]
    num_users: int
    by_construction: bool


@dataclass(frozen=True)
class Found:
    """The recall of items by their texts in a task; `ceiling` is the best possible value, since items may share a text.

    Attributes:
        through: the task whose prompt was used, if it is another one.
    """

    items: int
    recall_at_1: float
    ceiling_at_1: float
    recall_at_10: float
    ceiling_at_10: float
    through: str | None = None


@dataclass(frozen=True)
class Written:
    """The accuracy of a task that writes texts of items; examples are (item, its text, the generated text)."""

    items: int
    exact: float
    token_f1: float
    examples: list[tuple[int, str, str]]


@dataclass(frozen=True)
class Grounding:
    """The grounding metrics: how well the generator finds items by texts and writes texts of items, by task."""

    catalogue: int
    finds: dict[str, Found]
    writes: dict[str, Written]


@dataclass(frozen=True)
class Details:
    """Details of the top ten beyond averages, for every row of the table or for the model.

    Attributes:
        recall_by_seen: by row and by the target's number of train events.
        spread: by row.
        prefix_recall_at_10: of the model, by length of the prefix.
        unconstrained_decoding: None if it was not measured.
        grounding: likewise.
    """

    recall_by_seen: dict[str, dict[str, SeenSlice]]
    spread: dict[str, Spread]
    prefix_recall_at_10: Figures
    unconstrained_decoding: UnconstrainedDecoding | None = None
    grounding: Grounding | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """The contents of metrics.json.

    Attributes:
        split: whose users were ranked.
        num_users: users evaluated.
        num_users_in_split: users of the whole split, of which a sample may be evaluated.
        num_examples: histories ranked.
        stated: results under the configured rule for seen items.
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
