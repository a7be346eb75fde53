"""Several ranks from the command line: the same model, one process left at the end, one voice on the terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

TINY = [
    "data.num_items=96",
    "data.num_users=60",
    "embed.text.dim=16",
    "quantize.codebook_size=8",
    "train.steps=6",
    "train.backbone.hidden_size=32",
    "train.backbone.num_heads=2",
    "train.backbone.intermediate_size=64",
    "train.backbone.vocab_size=400",
    "train.backbone.dropout=0",
    "stream.lanes=4",
    "runtime.micro_rows=2",
    "runtime.accelerator=cpu",
    "runtime.threads=1",
    "runtime.progress=false",
    "evaluate.bootstrap_samples=100",
]


def trialign(*arguments: str) -> str:
    command = [sys.executable, "-m", "trialign.launch.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pipeline_on_two_ranks_trains_what_one_would_have(tmp_path: Path) -> None:
    trialign("pipeline", f"run={tmp_path}/one", *TINY)
    shared = [
        f"from.{verb}={tmp_path}/one" for verb in ("prepare", "enrich", "embed", "quantize", "assign", "baselines")
    ]
    said = trialign("pipeline", f"run={tmp_path}/two", *TINY, *shared, "runtime.devices=2", "runtime.strategy=ddp")
    one, two = (load_file(tmp_path / run / "train" / "generator.safetensors") for run in ("one", "two"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-5)
    assert said.count("] train\n") == 1
    assert (tmp_path / "two" / "evaluate" / "metrics.json").exists()
