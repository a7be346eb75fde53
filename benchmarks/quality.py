"""Ranking quality of finished runs of one experiment, one per seed: everybody, under both rules, mean and each.

Reads the runs' own metrics.json, manifests and rankings. The one thing measured here is the difference to SASRec with
all seeds together, for which SASRec ranks again: per user the mean over the seeds, paired, seen items kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.record import arguments
from trialign.data.dataset import Dataset
from trialign.evaluate.baselines.sasrec import SASRec
from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.manifest import Manifest
from trialign.ranking import METRICS as METRIC_NAMES
from trialign.ranking import measure
from trialign.types import NO_ITEM

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@50")


def main() -> None:
    """Print the table and write what it was made from."""
    parser = arguments(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, one per seed, evaluated on test")
    chosen = parser.parse_args()
    seeds = [describe(run) for run in chosen.runs]
    for rule in ("seen items kept", "seen items filtered"):
        print(f"\n{rule}\n\n| | seeds | {' | '.join(METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
        for name in seeds[0][rule]:
            rows = [seed[rule][name] for seed in seeds]
            figures = [f"{mean(row[metric] for row in rows):.4f}" for metric in METRICS]
            each = ", ".join(f"{row['recall@10']:.4f}" for row in rows)
            print(f"| {name} | R@10 {each} | {' | '.join(figures)} |")
        for baseline in seeds[0]["paired"][rule]:
            found = [seed["paired"][rule][baseline]["recall@10"] for seed in seeds]
            said = "; ".join(f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})" for one in found)
            print(f"\nmodel - {baseline}, Recall@10, by seed: {said}")
    together = pooled(chosen.runs)
    for metric, said in together.items():
        print("\nmodel - sasrec, {}, seeds together: {:+.4f} ({:+.4f} to {:+.4f})".format(metric, *said))
    print("\nseconds of training by seed: " + ", ".join(f"{seed['seconds']['train']:.0f}" for seed in seeds))
    if chosen.json:
        chosen.json.write_text(json.dumps({"seeds": seeds, "together": together}, indent=1) + "\n")


def pooled(runs: Sequence[Path]) -> dict[str, list[float]]:
    """Return the difference to SASRec and its 95 % interval, each user's figures averaged over the seeds."""
    differences = []
    for run in runs:
        inputs = {name: Path(made["path"]) for name, made in Manifest.read(run / "evaluate" / "test").inputs.items()}
        dataset = Dataset(inputs["prepare"])
        found = dataset.evaluation("test")
        theirs, _ = SASRec.load(inputs["baselines"] / "sasrec").rank(found.histories, 50, exclude=None)
        values_UC = measure(ranked(run, dataset), found.targets)
        differences.append(values_UC - measure(theirs, found.targets))
    interval = paired_bootstrap(np.mean(differences, axis=0), num_samples=2000, seed=0)
    assert interval.low_C is not None
    assert interval.high_C is not None
    parts = (interval.difference_C, interval.low_C, interval.high_C)
    return {name: [float(part[METRIC_NAMES.index(name)]) for part in parts] for name in ("recall@10", "ndcg@10")}


def ranked(run: Path, dataset: Dataset) -> NDArray[np.int32]:
    """Return the items that a run's generator ranked for each test user, int32 [U, 50]."""
    rows = pq.read_table(run / "evaluate" / "test" / "topk.parquet")["items"].to_pylist()
    items_UK = np.full((len(rows), 50), NO_ITEM, np.int32)
    for row, found in enumerate(rows):
        items_UK[row, : len(found)] = [dataset.item_of(key) for key in found]
    return items_UK


def describe(run: Path) -> dict[str, Any]:
    """Return what is kept of one run."""
    record = json.loads((run / "evaluate" / "test" / "metrics.json").read_text())
    manifests = {verb: Manifest.read(run / verb) for verb in ("train", "evaluate/test") if (run / verb).exists()}
    found: dict[str, Any] = {
        "seed": manifests["train"].config["seed"],
        "revision": manifests["train"].revision,
        "num_users": record["num_users"],
        "hashes": {verb: manifest.hash[:12] for verb, manifest in manifests.items()},
        "seconds": {verb: manifest.seconds for verb, manifest in manifests.items()},
        "paired": {},
    }
    for rule, table in zip(_rules(record), (record, record["other_protocol"]), strict=True):
        rows = {"model": table["model"], **table["baselines"]}
        found[rule] = {name: {metric: row[metric] for metric in METRICS} for name, row in rows.items()}
        found["paired"][rule] = {
            name: {metric: row[metric] for metric in ("recall@10", "ndcg@10")} for name, row in table["paired"].items()
        }
    return found


def _rules(record: dict[str, Any]) -> tuple[str, str]:
    both = ("seen items kept", "seen items filtered")
    return both[::-1] if record["exclude_seen"] else both  # type: ignore[return-value]  # a pair reversed is a pair


if __name__ == "__main__":
    main()
