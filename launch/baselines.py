"""Fit the baselines on the training histories; runs that share a dataset share them by from.baselines."""

from __future__ import annotations

import logging
from typing import cast

from trialign.config.config import Config
from trialign.config.stages import open_stage
from trialign.stage import Stage
from trialign.types import EvaluationSplit

log = logging.getLogger("trialign")


def run(config: Config) -> Stage:
    """Fit every baseline of `baselines.names`, or find them fitted."""
    stage = open_stage("baselines", config)
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed.evidence import item_texts
    from trialign.evaluate.baselines import check_names, fit_baseline
    from trialign.evaluate.baselines.sasrec import SASRec
    from trialign.evaluate.protocol import require_examples
    from trialign.progress import Progress

    check_names(config.baselines.names)
    dataset = Dataset(stage.inputs["prepare"])
    # Told here, before the stages that take long, rather than by evaluate after them.
    split = cast(EvaluationSplit, config.evaluate.split)
    require_examples(dataset.evaluation(split), split, config.evaluate.users)
    histories, texts = dataset.train_histories(), item_texts(dataset.items)
    with stage.building() as folder:
        for name in config.baselines.names:
            with Progress(f"baseline {name}"):
                fitted = fit_baseline(name, histories, texts, config.baselines, seed=config.seed)
                fitted.save(folder / name)
            if isinstance(fitted, SASRec):
                stage.counts[name] = {"notes": fitted.notes}
                for note in fitted.notes:
                    log.info("  %s: %s", name, note)
        stage.counts |= {"histories": len(histories), "baselines": config.baselines.names}
    return stage
