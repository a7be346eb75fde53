"""Captions: from the catalogue, from tags of the small CLIP, or parsed from a model's reply."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trialign.config.enrich import TagCaptionsConfig
from trialign.data.dataset import Dataset
from trialign.enrich.evidence import Caption
from trialign.enrich.protocol import Failure, Request
from trialign.enrich.templates import template
from trialign.enrich.words import is_foreign, is_marked_up
from trialign.errors import DataError
from trialign.progress import tracked
from trialign.runtime.seeding import numpy_generator

TEMPLATE = "caption_direct"
NO_PICTURE = "no_picture"
_LONGEST = 500  # characters of one sentence
_BATCH = 256  # pictures per forward pass


def parse_caption(text: str) -> str | Failure:
    """Parse a reply: one plain English sentence, or `empty`, `too_long`, `wrong_shape`, `markup`, `other_language`."""
    lines = text.strip().splitlines()
    if not lines:
        return Failure("empty")
    if len(text) > _LONGEST:
        return Failure("too_long", f"{len(text)} characters")
    told = " ".join(lines[0].split())
    if len(lines) > 1 or told[0] in "{[" or not told.isprintable():
        return Failure("wrong_shape", repr(text[:200]))
    if is_marked_up(told):
        return Failure("markup", told[:200])
    return Failure("other_language", told[:200]) if is_foreign(told) else told


def caption_questions(dataset: Dataset, items: Collection[int]) -> Iterator[tuple[int, Request]]:
    """Yield the question about each picture of `items`."""
    text = template(TEMPLATE)
    for item, picture in dataset.images():
        if item in items:
            yield item, Request(text, picture)


def shuffled_captions(captions: Sequence[Caption], seed: int) -> list[Caption]:
    """Return the captions shuffled over the items: a control in which a caption says nothing about its item.

    An item without a caption stays without one.
    """
    captioned = np.flatnonzero([bool(found.caption) for found in captions])
    drawn = numpy_generator(seed, "enrich", "captions dealt anew").permutation(captioned)
    dealt = list(captions)
    for item, other in zip(captioned.tolist(), drawn.tolist(), strict=True):
        dealt[item] = replace(captions[other], source=f"{captions[other].source}, of another item")
    return dealt


class CatalogueCaptions:
    """The captions that came with the catalogue."""

    def captions(self, dataset: Dataset, clip: Path | None) -> list[Caption]:  # noqa: ARG002  # as TagCaptions
        """Return a caption per item.

        Raises:
            DataError: the catalogue has none, or an empty one for every item.
        """
        there = "caption" in dataset.items.column_names
        told = dataset.items["caption"].to_pylist() if there else []
        if not any(told):
            raise DataError(
                f"the catalogue in {dataset.folder} has "
                + (f"an empty caption for each of its {len(told)} items" if there else "no captions"),
                rule="enrich/captions=catalogue takes those that came with it",
                remedy="name them with data.captions=FILE, or choose enrich/captions=builtin, transformers or endpoint",
            )
        return [Caption(text, "catalogue") if text else Caption(failure="no_caption") for text in told]


class TagCaptions:
    """Captions as a sentence of the tags that the small CLIP finds in a picture.

    Args:
        settings: of `enrich/captions=builtin`; each of the `max_tags` is at least half as likely as the likeliest.
    """

    def __init__(self, settings: TagCaptionsConfig) -> None:
        self._max_tags = settings.max_tags

    def captions(self, dataset: Dataset, clip: Path | None) -> list[Caption]:
        """Return a caption of every picture.

        Args:
            dataset: the catalogue.
            clip: the folder of the small CLIP.

        Raises:
            DataError: the CLIP was trained without tags, or a picture cannot be decoded.
        """
        import torch

        from trialign.enrich.clip.model import build, tokenizer_of
        from trialign.enrich.clip.pictures import decode
        from trialign.enrich.clip.train import score_tags

        assert clip is not None, "checked while composing"
        model, preprocess = build(f"local-dir:{clip}", None, 0, "enrich.clip")
        prompts = _prompts(clip)
        tokens_VT = tokenizer_of(f"local-dir:{clip}")(prompts)
        found = [Caption(failure=NO_PICTURE)] * dataset.num_items
        batch: list[int] = []
        pixels: list[torch.Tensor] = []

        def tell() -> None:
            chances_BV = _chances(score_tags(model.eval(), torch.stack(pixels), tokens_VT), model)
            for item, probs_V in zip(batch, chances_BV, strict=True):
                found[item] = Caption(self._sentence(probs_V, prompts), "builtin small CLIP")
            batch.clear()
            pixels.clear()

        pictured = int(dataset.items["has_image"].to_numpy().sum())
        for item, picture in tracked(dataset.images(), "pictures captioned", pictured):
            batch.append(item)
            pixels.append(preprocess(decode(picture, dataset.keys[item])))
            if len(batch) == _BATCH:
                tell()
        if batch:
            tell()
        return found

    def _sentence(self, probs_V: np.ndarray, prompts: list[str]) -> str:
        order = np.argsort(-probs_V, kind="stable")[: self._max_tags]
        told = [prompts[tag] for tag in order if 2 * probs_V[tag] >= probs_V[order[0]]]
        return f"The picture shows {'; '.join(told)}."


def _prompts(clip: Path) -> list[str]:
    path = clip / "tags.json"
    if not path.exists():
        raise DataError(
            f"{path} does not exist",
            rule="builtin captions are made of the tags that the small CLIP was judged by",
            remedy="its pairs had none: choose enrich/captions=none, transformers or endpoint",
        )
    return [entry["prompt"] for entry in json.loads(path.read_text())["vocabulary"]]


def _chances(scores_BV: np.ndarray, model: object) -> np.ndarray:
    scaled_BV = scores_BV * float(model.logit_scale.detach().exp())  # type: ignore[attr-defined]  # of open_clip
    weights_BV = np.exp(scaled_BV - scaled_BV.max(axis=1, keepdims=True))
    return np.asarray(weights_BV / weights_BV.sum(axis=1, keepdims=True))
