"""Queue a stage, or the pipeline as a chain of jobs, on a Slurm cluster.

trialign submit VERB cluster=NAME run=DIR [--dry-run] [overrides]
"""

from __future__ import annotations

import logging

from hydra.core.hydra_config import HydraConfig
from trialign.launch.cli import script
from trialign.launch.sweep import own_folders

from trialign.cluster.estimate import estimate
from trialign.cluster.plan import jobs_for
from trialign.cluster.preflight import begun_anew, check_finished, check_settings
from trialign.cluster.submit import submit
from trialign.config.config import Config

log = logging.getLogger("trialign")

_OWN = ("cluster.verb=", "cluster.dry_run=")


def run(config: Config) -> dict[str, str]:
    """Check, estimate, queue; return the jobs by name."""
    task = [override for override in HydraConfig.get().overrides.task if not override.startswith(_OWN)]
    given = [*own_folders(HydraConfig.instance().cfg), *task]
    jobs = jobs_for(config.cluster.verb, config, given)
    for job in jobs:
        script(job.verb)  # one that cannot run is refused here, not on the cluster
    check_settings(config, jobs)
    check_finished(config, jobs)
    if any(job.verb == "train" for job in jobs):
        for line in estimate(config):
            log.info("  %s", line)
    if told := begun_anew(config, jobs):
        log.info("  %s", told)
    queued = submit(jobs, config, print if config.cluster.dry_run else log.info)
    if queued:
        log.info("  scripts, configuration, logs: %s/slurm", config.run)
        log.info("  how far it is: trialign status run=%s", config.run)
    return queued
