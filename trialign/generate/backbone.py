"""The decoder language model inside the generator: built or loaded, refused if packed rows leak into each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from trialign.errors import ConfigError, model_remedy, suggest
from trialign.runtime.seeding import derive

_BRANCH_ENDS = ("o_proj", "down_proj", "c_proj")
"""The last linear layer of an attention or feed-forward branch, as the supported architectures call it."""

_DROPOUTS = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout", "dropout")
"""What configs call a dropout of their own; ours is the only one that acts."""

_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)
"""What transformers raises where a model cannot be opened."""


def _llama_family(
    hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, positions: int
) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "head_dim": hidden_size // num_heads,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": positions,
        "attention_dropout": 0.0,
    }


def _gpt2(hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, positions: int) -> dict[str, Any]:
    return {
        "n_embd": hidden_size,
        "n_layer": num_layers,
        "n_head": num_heads,
        "n_inner": intermediate_size,
        "n_positions": positions,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


ARCHITECTURES: dict[str, Callable[[int, int, int, int, int], dict[str, Any]]] = {
    "qwen3": _llama_family,
    "qwen2": _llama_family,
    "llama": _llama_family,
    "gpt2": _gpt2,
}
"""transformers' model types that are tested here, and how each spells its sizes."""


def build_backbone(
    architecture: str,
    *,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    dropout: float,
    vocab_size: int,
    max_positions: int,
    seed: int,
) -> PreTrainedModel:
    """Return a decoder with random weights.

    Args:
        architecture: a key of ARCHITECTURES.
        hidden_size: D.
        num_layers: decoder layers.
        num_heads: attention heads, of which D is a multiple.
        intermediate_size: width of the feed-forward branch.
        dropout: probability on what every attention and feed-forward branch adds. On attention weights it would cost
            twice the time (the fused kernel does without) and is left out.
        vocab_size: text tokens.
        max_positions: the longest example or prompt.
        seed: of the weights.

    Raises:
        ConfigError: an unknown architecture, one whose packed rows leak, or a width the heads do not divide.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            f"train.backbone.architecture={architecture}",
            rule="an architecture whose packed rows are tested not to leak",
            remedy=suggest(architecture, ARCHITECTURES),
        )
    if hidden_size % num_heads:
        raise ConfigError(
            f"train.backbone.hidden_size={hidden_size} with num_heads={num_heads}",
            rule="every head has the same width",
            remedy=f"set train.backbone.hidden_size={max(1, round(hidden_size / num_heads)) * num_heads}",
        )
    sizes = ARCHITECTURES[architecture](hidden_size, num_layers, num_heads, intermediate_size, max_positions)
    # One table for reading and writing text: titles are short and few, two tables would learn half as fast.
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": True}
    config = AutoConfig.for_model(architecture, vocab_size=vocab_size, **sizes, **special)
    return backbone_from_config(config, dropout=dropout, seed=seed)


def backbone_from_config(config: PreTrainedConfig, *, dropout: float, seed: int) -> PreTrainedModel:
    """Return the decoder that a transformers config describes, with random weights; arguments as `build_backbone`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "backbone"))
        backbone: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    require_isolation(backbone)
    add_dropout(backbone, dropout)
    return backbone


