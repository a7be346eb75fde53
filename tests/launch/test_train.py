"""`trialign train` with a language model named by path: its content belongs to the stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.errors import StageError
from trialign.manifest import Manifest
from trialign.runtime.transformers import AutoConfig, AutoModelForCausalLM

TINY = ["data.num_items=64", "data.num_users=60", "embed.text.dim=8", "embed/image=none", "quantize.codebook_size=8"]


def save_model(folder: Path, seed: int) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("llama", vocab_size=256, max_position_embeddings=512, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def test_a_model_with_other_content_is_another_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model(model, seed=0)
    run = [f"run={tmp_path / 'run'}", *TINY]
    for verb in ("prepare", "embed", "quantize", "assign"):
        script(verb)(compose(verb, [*run, "runtime.progress=false"]))
    asked = ["train/backbone=pretrained", f"train.backbone.model={model}", "train/lora=lora", "train.steps=1"]
    train = script("train")
    assert train(compose("train", [*run, *asked])).built
    assert not train(compose("train", [*run, *asked])).built
    counts = Manifest.read(tmp_path / "run" / "train").counts
    assert counts["trained"] < counts["parameters"]
    save_model(model, seed=1)
    with pytest.raises(StageError, match=r"source backbone\.model/model\.safetensors has other bytes"):
        train(compose("train", [*run, *asked]))
