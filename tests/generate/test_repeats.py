"""The repeat term: what it does to a distribution, and that training and search mean the same by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie, score_items
from trialign.decode.step import Beams
from trialign.generate.encodings.position import PositionRows
from trialign.generate.encodings.repeats import RATE, RepeatTerm, Seen, bias_of
from trialign.generate.encodings.tokens import TokensRows
from trialign.generate.loss import TablePredictions
from trialign.generate.model import Generator
from trialign.generate.softmax import ROWS, Marks, table_cross_entropy
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace

HISTORIES = [np.array(items, dtype=np.int32) for items in ([3], [], [0, 5, 5, 9, 11, 2], [7, 1, 7])]
JOINT = (0, 6, 11, 12)
"""Largest softmax: below every level, then the first, the second, the leaves (12 items)."""
EVERY = pytest.mark.parametrize(("encoding", "joint_nodes"), [("tokens", 0), *(("position", nodes) for nodes in JOINT)])


def biased(generator: Generator, bias: float) -> Generator:
    with torch.no_grad():
        generator.items.repeats.learned.fill_(bias / RATE)
    return generator.eval()


@pytest.fixture
def make(make_generator: Callable[..., Generator]) -> Callable[[str, int], Generator]:
    def built(encoding: str, joint_nodes: int = 12) -> Generator:
        return make_generator(options={"encoding": encoding, "joint_nodes": joint_nodes, "repeats": True})

    return built


@pytest.fixture
def templates(tokenizer: TextTokenizer, sids: SIDTable) -> dict[str, Template]:
    rows = {
        "position": PositionRows(tokenizer.size),
        "tokens": TokensRows(sids.codes_NL, TokenSpace(tokenizer.size, 3, 5)),
    }
    return {name: Template(tokenizer, found, ["history_to_item"], max_title_tokens=16) for name, found in rows.items()}


def distribution(generator: Generator, template: Template, index: PrefixIndex) -> torch.Tensor:
    """Every item's probability after every history, by the search, [4, 12]."""
    prompts = [template.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        found = beam_search(generator.items.scorer(generator, prompts), index, num_beams=12)
    return torch.zeros(4, 12).scatter(1, found.items, found.scores.exp())


@pytest.mark.parametrize("bias", [-3.0, 1.5])
def test_under_one_softmax_seen_items_are_that_much_likelier(
    bias: float, make: Callable[..., Generator], templates: dict[str, Template], index: PrefixIndex
) -> None:
    generator = make("position")
    plain_BN = distribution(biased(generator, 0.0), templates["position"], index)
    found_BN = distribution(biased(generator, bias), templates["position"], index)
    seen_BN = torch.zeros(4, 12)
    for row, history in enumerate(HISTORIES):
        seen_BN[row, history.tolist()] = 1.0
    wanted_BN = plain_BN * (bias * seen_BN).exp()
    torch.testing.assert_close(found_BN, wanted_BN / wanted_BN.sum(dim=1, keepdim=True))
    assert (found_BN[1] == plain_BN[1]).all()  # nothing was seen


@EVERY
def test_whatever_the_levels_a_seen_item_all_but_disappears_and_the_rest_adds_up_to_one(
    encoding: str,
    joint_nodes: int,
    make: Callable[..., Generator],
    templates: dict[str, Template],
    index: PrefixIndex,
) -> None:
    found_BN = distribution(biased(make(encoding, joint_nodes), -40.0), templates[encoding], index)
    torch.testing.assert_close(found_BN.sum(dim=1), torch.ones(4))
    for row, history in enumerate(HISTORIES):
        assert found_BN[row, history.tolist()].sum() < 1e-6  # items that are alone below their prefix too
        others = np.setdiff1d(np.arange(12), history)
        assert (found_BN[row, others.tolist()] > 0).all()


@EVERY
def test_training_learns_the_distribution_that_search_ranks_by(
    encoding: str,
    joint_nodes: int,
    make: Callable[..., Generator],
    templates: dict[str, Template],
    index: PrefixIndex,
) -> None:
    """Two histories in one row: what the other one chose is not seen. Repeated items come after themselves."""
    generator, template = biased(make(encoding, joint_nodes), -2.0), templates[encoding]
    length = template.rows.positions_per_item
    prompts = [template.history_prompt(history) for history in HISTORIES if len(history) > 1]
    tokens_RT = torch.from_numpy(np.concatenate(prompts))[None]
    positions_RT = torch.cat([torch.arange(len(prompt)) for prompt in prompts])[None]
    targets_RT = (tokens_RT >= generator.text_vocab) & (positions_RT > length)
    with torch.no_grad():
        groups = generator(tokens_RT, positions_RT, targets_RT, torch.zeros_like(tokens_RT))[1:]
        ends = [(history[:end], history[end]) for history in HISTORIES for end in range(1, len(history))]
        before, answers = [history for history, _ in ends], torch.tensor([[int(item)] for _, item in ends])
        trie = Trie.from_index(index)
        scorer = generator.items.scorer(generator, [template.history_prompt(history) for history in before])
        if encoding == "position":
            trained = -torch.stack([group.score().losses_M for group in groups]).sum(dim=0)
            torch.testing.assert_close(trained, score_items(scorer, trie, answers).log_probs_BG[:, 0])
            return
        # The loss of `tokens` is over all K codes, so its logits are compared.
        logits_BK = scorer.start()
        parents = torch.zeros_like(answers)
        for level, group in enumerate(groups):
            torch.testing.assert_close(group.logits_MC, logits_BK)
            if level < 2:
                codes, nodes = trie.codes_LN[level][answers], trie.nodes_DN[level + 1][answers]
                logits_BK = scorer.advance(Beams(nodes, codes, torch.zeros_like(answers).float(), parents))[:, 0]


def test_a_prefix_is_marked_when_all_below_it_was_seen() -> None:
    """Items 0 to 4 with codes 00, 01, 10, 20, 21; places 0 and 1."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [2, 0], [2, 1]])
    term = RepeatTerm(Trie.from_index(PrefixIndex.from_codes(codes, 3)))
    pairs = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 4]])
    seen = Seen(*pairs.T, torch.zeros(2, dtype=torch.int64))
    rows, items = term.marked(0, seen)
    # Place 0 saw both items below code 0 and the one below code 1, but not both below code 2; place 1 saw halves.
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == [(0, 0), (0, 2)]
    rows, items = term.marked(1, seen)
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == [tuple(pair) for pair in pairs.tolist()]


@pytest.mark.parametrize("num_rows", [1, 2 * ROWS + 7])
def test_the_bias_is_learned_as_by_the_full_matrix(num_rows: int) -> None:
    draws = torch.Generator().manual_seed(num_rows)
    queries, table = (torch.randn(size, 8, generator=draws).requires_grad_() for size in (num_rows, 50))
    answers = torch.randint(50, (num_rows,), generator=draws)
    bias = torch.tensor([-1.3], requires_grad=True)
    marked = torch.rand(num_rows, 50, generator=draws) < 0.1
    scored = table_cross_entropy(queries, table, answers, Marks(*torch.nonzero(marked, as_tuple=True), bias))
    losses = functional.cross_entropy(queries @ table.T + bias * marked, answers, reduction="none")
    torch.testing.assert_close(scored.losses_M, losses)
    found = torch.autograd.grad(3.0 * scored.total, (queries, table, bias))
    torch.testing.assert_close(found, torch.autograd.grad(3.0 * losses.sum(), (queries, table, bias)))


@pytest.mark.parametrize("encoding", ["tokens", "position"])
def test_without_the_term_weights_and_figures_are_those_of_a_bias_of_zero(
    encoding: str,
    make: Callable[..., Generator],
    make_generator: Callable[..., Generator],
    templates: dict[str, Template],
    index: PrefixIndex,
) -> None:
    without = make_generator(options={"encoding": encoding, "joint_nodes": 12}).eval()
    generator = biased(make(encoding), 0.0)
    assert {name for name, _ in generator.named_parameters()} - {name for name, _ in without.named_parameters()} == {
        "items.repeats.learned"
    }
    found, wanted = (distribution(one, templates[encoding], index) for one in (generator, without))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("encoding", ["tokens", "position"])
@pytest.mark.parametrize("repeats", [False, True])
def test_a_world_decides_the_sign(
    encoding: str, repeats: bool, make: Callable[..., Generator], templates: dict[str, Template]
) -> None:
    """Users who only ever choose what they chose before, and users who never do."""
    generator, template = make(encoding).train(), templates[encoding]
    draws = np.random.default_rng(0)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.01)
    for _ in range(12):
        orders = [draws.permutation(12)[:6] for _ in range(8)]
        histories = [np.concatenate([order[:3], order[:3] if repeats else order[3:]]) for order in orders]
        tokens_RT = torch.from_numpy(np.stack([template.history_prompt(history) for history in histories]))
        positions_RT = torch.arange(tokens_RT.shape[1]).expand_as(tokens_RT)
        targets_RT = positions_RT > 3 * template.rows.positions_per_item
        groups = generator(tokens_RT, positions_RT, targets_RT, torch.zeros_like(tokens_RT))
        optimizer.zero_grad()
        sum(group.score().total for group in groups[1:]).backward()
        optimizer.step()
    bias = float(generator.items.repeats().detach())
    assert bias > 0.3 if repeats else bias < -0.3


def test_only_the_joint_softmax_is_computed_in_chunks(
    make: Callable[..., Generator], templates: dict[str, Template]
) -> None:
    generator = make("position")
    tokens_RT = torch.from_numpy(templates["position"].history_prompt(HISTORIES[2]))[None]
    positions_RT = torch.arange(tokens_RT.shape[1])[None]
    groups = generator(tokens_RT, positions_RT, positions_RT > 1, torch.zeros_like(tokens_RT))
    (table,) = [group for group in groups if isinstance(group, TablePredictions)]
    seen = [set(HISTORIES[2][:end].tolist()) for end in range(1, 6)]
    assert [int((table.marks.rows_Q == row).sum()) for row in range(5)] == [len(items) for items in seen]


@pytest.mark.parametrize(("encoding", "joint_nodes"), [("tokens", 0), ("position", 6), ("position", 12)])
def test_a_rank_without_an_item_to_predict_has_a_gradient_too(
    encoding: str, joint_nodes: int, make: Callable[..., Generator]
) -> None:
    """Data parallelism waits for the gradient of every parameter on every rank."""
    generator = make(encoding, joint_nodes)
    tokens_RT = torch.arange(1, 7)[None]
    positions_RT = torch.arange(6)[None]
    groups = generator(tokens_RT, positions_RT, positions_RT > 2, torch.zeros_like(tokens_RT))
    sum(group.score().total for group in groups).backward()
    assert generator.items.repeats.learned.grad.tolist() == [0.0]


def test_the_bias_moves_by_units_and_its_gradient_does_not() -> None:
    learned = torch.tensor([0.1], requires_grad=True)
    bias = bias_of(learned)
    assert float(bias.detach()) == pytest.approx(RATE * 0.1)
    assert torch.autograd.grad(bias, learned)[0].item() == 1.0  # the norm of all gradients is clipped
