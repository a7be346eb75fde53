"""Settings outside a stage's identity: each can change the numbers and is recorded, or cannot and is in a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from trialign.config.compose import compose
from trialign.config.registry import SCHEMAS
from trialign.config.stages import identity_of, recorded_of
from trialign.config.verbs import HASHED

RECORDED = {
    "batch_size": "the number of rows of a product decides in which order its sums are added",
    "url": "another server may hold other weights under the name, or round otherwise",
    "concurrency": "a server puts what is asked at one time into one batch",
    "timeout": "decides which questions stay without a reply",
    "max_attempts": "likewise",
    "backoff": "likewise",
    "max_failure_rate": "likewise",
    "runtime.accelerator": "rounds sums otherwise",
    "runtime.devices": "adds gradients in another order",
    "runtime.nodes": "likewise",
    "runtime.threads": "divides sums otherwise",
    "runtime.strategy": "adds gradients in another order",
    "runtime.micro_batch_size": "likewise",
    "runtime.activation_checkpointing": "computes activations twice",
    "runtime.on_loss_spike": "rewind leaves batches out",
    "runtime.loss_spike_threshold": "decides which",
    "stream.damaged": "skip leaves records out",
}
"""Settings by their whole name, or by their last part in whatever group, and why they can change numbers."""

INERT = {
    "data.memory": "no byte changes: data/test_prepare.py",
    "data.threads": "likewise",
    "data.engine": "the same events, bucket by bucket: data/test_spark.py",
    "data.root": "sources are known by their content",
    "assign.index": "likewise",
    "assign.extend": "likewise",
    "assign.max_moved": "judges, changes no semantic ID",
    "assign.min_perplexity": "likewise",
    "assign.unhealthy": "likewise",
    "enrich.cache": "the key of a reply is what was asked; counts say how many were found there",
    "enrich.shards": "who asks; the stage is finished by a process that reads all replies",
    "enrich.shard": "likewise",
    "reward.cache": "as enrich.cache",
    "api_key_env": "who asks",
    "stream.workers": "the same batches: stream/test_stream_property.py",
    "stream.prefetch": "likewise",
    "stream.sample_log": "written, not read",
    "runtime.checkpoint_every": "killed is uninterrupted: distributed/test_resume.py",
    "runtime.patience_minutes": "how long is waited",
    "runtime.log_every": "written, not read",
    "runtime.progress": "likewise",
    "runtime.line_seconds": "likewise",
    "runtime.beat_seconds": "likewise",
    "cluster": "acts through processor, threads, variables and versions of a process, which are recorded",
    "tracking": "written, not read",
    "doctor": "makes no stage",
    "serve": "likewise",
    "recommend": "likewise",
    "report": "likewise",
}
"""Settings, or whole groups, that cannot change numbers, and why."""


def unhashed() -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether it is recorded) of every setting outside the identity."""

    def walk(path: str, schema: type) -> Iterator[tuple[str, bool]]:
        for found in fields(schema):
            key = f"{path}.{found.name}"
            if not (found.metadata.get("hashed", True) and path.split(".")[0] in HASHED):
                yield key, found.metadata.get("recorded", False)
            elif callable(found.default_factory) and is_dataclass(nested := found.default_factory()):
                yield from walk(key, type(nested))

    for path, schemas in SCHEMAS.items():
        for schema in schemas.values():
            yield from walk(path.replace("/", "."), schema)


@pytest.mark.parametrize(("key", "recorded"), sorted(set(unhashed())))
def test_a_setting_outside_the_identity_stands_on_one_side(key: str, recorded: bool) -> None:
    """Red for a new one until it is put into one of the lists above, with its reason."""
    group = key.split(".")[0]
    names = {group} if group in INERT else {key, key.rsplit(".", 1)[1]}
    assert bool(names & RECORDED.keys()) != bool(names & INERT.keys()), f"{key} is in no list, or in both"
    assert recorded == bool(names & RECORDED.keys())


def test_no_entry_of_the_lists_is_idle() -> None:
    names = {name for key, _ in unhashed() for name in (key, key.split(".")[0], key.rsplit(".", 1)[1])}
    assert names >= RECORDED.keys() | INERT.keys()


def test_no_setting_is_both_hashed_and_recorded() -> None:
    for schemas in SCHEMAS.values():
        for schema in schemas.values():
            for found in fields(schema):
                assert not (found.metadata.get("hashed", True) and found.metadata.get("recorded", False)), found.name


def test_a_stage_records_what_it_uses_and_its_identity_does_not_hold_it(tmp_path: Path) -> None:
    typed = ["runtime.devices=2", "runtime.strategy=ddp", "runtime.threads=3", "runtime.micro_batch_size=4"]
    typed += ["stream.damaged=skip"]
    changed = compose("pipeline", [f"run={tmp_path}", *typed, "evaluate.batch_size=7", "train.validation.batch_size=9"])
    plain = compose("pipeline", [f"run={tmp_path}"])
    for verb in ("prepare", "train", "evaluate"):
        assert identity_of(verb, changed) == identity_of(verb, plain)
    assert recorded_of("prepare", changed) == {"runtime.threads": 3}
    assert recorded_of("evaluate", changed) == {
        "runtime.threads": 3,
        "runtime.accelerator": "auto",
        "evaluate.batch_size": 7,
    }
    told = recorded_of("train", changed)
    assert (told["runtime.devices"], told["runtime.strategy"], told["stream.damaged"]) == (2, "ddp", "skip")
    assert told["train.validation.batch_size"] == 9
    assert "runtime.log_every" not in told


def test_the_address_of_a_server_is_recorded_without_what_opens_it(tmp_path: Path) -> None:
    url = "enrich.captions.url='https://me:secret@host:8000/v1?key=secret'"
    typed = [f"run={tmp_path}", "enrich/captions=endpoint", "enrich.captions.model=m", url]
    told = recorded_of("enrich", compose("enrich", typed))
    assert told["enrich.captions.url"] == "https://host:8000/v1"
