"""Build or load the decoder language model inside the generator, and check that packed examples stay isolated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from trialign.config.train import ConfigFileConfig, ScratchConfig
from trialign.errors import ConfigError, model_remedy
from trialign.runtime.seeding import derive
from trialign.runtime.transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)

_DROPOUTS = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout", "dropout")
"""What configs call a dropout of their own; ours is the only one that acts."""

_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError)
"""What transformers raises where a model cannot be opened."""


def _llama_family(settings: ScratchConfig, positions: int) -> dict[str, float]:
    return {
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": settings.num_heads,
        "num_key_value_heads": settings.num_heads,
        "head_dim": settings.hidden_size // settings.num_heads,
        "intermediate_size": settings.intermediate_size,
        "max_position_embeddings": positions,
        "attention_dropout": 0.0,
    }


def _gpt2(settings: ScratchConfig, positions: int) -> dict[str, float]:
    return {
        "n_embd": settings.hidden_size,
        "n_layer": settings.num_layers,
        "n_head": settings.num_heads,
        "n_inner": settings.intermediate_size,
        "n_positions": positions,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


ARCHITECTURES: dict[str, Callable[[ScratchConfig, int], dict[str, float]]] = {
    "qwen3": _llama_family,
    "qwen2": _llama_family,
    "llama": _llama_family,
    "gpt2": _gpt2,
}
"""transformers' model types that are tested here, and how each spells its sizes."""


def build_backbone(settings: ScratchConfig, *, vocab_size: int, max_positions: int, seed: int) -> PreTrainedModel:
    """Return a decoder with random weights.

    Args:
        settings: architecture and sizes. Dropout acts on the output of every attention and feed-forward branch, not on
            attention weights, where it would rule out the fused kernel and take twice the time.
        vocab_size: text tokens.
        max_positions: the longest example or prompt.
        seed: of the weights.

    Raises:
        ConfigError: packed examples are not isolated, or the heads do not divide the width.
    """
    architecture, hidden_size, num_heads = settings.architecture, settings.hidden_size, settings.num_heads
    pairs = 2 * num_heads  # rotary embeddings need an even head dimension
    if hidden_size % pairs:
        raise ConfigError(
            f"train.backbone.hidden_size={hidden_size} with num_heads={num_heads}",
            rule="every head has the same width, an even one",
            remedy=f"set train.backbone.hidden_size={max(1, round(hidden_size / pairs)) * pairs}",
        )
    sizes = ARCHITECTURES[architecture](settings, max_positions)
    # Input and output embeddings are tied: titles are short and few, and two tables would learn half as fast.
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": True}
    config = AutoConfig.for_model(architecture, vocab_size=vocab_size, **sizes, **special)
    return backbone_from_config(config, dropout=settings.dropout, seed=seed)


def backbone_from_config(config: PreTrainedConfig, *, dropout: float, seed: int) -> PreTrainedModel:
    """Return the decoder that a transformers config describes, with random weights."""
    require_whole_attention(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "backbone"))
        backbone: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    require_fit(backbone)
    add_dropout(backbone, dropout)
    return backbone


