"""Constrained decoding against transformers: one step of the search, and whole generation with the same weights.

    python -m benchmarks.decode --data DIR --json benchmarks/results/decode.json
    python -m benchmarks.decode --data DIR --train RUN/train OTHER/train --json benchmarks/results/decode.json

`--data` holds amazon2014_beauty/sid/letter_release.index.json (docs/identifiers.md says where released index files come
from). The peer is transformers' own way: `generate(prefix_allowed_tokens_fn=...)` over a trie of dicts. `--train`
names finished train stages, of whose exhaustive top 10 the share is measured that a narrow search recovers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrefixConstrainedLogitsProcessor

from benchmarks.record import Row, add_data, alone, arguments, compare, paired_seconds, record
from trialign.config.train import ScratchConfig
from trialign.data.dataset import Dataset
from trialign.decode.index import PrefixIndex
from trialign.decode.step import select
from trialign.generate.backbone import build_backbone, text_table
from trialign.generate.encodings.build import build_items
from trialign.generate.encodings.encoding import ItemRows
from trialign.generate.model import Generator
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.save_load import load_ranker
from trialign.manifest import Manifest
from trialign.runtime.transformers import AutoConfig, AutoModelForCausalLM
from trialign.semid.table import SIDTable, flat_codes
from trialign.semid.tokens import TokenSpace

BEAMS = 50
TEXT_VOCAB = 64  # compact: 64 text tokens and 4 x 256 codes make a vocabulary of 1,088


class DictTrie:
    """Which tokens may follow a prefix, as nested dicts: what most code in the wild does."""

    def __init__(self, tokens_NL: np.ndarray) -> None:
        self.root: dict[int, Any] = {}
        for tokens in tokens_NL.tolist():
            node = self.root
            for token in tokens:
                node = node.setdefault(token, {})

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """Return what may come next."""
        node = self.root
        for token in prefix:
            node = node[token]
        return list(node)


def released(path: Path) -> np.ndarray:
    """Return the distinct tuples of a released index file, `{item: ["<a_12>", ...]}`; some items share theirs."""
    index = json.loads(path.read_text())
    return np.unique(
        [[int(token.split("_")[1][:-1]) for token in index[key]] for key in sorted(index, key=int)], axis=0
    )


def generated(num_items: int, num_levels: int, codebook_size: int) -> np.ndarray:
    """Return that many distinct tuples, drawn evenly."""
    draws = np.random.default_rng(0)
    numbers = draws.choice(codebook_size**num_levels, size=num_items, replace=False)
    return np.stack(np.unravel_index(numbers, (codebook_size,) * num_levels), axis=1)


def step_calls(
    codes_NL: np.ndarray, space: TokenSpace, num_users: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return mask and select alone, of all levels in turn: ours and the peer's, over the same beams and scores."""
    index = PrefixIndex.from_codes(codes_NL, space.codebook_size)
    trie = DictTrie(space.encode(codes_NL))
    draws = torch.Generator().manual_seed(0)
    ours, theirs = [], []
    for level in range(codes_NL.shape[1]):
        rows_BW = torch.randint(len(codes_NL), (num_users, BEAMS), generator=draws)
        prefixes_BWl = torch.from_numpy(space.encode(codes_NL))[rows_BW][..., :level]
        nodes_BW = _nodes(codes_NL, level)[rows_BW]
        scores_BW = torch.zeros(num_users, BEAMS)
        logits_BWV = torch.randn(num_users, BEAMS, space.size, generator=draws)
        first = space.text_vocab + level * space.codebook_size
        logits_BWK = logits_BWV[..., first : first + space.codebook_size].contiguous()
        ours.append((scores_BW, nodes_BW, level, logits_BWK, index, BEAMS))
        processor = PrefixConstrainedLogitsProcessor(lambda _, sent: trie.allowed(sent.tolist()), BEAMS)
        theirs.append((processor, prefixes_BWl.flatten(0, 1), logits_BWV.flatten(0, 1), scores_BW))

    def our_step() -> None:
        for call in ours:
            select(*call)

    def their_step() -> None:
        for processor, prefixes, logits, scores_BW in theirs:
            masked = processor(prefixes, logits.log_softmax(-1)).log_softmax(-1)
            totals = masked.view(*scores_BW.shape, -1) + scores_BW[..., None]
            totals.flatten(1).topk(2 * BEAMS, dim=1)

    return our_step, their_step


