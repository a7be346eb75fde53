"""Save and load a trained generator: weights as safetensors, everything else as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model

from trialign.decode.index import PrefixIndex
from trialign.errors import DataError, StageError
from trialign.foreign import parse_json
from trialign.generate.backbone import backbone_from_config, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.model import AddedTokens, Generator, text_vectors
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.runtime.transformers import AutoConfig
from trialign.semid.table import SIDTable

_FORMAT = 3
_HEADER, _WEIGHTS, TOKENIZER = "generator.json", "generator.safetensors", "tokenizer.json"


class TrainedGenerator(NamedTuple):
    """A loaded generator, its template, and the longest history it was trained on."""

    generator: Generator
    template: Template
    max_history: int


def save_generator(folder: Path, trained: TrainedGenerator, sids: SIDTable) -> None:
    """Write `generator.safetensors`, `generator.json` and `tokenizer.json`; `sids` are those it was trained on."""
    generator, template, max_history = trained
    folder.mkdir(parents=True, exist_ok=True)
    save_model(generator, str(folder / _WEIGHTS))
    template.tokenizer.save(folder / TOKENIZER)
    header = {
        "format": _FORMAT,
        "sids": sids.digest,
        "items": generator.items.settings,
        "tasks": template.tasks,
        "max_title_tokens": template.max_tokens["title"],
        "max_caption_tokens": template.max_tokens["caption"],
        "max_history": max_history,
        "dropout": generator.dropout,
        "own_tokens": template.tokenizer.own,
        "backbone": generator.backbone.config.to_diff_dict(),
    }
    (folder / _HEADER).write_text(json.dumps(header, indent=2) + "\n")


def load_ranker(
    folder: Path, sids: SIDTable, *, num_beams: int, batch_size: int, device: torch.device | str
) -> GeneratorRanker:
    """Return a ranker with the generator in `folder`; errors as `load_generator` and `GeneratorRanker`."""
    trained = load_generator(folder, sids)
    return GeneratorRanker(
        trained.generator,
        trained.template,
        PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size),
        num_beams=num_beams,
        max_history=trained.max_history,
        batch_size=batch_size,
        device=device,
    )


def load_generator(folder: Path, sids: SIDTable) -> TrainedGenerator:
    """Read what `save_generator` wrote.

    Args:
        folder: a finished train stage.
        sids: the semantic IDs to decode its items with; they must be those of its training.

    Raises:
        DataError: a file is missing or of another format.
        StageError: it was trained on other semantic IDs.
    """
    try:
        header = parse_json((folder / _HEADER).read_text())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']}, this version reads {_FORMAT}")
    except (OSError, ValueError, KeyError) as cause:
        raise DataError(
            f"no generator can be read from {folder}: {cause}",
            rule=f"a folder that `trialign train` finished holds {_HEADER}, {_WEIGHTS} and {TOKENIZER}",
            remedy="name the train folder of a finished run, or run `trialign train` again",
        ) from cause
    if header["sids"] != sids.digest:
        raise StageError(
            f"{folder} was trained on semantic IDs {header['sids'][:12]}, not on {sids.digest[:12]}",
            rule="codes mean what they meant when the generator learned them",
            remedy="use the assign stage it was trained with (from.assign=DIR), or train again",
        )
    backbone = backbone_from_config(AutoConfig.for_model(**header["backbone"]), dropout=header["dropout"], seed=0)
    own_tokens = header.get("own_tokens", [])
    rows = len(text_table(backbone))
    tokenizer = TextTokenizer.load(folder / TOKENIZER, rows if own_tokens else None, own_tokens)
    own = None
    if own_tokens:
        own = AddedTokens(len(own_tokens), text_table(backbone), backbone.get_output_embeddings().weight, seed=0)
    items = header["items"]
    width = items.pop("feature_dim")
    features_NF = torch.zeros(len(sids.codes_NL), width) if width else None  # these are in the weights file
    encoding = build_items(sids, text_vectors(backbone, own), seed=0, features_NF=features_NF, **items)
    generator = Generator(backbone, encoding, dropout=header["dropout"], own=own)
    load_model(generator, folder / _WEIGHTS)
    limits = {name: header[name] for name in ("max_title_tokens", "max_caption_tokens") if name in header}
    template = Template(tokenizer, encoding.rows, header["tasks"], **limits)
    return TrainedGenerator(generator, template, header["max_history"])
