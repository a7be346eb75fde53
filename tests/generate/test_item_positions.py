"""The encoding `position`: one softmax over the trie, whatever level is modelled jointly, and a search that agrees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trialign.decode.beam import beam_search
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.errors import ConfigError
from trialign.generate.encodings.build import build_items
from trialign.generate.encodings.position import PositionRows
from trialign.generate.loss import autoregressive_loss
from trialign.generate.model import Generator
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import TrainedGenerator, load_generator, save_generator
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM, Items

HISTORIES: list[Items] = [np.array(items, dtype=np.int32) for items in ([3], [], [0, 5, 5, 9, 11, 2], [7, 1])]
JOINT = (0, 6, 11, 12)
"""Largest softmax: below every level, then the first, the second, the leaves (12 items)."""


@pytest.fixture
def make(make_generator: Callable[..., Generator]) -> Callable[[int], Generator]:
    features_NF = torch.randn(12, 7, generator=torch.Generator().manual_seed(5))

    def built(joint_nodes: int) -> Generator:
        options = {
            "encoding": "position",
            "id_embedding": True,
            "joint_nodes": joint_nodes,
            "features_NF": features_NF,
            "read_scale": 3.0,
        }
        return make_generator(options=options)

    return built


@pytest.fixture
def positions(tokenizer: TextTokenizer) -> Template:
    tasks = ["history_to_item", "title_to_item", "item_to_title"]
    return Template(tokenizer, PositionRows(tokenizer.size), tasks, max_title_tokens=16)


def item_log_probs(generator: Generator, prompts: list[np.ndarray]) -> torch.Tensor:
    """Every item's log-probability by the loss that training takes, one example at a time."""
    scores = torch.empty(len(prompts), 12)
    for row, prompt in enumerate(prompts):
        for item in range(12):
            tokens = torch.from_numpy(np.append(prompt, generator.text_vocab + item))[None]
            targets = torch.zeros_like(tokens, dtype=torch.bool)
            targets[0, -1] = True
            groups = generator(tokens, torch.arange(tokens.shape[1])[None], targets, torch.zeros_like(tokens))
            scores[row, item] = -autoregressive_loss(groups, 1).total
    return scores


