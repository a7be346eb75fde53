"""Fit the baselines on the training histories; runs that share a dataset share them by from.baselines."""

from __future__ import annotations

from dataclasses import asdict

from trialign.config.compose import Config
from trialign.config.stages import open_stage
from trialign.manifest import Stage


def run(config: Config) -> Stage:
    """Fit every baseline of `baselines.names`, or find them fitted."""
    stage = open_stage("baselines", config)
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed.evidence import item_texts
    from trialign.evaluate.baselines import check_names, fit_baseline

    check_names(config.baselines.names)
    settings = asdict(config.baselines)
    dataset = Dataset(stage.inputs["prepare"])
    histories, texts = dataset.train_histories(), item_texts(dataset.items)
    with stage.building() as folder:
        for name in config.baselines.names:
            fit_baseline(name, histories, texts, settings.get(name), seed=config.seed).save(folder / name)
        stage.counts |= {"histories": len(histories), "baselines": config.baselines.names}
    return stage
