"""Group `doctor`: what `trialign doctor` checks."""

from __future__ import annotations

from dataclasses import dataclass

from trialign.config.option import option


@dataclass
class DoctorConfig:
    """What is looked at next to the machine."""

    airgap: bool = option(False, "run every stage on a tiny built-in shop with all connections refused; about a minute")
