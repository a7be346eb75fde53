"""Outside formats: one class per family of files, each a `Source`."""

from trialign.data.sources.examples import Examples
from trialign.data.sources.inter_json import InterJson
from trialign.data.sources.tables import Tables

__all__ = ["Examples", "InterJson", "Tables"]
