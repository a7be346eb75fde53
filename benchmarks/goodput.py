"""Goodput: what is left of a training that is killed again and again, and at one failure in three hours.

    python -m benchmarks.goodput --json benchmarks/results/goodput.json

A training of two minutes is killed (SIGKILL) every 20 seconds and the same command started again, until the two minutes
are over. Seconds are those of the processor that the training had, so that a busy machine does not change the figure.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Row, alone, arguments, record
from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, train_ring
from trialign.data.dataset import Dataset

TOTAL, BETWEEN_KILLS = 120.0, 20.0
CHECKPOINT_EVERY = 20
FAILURE_EVERY = 3 * 3600.0
ASSUMED = ((5.0, 60.0), (30.0, 300.0))
"""Seconds per save and per restart of larger trainings; assumed, not measured."""


def work(dataset: Path, folder: Path, clock: Path) -> None:
    """Train without end, continuing from the last checkpoint, and write down what every step and every save took."""
    from trialign.runtime.checkpoint import TrainingCheckpoints
    from trialign.semid.table import SIDTable
    from trialign.stream.module import TrainedRows

    file = clock.open("a", buffering=1)
    save, mark = TrainingCheckpoints.save, TrainedRows.on_train_batch_end

    def saved(self: TrainingCheckpoints, trainer: Any) -> None:
        began, before = time.process_time(), self.seconds
        save(self, trainer)
        if self.seconds > before:  # asked again at the step it began with, it saves nothing
            file.write(json.dumps({"save": time.process_time() - began}) + "\n")

    def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mark(self, trainer, module, outputs, batch, batch_idx)
        file.write(json.dumps({"step": trainer.global_step, "at": time.process_time()}) + "\n")

    TrainingCheckpoints.save = saved  # type: ignore[method-assign]
    TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign,assignment]
    found = Dataset(dataset)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    backbone = RING_SETTINGS["backbone"] | {"hidden_size": 256, "num_layers": 4, "intermediate_size": 512}
    runtime = RING_SETTINGS["runtime"] | {"checkpoint_every": CHECKPOINT_EVERY, "micro_batch_size": 8}
    stream = RING_SETTINGS["stream"] | {"global_batch_size": 8}
    settings = RING_SETTINGS | {"steps": 10**6, "backbone": backbone, "stream": stream, "runtime": runtime}
    train_ring(found, {}, SIDTable(codes_NL, 3, found.keys, "reassign"), folder, **settings)


def processor_seconds(pid: int) -> float:
    """Return what a process has had of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attempts(folder: Path) -> list[list[dict[str, float]]]:
    """Run and kill until the time is over; return what each attempt wrote down."""
    context = multiprocessing.get_context("spawn")  # a process that has imported nothing, as a restarted command
    spent = 0.0
    told: list[list[dict[str, float]]] = []
    (folder / "train").mkdir()
    while spent < TOTAL:
        clock = folder / f"clock-{len(told)}.jsonl"
        process = context.Process(target=work, args=(folder / "dataset", folder / "train", clock))
        process.start()
        assert process.pid is not None
        until = min(BETWEEN_KILLS, TOTAL - spent)
        while processor_seconds(process.pid) < until:
            assert process.is_alive(), "it ended by itself"
            time.sleep(0.02)
        spent += processor_seconds(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines = clock.read_text().splitlines() if clock.exists() else []
        told.append([json.loads(line) for line in lines if line.endswith("}")])
    return told


def share_left(save: float, restart: float, between_failures: float) -> tuple[float, float]:
    """Return the seconds between two checkpoints that lose the least, and the share of the time that is left then.

    Lost are a save per interval, and per failure a restart and half an interval (Young, 1974).
    """
    interval = math.sqrt(2.0 * save * between_failures)
    return interval, 1.0 - save / interval - (restart + interval / 2.0) / between_failures


def main() -> None:
    """Measure, and work out the model."""
    given = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ring_dataset(folder / "dataset")
        told = attempts(folder)
    steps = [[line for line in attempt if "step" in line] for attempt in told]
    taken = sum(map(len, steps))
    kept = int(steps[-1][-1]["step"])
    saves = [line["save"] for attempt in told for line in attempt if "save" in line]
    starts = [attempt[0]["at"] for attempt in steps if attempt]
    pace = statistics.median(b["at"] - a["at"] for attempt in steps for a, b in pairwise(attempt))
    save, restart = statistics.median(saves), statistics.median(starts)
    setting = f"{TOTAL:.0f} s, killed every {BETWEEN_KILLS:.0f} s"
    rows: list[Row] = [
        alone("goodput.steps", f"{setting}: useful of those taken", kept / taken, "share"),
        alone("goodput.time", f"{setting}: useful steps x their time / all", kept * pace / TOTAL, "share"),
        alone("goodput.step", "one step", pace, "s"),
        alone("goodput.save", "one save", save, "s"),
        alone("goodput.restart", "start to first step", restart, "s"),
    ]
    for saving, restarting in ((save, restart), *ASSUMED):
        interval, left = share_left(saving, restarting, FAILURE_EVERY)
        what = f"a save {saving:.3g} s, a restart {restarting:.3g} s, every {interval:.0f} s"
        rows.append(alone("goodput.model", what, left, "share"))
    record(rows, given.json)


if __name__ == "__main__":
    main()
