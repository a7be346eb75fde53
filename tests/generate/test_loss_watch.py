"""A spike ends the training before the optimizer has taken it in; rewound, it continues without the batch behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tools import run_ranks, train_ring
from trialign.data.dataset import Dataset
from trialign.errors import TrainingError
from trialign.generate.fit import BEST
from trialign.generate.module import GeneratorModule
from trialign.generate.save_load import load_generator
from trialign.runtime import loss_watch
from trialign.runtime.collectives import rank
from trialign.runtime.loss_watch import RewoundError
from trialign.semid.table import SIDTable

SPIKE, STEPS = 15, 20
"""The global batch that makes the loss jump, and the steps that are wanted."""


def jumping(of_rank: int, nats: float) -> Any:
    """Return a training step in which the loss of one rank jumps at one global batch."""
    step = GeneratorModule.training_step

    def jump(self: GeneratorModule, batch: Any) -> torch.Tensor:
        loss = step(self, batch)
        jumps = rank() == of_rank and self.trainer.datamodule.batch_under_way == SPIKE  # type: ignore[attr-defined]
        return loss + nats if jumps else loss

    return jump


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GeneratorModule, "training_step", jumping(0, 5.0))


def watched(settings: dict[str, Any], policy: str) -> dict[str, Any]:
    runtime = settings["runtime"] | {"on_loss_spike": policy, "loss_spike_threshold": 3.0, "checkpoint_every": 4}
    return settings | {"steps": STEPS, "stream": settings["stream"] | {"sample_log": True}, "runtime": runtime}


def rows_by_step(folder: Path) -> dict[int, list[dict[str, Any]]]:
    steps: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((folder / "sample_log").iterdir()):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            steps.setdefault(row.pop("step"), []).append(row)
    return steps


@pytest.mark.usefixtures("poisoned")
def test_a_spike_stops_and_names_what_was_read(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=f"the loss of step {SPIKE} is .* read were") as raised:
        train_ring(dataset, {}, table, tmp_path, **watched(settings, "stop"))
    assert "at most 3 above the median" in raised.value.rule
    assert raised.value.exit_code == 1
    told = json.loads((tmp_path / "log" / f"spike-{SPIKE:08d}-00000.json").read_text())
    assert (told["step"], told["batch"]) == (SPIKE, SPIKE)
    assert told["records"]
    assert max(rows_by_step(tmp_path)) < SPIKE + 1


def test_rewound_it_trains_on_every_batch_but_the_one(
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    more = watched(settings, "rewind")
    train_ring(dataset, {}, table, tmp_path / "whole", **more | {"steps": STEPS + 1})
    request.getfixturevalue("poisoned")
    with pytest.raises(RewoundError, match=f"the loss of step {SPIKE}") as raised:
        train_ring(dataset, {}, table, tmp_path / "rewound", **more)
    assert raised.value.exit_code == 75
    counts = train_ring(dataset, {}, table, tmp_path / "rewound", **more)  # the batch would spike again
    assert counts["steps"] == STEPS
    assert counts["skipped_batches"] == [SPIKE]
    whole, rewound = rows_by_step(tmp_path / "whole"), rows_by_step(tmp_path / "rewound")
    told = json.loads((tmp_path / "rewound" / "log" / f"spike-{SPIKE:08d}-00000.json").read_text())
    assert told["records"] == whole[SPIKE]
    wanted = [number for number in range(1, STEPS + 2) if number != SPIKE]
    assert rewound == {step: whole[number] for step, number in enumerate(wanted, start=1)}


def train_two(dataset: Dataset, table: SIDTable, folder: Path, more: dict[str, Any], strategy: str) -> None:
    """Train where one rank's loss jumps; what the error says is written down. Runs on both ranks."""
    GeneratorModule.training_step = jumping(1, 8.0)  # type: ignore[method-assign]  # 4 in the mean over ranks
    folder.mkdir(exist_ok=True)
    runtime = more["runtime"] | {"strategy": strategy, "devices": 2}
    try:
        train_ring(dataset, {}, table, folder, **more | {"runtime": runtime})
    except RewoundError as error:
        (folder / f"told-{rank()}").write_text(error.value)


@pytest.mark.parametrize("strategy", ["ddp"])
def test_one_ranks_spike_rewinds_all_ranks(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path, strategy: str
) -> None:
    """Red: a rank that looks at its own loss."""
    more, folder = watched(settings, "rewind"), tmp_path / "rewound"
    train_ring(dataset, {}, table, tmp_path / "whole", **more | {"steps": STEPS + 1})
    assert run_ranks(train_two, 2, dataset, table, folder, more, strategy, timeout=120) == [0, 0]
    whole = rows_by_step(tmp_path / "whole")
    dumps = [json.loads((folder / "log" / f"spike-{SPIKE:08d}-{rank:05d}.json").read_text()) for rank in (0, 1)]
    assert dumps[0]["loss"] == dumps[1]["loss"]
    assert sorted((found for dump in dumps for found in dump["records"]), key=str) == sorted(whole[SPIKE], key=str)
    assert all(f"the loss of step {SPIKE}" in (folder / f"told-{rank}").read_text() for rank in (0, 1))
    assert not (folder / "generator.safetensors").exists()
    assert run_ranks(train_two, 2, dataset, table, folder, more, strategy, timeout=120) == [0, 0]
    wanted = [number for number in range(1, STEPS + 2) if number != SPIKE]
    rewound = rows_by_step(folder)
    for step, number in enumerate(wanted, start=1):
        assert sorted(rewound[step], key=str) == sorted(whole[number], key=str)
    assert len(rewound) == STEPS


@pytest.mark.usefixtures("poisoned")
def test_it_is_rewound_so_often_and_no_more(
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss_watch, "_MOST_AVOIDED", 2)
    (tmp_path / loss_watch.SKIPPED_BATCHES).write_text("[1, 2]")
    with pytest.raises(TrainingError, match="the loss of step 13 is") as raised:
        train_ring(dataset, {}, table, tmp_path, **watched(settings, "rewind"))
    assert "2 batches excepted" in raised.value.rule


@pytest.mark.parametrize("figure", [0.0, 2.0])
def test_the_best_of_a_rewound_attempt_stays_until_it_is_surpassed(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path, figure: float
) -> None:
    validation = {"every": 2, "users": 0, "num_beams": 12, "patience": 0, "batch_size": 32}
    more = settings | {"steps": 4, "validation": validation}
    train_ring(dataset, {}, table, tmp_path / "other", **more | {"seed": 5})
    weights = load_file(tmp_path / "other" / "generator.safetensors")
    (tmp_path / "next" / BEST).parent.mkdir(parents=True)
    left = load_generator(tmp_path / "other", table).generator.named_parameters()  # without those that are shared
    save_file(
        {name: parameter.detach() for name, parameter in left},
        tmp_path / "next" / BEST,
        {"figures": json.dumps({"step": 9, "ndcg@10": figure})},
    )
    counts = train_ring(dataset, {}, table, tmp_path / "next", **more)
    found = load_file(tmp_path / "next" / "generator.safetensors")
    same = all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert (counts["validation"]["step"] == 9) == same == (figure > 1.0)
