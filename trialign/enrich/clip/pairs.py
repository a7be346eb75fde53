"""Picture-text pairs to train the small CLIP on, and the tags to evaluate it with.

Shapes: M pairs, V tags.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from trialign.data.dataset import Dataset
from trialign.errors import DataError
from trialign.storefront.corpus import picture_sentences
from trialign.storefront.world import frozen_world

_SHARES = (0.01, 0.9)
_MOST_TAGS = 64


@dataclass(frozen=True)
class Pairs:
    """Pictures, their texts and their tags.

    Attributes:
        names: what to call each picture in an error.
        pictures: M encoded pictures.
        texts: per picture its texts, at least one; training draws one of them each time.
        tags: V names.
        prompts: the text that stands for each tag.
        tags_MV: bool, which tags each picture has.
    """

    names: list[str]
    pictures: list[bytes]
    texts: list[list[str]]
    tags: list[str]
    prompts: list[str]
    tags_MV: NDArray[np.bool_]


def find_pairs(kind: str, dataset: Dataset, num_pairs: int, seed: int) -> Pairs:
    """Return the pairs that `enrich.clip.pairs` asks for: `storefront` or `catalogue`.

    Raises:
        DataError: see catalogue_pairs.
    """
    return storefront_pairs(num_pairs, seed) if kind == "storefront" else catalogue_pairs(dataset, num_pairs)


def storefront_pairs(num_pairs: int, seed: int) -> Pairs:
    """Return pairs of the storefront's pretraining corpus, which shares no item with any catalogue; tags are styles."""
    found = list(picture_sentences(seed, num_pairs))
    styles = frozen_world().styles
    shown_M = np.array([pair.style for pair in found])
    return Pairs(
        names=[f"{number} of the corpus" for number in range(len(found))],
        pictures=[pair.picture for pair in found],
        texts=[[pair.sentence] for pair in found],
        tags=[style.name for style in styles],
        prompts=[f"{style.look}, {style.name} style" for style in styles],
        tags_MV=shown_M[:, None] == np.array([style.name for style in styles]),
    )


def catalogue_pairs(dataset: Dataset, num_pairs: int) -> Pairs:
    """Return the first pictures of a catalogue with the items' own words; tags are words of the category paths.

    An item's texts are its category words that are neither on nearly all pictures nor on hardly any, one word a text.
    An item without such a word has its title and description instead. (With film titles among the texts the model
    learned genres from posters less well: see docs/embed.md.) An item without any text gives no pair.

    Raises:
        DataError: fewer than two items have both a picture and a text.
    """
    columns = (dataset.items[name].to_pylist() for name in ("categories", "title", "description"))
    categories, titles, descriptions = columns
    worded = [bool(path or title or text) for path, title, text in zip(categories, titles, descriptions, strict=True)]
    found = list(islice(((item, picture) for item, picture in dataset.images() if worded[item]), num_pairs))
    if len(found) < 2:
        raise DataError(
            f"{len(found)} items have both a picture and a text",
            rule="a contrastive model is trained on at least two pairs",
            remedy="leave it out with enrich/clip=none",
        )
    items = [item for item, _ in found]
    tags = _tags([set(categories[item]) for item in items])
    tags_MV = np.array([[tag in categories[item] for tag in tags] for item in items], bool).reshape(len(items), -1)
    return Pairs(
        names=[dataset.keys[item] for item in items],
        pictures=[picture for _, picture in found],
        texts=[
            [tag for tag in tags if tag in categories[item]]
            or list(filter(None, (titles[item], descriptions[item])))
            or categories[item]
            for item in items
        ],
        tags=tags,
        prompts=tags,
        tags_MV=tags_MV,
    )


def _tags(categories: list[set[str]]) -> list[str]:
    """Return the words that distinguish pictures: neither on nearly all of them nor on hardly any, sorted."""
    counts = Counter(word for found in categories for word in found)
    least, most = (share * len(categories) for share in _SHARES)
    telling = [(count, word) for word, count in counts.items() if max(2, least) <= count <= most]
    return sorted(word for _, word in sorted(telling, key=lambda pair: (-pair[0], pair[1]))[:_MOST_TAGS])
