"""Reinforcement learning: rollouts against transformers, and where the time of a step goes.

    python -m benchmarks.rl --data DIR --train RUN/train --json benchmarks/results/rl.json

`--data` holds amazon2014_beauty/sid/letter_release.index.json. The peer draws as most code in the wild does:
`generate(do_sample=True, num_return_sequences=G, prefix_allowed_tokens_fn=...)` over a trie of dicts, same weights.
`--train` names a finished train stage that kept something back; a step of its `rl` is taken apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.decode import DictTrie, extended, random_model, released
from benchmarks.record import Row, add_data, alone, arguments, compare, paired_seconds, record
from trialign.data.dataset import Dataset
from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.generate.save_load import load_generator
from trialign.manifest import Manifest
from trialign.reward.functions import Candidates, score
from trialign.rl.advantage import advantages
from trialign.rl.loss import policy_loss
from trialign.rl.prompts import Prompts
from trialign.rl.reference import frozen_copy
from trialign.rl.rollout import Policy
from trialign.runtime.optim import adamw
from trialign.semid.table import SIDTable
from trialign.semid.tokens import TokenSpace

GROUP = 8
TEXT_VOCAB = 64


def rollouts(codes_NL: np.ndarray, num_prompts: int) -> Row:
    """Candidates per second: G per history of 50 items, distinct ones, and the peer's independent ones."""
    generator, prompts = random_model(codes_NL)
    policy = Policy(generator, prompts, Trie.from_index(PrefixIndex.from_codes(codes_NL, 256)))
    draws = np.random.default_rng(0)
    histories = [draws.integers(len(codes_NL), size=50).astype(np.int32) for _ in range(num_prompts)]
    space = TokenSpace(TEXT_VOCAB, codes_NL.shape[1], 256)
    peer, trie = extended(generator, space), DictTrie(space.encode(codes_NL))
    tokens = torch.from_numpy(np.stack([prompts.history_prompt(history) for history in histories]))
    length, chance = tokens.shape[1], torch.Generator().manual_seed(0)

    def ours() -> Any:
        return policy.draw(histories, GROUP, "distinct", chance)

    def theirs() -> Any:
        return peer.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            top_k=0,
            num_return_sequences=GROUP,
            max_new_tokens=codes_NL.shape[1],
            prefix_allowed_tokens_fn=lambda _, sent: trie.allowed(sent[length:].tolist()),
            renormalize_logits=True,
        )

    our_seconds, their_seconds = (num_prompts * GROUP / taken for taken in paired_seconds(ours, theirs, repeats=3))
    setting = f"{num_prompts} histories of 50, {len(codes_NL):,} items, model 4 x 128, {GROUP} per history"
    return compare("rl.rollout", setting, our_seconds, "generate() with a prefix function", their_seconds, "rollouts/s")


def shares(train: Path, num_prompts: int = 32, uses: int = 2, repeats: int = 5) -> list[Row]:
    """Where the CPU time of a step goes: rollouts, rewards, the reference, the updates."""
    manifest = Manifest.read(train)
    sids = SIDTable.load(Path(manifest.inputs["assign"]["path"]))
    prompts = Prompts(Dataset(Path(manifest.inputs["prepare"]["path"])), manifest.config["train"]["rl_holdout"], seed=0)
    trained, trie = (
        load_generator(train, sids),
        Trie.from_index(PrefixIndex.from_codes(sids.codes_NL, sids.codebook_size)),
    )
    policy = Policy(trained.generator.eval(), trained.template, trie)
    reference = Policy(frozen_copy(trained.generator), trained.template, trie)
    optimizer = adamw(trained.generator, learning_rate=1e-5, weight_decay=0.0)
    seconds = dict.fromkeys(("rollout", "reward", "reference", "update"), 0.0)
    chance = torch.Generator().manual_seed(0)

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        seconds[part] += time.process_time() - begin

    for repeat in range(repeats + 1):
        if repeat == 1:
            seconds = dict.fromkeys(seconds, 0.0)  # the first found caches empty
        asked = prompts.at(np.arange(repeat * num_prompts, (repeat + 1) * num_prompts))
        with timed("rollout"):
            drawn = policy.draw(asked.histories, GROUP, "distinct", chance)
        with timed("reward"):
            found = Candidates(drawn.items_BG.numpy(), asked.targets_B, drawn.log_probs_BG.numpy(), sids.codes_NL, None)
            rewards_BG, _ = score(found, {"hit": 1.0, "prefix": 0.5})
            advantages_BG = torch.from_numpy(advantages(rewards_BG, scale_rewards=True)).float()
        with timed("reference"), torch.no_grad():
            levels = reference.score_candidates(asked.histories, drawn.items_BG).levels
        for _ in range(uses):
            with timed("update"):
                now = policy.score_candidates(asked.histories, drawn.items_BG)
                sums = policy_loss(now, drawn.log_probs_BG, levels, advantages_BG, clip=0.2, kl_weight=1e-3)
                optimizer.zero_grad()
                (sums.total / sums.candidates).backward()
                optimizer.step()
    total = sum(seconds.values())
    setting = f"{num_prompts} prompts x {GROUP}, used {uses} times, CPU seconds of {uses} steps"
    rows = [alone(f"rl.share.{part}", setting, taken / total, "of the time") for part, taken in seconds.items()]
    return [*rows, alone("rl.step", setting, total / repeats / uses, "s of CPU per step")]


def main() -> None:
    """Run what is asked for."""
    parser = arguments(__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--prompts", type=int, default=8, help="histories of rl.rollout")
    parser.add_argument("--train", type=Path, metavar="DIR", help="of rl.share")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes_NL = released(options.data / "amazon2014_beauty/sid/letter_release.index.json")
    rows = [rollouts(codes_NL, options.prompts)]
    if options.train is not None:
        rows += shares(options.train)
    record(rows, options.json)


if __name__ == "__main__":
    main()
