"""The pretraining corpus of models for the storefront: pictures with sentences, descriptions with purposes.

It stands for the knowledge of a vision-language model and a language model (method.md 11): pictures of the same styles
with a sentence on each, and descriptions of the same kind with the purpose they affirm. Its pictures and texts are
drawn from streams of their own; none belongs to an item of any catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trialign.runtime.seeding import numpy_generator
from trialign.storefront.pictures import paint
from trialign.storefront.wording import describe
from trialign.storefront.world import frozen_world

_SENTENCES = (
    "A surface with {look}, {name} style.",
    "The item is covered in {look}.",
    "It shows {look} in the {name} look.",
    "A {name} pattern of {look}.",
    "Close view of fabric in {name} colors: {look}.",
)


class PictureSentence(NamedTuple):
    """A JPEG, one factual sentence on it, and the style it shows."""

    picture: bytes
    sentence: str
    style: str


class DescriptionPurpose(NamedTuple):
    """A description, and the purpose it affirms."""

    description: str
    purpose: str


def picture_sentences(seed: int, num_pairs: int) -> Iterator[PictureSentence]:
    """Yield pairs of a rendered picture and a sentence, styles in turn."""
    styles = frozen_world().styles
    for index in range(num_pairs):
        draws = numpy_generator(seed, "storefront", "corpus", "picture", index)
        style = styles[index % len(styles)]
        sentence = _SENTENCES[draws.integers(len(_SENTENCES))].format(look=style.look, name=style.name)
        yield PictureSentence(paint(style, draws), sentence, style.name)


def description_purposes(seed: int, num_pairs: int) -> Iterator[DescriptionPurpose]:
    """Yield pairs of a description and its purpose, purposes in turn."""
    world = frozen_world()
    for index in range(num_pairs):
        draws = numpy_generator(seed, "storefront", "corpus", "description", index)
        purpose = index % len(world.purposes)
        yield DescriptionPurpose(describe(world, purpose, draws), world.purposes[purpose][0])
