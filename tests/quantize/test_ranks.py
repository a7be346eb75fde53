"""Two gloo ranks compute what one does."""

import csv

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.tools import run_ranks
from trialign.config.quantize import RQVAEConfig
from trialign.config.runtime import RuntimeConfig
from trialign.quantize.codebook import EMACodebooks
from trialign.quantize.loss import Term
from trialign.quantize.rqvae import RQVAEQuantizer

# 300 items are 13 batches of 23, and one more that holds a single item: there the second rank is empty.
SMALL = {"codebook_size": 16, "code_dim": 8, "hidden_dims": [32], "fusion_dim": 16, "num_epochs": 5, "batch_size": 23}


def make_books():
    books = EMACodebooks(num_levels=2, codebook_size=8, dim=4, decay=0.9)
    books.set(torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)))
    return books


def on_rank(rank, folder, latents_SBD):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    books = make_books()
    for latents_BD in latents_SBD:
        mine = latents_BD[[slice(0, 7), slice(7, 20)][rank]]
        books.update(mine, books(mine))
    # Rank 0 holds one picture, rank 1 three.
    mean = Term(torch.tensor([1.0, 6.0][rank]), torch.tensor([1, 3][rank])).mean()
    torch.save({"books": books.state_dict(), "mean": mean}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_move_the_codebooks_as_one_and_weigh_items_alike(tmp_path):
    latents_SBD = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(1))
    mp.spawn(on_rank, (tmp_path, latents_SBD), nprocs=2)
    books = make_books()
    for latents_BD in latents_SBD:
        books.update(latents_BD, books(latents_BD))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for one in found:
        for name, tensor in books.state_dict().items():
            torch.testing.assert_close(one["books"][name], tensor)
    assert sum(float(one["mean"]) for one in found) / 2 == pytest.approx((1.0 + 6.0) / 4)


def fit(folder, modalities, strategies):
    for strategy in strategies:
        quantizer = RQVAEQuantizer(RQVAEConfig(**SMALL, learning_rate=1e-3))
        runtime = RuntimeConfig("cpu", devices=1 if strategy == "single" else 2, strategy=strategy)
        quantizer.fit(modalities, seed=0, folder=folder / strategy, runtime=runtime)
        if not dist.is_initialized() or dist.get_rank() == 0:
            quantizer.save(folder / strategy)


def test_a_fit_on_two_ranks_is_the_fit_on_one(modalities, tmp_path):
    """Red: k-means on a rank's own items, counts and sums of one rank, a local mean for the loss, logs of one rank."""
    assert run_ranks(fit, 1, tmp_path, modalities, ["single"]) == [0]
    assert run_ranks(fit, 2, tmp_path, modalities, ["ddp", "zero2"]) == [0, 0]
    logs, fitted = {}, {}
    for strategy in ("single", "ddp", "zero2"):
        with (tmp_path / strategy / "log" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        logs[strategy] = [{name: float(value) for name, value in row.items() if value} for row in rows]
        fitted[strategy] = RQVAEQuantizer.load(tmp_path / strategy)
    codes_NL = fitted["single"].encode(modalities).codes_NL
    for strategy in ("ddp", "zero2"):
        for row, wanted in zip(logs[strategy], logs["single"], strict=True):
            assert row == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        books, wanted = (fitted[name].model.state_dict() for name in (strategy, "single"))
        for name, tensor in wanted.items():
            torch.testing.assert_close(books[name], tensor, rtol=1e-4, atol=1e-4)
        assert (fitted[strategy].encode(modalities).codes_NL == codes_NL).all()
    assert any("codebook/usage_1" in row for row in logs["ddp"])
