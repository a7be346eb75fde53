"""Several ranks from the command line: the same model, one process left at the end, one voice on the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trialign.launch.doctor import TINY

pytestmark = pytest.mark.timeout(900)  # four trainings, three of them of two ranks; a busy machine takes its time

OWN = ["train.backbone.dropout=0", "runtime.threads=1", "evaluate.baselines=[popularity]"]


def trialign(*arguments: str) -> str:
    command = [sys.executable, "-m", "trialign.launch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_pipeline_on_two_ranks_trains_what_one_would_have(tmp_path: Path) -> None:
    """Red: gradients not averaged, weights that stay cut up when they are saved, ranks that all speak."""
    trialign("pipeline", f"run={tmp_path}/one", *TINY, *OWN)
    shared = [
        f"from.{verb}={tmp_path}/one" for verb in ("prepare", "enrich", "embed", "quantize", "assign", "baselines")
    ]
    one = load_file(tmp_path / "one" / "train" / "generator.safetensors")
    for strategy in ("ddp", "fsdp2", "zero3"):
        run = tmp_path / strategy
        said = trialign(
            "pipeline", f"run={run}", *TINY, *OWN, *shared, "runtime.devices=2", f"runtime.strategy={strategy}"
        )
        two = load_file(run / "train" / "generator.safetensors")
        for name, weights in one.items():
            torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)
        assert said.count("] train\n") == 1
        assert not any(word in said.lower() for word in ("global_rank", "warning"))
        figures = [json.loads((where / "evaluate" / "metrics.json").read_text()) for where in (run, tmp_path / "one")]
        assert figures[0]["model"] == figures[1]["model"]
