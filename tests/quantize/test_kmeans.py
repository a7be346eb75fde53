from itertools import pairwise

import faiss
import numpy as np
import pytest
import torch

from trialign.quantize import kmeans as module
from trialign.quantize.kmeans import draw, kmeans
from trialign.quantize.nearest import nearest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_points(num_points=2000, dim=16, num_blobs=40, seed=0):
    draws = np.random.default_rng(seed)
    blobs = draws.normal(size=(num_blobs, dim)) * 2
    return torch.from_numpy(
        (blobs[draws.integers(num_blobs, size=num_points)] + draws.normal(size=(num_points, dim))).astype(np.float32)
    )


def test_hand_worked_clusters():
    points_ND = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0]])
    found = kmeans(points_ND, 2, num_iterations=10, generator=generator())
    assert sorted(found.centers_KD.tolist()) == [[0.0, 1.0], [10.0, 2.0]]
    assert found.codes_N[0] == found.codes_N[1] != found.codes_N[2] == found.codes_N[3]
    assert found.inertia == pytest.approx(1 + 1 + 4 + 4)


def lloyd(points_ND, num_clusters, num_iterations):
    """As it is in a textbook, in float64, from the same seeds."""
    centers_KD = module._seed_centers(points_ND, num_clusters, generator()).double()
    for done in range(num_iterations + 1):
        distances_NK = (points_ND[:, None].double() - centers_KD).square().sum(dim=2)
        codes_N = distances_NK.argmin(dim=1)
        if done < num_iterations:
            centers_KD = torch.stack([points_ND[codes_N == code].double().mean(dim=0) for code in range(num_clusters)])
    return centers_KD, codes_N, float(distances_NK.min(dim=1).values.sum())


@pytest.mark.parametrize("has_matrix_unit", [False, True])
def test_equals_plain_lloyd_with_and_without_rough_products(monkeypatch, has_matrix_unit):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_matrix_unit)
    points_ND = make_points()
    found = kmeans(points_ND, 32, num_iterations=8, generator=generator(), tolerance=0.0)
    centers_KD, codes_N, inertia = lloyd(points_ND, 32, 8)
    assert torch.equal(found.codes_N, codes_N)
    torch.testing.assert_close(found.centers_KD.double(), centers_KD, rtol=1e-5, atol=1e-5)
    assert found.inertia == pytest.approx(inertia, rel=1e-6)


def test_centres_are_means_and_codes_are_nearest():
    points_ND = make_points()
    found = kmeans(points_ND, 32, num_iterations=200, generator=generator(), tolerance=0.0)
    assert (nearest(points_ND, found.centers_KD)[0] == found.codes_N).all()
    for code in range(32):
        torch.testing.assert_close(
            found.centers_KD[code], points_ND[found.codes_N == code].mean(0), rtol=1e-3, atol=1e-3
        )


def test_inertia_never_rises_with_iterations():
    points_ND = make_points()
    found = [
        kmeans(points_ND, 32, num_iterations=n, generator=generator(), tolerance=0.0).inertia for n in range(0, 12, 2)
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(found))
    assert found[-1] < 0.95 * found[0]


def test_as_good_as_faiss():
    points_ND = make_points(4000)
    reference = faiss.Kmeans(16, 64, niter=20, seed=1, max_points_per_centroid=10**6)
    reference.train(points_ND.numpy())
    theirs = float(nearest(points_ND, torch.from_numpy(reference.centroids))[1].sum())
    ours = kmeans(points_ND, 64, num_iterations=20, generator=generator(), tolerance=0.0).inertia
    assert ours < 1.03 * theirs


def test_orthogonal_residuals_do_not_fall_into_one_cluster():
    """Isotropic noise in many dimensions: from seeds of full length one cluster takes nearly all points."""
    points_ND = torch.randn(2000, 256, generator=generator())
    found = kmeans(points_ND, 256, num_iterations=20, generator=generator())
    assert torch.bincount(found.codes_N).max() < 5 * 2000 / 256


@pytest.mark.parametrize("num_distinct", [1, 3, 8])
def test_fewer_distinct_points_than_clusters(num_distinct):
    points_ND = torch.arange(num_distinct).float().repeat(16)[:, None]
    found = kmeans(points_ND, 16, num_iterations=20, generator=generator())
    assert found.centers_KD.shape == (16, 1)
    assert found.inertia == pytest.approx(0.0, abs=1e-6)


def test_an_empty_cluster_begins_again_on_a_badly_served_point():
    points_ND, old_KD = torch.tensor([[0.0], [0.1], [0.2], [100.0]]), torch.tensor([[0.1], [-500.0]])
    codes_N, counts_K = torch.zeros(4, dtype=torch.int64), torch.tensor([4, 0])
    sums_KD = torch.tensor([[100.3], [0.0]])
    centers_KD = module._update_centers(points_ND, codes_N, old_KD, sums_KD, counts_K, generator())
    torch.testing.assert_close(centers_KD, torch.tensor([[25.075], [100.0]]))


def test_the_same_seed_gives_the_same_clusters():
    points_ND = make_points()
    one, same, other = (kmeans(points_ND, 32, num_iterations=3, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.centers_KD, same.centers_KD)
    assert not torch.equal(one.centers_KD, other.centers_KD)


def test_draws_follow_the_weights():
    source, weights_N = generator(), torch.tensor([0.0, 1.0, 0.0, 3.0])
    counts = torch.bincount(torch.cat([draw(weights_N, 1, source) for _ in range(4000)]), minlength=4)
    assert counts[0] == counts[2] == 0
    assert 2880 < counts[3] < 3120  # 3000, standard deviation 27


def test_draws_are_distinct_and_weightless_ones_come_last():
    for seed in range(20):
        drawn = draw(torch.tensor([0.0, 1.0, 0.0, 3.0]), 3, generator(seed)).tolist()
        assert len(set(drawn)) == 3
        assert set(drawn[:2]) == {1, 3}
    assert {int(draw(torch.zeros(4), 1, generator(seed))) for seed in range(50)} == {0, 1, 2, 3}


@pytest.mark.parametrize("num_iterations", [0, 1, 2])
def test_codes_are_nearest_to_the_centres_that_are_returned_however_soon_it_ends(num_iterations):
    points_ND = make_points()
    found = kmeans(points_ND, 50, num_iterations=num_iterations, generator=generator(), tolerance=0.0)
    assert torch.equal(found.codes_N, nearest(points_ND, found.centers_KD)[0])
