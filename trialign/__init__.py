"""trialign: from a catalogue and interaction logs to a generative recommender over semantic IDs.

As a library it reads what `trialign pipeline` made:

    import trialign

    run = trialign.Run("runs/quickstart")
    (found,) = run.recommend([["item-0000007", "item-0000100"]], k=10)

These names are the public ones. Each is imported when it is first used, so that `import trialign` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialign.data.dataset import Dataset, Example
    from trialign.errors import TrialignError
    from trialign.generate.recommendation import Item, Recommendation
    from trialign.manifest import Manifest
    from trialign.ranking import ndcg, recall
    from trialign.run import Run
    from trialign.semid.table import SIDTable
    from trialign.stream.rows import RowBatch
    from trialign.types import Ranker

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "Example",
    "Item",
    "Manifest",
    "Ranker",
    "Recommendation",
    "RowBatch",
    "Run",
    "SIDTable",
    "TrialignError",
    "ndcg",
    "recall",
]

_HOMES = {
    "Dataset": "data.dataset",
    "Example": "data.dataset",
    "Item": "generate.recommendation",
    "Manifest": "manifest",
    "Ranker": "types",
    "Recommendation": "generate.recommendation",
    "RowBatch": "stream.rows",
    "Run": "run",
    "SIDTable": "semid.table",
    "TrialignError": "errors",
    "ndcg": "ranking",
    "recall": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trialign' has no attribute '{name}'; it offers {', '.join(__all__)}")
    value = getattr(import_module(f"trialign.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
