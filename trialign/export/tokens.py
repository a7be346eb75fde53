"""The form of the encoding `tokens`: a plain causal language model in the layout of transformers.

The ids of the exported model are those of the generator: text table | added tokens | L x K codes. Between the tokens
of a pretrained vocabulary and the end of its padded table lie fillers, so that no id moves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer

from trialign.config.export import ExportConfig
from trialign.errors import ConfigError, StageError
from trialign.export import files
from trialign.export.files import generate
from trialign.export.form import BundleRanker, Comparison, Source, copy_file
from trialign.export.items import read_items, sid_token
from trialign.foreign import Json, parse_json
from trialign.generate.backbone import embedding_scale, text_table
from trialign.generate.encodings.tokens import TokensEncoding
from trialign.generate.model import Generator
from trialign.generate.save_load import TOKENIZER, TrainedGenerator
from trialign.generate.task import ItemTexts
from trialign.generate.tasks import load_task
from trialign.generate.template import Template
from trialign.generate.tokenizer import END, task_token
from trialign.manifest import version_of
from trialign.runtime.transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from trialign.stream.blocks import Records

SEARCHES, LIBRARY, COMPARED = True, "transformers", "rows of all tasks"
_TOLERANCE = 1e-5
_ROWS = 4
"""Rows of every task that are compared."""
_BEAMS, _RETURNED = 50, 10


def facts(trained: TrainedGenerator, settings: ExportConfig) -> dict[str, Json]:
    """Return where the codes begin, what opens a prompt, and the repeat bias."""
    if settings.compile != "none" or settings.onnx:
        raise ConfigError(
            f"export.compile={settings.compile} export.onnx={str(settings.onnx).lower()}",
            rule="a generator of the encoding tokens is searched level by level, which is no one graph",
            remedy="leave both out, or train with train.items.encoding=position",
        )
    generator, template, _ = trained
    backbone, repeats = generator.backbone, generator.items.repeats
    scale = embedding_scale(backbone)
    if scale != 1.0:
        raise _inexact(backbone, f"multiplies its input vectors by {scale:.4g}")
    if getattr(backbone.get_output_embeddings(), "bias", None) is not None:
        raise _inexact(backbone, "adds a bias to the logits of its text, which the codes do not have")
    tokens: dict[str, Json] = {
        "first_code": generator.text_vocab,
        "task_token": template.tokenizer.task_token("history_to_item"),
        "repeat_bias": None if repeats is None else float(repeats().detach()),
    }
    return {"tokens": tokens}


def write(source: Source, folder: Path, settings: ExportConfig) -> None:
    """Write weights, configs, tokenizer and the code that searches."""
    trained = source.load()
    write_tokenizer(source, trained, folder)
    model = language_model(trained.generator, getattr(torch, settings.dtype))
    items = _encoding(trained.generator)
    model.generation_config = GenerationConfig(
        max_new_tokens=items.space.num_levels,
        num_beams=_BEAMS,
        num_return_sequences=_RETURNED,
        do_sample=False,
        length_penalty=0.0,
        renormalize_logits=True,
        pad_token_id=trained.template.tokenizer.end,
        bos_token_id=None,
        eos_token_id=None,
    )
    model.save_pretrained(folder)
    copy_file("generate.py", folder, "custom_generate/generate.py")
    copy_file("trialign_vllm.py", folder, "vllm/trialign_vllm.py")


def language_model(generator: Generator, dtype: torch.dtype) -> PreTrainedModel:
    """Return the generator as one model of transformers, with one table of input and one of output vectors."""
    backbone, items, own = generator.backbone, _encoding(generator), generator.own
    text_head = cast(torch.nn.Module, backbone.get_output_embeddings())
    table_VD = [text_table(backbone), *([own.embedding.weight] if own else []), items.code_embedding.weight]
    head_VD = [cast(torch.Tensor, text_head.weight), *([own.head.weight] if own else []), items.code_head.weight]
    tables = {backbone.get_input_embeddings(): torch.cat(table_VD), text_head: torch.cat(head_VD)}
    weights = dict(backbone.state_dict())
    weights |= {f"{name}.weight": tables[part] for name, part in backbone.named_modules() if part in tables}
    config = type(backbone.config).from_dict(backbone.config.to_dict())
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}
    config.update({"vocab_size": items.space.size, "dtype": dtype, **special})
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    found = {name: weight.detach().to(dtype) for name, weight in weights.items()}
    model.load_state_dict(found, assign=True)
    return model


def write_tokenizer(source: Source, trained: TrainedGenerator, folder: Path) -> None:
    """Write the tokenizer with a token for every row of the table.

    Raises:
        ConfigError: the vocabulary holds one of our names already.
    """
    generator, template, _ = trained
    spec = parse_json((source.folder / TOKENIZER).read_text())
    space, own = _encoding(generator).space, template.tokenizer.own
    held = Tokenizer.from_str(json.dumps(spec)).get_vocab(with_added_tokens=True)
    rows = space.text_vocab - len(own)
    special = [f"<|filler_{number}|>" for number in range(len(held), rows)] + own
    codes = [sid_token(level, code) for level in range(space.num_levels) for code in range(space.codebook_size)]
    if taken := sorted(held.keys() & {*special, *codes}):
        raise ConfigError(
            f"the vocabulary of the model holds {', '.join(taken[:5])}",
            rule="an exported vocabulary gets tokens of these names, and one name cannot be two tokens",
            remedy="train with another train.backbone.model, or with train/backbone=scratch",
        )
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec["added_tokens"] += [
        {"id": len(held) + number, "content": name, **kind, "special": number < len(special)}
        for number, name in enumerate([*special, *codes])
    ]
    # What a post-processor adds, such as BOS, was never trained; a prompt is not cut either.
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False))
    # Classes of transformers that know better than `tokenizer_class` append a token for each of these that is not set.
    special_tokens = dict.fromkeys(("pad_token", "eos_token", "unk_token"), END)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_tokens,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": generator.backbone.config.max_position_embeddings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def compare(source: Source, folder: Path, settings: ExportConfig) -> Comparison:
    """Compare the logits of real rows of every task, and the tokens of every title."""
    generator, template, _ = source.load()
    _compare_titles(folder, template, source.texts["title"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = sample_rows(source, template)
    largest = max(logits_difference(generator.eval(), model, row) for row in rows)
    if settings.dtype == "float32" and not largest <= _TOLERANCE:
        raise StageError(
            f"the logits of the exported {model.config.model_type} differ by up to {largest:.2g}",
            rule=f"in float32 a model that was written and read again has the same logits, within {_TOLERANCE}",
            remedy="report this with the config of the base model; another train.backbone can be exported",
        )
    return Comparison(len(rows), largest)


def sample_rows(source: Source, template: Template) -> list[torch.Tensor]:
    """Return the tokens of a few real examples of every task."""
    texts: ItemTexts = source.texts
    rows = []
    for number, name in enumerate(template.tasks):
        task = load_task(name)
        store = source.dataset.store(task.source)
        records = Records(store.read(0))
        given = (task.given(records[index], texts, 0.5) for index in range(len(records)))
        examples = (template.encode(number, one).tokens for one in given)
        found = (torch.from_numpy(tokens) for tokens in examples if len(tokens))
        rows += [row for _, row in zip(range(_ROWS), found, strict=False)]
    return rows


@torch.inference_mode()
def logits_difference(generator: Generator, model: Any, row: torch.Tensor) -> float:
    """Return the largest difference of a logit, over all tokens and positions of a row."""
    row = row[None, : generator.backbone.config.max_position_embeddings]
    hidden = generator.hidden(row, torch.arange(row.shape[1])[None])
    head = _encoding(generator).code_head
    levels = [head(hidden, level) for level in range(_encoding(generator).space.num_levels)]
    ours = torch.cat([generator.text_logits(hidden), *levels], dim=-1)
    return float((model(input_ids=row, use_cache=False).logits - ours).abs().max())


def load(folder: Path, *, num_beams: int) -> BundleRanker:
    """Return the ranker of a bundle, by trialign's copy of the bundle's code."""
    return generate.load(folder, num_beams=num_beams)


def commands(folder: Path) -> str:
    """Return the part of the README that says how the bundle is loaded."""
    sids = read_items(folder).sids
    keys, codes = sids.item_keys[:2], sids.codes_NL[:2].tolist()
    history = "".join(sid_token(level, code) for item in codes for level, code in enumerate(item))
    text = (Path(files.__path__[0]) / "commands.md").read_text()
    prompt = f"{task_token('history_to_item')}{history}"
    words = {"KEYS": json.dumps(keys), "PROMPT": prompt, "LEVELS": str(sids.num_levels)}
    words |= {"BEAMS": str(_BEAMS), "TWICE": str(2 * _BEAMS), "VERSION": version_of("transformers") or ""}
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text.strip()


def _compare_titles(folder: Path, template: Template, titles: list[str]) -> None:
    """Raise an error if the exported tokenizer splits a title otherwise; one that spells a token is escaped."""
    reader = AutoTokenizer.from_pretrained(folder)
    escaped = generate.text_encoder(reader, generate.Catalogue(folder))
    names = tuple(reader.get_added_vocab())
    for title in titles:
        found = escaped(title) if any(name in title for name in names) else reader(title).input_ids
        expected = template.tokenizer.encode(title)
        if found != expected:
            raise ConfigError(
                f"transformers splits the title {title!r} into {len(found)} tokens, training into {len(expected)}",
                rule=f"AutoTokenizer reads tokenizer.json as it is written, which {type(reader).__name__} of this "
                "model type does not",
                remedy="train with train.backbone.architecture=qwen3, or a pretrained model with its own tokenizer",
            )


def _encoding(generator: Generator) -> TokensEncoding:
    return cast(TokensEncoding, generator.items)


def _inexact(backbone: PreTrainedModel, what: str) -> ConfigError:
    return ConfigError(
        f"a {backbone.config.model_type} {what}",
        rule="what is exported is exact: codes are read and written as text is",
        remedy="train with another train.backbone.model, e.g. a qwen2, qwen3 or llama",
    )
