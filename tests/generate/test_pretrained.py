"""A language model by path: its weights, its tokenizer, adapters, and everything that is refused."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from tests.tools import catalogue_texts, run_ranks, train_ring
from trialign.config.train import (
    ConfigFileConfig,
    ItemsConfig,
    LoraConfig,
    PretrainedConfig,
    ScratchConfig,
    TrainConfig,
)
from trialign.data.dataset import Dataset
from trialign.errors import ConfigError
from trialign.generate import train as stage
from trialign.generate.adapters import add_adapters, merge_adapters
from trialign.generate.backbone import ARCHITECTURES, backbone_from_file, pretrained_backbone
from trialign.generate.build import TrainingData, build_generator
from trialign.generate.model import Generator
from trialign.generate.save_load import load_generator, load_ranker
from trialign.generate.task import CatalogueItem
from trialign.generate.tasks import TASKS
from trialign.generate.tokenizer import TextTokenizer
from trialign.runtime import strategy as strategies
from trialign.runtime.notice import PreemptedError
from trialign.semid.table import SIDTable
from trialign.stream.module import TrainedRows

TEXTS = ["thing 1 of many", "a thing that is 2", "<|end|> is text here", "1 2 3 4 5 6 7 8 9 0"]
TASK_NAMES = ["history_to_item", "title_to_item", "item_to_title"]


def tiny_config(architecture: str, vocab_size: int, positions: int = 64) -> Any:
    # What a real config asks for, and must not act here.
    dropouts = {"resid_pdrop": 0.5, "embd_pdrop": 0.5} if architecture == "gpt2" else {"attention_dropout": 0.5}
    shape = ScratchConfig(0.0, architecture, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    sizes = ARCHITECTURES[architecture](shape, positions) | dropouts
    return AutoConfig.for_model(architecture, vocab_size=vocab_size, **sizes, bos_token_id=0, eos_token_id=0)


def save_model(folder: Path, architecture: str, *, spare_rows: int = 5, positions: int = 64) -> Path:
    """Write what a hub holds: a model, a tokenizer without a pad token, and a generation config that asks for much."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # A foreign vocabulary may hold a token spelled like one of ours.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learning = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "<|end|>"], initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(TEXTS, learning)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    assert wrapped.pad_token is None
    wrapped.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(tiny_config(architecture, len(wrapped) + spare_rows, positions))
    model.save_pretrained(folder)
    GenerationConfig(do_sample=True, top_k=3, temperature=0.1, repetition_penalty=9.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def named(architecture: str) -> Path:
        path = folder / architecture
        return path if path.exists() else save_model(path, architecture)

    return named


def rank_all(ranker: Any) -> tuple[np.ndarray, np.ndarray]:
    walks = [np.arange(start, start + 3, dtype=np.int32) % 12 for start in range(12)]
    found: tuple[np.ndarray, np.ndarray] = ranker.rank(walks, 10, exclude=None)
    return found


@pytest.mark.parametrize("encoding", ["tokens", "position"])
@pytest.mark.parametrize("kind", ["scratch", "from_config", "pretrained", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_backbone_and_encoding_learns_and_reads_back_bit_for_bit(
    architecture: str,
    kind: str,
    encoding: str,
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    saved: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lora = None
    if kind == "scratch":
        backbone = settings["backbone"] | {"architecture": architecture}
    elif kind == "from_config":
        backbone = {"file": str(saved(architecture) / "config.json"), "dropout": 0.1, "vocab_size": 300}
    else:
        backbone = {"model": str(saved(architecture)), "dropout": 0.0}
        lora = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": []} if kind == "lora" else None
    kept: list[Generator] = []
    saving = stage.save_generator
    monkeypatch.setattr(stage, "save_generator", lambda *what: (kept.append(what[1].generator), saving(*what)))
    items = {"encoding": encoding, "id_embedding": False, "features": [], "joint_nodes": 6}
    # A task of each kind: of nine, forty steps would hold too little.
    tasks = {"history_to_item": 1.0, "title_to_item": 1.0, "item_to_title": 1.0}
    changes = {"tasks": tasks, "backbone": backbone, "lora": lora, "items": items, "steps": 40, "learning_rate": 3e-3}
    train_ring(dataset, {}, table, tmp_path, **settings | changes)
    with (tmp_path / "log" / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    for task in tasks:
        assert float(log[-1][f"loss/{task}"]) < float(log[0][f"loss/{task}"]), task
    ranker = load_ranker(tmp_path, table, num_beams=10, batch_size=12, device="cpu")
    items_UK, scores_UK = rank_all(ranker)
    ranker.generator = kept[0].eval()
    again_UK, same_UK = rank_all(ranker)
    assert np.array_equal(items_UK, again_UK)
    assert np.array_equal(scores_UK, same_UK)
    assert "temperature" not in (tmp_path / "generator.json").read_text()


def built(
    dataset: Dataset, table: SIDTable, model: Path, *, lora: dict[str, Any] | None = None
) -> tuple[Generator, Any]:
    settings = TrainConfig(
        backbone=PretrainedConfig(0.0, str(model)),
        lora=None if lora is None else LoraConfig(**lora),
        items=ItemsConfig("tokens", joint_nodes=0),
        max_title_tokens=16,
    )
    return build_generator(TrainingData(dataset, table, max_history=8), settings, TASK_NAMES, seq_len=64, seed=0)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_adapters_codes_and_markers_learn_while_base_and_text_rows_keep_every_byte(
    architecture: str,
    dataset: Dataset,
    table: SIDTable,
    settings: dict[str, Any],
    saved: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": []}
    untrained, _ = built(dataset, table, saved(architecture), lora=lora)
    before = {name: parameter.detach().clone() for name, parameter in untrained.named_parameters()}
    after: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        stage, "merge_adapters", lambda backbone: after.update({n: p.clone() for n, p in backbone.named_parameters()})
    )
    monkeypatch.setattr(
        stage,
        "save_generator",
        lambda _folder, trained, _sids: after.update({n: p.clone() for n, p in trained.generator.named_parameters()}),
    )
    backbone = {"model": str(saved(architecture)), "dropout": 0.0}
    counts = train_ring(dataset, {}, table, tmp_path, **settings | {"backbone": backbone, "lora": lora, "steps": 4})
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    base = {name for name in before if name.startswith("backbone.") and "lora_" not in name}
    assert base
    assert not moved & base
    assert moved == set(before) - base
    assert {name.partition(".")[0] for name in moved} == {"backbone", "own", "items"}
    assert counts["trained"] == sum(before[name].numel() for name in moved) < counts["parameters"] / 2


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merged_adapters_say_what_they_said_beside_the_weights(architecture: str, saved: Callable[[str], Path]) -> None:
    backbone, _ = pretrained_backbone(str(saved(architecture)))
    inputs = {"inputs_embeds": torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)), "use_cache": False}
    bare = backbone(**inputs).logits
    names = {name for name, _ in backbone.named_parameters()}
    add_adapters(backbone, LoraConfig(2, 4.0, 0.0), seed=0)
    assert torch.equal(backbone(**inputs).logits, bare), "adapters start at no change"
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    beside = backbone(**inputs).logits
    assert (beside - bare).abs().max() > 0.01
    merge_adapters(backbone)
    assert {name for name, _ in backbone.named_parameters()} == names
    torch.testing.assert_close(backbone(**inputs).logits, beside, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_weights_are_the_folders_and_its_dropout_does_not_act(
    architecture: str, saved: Callable[[str], Path]
) -> None:
    backbone, _ = pretrained_backbone(str(saved(architecture)))
    wanted = AutoModelForCausalLM.from_pretrained(saved(architecture))
    assert all(torch.equal(p, wanted.get_parameter(name)) for name, p in backbone.named_parameters())
    backbone.train()
    tokens = torch.arange(6)[None]
    assert torch.equal(backbone(tokens).logits, backbone(tokens).logits), "a dropout of the model's own acts"


def test_our_tokens_stand_beside_the_models_own(
    saved: Callable[[str], Path], dataset: Dataset, table: SIDTable
) -> None:
    generator, template = built(dataset, table, saved("qwen3"))
    tokenizer: TextTokenizer = template.tokenizer
    rows = len(generator.backbone.get_input_embeddings().weight)
    assert [tokenizer.end, *map(tokenizer.task_token, TASKS)] == list(range(rows, rows + 1 + len(TASKS)))
    assert generator.text_vocab == tokenizer.size == rows + 1 + len(TASKS)
    title = "<|end|> is text here"
    assert max(tokenizer.encode(title)) < rows
    assert tokenizer.decode([tokenizer.task_token("item_to_title"), *tokenizer.encode(title), tokenizer.end]) == title
    example = template.encode(2, CatalogueItem(3, catalogue_texts(["", "", "", title])))
    assert example.tokens[0] == tokenizer.task_token("item_to_title")
    assert example.tokens[-1] == tokenizer.end
    # Codes and our tokens start as long as the model's own vectors are on average.
    norm = generator.backbone.get_input_embeddings().weight.norm(dim=1).mean()
    torch.testing.assert_close(generator.own.embedding.weight.norm(dim=1), norm.expand(1 + len(TASKS)))
    codes_LK = generator.items.code_embedding.weight.view(3, 3, -1).norm(dim=-1)
    torch.testing.assert_close(codes_LK.mean(dim=1), norm.expand(3), atol=1e-3, rtol=1e-3)


def test_a_path_that_is_no_model_is_told_what_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match=r"cannot open train\.backbone\.model=") as raised:
            pretrained_backbone(model)
        assert model in raised.value.remedy
        assert "hf download" not in raised.value.remedy  # a local path is no name on a hub
    with pytest.raises(ConfigError, match="no such file or folder"):
        backbone_from_file(ConfigFileConfig(0.0, str(tmp_path / "nowhere")), vocab_size=300, max_positions=64, seed=0)


def test_missing_weights_are_never_made_up(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen2")
    broken = AutoModelForCausalLM.from_pretrained(tmp_path)
    state = {name: value for name, value in broken.state_dict().items() if "k_proj" not in name}
    broken.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ConfigError, match=r"weights are missing, the first is .*k_proj"):
        pretrained_backbone(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", spare_rows=-20)
    with pytest.raises(ConfigError, match=r"its tokenizer has \d+ tokens for \d+ rows"):
        pretrained_backbone(str(tmp_path))


def test_a_pretrained_architecture_that_leaks_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, "gpt2")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}
    config = AutoConfig.for_model("opt", vocab_size=310, word_embed_proj_dim=32, max_position_embeddings=64, **sizes)
    leaking = AutoModelForCausalLM.from_config(config)
    for parameter in leaking.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    leaking.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="opt: a packed example changes with its neighbour"):
        pretrained_backbone(str(tmp_path))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    AutoModel.from_config(AutoConfig.for_model("t5", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a t5, an encoder with a decoder"):
        pretrained_backbone(str(tmp_path))


def test_adapters_for_what_is_not_there_list_what_is(saved: Callable[[str], Path]) -> None:
    backbone, _ = pretrained_backbone(str(saved("gpt2")))
    with pytest.raises(ConfigError, match=r"names q_proj") as raised:
        add_adapters(backbone, LoraConfig(2, 4.0, 0.0, ["q_proj", "c_fc"]), seed=0)
    assert "gpt2 has: c_attn, c_fc, c_proj" in raised.value.remedy


def test_rows_longer_than_the_models_positions_are_refused(tmp_path: Path, dataset: Dataset, table: SIDTable) -> None:
    with pytest.raises(ConfigError, match=r"stream\.seq_len=64 with a gpt2 of 32 positions"):
        built(dataset, table, save_model(tmp_path, "gpt2", positions=32))


def test_a_saved_generator_needs_no_base_model(
    tmp_path: Path, dataset: Dataset, table: SIDTable, settings: dict[str, Any]
) -> None:
    model = save_model(tmp_path / "model", "llama")
    backbone = {"model": str(model), "dropout": 0.0}
    train_ring(dataset, {}, table, tmp_path / "train", **settings | {"backbone": backbone, "steps": 1})
    model.rename(tmp_path / "gone")
    header = json.loads((tmp_path / "train" / "generator.json").read_text())
    assert header["backbone"]["model_type"] == "llama"
    assert load_generator(tmp_path / "train", table).generator.own is not None


ADAPTED: dict[str, Any] = {
    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": []},
    "items": {"encoding": "position", "id_embedding": True, "features": [], "joint_nodes": 6},
    "validation": {"every": 4, "users": 0, "num_beams": 10, "patience": 0, "batch_size": 32},
    "steps": 8,
    "learning_rate": 1e-3,
}


def train_on_ranks(
    dataset: Dataset,
    table: SIDTable,
    folder: Path,
    settings: dict[str, Any],
    names: list[str],
    devices: int,
    ask_at: int | None = None,
) -> None:
    """Train by one strategy after the other, to the end or until asked to save and stop after a micro-batch."""
    strategies.LEAST_CUT = 0  # the matrices are small, and are to be cut up nevertheless
    mark = TrainedRows.on_train_batch_end

    def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mark(self, trainer, module, outputs, batch, batch_idx)
        if batch_idx == ask_at:
            os.kill(os.getpid(), signal.SIGUSR1)

    TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    for strategy in names:
        (folder / strategy).mkdir(exist_ok=True)
        runtime = settings["runtime"] | {"strategy": strategy, "devices": devices, "micro_batch_size": 1}
        with contextlib.suppress(PreemptedError):
            train_ring(dataset, {}, table, folder / strategy, **settings | {"runtime": runtime})


def require_alike(folder: Path, names: Sequence[str]) -> None:
    wanted = load_file(folder / "single" / "generator.safetensors")
    for strategy in names:
        found = load_file(folder / strategy / "generator.safetensors")
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


def test_adapters_under_strategies_that_cut_parameters_up_on_any_number_of_ranks(
    dataset: Dataset, table: SIDTable, settings: dict[str, Any], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Frozen parameters are cut up too, and what is merged and saved is what one process saves.

    Interrupted on two ranks, one continues. Red: adapters that begin anew, moments that do.
    """
    settings |= ADAPTED | {"backbone": {"model": str(saved("qwen2")), "dropout": 0.0}}
    given, moved = (dataset, table, tmp_path, settings), (dataset, table, tmp_path / "moved", settings)
    assert run_ranks(train_on_ranks, 1, *given, ["single"], 1) == [0]
    assert run_ranks(train_on_ranks, 2, *given, ["fsdp2", "zero3"], 2) == [0, 0]
    require_alike(tmp_path, ["fsdp2", "zero3"])
    (tmp_path / "moved").mkdir()
    assert run_ranks(train_on_ranks, 2, *moved, ["zero2", "zero3"], 2, 3 * 2) == [0, 0]  # asked in step 4
    assert {path.name for path in moved[2].glob("*/checkpoints/step-*.json")} == {"step-00000005.json"}
    assert run_ranks(train_on_ranks, 1, *moved, ["zero2", "zero3"], 1) == [0]
    (tmp_path / "single").rename(tmp_path / "moved" / "single")
    require_alike(tmp_path / "moved", ["zero2", "zero3"])
