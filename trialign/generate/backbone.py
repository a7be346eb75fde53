"""The decoder language model inside the generator: built from scratch, refused if packed rows leak into each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trialign.errors import ConfigError, suggest
from trialign.runtime.seeding import derive

_BRANCH_ENDS = ("o_proj", "down_proj", "c_proj")
"""The last linear layer of an attention or feed-forward branch, as the supported architectures call it."""


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
    for name, module in backbone.named_modules():
        if dropout and name.endswith(_BRANCH_ENDS):
            module.register_forward_hook(partial(_drop, dropout))
    return backbone


def require_isolation(backbone: PreTrainedModel) -> None:
    """Refuse an architecture whose packed examples see each other.

    Two examples share a row as they do in training (restarted positions, no mask, no cache). The first is changed; the
    second must not notice, and must read as it does alone.

    Raises:
        ConfigError: it notices.
    """
    table = text_table(backbone)
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
