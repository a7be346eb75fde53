from itertools import permutations

import numpy as np
import pytest

from trialign.errors import ConfigError
from trialign.semid.assign import FixedAssignments, check_load, reassign
from trialign.types import NO_ITEM


def quantize(latents_ND, codebooks_LKD):
    """Residual quantization in plain numpy."""
    codes, residual = [], latents_ND.copy()
    for vectors_KD in codebooks_LKD:
        code_N = np.square(residual[:, None] - vectors_KD).sum(axis=2).argmin(axis=1)
        residual = residual - vectors_KD[code_N]
        codes.append(code_N)
    return np.stack(codes, axis=1)


def squared_error(latents_ND, codes_NL, codebooks_LKD):
    quantized = sum(vectors_KD[code_N] for vectors_KD, code_N in zip(codebooks_LKD, codes_NL.T, strict=True))
    return np.square(latents_ND - quantized).sum()


def make_world(num_items, num_levels, codebook_size, dim=3, seed=0):
    draws = np.random.default_rng(seed)
    scale = 0.4 ** np.arange(num_levels)[:, None, None]
    codebooks_LKD = draws.normal(size=(num_levels, codebook_size, dim)) * scale
    latents_ND = draws.normal(size=(num_items, dim))
    return quantize(latents_ND, codebooks_LKD), latents_ND, codebooks_LKD


def is_unique(codes_NL):
    return len(np.unique(codes_NL, axis=0)) == len(codes_NL)


@pytest.mark.parametrize(("num_items", "num_levels", "codebook_size"), [(200, 3, 8), (50, 2, 8), (6, 1, 8), (51, 6, 2)])
def test_every_item_gets_a_tuple_of_its_own(num_items, num_levels, codebook_size):
    codes_NL, latents_ND, codebooks_LKD = make_world(num_items, num_levels, codebook_size)
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
    assert is_unique(found.codes_NL)
    assert found.codes_NL.min() >= 0
    assert found.codes_NL.max() < codebook_size
    assert (found.before_NL == codes_NL).all()
    assert not is_unique(codes_NL)
    assert found.items_moved == (found.codes_NL != codes_NL).any(axis=1).sum()
    before, after = (squared_error(latents_ND, codes, codebooks_LKD) for codes in (codes_NL, found.codes_NL))
    assert found.added_distortion == pytest.approx(after / before - 1)


def test_without_collisions_nothing_moves():
    codes_NL, latents_ND, codebooks_LKD = make_world(200, 3, 8)
    _, first = np.unique(codes_NL, axis=0, return_index=True)
    found = reassign(codes_NL[first], latents_ND[first], codebooks_LKD, max_load=0.8)
    assert (found.codes_NL == codes_NL[first]).all()
    assert (found.items_moved, found.added_distortion) == (0, 0.0)


def test_only_colliding_prefixes_are_touched():
    codes_NL, latents_ND, codebooks_LKD = make_world(40, 3, 8)
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
    prefixes = codes_NL[:, :2] @ [8, 1]
    assert np.bincount(prefixes).max() <= 8  # no prefix is over-full
    crowded = {p for p in prefixes if not is_unique(codes_NL[prefixes == p])}
    assert 0 < len(crowded) < len(set(prefixes))
    untouched = ~np.isin(prefixes, list(crowded))
    assert (found.codes_NL[untouched] == codes_NL[untouched]).all()


def test_a_prefix_is_dealt_out_at_the_least_cost():
    """One prefix of five codes and four items, against all 120 ways."""
    draws = np.random.default_rng(3)
    for _ in range(20):
        codebooks_LKD = np.stack([np.zeros((5, 2)), draws.normal(size=(5, 2))])
        latents_ND = draws.normal(size=(4, 2)) * 0.3
        codes_NL = np.stack([np.zeros(4, int), quantize(latents_ND, codebooks_LKD[1:])[:, 0]], axis=1)
        if is_unique(codes_NL):
            continue
        found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
        assert (found.codes_NL[:, 0] == 0).all()
        ways = (np.stack([np.zeros(4, int), way], axis=1) for way in permutations(range(5), 4))
        best = min(squared_error(latents_ND, way, codebooks_LKD) for way in ways)
        assert squared_error(latents_ND, found.codes_NL, codebooks_LKD) == pytest.approx(best)


