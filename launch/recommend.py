"""Recommend items to a user of the logs, or to somebody who chose the items you name.

trialign recommend run=DIR recommend.user=user-0000042
trialign recommend run=DIR 'recommend.items=[item-0000007,item-0000100]' recommend.k=5 recommend.format=json
"""

from __future__ import annotations

import json

import numpy as np

from trialign.config.config import Config
from trialign.config.stages import locate_stage
from trialign.errors import ConfigError
from trialign.manifest import Manifest


def run(config: Config) -> list[str]:
    """Print the history and the recommended items; return the keys of the latter, best first."""
    wanted = config.recommend
    if wanted.user is None and not wanted.items:  # before anything is imported that takes long
        raise ConfigError(
            "recommend.user and recommend.items are not set",
            rule="it takes either a user of the logs or a list of items",
            remedy="add recommend.user=KEY, or 'recommend.items=[KEY,KEY]'",
        )
    folders = {verb: locate_stage(config, verb) for verb in ("prepare", "assign", config.evaluate.generator)}
    for folder in folders.values():
        Manifest.read(folder)  # refuses what is unfinished

    from trialign.data.dataset import Dataset

    dataset = Dataset(folders["prepare"])
    history = np.array([dataset.item_of(key) for key in wanted.items], dtype=np.int32)
    seen, older = history, history[:0]
    if wanted.user is not None:
        user = dataset.user(wanted.user)
        history, seen, older = user.history, user.seen, user.older

    from trialign.generate.html import recommendation_page, recommendation_record, why_fewer
    from trialign.generate.save_load import load_ranker
    from trialign.runtime.device import device_of
    from trialign.semid.table import SIDTable
    from trialign.terminal import console
    from trialign.types import NO_ITEM

    sids = SIDTable.load(folders["assign"])
    device = device_of(config.runtime.accelerator)
    ranker = load_ranker(
        folders[config.evaluate.generator], sids, num_beams=wanted.num_beams, batch_size=1, device=device
    )
    (items,), (scores,) = ranker.rank([history], wanted.k, exclude=[seen] if wanted.exclude_seen else None)
    ranked = [(int(item), float(score)) for item, score in zip(items, scores, strict=True) if item != NO_ITEM]
    filtered = len(set(seen.tolist())) if wanted.exclude_seen else 0
    fewer = why_fewer(len(ranked), wanted.k, dataset.num_items, filtered)
    if wanted.format == "json":
        print(json.dumps(recommendation_record(dataset, wanted.user, history, ranked, fewer)))
    else:
        name = "the named items" if wanted.user is None else wanted.user
        console().print(recommendation_page(dataset, sids, name, history, ranked, num_older=len(older)))
        if fewer:
            console().print(fewer)
    return [dataset.keys[item] for item, _ in ranked]