def compact(codes_NL: np.ndarray) -> Row:
    """One step over LETTER's four-level SIDs of Beauty."""
    space = TokenSpace(TEXT_VOCAB, codes_NL.shape[1], 256)
    our_step, their_step = step_calls(codes_NL, space, num_users=32)
    with torch.inference_mode():
        seconds = paired_seconds(our_step, their_step, repeats=15)
    ours, theirs = (1e3 * taken / codes_NL.shape[1] for taken in seconds)
    setting = f"{len(codes_NL):,} items, 32 x {BEAMS} beams, vocabulary {space.size:,}: mask and select"
    return compare("decode.step.compact", setting, ours, "transformers prefix function, dict trie", theirs, "ms")


def large() -> list[Row]:
    """One step over a generated catalogue with the vocabulary and width of a real language model."""
    codes_NL, num_users, width = generated(47_593, 3, 256), 8, 1024
    space = TokenSpace(152_960 - 3 * 256, 3, 256)
    our_step, their_step = step_calls(codes_NL, space, num_users)
    draws = torch.Generator().manual_seed(1)
    hidden = torch.randn(num_users * BEAMS, width, generator=draws)
    code_head, whole_head = torch.randn(256, width, generator=draws), torch.randn(space.size, width, generator=draws)

    def our_whole() -> None:
        for _ in range(3):
            hidden @ code_head.T
        our_step()

    def their_whole() -> None:
        for _ in range(3):
            hidden @ whole_head.T
        their_step()

    with torch.inference_mode():
        ours, theirs, alone_ours = (
            1e3 * seconds / 3 for seconds in paired_seconds(our_whole, their_whole, our_step, repeats=5)
        )
    setting = f"{len(codes_NL):,} generated items, {num_users} x {BEAMS}, hidden {width:,}, vocabulary {space.size:,}"
    peer = "transformers prefix function, dict trie, one head"
    return [
        compare("decode.step.large", f"{setting}: head, mask and select", ours, peer, theirs, "ms"),
        alone("decode.step.large", f"{setting}: mask and select", alone_ours, "ms"),
    ]


def random_model(codes_NL: np.ndarray) -> tuple[Generator, Prompts]:
    """Return a 4 x 128 model of random weights with the encoding `tokens`, in eval mode, and how it reads histories."""
    sids = SIDTable(codes_NL, 256, [str(item) for item in range(len(codes_NL))], "released", None)
    backbone = build_backbone(
        ScratchConfig(num_layers=4, dropout=0.0),
        vocab_size=TEXT_VOCAB,
        max_positions=256,
        seed=0,
    )
    options: dict[str, Any] = {"encoding": "tokens", "id_embedding": False, "joint_nodes": 0, "features_NF": None}
    items = build_items(sids, text_table(backbone).detach(), seed=0, **options)
    generator = Generator(backbone, items, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return generator, Prompts(items.rows)


def whole(codes_NL: np.ndarray, num_users: int) -> Row:
    """Whole generation after histories of 50 items, by a 4 x 128 model of random weights."""
    generator, prompts = random_model(codes_NL)
    draws = np.random.default_rng(0)
    histories = [draws.integers(len(codes_NL), size=50).astype(np.int32) for _ in range(num_users)]
    ranker = GeneratorRanker(
        generator,
        prompts,
        PrefixIndex.from_codes(codes_NL, 256),
        num_beams=BEAMS,
        max_history=50,
        batch_size=num_users,
    )
    space = TokenSpace(TEXT_VOCAB, codes_NL.shape[1], 256)
    peer = extended(generator, space)
    trie = DictTrie(space.encode(codes_NL))
    tokens = torch.from_numpy(np.stack([prompts.history_prompt(history) for history in histories]))
    length = tokens.shape[1]

    def ours() -> Any:
        return ranker.rank(histories, BEAMS, exclude=None)

    def theirs() -> Any:
        return peer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            do_sample=False,
            max_new_tokens=codes_NL.shape[1],
            prefix_allowed_tokens_fn=lambda _, sent: trie.allowed(sent[length:].tolist()),
            renormalize_logits=True,
            length_penalty=0.0,
            output_scores=True,
            return_dict_in_generate=True,
        )

    found, answer = ours(), theirs()
    _require_equal(found, answer, length, space, codes_NL, num_users)
    our_seconds, their_seconds = paired_seconds(ours, theirs, repeats=3)
    setting = f"{num_users} histories of 50, {len(codes_NL):,} items, model 4 x 128, {BEAMS} beams"
    return compare("decode.generate", setting, our_seconds, "generate() with a prefix function", their_seconds, "s")


