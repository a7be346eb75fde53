"""The certificate of a bundle, parity.json: what was compared, and prompts with the answers they must get again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trialign.config.export import ExportConfig
from trialign.errors import StageError
from trialign.export.files.replay import TOLERANCE, Prompt, difference
from trialign.export.form import BundleRanker, Comparison, Form, Source
from trialign.files import sha256_of
from trialign.manifest import versions
from trialign.types import NO_ITEM, Items

BEAMS = 50
K = 10
_PROMPTS = 100
_EXHAUSTIVE = 10
_MOST_EXHAUSTIVE = 4096
"""Prompts that are searched with as many beams as items, and the largest catalogue where that is done."""


@dataclass(frozen=True)
class Kept:
    """What weights in bfloat16 keep of the top 10 of the generator: the share of items, and of lists in order."""

    items: float
    order: float


@dataclass(frozen=True)
class Certificate:
    """What parity.json holds.

    Args:
        rows: rows of which every output was compared with the generator's.
        largest_difference: of two outputs.
        prompts: real histories and their answers, which `replay.py` asks for again.
        exhaustive: by number of beams, the share of the exhaustive top 10 that a search with so many finds; empty for
            a catalogue too large to search exhaustively.
        invalid: answers that are no items.
        versions: of what computed.
        digests: of the semantic IDs and of the files of the model.
        bfloat16: what is kept of the answers; None for float32, where all is.
    """

    rows: int
    largest_difference: float
    prompts: list[Prompt]
    exhaustive: dict[str, float]
    invalid: int
    versions: dict[str, str]
    digests: dict[str, str]
    bfloat16: Kept | None = None


def certify(form: Form, source: Source, folder: Path, settings: ExportConfig) -> Certificate:
    """Compare what was written with the generator it was made from.

    Raises:
        StageError: it answers otherwise.
    """
    compared: Comparison = form.compare(source, folder, settings)
    histories = _histories(source)
    excluded = [np.unique(history) if number % 2 else history[:0] for number, history in enumerate(histories)]
    reference, bundle = source.ranker(BEAMS), form.load(folder, num_beams=BEAMS)
    expected = reference.rank(histories, K, exclude=excluded)
    found = bundle.rank_items(histories, K, exclude=excluded)
    unknown = (found[0] < NO_ITEM) | (found[0] >= source.sids.num_items)
    keys, kept = source.dataset.keys, None
    prompts, answers = (
        [_prompt(keys, *one) for one in zip(histories, excluded, *lists, strict=True)] for lists in (expected, found)
    )
    if settings.dtype != "float32":
        kept = _kept(expected[0], found[0])
    elif form.SEARCHES:  # `compare` has shown that the others miss nothing, which may be more than a search finds
        _require_equal(prompts, answers)
    models = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".pt2", ".onnx")]
    return Certificate(
        rows=compared.rows,
        largest_difference=compared.largest_difference,
        prompts=answers,
        exhaustive=_exhaustive(form, source, folder, histories[:_EXHAUSTIVE]),
        invalid=int(unknown.sum()),
        versions=versions(),
        digests={"sids": source.sids.digest} | {path.name: sha256_of(path) for path in models},
        bfloat16=kept,
    )


def _histories(source: Source) -> list[Items]:
    """Return the histories to ask for: none, the longest, then those of held-out users in hash order."""
    held_out = source.dataset.evaluation("test").histories or source.dataset.train_histories()
    longest = max(held_out, key=len)
    return [longest[:0], longest, *held_out[: _PROMPTS - 2]]


def _require_equal(expected: list[Prompt], found: list[Prompt]) -> None:
    answers = ([*zip(prompt.items, prompt.scores, strict=True)] for prompt in found)
    told = [difference(prompt, answer) for prompt, answer in zip(expected, answers, strict=True)]
    if wrong := [one for one in told if one is not None]:
        raise StageError(
            f"the bundle answers {len(wrong)} of {len(told)} histories otherwise than the generator: {wrong[0]}",
            rule=f"in float32 items and scores are the same, within {TOLERANCE}",
            remedy="report this with the config of the base model",
        )


def _kept(expected_BK: np.ndarray, found_BK: np.ndarray) -> Kept:
    pairs = list(zip(expected_BK.tolist(), found_BK.tolist(), strict=True))
    shares = [len(set(one) & set(other)) / len(set(one)) for one, other in pairs]
    return Kept(float(np.mean(shares)), float(np.mean([one == other for one, other in pairs])))


def _prompt(keys: Sequence[str], history: Items, excluded: Items, items: np.ndarray, scores: np.ndarray) -> Prompt:
    there = items != NO_ITEM
    names = [[keys[item] for item in found] for found in (history, excluded, items[there])]
    return Prompt(names[0], names[1], K, names[2], [float(score) for score in scores[there]])


def _exhaustive(form: Form, source: Source, folder: Path, histories: list[Items]) -> dict[str, float]:
    num_items = source.sids.num_items
    if num_items > _MOST_EXHAUSTIVE or not form.SEARCHES:
        return {}
    all_BK, _ = source.ranker(num_items).rank(histories, min(K, num_items), exclude=None)
    shares = {}
    for beams in (K, BEAMS):
        ranker: BundleRanker = form.load(folder, num_beams=beams)
        found_BK, _ = ranker.rank_items(histories, K)
        hits = [
            len(set(one) & set(other)) / len(one) for one, other in zip(all_BK.tolist(), found_BK.tolist(), strict=True)
        ]
        shares[str(beams)] = float(np.mean(hits))
    return shares
