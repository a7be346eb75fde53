"""Show how a run stands: stages, jobs and their state, restarts, the last step.

trialign status run=DIR
"""

from __future__ import annotations

from dataclasses import astuple

from rich.table import Table

from trialign.cluster.status import StageStatus, status
from trialign.config.compose import Config
from trialign.errors import StageError
from trialign.terminal import console

_COLUMNS = ("", "stage", "job", "state", "restarts", "step", "last attempt ended")


def run(config: Config) -> list[StageStatus]:
    """Print the table and return its lines."""
    if not config.run.is_dir():
        raise StageError(f"{config.run} is not there", rule="a run is a directory", remedy="mend run=DIR")
    lines = status(config.run)
    table = Table(title=str(config.run), title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*astuple(line))
    console().print(table)
    return lines
