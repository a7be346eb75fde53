"""A world whose interests are paraphrases of what texts say: words do not overlap, a trained judge tells them apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from tests.tools import settings_of
from trialign.config.reward import RewardConfig
from trialign.config.runtime import RuntimeConfig
from trialign.enrich.evidence import Evidence
from trialign.errors import ConfigError, DataError
from trialign.generate.tokenizer import TextTokenizer
from trialign.reward import train as reward
from trialign.reward.labels import KINDS, Labels, builtin_labels, corpus_labels
from trialign.reward.model import pretrained_model
from trialign.reward.quality import load_quality
from trialign.reward.train import train_reward

SIGNS = [
    ("hot water inside", "brewing tea"),
    ("thick warm wool", "winter walks"),
    ("sharp steel edge", "slicing bread"),
]
SIGNS += [
    ("soft lamp glow", "reading in bed"),
    ("fits any wheel", "fixing bikes"),
    ("smells of pine", "cleaning floors"),
]
NUM_ITEMS = 150
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "judge": None,
    "cache": "",
    "model": None,
    "lora": None,
    "tiny": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "vocab_size": 400, "num_pairs": 0},
    "max_tokens": 32,
    "held_out": 0.2,
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "weight_decay": 0.01,
}


def rewarded(catalogue: Any, evidence: Evidence, folder: Path, *, seed: int, **settings: Any) -> dict[str, Any]:
    """Train by settings as plain mappings."""
    runtime = RuntimeConfig(accelerator="cpu")
    return train_reward(catalogue, evidence, folder, settings_of(RewardConfig, settings), runtime, seed=seed)


class Catalogue(NamedTuple):
    items: pa.Table
    num_items: int

    def truth(self) -> dict[str, list[str | None]]:
        return {}


def world() -> tuple[Catalogue, Evidence]:
    signs = [SIGNS[item % len(SIGNS)] for item in range(NUM_ITEMS)]
    titles, texts = [f"thing {item}" for item in range(NUM_ITEMS)], [sign for sign, _ in signs]
    # Every tenth item has no interests, every seventh a wrong one next to its own.
    interests = [[] if item % 10 == 9 else [wanted] for item, (_, wanted) in enumerate(signs)]
    for item in range(0, NUM_ITEMS, 7):
        if interests[item]:
            interests[item].append(SIGNS[(item + 1) % len(SIGNS)][1])
    confidences = [[1.0] * len(found) for found in interests]
    return Catalogue(pa.table({"title": titles, "description": texts}), NUM_ITEMS), Evidence([], interests, confidences)


def test_labels_hold_every_own_interest_and_never_call_it_bad() -> None:
    catalogue, evidence = world()
    labels = builtin_labels(evidence.interests, catalogue.items["description"].to_pylist(), seed=0)
    assert labels.good_M.sum() == sum(map(len, evidence.interests))
    pairs = list(zip(labels.items_M.tolist(), labels.interests, strict=True))
    assert all(
        good == (phrase in evidence.interests[item]) for (item, phrase), good in zip(pairs, labels.good_M, strict=True)
    )
    assert set(labels.kinds_M.tolist()) == set(range(len(KINDS)))
    assert (
        labels.interests == builtin_labels(evidence.interests, catalogue.items["description"].to_pylist(), 0).interests
    )


def test_far_interests_are_those_of_the_farther_half_and_near_ones_of_the_ten_nearest() -> None:
    """Two kinds of text, every item with an interest of its own: near is of its kind, far of the other."""
    texts = ["warm wool scarf"] * 20 + ["steel bread knife"] * 20
    labels = builtin_labels([[f"use {item}"] for item in range(40)], texts, seed=0)
    for name, alike in (("near", True), ("far", False)):
        rows = np.flatnonzero(labels.kinds_M == KINDS.index(name))
        assert len(rows) == 40
        of = np.array([int(labels.interests[row].split()[1]) for row in rows])
        assert (((labels.items_M[rows] < 20) == (of < 20)) == alike).all(), name


def test_an_item_is_none_of_its_ten_neighbours() -> None:
    """Two kinds of eleven items: near are the ten others of its kind, every one of them."""
    texts = ["warm wool scarf"] * 11 + ["steel bread knife"] * 11
    labels = builtin_labels([[f"use {item} {number}" for number in range(60)] for item in range(22)], texts, seed=0)
    rows = np.flatnonzero(labels.kinds_M == KINDS.index("near"))
    for item in range(22):
        of = {int(labels.interests[row].split()[1]) for row in rows if labels.items_M[row] == item}
        assert of == set(range(item // 11 * 11, item // 11 * 11 + 11)) - {item}


def test_a_title_does_not_give_away_the_purpose_of_a_description_of_the_corpus() -> None:
    labels, texts = corpus_labels(1280, [f"title {number}" for number in range(8)], seed=0)  # as many as purposes
    assert labels.good_M.sum() == len(texts) == 1280
    purposes = dict(zip(labels.items_M[labels.good_M].tolist(), labels.interests, strict=False))
    known: dict[str, set[str]] = {}
    titled = [item for item, text in enumerate(texts) if text.startswith("title ")]
    for item in titled:
        known.setdefault(texts[item].splitlines()[0], set()).add(purposes[item])
    assert {len(found) for found in known.values()} == {8}
    assert len(titled) == pytest.approx(640, abs=100)  # the others are alone
    assert all(
        phrase != purposes[item] for item, phrase in list(zip(labels.items_M, labels.interests, strict=True))[1280:]
    )


def test_it_beats_both_baselines_on_items_it_has_not_seen(tmp_path: Path) -> None:
    catalogue, evidence = world()
    counts = rewarded(catalogue, evidence, tmp_path, **SETTINGS)
    record = json.loads((tmp_path / "reward.json").read_text())
    assert counts["auc"] > 0.85
    for baseline in ("interest_only", "overlap"):
        assert record["model"]["auc"]["far"] > record[baseline]["auc"]["far"] + 0.1, baseline
    assert record["model"]["ece"] < 0.15
    quality = load_quality(tmp_path)
    none = np.array([not found for found in evidence.interests])
    wrong = np.array([len(found) == 2 for found in evidence.interests])
    assert (quality[none] == 0).all()
    assert quality[wrong].mean() < quality[~none & ~wrong].mean()
    assert (tmp_path / "reward.safetensors").exists()
    assert "Reliability" in (tmp_path / "reward.html").read_text()


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("adapted", [False, True])
def test_an_encoder_or_decoder_by_path_is_trained_whole_or_by_adapters(
    kind: str, adapted: bool, tmp_path: Path
) -> None:
    catalogue, evidence = world()
    tokenizer = TextTokenizer.train(catalogue.items["description"].to_pylist(), vocab_size=400)
    tokenizer.save(tmp_path / "tokenizer.json")
    model = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<|pad|>").save_pretrained(model)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    more = {"num_key_value_heads": 2, "head_dim": 8} if kind == "qwen3" else {}
    config = AutoConfig.for_model(kind, vocab_size=tokenizer.size, max_position_embeddings=64, **sizes, **more)
    AutoModel.from_config(config).save_pretrained(model)
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": []} if adapted else None
    (tmp_path / "out").mkdir()
    settings = SETTINGS | {"model": str(model), "lora": lora, "epochs": 1}
    counts = rewarded(catalogue, evidence, tmp_path / "out", **settings)
    assert counts["held_out"] > 0
    trained = load_file(tmp_path / "out" / "reward.safetensors")
    before = AutoModel.from_pretrained(model).state_dict()
    assert {name for name in trained if name.startswith("encoder.")} == {f"encoder.{name}" for name in before}
    changed = {name for name, found in before.items() if not torch.equal(trained[f"encoder.{name}"], found)}
    attention = {name for name in before if "attention.self" in name or "self_attn" in name}
    assert changed & attention
    tables = {name for name in before if "embed" in name and name.endswith("weight") and "Norm" not in name}
    assert tables
    if adapted:
        assert not changed & tables  # merged into matrices; the rest is as it came
    else:
        assert changed & tables
    with pytest.raises(ConfigError, match=r"set reward\.max_tokens=64|reward\.max_tokens=65"):
        pretrained_model(str(model), lora=None, max_tokens=65, seed=0)


def test_what_is_held_out_is_neither_trained_on_nor_calibrated_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, evidence = world()
    read: dict[str, list[set[int]]] = {"trained": [], "scored": []}
    fit, score, calibrate = reward._fit, reward.score_pairs, reward._calibrate

    def fitted(scorer: Any, reader: Any, labels: Labels, *more: Any, **settings: Any) -> None:
        read["trained"].append(set(labels.items_M.tolist()))
        fit(scorer, reader, labels, *more, **settings)

    def scored(scorer: Any, reader: Any, labels: Labels, *more: Any) -> Any:
        read["scored"].append(set(labels.items_M.tolist()))
        return score(scorer, reader, labels, *more)

    def calibrated(logits: Any, good: Any) -> Any:
        read["calibrated"] = [read["scored"][-1]]
        return calibrate(logits, good)

    for name, found in (("_fit", fitted), ("score_pairs", scored), ("_calibrate", calibrated)):
        monkeypatch.setattr(reward, name, found)
    counts = rewarded(catalogue, evidence, tmp_path, **SETTINGS | {"epochs": 1})
    known = [item for item in range(NUM_ITEMS) if evidence.interests[item]]
    (train,), (calibration,) = read["trained"], read["calibrated"]
    test = set(known) - train - calibration
    assert len(test) == len(calibration) == round(0.2 * len(known))
    assert not train & calibration
    assert test in read["scored"]
    assert counts["held_out"] > len(test)


def test_interests_that_nobody_mined_or_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    catalogue, _ = world()
    for evidence, told in (
        (Evidence([], [], []), "0 of 0 items have interests"),
        (Evidence([], [["good"]] * NUM_ITEMS, [[1.0]] * NUM_ITEMS), "all items have the same interests"),
    ):
        with pytest.raises(DataError, match=told):
            rewarded(catalogue, evidence, tmp_path, **SETTINGS)


def test_a_model_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformers cannot open reward"):
        pretrained_model(str(tmp_path / "nothing"), lora=None, max_tokens=32, seed=0)
