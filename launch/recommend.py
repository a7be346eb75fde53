"""Recommend items to a user of the logs, or to somebody who chose the items you name.

trialign recommend run=DIR recommend.user=u0000042
trialign recommend run=DIR 'recommend.items=[item-0000007,item-0000100]' recommend.k=5
"""

from __future__ import annotations

import numpy as np

from trialign.config.compose import Config
from trialign.config.stages import locate_stage
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError, DataError
from trialign.manifest import Manifest
from trialign.types import NO_ITEM, Items


def run(config: Config) -> list[str]:
    """Print the history and the recommended items, and return the keys of the latter."""
    wanted = config.recommend
    _check(wanted.user, wanted.items, wanted.k, wanted.num_beams)
    folders = {verb: locate_stage(config, verb) for verb in ("prepare", "assign", "train")}
    for folder in folders.values():
        Manifest.read(folder)  # refuses what is unfinished
    dataset = Dataset(folders["prepare"])
    history = dataset.history_of(wanted.user) if wanted.user else _typed(dataset, wanted.items)

    from trialign.generate.artefact import load_ranker
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable

    ranker = load_ranker(
        folders["train"],
        SIDTable.load(folders["assign"]),
        num_beams=wanted.num_beams,
        batch_size=1,
        device=device_of(config.runtime.accelerator),
    )
    (items,), (scores,) = ranker.rank([history], wanted.k, exclude_seen=wanted.exclude_seen)
    print(_page(dataset, wanted.user or "the items you named", history, items, scores))
    return [dataset.keys[item] for item in items if item != NO_ITEM]
