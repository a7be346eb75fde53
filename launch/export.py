"""Export a generator: a folder that transformers, vLLM or a graph runtime load without trialign."""

from __future__ import annotations

from trialign.config.config import Config
from trialign.config.stages import open_stage
from trialign.stage import Stage


def run(config: Config) -> Stage:
    """Write and check the folder, or find it written."""
    stage = open_stage("export", config)
    if stage.finished:
        return stage
    from trialign.export.export import export, open_source
    from trialign.export.graph import require_tools

    require_tools(compiled=config.export.compile == "aoti", onnx=config.export.onnx)
    source = open_source(stage.inputs, config.export.generator)
    with stage.building() as folder:
        stage.counts |= export(source, folder, config.export)
    return stage
