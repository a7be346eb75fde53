"""Rank the whole catalogue for every held-out user, by the generator and by every baseline, and compare them."""

from __future__ import annotations

import json
import shutil

from trialign.config.compose import Config
from trialign.config.stages import open_stage
from trialign.manifest import Stage, write_atomically


def run(config: Config) -> Stage:
    """Write metrics.json and the table, or find them written; the latest split's are copied one folder up."""
    stage = open_stage("evaluate", config)
    if not stage.finished:
        record = _measure(config, stage)
        from trialign.evaluate.report import report_text

        with stage.building() as folder:
            write_atomically(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
            (folder / "table.txt").write_text(report_text(record))
            stage.counts |= {"users": record["num_users"]}
    for name in ("metrics.json", "table.txt", "manifest.json"):
        shutil.copyfile(stage.folder / name, stage.folder.parent / name)
    return stage


def _measure(config: Config, stage: Stage) -> dict[str, object]:
    from trialign.data.dataset import Dataset
    from trialign.evaluate.baselines import load_baseline
    from trialign.evaluate.protocol import evaluate
    from trialign.evaluate.report import metrics_record, oracle_means
    from trialign.generate.artefact import load_ranker
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable

    settings = config.evaluate
    dataset = Dataset(stage.inputs["prepare"])
    users = dataset.evaluation(settings.split)
    model = load_ranker(
        stage.inputs["train"],
        SIDTable.load(stage.inputs["assign"]),
        num_beams=settings.num_beams,
        batch_size=settings.batch_size,
        device=device_of(config.runtime.accelerator),
    )
    rankers = {name: load_baseline(name, stage.inputs["baselines"] / name) for name in settings.baselines}
    measured = {
        name: evaluate(
            ranker,
            users.histories,
            users.targets,
            num_items=dataset.num_items,
            exclude_seen=settings.exclude_seen,
            batch_size=1024,
        )
        for name, ranker in {"model": model, **rankers}.items()
    }
    oracle = dataset.oracle(settings.split)
    return metrics_record(
        measured.pop("model"),
        measured,
        split=settings.split,
        exclude_seen=settings.exclude_seen,
        oracle=None if oracle is None else oracle_means(oracle, users.users),
        num_samples=settings.bootstrap_samples,
        seed=settings.bootstrap_seed,
    )
