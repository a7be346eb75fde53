"""Hydra's multirun as one array of Slurm jobs.

trialign VERB -m seed=1,2,3 run='runs/sweep/seed${seed}' hydra/launcher=slurm cluster=NAME
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from trialign.cluster.sweep import members_of, queue, wait_for
from trialign.config.compose import Config, to_config

log = logging.getLogger("trialign")


class SlurmLauncher(Launcher):  # type: ignore[misc]  # Hydra is untyped
    """Queues the members of a multirun; returns at once, or when they have ended (cluster.wait=true)."""

    __module__ = "hydra_plugins.trialign"

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:  # noqa: ARG002
        """Keep what composes a member."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        """Compose every member, queue those that are left to do."""
        configs = [self._compose(overrides) for overrides in job_overrides]
        words = [[word for word in overrides if not word.startswith("hydra/")] for overrides in job_overrides]
        members = members_of(self.config.hydra.job.config_name, configs, words)
        cluster = configs[0].cluster
        jobs = queue(members, print if cluster.dry_run else log.info)
        if cluster.wait:
            wait_for(jobs, log.info)
        return [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]

    def _compose(self, overrides: Sequence[str]) -> Config:
        tree = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(tree):
            del tree["hydra"]
        return to_config(tree)


def register() -> None:
    """Make `hydra/launcher=slurm` known to Hydra, which finds launchers in the package `hydra_plugins` alone."""
    place, _, name = SlurmLauncher.__module__.partition(".")
    Plugins.instance()  # imports the package where others have installed something there
    package = sys.modules.setdefault(place, ModuleType(place))
    setattr(package, name, sys.modules[__name__])
    sys.modules[SlurmLauncher.__module__] = sys.modules[__name__]
    target = f"{SlurmLauncher.__module__}.{SlurmLauncher.__name__}"
    ConfigStore.instance().store(group="hydra/launcher", name="slurm", node={"_target_": target}, provider="trialign")
    Plugins.instance().register(SlurmLauncher)
