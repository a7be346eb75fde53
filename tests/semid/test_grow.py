import numpy as np
import pytest
import torch

from trialign.errors import ConfigError, DataError
from trialign.quantize.residual import encode, fit_codebooks
from trialign.semid.grow import grow
from trialign.semid.policy import ItemCodes, make_table
from trialign.semid.table import SIDTable

KEYS = [f"i{n}" for n in range(300)]


def make_latents(seed=0):
    """300 items of 12 kinds."""
    draws = np.random.default_rng(seed)
    kind_N = draws.integers(12, size=300)
    return kind_N, (draws.normal(size=(12, 20))[kind_N] + 0.3 * draws.normal(size=(300, 20))).astype(np.float32)


def quantized(latents_ND, seed=0, codebook_size=16, num_levels=3):
    points = torch.from_numpy(latents_ND)
    books = fit_codebooks(points, num_levels=num_levels, codebook_size=codebook_size, num_iterations=10, seed=seed)
    return ItemCodes(encode(points, books).numpy(), codebook_size, latents_ND, books.numpy())


def rotated(latents_ND):
    """The same items as a refitted encoder would show them: axes turned, units changed."""
    turn, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(20, 20)))
    return (3.0 * latents_ND @ turn + 1.0).astype(np.float32)


@pytest.mark.parametrize("policy", ["reassign", "suffix"])
def test_old_items_keep_their_tuples_and_new_ones_join_their_kind(policy):
    kind_N, latents_ND = make_latents()
    older, _ = make_table(quantized(latents_ND[:240]), KEYS[:240], policy, 0.8)
    # Items 0..19 have left, 240..299 are new, the vectors are others and so is the quantizer.
    keys, rows = KEYS[20:], np.arange(20, 300)
    growth = grow(quantized(rotated(latents_ND)[rows], seed=1), keys, policy, older)
    table, assigned = make_table(growth.coded, keys, policy, 0.8, growth.held)
    assert growth.counts == {"kept": 220, "new": 60, "left": 20}
    assert (table.codes_NL[:220] == older.codes_NL[20:]).all()
    # Nor does a new item get the tuple of one that has left.
    assert len(np.unique(np.concatenate([table.codes_NL, older.codes_NL[:20]]), axis=0)) == 300
    kinds_of = {code: set(kind_N[20:240][table.codes_NL[:220, 0] == code]) for code in range(16)}
    joined = [kind in kinds_of[code] for kind, code in zip(kind_N[240:], table.codes_NL[220:, 0], strict=True)]
    assert np.mean(joined) > 0.9
    assert assigned.items_moved <= 60


def test_a_new_item_that_equals_an_old_one_stands_beside_it():
    _, latents_ND = make_latents()
    older, _ = make_table(quantized(latents_ND[:299]), KEYS[:299], "reassign", 0.8)
    latents_ND[299] = latents_ND[7]
    growth = grow(quantized(latents_ND), KEYS, "reassign", older)
    assert (growth.coded.codes_NL[299, :2] == older.codes_NL[7, :2]).all()


def test_nothing_new_changes_nothing():
    _, latents_ND = make_latents()
    older, _ = make_table(quantized(latents_ND), KEYS, "reassign", 0.8)
    growth = grow(quantized(latents_ND, seed=5), KEYS, "reassign", older)
    table, assigned = make_table(growth.coded, KEYS, "reassign", 0.8, growth.held)
    assert (table.digest, assigned.items_moved) == (older.digest, 0)


@pytest.mark.parametrize("keys", [KEYS, [f"other{n}" for n in range(300)]], ids=["same keys", "other keys"])
def test_the_table_of_another_catalogue_is_refused(keys):
    older, _ = make_table(quantized(make_latents(seed=1)[1]), KEYS, "reassign", 0.8)
    with pytest.raises(DataError, match="no more alike than any") as raised:
        grow(quantized(make_latents()[1]), keys, "reassign", older)
    assert "assign.extend" in raised.value.remedy


def test_few_items_of_a_code_are_not_alike_for_being_near_their_own_mean():
    """Two unrelated items are half as far from the mean of both as from that of all."""
    draws = np.random.default_rng(3)
    ours, theirs = (draws.normal(size=(300, 20)).astype(np.float32) for _ in range(2))
    older, _ = make_table(quantized(theirs, codebook_size=150, num_levels=2), KEYS, "reassign", 0.8)
    with pytest.raises(DataError, match="no more alike than any"):
        grow(quantized(ours, codebook_size=150, num_levels=2), KEYS, "reassign", older)


@pytest.mark.parametrize("change", [{"codebook_size": 8}, {"num_levels": 2}, {"policy": "suffix"}])
def test_another_shape_or_policy_is_refused_with_what_would_do(change):
    _, latents_ND = make_latents()
    older, _ = make_table(quantized(latents_ND), KEYS, "reassign", 0.8)
    policy = change.pop("policy", "reassign")
    with pytest.raises(ConfigError, match="a table of 3 levels of 16 codes by reassign") as raised:
        grow(quantized(latents_ND, **change), KEYS, policy, older)
    assert "assign.policy=reassign quantize.num_levels=3 quantize.codebook_size=16" in raised.value.remedy


def test_a_code_that_no_old_item_has_stands_for_what_the_new_quantizer_says():
    latents_ND = np.array([[0, 0], [0, 1], [10, 10], [10, 11]], np.float32)
    spare_LKD = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    coded = ItemCodes(np.zeros((4, 2), np.int64), 3, latents_ND, spare_LKD)
    older = SIDTable(np.array([[0, 0], [0, 1], [2, 0], [2, 1]]), 3, KEYS[:4], "reassign")
    books_LKD = grow(coded, KEYS[:4], "reassign", older).coded.codebooks_LKD
    assert books_LKD[0].tolist() == [[0.0, 0.5], [2.0, 3.0], [10.0, 10.5]]
    assert books_LKD[1].tolist() == [[0.0, -0.5], [0.0, 0.5], [10.0, 11.0]]
