"""Validation while training: the product's ranking, the best weights kept, an early stop, no look at the test split."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tools import train_ring
from trialign.data.dataset import Dataset, Evaluation
from trialign.decode.index import PrefixIndex
from trialign.errors import ConfigError, TrainingError
from trialign.generate import validation as measuring
from trialign.generate.loss import autoregressive_loss
from trialign.generate.module import GeneratorModule
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import load_generator
from trialign.generate.task import Window
from trialign.generate.validation import Validation
from trialign.ranking import METRICS, measure
from trialign.semid.table import SIDTable

VALIDATION = {"every": 4, "users": 0, "num_beams": 12, "patience": 0, "batch_size": 32}


def weights(folder: Path) -> bytes:
    return (folder / "generator.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def losses_of(folder: Path) -> list[str]:
    return [line["loss"] for line in log_of(folder) if line["loss"]]


def validated(folder: Path, dataset: Dataset, table: SIDTable, users: Evaluation | None = None) -> dict[str, float]:
    trained = load_generator(folder, table)
    settings = {"num_users": 0, "num_beams": 12, "max_history": 8, "batch_size": 32}
    index = PrefixIndex.from_codes(table.codes_NL, table.codebook_size)
    found = Validation(users or dataset.evaluation("validation"), trained.template, index, **settings)
    return found.measure(trained.generator, torch.device("cpu"))


def test_the_saved_weights_are_the_best_and_what_is_logged_is_what_they_reach(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    # A rate so high, and a seed, that training climbs and falls again: the last is not the best.
    counts = train_ring(
        dataset,
        {},
        table,
        tmp_path,
        **settings | {"steps": 24, "seed": 1, "learning_rate": 0.03, "validation": VALIDATION},
    )
    figures = [(line["step"], line["validation/ndcg@10"]) for line in log_of(tmp_path)]
    measured = {int(step) + 1: float(figure) for step, figure in figures if figure}
    assert list(measured) == [4, 8, 12, 16, 20, 24]
    kept = counts["validation"]
    assert measured[kept["step"]] == pytest.approx(max(measured.values())) == pytest.approx(kept["ndcg@10"])
    assert kept["step"] < 24
    assert (kept["users"], kept["times"]) == (60, 6)
    assert validated(tmp_path, dataset, table) == {name: kept[name] for name in ("loss", "recall@10", "ndcg@10")}
    assert not list(tmp_path.glob("best*"))


def test_of_equal_validations_the_first_is_kept(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    # A rate so low that no weight moves in float32.
    still = {"steps": 12, "learning_rate": 1e-30, "validation": VALIDATION}
    kept = train_ring(dataset, {}, table, tmp_path, **settings | still)["validation"]
    assert (kept["step"], kept["times"]) == (4, 3)


def test_watching_changes_nothing_and_the_figures_are_the_evaluations(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["runtime"]["log_every"] = 1
    train_ring(dataset, {}, table, tmp_path / "alone", **settings | {"steps": 9})
    counts = train_ring(dataset, {}, table, tmp_path / "watched", **settings | {"steps": 9, "validation": VALIDATION})
    assert losses_of(tmp_path / "alone") == losses_of(tmp_path / "watched")
    assert len(losses_of(tmp_path / "alone")) == 9
    trained = load_generator(tmp_path / "watched", table)
    users = dataset.evaluation("validation")
    index = PrefixIndex.from_codes(table.codes_NL, table.codebook_size)
    ranker = GeneratorRanker(trained.generator, trained.template, index, num_beams=12, max_history=8, batch_size=60)
    items_UK, _ = ranker.rank(users.histories, 12, exclude=None)
    padded_UK = np.pad(items_UK, ((0, 0), (0, 38)), constant_values=-1)
    means = dict(zip(METRICS, measure(padded_UK, users.targets).mean(axis=0), strict=True))
    assert counts["validation"]["recall@10"] == pytest.approx(means["recall@10"])
    assert counts["validation"]["ndcg@10"] == pytest.approx(means["ndcg@10"])
    losses, tokens = 0.0, 0
    for history, targets in zip(users.histories, users.targets, strict=True):
        record = {"items": np.append(history, targets[0]), "first_target": len(history)}
        example = trained.template.encode(trained.template.tasks.index("history_to_item"), Window(**record))
        row = torch.from_numpy(example.tokens)[None]
        with torch.no_grad():
            groups = trained.generator(
                row, torch.arange(row.shape[1])[None], torch.from_numpy(example.targets)[None], torch.zeros_like(row)
            )
        losses, tokens = losses + float(autoregressive_loss(groups, 1).total), tokens + int(example.targets.sum())
    assert counts["validation"]["loss"] == pytest.approx(losses / tokens, rel=1e-5)


def test_the_last_step_is_measured_where_no_measurement_is_due(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    counts = train_ring(dataset, {}, table, tmp_path, **settings | {"steps": 6, "validation": VALIDATION})
    measured = [line["step"] for line in log_of(tmp_path) if line["validation/ndcg@10"]]
    assert measured == ["3", "5"]  # of the log: steps 4 and 6
    assert counts["validation"]["times"] == 2


def test_patience_stops_where_nothing_gets_better(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    # A rate of zero: the first validation stays the best.
    changes = {"steps": 40, "learning_rate": 0.0, "validation": VALIDATION | {"patience": 2}}
    counts = train_ring(dataset, {}, table, tmp_path, **settings | changes)
    assert counts["steps"] == 12
    assert (counts["validation"]["step"], counts["validation"]["times"]) == (4, 3)


def test_random_test_targets_change_no_byte(
    dataset: Dataset, other_test_targets: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Outside check: every test target is replaced at random, and nothing that training makes differs."""
    targets = [found.evaluation("test").targets for found in (dataset, other_test_targets)]
    assert np.mean([np.array_equal(*pair) for pair in zip(*targets, strict=True)]) < 0.3
    made = []
    for name, data in (("given", dataset), ("random", other_test_targets)):
        folder = tmp_path / name
        counts = train_ring(data, {}, table, folder, **settings | {"steps": 12, "validation": VALIDATION})
        made.append((counts, weights(folder), (folder / "log" / "metrics.csv").read_text()))
    assert made[0] == made[1]


