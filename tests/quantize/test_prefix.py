"""What the two dials of RQ-KMeans do."""

import numpy as np
import pytest
import torch

from trialign.config.quantize import RQKMeansConfig
from trialign.quantize.prefix import concentrate, fit_levels, separate
from trialign.quantize.residual import decode, encode


@pytest.fixture(scope="module")
def points():
    """600 items of 20 kinds in 16 dimensions."""
    draws = torch.Generator().manual_seed(0)
    kinds = torch.randn(20, 16, generator=draws)
    return kinds[torch.randint(20, (600,), generator=draws)] + 0.5 * torch.randn(600, 16, generator=draws)


def fit(points, **changes):
    sizes = {
        "num_levels": 3,
        "codebook_size": 16,
        "num_iterations": 20,
        "concentration": 0.0,
        "separation": 0,
    }
    return fit_levels(points, RQKMeansConfig(**(sizes | changes)), seed=0)


def num_distinct(codes_NL):
    return len(codes_NL.unique(dim=0))


def test_separation_cures_most_collisions_and_leaves_the_prefixes_alone(points):
    plain, apart = (encode(points, *fit(points, separation=rounds)) for rounds in (0, 20))
    assert (plain[:, :2] == apart[:, :2]).all()
    # Prefixes of 16 x 16 codes hold up to 12 items here, and a codebook has 16: even so a quarter of collisions goes.
    assert 0.75 * (600 - num_distinct(plain)) > 600 - num_distinct(apart)
    assert len(apart[:, 2].unique()) == 16


def test_concentration_gathers_the_items_of_a_prefix_at_little_cost(points):
    found = {}
    for strength in (0.0, 0.1):
        codebooks, penalties = fit(points, concentration=strength)
        codes = encode(points, codebooks, penalties)
        found[strength] = num_distinct(codes[:, :2]), (points - decode(codes, codebooks)).square().sum()
    assert found[0.1][0] < 0.9 * found[0.0][0]
    assert found[0.1][1] < 1.2 * found[0.0][1]


def test_a_large_group_attracts_no_more_than_four_items_do():
    """Forty items at 0 and four at 1, and one at .55: by plain frequencies the forty would have it."""
    residual = torch.tensor([[0.0]] * 40 + [[1.0]] * 4 + [[0.55]])
    codes_N = torch.tensor([0] * 40 + [1] * 5)
    vectors_KD, found_N, _ = concentrate(
        residual, torch.zeros(45).long(), torch.tensor([[0.0], [1.0]]), codes_N, 1.0, 20
    )
    assert found_N.tolist() == codes_N.tolist()
    torch.testing.assert_close(vectors_KD, torch.tensor([[0.0], [4.55 / 5]]))


def test_encoding_again_gives_the_codes_that_were_fitted(points):
    """The prefixes that `separate` sees are those that encoding yields."""
    codebooks, _ = fit(points, concentration=0.1)
    first_N = encode(points, codebooks[:1])[:, 0]
    residual = points - codebooks[0, first_N]
    start_N = encode(residual, codebooks[1:2])[:, 0]
    vectors_KD, codes_N, penalty_KK = concentrate(residual, first_N, codebooks[1], start_N, 0.1, 200)
    again = encode(points, torch.stack([codebooks[0], vectors_KD, codebooks[2]]), penalty_KK[None])
    assert (again[:, 1] == codes_N).all()


def test_siblings_that_no_direction_tells_apart_do_no_harm():
    """Thirty identical items, and residuals of zero: nothing is not a number, every vector has one length."""
    residual = torch.cat([torch.ones(30, 4), torch.zeros(10, 4), torch.randn(20, 4, generator=torch.manual_seed(0))])
    vectors_KD = separate(residual, torch.arange(60) // 20, torch.randn(8, 4, generator=torch.manual_seed(1)), 5)
    assert torch.isfinite(vectors_KD).all()
    lengths = vectors_KD.norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)


def test_a_penalty_is_of_the_code_one_level_up():
    books_LKD = torch.tensor([[0.0, 5.0], [0.0, 0.1], [0.0, 0.1], [0.0, 1.0]])[..., None]
    penalties_MKK = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[0.0, 9.0], [9.0, 0.0]]])
    # Code 0 above makes the second level take 1, and that makes the third take 1.
    assert encode(torch.zeros(1, 1), books_LKD, penalties_MKK).tolist() == [[0, 1, 1, 0]]
