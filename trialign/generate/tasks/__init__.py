"""The tasks, one file each: the file's name is the task's name, and its `TASK` defines inputs and targets."""

from __future__ import annotations

import importlib
import pkgutil

from trialign.errors import ConfigError, suggest
from trialign.generate.task import Task

TASKS: tuple[str, ...] = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TASKS:
        raise ConfigError(
            f"unknown task '{name}'", rule="a task is a file of generate/tasks/", remedy=suggest(name, TASKS)
        )
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