def recovered(train: Path, num_users: int) -> list[Row]:
    """The share of the exhaustive top 10 that 10, 20 and 50 beams find, over validation histories."""
    inputs = Manifest.read(train).inputs
    sids = SIDTable.load(Path(inputs["assign"]["path"]))
    histories = Dataset(Path(inputs["prepare"]["path"])).evaluation("validation").histories[:num_users]
    ranker = load_ranker(train, sids, num_beams=len(sids.codes_NL), batch_size=64, device="cpu")
    wanted, _ = ranker.rank(histories, 10, exclude=None)
    rows = []
    for num_beams in (10, 20, 50):
        ranker = load_ranker(train, sids, num_beams=num_beams, batch_size=64, device="cpu")
        found, _ = ranker.rank(histories, 10, exclude=None)
        share = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(wanted, found, strict=True)])
        encoding = ranker.generator.items.name
        setting = f"{encoding}, {len(sids.codes_NL):,} items, {len(histories)} users, {num_beams} beams"
        rows.append(alone("decode.exhaustive", setting, float(share), "of its top 10"))
    return rows


class Prompts:
    """The part of a template that a ranker uses."""

    def __init__(self, rows: ItemRows) -> None:
        self.rows = rows

    def history_prompt(self, items: np.ndarray) -> np.ndarray:
        """Return a task token and the items."""
        return np.concatenate([[1], self.rows.positions(items)])


def extended(generator: Generator, space: TokenSpace) -> Any:
    """Return our weights as a plain language model whose vocabulary holds the codes too."""
    config = AutoConfig.for_model(**generator.backbone.config.to_diff_dict())
    config.vocab_size, config.tie_word_embeddings = space.size, False
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    state = generator.backbone.state_dict()
    text = state.pop("model.embed_tokens.weight")
    state.pop("lm_head.weight", None)
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.cat([text, generator.items.code_embedding.weight]))
        model.lm_head.weight.copy_(torch.cat([text, generator.items.code_head.weight]))
    return model


def _require_equal(
    found: Any, answer: Any, length: int, space: TokenSpace, codes_NL: np.ndarray, num_users: int
) -> None:
    """Stop unless both return the same items with the same scores, up to ties of 1e-5."""
    item_of = {tuple(tokens): item for item, tokens in enumerate(space.encode(codes_NL).tolist())}
    sequences = answer.sequences.view(num_users, BEAMS, -1)[..., length:].tolist()
    scores = answer.sequences_scores.view(num_users, BEAMS).numpy()
    np.testing.assert_allclose(found[1], scores, atol=1e-4)
    for user in range(num_users):
        last = scores[user, -1]
        theirs = {
            item_of[tuple(sequence)]: score for sequence, score in zip(sequences[user], scores[user], strict=True)
        }
        ours = dict(zip(found[0][user].tolist(), found[1][user], strict=True))
        odd = {item: score for item, score in (ours | theirs).items() if (item in ours) != (item in theirs)}
        assert all(abs(score - last) < 1e-5 for score in odd.values()), (user, odd)


def _nodes(codes_NL: np.ndarray, level: int) -> torch.Tensor:
    """Return each item's node at a level."""
    _, nodes_N = np.unique(flat_codes(codes_NL[:, :level], 256), return_inverse=True)
    return torch.from_numpy(nodes_N.astype(np.int64))


def main() -> None:
    """Run all rows."""
    parser = arguments(__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--users", type=int, default=8, help="histories of decode.generate")
    parser.add_argument("--train", type=Path, nargs="*", default=[], metavar="DIR", help="of decode.exhaustive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes_NL = released(options.data / "amazon2014_beauty/sid/letter_release.index.json")
    narrow = [row for train in options.train for row in recovered(train, num_users=200)]
    record([compact(codes_NL), *large(), whole(codes_NL, options.users), *narrow], options.json)


if __name__ == "__main__":
    main()
