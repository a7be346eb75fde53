"""Show the status of a run or a sweep: stages, jobs, nodes, time, progress, the last attempt, the logs.

trialign status run=DIR
"""

from __future__ import annotations

from dataclasses import astuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trialign.cluster.status import StageStatus, status
from trialign.config.config import Config
from trialign.errors import StageError
from trialign.terminal import console

_COLUMNS = ("", "stage", "job", "state", "nodes", "limit in", "progress", "last attempt")


def run(config: Config) -> list[StageStatus]:
    """Print the table, without empty columns, and the logs; return the table's lines."""
    if not config.run.is_dir():
        raise StageError(f"{config.run} is not there", rule="a run is a directory", remedy="fix run=DIR")
    lines = status(config.run)
    cells = [astuple(line)[: len(_COLUMNS)] for line in lines]
    told = [number for number in range(len(_COLUMNS)) if number < 2 or any(row[number] for row in cells)]
    table = Table(box=SIMPLE_HEAD)
    for number in told:
        table.add_column(_COLUMNS[number], overflow="fold", no_wrap=number in (0, 2))
    for row in cells:
        table.add_row(*(row[number] for number in told))
    terminal = console()
    terminal.print(str(config.run), soft_wrap=True)  # a title would be wrapped to the width of its table
    terminal.print(table)
    for line in lines:
        for path in line.logs if line.stage != "finished" else ():
            terminal.print(f"{line.name}: {path}", soft_wrap=True)
    return lines
