"""Hydra's multirun: every member continues with the settings of its run, here or as one array of Slurm jobs.

trialign VERB -m seed=1,2,3 run='runs/sweep/seed${seed}' [hydra/launcher=slurm cluster=NAME]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from typing_extensions import override

from trialign.cluster.sweep import members_of, queue, wait_for
from trialign.config.compose import to_config
from trialign.config.config import Config
from trialign.config.taken import taken_for

log = logging.getLogger("trialign")


class MembersSweeper(Sweeper):  # type: ignore[misc]  # Hydra is untyped
    """Sweeps all combinations of values, each with the settings taken from its run."""

    __module__ = "hydra_plugins.trialign"

    def __init__(self, params: Mapping[str, str] | None = None, **_: Any) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Store the config loader and the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self._loader, self._verb = hydra_context.config_loader, str(config.hydra.job.config_name)
        self._member = partial(self._loader.load_sweep_config, config)
        self._launch = Plugins.instance().instantiate_launcher(hydra_context, task_function, config).launch

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all members together; write no multirun.yaml, which would land in the working directory."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # not before Hydra itself imports it

        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self._loader)
        (members,) = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
        members = [[*member, *self._taken(member)] for member in members]
        self.validate_batch_is_legal(members)
        results = self._launch(members, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises the member's exception
        return [results]

    def _taken(self, words: Sequence[str]) -> list[str]:
        def load(further: Sequence[str]) -> DictConfig:
            return self._member([*words, *further])

        tree = load([])
        HydraConfig.instance().set_config(tree)  # a run may be named by ${hydra:...}
        taken = taken_for(self._verb, tree, load)
        if taken.words and (told := taken.told(load(taken.words))):
            log.info(told)
        return taken.words


class SlurmLauncher(Launcher):  # type: ignore[misc]  # Hydra is untyped
    """Queues the members of a multirun; returns at once, or when they have ended (cluster.wait=true)."""

    __module__ = "hydra_plugins.trialign"

    @override
    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Store the config loader."""
        self.hydra_context, self.config = hydra_context, config

    @override
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose every member, queue those that are left to do."""
        configs = [self._compose(overrides) for overrides in job_overrides]
        own = own_folders(self.config)
        words = [[*own, *(w for w in overrides if not w.startswith("hydra/"))] for overrides in job_overrides]
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


def own_folders(config: DictConfig) -> list[str]:
    """Return the overrides by which a job finds the YAML files of --config-dir."""
    return [str(word) for word in config.hydra.overrides.hydra if str(word).startswith("hydra.searchpath=")]


def register() -> None:
    """Make the sweeper and `hydra/launcher=slurm` known to Hydra, which searches only the package `hydra_plugins`."""
    place, _, name = SlurmLauncher.__module__.partition(".")
    Plugins.instance()  # imports the package where others have installed something there
    package = sys.modules.setdefault(place, ModuleType(place))
    setattr(package, name, sys.modules[__name__])
    sys.modules[SlurmLauncher.__module__] = sys.modules[__name__]
    target = f"{SlurmLauncher.__module__}.{SlurmLauncher.__name__}"
    ConfigStore.instance().store(group="hydra/launcher", name="slurm", node={"_target_": target}, provider="trialign")
    for plugin in (MembersSweeper, SlurmLauncher):
        Plugins.instance().register(plugin)
