"""The variants of `experiment=rl`: test metrics, differences to the control, quality of what is recommended.

    trialign pipeline experiment=rl hydra.sweep.dir=DIR        # and rl_more, rl_filter
    python -m benchmarks.rl_variants DIR --json benchmarks/results/rl_variants.json

Reads the rankings that `evaluate` wrote; nothing is computed again. Every variant is paired over test users with the
control of its seed, and over all seeds by the mean of a user's differences. Quality of recommendations: mean q of the
reward stage, and the share whose interests are junk by the truth, over everybody's ten best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import ranked
from trialign.data.dataset import Dataset
from trialign.enrich.evidence import load_evidence
from trialign.evaluate.bootstrap import paired_bootstrap
from trialign.manifest import Manifest
from trialign.ranking import METRICS, measure
from trialign.reward.quality import load_quality
from trialign.types import NO_ITEM

CONTROL = "rl_control"
SHOWN = ("ndcg@10", "recall@1", "recall@10", "recall@50")
Values = NDArray[np.float64]


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="hydra.sweep.dir of the variants")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where it is written")
    options = parser.parse_args()
    runs = sorted(found.parents[2] for found in options.sweep.glob("rl_*-*/evaluate/test/manifest.json"))
    values = {tuple(run.name.rsplit("-", 1)): _values(run) for run in runs}
    quality = _quality(options.sweep / "shared")
    rows = [_row(variant, seed, found, values, quality) for (variant, seed), found in values.items()]
    for variant in sorted({variant for variant, _ in values}):
        if variant != CONTROL and (pooled := _pooled(variant, values)):
            rows.append(pooled)
    for row in rows:
        print(json.dumps(row))
    if options.json is not None:
        options.json.write_text(json.dumps({"variants": rows}, indent=1) + "\n")


def _values(run: Path) -> dict[str, Any]:
    """Return per user metrics and items, and what the manifests say."""
    dataset = Dataset(Path(Manifest.read(run / "evaluate" / "test").inputs["prepare"]["path"]))
    items_UK = ranked(run, dataset)
    targets = dataset.evaluation("test").targets
    learned = run / "rl" / "manifest.json"
    counts = Manifest.read(run / "rl") if learned.exists() else None
    return {"values": measure(items_UK, targets), "items": items_UK[:, :10], "rl": counts}


def _quality(shared: Path) -> tuple[Values, NDArray[np.bool_]] | None:
    """Return q of every item, and which ones carry junk; None where no reward stage ran."""
    if not (shared / "reward" / "manifest.json").exists():
        return None
    evidence, purposes = load_evidence(shared / "enrich"), Dataset(shared / "prepare").truth()["purpose"]
    junk_N = np.array([own not in found for own, found in zip(purposes, evidence.interests, strict=True)])
    return load_quality(shared / "reward"), junk_N


def _row(
    variant: str,
    seed: str,
    found: Mapping[str, Any],
    values: Mapping[tuple[str, ...], Mapping[str, Any]],
    quality: tuple[Values, NDArray[np.bool_]] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"variant": variant, "seed": seed}
    row |= {name: float(found["values"][:, METRICS.index(name)].mean()) for name in SHOWN}
    if found["rl"] is not None:
        counts = found["rl"].counts
        row |= {"seconds": found["rl"].seconds, "kept_step": counts["validation"]["step"], "steps": counts["steps"]}
    if quality is not None:
        quality_N, junk_N = quality
        real = found["items"][found["items"] != NO_ITEM]
        row |= {"quality@10": float(quality_N[real].mean()), "junk@10": float(junk_N[real].mean())}
    if variant != CONTROL and (CONTROL, seed) in values:
        row["minus control"] = _difference(found["values"] - values[CONTROL, seed]["values"])
    return row


def _pooled(variant: str, values: Mapping[tuple[str, ...], Mapping[str, Any]]) -> dict[str, Any] | None:
    seeds = [seed for other, seed in values if other == variant and (CONTROL, seed) in values]
    if len(seeds) < 2:
        return None
    mean_UC = np.mean([values[variant, seed]["values"] - values[CONTROL, seed]["values"] for seed in seeds], axis=0)
    return {"variant": variant, "seeds": seeds, "minus control": _difference(mean_UC)}


def _difference(differences_UC: Values) -> dict[str, list[float]]:
    """Return difference and 95 % interval of the metrics shown."""
    found = paired_bootstrap(differences_UC, num_samples=2000, seed=0)
    assert found.low_C is not None
    assert found.high_C is not None
    columns = {name: METRICS.index(name) for name in SHOWN}
    return {
        name: [float(part[column]) for part in (found.difference_C, found.low_C, found.high_C)]
        for name, column in columns.items()
    }


if __name__ == "__main__":
    main()
