"""Rank the whole catalogue for every held-out user, by the generator and by every baseline, and compare them."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any, cast

from trialign.config.compose import Config
from trialign.config.stages import open_stage
from trialign.manifest import Stage, write_atomically
from trialign.types import EvaluationSplit, Ranker

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Evaluate, and print the table."""
    stage = build(config)
    print((stage.folder / "table.txt").read_text())
    return stage


def build(config: Config) -> Stage:
    """Write metrics.json and the table, or find them written; the latest split's are copied one folder up."""
    stage = open_stage("evaluate", config)
    if not stage.finished:
        record, topk = _measure(config, stage)
        import pyarrow.parquet as pq

        from trialign.evaluate.report import report_text

        with stage.building() as folder:
            write_atomically(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
            (folder / "table.txt").write_text(report_text(record))
            pq.write_table(topk, folder / "topk.parquet")
            stage.counts |= {"users": record["num_users"]}
    for name in ("metrics.json", "table.txt", "manifest.json"):
        shutil.copyfile(stage.folder / name, stage.folder.parent / name)
    return stage


def _measure(config: Config, stage: Stage) -> tuple[dict[str, Any], pa.Table]:
    """Return what metrics.json and topk.parquet hold."""
    from trialign.data.dataset import Dataset
    from trialign.evaluate.baselines import load_baseline
    from trialign.evaluate.details import describe, topk_table
    from trialign.evaluate.protocol import evaluate
    from trialign.evaluate.report import metrics_record, oracle_means
    from trialign.generate.artefact import load_ranker
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable

    settings = config.evaluate
    split = cast(EvaluationSplit, settings.split)  # config/checks.py knows no other
    dataset, sids = Dataset(stage.inputs["prepare"]), SIDTable.load(stage.inputs["assign"])
    users = dataset.evaluation(split)
    model = load_ranker(
        stage.inputs["train"],
        sids,
        num_beams=settings.num_beams,
        batch_size=settings.batch_size,
        device=device_of(config.runtime.accelerator),
    )
    rankers: dict[str, Ranker] = {"model": model}
    rankers |= {name: load_baseline(name, stage.inputs["baselines"] / name) for name in settings.baselines}
    measured = {}
    for name, ranker in rankers.items():
        log.info("  ranking %d items for %d users by %s", dataset.num_items, len(users.users), name)
        measured[name] = evaluate(
            ranker,
            users.histories,
            users.targets,
            num_items=dataset.num_items,
            exclude_seen=settings.exclude_seen,
            batch_size=1024,
        )
    details = describe(model, measured, users, dataset.train_histories(), sids, free_users=settings.free_users)
    oracle = dataset.oracle(split)
    record = metrics_record(
        measured["model"],
        {name: measured[name] for name in settings.baselines},
        split=split,
        exclude_seen=settings.exclude_seen,
        oracle=None if oracle is None else oracle_means(oracle, users.users),
        details=details,
        num_samples=settings.bootstrap_samples,
        seed=settings.bootstrap_seed,
    )
    return record, topk_table(measured["model"].rankings, users, dataset.keys)
