"""Rank the whole catalogue for every held-out user, by the generator and by every baseline, and compare them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from trialign.config.config import Config
from trialign.config.stages import open_stage, tracking_of
from trialign.errors import StageError
from trialign.manifest import MANIFEST, Manifest
from trialign.stage import Stage
from trialign.types import EvaluationSplit, Ranker

if TYPE_CHECKING:
    from trialign.data.dataset import Evaluation
    from trialign.evaluate.report import Compared

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Evaluate, and print the table."""
    stage = build(config)
    print((stage.folder / "table.txt").read_text())
    print(f"the same as a page, with examples: {stage.folder / 'report.html'}")
    return stage


def build(config: Config) -> Stage:
    """Write metrics.json, the table, the page and the rankings, or find them written; copy them one folder up."""
    stage = open_stage("evaluate", config)
    if not stage.finished:
        _build(config, stage)
    _copy_up(stage)
    return stage


def _copy_up(stage: Stage) -> None:
    """Copy the latest split's folder to `evaluate/`: the files that its manifest lists, then the manifest."""
    above = stage.folder.parent
    (above / MANIFEST).unlink(missing_ok=True)
    for name in (*stage.read().files, MANIFEST):
        aside = above / f"{name}.partial"
        shutil.copyfile(stage.folder / name, aside)
        aside.replace(above / name)


def _build(config: Config, stage: Stage) -> None:
    import pyarrow.parquet as pq

    from trialign.data.dataset import Dataset
    from trialign.enrich.evidence import load_evidence
    from trialign.evaluate.html import evaluation_page
    from trialign.evaluate.protocol import require_examples
    from trialign.evaluate.report import metrics_record, oracle_means, ranking_table, report_text
    from trialign.evaluate.topk import describe, filtered_targets, topk_table
    from trialign.generate.save_load import load_ranker
    from trialign.generate.task import ItemTexts
    from trialign.record import to_json, write_record
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable

    settings = config.evaluate
    split = cast(EvaluationSplit, settings.split)  # config/evaluate.py knows no other
    dataset, sids = Dataset(stage.inputs["prepare"]), SIDTable.load(stage.inputs["assign"])
    users = dataset.evaluation(split)
    require_examples(users, split, settings.users)
    oracle, num_in_split = dataset.oracle(split), len(set(users.users))
    if settings.users is not None:
        users = users.first(settings.users)
        oracle = None if oracle is None else oracle.slice(0, len(users.users))
    made = load_evidence(stage.inputs["enrich"]) if "enrich" in stage.inputs else None
    baselines = _load_baselines(config, stage)
    model = load_ranker(
        stage.inputs[settings.generator],
        sids,
        num_beams=settings.num_beams,
        batch_size=settings.batch_size,
        device=device_of(config.runtime.accelerator),
    )
    with stage.building() as folder:
        rankers = {"model": model, **baselines}
        stated = _compare(rankers, users, dataset.num_items, exclude_seen=settings.exclude_seen)
        other = _compare(rankers, users, dataset.num_items, exclude_seen=not settings.exclude_seen)
        record = metrics_record(
            stated,
            other,
            users.users,
            split=split,
            num_in_split=num_in_split,
            oracle=None if oracle is None else oracle_means(oracle, users.users),
            filtered=filtered_targets(users),
            details=describe(
                model,
                stated,
                users,
                dataset.train_histories(),
                sids,
                unconstrained_users=settings.unconstrained_users,
                texts=ItemTexts(dataset.items, made),
                grounding_items=settings.grounding.items,
            ),
            num_samples=settings.bootstrap_samples,
            seed=settings.bootstrap_seed,
        )
        rankings = stated.model.rankings
        write_record(folder / "metrics.json", record)
        (folder / "table.txt").write_text(report_text(record))
        (folder / "report.html").write_text(evaluation_page(record, dataset, sids, users, rankings))
        pq.write_table(topk_table(rankings, users, dataset.keys), folder / "topk.parquet")
        stage.counts |= {"users": record.num_users, "examples": record.num_examples}
        if tracking := tracking_of(config, stage):
            from trialign.runtime.tracking import log_table  # imports lightning

            log_table(replace(tracking, part=split), to_json(record), "rankings", *ranking_table(record))


def _load_baselines(config: Config, stage: Stage) -> dict[str, Ranker]:
    from trialign.evaluate.baselines import check_names, load_baseline

    names, folder = config.evaluate.baselines, stage.inputs["baselines"]
    check_names(names)
    made = Manifest.read(folder).counts["baselines"]
    fitted = [str(name) for name in made] if isinstance(made, list) else []
    if missing := [name for name in names if name not in fitted]:
        raise StageError(
            f"{folder} holds {', '.join(fitted) or 'no baseline'}, not {', '.join(missing)}",
            rule="every baseline of evaluate.baselines was fitted",
            remedy=f"set 'evaluate.baselines=[{','.join(fitted)}]', or fit them in a run of their own and name that "
            "by from.baselines",
        )
    return {name: load_baseline(name, folder / name) for name in names}


def _compare(rankers: dict[str, Ranker], users: Evaluation, num_items: int, *, exclude_seen: bool) -> Compared:
    from trialign.evaluate.protocol import evaluate
    from trialign.evaluate.report import Compared
    from trialign.evaluate.slices import seen_places

    measured, seen = {}, {}
    for name, ranker in rankers.items():
        rule = "filtered" if exclude_seen else "kept"
        log.info("  ranking %d items for %d users by %s, seen items %s", num_items, len(users.histories), name, rule)
        measured[name] = evaluate(
            ranker,
            users.histories,
            users.targets,
            num_items=num_items,
            exclude=users.seen if exclude_seen else None,
            batch_size=1024,
            what=f"users ranked by {name}, seen items {rule}",
        )
        if not exclude_seen:
            seen[name] = seen_places(measured[name].rankings.items_UK, users.targets, users.seen)
    return Compared(exclude_seen, measured.pop("model"), measured, seen or None)
