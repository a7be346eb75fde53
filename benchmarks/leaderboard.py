"""The figures that others print for a data set, by their rule for seen items, and ours next to them with intervals.

    python -m benchmarks.leaderboard beauty=runs/beauty0,runs/beauty1,runs/beauty2 --json FILE

Others' figures are data, in leaderboard.toml. Ours are read from finished runs of one configuration, one per seed: per
user the mean over the seeds, a 95 % bootstrap interval over users. Nothing is trained or ranked here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import describe, ranked
from benchmarks.record import Row, arguments, record
from trialign.data.dataset import Dataset
from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.manifest import Manifest
from trialign.ranking import find_hits, ndcg_at_k, recall_at_k
from trialign.types import NO_ITEM, Items

PRINTED = Path(__file__).with_suffix(".toml")
METRICS = {"recall": recall_at_k, "ndcg": ndcg_at_k}
CUTOFF = 10


def main() -> None:
    """Print one table per data set and rule, and write the rows."""
    parser = arguments(__doc__ or "")
    parser.add_argument("runs", nargs="+", metavar="DATA=RUN,RUN", help="a table of leaderboard.toml, and its runs")
    chosen = parser.parse_args()
    printed = tomllib.loads(PRINTED.read_text())
    rows: list[Row] = []
    for word in chosen.runs:
        data, _, folders = word.partition("=")
        if data not in printed or not folders:
            raise SystemExit(f"{word}: write DATA=RUN,RUN with DATA one of {', '.join(printed)}")
        rows += compared(data, printed[data], [Path(folder) for folder in folders.split(",")])
    record(rows, chosen.json)


def compared(data: str, printed: dict[str, Any], runs: list[Path]) -> list[Row]:
    """Print the tables of a data set; return a row for each figure that others print."""
    ours = {rule: intervals(runs, filtered=rule == "filtered") for rule in ("kept", "filtered")}
    baseline = best_baseline(runs)
    rows = []
    for rule in ("kept", "filtered", "unsaid"):
        mine = ours["kept" if rule == "unsaid" else rule]
        said = "seen items " + rule if rule != "unsaid" else "rule for seen items not said; ours: kept"
        print(f"\n{printed['data']}; {said}\n\n| | Recall@10 | NDCG@10 | known from |\n|---|---|---|---|")
        for method, recall, ndcg, source in _lines(printed["figures"], rule):
            print(f"| {method} | {recall} | {ndcg} | {source} |")
        shown = [f"**{mean:.4f}** ({low:.4f} to {high:.4f})" for mean, low, high in mine.values()]
        print(f"| **trialign**, {len(runs)} seeds | {' | '.join(shown)} | this page's command |")
        if rule != "unsaid":
            name, values = baseline[rule]
            print(f"| {name}, ours, the best of our baselines | {values[0]:.4f} | {values[1]:.4f} | the same |")
        rows += [
            _row(data, rule, figure, name, mine[name])
            for figure in printed["figures"]
            for name in METRICS
            if figure["rule"] == rule and name in figure
        ]
    return rows


def intervals(runs: list[Path], *, filtered: bool) -> dict[str, tuple[float, float, float]]:
    """Return mean, low and high end of each metric over the test users, whose figures are means over the seeds."""
    values, owners = [], None
    for run in runs:
        dataset = Dataset(Path(Manifest.read(run / "evaluate" / "test").inputs["prepare"]["path"]))
        users = dataset.evaluation("test")
        items_UK = ranked(run, dataset)
        if filtered:
            items_UK = without_seen(items_UK, users.seen)
        hits_UK, targets_U = find_hits(items_UK, users.targets)
        values.append(np.stack([metric(hits_UK, targets_U, CUTOFF) for metric in METRICS.values()], axis=1))
        owners = users.users
        _require_equal(run, values[-1].mean(axis=0), filtered=filtered)
    found = paired_bootstrap(np.mean(values, axis=0), num_samples=2000, seed=0, owners=owners)
    assert found.low_C is not None
    assert found.high_C is not None
    ends = zip(found.difference_C.tolist(), found.low_C.tolist(), found.high_C.tolist(), strict=True)
    return dict(zip(METRICS, ends, strict=True))


def without_seen(items_UK: NDArray[np.int32], seen: list[Items]) -> NDArray[np.int32]:
    """Return the rankings without each user's seen items, the others moved up."""
    kept_UK = np.full_like(items_UK, NO_ITEM)
    for user, items in enumerate(items_UK):
        left = items[~np.isin(items, seen[user])]
        kept_UK[user, : len(left)] = left
    return kept_UK


def best_baseline(runs: list[Path]) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Return, by rule, the baseline with the best mean Recall@10 over the seeds, and its figures."""
    seeds = [describe(run) for run in runs]
    best = {}
    for rule in ("kept", "filtered"):
        tables = [seed[f"seen items {rule}"] for seed in seeds]
        means = {
            name: tuple(float(np.mean([table[name][f"{metric}@10"] for table in tables])) for metric in METRICS)
            for name in tables[0]
            if name != "model"
        }
        best[rule] = max(means.items(), key=lambda pair: pair[1][0])
    return best


def _require_equal(run: Path, means_C: NDArray[np.float64], *, filtered: bool) -> None:
    """Refuse rankings that do not give the figures of metrics.json, e.g. a beam that lost items behind seen ones."""
    stated = describe(run)["seen items filtered" if filtered else "seen items kept"]["model"]
    for name, found in zip(METRICS, means_C.tolist(), strict=True):
        if abs(found - stated[f"{name}@10"]) > 5e-4:
            raise SystemExit(
                f"{run}: {name}@10 is {found:.4f} by topk.parquet and {stated[f'{name}@10']:.4f} by metrics.json"
            )


def _lines(figures: list[dict[str, Any]], rule: str) -> list[tuple[str, str, str, str]]:
    found = sorted((one for one in figures if one["rule"] == rule), key=lambda one: -one["recall"])
    return [
        (
            one["method"],
            *(f"{one[name]:.4f}" if name in one else "" for name in METRICS),
            f"{one['source']} ({one['known']})",
        )
        for one in found
    ]  # type: ignore[misc]  # a tuple of four


def _row(data: str, rule: str, figure: dict[str, Any], name: str, mine: tuple[float, float, float]) -> Row:
    setting = f"{rule}, test, interval {mine[1]:.4f} to {mine[2]:.4f}"
    return Row(
        f"{data}.{rule}.{name}", setting, mine[0], figure["method"], figure[name], f"{name}@10", mine[0] / figure[name]
    )


if __name__ == "__main__":
    main()
