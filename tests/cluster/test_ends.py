"""Which rank ended first, by what srun and the ranks say."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialign.cluster.ends import ENDS, Cause, End, ends_of, first_cause, note_end

KILLED = "srun: error: n2: task 1: Killed"
ENDED_BY_SRUN = "srun: error: n1: task 0: Terminated"


def test_the_first_that_srun_hears_of_is_the_cause() -> None:
    found = first_cause(["srun: Job step 1.0 aborted", KILLED, ENDED_BY_SRUN], {})
    assert found == Cause(1, "n2", "Killed", None, "")
    assert str(found) == "rank 1 on n2: Killed"


def test_of_several_at_once_the_first_that_left_word_speaks() -> None:
    ends = {rank: End(rank, "n1", 2, f"words of {rank}", at) for rank, at in ((4, 8.0), (5, 7.0))}
    found = first_cause(["srun: error: n1: tasks 2,4-6: Exited with exit code 2", KILLED], ends)
    assert found == Cause(5, "n1", "Exited with exit code 2", 2, "words of 5")
    ends[6] = End(6, "n1", 1, "words of the last of a range", 6.0)
    assert first_cause(["srun: error: n1: tasks 2,4-6: Exited with exit code 2"], ends) == Cause(
        6, "n1", "Exited with exit code 2", 1, "words of the last of a range"
    )


def test_without_a_word_of_srun_the_earliest_end_counts() -> None:
    ends = {rank: End(rank, "n1", 1, "words", at) for rank, at in ((0, 8.0), (3, 7.0))}
    assert first_cause([], ends) == Cause(3, "n1", "ended with 1", 1, "words")
    assert first_cause([], {}) is None


def test_a_rank_leaves_its_end_where_its_supervisor_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_end(2, "nobody asked", at=5.0)  # outside a job
    for name, value in ((ENDS, str(tmp_path)), ("SLURM_PROCID", "3"), ("SLURMD_NODENAME", "n2")):
        monkeypatch.setenv(name, value)
    note_end(2, "refused", at=5.0)
    (tmp_path / "4.json").write_text('{"rank": 4, ')  # of a node that failed
    assert ends_of(tmp_path) == {3: End(3, "n2", 2, "refused", 5.0)}
    monkeypatch.setenv(ENDS, str(tmp_path / "gone"))
    note_end(2, "a full disk is not made worse", at=5.0)
