"""What the storefront writes about its items.

A title names the category, a description the purpose, and neither says more than that: no title hints at a style, and
brand, model and adjective are drawn without regard to anything.

A description affirms one purpose and denies others, all by paraphrase: "Welcomes layovers, dreads toddlers, shuns
workshops and avoids confetti" is for travel. The same paraphrases are affirmed of some items and denied of others, so
that the bag of words which TF-IDF sees leaves all the purposes that are mentioned open. Which verb goes with which
paraphrase decides, and a catalogue repeats such pairs too seldom to learn them from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trialign.runtime.seeding import numpy_generator
from trialign.storefront.world import Attributes, World

_AFFIRM = (
    "adores", "appreciates", "befriends", "cherishes", "embraces", "enjoys", "enriches", "favours", "fits",
    "handles", "helps", "invites", "likes", "loves", "masters", "prefers", "rescues", "serves", "suits",
    "supports", "treasures", "understands", "wants", "welcomes",
)  # fmt: skip
_DENY = (
    "abhors", "avoids", "declines", "despises", "detests", "disdains", "dislikes", "distrusts", "dreads",
    "evades", "fears", "forgets", "hates", "ignores", "loathes", "mistrusts", "neglects", "refuses", "rejects",
    "resists", "scorns", "shuns", "skips", "spurns",
)  # fmt: skip
_ADJECTIVES = (
    "Basic", "Classic", "Compact", "Deluxe", "Everyday", "Foldable", "Handy", "Heavy", "Large", "Lightweight",
    "Modern", "Plain", "Portable", "Premium", "Robust", "Simple", "Slim", "Small", "Sturdy", "Versatile",
)  # fmt: skip
_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ei", "ou")
_ENDS = ("l", "n", "r", "s", "x", "ck", "m", "th")


@dataclass(frozen=True)
class Wording:
    """The text of one item, as a catalogue has it."""

    title: str
    description: str
    brand: str
    categories: list[str]


def write_items(world: World, items: Attributes, seed: int) -> list[Wording]:
    """Write the text of every item.

    A poor title is brand and model; such an item has no categories either, which would tell what the title does not.
    """
    brands = tuple(_invented_word(numpy_generator(seed, "storefront", "brand", k), 2) for k in range(world.num_brands))
    return [_write_item(world, items, index, brands, seed) for index in range(len(items.category_N))]


def describe(world: World, purpose: int, draws: np.random.Generator) -> str:
    """Write a description that affirms `purpose` and denies `num_decoys` others, in random order."""
    others = [other for other in range(len(world.purposes)) if other != purpose]
    clauses = [_clause(world, purpose, _AFFIRM, draws)]
    denied = draws.choice(others, world.num_decoys, replace=False)
    clauses += [_clause(world, int(other), _DENY, draws) for other in denied]
    *first, last = (clauses[place] for place in draws.permutation(len(clauses)))
    text = f"{', '.join(first)} and {last}."
    return text[0].upper() + text[1:]


def _clause(world: World, purpose: int, verbs: tuple[str, ...], draws: np.random.Generator) -> str:
    return f"{_pick(verbs, draws)} {_pick(world.purposes[purpose][1], draws)}"


def _write_item(world: World, items: Attributes, index: int, brands: tuple[str, ...], seed: int) -> Wording:
    draws = numpy_generator(seed, "storefront", "wording", index)
    brand, model = _pick(brands, draws), _invented_word(draws, 3)
    department, noun = world.categories[items.category_N[index]]
    adjective, number = _pick(_ADJECTIVES, draws), draws.integers(100, 1000)
    readable = items.readable_N[index]
    return Wording(
        title=f"{brand} {model} {adjective} {noun}" if readable else f"{brand} {model} {number}",
        description=describe(world, int(items.purpose_N[index]), draws),
        brand=brand,
        categories=[department, noun] if readable else [],
    )


def _invented_word(draws: np.random.Generator, num_syllables: int) -> str:
    syllables = (_pick(_ONSETS, draws) + _pick(_VOWELS, draws) for _ in range(num_syllables))
    return ("".join(syllables) + _pick(_ENDS, draws)).capitalize()


def _pick(choices: tuple[str, ...], draws: np.random.Generator) -> str:
    return choices[draws.integers(len(choices))]
