"""What each term of the aligned quantizer does to semantic IDs, on the storefront.

    O="experiment=quickstart run=RUN enrich/clip=storefront enrich/captions=builtin enrich/interests=builtin"
    trialign prepare $O
    trialign enrich $O
    trialign embed $O embed/image=clip 'embed.evidence=[title,description,caption,interests]' embed.interests=true
    python -m benchmarks.aligned RUN --json benchmarks/results/aligned.json

RQ-VAE under every combination of its terms, and RQ-KMeans on the same vectors. Figures are those of quality.json.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import arguments
from trialign.config.compose import compose
from trialign.config.quantize import RQKMeansConfig, RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.data.dataset import Dataset
from trialign.embed.store import load, load_interests
from trialign.enrich.evidence import load_evidence
from trialign.quantize.quantizer import Quantizer
from trialign.quantize.rkmeans import RQKMeansQuantizer
from trialign.quantize.rqvae import RQVAEQuantizer
from trialign.semid.assign import reassign
from trialign.semid.distortion import neighbourhoods
from trialign.semid.labels import evidence_labels
from trialign.semid.quality import agreement, category_labels, held_out_pairs, neighbour_lift, path_labels

TERMS = {"alignment_weight": "alignment", "interest_weight": "interest", "balance_weight": "balance"}


class Storefront:
    """A prepared, enriched and embedded run, and what its codes are measured against."""

    def __init__(self, run: Path, modalities: list[str]) -> None:
        dataset, said = Dataset(run / "prepare"), load_evidence(run / "enrich")
        categories = dataset.items["categories"].to_pylist()
        self.labels = {"category": category_labels(categories), "path": path_labels(categories)}
        self.labels |= evidence_labels(dataset.truth(), said.captions, said.interests)
        self.pairs_P2 = held_out_pairs(dataset.evaluation("validation"))
        self.all, self.interests = load(run / "embed"), load_interests(run / "embed")
        self.modalities = {name: self.all[name] for name in modalities}

    def measure(self, quantizer: Quantizer, seed: int) -> dict[str, Any]:
        """Fit, encode, make unique, and return every figure."""
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            how: dict[str, Any] = {"seed": seed, "folder": Path(folder), "runtime": RuntimeConfig("cpu")}
            health = quantizer.fit(self.modalities, **how, interests=self.interests)
        seconds = time.process_time() - begin
        coded = quantizer.encode(self.modalities)
        codes_NL = reassign(coded.codes_NL, coded.latents_ND, coded.codebooks_LKD, max_load=0.8).codes_NL
        kept = neighbourhoods(codes_NL, coded.latents_ND, coded.codebooks_LKD, self.all)
        return {
            **{name: health[name] for name in ("usage", "perplexity", "collisions", "reconstruction")},
            "neighbourhoods": {k: asdict(v) for k, v in kept.items()},
            "agreement": {k: agreement(codes_NL, v) for k, v in self.labels.items() if v is not None},
            "lift": neighbour_lift(codes_NL, self.pairs_P2),
            "seconds": seconds,
        }


def variants(weight: float, codebook_size: int) -> Iterator[tuple[str, Quantizer]]:
    """Yield RQ-KMeans, plain and as it is by default, and RQ-VAE with every combination of terms."""
    chosen = compose("quantize", ["quantize=rkmeans", f"quantize.codebook_size={codebook_size}", "run=unused"]).quantize
    assert isinstance(chosen, RQKMeansConfig)
    yield "rkmeans", RQKMeansQuantizer(chosen)
    yield "rkmeans, plain", RQKMeansQuantizer(replace(chosen, separation=0))
    for on in product((False, True), repeat=len(TERMS)):
        weights = {name: weight * use for name, use in zip(TERMS, on, strict=True)}
        settings = RQVAEConfig(codebook_size=codebook_size, **weights)
        named = [label for use, label in zip(on, TERMS.values(), strict=True) if use]
        yield f"rqvae: {' + '.join(named) or 'no further term'}", RQVAEQuantizer(settings)


def means(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of every figure over seeds, whatever holds it."""
    first = found[0]
    if isinstance(first, dict):
        return {name: means([one[name] for one in found]) for name in first}
    return np.mean(found, axis=0).tolist()  # type: ignore[no-any-return]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as markdown."""
    labels = [name for name in ("category", "style", "purpose") if name in next(iter(rows.values()))["agreement"]]
    titles = ["terms", "collisions", "least usage", "perplexity", "text kept", "image kept", *labels, "lift", "s"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        near, agreed = row["neighbourhoods"], row["agreement"]
        cells = [
            name,
            f"{row['collisions']:.1%}",
            f"{min(row['usage']):.0%}",
            " ".join(f"{level:.1f}" for level in row["perplexity"]),
            *(f"{near[modality]['before']:.3f} {near[modality]['after']:.3f}" for modality in ("text", "image")),
            *(" ".join(f"{agreed[label][f'prefix_{depth}']:.3f}" for depth in (1, 2)) for label in labels),
            " ".join(f"{row['lift'][f'prefix_{depth}']:.1f}" for depth in (1, 2)),
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every variant, print the table and record it."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--weight", type=float, default=0.1, help="of every term that is on")
    parser.add_argument("--codebook-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modalities", nargs="+", default=["text", "image"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    shop, rows = Storefront(options.run, options.modalities), {}
    for name, quantizer in variants(options.weight, options.codebook_size):
        rows[name] = means([shop.measure(quantizer, seed) for seed in range(options.seeds)])
        print(name, f"{rows[name]['collisions']:.3f}", flush=True)
    print(table(rows))
    if options.json is not None:
        settings = {"weight": options.weight, "codebook_size": options.codebook_size, "seeds": options.seeds}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
