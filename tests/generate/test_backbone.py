"""Packed examples are strangers to each other, in every architecture that may be chosen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trialign.config.train import ScratchConfig
from trialign.errors import ConfigError
from trialign.generate.backbone import ARCHITECTURES, build_backbone, require_isolation
from trialign.generate.model import Generator

SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
ROOM = {"vocab_size": 300, "max_positions": 16}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_neighbour_in_the_row_changes_no_logit(architecture: str, make_generator: Callable[..., Generator]) -> None:
    generator = make_generator(architecture).eval()
    draws = torch.Generator().manual_seed(1)
    before, after, example = (torch.randint(generator.items.space.size, (6,), generator=draws) for _ in range(3))
    places = torch.arange(6)

    def logits(*examples: torch.Tensor) -> torch.Tensor:
        """Logits at the last example's positions, text and every level."""
        tokens_RT, positions_RT = torch.cat(examples)[None], places.repeat(len(examples))[None]
        hidden_TD = generator.hidden(tokens_RT, positions_RT)[0, -6:]
        heads = [generator.text_logits(hidden_TD), *(generator.items.code_head(hidden_TD, level) for level in range(3))]
        return torch.cat(heads, dim=1)

    with torch.no_grad():
        alone = logits(example)
        torch.testing.assert_close(logits(before, example), alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits(after, before, example), alone, atol=1e-5, rtol=0)
        # The same tokens without a restart are one example, and must differ: else the test sees nothing.
        joined = generator.hidden(torch.cat([before, example])[None], torch.arange(12)[None])[0, -6:]
        assert (generator.text_logits(joined) - alone[:, : generator.items.space.text_vocab]).abs().max() > 1e-2


def test_an_architecture_that_leaks_is_refused_by_name() -> None:
    config = AutoConfig.for_model(
        "opt",
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=32,
        word_embed_proj_dim=16,
    )
    torch.manual_seed(0)
    leaking = AutoModelForCausalLM.from_config(config)
    for parameter in leaking.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ConfigError, match="opt: a packed example changes with its neighbour"):
        require_isolation(leaking)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size=16 with num_heads=3\n.*\n.*hidden_size=18"):
        build_backbone(ScratchConfig(**{**SIZES, "num_heads": 3}), seed=0, **ROOM)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_seed_decides_the_weights_and_nothing_else_is_drawn(architecture: str) -> None:
    state = torch.get_rng_state()
    one, again, other = (
        build_backbone(ScratchConfig(0.0, architecture, **SIZES), seed=seed, **ROOM) for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    same = zip(one.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in same)
    assert not all(torch.equal(left, right) for left, right in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_acts_inside_the_backbone_while_training_only(architecture: str) -> None:
    backbone = build_backbone(ScratchConfig(0.5, architecture, **SIZES), seed=0, **ROOM)
    inputs = {"inputs_embeds": torch.randn(1, 4, 16), "use_cache": False}
    train = [backbone.train().base_model(**inputs).last_hidden_state for _ in range(2)]
    evaluate = [backbone.eval().base_model(**inputs).last_hidden_state for _ in range(2)]
    assert not torch.equal(*train)
    assert torch.equal(*evaluate)
