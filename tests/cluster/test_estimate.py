"""The estimate: bytes worked by hand, parameters counted without memory, a GPU that is too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trialign.launch.cli import script
from trialign.launch.doctor import TINY

from trialign.cluster.estimate import _backbone_parameters, _size, estimate, state_bytes
from trialign.config.compose import compose
from trialign.config.runtime import STRATEGIES
from trialign.config.stages import planned
from trialign.config.train import ScratchConfig
from trialign.errors import ConfigError
from trialign.generate.backbone import build_backbone
from trialign.generate.tokenizer import TextTokenizer


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
    config = compose("submit", ["run=/nowhere", *words, "stream.seq_len=128"])
    model = build_backbone(ScratchConfig(**sizes), vocab_size=500, max_positions=128, seed=0)
    codes = config.quantize.num_levels * config.quantize.codebook_size * 64
    assert _backbone_parameters(config) == sum(parameter.numel() for parameter in model.parameters()) + codes


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run whose captions hold words that no other text does, up to its semantic IDs."""
    run = tmp_path_factory.mktemp("captioned")
    catalogue = [
        "enrich/captions=builtin",
        "enrich/clip=storefront",
        "enrich.clip.num_pairs=64",
        "enrich.clip.num_epochs=1",
    ]
    words = [f"run={run}", *TINY, "embed/image=none", *catalogue, "train/tasks=trialigngr8", "train.steps=1"]
    words += ["train.backbone.vocab_size=9000", "train.max_caption_tokens=8", "train.max_title_tokens=8"]
    config = compose("submit", words)
    for verb in planned(config):
        if verb in ("prepare", "enrich", "embed", "quantize", "assign"):
            script(verb)(config)
    return words


BACKBONES = {
    "scratch": [],
    "position": ["train.items.encoding=position", "train.items.id_embedding=true"],
    "features": ["train.items.encoding=position", "train.items.features=[text]"],
    "pretrained": ["train/backbone=pretrained"],
    "adapters": ["train/backbone=pretrained", "train/lora=lora"],
}


def pretrained(folder: Path) -> Path:
    """Save a decoder of 400 rows with a tokenizer of its own."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    more = {"head_dim": 16, "intermediate_size": 64, "vocab_size": 400, "tie_word_embeddings": False}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes, **more)).save_pretrained(folder)
    TextTokenizer.train(["a red cup"], vocab_size=300).save(folder / "its.json")
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "its.json")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", BACKBONES)
def test_what_is_estimated_is_what_is_trained(captioned: list[str], tmp_path: Path, kind: str) -> None:
    """Red: a vocabulary of other texts than the training's, special tokens forgotten next to a pretrained one."""
    words = [*captioned, *BACKBONES[kind]]
    if kind in ("pretrained", "adapters"):
        words = [word for word in words if not word.startswith("train.backbone")]
        words.append(f"train.backbone.model={pretrained(tmp_path)}")
    config = compose("submit", words)
    size = _size(config)
    shared = {verb: config.run for verb in ("prepare", "enrich", "embed", "assign")}
    counts = script("train")(replace(config, run=tmp_path / kind, from_stage=shared)).counts
    assert (size.parameters, size.steps) == (counts["parameters"], counts["steps"])


def test_an_estimate_takes_no_memory_for_the_decoder(captioned: list[str]) -> None:
    """One of 40 billion parameters, on a login node."""
    large = {"hidden_size": 8192, "num_layers": 40, "num_heads": 64, "intermediate_size": 32768}
    words = [word for word in captioned if not word.startswith("train.backbone")]
    config = compose("submit", [*words, *(f"train.backbone.{name}={value}" for name, value in large.items())])
    assert _size(config).parameters > 40e9


def test_hours_follow_from_a_measured_rate() -> None:
    words = [
        "run=/nowhere",
        "train.steps=3600",
        "stream.global_batch_size=8",
        "stream.seq_len=1000",
        "runtime.micro_batch_size=4",
    ]
    two = ["runtime.devices=2", "runtime.strategy=ddp", "cluster=minicluster", "cluster.tokens_per_second=4000"]
    assert "3,600 steps of 8,000 positions: 1.0 hours" in "\n".join(estimate(compose("submit", [*words, *two])))
    assert "hours are not known" in "\n".join(estimate(compose("submit", words)))
    assert "once the dataset is made" in "\n".join(estimate(compose("submit", words[:1])))


def test_a_state_that_fits_no_gpu_is_refused() -> None:
    words = ["run=/nowhere", "cluster=gpu", "cluster.gpu_memory_gib=0.001", "train.steps=1"]
    with pytest.raises(ConfigError, match=r"for its state alone, a GPU has 0\.001"):
        estimate(compose("submit", words))
