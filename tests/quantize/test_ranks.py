"""Two gloo ranks compute what one does."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trialign.quantize.codebook import EMACodebooks
from trialign.quantize.loss import Term


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
