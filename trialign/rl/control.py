"""The control of reinforcement learning: supervised training that goes on with the positions it had kept back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialign.data.lanes import LaneSource
from trialign.data.module import LaneDataModule
from trialign.errors import ConfigError
from trialign.generate.artefact import TrainedGenerator
from trialign.generate.module import GeneratorModule
from trialign.generate.ranker import require_room
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.generate.train import stream_rows
from trialign.generate.withhold import Withholding

if TYPE_CHECKING:
    from trialign.rl.train import Start

TASK = "history_to_item"


def sources(start: Start) -> list[LaneSource]:
    """Return what the control learns from: the train histories."""
    return [LaneSource(TASK, start.dataset.store("train"))]


def continued(
    start: Start,
    trained: TrainedGenerator,
    folder: Path,
    seed: int,
    stream: Mapping[str, Any],
    runtime: Mapping[str, Any],
    optimizer: Mapping[str, Any],
) -> tuple[GeneratorModule, LaneDataModule]:
    """Return the module and the rows of the control; arguments as `reinforce`."""
    if not start.share:
        raise ConfigError(
            "no position was kept back from supervised training (train.keep_back=0)",
            rule="the control learns what supervised training has not learned",
            remedy="train with train.keep_back=0.2, then run this again",
        )
    template = trained.template
    require_room(trained.max_history, template.encoding.positions_per_item, stream["row_tokens"])
    one = Template(template.tokenizer, template.encoding, [TASK], template.max_tokens["title"])
    texts = ItemTexts(start.dataset.items["title"].to_pylist())
    encode = Withholding(partial(one.encode_many, texts), one.tasks, start.share, only=True)
    data = stream_rows(sources(start), encode, folder, seed, runtime["micro_rows"], **stream)
    # Loaded generators are in eval mode, and Lightning leaves every module in the mode that it finds.
    return GeneratorModule(trained.generator.train(), tasks=one.tasks, **optimizer), data