def test_an_item_that_is_unique_stays_where_moving_gains_nothing():
    """Items 0 and 1 share code 0; codes 0 and 2 are the same vector, and item 2 sits on it as well as on its own."""
    codebooks_LKD = np.array([[[0.0], [9.0], [9.0], [9.0]], [[0.0], [1.0], [0.0], [5.0]]])
    codes_NL = np.array([[0, 0], [0, 0], [0, 2]])
    found = reassign(codes_NL, np.zeros((3, 1)), codebooks_LKD, max_load=0.8)
    assert found.codes_NL[2].tolist() == [0, 2]
    assert sorted(found.codes_NL[:2, 1]) == [0, 1]
    assert found.items_moved == 1


def test_a_full_prefix_spills_its_worst_fitting_item_to_the_nearest_with_room():
    """Hand-worked: K = 2, so code 0 of the first level holds two of its three items; the one at 0.4 fits it worst."""
    codebooks_LKD = np.array([[[0.0], [1.0]], [[-0.1], [0.1]]])
    latents_ND = np.array([[0.0], [0.4], [-0.1]])
    codes_NL = np.array([[0, 1], [0, 1], [0, 0]])
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
    # 0.4 leaves -0.6 of code 1, nearest to -0.1; the other two already differ.
    assert found.codes_NL.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert found.items_moved == 1


def test_identical_items_spill_over_all_levels():
    """27 tuples, 21 items that are all alike: every level must pass some on."""
    codes_NL, latents_ND, codebooks_LKD = make_world(1, 3, 3)
    found = reassign(codes_NL.repeat(21, axis=0), latents_ND.repeat(21, axis=0), codebooks_LKD, max_load=0.8)
    assert is_unique(found.codes_NL)
    assert found.items_moved == 20


def test_a_permutation_of_the_items_permutes_the_result():
    codes_NL, latents_ND, codebooks_LKD = make_world(200, 3, 8)
    order = np.random.default_rng(1).permutation(200)
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
    shuffled = reassign(codes_NL[order], latents_ND[order], codebooks_LKD, max_load=0.8)
    assert (shuffled.codes_NL == found.codes_NL[order]).all()


def test_held_tuples_stay_and_the_others_go_around_them():
    """40 of 200 items have old tuples, drawn at random; five more tuples belong to items that have left."""
    codes_NL, latents_ND, codebooks_LKD = make_world(200, 3, 8)
    draws = np.random.default_rng(2)
    numbers = draws.permutation(8**3)[:45]
    old_ML = np.stack([numbers // 64, numbers // 8 % 8, numbers % 8], axis=1)
    rows_M = np.concatenate([draws.permutation(200)[:40], np.full(5, NO_ITEM)])
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8, held=FixedAssignments(rows_M, old_ML))
    assert (found.codes_NL[rows_M[:40]] == old_ML[:40]).all()
    assert is_unique(np.concatenate([found.codes_NL, old_ML[40:]]))


def test_held_tuples_that_fill_a_prefix_push_the_new_ones_out():
    """K = 2: code 0 of the first level is full of old items, so the new one that would be there goes to code 1."""
    codebooks_LKD = np.array([[[0.0], [1.0]], [[-0.1], [0.1]]])
    held = FixedAssignments(np.array([0, NO_ITEM]), np.array([[0, 0], [0, 1]]))
    codes_NL, latents_ND = np.array([[0, 0], [0, 1]]), np.array([[-0.1], [0.1]])
    found = reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8, held=held)
    assert found.codes_NL.tolist() == [[0, 0], [1, 0]]


def test_too_many_items_are_refused_with_the_sizes_that_would_do():
    codes_NL, latents_ND, codebooks_LKD = make_world(60, 2, 8)
    with pytest.raises(ConfigError, match=r"60 items for 8\^2 = 64 tuples") as raised:
        reassign(codes_NL, latents_ND, codebooks_LKD, max_load=0.8)
    assert "quantize.num_levels=3 or quantize.codebook_size=9" in raised.value.remedy  # .8 x 81 = 64.8


def test_a_load_is_legal_up_to_the_limit_and_what_a_refusal_names_is_legal():
    check_load(8, 2, 4, max_load=0.5)
    with pytest.raises(ConfigError) as raised:
        check_load(9, 2, 4, max_load=0.5)
    # Sixteen tuples would hold nine, but half of them must stay free.
    assert raised.value.remedy.startswith("set quantize.num_levels=3 or quantize.codebook_size=5,")
    check_load(9, 3, 4, max_load=0.5)
    check_load(9, 2, 5, max_load=0.5)
