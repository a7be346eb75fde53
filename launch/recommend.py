"""Recommend items to a user of the logs, or to somebody who chose the items you name.

trialign recommend run=DIR recommend.user=user-0000042
trialign recommend run=DIR 'recommend.items=[item-0000007,item-0000100]' recommend.k=5
"""

from __future__ import annotations

import numpy as np

from trialign.config.compose import Config
from trialign.config.stages import locate_stage
from trialign.errors import ConfigError
from trialign.manifest import Manifest


def run(config: Config) -> list[str]:
    """Print the history and the recommended items; return the keys of the latter, best first."""
    from trialign.data.dataset import Dataset
    from trialign.generate.artefact import load_ranker
    from trialign.generate.page import recommendation_page
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable
    from trialign.terminal import console
    from trialign.types import NO_ITEM

    wanted = config.recommend
    _check(config)
    folders = {verb: locate_stage(config, verb) for verb in ("prepare", "assign", config.evaluate.generator)}
    for folder in folders.values():
        Manifest.read(folder)  # refuses what is unfinished
    dataset = Dataset(folders["prepare"])
    named = np.array([dataset.item_of(key) for key in wanted.items], dtype=np.int32)
    user = dataset.user(wanted.user) if wanted.user else None
    history, seen = (named, named) if user is None else (user.history, user.seen)
    sids = SIDTable.load(folders["assign"])
    device = device_of(config.runtime.accelerator)
    ranker = load_ranker(
        folders[config.evaluate.generator], sids, num_beams=wanted.num_beams, batch_size=1, device=device
    )
    (items,), (scores,) = ranker.rank([history], wanted.k, exclude=[seen] if wanted.exclude_seen else None)
    console().print(recommendation_page(dataset, sids, wanted.user or "the named items", history, items, scores))
    return [dataset.keys[item] for item in items if item != NO_ITEM]


def _check(config: Config) -> None:
    wanted = config.recommend
    if (wanted.user is None) == (not wanted.items):
        raise ConfigError(
            f"recommend.user={wanted.user} and recommend.items={wanted.items}",
            rule="either a user of the logs or a list of items",
            remedy="add recommend.user=KEY, or 'recommend.items=[KEY,KEY]'",
        )
    if wanted.k > wanted.num_beams:
        raise ConfigError(
            f"recommend.k={wanted.k} with recommend.num_beams={wanted.num_beams}",
            rule="a search returns at most as many items as it has beams",
            remedy=f"set recommend.num_beams={wanted.k}",
        )
