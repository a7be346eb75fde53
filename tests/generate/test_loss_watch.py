"""A spike ends the training before the optimizer has taken it in; rewound, it goes on without the batch behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trialign.data.dataset import Dataset
from trialign.errors import TrainingError
from trialign.generate.artefact import load_generator
from trialign.generate.module import GeneratorModule
from trialign.generate.train import BEST, train
from trialign.runtime import loss_watch
from trialign.runtime.loss_watch import RewoundError
from trialign.semid.table import SIDTable

SPIKE, STEPS = 15, 20
"""The global batch that makes the loss jump, and the steps that are wanted."""


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    step = GeneratorModule.training_step

    def jump(self: GeneratorModule, batch: Any) -> torch.Tensor:
        loss = step(self, batch)
        return loss + 5.0 if self.trainer.datamodule.batch_under_way == SPIKE else loss  # type: ignore[attr-defined]

    monkeypatch.setattr(GeneratorModule, "training_step", jump)


def watched(settings: dict[str, Any], policy: str) -> dict[str, Any]:
    runtime = settings["runtime"] | {"on_spike": policy, "spike": 3.0, "checkpoint_every": 4}
    return settings | {"steps": STEPS, "stream": settings["stream"] | {"ledger": True}, "runtime": runtime}


def rows_by_step(folder: Path) -> dict[int, list[dict[str, Any]]]:
    steps: dict[int, list[dict[str, Any]]] = {}
    for line in (folder / "ledger" / "rank-00000.jsonl").read_text().splitlines():
        row = json.loads(line)
        steps.setdefault(row.pop("step"), []).append(row)
    return steps


@pytest.mark.usefixtures("poisoned")
def test_a_spike_stops_and_names_what_was_read(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=f"the loss of step {SPIKE} is .* read were") as raised:
        train(dataset, {}, table, tmp_path, **watched(settings, "stop"))
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
    train(dataset, {}, table, tmp_path / "whole", **more | {"steps": STEPS + 1})
    request.getfixturevalue("poisoned")
    with pytest.raises(RewoundError, match=f"the loss of step {SPIKE}") as raised:
        train(dataset, {}, table, tmp_path / "rewound", **more)
    assert raised.value.exit_code == 75
    counts = train(dataset, {}, table, tmp_path / "rewound", **more)  # the batch would spike again
    assert counts["steps"] == STEPS
    assert counts["avoided_batches"] == [SPIKE]
    whole, rewound = rows_by_step(tmp_path / "whole"), rows_by_step(tmp_path / "rewound")
    told = json.loads((tmp_path / "rewound" / "log" / f"spike-{SPIKE:08d}-00000.json").read_text())
    assert told["records"] == whole[SPIKE]
    wanted = [number for number in range(1, STEPS + 2) if number != SPIKE]
    assert rewound == {step: whole[number] for step, number in enumerate(wanted, start=1)}


@pytest.mark.usefixtures("poisoned")
def test_it_is_rewound_so_often_and_no_more(
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loss_watch, "_MOST_AVOIDED", 2)
    (tmp_path / loss_watch.AVOIDED).write_text("[1, 2]")
    with pytest.raises(TrainingError, match="the loss of step 13 is") as raised:
        train(dataset, {}, table, tmp_path, **watched(settings, "rewind"))
    assert "2 batches excepted" in raised.value.rule


@pytest.mark.parametrize("figure", [0.0, 2.0])
def test_the_best_of_a_rewound_attempt_stays_until_it_is_surpassed(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path, figure: float
) -> None:
    validation = {"every": 2, "users": 0, "num_beams": 12, "patience": 0, "batch_size": 32}
    more = settings | {"steps": 4, "validation": validation}
    train(dataset, {}, table, tmp_path / "other", **more | {"seed": 5})
    weights = load_file(tmp_path / "other" / "generator.safetensors")
    (tmp_path / "next").mkdir()
    left = load_generator(tmp_path / "other", table).generator.named_parameters()  # without those that are shared
    save_file(
        {name: parameter.detach() for name, parameter in left},
        tmp_path / "next" / BEST,
        {"figures": json.dumps({"step": 9, "ndcg@10": figure})},
    )
    counts = train(dataset, {}, table, tmp_path / "next", **more)
    found = load_file(tmp_path / "next" / "generator.safetensors")
    same = all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert (counts["validation"]["step"] == 9) == same == (figure > 1.0)
