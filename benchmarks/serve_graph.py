"""The graph of the encoding `position` against rankers that search: milliseconds per user, on one core.

    python -m benchmarks.serve --only graph --json FILE

Both sides are hardly trained models of the quickstart's sizes. The peer is the beam ranker of an older revision with
50 beams, from a worktree of its own, on a run of its own, since formats have changed; all calls take turns. The others
are compared with the graph too: the exact ranker of this revision, the graph run operator by operator, ONNX Runtime.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.record import Row, compare, paired_seconds
from trialign.data.dataset import Dataset
from trialign.export.files import rank
from trialign.generate.save_load import load_ranker
from trialign.semid.table import SIDTable

CHECKOUT = Path(__file__).resolve().parents[1]
OLD = "65cf3ac"
BEAMS, K, BATCHES = 50, 10, (1, 32)
SETTINGS = ["experiment=quickstart", "train.items.encoding=position", "train.steps=20", "runtime.threads=1"]
ONE_CORE = {"OMP_NUM_THREADS": "1"}

SERVER = f"""
import sys
from pathlib import Path
import torch
from trialign.data.dataset import Dataset
from trialign.generate.artefact import load_ranker
from trialign.semid.table import SIDTable
torch.set_num_threads(1)
run = Path(sys.argv[1])
sids = SIDTable.load(run / "assign")
ranker = load_ranker(run / "train", sids, num_beams={BEAMS}, batch_size={max(BATCHES)}, device="cpu")
histories = Dataset(run / "prepare").evaluation("test").histories
print("ready", flush=True)
for line in sys.stdin:
    ranker.rank(histories[: int(line)], {K}, exclude_seen=False)
    print("done", flush=True)
"""


def graph(repeats: int) -> list[Row]:
    """Make both runs, export ours, and take turns; return the rows of all batch sizes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, worktree(Path(scratch) / "old") as old:
        make(old, Path(scratch) / "theirs")
        make(CHECKOUT, Path(scratch) / "ours", ["export.compile=aoti", "export.onnx=true"])
        with server(old, Path(scratch) / "theirs") as ask:
            return [row for size in BATCHES for row in measure(Path(scratch) / "ours", ask, size, repeats)]


def measure(run: Path, ask: Callable[[int], None], size: int, repeats: int) -> list[Row]:
    """Return the rows of one batch size."""
    histories = Dataset(run / "prepare").evaluation("test").histories[:size]
    exact = load_ranker(run / "train", SIDTable.load(run / "assign"), num_beams=BEAMS, batch_size=size, device="cpu")
    graphs = [rank.load(run / "export", name) for name in (rank.COMPILED, rank.GRAPH, rank.ONNX)]
    calls = [partial(graph.rank_items, histories, K) for graph in graphs]
    taken = paired_seconds(*calls, partial(exact.rank, histories, K, exclude=None), partial(ask, size), repeats=repeats)
    ours, *others = (1e3 * seconds / size for seconds in taken)
    names = ["the graph, eager", "ONNX Runtime", "exact ranker", f"{BEAMS} beams of revision {OLD}"]
    lengths = np.mean([len(history) for history in histories])
    setting = f"{exact.generator.items.leaf_of_item_N.shape[0]:,} items, batch {size}, histories of {lengths:.0f}"
    return [
        compare(f"serve.graph.{size}", setting, ours, name, theirs, "ms/user")
        for name, theirs in zip(names, others, strict=True)
    ]


@contextmanager
def worktree(folder: Path) -> Iterator[Path]:
    """Check the older revision out, importable by its path alone."""
    subprocess.run(["git", "worktree", "add", "--detach", str(folder), OLD], cwd=CHECKOUT, check=True)
    try:
        for name in ("launch", "conf", "slurm"):
            (folder / "trialign" / name).symlink_to(folder / name)
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=CHECKOUT, check=True)


def make(tree: Path, run: Path, export: Sequence[str] = ()) -> None:
    """Run the stages up to the generator by the code of a tree; with settings of `export`, export it."""
    stages = {verb: SETTINGS for verb in ("prepare", "embed", "quantize", "assign", "train")}
    for verb, settings in (stages | ({"export": [*SETTINGS, *export]} if export else {})).items():
        command = [sys.executable, "-m", "trialign.launch.cli", verb, f"run={run}", *settings]
        subprocess.run(command, cwd=tree, env=os.environ | ONE_CORE | {"PYTHONPATH": str(tree)}, check=True)


@contextmanager
def server(tree: Path, run: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that lets the older ranker answer so many histories, in a process of its own."""
    pipe = subprocess.PIPE
    environment = os.environ | ONE_CORE | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", SERVER, str(run)]
    with subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()

        def ask(size: int) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{size}\n")
            if process.stdout.readline() != "done\n":
                raise SystemExit("the older ranker ended")

        yield ask
        process.stdin.close()
