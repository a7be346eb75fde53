"""Run every stage in order, skipping what is finished, and end with the table.

All settings of all stages are accepted.
"""

from __future__ import annotations

import json
import logging
import time

from trialign.config.compose import Config
from trialign.config.stages import STAGES
from trialign.errors import StageError
from trialign.launch.cli import script
from trialign.pipeline import StageRun, run_pipeline

log = logging.getLogger("trialign")


def run(config: Config) -> list[StageRun]:
    """Run the stages, then show where everything is, an example and the table."""
    started = time.monotonic()
    done = run_pipeline(config, {verb: script(verb) for verb in STAGES}, log.info)
    for stage in done:
        log.info("  %-10s %-8s %6.1f s  %s", stage.verb, stage.outcome, stage.seconds, stage.folder)
    log.info("  total %.1f s", time.monotonic() - started)
    return done
