"""Group `assign`: codes to unique semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class AssignConfig:
    """How codes become unique semantic IDs."""

    policy: str = option(
        "reassign",
        "how items that share a tuple are told apart: reassign (near free codes) or suffix (one more level for all)",
        choices=("reassign", "suffix"),
    )
    max_load: float = option(0.8, "refuse more than this share of the K^L tuples", above=0, most=1)
    # The settings that judge semantic IDs do not change them.
    max_moved: float = option(
        0.25,
        "share of items that may be moved because they shared a tuple; more is unhealthy",
        least=0,
        most=1,
        hashed=False,
    )
    min_perplexity: float = option(
        4.0,
        "equally used codes that each level is worth at least, before items are moved; less is unhealthy",
        least=0,
        hashed=False,
    )
    unhealthy: str = option(
        "warn",
        "at unhealthy semantic IDs: warn, or refuse them (a finished stage too)",
        choices=("warn", "refuse"),
        hashed=False,
    )
    # The manifest identifies files by their content, not by their path.
    index: str | None = option(
        None, "a released index file of the LC-Rec/LETTER family, whose codes replace a quantizer's", hashed=False
    )
    extend: str | None = option(
        None, "an older run of this catalogue (or its assign folder), whose items keep their tuples", hashed=False
    )
