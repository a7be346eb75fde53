"""What waits for a GPU, in one script: every strategy, resume, and the speed of a 0.5B backbone.

    python -m benchmarks.gpu --devices 1 --json benchmarks/results/gpu.json

Everything goes through the command line, as a user's training would. Figures of speed are the medians of the log that
each training leaves (`log/machine.csv`: tokens/s without padding, MFU by the products with weight matrices, data wait).
"""

from __future__ import annotations

import csv
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.record import Row, alone, arguments, record

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3", "zero3_offload")
STEPS = 40
HALF_BILLION = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""0.50 billion parameters besides the tables; the vocabulary is that of the catalogue."""

WORLD = ["data.num_users=20000", "data.num_items=5000", "runtime.accelerator=cuda", "runtime.progress=false"]


def trialign(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the command line; what it says goes where this script's words go."""
    return subprocess.Popen([sys.executable, "-m", "trialign.launch.cli", *arguments], start_new_session=True)


def finish(*arguments: str) -> float:
    """Run the command line to its end and return the seconds."""
    began = time.monotonic()
    code = trialign(*arguments).wait()
    if code:
        raise SystemExit(f"trialign {' '.join(arguments)} ended with {code}")
    return time.monotonic() - began


def logged(run: Path, file: str, name: str) -> list[float]:
    """Return a column of a log."""
    with (run / "train" / "log" / file).open() as lines:
        return [float(line[name]) for line in csv.DictReader(lines) if line.get(name)]


def strategies(folder: Path, shared: list[str], devices: int) -> list[Row]:
    """Train a small model for the same steps under every strategy, in float32, and compare losses and weights."""
    rows, wanted = [], None
    for strategy in STRATEGIES:
        run = folder / strategy
        small = [f"train.steps={STEPS}", "train.learning_rate=1e-3", "train.backbone.dropout=0", "runtime.log_every=1"]
        ranks = [f"runtime.strategy={strategy}", f"runtime.devices={devices}", "runtime.micro_batch_size=1"]
        seconds = finish("train", f"run={run}", *shared, *small, *ranks)
        losses, weights = logged(run, "metrics.csv", "loss"), load_file(run / "train" / "generator.safetensors")
        wanted = wanted or (losses, weights)
        apart = max(abs(a / b - 1.0) for a, b in zip(losses, wanted[0], strict=True))
        moved = max(float((weights[name] - tensor).abs().max()) for name, tensor in wanted[1].items())
        rows += [
            alone(f"gpu.{strategy}", "largest relative difference of a loss to ddp", apart, ""),
            alone(f"gpu.{strategy}", "largest difference of a weight to ddp", moved, ""),
            alone(f"gpu.{strategy}", f"{STEPS} steps, start included", seconds, "s"),
        ]
    return rows


def resumed(folder: Path, shared: list[str], devices: int) -> list[Row]:
    """Kill a training after its first checkpoint, start it again, and compare with one that was left alone."""
    rows = []
    for strategy in ("ddp", "zero2", "zero3"):
        options = [f"train.steps={STEPS}", "runtime.checkpoint_every=10", "runtime.micro_batch_size=1"]
        options += [f"runtime.strategy={strategy}", f"runtime.devices={devices}"]
        whole, killed = folder / f"{strategy}-whole", folder / f"{strategy}-killed"
        finish("train", f"run={whole}", *shared, *options)
        process = trialign("train", f"run={killed}", *shared, *options)
        while not list(killed.glob("train/checkpoints/step-*.json")):
            if process.poll() is not None:
                raise SystemExit(f"{strategy}: it ended before its first checkpoint")
            time.sleep(0.05)
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)  # all ranks: the session is theirs
        assert process.wait() == -signal.SIGKILL
        finish("train", f"run={killed}", *shared, *options)
        one, other = (load_file(run / "train" / "generator.safetensors") for run in (whole, killed))
        moved = max(float((one[name] - other[name]).abs().max()) for name in one)
        rows.append(alone(f"gpu.resume.{strategy}", "largest difference of a weight, killed or not", moved, ""))
    return rows


def half_billion(folder: Path, shared: list[str], devices: int) -> list[Row]:
    """Train 0.5 billion parameters in bf16 on rows of 4,096 tokens."""
    file = folder / "config.json"
    file.write_text(json.dumps(HALF_BILLION))
    model = ["train/backbone=from_config", f"train.backbone.file={file}", "train.precision=bf16-mixed"]
    rows = []
    for strategy in ("ddp", "zero2", "zero3", "fsdp2"):
        run = folder / f"half-{strategy}"
        shape = [
            "stream.seq_len=4096",
            f"stream.global_batch_size={8 * devices}",
            "stream.workers=4",
            "runtime.micro_batch_size=4",
        ]
        ranks = [f"runtime.strategy={strategy}", f"runtime.devices={devices}"]
        finish("train", f"run={run}", *shared, *model, *shape, *ranks, "train.steps=60", "train.learning_rate=1e-4")
        for name, unit in (("tokens_per_second", "tokens/s"), ("mfu", "share"), ("data_wait", "share")):
            found = logged(run, "machine.csv", name)[1:]  # the first line holds the start
            if found:
                rows.append(alone(f"gpu.half_billion.{strategy}", name, statistics.median(found), unit))
    return rows


def main() -> None:
    """Run all of it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--devices", type=int, default=1, help="GPUs of this node")
    given = parser.parse_args()
    if torch.cuda.device_count() < given.devices:
        raise SystemExit(f"--devices {given.devices}, but torch sees {torch.cuda.device_count()} CUDA devices")
    print(torch.cuda.get_device_name(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "made"
        for verb in ("prepare", "enrich", "embed", "quantize", "assign"):
            finish(verb, f"run={made}", *WORLD)
        shared = [*WORLD, f"from.prepare={made}", f"from.embed={made}", f"from.assign={made}"]
        rows = [
            *strategies(folder, shared, given.devices),
            *resumed(folder, shared, given.devices),
            *half_billion(folder, shared, given.devices),
        ]
    record(rows, given.json)


if __name__ == "__main__":
    main()
