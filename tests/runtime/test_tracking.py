"""Weights & Biases: one run over any number of attempts, no step twice, and never in the way of a training."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trialign.launch.doctor import TINY
from wandb.proto import wandb_internal_pb2

from tests.tools import NUM_ITEMS, RING_SETTINGS, ring_dataset, run_ranks, train_ring
from trialign.config.compose import compose
from trialign.config.stages import tracking_of
from trialign.config.tracking import Tracking
from trialign.data.dataset import Dataset
from trialign.runtime import tracking as stage
from trialign.semid.table import SIDTable
from trialign.stage import Stage
from trialign.stream.module import TrainedRows

STEPS, EVERY = 9, 3
_FRAME = 32768  # bytes of a frame of the log; a record is cut where one ends


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away whatever account this machine has."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline file: seven bytes of header, then frames of (crc, length, kind, piece)."""
    content, place, pieces = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if _FRAME - place % _FRAME < 7:
            place += _FRAME - place % _FRAME
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        piece = content[place + 7 : place + 7 + length]
        if kind == 0 or len(piece) < length:
            return
        place, pieces = place + 7 + length, pieces + piece
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def sent(run: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """Return the ids of all W&B runs of a run directory and their lines, in the order in which they were begun."""
    files = sorted(run.glob("wandb/*run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    lines = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for path in files
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
    return {path.stem for path in files}, lines


def written(file: Path) -> None:
    """Wait until W&B's own process has written all of an offline file."""
    end = time.monotonic() + 60
    while not any(record.HasField("exit") for record in records(file)) and time.monotonic() < end:
        time.sleep(0.05)


def figures(path: Path, about: str) -> dict[int, dict[str, float]]:
    """Return the figures of a CSV log by the steps that were taken, the later line where one is twice."""
    found: dict[int, dict[str, float]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            told = {about + name: float(value) for name, value in line.items() if name != "step" and value}
            found.setdefault(int(line["step"]) + 1, {}).update(told)
    return found


def told_of(run: Path) -> Tracking:
    return Tracking(run=run, stage="train", project="tests", group="ring", config={"width": 32})


def train_rank(dataset: Path, run: Path, kill_at: int | None) -> None:
    """Train under W&B; kill -9 after the given micro-batch. One process of its own."""
    if kill_at is not None:
        mark = TrainedRows.on_train_batch_end

        def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            mark(self, trainer, module, outputs, batch, batch_idx)
            if batch_idx == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    found, folder = Dataset(dataset), run / "train"
    folder.mkdir(parents=True, exist_ok=True)
    codes_NL = np.stack(np.unravel_index(np.arange(NUM_ITEMS) * 2, (3, 3, 3)), axis=1)
    runtime = RING_SETTINGS["runtime"] | {"checkpoint_every": EVERY, "log_every": 1}
    validation = {"every": 2, "users": 8, "num_beams": 10, "batch_size": 8, "patience": 0}
    train_ring(
        found,
        {},
        SIDTable(codes_NL, 3, found.keys, "reassign"),
        folder,
        tracking=told_of(run),
        **RING_SETTINGS | {"steps": STEPS, "runtime": runtime, "validation": validation},
    )


def test_a_killed_training_goes_on_in_its_run_and_sends_no_step_twice(tmp_path: Path) -> None:
    dataset, run = tmp_path / "dataset", tmp_path / "sweep" / "one"
    dataset.mkdir()
    ring_dataset(dataset)
    # Four lanes, two rows at a time: inside the sixth step, whose checkpoint is behind the third.
    assert run_ranks(train_rank, 1, dataset, run, 2 * 5) == [-signal.SIGKILL]
    (before,), _ = sent(run)
    assert run_ranks(train_rank, 1, dataset, run, None) == [0]
    (after,), lines = sent(run)
    assert after == before
    log = figures(run / "train" / "log" / "metrics.csv", "")
    assert [line["_step"] for line in lines] == list(range(1, STEPS + 1)), "steps taken; the files count from 0"
    assert all({"loss", "gradient_norm", "learning_rate"} <= log[step].keys() for step in range(1, STEPS + 1))
    assert [step for step in log if "validation/ndcg@10" in log[step]] == [2, 4, 6, 8, 9]
    machine = figures(run / "train" / "log" / "machine.csv", "machine/")
    assert machine.keys() == log.keys()
    for line in lines:
        wanted = log[line["_step"]] | machine[line["_step"]]
        assert {name: line[name] for name in wanted} == wanted


class _Refuse(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture(params=["a wrong key", "no answer"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a server that refuses every key, or one that accepts connections and says nothing."""
    if request.param == "no answer":
        with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuse) as refusing:
        thread = threading.Thread(target=refusing.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{refusing.server_address[1]}"
        refusing.shutdown()
        thread.join()


def test_a_server_that_will_not_have_us_stops_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr(stage, "_START_SECONDS", 3.0)
    logger = stage.wandb_logger(told_of(tmp_path / "run"), None)
    assert logger is not None
    assert "W&B cannot be had online" in caplog.text
    logger.log_metrics({"loss": 1.5}, 4)
    logger.finalize("success")
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    written(file)
    _, lines = sent(tmp_path / "run")
    assert [(line["_step"], line["loss"]) for line in lines] == [(5, 1.5)]


class _Answer(BaseHTTPRequestHandler):
    """As much of W&B's server as a run needs, until it hangs up."""

    protocol_version = "HTTP/1.1"
    lost = threading.Event()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        if self.lost.is_set():
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        entity = {"id": "", "name": "me"}
        bucket = {"id": "", "name": "run", "project": {"id": "", "name": "tests", "entity": entity}}
        answers: dict[str, Any] = {
            "upsertBucket": {"bucket": bucket, "inserted": True},
            "createRunFiles": {"runID": "", "uploadHeaders": [], "files": []},
        }
        told = json.dumps({"data": {name: answer for name, answer in answers.items() if name.encode() in asked}})
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told.encode())

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


def lose_network(run: Path) -> None:
    """Log a line, lose the server, log more. A process of its own: W&B remembers the first server that it met."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as answering:
        os.environ["WANDB_BASE_URL"] = f"http://127.0.0.1:{answering.server_address[1]}"
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        logger = stage.wandb_logger(told_of(run), None)
        assert logger is not None
        assert logger.experiment.settings.mode == "online"
        logger.log_metrics({"loss": 0.0}, 0)
        _Answer.lost.set()
        answering.shutdown()
    for step in range(1, 6):
        logger.log_metrics({"loss": float(step)}, step)
    logger.finalize("success")
    (file,) = run.glob("wandb/run-*/*.wandb")
    written(file)


def test_a_network_that_is_lost_later_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_FINISH_SECONDS", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    run = tmp_path / "sweep" / "one"
    assert run_ranks(lose_network, 1, run) == [0]
    _, lines = sent(run)  # what `wandb sync` would send
    assert [(line["_step"], line["loss"]) for line in lines] == [(step + 1, float(step)) for step in range(6)]


def lose_wandb(dataset: Path, run: Path) -> None:
    """Train; W&B's own process is killed in the middle. One process of its own."""
    mark = TrainedRows.on_train_batch_end

    def marked(self: TrainedRows, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mark(self, trainer, module, outputs, batch, batch_idx)
        if batch_idx == 2 * 5:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            (core,) = [pid for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(int(core), signal.SIGKILL)

    TrainedRows.on_train_batch_end = marked  # type: ignore[method-assign]
    train_rank(dataset, run, None)


def test_w_and_b_that_dies_takes_no_training_with_it(tmp_path: Path) -> None:
    dataset, run = tmp_path / "dataset", tmp_path / "sweep" / "one"
    dataset.mkdir()
    ring_dataset(dataset)
    assert run_ranks(lose_wandb, 1, dataset, run) == [0]
    assert list(figures(run / "train" / "log" / "metrics.csv", "")) == list(range(1, STEPS + 1))
    assert (run / "train" / "generator.safetensors").exists()


def test_members_of_a_sweep_share_a_group_however_deep_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    for name in ("", "widths"):
        monkeypatch.setenv("WANDB_RUN_GROUP", name)
        for member in ("a/1", "b/1"):
            config = compose("train", [f"run={tmp_path}/widths/{member}", "tracking=wandb"])
            told = tracking_of(config, Stage.open("train", tmp_path, {}))
            assert told is not None
            groups.append(told.group)
    assert groups == ["a", "b", "widths", "widths"]
    named = compose("train", [f"run={tmp_path}/one", "tracking=wandb", "tracking.group=mine"])
    told = tracking_of(named, Stage.open("train", tmp_path, {}))
    assert told is not None
    assert told.group == "mine"


def told(run: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Return the lines of every W&B run of a run directory by its name and step; names are unique."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for path in run.glob("wandb/*run-*/*.wandb"):
        written(path)
        all_records = list(records(path))
        (name,) = [record.run.display_name for record in all_records if record.HasField("run")]
        assert name not in found
        found[name] = {}
        for record in all_records:
            if record.WhichOneof("record_type") == "history":
                line = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                found[name][int(line["_step"])] = {key: json.loads(value) for key, value in line.items()}
    return found


LOGS = {
    "enrich": "enrich/clip",
    "quantize": "quantize",
    "train": "train",
    "reward/corpus": "reward/corpus",
    "reward": "reward",
    "rl": "rl",
}
"""Folders with a log by the names of their W&B runs."""


def test_every_figure_of_every_stage_is_sent_and_tables_with_their_pictures(tmp_path: Path) -> None:
    from trialign.launch.cli import script

    from trialign.config.stages import planned

    small = ["quantize=rqvae", "quantize.num_epochs=2", "enrich/clip=storefront", "enrich.clip.num_pairs=64"]
    small += [
        "enrich/interests=builtin",
        "enrich.interests.num_pairs=200",
        "reward.epochs=1",
        "reward.tiny.num_pairs=64",
    ]
    small += ["train.rl_holdout=0.3", "train.validation.every=2", "train.validation.users=8", "evaluate.generator=rl"]
    small += [
        "rl.steps=2",
        "rl.prompts_per_step=4",
        "rl.validation.every=1",
        "rl.validation.users=8",
        "rl.rewards.quality_item=1",
    ]
    small += ["evaluate.unconstrained_users=4", "evaluate.baselines=[popularity]", "baselines.names=[popularity]"]
    config = compose("pipeline", [f"run={tmp_path}/sweep/one", *TINY, *small, "runtime.log_every=1", "tracking=wandb"])
    for verb in planned(config):
        script(verb)(config)
    sent_by = told(config.run)
    tables = {"one/assign", "one/evaluate/test", "one/reward/held_out"}
    assert sent_by.keys() == {f"one/{name}" for name in LOGS} | tables
    for path in config.run.rglob("metrics.csv"):
        assert path.parent.parent in [config.run / folder for folder in LOGS.values()], "a log that nobody compares"
    for name, folder in LOGS.items():
        for file, about in (("metrics.csv", ""), ("machine.csv", "machine/")):
            path = config.run / folder / "log" / file
            lines = figures(path, about) if path.exists() else {}
            assert lines or file == "machine.csv"
            for step, wanted in lines.items():
                found = sent_by[f"one/{name}"][step]
                assert {key: found[key] for key in wanted} == wanted
    assert "validation/recall@50" in sent_by["one/rl"][0], "before the first step"
    record = json.loads((config.run / "evaluate" / "metrics.json").read_text())
    (line,) = sent_by["one/evaluate/test"].values()
    assert line["model.ndcg@10"] == record["model"]["ndcg@10"]
    assert (
        line["other_protocol.baselines.popularity.recall@10"]
        == (record["other_protocol"]["baselines"]["popularity"]["recall@10"])
    )
    (line,) = sent_by["one/reward/held_out"].values()
    judged = json.loads((config.run / "reward" / "reward.json").read_text())
    assert line["model.auc.all"] == judged["model"]["auc"]["all"]
    _tables_are_whole(config.run, record)


def _tables_are_whole(run: Path, record: dict[str, Any]) -> None:
    found = [record for path in run.glob("wandb/*run-*/*.wandb") for record in records(path)]
    began = [record.run for record in found if record.HasField("run")]
    assert {run.run_group for run in began} == {"sweep"}
    assert {run.job_type for run in began} == {"enrich", "quantize", "assign", "train", "reward", "rl", "evaluate"}
    tables = {
        path.name.split("_")[0]: json.loads(path.read_text())
        for path in run.glob("wandb/*run-*/files/media/table/*.json")
    }
    assert tables.keys() == {"items", "rankings", "auc"}
    assert tables["items"]["columns"] == ["picture", "title", "categories", "semantic ID"]
    ranked = [row[:2] for row in tables["rankings"]["data"]]
    assert [name for _, name in ranked[:2]] == ["model", "popularity (best baseline)"]
    assert len({rule for rule, _ in ranked}) == 2, "seen items kept and filtered"
    place = tables["rankings"]["columns"].index("ndcg@10")
    assert tables["rankings"]["data"][0][place] == record["model"]["ndcg@10"]
    pictures = [
        Path(entry.local_path)
        for record in found
        if record.HasField("artifact")
        for entry in record.artifact.manifest.contents
        if entry.path.endswith(".png")
    ]
    assert len(pictures) == sum(row[0] is not None for row in tables["items"]["data"]) > 0
    for picture in pictures:
        assert picture.is_relative_to(run)
        assert picture.read_bytes().startswith(b"\x89PNG")