def described_backbone(file: str, *, dropout: float, vocab_size: int, max_positions: int, seed: int) -> PreTrainedModel:
    """Return a decoder with random weights in the shape of a transformers config.

    Args:
        file: a config.json, or the folder that holds one.
        dropout: as `build_backbone`; the file's own are switched off.
        vocab_size: text tokens, in place of the file's.
        max_positions: the longest example or prompt.
        seed: of the weights.

    Raises:
        ConfigError: no such file, not a decoder's, too few positions, or packed rows leak.
    """
    if not Path(file).exists():
        raise _unreadable("file", file, "no such file or folder")
    config = _open_config(file, "file")
    config.update({"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None})
    require_positions(config, max_positions)
    try:
        return backbone_from_config(config, dropout=dropout, seed=seed)
    except _FAULTS as cause:
        raise _unreadable("file", file, cause) from cause


def pretrained_backbone(model: str, *, weights: bool = True) -> tuple[PreTrainedModel, Tokenizer]:
    """Return a decoder with its weights, in float32, and its tokenizer.

    What the model's generation_config asks for plays no part: nothing here calls `generate`.

    Args:
        model: a folder, or a name on the hub; the environment's offline switches are respected.
        weights: False builds the decoder on the device `meta`: shapes without memory.

    Raises:
        ConfigError: it cannot be loaded, is no decoder, lacks weights, its tokenizer does not fit, or packed rows leak.
    """
    config = _open_config(model, "model")
    try:
        reader = AutoTokenizer.from_pretrained(model)
        loaded: Any = (
            AutoModelForCausalLM.from_pretrained(
                model, config=config, attn_implementation="sdpa", dtype=torch.float32, output_loading_info=True
            )
            if weights
            else (_shapes(config), {"missing_keys": []})
        )
    except _FAULTS as cause:
        raise _unreadable("model", model, cause) from cause
    backbone, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise _unreadable("model", model, f"{len(missing)} weights are missing, the first is {missing[0]}")
    tokenizer = getattr(reader, "backend_tokenizer", None)
    rows = len(text_table(backbone))
    # Where the files of a tokenizer are missing, transformers makes one that knows no word, and says nothing.
    if tokenizer is None or len(reader) <= len(reader.all_special_ids) or len(reader) > rows:
        size = "no fast form" if tokenizer is None else f"{len(reader)} tokens for {rows} rows"
        raise _unreadable("model", model, f"its tokenizer has {size}; tokenizer.json is missing or another model's")
    require_isolation(backbone)
    return backbone, tokenizer


def _shapes(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        backbone: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return backbone


def add_dropout(backbone: PreTrainedModel, probability: float) -> None:
    """Drop from what every attention and feed-forward branch adds, while training."""
    for name, module in backbone.named_modules():
        if probability and name.endswith(_BRANCH_ENDS):
            module.register_forward_hook(partial(_drop, probability))


def require_positions(config: PreTrainedConfig, row_tokens: int) -> None:
    """Refuse rows that are longer than the model knows positions.

    Raises:
        ConfigError: they are.
    """
    room = config.max_position_embeddings
    if row_tokens > room:
        raise ConfigError(
            f"stream.row_tokens={row_tokens} with a {config.model_type} of {room} positions",
            rule="an example may fill its row, and every place of it needs a position",
            remedy=f"set stream.row_tokens={room} or less, and a data.max_history that fits",
        )


def _open_config(source: str, setting: str) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    except _FAULTS as cause:
        raise _unreadable(setting, source, cause) from cause
    if config.is_encoder_decoder:
        raise ConfigError(
            f"train.backbone.{setting}={source} is a {config.model_type}, an encoder with a decoder",
            rule="a generator is a decoder that reads and writes one sequence",
            remedy="choose a decoder of a tested family: " + ", ".join(ARCHITECTURES),
        )
    config.update({name: 0.0 for name in _DROPOUTS if isinstance(getattr(config, name, None), float)})
    return config


def _unreadable(setting: str, source: str, cause: object) -> ConfigError:
    holds = "config.json, weights and tokenizer" if setting == "model" else "a decoder's config.json"
    return ConfigError(
        f"transformers cannot open train.backbone.{setting}={source}: {str(cause).splitlines()[0]}",
        rule=f"it is a folder with {holds}" + (", or a name on the hub" if setting == "model" else ""),
        remedy=model_remedy(source) if setting == "model" else "check the path",
    )


def require_isolation(backbone: PreTrainedModel) -> None:
    """Refuse an architecture whose packed examples see each other; shapes without weights are not looked at.

    Two examples share a row as they do in training (restarted positions, no mask, no cache). The first is changed; the
    second must not notice, and must read as it does alone.

    Raises:
        ConfigError: it notices.
    """
    table = text_table(backbone)
    if table.is_meta:
        return
    draws = torch.Generator().manual_seed(0)
    example_TD, one_TD, other_TD = torch.randn(3, 4, table.shape[1], generator=draws).to(table)
    positions_T = torch.arange(4, device=table.device)
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        packed_RTD = torch.stack([torch.cat([one_TD, example_TD]), torch.cat([other_TD, example_TD])])
        packed = run_backbone(backbone, packed_RTD, torch.cat([positions_T, positions_T]).expand(2, -1))[:, 4:]
        alone = run_backbone(backbone, example_TD[None], positions_T[None])
    backbone.train(was_training)
    if not torch.allclose(packed, alone.expand_as(packed), atol=1e-4, rtol=1e-4):
        kind = backbone.config.model_type
        raise ConfigError(
            f"{kind}: a packed example changes with its neighbour by up to {(packed - alone).abs().max():.2g}",
            rule="examples packed into one row do not see each other",
            remedy="choose another architecture: " + ", ".join(ARCHITECTURES),
        )


def text_table(backbone: PreTrainedModel) -> torch.Tensor:
    """Return the input vectors of the text tokens, [V, D]."""
    weight = backbone.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight


def decoder_layers(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return the layers through which the hidden states pass one after the other."""
    (stack,) = (child for child in backbone.base_model.children() if isinstance(child, nn.ModuleList))
    return list(stack)


def run_backbone(
    backbone: PreTrainedModel,
    embeddings_RTD: torch.Tensor,
    positions_RT: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    cache: Any = None,
) -> torch.Tensor:
    """Return the last hidden states, [R, T, D].

    Without a cache, positions that start again at 0 open a new example; transformers separates them only while it is
    given no mask and told not to cache.

    Args:
        backbone: the causal language model; its head is left out.
        embeddings_RTD: inputs.
        positions_RT: place of each input within its example.
        mask: float [R, 1, T, S], added to attention scores; for cached decoding only.
        cache: transformers' cache, extended in place.
    """
    output = backbone.base_model(
        inputs_embeds=embeddings_RTD,
        position_ids=positions_RT,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def _drop(probability: float, module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return functional.dropout(output, probability, module.training)
