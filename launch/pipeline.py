"""Run every stage in order, skipping what is finished, and end with recommendations and the table.

All settings of all stages are accepted.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from rich.table import Table
from trialign.launch import evaluate, recommend
from trialign.launch.cli import script

from trialign.config.compose import Config
from trialign.config.stages import locate_stage, planned
from trialign.errors import ConfigError
from trialign.pipeline import StageRun, run_pipeline
from trialign.terminal import console

log = logging.getLogger("trialign")


def run(config: Config) -> list[StageRun]:
    """Run the stages, then show where everything is, what one user is recommended, and how good it is."""
    if config.enrich.shard is not None:
        raise ConfigError(
            f"enrich.shard={config.enrich.shard} in a pipeline",
            rule="a process that asks about one share of the catalogue does not finish the stage that others read",
            remedy="run `trialign enrich` for every share, then the pipeline without enrich.shard",
        )
    scripts = {verb: script(verb) for verb in planned(config)} | {"evaluate": evaluate.build}
    done = run_pipeline(config, scripts, log.info)
    console().print(_summary(done))
    if config.recommend.user is None and not config.recommend.items:
        config = replace(config, recommend=replace(config.recommend, user=_first_user(config)))
    recommend.run(config)
    evaluate.run(config)
    return done


def _summary(done: list[StageRun]) -> Table:
    table = Table(
        title=f"stages, {sum(stage.seconds for stage in done):.0f} s", title_justify="left", title_style="bold"
    )
    for column, justify in (("stage", "left"), ("", "left"), ("seconds", "right"), ("folder", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's literal
    for stage in done:
        table.add_row(stage.verb, stage.outcome, f"{stage.seconds:.1f}", str(stage.folder))
    return table


def _first_user(config: Config) -> str:
    from trialign.data.dataset import Dataset

    user: str = Dataset(locate_stage(config, "prepare")).store("test").read(0)["user"][0].as_py()
    return user
