r"""Semantic IDs of real catalogues next to the released ones, measured by one piece of code.

    trialign prepare experiment=beauty run=RUN data.root=DATA
    trialign embed experiment=beauty run=RUN data.root=DATA
    python -m benchmarks.identifiers beauty=RUN scientific=RUN --released beauty=FOLDER --released scientific=FOLDER \
        --json benchmarks/results/identifiers.json

A name is that of an experiment, whose settings of `quantize` are used; a released set is an index file of the
LC-Rec/LETTER family. Ours are fitted on each modality alone, on all together and, where there are pictures, on all but
these; RQ-VAE on all together. Settings were chosen by the columns of validation; those of test are for reading.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Row, arguments, compare, record
from trialign.config.compose import compose
from trialign.config.quantize import RQKMeansConfig, RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.data.dataset import Dataset
from trialign.embed.store import Modality, load
from trialign.quantize.quantizer import Quantizer
from trialign.quantize.rkmeans import RQKMeansQuantizer
from trialign.quantize.rqvae import RQVAEQuantizer
from trialign.runtime.seeding import numpy_generator
from trialign.semid.assign import reassign
from trialign.semid.quality import (
    agreement,
    category_labels,
    collisions_without_twins,
    evidence_numbers,
    held_out_pairs,
    neighbour_lift,
    path_labels,
)
from trialign.semid.released import read_index

HEALTHY = 0.95
"""Share of its codes that every level of a healthy set uses."""


class Catalogue:
    """A prepared catalogue and what its codes are measured against."""

    def __init__(self, run: Path) -> None:
        dataset = Dataset(run / "prepare")
        categories = dataset.items["categories"].to_pylist()
        self.keys, self.num_items = dataset.keys, dataset.num_items
        self.labels = {"category": category_labels(categories), "path": path_labels(categories)}
        self.evidence_N = evidence_numbers(dataset.items, dataset.images())
        self.pairs = {
            "validation": held_out_pairs(dataset.evaluation("validation")),
            "test": held_out_pairs(dataset.evaluation("test")),
        }
        self.modalities = load(run / "embed")

    def measure(self, codes_NL: np.ndarray, codebook_size: int) -> dict[str, Any]:
        """Return every figure of a set of codes."""
        usage = [len(np.unique(codes_N)) / codebook_size for codes_N in codes_NL.T]
        found: dict[str, Any] = {
            "levels": codes_NL.shape[1],
            "collisions": 1.0 - len(np.unique(codes_NL, axis=0)) / self.num_items,
            "without_twins": collisions_without_twins(codes_NL, self.evidence_N),
            "least_usage": min(usage),
        }
        for name, labels in self.labels.items():
            found |= {f"{name}_{k}": v for k, v in (agreement(codes_NL, labels) if labels is not None else {}).items()}
        for split, pairs_P2 in self.pairs.items():
            found |= {f"{split}_{key}": value for key, value in neighbour_lift(codes_NL, pairs_P2).items()}
        return found


def subsets(modalities: Mapping[str, Modality]) -> Iterator[dict[str, Modality]]:
    """Yield each modality alone, all but the pictures, and all."""
    for name, found in modalities.items():
        yield {name: found}
    if "image" in modalities and len(modalities) > 2:
        yield {name: found for name, found in modalities.items() if name != "image"}
    if len(modalities) > 1:
        yield dict(modalities)


def quantizers(experiment: str, used: list[str]) -> dict[str, Quantizer]:
    """Return the experiment's quantizer, the same by plain k-means, and RQ-VAE."""
    chosen = compose("quantize", [f"experiment={experiment}", "quantize=rkmeans", "run=unused"]).quantize
    assert isinstance(chosen, RQKMeansConfig)
    ones = {name: 1.0 for name in chosen.weights.by_modality() if name not in used}
    chosen = replace(chosen, weights=replace(chosen.weights, **ones))
    trained = RQVAEConfig(codebook_size=chosen.codebook_size, num_levels=chosen.num_levels)
    return {
        "rkmeans": RQKMeansQuantizer(chosen),
        "rkmeans, plain": RQKMeansQuantizer(replace(chosen, concentration=0.0, separation=0)),
        "rqvae": RQVAEQuantizer(trained),
    }


