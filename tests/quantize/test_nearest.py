import pytest
import torch

from trialign.quantize import nearest as module
from trialign.quantize.nearest import RoughPoints, nearest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def distances(points_ND, centers_KD):
    return (points_ND[:, None].double() - centers_KD.double()).square().sum(dim=2)


def test_nearest_equals_the_plain_distance_matrix(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    points_ND, centers_KD = torch.randn(50, 16, generator=generator()), torch.randn(9, 16, generator=generator(1))
    codes_N, squared_N = nearest(points_ND, centers_KD)
    plain_NK = distances(points_ND, centers_KD)
    assert (codes_N == plain_NK.argmin(dim=1)).all()
    torch.testing.assert_close(squared_N.double(), plain_NK.min(dim=1).values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [1, 3, 64, 200])
@pytest.mark.parametrize("spread", [1.0, 0.01])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_rough_products_find_the_same_centres(monkeypatch, dim, spread, offset):
    """Centres near each other, far from the origin, some of them twice: bfloat16 alone is wrong for most points."""
    monkeypatch.setattr(module, "_ROUGH_BLOCK", 300)
    draws = generator(dim)
    points_ND = offset + torch.randn(1000, dim, generator=draws)
    centers_KD = offset + spread * torch.randn(40, dim, generator=draws)
    centers_KD[7] = centers_KD[23]
    rough = RoughPoints(points_ND)
    expected_N = nearest(points_ND, centers_KD)[0]
    for guess_N in (torch.zeros(1000, dtype=torch.int64), expected_N, torch.randint(40, (1000,), generator=draws)):
        assert torch.equal(rough.nearest(centers_KD, guess_N), expected_N)


def test_rough_products_prove_most_answers(monkeypatch):
    draws = generator()
    centers_KD = torch.randn(30, 64, generator=draws)
    points_ND = centers_KD[torch.randint(30, (2000,), generator=draws)] + 0.5 * torch.randn(2000, 64, generator=draws)
    asked = []

    def counted(points_BD, *rest):
        asked.append(len(points_BD))
        return nearest(points_BD, *rest)

    monkeypatch.setattr(module, "nearest", counted)
    RoughPoints(points_ND).nearest(centers_KD, torch.zeros(2000, dtype=torch.int64))
    assert sum(asked) < 20


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e12])
def test_rough_products_of_any_size(scale):
    draws = generator()
    points_ND, centers_KD = scale * torch.randn(100, 8, generator=draws), scale * torch.randn(5, 8, generator=draws)
    found_N = RoughPoints(points_ND).nearest(centers_KD, torch.zeros(100, dtype=torch.int64))
    assert torch.equal(found_N, nearest(points_ND, centers_KD)[0])


def test_one_centre_is_the_nearest_of_all():
    found_N = RoughPoints(torch.randn(10, 4, generator=generator())).nearest(torch.ones(1, 4), torch.zeros(10).long())
    assert found_N.tolist() == [0] * 10
