"""Recommend items to a user of the logs, to somebody who chose the items you name, or to many users at once.

trialign recommend run=DIR recommend.user=user-0000042
trialign recommend run=DIR 'recommend.items=[item-0000007,item-0000100]' recommend.k=5 recommend.format=json
trialign recommend run=DIR recommend.user=user-0000042 recommend.blocked=sold-out.txt
trialign recommend run=DIR recommend.users=all recommend.output=DIR
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialign.config.config import Config
from trialign.errors import ConfigError, StageError
from trialign.files import sha256_of
from trialign.manifest import MANIFEST, Manifest, changes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trialign.config.evaluate import RecommendConfig
    from trialign.foreign import Json
    from trialign.run import Run
    from trialign.stage import Stage

log = logging.getLogger("trialign")


def run(config: Config) -> list[str] | Stage:
    """Print the history and the recommended items; return the keys of the latter, or the stage of many users."""
    wanted = config.recommend
    if wanted.user is None and not wanted.items and wanted.users is None:  # before what takes long is imported
        raise ConfigError(
            "recommend.user, recommend.items and recommend.users are not set",
            rule="it takes a user of the logs, a list of items, or many users",
            remedy="add recommend.user=KEY, 'recommend.items=[KEY,KEY]', or recommend.users=all",
        )
    from trialign.data.key_file import read_keys
    from trialign.run import Run

    finished = Run(
        config.run,
        from_stage=config.from_stage,
        generator=config.evaluate.generator,
        accelerator=config.runtime.accelerator,
    )
    allowed, blocked = (None if path is None else read_keys(path) for path in (wanted.allowed, wanted.blocked))
    if wanted.users is not None:
        return _to_many(config, finished, allowed, blocked)
    return _to_one(config, finished, allowed, blocked)


def _to_one(config: Config, finished: Run, allowed: list[str] | None, blocked: list[str] | None) -> list[str]:
    from trialign.generate.html import recommendation_page, recommendation_record, why_fewer
    from trialign.terminal import console

    wanted = config.recommend
    how: dict[str, Any] = {
        "k": wanted.k,
        "exclude_seen": wanted.exclude_seen,
        "num_beams": wanted.num_beams,
        "allowed": allowed,
        "blocked": blocked,
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


def _to_many(config: Config, finished: Run, allowed: list[str] | None, blocked: list[str] | None) -> Stage:
    from trialign.data.many_users import AllUsers, UsersOfFile
    from trialign.generate.batch import recommend_to_many
    from trialign.stage import Stage

    wanted, dataset = config.recommend, finished.dataset
    people = AllUsers(dataset) if wanted.users == "all" else UsersOfFile(dataset, Path(str(wanted.users)).expanduser())
    output = Path(wanted.output).expanduser().absolute()
    inputs = {verb: finished.stage(verb) for verb in ("prepare", "assign", config.evaluate.generator)}
    identity = _identity(wanted)
    if not config.rebuild:
        _refuse_another(output, identity, inputs)
    stage = Stage.open(
        "recommend",
        output,
        identity,
        inputs=inputs,
        recorded={f"runtime.{key}": config.recorded["runtime"][key] for key in ("threads", "accelerator")},
        intervals=config.runtime.intervals,
        rebuild=config.rebuild,
    )
    if stage.finished:
        return stage
    stock_N = dataset.stock(allowed, blocked)
    log.info("  %s users, blocks in %s", f"{people.num_users:,}", output)
    ranker = finished.ranker(num_beams=wanted.num_beams, batch_size=wanted.batch_size)
    recommend_to_many(stage, people, ranker, dataset.keys, stock_N, wanted, rebuild=config.rebuild)
    return stage


def _identity(wanted: RecommendConfig) -> dict[str, Json]:
    """Return the settings that determine what is recommended, files by their content."""
    names = ("k", "num_beams", "exclude_seen", "batch_size")
    files = {
        name: None if path is None else sha256_of(Path(path).expanduser())
        for name, path in (("allowed", wanted.allowed), ("blocked", wanted.blocked))
    }
    users = "all" if wanted.users == "all" else sha256_of(Path(str(wanted.users)).expanduser())
    return {"recommend": {**{name: getattr(wanted, name) for name in names}, **files, "users": users}}


def _refuse_another(output: Path, identity: dict[str, Json], inputs: Mapping[str, Path]) -> None:
    """Refuse a finished folder that other settings or other stages made.

    Raises:
        StageError: it is.
    """
    if not (output / MANIFEST).exists():
        return
    before = Manifest.read(output)
    made = {verb: reference["hash"] for verb, reference in before.inputs.items()}
    now = {verb: Manifest.read(folder).hash for verb, folder in inputs.items()}
    if changes := changes_of({**before.config, "stage": made}, {**identity, "stage": now}):
        raise StageError(
            f"{output} was finished with other settings: " + "; ".join(changes),
            rule="what was recommended is never changed silently",
            remedy="undo the change, name another folder (recommend.output=DIR), or add rebuild=true to make it again",
        )
