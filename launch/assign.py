"""Turn codes into unique semantic IDs, and say how good they are."""

from __future__ import annotations

import json

from trialign.config.compose import Config
from trialign.config.instantiate import locate
from trialign.config.stages import open_stage
from trialign.manifest import Manifest, Stage, write_atomically


def run(config: Config) -> Stage:
    """Write the SID table and quality.json, or find them written."""
    stage = open_stage("assign", config)
    if stage.finished:
        return stage
    from trialign.data.dataset import Dataset
    from trialign.embed.store import load
    from trialign.semid.assign import reassign
    from trialign.semid.quality import quality
    from trialign.semid.table import SIDTable

    dataset = Dataset(stage.inputs["prepare"])
    made = Manifest.read(stage.inputs["quantize"])
    target = locate(made.config["quantize"]["_target_"], "quantize")
    encoded = target.load(stage.inputs["quantize"]).encode(load(stage.inputs["embed"]))
    codebook_size = encoded.codebooks_LKD.shape[1]
    assigned = reassign(encoded.codes_NL, encoded.latents_ND, encoded.codebooks_LKD, config.assign.max_load)
    report = quality(
        encoded.codes_NL,
        assigned,
        codebook_size,
        categories=dataset.items["categories"].to_pylist(),
        health=made.counts["health"],
    )
    with stage.building() as folder:
        policy = config.assign.policy
        SIDTable(assigned.codes_NL, codebook_size, dataset.keys, policy, encoded.codebooks_LKD).save(folder)
        write_atomically(folder / "quality.json", json.dumps(report, indent=2) + "\n")
        stage.counts |= {name: report[name] for name in ("num_items", "collisions", "items_moved", "added_distortion")}
    return stage
