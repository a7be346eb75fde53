"""The generator's own parts: codes next to text, and predictions at target positions only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trialign.embed.store import Modality
from trialign.generate.encodings.build import initial_codes, item_features
from trialign.generate.encodings.tokens import CodeEmbedding, CodeHead
from trialign.generate.model import Generator
from trialign.semid.table import SIDTable


def test_embedding_and_head_pick_the_row_of_level_and_code() -> None:
    vectors_LKD = torch.arange(2 * 3 * 4).reshape(2, 3, 4).float()
    embedding, head = CodeEmbedding(vectors_LKD.clone()), CodeHead(vectors_LKD.clone())
    assert embedding(torch.tensor([0, 1]), torch.tensor([2, 1])).tolist() == vectors_LKD[[0, 1], [2, 1]].tolist()
    hidden_MD = torch.eye(4)[:2]
    assert head(hidden_MD, 1).tolist() == vectors_LKD[1, :, :2].T.tolist()


@pytest.mark.parametrize("source", [4, 16, 40])
def test_codes_start_as_the_codebooks_seen_from_another_side(source: int) -> None:
    books_LKD = (
        np.random.default_rng(0).normal(size=(2, 7, source)).astype(np.float32) * np.array([1, 0.01])[:, None, None]
    )
    table_VD = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    codes_LKD = initial_codes(books_LKD.astype(np.float32), (2, 7, 16), table_VD, seed=0)
    torch.testing.assert_close(codes_LKD.norm(dim=-1).mean(dim=-1), table_VD.norm(dim=-1).mean().expand(2))
    if source <= 16:  # no direction is lost: all angles between codes stay
        before = torch.nn.functional.normalize(torch.from_numpy(books_LKD).float(), dim=-1)
        after = torch.nn.functional.normalize(codes_LKD, dim=-1)
        torch.testing.assert_close(after @ after.mT, before @ before.mT, atol=1e-5, rtol=0)
    assert torch.equal(codes_LKD, initial_codes(books_LKD.astype(np.float32), (2, 7, 16), table_VD, seed=0))
    assert not torch.equal(codes_LKD, initial_codes(books_LKD.astype(np.float32), (2, 7, 16), table_VD, seed=1))


def test_without_codebooks_codes_start_at_random_and_as_long(sids: SIDTable) -> None:
    table_VD = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    codes_LKD = initial_codes(None, (3, 5, 16), table_VD, seed=0)
    torch.testing.assert_close(codes_LKD.norm(dim=-1).mean(dim=-1), table_VD.norm(dim=-1).mean().expand(3))


def test_embedding_and_head_of_codes_are_not_tied(make_generator: Callable[..., Generator]) -> None:
    generator = make_generator()
    assert generator.items.code_embedding.weight.data_ptr() != generator.items.code_head.weight.data_ptr()


def test_predictions_equal_projecting_everything(make_generator: Callable[..., Generator]) -> None:
    generator = make_generator().eval()
    space = generator.items.space
    draws = torch.Generator().manual_seed(0)
    tokens_RT = torch.randint(space.text_vocab, (3, 10), generator=draws)
    tokens_RT[:, ::2] = torch.randint(space.text_vocab, space.size, (3, 5), generator=draws)  # SID tokens of all levels
    targets_RT = torch.rand(3, 10, generator=draws) < 0.8
    targets_RT[:, 0] = False
    positions_RT = torch.arange(10).expand(3, -1)
    tasks_RT = torch.arange(3)[:, None].expand(-1, 10)
    groups = generator(tokens_RT, positions_RT, targets_RT, tasks_RT)
    hidden_RTD = generator.hidden(tokens_RT, positions_RT)
    wanted: list[list[tuple[list[float], int, int]]] = [[] for _ in range(4)]
    for row, place in torch.nonzero(targets_RT).tolist():
        token = tokens_RT[row, place]
        level = int(space.level(token)) if token >= space.text_vocab else -1
        before = hidden_RTD[row, place - 1]
        logits = generator.text_logits(before) if level < 0 else generator.items.code_head(before, level)
        answer = token if level < 0 else space.code(token)
        wanted[level + 1].append((logits.tolist(), int(answer), row))
    assert all(wanted)
    for (logits_MC, answers_M, tasks_M), rows in zip(groups, wanted, strict=True):
        torch.testing.assert_close(logits_MC, torch.tensor([row[0] for row in rows]), atol=1e-5, rtol=0)
        assert answers_M.tolist() == [row[1] for row in rows]
        assert tasks_M.tolist() == [row[2] for row in rows]


@pytest.mark.parametrize("kind", ["text", "SID"])
def test_every_parameter_has_a_gradient_though_all_targets_are_of_one_kind(
    kind: str, make_generator: Callable[..., Generator]
) -> None:
    generator = make_generator()
    codes_RT = torch.tensor([[1, 2, 3]])
    tokens_RT = codes_RT if kind == "text" else generator.items.space.encode(codes_RT)
    groups = generator(
        tokens_RT, torch.arange(3)[None], torch.tensor([[False, True, True]]), torch.zeros_like(tokens_RT)
    )
    sum(group.logits_MC.sum() for group in groups).backward()
    assert [name for name, parameter in generator.named_parameters() if parameter.grad is None] == []


def test_dropout_acts_on_inputs_and_outputs_while_training_only(make_generator: Callable[..., Generator]) -> None:
    generator = make_generator()
    generator.dropout = 0.5
    read: list[torch.Tensor] = []
    generator.backbone.base_model.register_forward_pre_hook(
        lambda _module, _inputs, options: read.append(options["inputs_embeds"]), with_kwargs=True
    )
    for training in (True, False):
        written = generator.train(training).hidden(torch.ones(1, 50, dtype=torch.int64), torch.arange(50)[None])
        for vectors in (read.pop(), written):
            assert (vectors == 0).float().mean().item() == pytest.approx(0.5 if training else 0.0, abs=0.1)


def test_features_of_every_modality_are_of_length_one_on_average() -> None:
    """Red: a wide modality that drowns the others, or is drowned by them."""
    draws = torch.Generator().manual_seed(0)
    found = {name: torch.randn(40, dim, generator=draws).numpy() for name, dim in (("text", 64), ("image", 4))}
    modalities = {name: Modality(3.0 * values_ND, np.ones(40, np.bool_)) for name, values_ND in found.items()}
    features_NF = item_features(modalities, ["image", "text"])
    assert features_NF is not None
    for part_NF in features_NF.split([4, 64], dim=1):
        assert part_NF.square().sum(dim=1).mean().item() == pytest.approx(1.0, abs=0.05)