def test_ranks_share_the_users_and_agree(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_ring(dataset, {}, table, tmp_path, **settings | {"steps": 5})
    whole = validated(tmp_path, dataset, table)
    parts: list[torch.Tensor] = []
    for number in range(3):  # what each rank would put into the reduction
        monkeypatch.setattr(measuring, "rank", lambda number=number: number)
        monkeypatch.setattr(measuring, "world_size", lambda: 3)
        monkeypatch.setattr(measuring, "all_reduce_sum", lambda sums: (parts.append(sums.clone()), sums)[1])
        validated(tmp_path, dataset, table)
    loss, tokens, count, ndcg, recall = torch.stack(parts).sum(dim=0).tolist()
    together = {"loss": loss / tokens, "recall@10": recall / count, "ndcg@10": ndcg / count}
    assert count == 60
    assert together == pytest.approx(whole, rel=1e-6)


def test_an_empty_validation_split_is_refused_where_it_was_asked_for(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "evaluation", lambda *_: Evaluation([], [], [], []))
    with pytest.raises(ConfigError, match="the validation split is empty"):
        train_ring(dataset, {}, table, tmp_path, **settings | {"validation": VALIDATION})
    train_ring(dataset, {}, table, tmp_path, **settings | {"steps": 1, "validation": VALIDATION | {"every": 0}})


def test_validation_without_the_next_item_as_a_task_is_refused(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="history_to_item is not among"):
        train_ring(
            dataset, {}, table, tmp_path, **settings | {"tasks": {"title_to_item": 1.0}, "validation": VALIDATION}
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loss_that_is_no_number_stops_with_the_records_it_came_from(
    workers: int,
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = settings["stream"] | {"sample_log": True, "workers": workers}
    train_ring(dataset, {}, table, tmp_path / "whole", **settings | {"steps": 5, "stream": stream})
    sample_log = [
        json.loads(line) for line in (tmp_path / "whole" / "sample_log" / "rank-00000.jsonl").read_text().splitlines()
    ]
    step, calls, states = GeneratorModule.training_step, [], []

    def poisoned(self: GeneratorModule, batch: Any) -> torch.Tensor:
        calls.append(batch)
        loss = step(self, batch)
        if len(calls) == 6:  # two micro-batches a step: the second of step 3
            states.append([p.detach().clone() for p in self.generator.parameters()])
            return loss * float("nan")
        return loss

    kept: list[Any] = []
    made = GeneratorModule.__init__
    monkeypatch.setattr(GeneratorModule, "__init__", lambda self, *a, **k: (kept.append(self), made(self, *a, **k))[1])
    monkeypatch.setattr(GeneratorModule, "training_step", poisoned)
    stream["sample_log"] = False
    with pytest.raises(TrainingError, match="the loss of step 3 is nan; read were"):
        train_ring(dataset, {}, table, tmp_path / "cut", **settings | {"steps": 5, "stream": stream})
    told = json.loads((tmp_path / "cut" / "log" / "spike-00000003-00000.json").read_text())
    assert (told["step"], told["batch"]) == (3, 3)
    assert told["records"]
    assert [{"step": 3} | line for line in told["records"]] == [line for line in sample_log if line["step"] == 3]
    now = kept[0].generator.parameters()
    assert all(torch.equal(before, after) for before, after in zip(states[0], now, strict=True)), "the step was taken"
