"""Residual k-means against faiss used as OpenOneRec uses it, and the rate of RQ-VAE training.

    python -m benchmarks.quantize --json benchmarks/results/quantize.json

Both sides fit 3 codebooks of 256 on the same 12,101 vectors of width 768 (500 clusters and noise, seed 0) by 20
iterations on one thread. The peer trains one `faiss.Kmeans` per level and subtracts what its index finds; its encoding
is a nearest-centre search in torch. Figures are medians of processor time: one thread does everything.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.record import Row, alone, arguments, compare, paired_seconds, record
from trialign.config.quantize import RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.embed.store import Modality
from trialign.quantize.residual import encode, fit_codebooks, residuals
from trialign.quantize.rqvae import RQVAEQuantizer

NUM_ITEMS, WIDTH, LEVELS, CODES, ITERATIONS = 12_101, 768, 3, 256, 20


class FaissResidual:
    """One `faiss.Kmeans` per level on what the level before left."""

    def fit(self, points_ND: torch.Tensor) -> float:
        """Fit all levels; return the mean squared error."""
        self.centers: list[torch.Tensor] = []
        rest_ND = points_ND.clone()
        for _ in range(LEVELS):
            level = faiss.Kmeans(WIDTH, CODES, niter=ITERATIONS)
            level.train(rest_ND.numpy())
            _, nearest_N1 = level.index.search(rest_ND.numpy(), 1)
            centers_KD = torch.from_numpy(level.centroids.copy())
            rest_ND = rest_ND - centers_KD[nearest_N1.reshape(-1)]
            self.centers.append(centers_KD)
        return float(rest_ND.square().mean())

    def encode(self, points_BD: torch.Tensor) -> torch.Tensor:
        """Return the codes of a batch."""
        codes = []
        for centers_KD in self.centers:
            lengths_BK = points_BD.square().sum(dim=1, keepdim=True) + centers_KD.square().sum(dim=1)
            nearest_B = torch.addmm(lengths_BK, points_BD, centers_KD.T, alpha=-2.0).argmin(dim=1)
            points_BD = points_BD - centers_KD[nearest_B]
            codes.append(nearest_B)
        return torch.stack(codes, dim=1)


def k_means(points_ND: torch.Tensor, repeats: int) -> list[Row]:
    """Fit and encode, paired."""
    peer = FaissResidual()
    sizes = {"num_levels": LEVELS, "codebook_size": CODES, "num_iterations": ITERATIONS, "seed": 0}
    their_error = peer.fit(points_ND)
    codebooks_LKD = fit_codebooks(points_ND, **sizes)
    residuals_LND = residuals(points_ND, encode(points_ND, codebooks_LKD), codebooks_LKD)
    our_error = float(residuals_LND[-1].square().mean())
    ours, theirs = paired_seconds(
        lambda: fit_codebooks(points_ND, **sizes),
        lambda: peer.fit(points_ND),
        repeats=repeats,
        clock=time.process_time,
    )
    our_batch, their_batch, their_single = paired_seconds(
        lambda: encode(points_ND, codebooks_LKD),
        lambda: peer.encode(points_ND),
        lambda: [peer.encode(point_1D) for point_1D in points_ND[:500].split(1)],
        repeats=repeats,
        clock=time.process_time,
    )
    shape = f"{NUM_ITEMS:,} x {WIDTH}, {LEVELS} x {CODES}"
    error = f"mean squared error {our_error:.4f}, theirs {their_error:.4f}"
    rate, single = NUM_ITEMS / our_batch, 500 / their_single
    return [
        compare("quantize.fit", f"{shape}, {ITERATIONS} iterations; {error}", ours, "faiss.Kmeans", theirs, "s"),
        compare("quantize.encode", f"{shape}; theirs one by one", rate, "OpenOneRec encode", single, "items/s"),
        compare(
            "quantize.encode",
            f"{shape}; theirs in one batch",
            rate,
            "OpenOneRec encode",
            NUM_ITEMS / their_batch,
            "items/s",
        ),
    ]


def rqvae(points_ND: torch.Tensor) -> Row:
    """Items per second of RQ-VAE training, everything included."""
    modalities = {"text": Modality(points_ND.numpy(), np.ones(NUM_ITEMS, bool))}
    epochs = 3
    quantizer = RQVAEQuantizer(RQVAEConfig(num_levels=LEVELS, codebook_size=CODES, num_epochs=epochs))
    runtime = RuntimeConfig(accelerator="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (seconds,) = paired_seconds(
            lambda: quantizer.fit(modalities, seed=0, folder=folder, runtime=runtime), repeats=1
        )
    return alone("quantize.rqvae", f"{NUM_ITEMS:,} x {WIDTH}, {epochs} epochs", epochs * NUM_ITEMS / seconds, "items/s")


def main() -> None:
    """Run all rows."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    draws = torch.Generator().manual_seed(0)
    clusters = torch.randn(500, WIDTH, generator=draws)
    noise = torch.randn(NUM_ITEMS, WIDTH, generator=draws)
    points_ND = clusters[torch.randint(500, (NUM_ITEMS,), generator=draws)] + noise
    with torch.inference_mode():
        rows = k_means(points_ND, options.repeats)
    record([*rows, rqvae(points_ND)], options.json)


if __name__ == "__main__":
    main()
