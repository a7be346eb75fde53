"""What codes say of an item's categories, judged by a probe: on MovieLens, genres, which no text of the variants names.

    trialign pipeline experiment=movielens_posters_variants hydra.sweep.dir=RUNS data.root=DIR
    python -m benchmarks.genre_probe RUNS/plain-0 RUNS/enriched-0

Per genre a logistic regression on the one-hot codes of all levels, five folds; the mean area under the curve, and how
often the likeliest genre is one of a film's. Next to it the same for the tuples dealt to films at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from trialign.data.dataset import Dataset
from trialign.manifest import Manifest
from trialign.runtime.seeding import numpy_generator
from trialign.semid.table import SIDTable

_FEWEST = 50


def probe(codes_NL: NDArray[np.int64], codebook_size: int, has_NG: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean AUC over the genres, and the share of films whose likeliest genre is one of theirs."""
    flags_NF = np.concatenate([np.eye(codebook_size, dtype=np.float32)[codes_N] for codes_N in codes_NL.T], axis=1)
    model = LogisticRegression(C=0.1, max_iter=200)
    chances_NG = np.stack(
        [cross_val_predict(model, flags_NF, has_N, cv=5, method="predict_proba")[:, 1] for has_N in has_NG.T], axis=1
    )
    auc = float(
        np.mean([roc_auc_score(has_N, chance_N) for has_N, chance_N in zip(has_NG.T, chances_NG.T, strict=True)])
    )
    return auc, float(has_NG[np.arange(len(has_NG)), chances_NG.argmax(axis=1)].mean())


def main() -> None:
    """Print a row per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run directories with a finished assign stage")
    options = parser.parse_args()
    print("| run | AUC, dealt at random | a right genre first, dealt at random |\n|---|---|---|")
    for run in options.runs:
        dataset = Dataset(Path(Manifest.read(run / "assign").inputs["prepare"]["path"]))
        paths = dataset.items["categories"].to_pylist()
        genres = sorted({genre for path in paths for genre in path})
        has_NG = np.array([[genre in path for genre in genres] for path in paths])
        known_N = has_NG.any(axis=1)
        has_NG = has_NG[known_N][:, has_NG.sum(axis=0) >= _FEWEST]
        sids = SIDTable.load(run / "assign")
        codes_NL = sids.codes_NL[known_N]
        dealt_NL = numpy_generator(0, "genre probe").permutation(codes_NL)
        auc, first = probe(codes_NL, sids.codebook_size, has_NG)
        auc_dealt, first_dealt = probe(dealt_NL, sids.codebook_size, has_NG)
        print(f"| {run.name} | {auc:.3f}, {auc_dealt:.3f} | {first:.3f}, {first_dealt:.3f} |", flush=True)


if __name__ == "__main__":
    main()
