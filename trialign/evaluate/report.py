"""Make the record of an evaluation, and print it as tables and sentences.

Everything printed is made from the record alone, so a finished evaluation can be printed again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from rich.table import Table

from trialign.errors import DataError
from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.evaluate.protocol import Measured
from trialign.evaluate.record import (
    Details,
    Difference,
    EvaluationRecord,
    Figures,
    FilteredTargets,
    Results,
    SeenPlaces,
)
from trialign.ranking import METRICS
from trialign.terminal import console
from trialign.types import EvaluationSplit

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
"""Columns of the printed report."""

_SHOWN = ("recall@1", "recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10")
DECIDES = "ndcg@10"
"""The metric that names the best baseline."""


@dataclass(frozen=True)
class Compared:
    """The generator and the baselines, by name, measured over the same examples under one rule for seen items.

    `seen_places`: by row, where seen items are kept.
    """

    exclude_seen: bool
    model: Measured
    baselines: Mapping[str, Measured]
    seen_places: dict[str, SeenPlaces] | None = None


def metrics_record(
    stated: Compared,
    other: Compared,
    users: Sequence[str],
    *,
    split: EvaluationSplit,
    details: Details,
    num_in_split: int | None = None,
    oracle: Figures | None = None,
    filtered: FilteredTargets | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> EvaluationRecord:
    """Return the contents of metrics.json.

    Args:
        stated: figures under the configured rule for seen items.
        other: figures under the other rule.
        users: the user of each example, in order.
        split: whose examples they are.
        details: further metrics of the rankings under `stated`.
        num_in_split: users of the whole split, of which `users` may be a sample.
        oracle: the best attainable means by metric name; None without a known oracle.
        filtered: the number of targets that a filter of seen items removes, see `filtered_targets`.
        num_samples: resamples behind every interval.
        seed: seed of the resampling.
    """
    results, other_results = (_results(one, users, num_samples, seed, oracle, filtered) for one in (stated, other))
    num_users = len(set(users))
    return EvaluationRecord(
        split, num_users, num_in_split or num_users, len(users), results, other_results, details=details
    )


def oracle_means(table: pa.Table, users: Sequence[str]) -> Figures:
    """Return the oracle's averages over `users`, for the metrics that the oracle has.

    Args:
        table: column `user` and one column per metric (oracle/<split>.parquet).
        users: the evaluated users.

    Raises:
        DataError: the table does not hold exactly these users.
    """
    known = table.column("user").to_pylist()
    if sorted(known) != sorted(users):
        raise DataError(
            f"the oracle knows {len(known)} users, the split has {len(users)}, and they are not the same",
            rule="the oracle holds one row per evaluated user",
            remedy="run `trialign prepare` again with rebuild=true",
        )
    return {name: float(np.mean(table.column(name).to_numpy())) for name in METRICS if name in table.column_names}


def report_text(record: EvaluationRecord) -> str:
    """Return the report as plain text, 100 columns wide."""
    file = io.StringIO()
    print_report(record, console(width=WIDTH, file=file))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def print_report(record: EvaluationRecord, out: Console | None = None) -> None:
    """Print the table of a metrics.json and sentences about the model and the best baseline."""
    out = out or console(width=WIDTH)
    out.print(_table(record.stated, title(record)))
    for sentence in sentences(record):
        out.print(sentence)
    other = record.other_protocol
    out.print()
    out.print(_table(other, f"the same, {seen_rule(other)}"))
    for sentence in [*against_best(other), *against_oracle(other), *against_filter(other), *told_of_seen(other)]:
        out.print(sentence)


def best_baseline(results: Results) -> str | None:
    """Return the baseline with the highest NDCG@10, the first named of equals; None without baselines."""
    baselines = results.baselines
    return max(baselines, key=lambda name: baselines[name][DECIDES]) if baselines else None


def title(record: EvaluationRecord) -> str:
    """Return the table's title: the split, the users and the rule for seen items."""
    users = f"{record.num_users:,} user{'s' if record.num_users != 1 else ''}"
    if record.num_users_in_split != record.num_users:
        users = f"a sample of {users} of {record.num_users_in_split:,}"
    if record.num_examples != record.num_users:
        users = f"{record.num_examples:,} examples of {users}"
    return f"{record.split} split, {users}, full ranking, {seen_rule(record.stated)}"


def seen_rule(results: Results) -> str:
    """Return the rule for seen items as a phrase."""
    return "seen items filtered" if results.exclude_seen else "seen items kept"


def rows_of(results: Results) -> Iterator[tuple[str, Figures]]:
    """Yield label and figures of each row of a table: the model, the baselines, the oracle where there is one."""
    yield "model", results.model
    best = best_baseline(results)
    for name, found in results.baselines.items():
        yield (f"{name} (best baseline)" if name == best else name), found
    if results.oracle is not None:
        yield "oracle (best attainable)", results.oracle


