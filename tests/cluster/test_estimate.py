"""The estimate: bytes worked by hand, parameters counted without memory, a GPU that is too small."""

from __future__ import annotations

import pytest

from trialign.cluster.estimate import _backbone_parameters, estimate, state_bytes
from trialign.config.compose import compose
from trialign.errors import ConfigError
from trialign.generate.backbone import build_backbone
from trialign.runtime.strategy import STRATEGIES


def test_bytes_per_parameter_by_strategy() -> None:
    assert state_bytes("single", 1) == 4 + 4 + 8
    assert state_bytes("zero1", 4) == 4 + 4 + (4 + 8) / 4
    assert state_bytes("zero2", 4) == 4 + (4 + 4 + 8) / 4
    assert state_bytes("zero3", 8) == (4 + 4 + 8) / 8


def test_every_strategy_has_an_estimate() -> None:
    assert all(state_bytes(strategy, 2) > 0 for strategy in STRATEGIES)


def test_parameters_are_counted_as_they_will_be_made() -> None:
    sizes = {"hidden_size": 64, "num_layers": 3, "num_heads": 4, "intermediate_size": 96, "vocab_size": 500}
    words = [f"train.backbone.{name}={value}" for name, value in sizes.items()]
    config = compose("submit", ["run=/nowhere", *words, "stream.row_tokens=128"])
    model = build_backbone("qwen3", **sizes, dropout=0.0, max_positions=128, seed=0)
    codes = config.quantize["num_levels"] * config.quantize["codebook_size"] * 64
    assert _backbone_parameters(config) == sum(parameter.numel() for parameter in model.parameters()) + codes


def test_hours_follow_from_a_measured_rate() -> None:
    words = ["run=/nowhere", "train.steps=3600", "stream.lanes=8", "stream.row_tokens=1000", "runtime.micro_rows=4"]
    two = ["runtime.devices=2", "runtime.strategy=ddp", "cluster=minicluster", "cluster.tokens_per_second=4000"]
    assert "3,600 steps of 8,000 positions: 1.0 hours" in "\n".join(estimate(compose("submit", [*words, *two])))
    assert "hours are not known" in "\n".join(estimate(compose("submit", words)))
    assert "once the dataset is made" in "\n".join(estimate(compose("submit", words[:1])))


def test_a_state_that_fits_no_gpu_is_refused() -> None:
    words = ["run=/nowhere", "cluster=gpu", "cluster.gpu_memory_gib=0.001", "train.steps=1"]
    with pytest.raises(ConfigError, match=r"for its state alone, a GPU has 0\.001"):
        estimate(compose("submit", words))
