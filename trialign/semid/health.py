"""Check whether semantic IDs are good enough to train on, by thresholds on the metrics of `quality`."""

from __future__ import annotations

from collections.abc import Iterator

from trialign.config.assign import AssignConfig
from trialign.semid.record import Quality


def faults(report: Quality, settings: AssignConfig) -> Iterator[str]:
    """Yield the faults of semantic IDs, a sentence each; none if they are healthy.

    Collisions have no threshold of their own: all but one item of a tuple are moved, so `max_moved` bounds them.

    Args:
        report: the result of `quality`.
        settings: `max_moved`, and `min_perplexity`, which with few items or a small codebook is at most half of the
            largest possible value.
    """
    max_moved, min_perplexity = settings.max_moved, settings.min_perplexity
    moved, num_items, size = report.items_moved, report.num_items, report.codebook_size
    if moved > max_moved * num_items:
        yield (
            f"{moved:,} of {num_items:,} items ({moved / num_items:.1%}) had to be moved off tuples that others have, "
            f"healthy is at most {max_moved:.1%} (assign.max_moved): where they went says little of them; "
            f"{report.twins:,} items have the text and pictures of an earlier one, byte for byte"
        )
    least = min(min_perplexity, size / 2, report.num_items / 2)
    for level, found in enumerate(report.perplexity_before, start=1):
        if found < least:
            yield (
                f"the {size} codes of level {level} are worth {found:.1f} equally used ones (perplexity), healthy is "
                f"at least {least:g} (assign.min_perplexity): it hardly tells items apart"
            )
