"""The reference policy of the KL term: a frozen copy of the supervised generator, or another one."""

from __future__ import annotations

import copy
from pathlib import Path

from trialign.errors import ConfigError
from trialign.generate.model import Generator
from trialign.generate.save_load import TOKENIZER, load_generator
from trialign.semid.table import SIDTable


def frozen_copy(generator: Generator) -> Generator:
    """Return a frozen copy of the generator."""
    return _frozen(copy.deepcopy(generator))


def load_reference(folder: Path, policy: Generator, start: Path, sids: SIDTable) -> Generator:
    """Return another finished generator as the reference.

    Args:
        folder: a finished train or rl stage.
        policy: the policy to train.
        start: the finished stage that the policy was loaded from.
        sids: the semantic IDs of both.

    Raises:
        StageError: it was trained on other semantic IDs.
        ConfigError: its tokenizer or its size differs.
    """
    other = load_generator(folder, sids).generator
    ours, theirs = (
        {name: tuple(found.shape) for name, found in generator.named_parameters()} for generator in (policy, other)
    )
    odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if odd:
        raise ConfigError(
            f"rl.reference={folder}: {odd[0]} is {theirs.get(odd[0])}, the policy's is {ours.get(odd[0])}",
            rule="policy and reference are one model, apart from what was learned",
            remedy="leave rl.reference at null to stay near the generator that it starts from",
        )
    if (folder / TOKENIZER).read_bytes() != (start / TOKENIZER).read_bytes():
        raise ConfigError(
            f"rl.reference={folder} has another tokenizer than the policy",
            rule="policy and reference read the same tokens",
            remedy="leave rl.reference at null to stay near the generator that it starts from",
        )
    return _frozen(other)


def _frozen(generator: Generator) -> Generator:
    for parameter in generator.parameters():
        parameter.requires_grad = False
    return generator.eval()
