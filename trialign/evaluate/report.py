"""metrics.json, and the same for a reader: a table and a sentence.

Everything printed is made from the record alone, so a finished evaluation can be printed again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from trialign.errors import DataError
from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.evaluate.protocol import Measured
from trialign.ranking import METRICS
from trialign.types import EvaluationSplit

WIDTH = 100
"""Columns of the printed report."""

_SHOWN = ("recall@1", "recall@5", "recall@10", "recall@50", "ndcg@5", "ndcg@10")
_DECIDES = "ndcg@10"


def metrics_record(
    model: Measured,
    baselines: Mapping[str, Measured],
    *,
    split: EvaluationSplit,
    exclude_seen: bool,
    oracle: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what metrics.json holds; docs/evaluation.md describes every key.

    Args:
        model: the generator, measured over the users of a split.
        baselines: the baselines by name, measured over the same users in the same order.
        split: which split that is.
        exclude_seen: whether items of the history were struck from every ranking.
        oracle: the best attainable means by metric name, where the world is known.
        details: what else is said of the model's rankings; keys of the record.
        num_samples: resamples behind every interval.
        seed: seed of the resampling.

    Raises:
        DataError: the split has no user to evaluate.
    """
    num_users = len(model.values_UC)
    if num_users == 0:
        raise DataError(
            f"the {split} split holds no user",
            rule="at least one user is evaluated",
            remedy="lower data.min_events, or check that the logs hold users with enough events",
        )
    means = model.means()
    record = {
        "split": split,
        "num_users": num_users,
        "exclude_seen": exclude_seen,
        "model": {**means, "invalid_rate": model.invalid_rate},
        "baselines": {name: {**found.means(), "invalid_rate": found.invalid_rate} for name, found in baselines.items()},
        "paired": _paired(model, baselines, num_samples, seed),
        "invalid_rate": model.invalid_rate,
    }
    if oracle is not None:
        record["oracle"] = dict(oracle)
        record["share_of_oracle"] = {name: means[name] / oracle[name] for name in METRICS if oracle[name] > 0}
    return record | dict(details or {})


def oracle_means(table: pa.Table, users: Sequence[str]) -> dict[str, float]:
    """Return the oracle's averages over `users`.

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
    return {name: float(np.mean(table.column(name).to_numpy())) for name in METRICS}


def report_text(record: Mapping[str, Any]) -> str:
    """Return the report as plain text, 100 columns wide."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    print_report(record, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def print_report(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table of a metrics.json, and what it says about the model and the best baseline."""
    console = console or Console(width=WIDTH)
    console.print(_table(record))
    for sentence in _sentences(record):
        console.print(sentence, highlight=False, markup=False)


def best_baseline(record: Mapping[str, Any]) -> str | None:
    """Return the baseline with the highest NDCG@10, the first named of equals; None without baselines."""
    baselines = record["baselines"]
    return max(baselines, key=lambda name: baselines[name][_DECIDES]) if baselines else None


def _paired(model: Measured, baselines: Mapping[str, Measured], num_samples: int, seed: int) -> dict[str, Any]:
    if not baselines:
        return {}
    # One resampling for all: every interval is over the same draws of users.
    differences = np.concatenate([model.values_UC - found.values_UC for found in baselines.values()], axis=1)
    intervals = paired_bootstrap(differences, num_samples=num_samples, seed=seed)
    entries = []
    for column, difference in enumerate(intervals.difference_C.tolist()):
        entry: dict[str, Any] = {"difference": difference, "low": None, "high": None}
        if intervals.low_C is None or intervals.high_C is None:
            entry["reason"] = intervals.reason
        else:
            entry |= {"low": float(intervals.low_C[column]), "high": float(intervals.high_C[column])}
        entries.append(entry)
    width = len(METRICS)
    return {
        name: dict(zip(METRICS, entries[row * width : (row + 1) * width], strict=True))
        for row, name in enumerate(baselines)
    }


def _table(record: Mapping[str, Any]) -> Table:
    seen = "items already seen are struck" if record["exclude_seen"] else "items already seen stay in the ranking"
    users = f"{record['num_users']:,} user{'s' if record['num_users'] != 1 else ''}"
    title = f"{record['split']} split, {users}, full ranking, {seen}"
    table = Table(title=title, title_justify="left", title_style="bold", width=WIDTH)
    table.add_column("", ratio=1)
    for name in _SHOWN:
        table.add_column(_short(name), justify="right", width=7)
    best = best_baseline(record)
    rows = [("model", record["model"], "bold")]
    rows += [
        (f"{name} (best baseline)" if name == best else name, found, "") for name, found in record["baselines"].items()
    ]
    if "oracle" in record:
        rows.append(("oracle (best attainable)", record["oracle"], "dim"))
    for label, found, style in rows:
        table.add_row(label, *(f"{found[name]:.4f}" for name in _SHOWN), style=style)
    return table


def _sentences(record: Mapping[str, Any]) -> list[str]:
    sentences = []
    best = best_baseline(record)
    if best is not None:
        sentences.append(
            f"Against {best}, the best baseline by {_short(_DECIDES)} (95 % intervals, paired bootstrap over users):"
        )
        sentences += [_compare(name, record["paired"][best][name]) for name in (_DECIDES, "recall@10")]
    if _DECIDES in record.get("share_of_oracle", {}):
        share = record["share_of_oracle"][_DECIDES]
        sentences.append(f"The model reaches {share:.1%} of the oracle's {_short(_DECIDES)}.")
    rate = record["invalid_rate"]
    if rate > 0:
        # Rounding must not print a rate of 0 for a ranking that has faults.
        sentences.append(f"{max(rate, 1e-6):.4%} of the places the model owed hold no item of the catalogue.")
    else:
        sentences.append("Every place the model owed holds an item of the catalogue: invalid rate 0.")
    return sentences


def _compare(name: str, entry: Mapping[str, Any]) -> str:
    difference, low, high = entry["difference"], entry["low"], entry["high"]
    side = "below" if difference < 0 else "above"
    text = f"  the model's {_short(name)} is {abs(difference):.4f} {side}"
    if low is None:
        return f"{text}; no interval: {entry['reason']}."
    text += f", interval {low:+.4f} to {high:+.4f}"
    return text + ("." if low > 0 or high < 0 else " holds 0: no difference shown.")


def _short(name: str) -> str:
    metric, cutoff = name.split("@")
    return f"{'R' if metric == 'recall' else 'N'}@{cutoff}"
