"""Run every stage in order, skipping what is finished, and end with recommendations, the table and how to serve it.

All settings of all stages are accepted.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path

from rich.table import Table
from trialign.launch import evaluate, recommend, serve
from trialign.launch.cli import script

from trialign.config.checks import check_pipeline
from trialign.config.config import Config
from trialign.config.stages import locate_stage, planned
from trialign.pipeline import StageRun, require_evidence, run_pipeline
from trialign.terminal import console

log = logging.getLogger("trialign")


def run(config: Config) -> list[StageRun]:
    """Run the stages, then show where everything is, what one user is recommended, and how good it is."""
    verbs = planned(config)
    check_pipeline(config, verbs)
    scripts = {verb: script(verb) for verb in verbs} | {"evaluate": evaluate.build}
    done = run_pipeline(config, scripts, log.info, {"prepare": require_evidence})
    console().print(_summary(done))
    if config.recommend.user is None and not config.recommend.items:
        config = replace(config, recommend=replace(config.recommend, user=_first_user(config)))
    recommend.run(config)
    evaluate.run(config)
    print(_how_to_open(config.run))
    return done


def _how_to_open(folder: Path) -> str:
    first = f" (first: {serve.INSTALL})" if serve.missing_packages() else ""
    return f"in a browser, with the reasons: trialign serve run={shlex.quote(str(folder))}{first}"


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
