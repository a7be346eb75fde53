"""Asked to stop while it saves, a training finishes the save, then the step, and ends as if nobody had asked."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, train_ring
from trialign.errors import TrialignError
from trialign.runtime.notice import PreemptedError, SavedError
from trialign.semid.table import SIDTable

SETTINGS = RING_SETTINGS | {
    "steps": 7,
    "stream": RING_SETTINGS["stream"] | {"sample_log": True},
    "runtime": RING_SETTINGS["runtime"] | {"checkpoint_every": 3},
}


def outcome(folder: Path) -> tuple[bytes, str]:
    return (folder / "generator.safetensors").read_bytes(), (folder / "sample_log" / "rank-00000.jsonl").read_text()


@pytest.mark.parametrize(
    ("number", "ends"),
    [(signal.SIGUSR1, PreemptedError), (signal.SIGTERM, PreemptedError), (signal.SIGINT, SavedError)],
)
def test_a_signal_while_saving_waits_for_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, ends: type[TrialignError]
) -> None:
    dataset = ring_dataset(tmp_path / "dataset")
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    sids = SIDTable(codes_NL, 3, dataset.keys, "reassign")
    whole, asked = tmp_path / "whole", tmp_path / "asked"
    for folder in (whole, asked):
        folder.mkdir()
    train_ring(dataset, {}, sids, whole, **SETTINGS)
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        if target.name == "step-00000003":
            os.kill(os.getpid(), number)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        with pytest.raises(ends):
            train_ring(dataset, {}, sids, asked, **SETTINGS)
    names = sorted(path.name for path in (asked / "checkpoints").glob("step-*.json"))
    assert names[0] == "step-00000003.json"
    assert len(names) == 2  # the save that was under way, and the one that was asked for
    train_ring(dataset, {}, sids, asked, **SETTINGS)
    assert outcome(asked) == outcome(whole)
