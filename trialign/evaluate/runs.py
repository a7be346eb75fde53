"""Read a finished run from its directory: configuration, metrics, rankings and training curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trialign.errors import DataError, StageError
from trialign.evaluate.record import EvaluationRecord
from trialign.manifest import Manifest, flatten, trace
from trialign.ranking import CUTOFFS, METRICS, measure, number_lists
from trialign.record import read_record
from trialign.semid.record import Quality


@dataclass(frozen=True)
class Run:
    """A finished run: its configuration, metrics per example, training curves and execution.

    Attributes:
        name: the run's display name.
        record: its metrics.json.
        config: every setting of its stages by dotted key; `<stage>.seed` for stages with a seed.
        lost: stages of other runs that are not at the manifests' paths any more; their settings are unknown.
        users: user and targets of every example, as text; equal for runs measured on the same examples.
        values_UC: every metric of every example, columns as in METRICS.
        curves: column of the generator's log/metrics.csv -> (step, value).
        generator: hash of the stage that made the generator, train or rl.
        quality: quality.json of its semantic IDs; None if it is lost.
        execution: what can change figures but is not in `config`: machine, code, libraries, and settings that affect
            rounding; a text per key, by stage if stages differ.
    """

    name: str
    record: EvaluationRecord
    config: Mapping[str, Any]
    lost: list[str]
    users: list[tuple[str, str]]
    values_UC: NDArray[np.float64]
    curves: Mapping[str, list[tuple[float, float]]]
    generator: str
    quality: Quality | None = None
    execution: Mapping[str, str] = field(default_factory=dict)

    @property
    def owners(self) -> list[str]:
        """The user of every example."""
        return [user for user, _ in self.users]


def read_run(folder: Path, name: str, split: str) -> Run:
    """Read a run.

    Args:
        folder: its directory.
        name: its display name.
        split: validation or test.

    Raises:
        StageError: it is not evaluated on that split (the message says which stages it has), or a record is unreadable.
        DataError: its files contradict each other.
    """
    stage = folder / "evaluate" / split
    if not (stage / "manifest.json").exists():
        done = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        raise StageError(
            f"{name}: not evaluated on {split}; finished: {', '.join(done) or 'nothing'}",
            rule="a compared run is evaluated",
            remedy=f"run `trialign evaluate run={folder} evaluate.split={split}`",
        )
    manifest = Manifest.read(stage)
    record = read_record(EvaluationRecord, stage / "metrics.json")
    made, lost = trace(stage, manifest, folder)
    places = {verb: place for verb, (place, _) in made.items()}
    made_by = "rl" if "rl" in manifest.lineage else "train"
    topk = pq.read_table(stage / "topk.parquet")
    values_UC = _measured(topk)
    for column, metric in enumerate(METRICS):
        said = record.stated.model[metric]
        if abs(values_UC[:, column].mean() - said) > 1e-9:
            raise DataError(
                f"{name}: {metric} is {values_UC[:, column].mean():.6f} by topk.parquet, {said:.6f} by metrics.json",
                rule="both were written by one evaluation",
                remedy=f"delete {stage} and run `trialign evaluate` again",
            )
    targets = [json.dumps(sorted(found)) for found in topk["targets"].to_pylist()]
    return Run(
        name=name,
        record=record,
        config=_settings(made),
        lost=lost,
        users=list(zip(topk["user"].to_pylist(), targets, strict=True)),
        values_UC=values_UC,
        curves=_curves(places[made_by] / "log" / "metrics.csv") if made_by in places else {},
        generator=manifest.lineage[made_by],
        quality=read_record(Quality, places["assign"] / "quality.json") if "assign" in places else None,
        execution=_execution({verb: found for verb, (_, found) in made.items()}),
    )


def _settings(made: Mapping[str, tuple[Path, Manifest]]) -> dict[str, Any]:
    """Return the settings of stages by dotted key; if two stages share a group, those of the later one."""
    config: dict[str, Any] = {}
    for verb, (_, found) in made.items():
        settings = dict(found.config)
        if "seed" in settings:
            config[f"{verb}.seed"] = settings.pop("seed")
        config |= flatten(settings)
    return config


def _execution(made: Mapping[str, Manifest]) -> dict[str, str]:
    """Return how the stages were executed (`Run.execution`): a text per key, by stage if stages differ."""
    told: dict[str, dict[str, str]] = {}
    for verb, manifest in sorted(made.items()):
        told.setdefault("revision", {})[verb] = manifest.revision
        for library, version in manifest.versions.items():
            told.setdefault(f"versions.{library}", {})[verb] = version
        executions = [found["settings"] | flatten({"machine": found["machine"]}) for found in manifest.executions]
        for key in sorted({key for found in executions for key in found}):
            values = dict.fromkeys(str(found.get(key)) for found in executions)
            told.setdefault(key, {})[verb] = ", then ".join(values)
    return {
        key: next(iter(by_verb.values()))
        if len(set(by_verb.values())) == 1
        else "; ".join(f"{verb}: {value}" for verb, value in by_verb.items())
        for key, by_verb in told.items()
    }


def _measured(topk: pa.Table) -> NDArray[np.float64]:
    return measure(*number_lists(topk["items"].to_pylist(), topk["targets"].to_pylist(), max(CUTOFFS)))


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    if not path.exists():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            for column, value in line.items():
                if column not in ("epoch", "step") and value and line.get("step"):
                    curves.setdefault(column, []).append((float(line["step"]), float(value)))
    return curves
