"""Every family of decoders is right or refused by its name before any work: packed, searched, dropped from, read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from tests.tools import train_ring
from trialign.config.train import ConfigFileConfig, ItemsConfig, ScratchConfig, TrainConfig
from trialign.data.dataset import Dataset
from trialign.decode.step import Beams
from trialign.errors import ConfigError
from trialign.generate.backbone import backbone_from_file, build_backbone, embedding_scale, run_backbone, text_table
from trialign.generate.build import TrainingData, build_generator
from trialign.generate.encodings.tokens import CachedScorer
from trialign.generate.model import Generator
from trialign.generate.save_load import load_ranker
from trialign.generate.template import Template
from trialign.semid.table import SIDTable
from trialign.types import Items

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
LATENT = {
    "head_dim": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

SOUND: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {"sliding_window": None},
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "gpt_neox": {},
    "gemma": {},
    "stablelm": {},
    "starcoder2": {},
    "olmo2": {},
    "glm4": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "smollm3": {},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
    "deepseek_v3": LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
}
"""Families and what their config says next to the sizes."""

REFUSED: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("mistral", "a window"): ({"sliding_window": 8}, "last 8 tokens"),
    ("qwen2", "windows in some layers"): (
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "last 8 tokens",
    ),
    ("phi3", "a window"): ({"sliding_window": 8, "pad_token_id": 0}, "last 8 tokens"),
    ("gemma2", "windows"): ({"sliding_window": 8}, "last 8 tokens"),
    ("gemma3_text", "windows"): ({"sliding_window": 8}, "last 8 tokens"),
    ("cohere2", "windows"): ({"sliding_window": 8}, "last 8 tokens"),
    ("cohere", "scaled logits"): ({}, "scaled or capped"),
    ("granite", "scaled logits"): ({"logits_scaling": 8.0}, "scaled or capped"),
    ("opt", "a leak"): ({"word_embed_proj_dim": 16, "ffn_dim": 32}, "changes with its neighbour"),
    ("qwen3_next", "a recurrent state"): (EXPERTS, "qwen3_next: "),
    ("mamba", "no attention"): ({}, "does not support an attention implementation"),
}
"""Families and faults: what the config says, and what the refusal does."""


def written(folder: Path, family: str, more: dict[str, Any]) -> str:
    """Write a config.json of a tiny model."""
    config = AutoConfig.for_model(family, **SIZES | more)
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict() | {"model_type": family}))
    return str(folder)


@pytest.mark.parametrize("family", SOUND)
def test_a_sound_family_searches_as_it_reads_and_drops_from_every_branch(
    family: str, tmp_path: Path, make_generator: Callable[..., Generator], template: Template
) -> None:
    sizes: dict[str, Any] = {"vocab_size": template.tokenizer.size, "max_positions": 64, "seed": 0}
    backbone = backbone_from_file(ConfigFileConfig(0.5, written(tmp_path, family, SOUND[family])), **sizes)
    generator = make_generator(backbone=backbone).eval()
    space = generator.items.space
    prompts = [template.history_prompt(np.array(history, np.int32)) for history in ([3, 1, 4], [5], [])]
    codes_BW = torch.tensor([[0, 4], [1, 1], [3, 2]])

    def uncached(prompt: np.ndarray, codes: list[int]) -> torch.Tensor:
        tokens = torch.cat([torch.from_numpy(prompt), space.encode(torch.tensor(codes, dtype=torch.int64))])
        hidden_TD = generator.hidden(tokens[None], torch.arange(len(tokens))[None])[0]
        return generator.items.code_head(hidden_TD[-1], len(codes))

    with torch.no_grad():
        scorer = CachedScorer(generator, generator.items, prompts)
        first = torch.stack([uncached(prompt, []) for prompt in prompts])
        torch.testing.assert_close(scorer.start(), first, atol=1e-4, rtol=1e-4)
        found = scorer.advance(Beams(codes_BW, codes_BW, torch.zeros(codes_BW.shape), torch.zeros_like(codes_BW)))
        rows = zip(prompts, codes_BW.tolist(), strict=True)
        second = torch.stack([torch.stack([uncached(prompt, [code]) for code in codes]) for prompt, codes in rows])
        torch.testing.assert_close(found, second, atol=1e-4, rtol=1e-4)
    read = torch.randn(1, 4, 16), torch.arange(4)[None]
    dropped = [branch for branch in backbone.modules() if branch._forward_hooks]
    assert len(dropped) == 2 * SIZES["num_hidden_layers"], "attention and feed-forward of every layer"
    backbone.train()
    for branch in dropped:
        hooks = {other: dict(other._forward_hooks) for other in dropped if other is not branch}
        for other in hooks:
            other._forward_hooks.clear()
        with torch.no_grad():
            told = [run_backbone(backbone, *read) for _ in range(4)]
        assert any(not torch.equal(told[0], again) for again in told[1:])
        for other, removed in hooks.items():
            other._forward_hooks.update(removed)


@pytest.mark.parametrize("family", ["phi", "gpt_neox", "gemma", "mixtral"])
def test_a_sound_family_trains_and_ranks(
    family: str, tmp_path: Path, dataset: Dataset, table: SIDTable, settings: dict[str, Any]
) -> None:
    settings["backbone"] = {"file": written(tmp_path, family, SOUND[family]), "dropout": 0.1, "vocab_size": 300}
    train_ring(dataset, {}, table, tmp_path, **settings | {"steps": 4})
    ranker = load_ranker(tmp_path, table, num_beams=12, batch_size=4, device=torch.device("cpu"))
    histories: list[Items] = [np.array([3, 4], np.int32), np.array([], np.int32)]
    items_UK, scores_UK = ranker.rank(histories, 12, exclude=None)
    assert [sorted(row) for row in items_UK.tolist()] == [list(range(12))] * 2
    np.testing.assert_allclose(np.exp(scores_UK).sum(axis=1), 1.0, rtol=1e-4)


@pytest.mark.parametrize(("family", "fault"), REFUSED)
def test_what_would_be_wrong_is_refused_by_name_while_building(family: str, fault: str, tmp_path: Path) -> None:
    more, told = REFUSED[family, fault]
    with pytest.raises(ConfigError) as refused:
        backbone_from_file(
            ConfigFileConfig(0.1, written(tmp_path, family, more)), vocab_size=300, max_positions=64, seed=0
        )
    assert told in str(refused.value)
    assert family in str(refused.value)


@pytest.mark.parametrize("family", ["gemma", "llama"])
@pytest.mark.parametrize("encoding", ["tokens", "position"])
def test_codes_are_read_as_long_as_text_is(
    family: str, encoding: str, tmp_path: Path, dataset: Dataset, table: SIDTable
) -> None:
    settings = TrainConfig(
        backbone=ConfigFileConfig(0.0, written(tmp_path, family, {}), 300), items=ItemsConfig(encoding, joint_nodes=0)
    )
    data = TrainingData(dataset, table, max_history=8)
    generator, _ = build_generator(data, settings, ["history_to_item"], seq_len=64, seed=0)
    with torch.no_grad():
        text = generator.backbone.get_input_embeddings()(torch.arange(200)).norm(dim=1).mean()
        items = generator.items.embed(torch.arange(9) + generator.text_vocab).norm(dim=1).mean()
    # At a position is the sum of three codes, and from scratch a table that also answers is read sqrt(D) longer.
    longer = 1.0 if encoding == "tokens" else 3**0.5 * (4.0 if family == "llama" else 1.0)
    assert items / text == pytest.approx(longer, rel=0.15)
    assert embedding_scale(generator.backbone) == pytest.approx(4.0 if family == "gemma" else 1.0)


def test_dropout_by_structure_is_what_dropout_at_the_ends_was() -> None:
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 32}
    for architecture in ("qwen3", "gpt2"):
        built, plain = (
            build_backbone(
                ScratchConfig(dropout, architecture, **sizes), vocab_size=300, max_positions=16, seed=0
            ).train()
            for dropout in (0.5, 0.0)
        )
        for name, module in plain.named_modules():
            if name.endswith(("o_proj", "down_proj", "c_proj")):
                module.register_forward_hook(lambda _module, _inputs, output: torch.dropout(output, 0.5, train=True))
        told = []
        for backbone in (built, plain):
            torch.manual_seed(1)
            told.append(backbone.base_model(inputs_embeds=text_table(backbone)[None, :8]).last_hidden_state)
        assert torch.equal(*told)
