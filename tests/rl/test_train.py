"""The whole stage on a ring of items: it ends, saves, is better than its start; bad input is refused."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tools import NUM_ITEMS, RING_SETTINGS, train_ring
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError, DataError, StageError, TrainingError
from trialign.generate.save_load import load_generator, load_ranker
from trialign.reward import functions
from trialign.rl.prompts import Prompts
from trialign.rl.start import Start
from trialign.semid.table import SIDTable

from .conftest import reinforced

WALKS = [np.arange(start, start + 3, dtype=np.int32) % NUM_ITEMS for start in range(NUM_ITEMS)]


def chance_of_the_next(folder: Path, table: SIDTable) -> float:
    """The mean probability of the item that follows in the ring."""
    ranker = load_ranker(folder, table, num_beams=NUM_ITEMS, batch_size=32, device="cpu")
    items, scores = ranker.rank(WALKS, NUM_ITEMS, exclude=None)
    following = (np.arange(NUM_ITEMS) + 3) % NUM_ITEMS
    return float(np.exp(scores[items == following[:, None]]).mean())


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("encoding", ["tokens", "position"])
def test_it_makes_the_right_item_more_probable_and_says_how(
    trained: Callable[[str], Start], encoding: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained(encoding)
    counts = reinforced(
        start, tmp_path, **settings | {"steps": 40, "validation": settings["validation"] | {"every": 20}}
    )
    assert chance_of_the_next(tmp_path, start.sids) > chance_of_the_next(start.folder, start.sids) + 0.05
    assert counts["steps"] == 40
    assert counts["stopped"] is None
    assert counts["validation"]["ndcg@10"] >= counts["start"]["ndcg@10"]
    assert counts["start"]["step"] == 0
    assert {"recall@1", "recall@10", "recall@50"} <= counts["validation"].keys()
    lines = [line for line in log_of(tmp_path) if line["loss"]]
    assert len(lines) == 20
    for name in ("reward", "reward/hit", "reward/prefix", "zero_variance", "entropy", "kl", "clipped"):
        assert all(np.isfinite(float(line[name])) for line in lines), name
    assert float(lines[-1]["reward/hit"]) > float(lines[0]["reward/hit"])
    assert float(lines[0]["kl"]) < float(lines[-1]["kl"])
    total = [float(line["reward/hit"]) + 0.5 * float(line["reward/prefix"]) for line in lines]
    np.testing.assert_allclose([float(line["reward"]) for line in lines], total, atol=1e-6)


def test_its_control_learns_the_same_positions_by_supervision(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained("tokens")
    counts = reinforced(start, tmp_path, **settings | {"objective": "sft", "steps": 30})
    assert chance_of_the_next(tmp_path, start.sids) > chance_of_the_next(start.folder, start.sids) + 0.05
    assert counts["start"]["step"] == 0


def test_the_start_is_kept_where_nothing_was_better(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(functions.REWARDS, "prefix", lambda found: -functions.prefix(found))
    start = trained("position")
    settings |= {"rewards": {"prefix": 1.0}, "steps": 12, "learning_rate": 1e-2}
    counts = reinforced(start, tmp_path, **settings)
    assert counts["validation"]["step"] == 0
    assert (tmp_path / "generator.safetensors").read_bytes() == (start.folder / "generator.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"entropy_share": 0.95}, "entropy fell from"),
        ({"kl": 0.01}, "away from the reference"),
        ({"zero_variance": -0.1}, "all rewards are equal"),
    ],
)
def test_a_stopping_guard_ends_the_training_and_the_best_is_saved(
    limits: dict[str, float],
    told: str,
    trained: Callable[[str], Start],
    settings: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = trained("tokens")
    settings |= {"steps": 60, "stopping_guards": settings["stopping_guards"] | limits}
    counts = reinforced(start, tmp_path, **settings)
    assert told in counts["stopped"]
    assert told in caplog.text
    assert counts["steps"] < 60
    assert (tmp_path / "generator.safetensors").exists()


def test_adapters_are_merged_before_and_after(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained("tokens")
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.5, "targets": []}
    reinforced(start, tmp_path, **settings | {"lora": lora, "steps": 30, "learning_rate": 1e-2})
    assert chance_of_the_next(tmp_path, start.sids) > chance_of_the_next(start.folder, start.sids)


def test_rewards_do_not_change_how_readily_users_choose_again(
    trained: Callable[..., Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained("position", repeats=True, steps=3)
    reinforced(start, tmp_path, **settings | {"steps": 40, "validation": settings["validation"] | {"every": 20}})
    before, after = (load_generator(folder, start.sids).generator.items for folder in (start.folder, tmp_path))
    assert float(before.repeats().detach()) == float(after.repeats().detach()) < 0
    assert not torch.equal(before.leaf_vectors(), after.leaf_vectors())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    weights = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        reinforced(trained("tokens"), tmp_path / name, **settings | {"seed": seed, "steps": 3})
        weights.append((tmp_path / name / "generator.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("objective", ["grpo", "sft"])
def test_where_nothing_was_held_out_for_rl_there_is_nothing_to_ask(
    objective: str, trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.rl_holdout=0") as refused:
        reinforced(replace(trained("tokens"), share=0.0), tmp_path, **settings | {"objective": objective})
    assert "train.rl_holdout=0.2" in refused.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group_size": NUM_ITEMS + 1}, "rl.group_size=13 of a catalogue of 12 items"),
        ({"prompts_per_step": 9}, "rl.prompts_per_step=9 is not divisible by ranks x runtime.micro_batch_size = 1 x 2"),
        ({"rewards": {"hit": 0.0}}, "leaves no reward"),
        ({"prompts_per_step": 6, "runtime": RING_SETTINGS["runtime"] | {"nodes": 2}}, "= 2 x 2"),
        ({"rewards": {"quality_item": 0.5}}, "no quality of the items is known"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    changes: dict[str, Any], told: str, trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        reinforced(trained("tokens"), tmp_path, **settings | changes)


def test_rewards_that_are_all_equal_are_refused(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(functions.REWARDS, "hit", lambda found: np.ones(found.items_BG.shape))
    with pytest.raises(TrainingError, match="in all of 64 groups of 4 candidates all rewards are equal"):
        reinforced(trained("tokens"), tmp_path, **settings | {"rewards": {"hit": 1.0}})


def test_a_policy_of_other_semantic_ids_is_refused(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained("tokens")
    other = SIDTable(start.sids.codes_NL[::-1].copy(), 3, start.dataset.keys, "reassign")
    with pytest.raises(StageError, match="was trained on semantic IDs"):
        reinforced(replace(start, sids=other), tmp_path, **settings)


def test_a_reference_of_another_size_or_tokenizer_is_refused(
    trained: Callable[[str], Start], settings: dict[str, Any], tmp_path: Path
) -> None:
    start = trained("tokens")
    small, foreign = tmp_path / "small", tmp_path / "foreign"
    small.mkdir()
    backbone = RING_SETTINGS["backbone"] | {"hidden_size": 16}
    train_ring(start.dataset, {}, start.sids, small, **RING_SETTINGS | {"backbone": backbone, "steps": 1})
    shutil.copytree(start.folder, foreign)
    text = (foreign / "tokenizer.json").read_text()
    (foreign / "tokenizer.json").write_text(text + "\n")
    for folder, told in ((small, "the policy's is"), (foreign, "has another tokenizer")):
        with pytest.raises(ConfigError, match=told):
            reinforced(start, tmp_path, **settings | {"reference": str(folder)})


def test_a_target_outside_the_catalogue_is_refused(trained: Callable[[str], Start]) -> None:
    start = trained("tokens")
    dataset = Dataset(start.dataset.folder)
    dataset.num_items = NUM_ITEMS - 1
    with pytest.raises(DataError, match="target 11 of a catalogue of 11 items"):
        Prompts(dataset, start.share, seed=0)
