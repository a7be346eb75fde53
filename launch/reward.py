"""Train the reward model, a judge of mined interests, and score the quality of every item's interests."""

from __future__ import annotations

from pathlib import Path

from trialign.config.config import Config
from trialign.config.stages import model_files, open_stage, runtime_of, tracking_of
from trialign.stage import Stage


def run(config: Config) -> Stage:
    """Train and measure the reward model, or find it trained."""
    stage = open_stage("reward", config, sources=_sources(config))
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.enrich.evidence import load_evidence
    from trialign.reward.train import train_reward

    dataset, evidence = Dataset(stage.inputs["prepare"]), load_evidence(stage.inputs["enrich"])
    runtime, tracking = runtime_of("reward", config), tracking_of(config, stage)
    with stage.building(["log", "corpus"]) as folder:
        stage.counts |= train_reward(
            dataset, evidence, folder, config.reward, runtime, seed=config.seed, tracking=tracking
        )
    return stage


def _sources(config: Config) -> dict[str, Path]:
    """Return the files whose content the stage's identity covers: models named by path, and the judge's prompts."""
    from trialign.enrich.templates import template_file

    judge, found = config.reward.judge, model_files("model", config.reward.model)
    if judge is not None:
        found |= {f"prompts/{name}": template_file(name) for name in ("judge", "retry")}
        found |= model_files("judge.model", judge.loaded_model())
    return found