def backbone_from_file(
    settings: ConfigFileConfig, *, vocab_size: int, max_positions: int, seed: int
) -> PreTrainedModel:
    """Return a decoder with random weights in the shape of a transformers config.

    Args:
        settings: the config file, or its folder; the dropouts in the file are set to 0.
        vocab_size: text tokens, in place of the file's.
        max_positions: the longest example or prompt.
        seed: of the weights.

    Raises:
        ConfigError: no such file, not a decoder, too few positions, or as `require_fit`.
    """
    file = settings.file
    if not Path(file).exists():
        raise _unreadable("file", file, "no such file or folder")
    config = _open_config(file, "file")
    config.update({"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None})
    require_positions(config, max_positions)
    try:
        return backbone_from_config(config, dropout=settings.dropout, seed=seed)
    except _FAULTS as cause:
        raise _unfit(config, str(cause).splitlines()[0], "transformers builds it from its config", "choose") from cause


def pretrained_backbone(model: str, *, weights: bool = True) -> tuple[PreTrainedModel, Tokenizer]:
    """Return a pretrained decoder in float32 and its tokenizer.

    The model's generation_config has no effect: nothing here calls `generate`.

    Args:
        model: a folder, or a name on the hub; the environment's offline switches are respected.
        weights: False builds the decoder on the device `meta`, without memory for weights.

    Raises:
        ConfigError: it cannot be loaded, is not a decoder, lacks weights or a fitting tokenizer, or as `require_fit`.
    """
    config = _open_config(model, "model")
    require_whole_attention(config)
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
    # If a tokenizer's files are missing, transformers silently makes one with an empty vocabulary.
    if tokenizer is None or len(reader) <= len(reader.all_special_ids) or len(reader) > rows:
        size = "no fast form" if tokenizer is None else f"{len(reader)} tokens for {rows} rows"
        raise _unreadable("model", model, f"its tokenizer has {size}; tokenizer.json is missing or another model's")
    require_fit(backbone)
    return backbone, tokenizer


def _shapes(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        backbone: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return backbone


def add_dropout(backbone: PreTrainedModel, probability: float) -> None:
    """Add dropout to the output of every attention and feed-forward branch.

    Raises:
        ConfigError: the layers add something else to the hidden states than the outputs of their branches.
    """
    if probability:
        for branch in _branches(backbone):
            branch.register_forward_hook(partial(_drop, probability))


def _branches(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return the residual branches: the children whose outputs are all that a decoder layer adds to the hidden states.

    Names differ between model families, so the test is exact: with zero branch outputs, a layer must be the identity.
    """
    layers = decoder_layers(backbone)
    found = [child for layer in layers for child in layer.children() if any(p.ndim > 1 for p in child.parameters())]
    if text_table(backbone).is_meta:
        return found
    hands_on: list[bool] = []

    def silence(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hands_on.append(_hidden_of(output).shape[-1] == text_table(backbone).shape[1])
        return _with_hidden(output, torch.zeros_like(_hidden_of(output)))

    def compare(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        hands_on.append(torch.equal(args[0] if args else kwargs["hidden_states"], _hidden_of(output)))

    hooks = [branch.register_forward_hook(silence) for branch in found]
    hooks += [layer.register_forward_hook(compare, with_kwargs=True) for layer in layers]
    with _trying(backbone):
        run_backbone(backbone, *_example(backbone))
    for hook in hooks:
        hook.remove()
    if not all(hands_on):
        raise _unfit(
            backbone.config,
            "its layers add more than their attention and feed-forward branches give",
            "dropout acts on all that a layer adds",
            "set train.dropout=0, or choose",
        )
    return found


def require_positions(config: PreTrainedConfig, seq_len: int) -> None:
    """Raise an error if rows are longer than the model's maximum position.

    Raises:
        ConfigError: rows are too long.
    """
    room = config.max_position_embeddings
    if seq_len > room:
        raise ConfigError(
            f"stream.seq_len={seq_len} with a {config.model_type} of {room} positions",
            rule="an example may fill its row, and every place of it needs a position",
            remedy=f"set stream.seq_len={room} or less, and a data.max_history that fits",
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
    """Raise an error if packed examples attend to each other; models on the device `meta` are not checked.

    Two examples share a row as in training (restarted positions, no mask, no cache). Changing the first must not change
    the second, whose hidden states must equal those of the second alone.

    Raises:
        ConfigError: they are not isolated.
    """
    table = text_table(backbone)
    if table.is_meta:
        return
    draws = torch.Generator().manual_seed(0)
    example_TD, one_TD, other_TD = torch.randn(3, 4, table.shape[1], generator=draws).to(table)
    positions_T = torch.arange(4, device=table.device)
    with _trying(backbone):
        packed_RTD = torch.stack([torch.cat([one_TD, example_TD]), torch.cat([other_TD, example_TD])])
        packed = run_backbone(backbone, packed_RTD, torch.cat([positions_T, positions_T]).expand(2, -1))[:, 4:]
        alone = run_backbone(backbone, example_TD[None], positions_T[None])
    if not torch.allclose(packed, alone.expand_as(packed), atol=1e-4, rtol=1e-4):
        kind = backbone.config.model_type
        raise ConfigError(
            f"{kind}: a packed example changes with its neighbour by up to {(packed - alone).abs().max():.2g}",
            rule="examples packed into one row do not see each other",
            remedy="choose another architecture: " + ", ".join(ARCHITECTURES),
        )


def require_fit(backbone: PreTrainedModel) -> None:
    """Raise an error if a model lacks what training or search needs; checked by forward passes on a tiny example.

    Raises:
        ConfigError: packed examples are not isolated, cached search differs from a pass over the whole example, or the
            logits are not the output of its head.
    """
    if text_table(backbone).is_meta:  # on the device `meta` there are no weights to check
        return
    require_isolation(backbone)
    _require_cached_search(backbone)
    _require_plain_head(backbone)


def require_whole_attention(config: PreTrainedConfig) -> None:
    """Raise an error for sliding-window attention, since search appends the codes of all beams to one cached prompt.

    Raises:
        ConfigError: a layer has sliding-window attention.
    """
    if any(getattr(layer, "is_sliding", False) for layer in DynamicCache(config=config).layers):
        window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
        raise _unfit(
            config,
            f"some layers see only the last {window} tokens",
            "every layer sees the whole example: the search keeps all beams in one cache",
            "where the window is no shorter than stream.seq_len and all layers have it (mistral, qwen2), set "
            "sliding_window to null in a copy of its config.json, which changes nothing else; otherwise choose",
        )


def _require_cached_search(backbone: PreTrainedModel) -> None:
    """Check cached decoding: read three tokens, then two that both follow them, masked from each other like beams."""
    read_TD, positions_T = (given[0] for given in _example(backbone))
    with _trying(backbone):
        cache = DynamicCache(config=backbone.config)
        run_backbone(backbone, read_TD[None, :3], positions_T[None, :3], cache=cache)
        seen = torch.tensor([[True, True, True, True, False], [True, True, True, False, True]], device=read_TD.device)
        mask = torch.zeros_like(seen, dtype=read_TD.dtype).masked_fill_(~seen, -torch.inf)[None, None]
        places = torch.full((1, 2), 3, device=read_TD.device)
        cached_BD = run_backbone(backbone, read_TD[None, 3:5], places, mask=mask, cache=cache)[0]
        whole_BTD = torch.stack([torch.cat([read_TD[:3], read_TD[last : last + 1]]) for last in (3, 4)])
        whole_BD = run_backbone(backbone, whole_BTD, positions_T[None, :4].expand(2, -1))[:, -1]
    if not torch.allclose(cached_BD, whole_BD, atol=1e-4, rtol=1e-4):
        raise _unfit(
            backbone.config,
            f"a cached search differs from reading the whole example by up to {(cached_BD - whole_BD).abs().max():.2g}",
            "the search reads a prompt once and keeps it",
            "choose",
        )


def _require_plain_head(backbone: PreTrainedModel) -> None:
    read_RTD, positions_RT = _example(backbone)
    with _trying(backbone):
        hidden_RTD = run_backbone(backbone, read_RTD, positions_RT)
        logits = backbone(inputs_embeds=read_RTD, position_ids=positions_RT, use_cache=False).logits
        ours = backbone.get_output_embeddings()(hidden_RTD)  # type: ignore[operator]
    if not torch.allclose(logits, ours, atol=1e-4, rtol=1e-3):
        raise _unfit(
            backbone.config,
            "its logits are not its head's: they are scaled or capped",
            "text is written by the head alone, next to the heads of the codes",
            "choose",
        )


def _example(backbone: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return five input vectors and their positions, [1, 5, D] and [1, 5]."""
    table = text_table(backbone)
    read_TD = torch.randn(5, table.shape[1], generator=torch.Generator().manual_seed(1)).to(table)
    return read_TD[None], torch.arange(5, device=table.device)[None]


@contextmanager
def _trying(backbone: PreTrainedModel) -> Iterator[None]:
    """Run a check in eval mode without gradients; any exception becomes a ConfigError that names the architecture."""
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield
    except ConfigError:
        raise
    except Exception as cause:
        told = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise _unfit(
            backbone.config, told, "a generator reads vectors at given positions, and keeps what it read", "choose"
        ) from cause
    finally:
        backbone.train(was_training)


def _unfit(config: PreTrainedConfig, fault: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{config.model_type}: {fault}", rule=rule, remedy=f"{remedy} another architecture: {', '.join(ARCHITECTURES)}"
    )


def embedding_scale(backbone: PreTrainedModel) -> float:
    """Return the factor by which the model scales its input embeddings: sqrt(D) for Gemma, 1 for most.

    Raises:
        ConfigError: its input vectors are not a multiple of the embedding table's rows.
    """
    table_VD = text_table(backbone).detach()
    if table_VD.is_meta:
        return 1.0
    tokens = torch.arange(min(64, len(table_VD)), device=table_VD.device)
    with torch.no_grad():
        read_VD = backbone.get_input_embeddings()(tokens)
    held_VD = table_VD[tokens]
    scale = float((read_VD * held_VD).sum() / (held_VD * held_VD).sum().clamp(min=1e-12))
    if torch.equal(read_VD, held_VD):
        return 1.0
    if not torch.allclose(read_VD, scale * held_VD, rtol=1e-3, atol=1e-6):
        raise _unfit(
            backbone.config,
            "it reads its tokens otherwise than by their vectors",
            "codes are read as text is",
            "choose",
        )
    return scale


def text_table(backbone: PreTrainedModel) -> torch.Tensor:
    """Return the input embeddings of the text tokens, [V, D]."""
    weight = backbone.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight


def decoder_layers(backbone: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers in their order.

    Raises:
        ConfigError: the model does not have exactly one list of layers.
    """
    stacks = [child for child in backbone.base_model.children() if isinstance(child, nn.ModuleList)]
    if len(stacks) != 1:
        raise _unfit(
            backbone.config, f"it has {len(stacks)} lists of layers", "a decoder is one stack of layers", "choose"
        )
    return list(stacks[0])


class HiddenStates(Protocol):
    """The part of a generator that scoring items needs: its backbone and `hidden`, as in `Generator`."""

    backbone: PreTrainedModel

    def hidden(
        self,
        tokens_RT: torch.Tensor,
        positions_RT: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Return the hidden states [R, T, D]."""
        ...


def run_backbone(
    backbone: PreTrainedModel,
    embeddings_RTD: torch.Tensor,
    positions_RT: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    cache: Any = None,
) -> torch.Tensor:
    """Return the last hidden states, [R, T, D].

    Without a cache, a position of 0 starts a new example. transformers isolates packed examples only if it gets no mask
    and no cache.

    Args:
        backbone: the causal language model; its head is left out.
        embeddings_RTD: inputs.
        positions_RT: place of each input within its example.
        mask: float [R, 1, T, S], added to attention scores; for cached decoding only.
        cache: a transformers cache, extended in place.
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


def _drop(probability: float, module: nn.Module, _inputs: Any, output: Any) -> Any:
    return _with_hidden(output, functional.dropout(_hidden_of(output), probability, module.training))


def _hidden_of(output: Any) -> torch.Tensor:
    """Return the hidden states from a module's output, which may be a tuple with attention weights or router logits."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
