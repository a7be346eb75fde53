"""Report what this machine offers: hardware, versions, tools, disk, network; and prove that nothing uses the network.

trialign doctor
trialign doctor doctor.airgap=true      # runs every stage on a tiny built-in shop with all connections refused
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from trialign.config.config import Config
from trialign.errors import StageError

TINY = [
    "data.num_items=96",
    "data.num_users=60",
    "data.block_records=16",
    "embed.text.dim=16",
    "quantize.codebook_size=8",
    "train.steps=6",
    "train.backbone.hidden_size=32",
    "train.backbone.num_heads=2",
    "train.backbone.intermediate_size=64",
    "train.backbone.vocab_size=400",
    "stream.global_batch_size=4",
    "runtime.micro_batch_size=2",
    "runtime.log_every=2",
    "runtime.accelerator=cpu",
    "runtime.progress=false",
    "evaluate.bootstrap_samples=100",
    "baselines.sasrec.epochs=1",
    "baselines.sasrec.dim=16",
    "baselines.sasrec.text_dim=16",
]
"""Overrides that make the built-in world and every model so small that the pipeline takes seconds."""


def run(config: Config) -> None:
    """Print the table."""
    from rich.table import Table

    from trialign.runtime.doctor import Finding, examine
    from trialign.terminal import console

    pins = Path(__file__).resolve().parents[1] / "constraints.txt"
    findings = examine(config.run, pins if pins.exists() else None)
    if config.doctor.airgap:
        findings.append(Finding("reaching out", _reached_out(), "every stage ran, all connections refused"))
    table = Table(title="this machine", title_justify="left", title_style="bold")
    for column in ("", "found", "remark"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.remark)
    console().print(table)


def _reached_out() -> str:
    """Run every stage on a tiny built-in shop with the network blocked.

    Raises:
        StageError: something tried to reach another machine.
    """
    from trialign.launch import evaluate
    from trialign.launch.cli import script

    from trialign.config.compose import compose
    from trialign.config.verbs import STAGES
    from trialign.pipeline import run_pipeline
    from trialign.runtime.doctor import refuse_network

    with tempfile.TemporaryDirectory() as folder, refuse_network() as refused:
        tiny = compose("pipeline", [f"run={folder}/tiny", *TINY])
        scripts = {verb: script(verb) for verb in STAGES} | {"evaluate": evaluate.build}
        run_pipeline(tiny, scripts, lambda _: None)
    if refused:
        raise StageError(
            f"the stages tried to {'; '.join(dict.fromkeys(refused))}",
            rule="no stage reaches another machine unless its config names a model there",
            remedy="report this, with the line above",
        )
    return "nothing"