def ranking_table(record: EvaluationRecord) -> tuple[Sequence[str], list[list[str | float]]]:
    """Return the columns and rows of one table with the results under both rules for seen items."""
    rows: list[list[str | float]] = [
        [seen_rule(results), label, *(found.get(name, "") for name in METRICS)]
        for results in (record.stated, record.other_protocol)
        for label, found in rows_of(results)
    ]
    return ("rule", "", *METRICS), rows


def _results(
    compared: Compared,
    users: Sequence[str],
    num_samples: int,
    seed: int,
    oracle: Figures | None,
    filtered: FilteredTargets | None,
) -> Results:
    rows = {
        name: {**found.means(), "invalid_rate": found.invalid_rate}
        for name, found in {"model": compared.model, **compared.baselines}.items()
    }
    model = rows.pop("model")
    return Results(
        exclude_seen=compared.exclude_seen,
        model=model,
        baselines=rows,
        paired=_paired(compared, users, num_samples, seed),
        invalid_rate=model["invalid_rate"],
        seen_places=compared.seen_places,
        filtered_targets=filtered if compared.exclude_seen else None,
        oracle=oracle,
        share_of_oracle=oracle and {name: model[name] / oracle[name] for name in oracle if oracle[name] > 0},
    )


def _paired(compared: Compared, users: Sequence[str], num_samples: int, seed: int) -> dict[str, dict[str, Difference]]:
    model, baselines = compared.model, compared.baselines
    if not baselines:
        return {}
    # One resampling for all columns, so that every interval uses the same draws of users.
    differences = np.concatenate([model.values_UC - found.values_UC for found in baselines.values()], axis=1)
    entries = paired_bootstrap(differences, num_samples=num_samples, seed=seed, owners=users).by_column()
    width = len(METRICS)
    return {
        name: dict(zip(METRICS, entries[row * width : (row + 1) * width], strict=True))
        for row, name in enumerate(baselines)
    }


def _table(results: Results, heading: str) -> Table:
    table = Table(title=heading, title_justify="left", title_style="bold", width=WIDTH)
    table.add_column("", ratio=1)
    for name in _SHOWN:
        table.add_column(short(name), justify="right", width=7)
    for label, found in rows_of(results):
        style = "bold" if found is results.model else "dim" if label.startswith("oracle") else ""
        table.add_row(label, *(f"{found[name]:.4f}" for name in _SHOWN), style=style)
    return table


def sentences(record: EvaluationRecord) -> list[str]:
    """Return sentences that summarize the model's results."""
    results = record.stated
    told = [*against_best(results), *against_oracle(results), *against_filter(results), *told_of_seen(results)]
    rate = results.invalid_rate
    if rate > 0:
        # Rounding must not print a small nonzero rate as 0.
        told.append(f"{max(rate, 1e-6):.4%} of the places the model owed hold no item of the catalogue.")
    else:
        told.append("Every place the model owed holds an item of the catalogue: invalid rate 0.")
    return told


def against_best(results: Results) -> list[str]:
    """Return a sentence that compares the model with the best baseline; nothing without baselines."""
    best = best_baseline(results)
    if best is None:
        return []
    told = [f"Against {best}, the best baseline by {short(DECIDES)} (95 % intervals, paired bootstrap over users):"]
    return told + [_compare(name, results.paired[best][name]) for name in (DECIDES, "recall@10")]


def against_oracle(results: Results) -> list[str]:
    """Return a sentence with the model's share of the oracle; nothing without an oracle."""
    if DECIDES not in (shares := results.share_of_oracle or {}):
        return []
    return [f"The model reaches {shares[DECIDES]:.1%} of the oracle's {short(DECIDES)}."]


def against_filter(results: Results) -> list[str]:
    """Return a sentence with the number of targets that the filter of seen items removes; nothing if it is 0."""
    if not (found := results.filtered_targets) or not found.count:
        return []
    return [
        f"{found.count:,} of {found.targets:,} targets ({max(found.share, 1e-4):.2%}) had been chosen by "
        "their user before: they are filtered with what was seen, and no row can find them."
    ]


def told_of_seen(results: Results) -> list[str]:
    """Return a sentence with the places that items of the history hold; nothing where they are filtered."""
    if not (rows := results.seen_places):
        return []
    best = best_baseline(results)
    chosen = [("the model's", rows["model"]), *([] if best is None else [(f"{best}'s", rows[best])])]
    parts = [
        f"{found.per_user:.2f} of {whose} ({found.right:.1%} of them right)" if found.per_user else f"none of {whose}"
        for whose, found in chosen
    ]
    return [f"Of ten places, items of the user's history hold {' and '.join(parts)}."]


def _compare(name: str, found: Difference) -> str:
    low, high = found.low, found.high
    side = "below" if found.difference < 0 else "above"
    text = f"  the model's {short(name)} is {abs(found.difference):.4f} {side}"
    if low is None or high is None:
        return f"{text}; no interval: {found.reason}."
    text += f", interval {low:+.4f} to {high:+.4f}"
    return text + ("." if low > 0 or high < 0 else " holds 0: no difference shown.")


def short(name: str) -> str:
    """Return a metric's short name, such as R@10."""
    metric, cutoff = name.split("@")
    return f"{metric[0].upper()}@{cutoff}"
