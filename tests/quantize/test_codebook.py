import pytest
import torch

from trialign.quantize.codebook import EMACodebooks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_books(num_levels=2, codebook_size=8, dim=4, decay=0.9):
    books = EMACodebooks(num_levels, codebook_size, dim, decay)
    books.set(torch.randn(num_levels, codebook_size, dim, generator=generator()))
    return books


def test_hand_worked_update_on_three_points():
    books = EMACodebooks(num_levels=1, codebook_size=3, dim=1, decay=0.5)
    books.set(torch.tensor([[[0.0], [10.0], [50.0]]]))
    latents_BD = torch.tensor([[1.0], [2.0], [14.0]])
    books.update(latents_BD, books(latents_BD))
    # n = .5 x 1 + .5 x (2, 1, 0); s = .5 x (0, 10, 50) + .5 x (3, 14, 0)
    torch.testing.assert_close(books.counts_LK, torch.tensor([[1.5, 1.0, 0.5]]))
    torch.testing.assert_close(books.sums_LKD.squeeze(2), torch.tensor([[1.5, 12.0, 25.0]]))
    torch.testing.assert_close(books.vectors_LKD.squeeze(2), torch.tensor([[1.0, 12.0, 50.0]]))


def test_the_second_level_follows_what_the_first_leaves_over():
    books = EMACodebooks(num_levels=2, codebook_size=1, dim=1, decay=0.0)
    books.set(torch.tensor([[[4.0]], [[0.0]]]))
    latents_BD = torch.tensor([[5.0], [7.0]])
    books.update(latents_BD, books(latents_BD))
    assert books.vectors_LKD.flatten().tolist() == [6.0, 2.0]  # means of (5, 7) and of (5 - 4, 7 - 4)


def test_a_code_that_is_never_chosen_keeps_its_vector_for_ever():
    books = EMACodebooks(num_levels=1, codebook_size=2, dim=1, decay=0.5)
    books.set(torch.tensor([[[0.0], [3.0]]]))
    for _ in range(2000):
        books.update(torch.zeros(4, 1), books(torch.zeros(4, 1)))
    assert books.vectors_LKD.flatten().tolist() == pytest.approx([0.0, 3.0], rel=1e-4)


def test_running_means_converge_to_the_means():
    books = make_books(num_levels=1)
    latents_BD = torch.randn(400, 4, generator=generator(1))
    for _ in range(300):
        books.update(latents_BD, books(latents_BD))
    codes_B = books(latents_BD).codes_BL[:, 0]
    for code in codes_B.unique():
        torch.testing.assert_close(
            books.vectors_LKD[0, code], latents_BD[codes_B == code].mean(0), rtol=1e-3, atol=1e-3
        )


def test_codebooks_are_buffers_that_no_optimizer_sees():
    books = make_books()
    assert not list(books.parameters())
    assert set(books.state_dict()) == {"vectors_LKD", "counts_LK", "sums_LKD"}
    assert {tensor.dtype for tensor in books.state_dict().values()} == {torch.float32}


def test_the_gradient_passes_straight_through():
    books, latents_BD = make_books(), torch.randn(5, 4, generator=generator(2), requires_grad=True)
    upstream = torch.randn(5, 4, generator=generator(3))
    books(latents_BD).quantized_BD.backward(upstream)
    assert torch.equal(latents_BD.grad, upstream)


@pytest.mark.parametrize("seed", range(8))
def test_dead_codes_come_back(seed):
    latents_ND = torch.randn(300, 4, generator=generator(seed))
    vectors_LKD = torch.randn(3, 8, 4, generator=generator(seed + 100))
    vectors_LKD[:, 3:] = 1e4
    books = EMACodebooks(num_levels=3, codebook_size=8, dim=4, decay=0.9)
    books.set(vectors_LKD)
    assert books.revive(latents_ND, generator(4)) == 3 * 5
    for codes_N in books(latents_ND).codes_BL.T:
        assert torch.bincount(codes_N, minlength=8)[3:].min() > 0
    # Nor does the next update send them back.
    books.update(latents_ND, books(latents_ND))
    assert books.vectors_LKD.abs().max() < 100


def test_a_revived_code_weighs_as_much_as_one_item():
    """Kept, the count of a code that was long dead would send it far beyond the next item that chooses it."""
    books = EMACodebooks(num_levels=1, codebook_size=2, dim=1, decay=0.5)
    books.set(torch.tensor([[[0.0], [100.0]]]))
    for _ in range(10):
        books.update(torch.zeros(4, 1), books(torch.zeros(4, 1)))
    assert books.revive(torch.tensor([[0.0], [0.0], [8.0]]), generator()) == 1
    assert books.vectors_LKD.flatten().tolist() == [0.0, 8.0]
    books.update(torch.tensor([[10.0]]), books(torch.tensor([[10.0]])))
    # n = .5 x 1 + .5 x 1; s = .5 x 8 + .5 x 10
    assert books.vectors_LKD[0, 1].item() == pytest.approx(9.0)


def test_codes_in_use_are_not_revived():
    latents_ND = torch.randn(300, 4, generator=generator())
    books = EMACodebooks(num_levels=1, codebook_size=8, dim=4, decay=0.9)
    books.set(latents_ND[None, :8].clone())
    before = books.vectors_LKD.clone()
    assert books.revive(latents_ND, generator(4)) == 0
    assert torch.equal(books.vectors_LKD, before)
