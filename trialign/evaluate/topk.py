"""Compute the details of metrics.json beyond averages, and the table of the rankings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from trialign.data.dataset import Evaluation
from trialign.evaluate.baselines.counts import count_items
from trialign.evaluate.grounding import grounding
from trialign.evaluate.protocol import Rankings
from trialign.evaluate.record import Details, FilteredTargets
from trialign.evaluate.report import Compared
from trialign.evaluate.slices import prefix_recall, recall_by_seen, spread
from trialign.evaluate.unconstrained_decoding import unconstrained_decoding
from trialign.generate.ranker import GeneratorRanker
from trialign.generate.task import ItemTexts
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM, Items


def describe(
    model: GeneratorRanker,
    compared: Compared,
    users: Evaluation,
    train_histories: Sequence[Items],
    sids: SIDTable,
    *,
    unconstrained_users: int,
    texts: ItemTexts,
    grounding_items: int,
) -> Details:
    """Return the details of metrics.json beyond averages.

    Args:
        model: the generator.
        compared: every row of the table.
        users: the evaluated users.
        train_histories: histories to count item popularity in.
        sids: the semantic IDs.
        unconstrained_users: how many users, first in hash order, measure decoding without the trie; 0 leaves it out.
        texts: of the items, interests among them.
        grounding_items: items on which grounding is measured; 0 leaves it out.
    """
    popularity_N = count_items(train_histories, len(sids.codes_NL))
    measured = {"model": compared.model, **compared.baselines}
    tables = {name: found.rankings.items_UK for name, found in measured.items()}
    unconstrained = grounded = None
    if unconstrained_users:
        histories, targets = users.histories[:unconstrained_users], users.targets[:unconstrained_users]
        unconstrained = unconstrained_decoding(model, sids.codes_NL, sids.codebook_size, histories, targets)
    if grounding_items:
        grounded = grounding(model, texts, grounding_items)
    return Details(
        recall_by_seen={name: recall_by_seen(items, users.targets, popularity_N) for name, items in tables.items()},
        spread={name: spread(items, users.targets, popularity_N) for name, items in tables.items()},
        prefix_recall_at_10=prefix_recall(tables["model"], users.targets, sids.codes_NL),
        unconstrained_decoding=unconstrained,
        grounding=grounded,
    )


def filtered_targets(users: Evaluation) -> FilteredTargets:
    """Return the number of targets that their user had chosen before, which a filter of seen items removes.

    A target that is repeated in an example counts once.
    """
    distinct = [np.unique(found) for found in users.targets]
    count = sum(int(np.isin(found, seen).sum()) for found, seen in zip(distinct, users.seen, strict=True))
    targets = sum(map(len, distinct))
    return FilteredTargets(count, targets, count / targets)


def topk_table(rankings: Rankings, users: Evaluation, keys: Sequence[str]) -> pa.Table:
    """Return one row per user: `user`, `targets`, `items` (best first) and `scores`, items by their catalogue keys."""
    names = np.array([*keys, None], dtype=object)  # NO_ITEM is the last row
    valid_UK = rankings.items_UK != NO_ITEM
    pairs = zip(rankings.items_UK, rankings.scores_UK, valid_UK, strict=True)
    rows = [(names[items[valid]], scores[valid]) for items, scores, valid in pairs]
    return pa.table(
        {
            "user": pa.array(users.users, pa.string()),
            "targets": pa.array([names[found] for found in users.targets], pa.list_(pa.string())),
            "items": pa.array([items for items, _ in rows], pa.list_(pa.string())),
            "scores": pa.array([scores for _, scores in rows], pa.list_(pa.float32())),
        }
    )
