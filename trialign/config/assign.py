"""Group `assign`: codes to unique semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class AssignConfig:
    policy: str = option("reassign", "how items that share a tuple are told apart: reassign")
    max_load: float = option(0.8, "refuse more than this share of the K^L tuples")
