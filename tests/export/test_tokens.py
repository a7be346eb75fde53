"""The encoding `tokens` as a language model of transformers: equal logits, equal tokens, or a refusal by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.export.conftest import MakeSource, write_bundle
from trialign.config.export import ExportConfig
from trialign.errors import ConfigError, StageError
from trialign.export import tokens
from trialign.export.files.generate import Catalogue, text_encoder
from trialign.export.form import Source
from trialign.generate.save_load import TOKENIZER

CASES = [(name, "scratch", True) for name in ("qwen3", "qwen2", "llama", "gpt2")]
CASES += [("qwen3", "pretrained", False), ("qwen3", "lora", True), ("qwen2", "lora", False), ("gpt2", "lora", True)]


@pytest.mark.parametrize(("architecture", "kind", "tied"), CASES)
def test_logits_are_the_generators(
    make_source: MakeSource, tmp_path: Path, architecture: str, kind: str, tied: bool
) -> None:
    """On rows of every task, alone and padded on the left; a base model's own first token is not added."""
    source = make_source(architecture, kind=kind, tied=tied)
    tokens.write(source, tmp_path, ExportConfig())
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    generator, template, _ = source.load()
    rows = tokens.sample_rows(source, template)
    assert len(rows) == 12
    assert max(tokens.logits_difference(generator.eval(), model, row) for row in rows) < 1e-5
    reader = AutoTokenizer.from_pretrained(tmp_path)
    padded = reader.pad({"input_ids": [row.tolist() for row in rows]}, return_tensors="pt")
    positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(**padded, position_ids=positions).logits
        for row, together in zip(rows, logits, strict=True):
            torch.testing.assert_close(together[-len(row) :], model(row[None]).logits[0], atol=1e-4, rtol=1e-4)
    vocabulary = reader.get_vocab()
    assert sorted(vocabulary.values()) == list(range(model.config.vocab_size))
    if architecture == "qwen2":  # whose class splits digits whatever tokenizer.json says
        with pytest.raises(ConfigError, match="transformers splits the title 'thing 0' into"):
            write_bundle(source, tmp_path / "export")
    else:
        assert reader("thing 3").input_ids == template.tokenizer.encode("thing 3")


def test_codes_are_text_that_decoding_keeps(bundle: Path) -> None:
    """As special tokens they would vanish from what a server answers."""
    reader = AutoTokenizer.from_pretrained(bundle)
    ids = reader("<|history_to_item|><a_1><b_2><c_0>").input_ids
    assert len(ids) == 4
    assert reader.decode(ids, skip_special_tokens=True).replace(" ", "") == "<a_1><b_2><c_0>"


def test_a_title_that_spells_tokens_is_read_as_text(source: Source, bundle: Path) -> None:
    reader, tokenizer = AutoTokenizer.from_pretrained(bundle), source.load().template.tokenizer
    encode = text_encoder(reader, Catalogue(bundle))
    for title in ("thing <a_1><b_2>", "<|end|> thing", "thing 7"):
        assert encode(title) == tokenizer.encode(title)
    assert reader("thing <a_1>").input_ids != tokenizer.encode("thing <a_1>")


def test_a_head_with_a_bias_is_refused_by_name(source: Source) -> None:
    trained = source.load()
    trained.generator.backbone.get_output_embeddings().bias = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match="a qwen3 adds a bias to the logits of its text"):
        tokens.facts(trained, ExportConfig())


def test_scaled_inputs_are_refused_by_name(source: Source) -> None:
    trained = source.load()
    trained.generator.backbone.get_input_embeddings().register_forward_hook(lambda *given: given[2] * 2)
    with pytest.raises(ConfigError, match="a qwen3 multiplies its input vectors by 2"):
        tokens.facts(trained, ExportConfig())


def test_a_vocabulary_that_holds_our_names_is_refused_by_name(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source(kind="pretrained", tied=False)
    held = Tokenizer.from_file(str(source.folder / TOKENIZER))
    spec = json.loads(held.to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary["<a_1>"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))
    spec["model"]["merges"].pop()
    (source.folder / TOKENIZER).write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match="the vocabulary of the model holds <a_1>"):
        tokens.write(source, tmp_path, ExportConfig())


def test_other_logits_are_refused_before_there_is_a_manifest(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokens.language_model

    def scaled(*given: Any) -> Any:
        model = made(*given)
        model.get_output_embeddings().weight.data *= 1.001
        return model

    monkeypatch.setattr(tokens, "language_model", scaled)
    with pytest.raises(StageError, match="the logits of the exported qwen3 differ by up to"):
        write_bundle(source, tmp_path / "export")
    assert not (tmp_path / "export" / "manifest.json").exists()


def test_bfloat16_says_what_it_keeps(source: Source, tmp_path: Path) -> None:
    folder = write_bundle(source, tmp_path / "export", "bfloat16")
    kept = json.loads((folder / "parity.json").read_text())["bfloat16"]
    assert 0.5 < kept["items"] <= 1.0
    assert 0.0 <= kept["order"] <= 1.0
    assert f"keep {kept['items']:.1%} of the top 10" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
