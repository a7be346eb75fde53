"""Recommend items to a user of the logs, or to somebody who chose the items you name.

trialign recommend run=DIR recommend.user=user-0000042
trialign recommend run=DIR 'recommend.items=[item-0000007,item-0000100]' recommend.k=5 recommend.format=json
trialign recommend run=DIR recommend.user=user-0000042 recommend.blocked=sold-out.txt
"""

from __future__ import annotations

import json
from typing import Any

from trialign.config.config import Config
from trialign.errors import ConfigError


def run(config: Config) -> list[str]:
    """Print the history and the recommended items; return the keys of the latter, best first."""
    wanted = config.recommend
    if wanted.user is None and not wanted.items:  # before anything is imported that takes long
        raise ConfigError(
            "recommend.user and recommend.items are not set",
            rule="it takes either a user of the logs or a list of items",
            remedy="add recommend.user=KEY, or 'recommend.items=[KEY,KEY]'",
        )
    from trialign.data.key_file import read_keys
    from trialign.generate.html import recommendation_page, recommendation_record, why_fewer
    from trialign.run import Run
    from trialign.terminal import console

    finished = Run(
        config.run,
        from_stage=config.from_stage,
        generator=config.evaluate.generator,
        accelerator=config.runtime.accelerator,
    )
    how: dict[str, Any] = {
        "k": wanted.k,
        "exclude_seen": wanted.exclude_seen,
        "num_beams": wanted.num_beams,
        "allowed": None if wanted.allowed is None else read_keys(wanted.allowed),
        "blocked": None if wanted.blocked is None else read_keys(wanted.blocked),
    }
    if wanted.user is None:
        (found,) = finished.recommend([wanted.items], **how)
    else:
        (found,) = finished.recommend_to([wanted.user], **how)
    fewer = why_fewer(found, wanted.k, finished.dataset.num_items)
    if wanted.format == "json":
        print(json.dumps(recommendation_record(found, wanted.user, fewer)))
    else:
        console().print(recommendation_page(found, "the named items" if wanted.user is None else wanted.user))
        if fewer:
            console().print(fewer)
    return [item.key for item in found.items]
