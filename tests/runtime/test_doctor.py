"""What a machine offers, and that no stage reaches out of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from trialign.launch import doctor, evaluate
from trialign.launch.cli import script
from trialign.launch.doctor import TINY

from trialign.config.compose import compose
from trialign.config.verbs import REQUIRED
from trialign.errors import StageError
from trialign.pipeline import run_pipeline
from trialign.runtime.doctor import examine, refuse_network

# Addresses that are no machine's (RFC 5737), and a name that is none (RFC 2606).
ELSEWHERE, NOBODY = ("192.0.2.1", 80), "trialign.invalid"


def test_no_stage_reaches_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = ["enrich/clip=storefront", "enrich.clip.num_pairs=64", "embed/image=clip", "quantize=rqvae"]
    asked += ["embed/collaborative=ppmi", "quantize.num_epochs=2", "tracking=wandb"]
    with refuse_network() as refused:
        config = compose("pipeline", [f"run={tmp_path}/run", *TINY, *asked])
        run_pipeline(config, {verb: script(verb) for verb in REQUIRED} | {"evaluate": evaluate.build}, print)
    assert refused == []


def test_the_guard_refuses_other_machines_and_this_one_stays_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with refuse_network() as refused:
            with pytest.raises(OSError, match="no network in here"):
                socket.create_connection(ELSEWHERE, timeout=5)
            with pytest.raises(OSError, match="no network in here"):
                socket.getaddrinfo(NOBODY, 443)
            socket.create_connection(server.getsockname()).close()
        assert refused == [f"look up {ELSEWHERE[0]}", f"look up {NOBODY}"]
        with refuse_network() as again, socket.socket() as plain, pytest.raises(OSError, match="no network"):
            plain.connect(ELSEWHERE)
        assert again == ["connect 192.0.2.1:80"]


def test_a_stage_that_reaches_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def reaching(*_: object) -> None:
        with pytest.raises(OSError, match="no network"):
            socket.getaddrinfo(NOBODY, 443)

    monkeypatch.setattr("trialign.pipeline.run_pipeline", reaching)
    with pytest.raises(StageError, match=f"tried to look up {NOBODY}"):
        doctor.run(compose("doctor", ["doctor.airgap=true"]))


def test_the_table_names_what_differs_from_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested together\nnumpy==0.0.1\nno-such-package==1.0\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 8)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    findings = {finding.what: finding for finding in examine(tmp_path / "not" / "yet", pins)}
    versions = findings["pinned versions"]
    assert versions.found == "0 of 2 as pinned, not installed: no-such-package"
    assert versions.remark.startswith("numpy ")
    assert versions.remark.endswith("pinned 0.0.1")
    assert "HF_HUB_OFFLINE" in findings["models by name"].found
    assert findings["W&B"].found.startswith("online")
    assert not any("secret" in str(finding) for finding in findings.values())
    assert f"disk of {tmp_path}" in findings
