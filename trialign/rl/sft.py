"""The control of RL: supervised training that continues on the held-out positions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trialign.config.rl import RLConfig
from trialign.config.runtime import RuntimeConfig
from trialign.config.train import StreamConfig
from trialign.errors import ConfigError
from trialign.generate.build import fitted_stream, stream_rows
from trialign.generate.module import GeneratorModule
from trialign.generate.ranker import require_room
from trialign.generate.rl_holdout import RLHoldout
from trialign.generate.save_load import TrainedGenerator
from trialign.generate.task import ItemTexts
from trialign.generate.template import Template
from trialign.rl.start import Objective, Start
from trialign.stream.lanes import LaneSource

TASK = "history_to_item"


def supervised(
    start: Start,
    trained: TrainedGenerator,
    folder: Path,
    settings: RLConfig,
    stream: StreamConfig,
    runtime: RuntimeConfig,
    *,
    seed: int,
) -> Objective:
    """Return the module and the rows of the control; arguments as `reinforce`.

    Raises:
        ConfigError: nothing was held out.
    """
    sources = [LaneSource(TASK, start.dataset.store("train"))]
    stream, runtime = fitted_stream(sources, stream, runtime)
    if not start.share:
        raise ConfigError(
            "no position was held out from supervised training (train.rl_holdout=0)",
            rule="the control learns what supervised training has not learned",
            remedy="train with train.rl_holdout=0.2, then run this again",
        )
    template = trained.template
    require_room(trained.max_history, template.rows.positions_per_item, stream.seq_len)
    one = Template(template.tokenizer, template.rows, [TASK], template.max_tokens["title"])
    texts = ItemTexts(start.dataset.items)
    encode = RLHoldout(partial(one.encode_many, texts), one.tasks, start.share, only=True)
    rows = stream_rows(sources, encode, folder, stream, seed=seed, micro_batch_size=runtime.micro_batch_size)
    # A loaded generator is in eval mode, and Lightning keeps each module's mode.
    module = GeneratorModule(trained.generator.train(), settings, tasks=one.tasks, num_steps=settings.steps)
    return Objective(module, rows, stream.global_batch_size, runtime, dict)
