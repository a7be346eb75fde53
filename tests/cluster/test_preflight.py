"""A run that a job works in is left alone; one whose jobs have ended is free."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trialign.cluster import slurm
from trialign.cluster.preflight import check_run
from trialign.cluster.record import FOLDER, note_job
from trialign.errors import StageError


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", *slurm.ENDED])
def test_a_job_is_in_the_way_until_it_has_ended(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FOLDER).mkdir()
    note_job(tmp_path / FOLDER, "train", "17")
    monkeypatch.setattr(slurm, "states", lambda jobs: dict.fromkeys(jobs, state))
    job = SimpleNamespace(name="train", stage=str(tmp_path / "train"))
    if state in slurm.ENDED:
        check_run(tmp_path, [job])  # type: ignore[list-item]
    else:
        with pytest.raises(StageError, match=f"train is in use by job 17, {state}"):
            check_run(tmp_path, [job])  # type: ignore[list-item]
