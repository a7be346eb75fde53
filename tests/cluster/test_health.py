"""What makes a node unfit, as its health check writes it down."""

from __future__ import annotations

from pathlib import Path

import pytest

from trialign.cluster.health import main
from trialign.cluster.record import FOLDER


def look(run: Path, num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what the check of a node finds."""
    (run / FOLDER).mkdir(exist_ok=True)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr("sys.argv", ["health", str(run), str(run), str(num_gpus)])
    main()
    return (run / "n1").read_text()


def test_a_node_with_fewer_gpus_than_its_ranks_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: one'; echo 'GPU 1: another'; echo 'no GPU of its own'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert look(tmp_path, 2, monkeypatch) == "ok"
    assert look(tmp_path, 3, monkeypatch) == "2 of 3 GPUs answer"


def test_a_disk_that_gives_back_other_bytes_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(tmp_path, 0, monkeypatch) == "ok"
    assert not list((tmp_path / FOLDER).iterdir())
    monkeypatch.setattr(Path, "read_bytes", lambda path: bytes(path.stat().st_size))
    assert look(tmp_path, 0, monkeypatch).endswith("gives back other bytes than were written")
