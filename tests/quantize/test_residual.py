import torch

from trialign.quantize.metrics import codebook_stats
from trialign.quantize.residual import decode, encode, fit_codebooks, residuals


def make_latents(num_items=500, dim=8, seed=0):
    return torch.randn(num_items, dim, generator=torch.Generator().manual_seed(seed))


def test_hand_worked_codes():
    codebooks_LKD = torch.tensor([[[0.0], [4.0]], [[-1.0], [1.0]]])
    latents_ND = torch.tensor([[3.5], [0.75]])
    codes_NL = encode(latents_ND, codebooks_LKD)
    assert codes_NL.tolist() == [[1, 0], [0, 1]]
    assert residuals(latents_ND, codes_NL, codebooks_LKD).squeeze(2).tolist() == [[-0.5, 0.75], [0.5, -0.25]]
    assert decode(codes_NL, codebooks_LKD).tolist() == [[3.0], [1.0]]


def test_codes_and_what_they_leave_over_make_up_the_latents():
    latents_ND = make_latents()
    codebooks_LKD = fit_codebooks(latents_ND, num_levels=3, codebook_size=16, num_iterations=10, seed=0)
    codes_NL = encode(latents_ND, codebooks_LKD)
    left_ND = residuals(latents_ND, codes_NL, codebooks_LKD)[-1]
    torch.testing.assert_close(decode(codes_NL, codebooks_LKD) + left_ND, latents_ND)


def test_every_level_lowers_the_residual_energy():
    latents_ND = make_latents()
    codebooks_LKD = fit_codebooks(latents_ND, num_levels=4, codebook_size=16, num_iterations=10, seed=0)
    energy = codebook_stats(encode(latents_ND, codebooks_LKD), latents_ND, codebooks_LKD)["residual_energy"]
    assert all(later < 0.9 * earlier for earlier, later in zip([1.0, *energy], energy, strict=False))


def test_a_permutation_of_the_items_permutes_the_codes():
    latents_ND = make_latents()
    codebooks_LKD = fit_codebooks(latents_ND, num_levels=3, codebook_size=16, num_iterations=10, seed=0)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encode(latents_ND[order], codebooks_LKD), encode(latents_ND, codebooks_LKD)[order])


def test_hand_worked_stats():
    codes_NL = torch.tensor([[0, 0], [0, 0], [1, 2], [1, 3]])
    latents_ND = torch.tensor([[2.0], [2.0], [0.0], [0.0]])  # 1 from their mean
    # Level 1 leaves 1, 1, 0, 0 and level 2 leaves 0, 0, 0, -1.
    codebooks_LKD = torch.tensor([[[1.0], [0.0], [9.0], [9.0]], [[1.0], [9.0], [0.0], [1.0]]])
    found = codebook_stats(codes_NL, latents_ND, codebooks_LKD)
    assert found["usage"] == [0.5, 0.75]
    assert found["dead_codes"] == [2, 1]
    torch.testing.assert_close(found["perplexity"], [2.0, 2.0**1.5])
    assert found["residual_energy"] == [0.5, 0.25]
    assert found["collisions"] == 0.25
