"""Following a run in Weights & Biases, beside its CSV files: offline unless a key is set, and never in its way.

A stage is one W&B run. Its id and the newest step that was sent are kept beside the stage's checkpoints, so a job that
was killed and goes on continues the same run: what it computes a second time is not sent a second time. Whatever W&B
meets (no network, a wrong key, a full disk) is a warning; the run then goes on offline, or without W&B.
"""

from __future__ import annotations

import io
import json
import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import trialign.runtime.torchvision_fault  # noqa: F401  (before lightning)

# isort: split
from PIL import Image
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from trialign.config.tracking import Tracking
from trialign.manifest import flatten
from trialign.runtime.ranks import launched_rank

logger = logging.getLogger("trialign")

MEMORY = "wandb.json"
"""Name of the file that remembers id and step."""

_START_SECONDS = 20.0
_FINISH_SECONDS = 60.0
_PICTURE_SIDE = 192


class SteadyWandb(WandbLogger):
    """Lightning's W&B logger, whose steps strictly increase over any number of attempts, and which ends its run.

    Args:
        run: a started W&B run.
        memory: file that remembers id and step; None where an attempt that is killed begins again from nothing.
    """

    def __init__(self, run: Any, memory: Path | None) -> None:
        super().__init__(experiment=run)
        self._memory = memory
        self._before = self._newest = _remembered(memory).get("step", -1)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send a line, unless an earlier attempt has sent its step."""
        assert step is not None
        if step <= self._before:
            return
        if step > self._newest:
            self._newest = step
            # First: a line that a kill loses is a gap, one that is sent twice would be a lie.
            _remember(self._memory, self.experiment.id, step)
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, so that the next stage of this process can have one of its own."""
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def wandb_logger(tracking: Tracking, memory: Path | None) -> SteadyWandb | None:
    """Return the logger of a stage that trains; None on ranks but the first, and where W&B cannot be started."""
    if launched_rank() != 0:
        return None
    run = _start(tracking, _remembered(memory).get("id"))
    if run is None:
        return None
    _remember(memory, run.id, _remembered(memory).get("step", -1))
    return SteadyWandb(run, memory)


def log_table(
    tracking: Tracking, figures: Mapping[str, Any], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Send the figures of a stage that trains nothing, numbers and lists of them, and a table; bytes are pictures."""
    import wandb

    run = _start(tracking, None)
    if run is None:
        return
    numbers: dict[str, Any] = {}
    for key, value in flatten(dict(figures)).items():
        parts = {f".{place}": part for place, part in enumerate(value, 1)} if isinstance(value, list) else {"": value}
        numbers |= {key + end: part for end, part in parts.items() if isinstance(part, int | float)}
    cells = [[wandb.Image(_picture(cell)) if isinstance(cell, bytes) else cell for cell in row] for row in rows]
    run.log({**numbers, name: wandb.Table(columns=list(columns), data=cells)}, step=0)
    run.finish()


def key_is_set() -> bool:
    """Return whether there is a key to send data with; it is never looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start(tracking: Tracking, run_id: str | None) -> Any | None:
    """Return a W&B run, offline where online does not answer, None where not even that can be had."""
    import wandb

    asked = os.environ.get("WANDB_MODE") or ("online" if key_is_set() else "offline")
    settings = wandb.Settings(
        init_timeout=_START_SECONDS,
        login_timeout=_START_SECONDS,
        finish_timeout=_FINISH_SECONDS,  # what is unsent by then stays on disk, for `wandb sync`
        finish_timeout_raises=False,
        silent=True,
        console="off",
        disable_git=True,
    )
    for mode in dict.fromkeys((asked, "offline")):
        try:
            return wandb.init(
                mode=mode,  # type: ignore[arg-type]  # one of W&B's words; another is refused below
                id=run_id,
                resume="allow" if run_id else None,
                project=tracking.project,
                group=tracking.group,
                job_type=tracking.stage,
                name=f"{tracking.run.name}/{tracking.stage}",
                config=dict(tracking.config),
                dir=str(tracking.run),
                settings=settings,
            )
        except Exception as cause:  # whatever it is, it is no reason to lose a training
            logger.warning("  W&B cannot be had %s: %s", mode, str(cause).splitlines()[0])
    return None


def _picture(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as found:
        small = found.convert("RGB")
    small.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    return small


def _remembered(memory: Path | None) -> dict[str, Any]:
    if memory is None or not memory.exists():
        return {}
    found: dict[str, Any] = json.loads(memory.read_text())
    return found


def _remember(memory: Path | None, run_id: str, step: int) -> None:
    if memory is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        aside = memory.with_suffix(".partial")
        aside.write_text(json.dumps({"id": run_id, "step": step}))
        aside.replace(memory)
