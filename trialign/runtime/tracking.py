"""Log a run to Weights & Biases, next to its CSV files: offline unless a key is set, and without failing the run.

A stage is one W&B run. Its id is next to the stage's checkpoints, so a job that was killed and continues continues the
same run. W&B loses what it had not written when the process died; the CSV does not. So an attempt that continues sends
the lines of the CSV again, from the first one the server lacks; offline it replaces the files of the attempt before.
Whatever W&B meets (no network, a wrong key, a full disk, its own process killed) is a warning; the run continues
offline, or without W&B.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trialign.config.tracking import Tracking, wandb_mode
from trialign.files import write_atomically
from trialign.foreign import LINES, Json, harmless
from trialign.manifest import flatten
from trialign.runtime.lightning import WandbLogger, rank_zero_only
from trialign.runtime.ranks import launched_rank

logger = logging.getLogger("trialign")

MEMORY = "wandb.json"
"""Name of the file that remembers the id."""
ABOUT = "machine/"
"""What W&B calls the figures of machine.csv by."""

_START_SECONDS = 20.0
_FINISH_SECONDS = 60.0
_PICTURE_SIDE = 192
_DATA_DIR = os.environ.get("WANDB_DATA_DIR")


class SteadyWandb(WandbLogger):
    """Lightning's W&B logger with steps that strictly increase over all attempts; it also finishes its W&B run.

    W&B's step is the number of optimizer steps taken, one more than the CSV files say, which count from the step under
    way: a measurement before the first step is W&B's step 0. After W&B's process died, it logs nothing more.

    Args:
        run: a started W&B run.
    """

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        self._first = run.starting_step  # 0, or what the server has of earlier attempts
        self._lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics of a step, unless the server already has that step."""
        assert step is not None
        taken = step + 1
        if taken >= self._first:
            self._tell(lambda: self.experiment.log(dict(metrics), step=taken))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the W&B run, so that the next stage of this process can start its own."""
        if self._experiment is not None:
            self._tell(lambda: self.experiment.finish(exit_code=0 if status == "success" else 1))
            self._experiment = None

    def _tell(self, tell: Callable[[], Any]) -> None:
        if not self._lost:
            self._lost = not _told(tell)


def wandb_logger(
    tracking: Tracking, memory: Path | None, past: Mapping[int, Mapping[str, float]] | None = None
) -> SteadyWandb | None:
    """Return the logger of a stage that trains; None on ranks but the first, and where W&B cannot be started.

    Args:
        tracking: what W&B logs.
        memory: file that remembers the id; None where an attempt that is killed begins again from nothing.
        past: figures that earlier attempts left in the CSV files, by their step.
    """
    if launched_rank() != 0:
        return None
    run_id = None
    if memory is not None and memory.exists():
        run_id = json.loads(memory.read_text())["id"]
        for folder in (tracking.run / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(folder)
    run = _start(tracking, run_id)
    if run is None:
        return None
    if memory is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({"id": run.id}))
    found = SteadyWandb(run)
    for step, figures in sorted((past or {}).items()):
        found.log_metrics(figures, step)
    return found


def past_figures(log: Iterable[Mapping[str, str]], machine: Iterable[Mapping[str, str]]) -> dict[int, dict[str, float]]:
    """Return the metrics of metrics.csv and machine.csv by step; of two lines for one step, the later one."""
    found: dict[int, dict[str, float]] = {}
    for lines, about in ((log, ""), (machine, ABOUT)):
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # a truncated line, left by a full disk
                figures = {about + name: float(value) for name, value in line.items() if name != "step" and value}
                found.setdefault(int(line["step"]), {}).update(figures)
    return found


def log_table(
    tracking: Tracking, figures: Mapping[str, Json], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Log the metrics of a stage that does not train: numbers, lists of numbers, and a table; bytes are images."""
    import wandb

    run = _start(tracking, None)
    if run is None:
        return
    numbers: dict[str, float] = {}
    for key, value in flatten(figures).items():
        parts = {f".{place}": part for place, part in enumerate(value, 1)} if isinstance(value, list) else {"": value}
        numbers |= {key + end: part for end, part in parts.items() if isinstance(part, int | float)}
    cells = [[wandb.Image(_picture(cell)) if isinstance(cell, bytes) else _shown(cell) for cell in row] for row in rows]
    _told(lambda: run.log({**numbers, name: wandb.Table(columns=list(columns), data=cells)}, step=0))
    _told(run.finish)


def _shown(cell: Any) -> Any:
    return harmless(cell, keep=LINES) if isinstance(cell, str) else cell


def _told(tell: Callable[[], Any]) -> bool:
    """Make a call to W&B; return whether it succeeded."""
    try:
        tell()
    except Exception as cause:  # as in `_start`
        logger.warning("  W&B is lost, the run continues without it: %s", str(cause) or type(cause).__name__)
        return False
    return True


def _start(tracking: Tracking, run_id: str | None) -> Any | None:
    """Start a W&B run: offline if the server does not answer; None if that fails too."""
    import wandb
    from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

    # Tables with pictures are staged here until they are sent: with the rest, wherever the run directory is moved.
    os.environ["WANDB_DATA_DIR"] = _DATA_DIR or str(tracking.run / "wandb" / "data")
    settings = wandb.Settings(
        init_timeout=_START_SECONDS,
        login_timeout=_START_SECONDS,
        finish_timeout=_FINISH_SECONDS,  # what is unsent by then stays on disk, for `wandb sync`
        finish_timeout_raises=False,
        silent=True,
        console="off",
        disable_git=True,
    )
    for mode in dict.fromkeys((wandb_mode(), "offline")):
        try:
            run = wandb.init(
                mode=mode,  # type: ignore[arg-type]  # one of W&B's words; another is refused below
                id=run_id,
                resume="allow" if run_id else None,
                project=tracking.project,
                group=tracking.group,
                job_type=tracking.stage,
                name="/".join(filter(None, (tracking.run.name, tracking.stage, tracking.part))),
                config=dict(tracking.config),
                dir=str(tracking.run),
                settings=settings,
            )
            unregister_all_post_import_hooks()  # with its process gone, they would fail every import that they watch
            return run
        except Exception as cause:  # no failure of W&B may end a training
            logger.warning("  W&B cannot be had %s: %s", mode, str(cause).splitlines()[0])
    return None


def _picture(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as found:
        small = found.convert("RGB")
    small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    return small
