"""Check whether semantic IDs are good enough to train on, by thresholds on the metrics of `quality`."""

from __future__ import annotations

from collections.abc import Iterator

from trialign.semid.record import Quality


def faults(report: Quality, *, max_moved: float, min_perplexity: float) -> list[str]:
    """Return the faults of semantic IDs, a sentence each; empty if they are healthy.

    Collisions have no threshold of their own: all but one item of a tuple are moved, so `max_moved` bounds them.

    Args:
        report: the result of `quality`.
        max_moved: largest share of the items whose tuple was changed to tell them apart.
        min_perplexity: least perplexity of each level before collisions are resolved; with few items or a small
            codebook, at most half of the largest possible value.
    """
    return [*_moved(report, max_moved), *_levels(report, min_perplexity)]


def _moved(report: Quality, max_moved: float) -> Iterator[str]:
    moved, num_items = report.items_moved, report.num_items
    if moved > max_moved * num_items:
        yield (
            f"{moved:,} of {num_items:,} items ({moved / num_items:.1%}) had to be moved off tuples that others have, "
            f"healthy is at most {max_moved:.1%} (assign.max_moved): where they went says little of them; "
            f"{report.twins:,} items have the text and pictures of an earlier one, byte for byte"
        )


def _levels(report: Quality, min_perplexity: float) -> Iterator[str]:
    size = report.codebook_size
    least = min(min_perplexity, size / 2, report.num_items / 2)
    for level, found in enumerate(report.perplexity_before, start=1):
        if found < least:
            yield (
                f"the {size} codes of level {level} are worth {found:.1f} equally used ones (perplexity), healthy is "
                f"at least {least:g} (assign.min_perplexity): it hardly tells items apart"
            )
