"""Compare finished runs from their directories alone: settings that differ, metrics, paired differences, curves.

trialign report 'report.runs=[runs/a,runs/b]'
trialign report 'report.runs=[runs/sweep/*]' run=runs/comparison
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from trialign.config.config import Config
from trialign.errors import ConfigError, StageError
from trialign.files import write_atomically


def run(config: Config) -> Path:
    """Print the comparison, write it to RUN/report/ and return that folder."""
    from trialign.evaluate.comparison import compare, comparison_page, print_comparison, to_csv
    from trialign.evaluate.runs import read_run
    from trialign.progress import tracked
    from trialign.terminal import console

    wanted = config.report
    found, left_out = [], []
    folders = _folders(wanted.runs, leave_out=config.run)
    common = os.path.commonpath([folder.parent for folder in folders])  # the names show how the runs differ
    for folder in tracked(folders, "runs read"):
        try:
            found.append(read_run(folder, os.path.relpath(folder, common), wanted.split))
        except StageError as unfinished:
            left_out.append(unfinished.value)
    if not found:
        raise StageError(
            "; ".join(left_out),
            rule="at least one run is evaluated",
            remedy=f"run `trialign evaluate run=DIR evaluate.split={wanted.split}` first",
        )
    comparison = compare(found, left_out)
    folder = config.run / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.html", comparison_page(comparison))
    write_atomically(folder / "runs.csv", to_csv(comparison))
    print_comparison(comparison, console())
    print(f"the same as a page: {folder / 'report.html'}")
    return folder


def _folders(patterns: list[str], *, leave_out: Path) -> list[Path]:
    if not patterns:
        raise ConfigError(
            "report.runs is empty", rule="at least one run is named", remedy="add 'report.runs=[runs/a,runs/b]'"
        )
    folders: dict[Path, None] = {}
    for pattern in patterns:
        matches = [Path(path).absolute() for path in _expand(pattern)]
        # A sweep keeps its scripts next to its members.
        matches = [path for path in matches if path.is_dir() and path != leave_out and path.name != "slurm"]
        if not matches:
            raise ConfigError(
                f"report.runs: '{pattern}' is no directory", rule="runs are directories", remedy="fix the path"
            )
        folders |= dict.fromkeys(matches)
    return list(folders)


def _expand(pattern: str) -> list[str]:
    # Path.glob knows no absolute patterns.
    return sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