def ours(catalogue: Catalogue, experiment: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Fit, encode, measure and make unique."""
    for modalities in subsets(catalogue.modalities):
        for name, quantizer in quantizers(experiment, list(modalities)).items():
            # RQ-VAE takes minutes where k-means takes seconds: on everything there is, and on nothing less.
            if name not in names or (name == "rqvae" and len(modalities) < len(catalogue.modalities)):
                continue
            begin = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                runtime = RuntimeConfig(accelerator="cpu")
                health = quantizer.fit(modalities, seed=0, folder=Path(folder), runtime=runtime)
            seconds = time.process_time() - begin
            encoded = quantizer.encode(modalities)
            assigned = reassign(encoded.codes_NL, encoded.latents_ND, encoded.codebooks_LKD, max_load=0.8)
            yield {
                "set": f"{name}: {' + '.join(modalities)}",
                **catalogue.measure(encoded.codes_NL, encoded.codebooks_LKD.shape[1]),
                "moved": assigned.items_moved / catalogue.num_items,
                "added_distortion": assigned.added_distortion,
                "residual_energy": health["residual_energy"][-1],
                "reconstruction": health["reconstruction"],
                "seconds": seconds,
            }


def others(catalogue: Catalogue, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Measure the released sets, and codes drawn at random."""
    for path in sorted(folder.glob("*.index.json")) if folder else ():
        codes_NL = read_index(path, catalogue.keys).codes_NL
        yield {"set": f"released: {path.name.split('.')[0]}", **catalogue.measure(codes_NL, 256)}
    codes_NL = numpy_generator(0, "benchmarks", "random").integers(256, size=(catalogue.num_items, 3))
    yield {"set": "random codes", **catalogue.measure(codes_NL, 256)}


def claims(data: str, mine: Mapping[str, Any], released: list[dict[str, Any]]) -> Iterator[Row]:
    """Compare the healthiest of ours with the best figure of any released set, and of any healthy one."""
    healthy = [found for found in released if found["least_usage"] >= HEALTHY]
    for which, sets in (("of all", released), ("of those that use 95 % of every level", healthy)):
        for key in ("category_prefix_1", "category_prefix_2", "path_prefix_1", "path_prefix_2"):
            yield _best(data, key, "adjusted mutual information/s", mine, sets, which)
        for key in ("test_prefix_1", "test_prefix_2"):
            yield _best(data, key, "lift/s", mine, sets, which)


def _best(data: str, key: str, unit: str, mine: Mapping[str, Any], sets: list[dict[str, Any]], which: str) -> Row:
    best = max(sets, key=lambda found: found[key])
    # More is better, as of a rate.
    row = compare(f"identifiers.{data}", f"{mine['set']}; {key}", mine[key], best["set"], best[key], unit)
    return Row(**asdict(row) | {"unit": unit.removesuffix("/s"), "peer": f"{best['set']}, best {which}"})


def _table(data: str, rows: list[dict[str, Any]]) -> str:
    shown = {
        "levels": "L", "collisions": "collisions", "without_twins": "twins apart", "moved": "moved",
        "least_usage": "least usage", "category_prefix_1": "AMI 1", "category_prefix_2": "AMI 2",
        "path_prefix_1": "path 1", "path_prefix_2": "path 2", "validation_prefix_1": "lift 1",
        "validation_prefix_2": "lift 2", "test_prefix_1": "test 1", "test_prefix_2": "test 2",
        "residual_energy": "left over", "seconds": "s",
    }  # fmt: skip
    lines = [f"| {data} | {' | '.join(shown.values())} |", "|---" * (len(shown) + 1) + "|"]
    for row in rows:
        cells = [row.get(key) for key in shown]
        lines.append(f"| {row['set']} | {' | '.join('' if v is None else f'{v:.3g}' for v in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every catalogue, print its table, and record table and claims."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--released", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--quantizers", nargs="+", default=["rkmeans", "rkmeans, plain", "rqvae"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = dict(pair.split("=", 1) for pair in options.released)
    tables, rows = {}, []
    for data, run in (pair.split("=", 1) for pair in options.runs):
        catalogue = Catalogue(Path(run))
        mine = list(ours(catalogue, data, options.quantizers))
        found = list(others(catalogue, Path(folders[data]) if data in folders else None))
        tables[data] = mine + found
        print(_table(data, tables[data]), flush=True)
        if data in folders:
            rows += claims(data, [one for one in mine if one["set"].startswith("rkmeans:")][-1], found[:-1])
    record(rows, options.json)
    if options.json is not None:
        written = json.loads(options.json.read_text())
        options.json.write_text(json.dumps(written | {"tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
