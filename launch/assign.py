"""Turn codes into unique semantic IDs, and measure their quality."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trialign.config.assign import AssignConfig
from trialign.config.config import Config
from trialign.config.instantiate import locate_recorded
from trialign.config.stages import open_stage, tracking_of
from trialign.errors import DataError
from trialign.files import write_atomically
from trialign.manifest import Manifest
from trialign.record import read_record, to_json, write_record
from trialign.semid.record import Health, Neighbourhood, Quality, Statistic
from trialign.stage import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trialign.data.dataset import Dataset
    from trialign.semid.policy import ItemCodes
    from trialign.semid.table import SIDTable

log = logging.getLogger(__name__)

_NUM_EXAMPLES = 48


def run(config: Config) -> Stage:
    """Write the SID table, quality.json and quality.html, or find them written."""
    index, older = config.assign.index, _folder(config.assign.extend)
    sources = {"index": Path(index)} if index else {"extend": older / "sids.json"} if older else {}
    stage = open_stage("assign", config, sources=sources)
    if stage.finished:
        _judge(read_record(Quality, stage.folder / "quality.json"), config.assign)
        return stage
    from trialign.data.dataset import Dataset
    from trialign.semid.grow import grow
    from trialign.semid.html import page
    from trialign.semid.policy import make_table
    from trialign.semid.quality import evidence_numbers, held_out_pairs, quality
    from trialign.semid.released import read_index
    from trialign.semid.table import SIDTable

    dataset, held, policy = Dataset(stage.inputs["prepare"]), None, config.assign.policy
    titles, categories = (dataset.items[name].to_pylist() for name in ("title", "categories"))
    with stage.working_out():
        coded, statistics = (read_index(Path(index), dataset.keys), {}) if index else _encode(stage, config)
        if older:
            growth = grow(coded, dataset.keys, policy, SIDTable.load(older))
            coded, held, stage.counts["extended"] = growth.coded, growth.held, growth.counts
        table, assigned = make_table(coded, dataset.keys, policy, config.assign.max_load, held)
        report = quality(
            assigned,
            coded.codebook_size,
            evidence_N=evidence_numbers(dataset.items, dataset.images()),
            categories=categories,
            pairs_P2=held_out_pairs(dataset.evaluation("validation")),
            quantizer=statistics,
            labels=_labels(dataset, stage),
            neighbourhoods=_neighbourhoods(table, coded, stage),
        )
        report = replace(report, health=_judge(report, config.assign))
    with stage.building() as folder:
        table.save(folder)
        write_record(folder / "quality.json", report)
        write_atomically(folder / "quality.html", page(table.codes_NL, report, titles, categories, dataset.images()))
        measured = to_json(report)
        stage.counts |= {
            name: measured[name] for name in ("num_items", "collisions", "items_moved", "added_distortion")
        }
        if tracking := tracking_of(config, stage):
            from trialign.runtime.tracking import log_table  # imports lightning

            log_table(tracking, measured, "items", *_examples(dataset, table))
    return stage


def _examples(dataset: Dataset, table: SIDTable) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Return columns and rows of a table of items spread over the catalogue."""
    shown = range(0, dataset.num_items, max(1, dataset.num_items // _NUM_EXAMPLES))
    pictures = {item: picture for item, picture in dataset.images() if item in shown}
    titles, categories = (dataset.items[name].to_pylist() for name in ("title", "categories"))
    rows = [
        [pictures.get(item), titles[item], " > ".join(categories[item]), "-".join(map(str, table.codes_NL[item]))]
        for item in shown
    ]
    return ("picture", "title", "categories", "semantic ID"), rows


def _judge(report: Quality, config: AssignConfig) -> Health:
    """Return the faults of semantic IDs with the thresholds, and warn of each.

    Raises:
        DataError: there is a fault, and `assign.unhealthy` is refuse.
    """
    from trialign.semid.health import faults

    found = list(faults(report, config))
    if found and config.unhealthy == "refuse":
        raise DataError(
            "unhealthy semantic IDs: " + "; ".join(found),
            rule="assign.unhealthy=refuse takes healthy ones only",
            remedy="embed what tells items apart (titles, pictures, captions, collaborative vectors), choose a "
            "quantize.codebook_size that fits the catalogue, or set assign.unhealthy=warn",
        )
    for fault in found:
        log.warning("  unhealthy semantic IDs: %s", fault)
    return Health(config.max_moved, config.min_perplexity, found)


def _encode(stage: Stage, config: Config) -> tuple[ItemCodes, dict[str, Statistic]]:
    from trialign.embed.store import load
    from trialign.semid.policy import ItemCodes

    made = Manifest.read(stage.inputs["quantize"])
    folder = stage.inputs["quantize"]
    chosen = config.quantize._target_
    target = locate_recorded(made.setting("quantize._target_", str), "quantize", chosen, folder)
    encoded = target.load(folder).encode(load(stage.inputs["embed"]))
    size = encoded.codebooks_LKD.shape[1]
    return ItemCodes(encoded.codes_NL, size, encoded.latents_ND, encoded.codebooks_LKD), cast(
        "dict[str, Statistic]", made.counts["codebook_stats"]
    )


def _labels(dataset: Dataset, stage: Stage) -> dict[str, NDArray[np.int64]]:
    """Return the labels that prefixes are compared with, next to categories: true attributes, captions, interests."""
    from trialign.enrich.evidence import load_evidence
    from trialign.semid.labels import evidence_labels

    captions, interests = load_evidence(stage.inputs["enrich"])[:2] if "enrich" in stage.inputs else ([], [])
    return evidence_labels(dataset.truth(), captions, interests)


def _neighbourhoods(table: SIDTable, coded: ItemCodes, stage: Stage) -> dict[str, Neighbourhood] | None:
    """Return the modality distortion of codes that were made here; codes from a file have no vectors."""
    from trialign.embed.store import load
    from trialign.semid.distortion import neighbourhoods

    if coded.latents_ND is None or coded.codebooks_LKD is None:
        return None
    modalities = load(stage.inputs["embed"])
    return neighbourhoods(table.codes_NL, coded.latents_ND, coded.codebooks_LKD, modalities)


def _folder(extend: str | None) -> Path | None:
    """Return the assign folder that `assign.extend` names, or that of the run that it names."""
    if extend is None:
        return None
    return Path(extend) if (Path(extend) / "sids.json").exists() else Path(extend) / "assign"
