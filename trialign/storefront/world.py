"""What the storefront is made of: its frozen parameters, and the attributes drawn for each item.

An attribute is what an item *is*; its evidence is what a customer can see of it. Choice follows evidence alone, so an
attribute without evidence is NONE (method.md 11).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray

from trialign.runtime.seeding import numpy_generator

NONE = -1
"""An attribute that no evidence shows."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Style:
    """One look: its name, the same in words, and how it is painted (colors are RGB in 0..255)."""

    name: str
    look: str
    ground: list[int]
    ink: list[int]
    motif: str


class Weighing(TypedDict):
    """How much an attribute drives choice, and how soon an event of the history is forgotten."""

    weight: float
    decay: float


class TasteParameters(TypedDict):
    """How users choose."""

    window: int
    popularity_spread: float
    category: Weighing
    style: Weighing
    purpose: Weighing
    follower_offsets: list[int]


@dataclass(frozen=True)
class World:
    """The parameters of world.yaml; the comments there say what each means."""

    taste: TasteParameters
    noise: dict[str, float]
    history: dict[str, float]
    num_brands: int
    num_decoys: int
    categories: tuple[tuple[str, str], ...]  # (department, noun)
    styles: tuple[Style, ...]
    purposes: tuple[tuple[str, tuple[str, ...]], ...]  # (name, paraphrases)


@cache
def frozen_world() -> World:
    """Return the world of world.yaml."""
    read = yaml.safe_load(resources.files(__package__).joinpath("world.yaml").read_text())
    departments, styles, purposes = read.pop("departments"), read.pop("styles"), read.pop("purposes")
    return World(
        **read,
        categories=tuple((department, noun) for department, nouns in departments.items() for noun in nouns),
        styles=tuple(Style(**style) for style in styles),
        purposes=tuple((name, tuple(paraphrases)) for name, paraphrases in purposes.items()),
    )


@dataclass(frozen=True)
class Attributes:
    """What N items are, and what can be seen of it.

    Attributes:
        category_N, style_N, purpose_N: indices into the world's lists.
        readable_N: the title names the category.
        pictured_N: there is a picture to show the style.
        popularity_N: positive, 1 in the median.
    """

    category_N: Integers
    style_N: Integers
    purpose_N: Integers
    readable_N: Flags
    pictured_N: Flags
    popularity_N: Floats


def draw_attributes(world: World, num_items: int, seed: int) -> Attributes:
    """Draw the attributes of a catalogue, each independent of all others.

    Each attribute has a stream of its own, so a larger catalogue of the same seed begins with the smaller one.
    """

    def draw(name: str) -> np.random.Generator:
        return numpy_generator(seed, "storefront", "items", name)

    popularity_N = np.exp(world.taste["popularity_spread"] * draw("popularity").standard_normal(num_items))
    popularity_N[draw("cold").random(num_items) < world.noise["cold"]] *= world.noise["cold_popularity"]
    return Attributes(
        category_N=draw("category").integers(len(world.categories), size=num_items),
        style_N=draw("style").integers(len(world.styles), size=num_items),
        purpose_N=draw("purpose").integers(len(world.purposes), size=num_items),
        readable_N=draw("poor title").random(num_items) >= world.noise["poor_title"],
        pictured_N=draw("missing image").random(num_items) >= world.noise["missing_image"],
        popularity_N=popularity_N,
    )
