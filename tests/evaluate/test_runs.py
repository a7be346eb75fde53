"""What is read of a run's directory: its examples, the stages that made it, and whether its files agree."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trialign.errors import DataError, StageError
from trialign.evaluate.record import Details, EvaluationRecord, Results
from trialign.evaluate.runs import Run, read_run
from trialign.manifest import Manifest
from trialign.ranking import METRICS
from trialign.record import write_record


def finish(folder: Path, stage: str, digest: str, config: dict[str, Any], **inputs: str) -> None:
    """Write the manifest of a stage that read others, by their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    read = {verb: {"path": "elsewhere", "hash": found} for verb, found in inputs.items()}
    made = Manifest(stage, digest, config, read, {"train": "t1"}, {}, {}, {}, 0.0, "", "r1", {})
    (folder / "manifest.json").write_text(json.dumps(asdict(made)))


def evaluated(run: Path, *, targets: list[str], figure: float = 1.0) -> Run:
    """Write and read a run whose only user is ranked both targets first, which makes every figure 1."""
    folder = run / "evaluate" / "test"
    finish(folder, "evaluate", "e1", {"k": 1}, train="t1")
    results = Results(False, dict.fromkeys(METRICS, figure), {}, {}, 0.0)
    record = EvaluationRecord("test", 1, 1, 1, results, results, Details({}, {}, {}))
    write_record(folder / "metrics.json", record)
    columns = {"user": ["u"], "targets": [targets], "items": [["a", "b", "c"]]}
    pq.write_table(pa.table(columns), folder / "topk.parquet")
    return read_run(run, run.name, "test")


def test_the_order_of_targets_in_a_file_makes_no_other_examples(tmp_path: Path) -> None:
    one, other = evaluated(tmp_path / "one", targets=["a", "b"]), evaluated(tmp_path / "other", targets=["b", "a"])
    assert one.users == other.users
    assert one.values_UC.tolist() == [[1.0] * len(METRICS)]
    assert evaluated(tmp_path / "third", targets=["a"]).users != one.users


def test_a_stage_that_was_made_again_is_no_more_the_one_that_was_read(tmp_path: Path) -> None:
    finish(tmp_path / "run" / "train", "train", "t1", {"steps": 3, "seed": 5})
    known = evaluated(tmp_path / "run", targets=["a", "b"])
    assert (known.config, known.lost) == ({"k": 1, "steps": 3, "train.seed": 5}, [])
    finish(tmp_path / "run" / "train", "train", "t2", {"steps": 9, "seed": 5})
    again = evaluated(tmp_path / "run", targets=["a", "b"])
    assert (again.config, again.lost, again.generator) == ({"k": 1}, ["train"], "t1")


def test_figures_that_the_rankings_do_not_give_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"recall@1 is 1.000000 by topk.parquet, 0.999900 by metrics.json"):
        evaluated(tmp_path / "run", targets=["a", "b"], figure=0.9999)


def test_a_record_of_another_version_is_refused_as_an_unfinished_run_is(tmp_path: Path) -> None:
    """So that a report leaves the run out, and says why."""
    evaluated(tmp_path / "run", targets=["a", "b"])
    path = tmp_path / "run" / "evaluate" / "test" / "metrics.json"
    path.write_text(path.read_text().replace('"num_users"', '"users"'))
    with pytest.raises(StageError, match="key num_users is missing"):
        read_run(tmp_path / "run", "run", "test")
