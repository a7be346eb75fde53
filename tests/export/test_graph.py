"""The graph of the encoding `position` gives the exhaustive ranking, in every form and without trialign."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trialign.config.train import ScratchConfig
from trialign.decode.index import PrefixIndex
from trialign.export.files import rank
from trialign.export.graph import ItemGraph, write_graphs
from trialign.generate.backbone import ARCHITECTURES, build_backbone, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.encodings.position import PositionRows
from trialign.generate.encodings.repeats import RATE
from trialign.generate.model import Generator
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import TrainedGenerator
from trialign.generate.template import Template
from trialign.generate.tokenizer import TextTokenizer
from trialign.semid.table import SIDTable

N, MAX_HISTORY = 24, 6
KEYS = [f"item {number}" for number in range(N)]
JOINT = (0, 8, 20, N)
"""Largest softmax: below every level, then the first, the second, the leaves."""


@pytest.fixture(scope="module")
def sids() -> SIDTable:
    # Half of the items share their first two codes with others, so that no level is without a choice.
    numbers = np.random.default_rng(0).choice(64, size=N, replace=False)
    return SIDTable(np.stack(np.unravel_index(numbers, (4, 4, 4)), axis=1), 4, KEYS, "reassign")


@pytest.fixture(scope="module")
def make(sids: SIDTable) -> Callable[..., TrainedGenerator]:
    tokenizer = TextTokenizer.train(KEYS, vocab_size=300)

    def built(joint_nodes: int = N, architecture: str = "qwen3", repeats: bool = True) -> TrainedGenerator:
        sizes = ScratchConfig(0.0, architecture, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
        backbone = build_backbone(sizes, vocab_size=tokenizer.size, max_positions=16, seed=0)
        items = build_items(
            sids,
            text_table(backbone).detach(),
            seed=0,
            encoding="position",
            id_embedding=True,
            joint_nodes=joint_nodes,
            features_NF=torch.randn(N, 3, generator=torch.Generator().manual_seed(0)),
            read_scale=4.0,
            repeats=repeats,
        )
        generator = Generator(backbone, items, dropout=0.0)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for parameter in generator.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
            if items.repeats is not None:
                items.repeats.learned.fill_(-3.0 / RATE)
        template = Template(tokenizer, PositionRows(tokenizer.size), ["history_to_item"], max_title_tokens=16)
        return TrainedGenerator(generator.eval(), template, MAX_HISTORY)

    return built


def exhaustive(trained: TrainedGenerator, sids: SIDTable) -> GeneratorRanker:
    index = PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size)
    return GeneratorRanker(
        trained.generator, trained.template, index, num_beams=N, max_history=MAX_HISTORY, batch_size=64
    )


def draw(num_users: int, *, longest: int = MAX_HISTORY + 3) -> list[NDArray[np.int32]]:
    """Histories from none to longer than what is read, with items that come again."""
    draws = np.random.default_rng(num_users)
    lengths = draws.integers(0, longest + 1, num_users)
    return [draws.integers(0, N, length).astype(np.int32) for length in lengths]


def require_same(
    found: tuple[NDArray[np.int32], NDArray[np.float32]], wanted: tuple[NDArray[np.int32], NDArray[np.float32]]
) -> None:
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)


def ranker_of(graph: ItemGraph) -> rank.GraphRanker:
    return rank.GraphRanker(rank._of_torch(graph), KEYS, MAX_HISTORY)


@pytest.mark.parametrize(
    ("joint_nodes", "architecture", "repeats"),
    [
        *((joint_nodes, "qwen3", True) for joint_nodes in JOINT),
        *((20, architecture, True) for architecture in ARCHITECTURES if architecture != "qwen3"),
        (N, "qwen3", False),
    ],
)
def test_the_graph_ranks_all_items_as_the_exhaustive_search(
    joint_nodes: int, architecture: str, repeats: bool, make: Callable[..., TrainedGenerator], sids: SIDTable
) -> None:
    trained = make(joint_nodes, architecture, repeats)
    levels = trained.generator.items.joint
    assert levels == JOINT.index(joint_nodes) - (joint_nodes > 0) or joint_nodes == 0
    histories = draw(40)
    wanted = exhaustive(trained, sids).rank(histories, N, exclude=None)
    require_same(ranker_of(ItemGraph(trained)).rank_items(histories, N), wanted)
    np.testing.assert_allclose(np.exp(wanted[1]).sum(axis=1), 1.0, atol=1e-5)


def test_what_may_not_be_recommended_is_left_out_and_the_others_keep_their_scores(
    make: Callable[..., TrainedGenerator], sids: SIDTable
) -> None:
    trained, histories = make(20), draw(9)
    ranker = ranker_of(ItemGraph(trained))
    free_items, free_scores = ranker.rank_items(histories, N)
    draws = np.random.default_rng(3)
    stock = draws.random((9, N)) < 0.4
    stock[0] = False
    exclude = [np.arange(user, dtype=np.int64) for user in range(9)]
    items, scores = ranker.rank_items(histories, 30, exclude=exclude, stock=stock)
    for user in range(9):
        kept = [place for place, item in enumerate(free_items[user]) if stock[user, item] and item >= user]
        assert items[user].tolist() == [*free_items[user, kept], *[rank.NO_ITEM] * (30 - len(kept))]
        np.testing.assert_allclose(scores[user, : len(kept)], free_scores[user, kept], atol=1e-6)
        assert np.isneginf(scores[user, len(kept) :]).all()
    one_for_all = ranker.rank_items(histories, 3, exclude=exclude, stock=stock[1])
    require_same(one_for_all, ranker.rank_items(histories, 3, exclude=exclude, stock=np.tile(stock[1], (9, 1))))


def test_keys_in_keys_out(make: Callable[..., TrainedGenerator]) -> None:
    ranker = ranker_of(ItemGraph(make()))
    items, scores = ranker.rank_items([np.array([3, 5])], 4, exclude=[np.array([3])])
    (found,) = ranker.rank([["item 3", "item 5"]], 4, exclude=[["item 3"]])
    assert found == [(KEYS[item], score) for item, score in zip(items[0], scores[0].tolist(), strict=True)]
    (few,) = ranker.rank([[]], 5, allowed=["item 1", "item 2", "item 4"], blocked=["item 2"])
    assert {key for key, _ in few} == {"item 1", "item 4"}
    assert len(ranker.rank([[]], 1)[0]) == 1
    assert not ranker.rank([], 5)
    with pytest.raises(KeyError, match="no such"):
        ranker.rank([["no such"]])
    with pytest.raises(ValueError, match="k=0"):
        ranker.rank([[]], 0)


@pytest.fixture(scope="module")
def trained(make: Callable[..., TrainedGenerator]) -> TrainedGenerator:
    """One with two levels below the joint one, so that the files hold every kind of level."""
    return make(8)


@pytest.fixture(scope="module")
def bundle(trained: TrainedGenerator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "items").mkdir()
    (folder / "items" / "sids.json").write_text(json.dumps({"keys": KEYS, "max_history": MAX_HISTORY}))
    write_graphs(trained, folder, compiled=False, onnx=find_spec("onnxruntime") is not None)
    return folder


def require_files_agree(ranker: rank.GraphRanker, reference: GeneratorRanker) -> None:
    for num_users in (1, 7, 64, 65):
        for longest in (0, 1, MAX_HISTORY + 3):
            histories = draw(num_users, longest=longest)
            exclude = [history[:2] for history in histories]
            for k in (1, 10):
                found = ranker.rank_items(histories, k, exclude=exclude)
                require_same(found, reference.rank(histories, k, exclude=exclude))


@pytest.mark.parametrize("name", [rank.GRAPH, rank.ONNX])
def test_a_file_answers_every_batch_and_length(
    name: str, bundle: Path, trained: TrainedGenerator, sids: SIDTable, skip_for: Callable[[str, str], None]
) -> None:
    if not (bundle / name).exists():
        skip_for("onnx", "onnxruntime is not installed")
    require_files_agree(rank.load(bundle, name), exhaustive(trained, sids))


@pytest.mark.slow
def test_a_compiled_graph_answers_every_batch_and_length(
    bundle: Path, trained: TrainedGenerator, sids: SIDTable, tmp_path: Path
) -> None:
    (tmp_path / "items").symlink_to(bundle / "items")
    write_graphs(trained, tmp_path, compiled=True, onnx=False)
    (tmp_path / rank.GRAPH).unlink()  # so that the compiled one is what is loaded
    require_files_agree(rank.load(tmp_path), exhaustive(trained, sids))


def test_a_graph_compiled_elsewhere_is_not_run(bundle: Path, tmp_path: Path) -> None:
    for path in bundle.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / rank.COMPILED).write_text("instructions that this processor lacks")
    (tmp_path / rank.COMPILED_FOR).write_text(json.dumps(rank.machine() | {"instructions": "others"}))
    with pytest.warns(UserWarning, match="other processors"):
        ranker = rank.load(tmp_path)
    require_same(ranker.rank_items(draw(3), 5), rank.load(bundle).rank_items(draw(3), 5))


ALONE = """
import json, sys
for name in ("trialign", "transformers", "pyarrow"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import rank
print(json.dumps(rank.load(sys.argv[1]).rank([["item 3", "item 5"], []], 5)))
"""


def test_the_bundle_is_enough(bundle: Path) -> None:
    (bundle / "rank.py").write_text(Path(rank.__file__).read_text())
    done = subprocess.run([sys.executable, "-c", ALONE, str(bundle)], check=True, capture_output=True, text=True)
    wanted = rank.load(bundle).rank([["item 3", "item 5"], []], 5)
    assert json.loads(done.stdout) == [[list(pair) for pair in found] for found in wanted]