@pytest.mark.parametrize("joint_nodes", JOINT)
def test_items_have_a_distribution_and_the_search_finds_it(
    joint_nodes: int, make: Callable[[int], Generator], positions: Template, index: PrefixIndex
) -> None:
    generator = make(joint_nodes).eval()
    prompts = [positions.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        trained_BN = item_log_probs(generator, prompts)
        found = beam_search(generator.items.scorer(generator, prompts), index, num_beams=12)
    torch.testing.assert_close(trained_BN.exp().sum(dim=1), torch.ones(len(prompts)))
    wanted, order = trained_BN.sort(dim=1, descending=True)
    torch.testing.assert_close(found.scores, wanted, atol=1e-4, rtol=0)
    assert (found.items == order).all()


@pytest.mark.parametrize(("joint_nodes", "num_beams"), [(0, 12), (6, 12), (11, 12), (12, 12), (12, 2), (11, 4)])
@pytest.mark.parametrize("one_for_all", [True, False])
def test_the_ranking_of_what_is_in_stock_is_that_of_all_items_without_the_others(
    joint_nodes: int,
    num_beams: int,
    one_for_all: bool,
    make: Callable[[int], Generator],
    positions: Template,
    index: PrefixIndex,
) -> None:
    generator = make(joint_nodes)
    ranker = GeneratorRanker(generator, positions, index, num_beams=num_beams, max_history=6, batch_size=3)
    stock_UN = np.random.default_rng(joint_nodes).random((len(HISTORIES), 12)) < 0.6
    if num_beams == 4:  # fewer items than beams, more nodes than beams
        stock_UN = stock_UN & (np.arange(12) % 4 == 0)
    stock = stock_UN[0] if one_for_all else stock_UN
    exclude = [np.array(items, np.int32) for items in ([1, 2], [], [5, 11], [0])]
    k = num_beams if joint_nodes < 12 else 12
    items_UK, scores_UK = ranker.rank(HISTORIES, k, exclude=exclude, stock=stock)

    prompts = [positions.history_prompt(history) for history in HISTORIES]
    everything = torch.arange(12).expand(len(prompts), -1)
    with torch.no_grad():
        wanted_UN = generator.score_candidates(prompts, Trie.from_index(index), everything).log_probs_BG.numpy().copy()
    wanted_UN[~np.broadcast_to(stock, wanted_UN.shape)] = -np.inf
    for user, excluded in enumerate(exclude):
        wanted_UN[user, excluded] = -np.inf
    order_UK = np.argsort(-wanted_UN, axis=1)[:, :k]
    best_UK = np.take_along_axis(wanted_UN, order_UK, axis=1)
    np.testing.assert_array_equal(items_UK, np.where(best_UK == -np.inf, NO_ITEM, order_UK))
    np.testing.assert_allclose(scores_UK, best_UK, atol=1e-4)


def test_one_softmax_is_ranked_exactly_and_as_by_an_exhaustive_search(
    make: Callable[[int], Generator], positions: Template, index: PrefixIndex
) -> None:
    generator = make(12).eval()
    assert generator.items.one_softmax
    assert not make(11).items.one_softmax
    ranker = GeneratorRanker(generator, positions, index, num_beams=1, max_history=6, batch_size=3)
    items_UK, scores_UK = ranker.rank(HISTORIES, 14, exclude=None)
    prompts = [positions.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        found = beam_search(generator.items.scorer(generator, prompts), index, num_beams=14)
    np.testing.assert_array_equal(items_UK, found.items)
    np.testing.assert_allclose(scores_UK, found.scores, atol=1e-5)
    assert (ranker.rank_prompts(prompts, 10) == items_UK[:, :10]).all()


def test_a_prefix_has_the_probability_of_what_lies_below(
    make: Callable[[int], Generator], positions: Template, sids: SIDTable
) -> None:
    generator = make(12).eval()
    prompts = [positions.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        first_BK = generator.items.scorer(generator, prompts).start().exp()
        items_BN = item_log_probs(generator, prompts).exp()
    for code in range(5):
        below = torch.from_numpy(sids.codes_NL[:, 0] == code)
        torch.testing.assert_close(first_BK[:, code], items_BN[:, below].sum(dim=1))


def test_an_item_is_read_by_its_own_codes_features_and_number(make: Callable[[int], Generator], sids: SIDTable) -> None:
    items = make(6).items
    features_NF = torch.randn(12, 7, generator=torch.Generator().manual_seed(5))
    for item in range(12):
        codes_LD = items.code_embedding(torch.arange(3), torch.tensor(sids.codes_NL[item].tolist()))
        own_D = items.ids.weight[items.leaf_of_item_N[item]]
        wanted = 3.0 * (codes_LD.sum(dim=0) + own_D + items.project(features_NF[item]))
        torch.testing.assert_close(items.embed(torch.tensor(items.text_vocab + item)), wanted)


def test_the_joint_level_is_the_deepest_that_has_room(make: Callable[[int], Generator]) -> None:
    levels = make(12).items.search_vectors()
    assert [len(nodes_SD) for nodes_SD in levels] == [12]  # the items themselves
    assert len(make(11).items.search_vectors()) > 1


def test_a_nodes_vector_is_the_mean_of_the_items_below_it(
    make: Callable[[int], Generator], index: PrefixIndex, sids: SIDTable
) -> None:
    items = make(0).items
    with torch.no_grad():
        leaves_ND, levels = items.leaf_vectors(), items.search_vectors()
    codes_NL = sids.codes_NL[index.items.numpy()]  # in the order of the trie
    assert len(levels) == codes_NL.shape[1]
    for depth, nodes_SD in enumerate(levels, start=1):
        _, first, owner_N = np.unique(codes_NL[:, :depth], axis=0, return_index=True, return_inverse=True)
        assert (np.diff(first) > 0).all()
        wanted = [leaves_ND[torch.from_numpy(owner_N.ravel() == node)].mean(dim=0) for node in range(len(first))]
        torch.testing.assert_close(nodes_SD, torch.stack(wanted))
    assert len(levels[0]) < len(leaves_ND)


@pytest.mark.parametrize("joint_nodes", JOINT)
def test_every_parameter_learns(joint_nodes: int, make: Callable[[int], Generator], positions: Template) -> None:
    generator = make(joint_nodes)
    tokens = torch.from_numpy(np.append(positions.history_prompt(HISTORIES[2]), [4, 5]))[None]
    groups = generator(tokens, torch.arange(tokens.shape[1])[None], tokens > 3, torch.zeros_like(tokens))
    autoregressive_loss(groups, 1).total.backward()
    assert not [name for name, found in generator.named_parameters() if found.grad is None]
    still = {name for name, found in generator.named_parameters() if not found.grad.any()}
    # Under a prefix with one child nothing is asked, so its query has a gradient of zero.
    assert not {name for name in still if not name.startswith("items.queries.")}


@pytest.mark.parametrize("joint_nodes", JOINT)
def test_reads_back_what_was_saved(
    joint_nodes: int, make: Callable[[int], Generator], positions: Template, sids: SIDTable, tmp_path: object
) -> None:
    generator = make(joint_nodes).eval()
    save_generator(tmp_path, TrainedGenerator(generator, positions, 6), sids)  # type: ignore[arg-type]
    loaded = load_generator(tmp_path, sids)  # type: ignore[arg-type]
    prompts = [positions.history_prompt(history) for history in HISTORIES]
    with torch.no_grad():
        before, after = (item_log_probs(found.eval(), prompts) for found in (generator, loaded.generator))
    assert torch.equal(before, after)


def test_what_only_positions_can_read_is_refused_for_tokens(sids: SIDTable) -> None:
    with pytest.raises(ConfigError, match=r"train\.items\.encoding=position"):
        build_items(
            sids,
            torch.zeros(30, 16),
            seed=0,
            encoding="tokens",
            id_embedding=True,
            joint_nodes=0,
            features_NF=None,
        )


def test_before_it_learns_a_level_asks_with_what_was_read(make: Callable[[int], Generator]) -> None:
    query = make(0).items.queries[0]
    hidden_MD = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    for parameter in query.change.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(query(hidden_MD), torch.nn.functional.layer_norm(hidden_MD, (16,)))


def test_a_prefix_that_is_unlikely_is_not_raised(
    make: Callable[[int], Generator], positions: Template, sids: SIDTable
) -> None:
    generator = make(12).eval()
    with torch.no_grad():
        generator.items.queries[0].norm.weight *= 2.0  # sure of itself
        prompts = [positions.history_prompt(HISTORIES[0])]
        first_K = generator.items.scorer(generator, prompts).start()[0]
        items_N = item_log_probs(generator, prompts)[0]
    wanted = [items_N[torch.from_numpy(sids.codes_NL[:, 0] == code)].logsumexp(dim=0) for code in range(5)]
    assert -60.0 < min(wanted) < -12.0
    torch.testing.assert_close(first_K, torch.stack(wanted), atol=1e-3, rtol=1e-3)
