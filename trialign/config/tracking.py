"""Group `tracking`: logging to Weights & Biases, next to a run's own CSV files."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from trialign.config.option import option
from trialign.foreign import Json


@dataclass
class TrackingConfig:
    """Weights & Biases: offline unless a key is set (WANDB_API_KEY, or `wandb login`) or WANDB_MODE says otherwise."""

    wandb: bool = option(False, "track the stages that train, the semantic IDs and the evaluation: tracking=wandb")
    project: str = option("trialign", "W&B project")
    group: str | None = option(
        None, "W&B group; null: WANDB_RUN_GROUP, which a sweep on Slurm sets, else the folder that the run lies in"
    )


@dataclass(frozen=True)
class Tracking:
    """The W&B run of a stage: its names and its config.

    Args:
        run: the run directory; `run/wandb` holds W&B's files.
        stage: the verb, W&B's job type.
        project: the W&B project.
        group: the W&B group; members of a sweep share one.
        config: settings to show and filter by.
        part: what a stage of several W&B runs calls this one.
    """

    run: Path
    stage: str
    project: str
    group: str
    config: Mapping[str, Json]
    part: str = ""


def wandb_mode() -> str:
    """Return W&B's mode: as WANDB_MODE says, else online where a key is set, else offline."""
    return os.environ.get("WANDB_MODE") or ("online" if key_is_set() else "offline")


def key_is_set() -> bool:
    """Return whether a W&B API key is set; the key itself is not used."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
