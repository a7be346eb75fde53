"""How the storefront's users choose: a stated function of what they can be seen to have chosen.

After the history h_1 .. h_T, item j is next with probability

    p(j | h)  =  0                                                  if j is in h: nothing is chosen twice
    p(j | h)  ~  popularity_j * product over a of exp(weight_a * appeal_a(j | h))      otherwise

for the attributes a = category, style and purpose. The appeal of j is the recency-weighted share, among the last
`window` events, of those whose evident value of a leads to j's evident value:

    appeal_a(j | h)  =  sum_t decay_a^(T - t) * leads_a[a(h_t), a(j)]  /  sum_t decay_a^(T - t)

Style and purpose lead to themselves (people stay with a look and with what they are up to), a category leads to its
followers (what is bought after a tent is no second tent). An event or a candidate whose value is NONE leads nowhere and
is led to by nothing. A weight of 0 makes a factor 1 exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trialign.config.data import StorefrontConfig
from trialign.errors import DataError
from trialign.progress import tracked
from trialign.storefront.world import NONE, Attributes, Floats, Integers, World

_CELLS = 1 << 20  # of the users-by-items table that is held at a time while sampling


@dataclass(frozen=True)
class Preference:
    """How one attribute influences choices.

    Attributes:
        values_N: the evident value of each item, NONE where nothing shows it.
        weight: at least 0.
        decay: per event, in (0, 1].
        leads_VV: row v says how strongly an event of value v leads to each value.
    """

    values_N: Integers
    weight: float
    decay: float
    leads_VV: Floats

    def appeal(self, histories_BT: Integers, window: int) -> Floats:
        """Return the appeal of each value, and of NONE in the last column: [B, V + 1]."""
        num_users, num_events = histories_BT.shape
        share_BV = np.zeros((num_users, len(self.leads_VV) + 1))
        users_B, total = np.arange(num_users), 0.0
        for age in range(min(num_events, window)):
            # NONE is -1 and so counts in the last column, which leads nowhere.
            share_BV[users_B, self.values_N[histories_BT[:, num_events - 1 - age]]] += self.decay**age
            total += self.decay**age
        if num_events:
            share_BV /= total
        share_BV[:, :-1] = share_BV[:, :-1] @ self.leads_VV
        share_BV[:, NONE] = 0.0
        return share_BV


@dataclass(frozen=True)
class Taste:
    """The choice function of the module's docstring."""

    popularity_N: Floats
    preferences: tuple[Preference, ...]
    window: int

    def next_item(self, histories_BT: Integers) -> Floats:
        """Return p(next | history).

        Args:
            histories_BT: item indices, oldest first, fewer different ones than there are items; T may be 0.

        Returns:
            probabilities_BN, rows that sum to one.
        """
        chances_BN = np.repeat(self.popularity_N[None], len(histories_BT), axis=0)
        for preference in self.preferences:
            factors_BV = np.exp(preference.weight * preference.appeal(histories_BT, self.window))
            chances_BN *= factors_BV[:, preference.values_N]
        np.put_along_axis(chances_BN, histories_BT, 0.0, axis=1)
        chances_BN /= chances_BN.sum(axis=1, keepdims=True)
        return chances_BN


def taste_of(world: World, items: Attributes, settings: StorefrontConfig) -> Taste:
    """Return the taste of the storefront's users; the two weights of the settings multiply those of the world."""
    size, kinds = len(world.categories), world.taste
    followers_CC = np.zeros((size, size))
    for offset in kinds["follower_offsets"]:
        followers_CC[np.arange(size), (np.arange(size) + offset) % size] = 1.0
    seen_category_N = np.where(items.readable_N, items.category_N, NONE)
    seen_style_N = np.where(items.pictured_N, items.style_N, NONE)
    styles_SS, purposes_PP = np.eye(len(world.styles)), np.eye(len(world.purposes))
    category, style, purpose = kinds["category"], kinds["style"], kinds["purpose"]
    return Taste(
        popularity_N=items.popularity_N,
        preferences=(
            Preference(seen_category_N, category["weight"], category["decay"], followers_CC),
            Preference(seen_style_N, settings.style_weight * style["weight"], style["decay"], styles_SS),
            Preference(items.purpose_N, settings.purpose_weight * purpose["weight"], purpose["decay"], purposes_PP),
        ),
        window=kinds["window"],
    )


def draw_lengths(world: World, num_users: int, num_items: int, draws: np.random.Generator) -> Integers:
    """Draw how many events each user has; never more than half the catalogue, so that a choice remains."""
    history = world.history
    excess_U = np.floor(draws.exponential(history["mean_excess"], num_users))
    longest = min(history["longest"], num_items // 2)
    return np.minimum(history["shortest"] + excess_U, longest).astype(np.int64)


def draw_histories(taste: Taste, lengths_U: Integers, chance_UT: Floats) -> list[Integers]:
    """Let users choose, each event from the exact p(next | history).

    Args:
        taste: the choice function.
        lengths_U: events per user, at most T.
        chance_UT: uniform random numbers in [0, 1), one per user and event.

    Returns:
        the item indices that each user chose, in order.
    """
    histories_UT = np.full(chance_UT.shape, NONE)
    chunk = max(1, _CELLS // len(taste.popularity_N))
    for event in tracked(range(int(lengths_U.max())), "events of every user drawn"):
        active = np.flatnonzero(lengths_U > event)
        for users in np.split(active, range(chunk, len(active), chunk)):
            cumulative_BN = np.cumsum(taste.next_item(histories_UT[users, :event]), axis=1)
            # Scaled by the sum as it came out in floating point, so that the last item is found too.
            threshold_B = chance_UT[users, event] * cumulative_BN[:, -1]
            histories_UT[users, event] = (cumulative_BN <= threshold_B[:, None]).sum(axis=1)
    return [row[:length] for row, length in zip(histories_UT, lengths_U, strict=True)]


class ExactOracle:
    """Knows p(next | history) of the storefront; see `trialign.data.source.Oracle`.

    Args:
        taste: the choice function.
        keys: the key of each item, in the order of the item table.
    """

    def __init__(self, taste: Taste, keys: Sequence[str]) -> None:
        self._taste = taste
        self._index = {key: index for index, key in enumerate(keys)}

    def next_item(self, history: list[str]) -> Floats:
        """Return the probability of every item to come next, in the order of the item table."""
        unknown = [key for key in history if key not in self._index]
        if unknown:
            raise DataError(
                f"the history names {unknown[0]!r}",
                rule=f"the storefront knows the choices among its own {len(self._index)} items only",
                remedy="ask with keys of the prepared item table",
            )
        if len(set(history)) == len(self._index):
            raise DataError(
                f"the history holds all {len(self._index)} items",
                rule="nothing is chosen twice in the storefront, so one item at least must be left",
                remedy="ask with a shorter history",
            )
        indices_T = np.array([self._index[key] for key in history], dtype=np.int64)
        chances_N: Floats = self._taste.next_item(indices_T[None])[0]
        return chances_N
