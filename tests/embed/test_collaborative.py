import json
from pathlib import Path

import numpy as np
import pytest
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.config.embed import PpmiConfig
from trialign.data.dataset import Dataset
from trialign.embed.collaborative import PpmiSvd, co_occurrence, ppmi, shrink
from trialign.embed.store import Modality
from trialign.errors import ConfigError, DataError


def histories(*lists):
    return [np.array(items, np.int32) for items in lists]


def test_co_occurrence_of_three_histories_by_hand():
    counts_NN = co_occurrence(histories([0, 1, 2], [1, 0], [0, 0, 3]), num_items=5, window=2).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1] = 1 + 1  # next to each other in the first and in the second
    expected[1, 2] = 1
    expected[0, 2] = 1 / 2  # two places apart
    expected[0, 3] = 1 + 1 / 2  # twice in the third; an item next to itself does not count
    np.testing.assert_allclose(counts_NN, expected + expected.T)


def test_histories_do_not_run_into_each_other():
    counts_NN = co_occurrence(histories([0, 1], [2], [3, 4]), num_items=5, window=10)
    assert sorted(zip(*counts_NN.nonzero(), strict=True)) == [(0, 1), (1, 0), (3, 4), (4, 3)]


def test_ppmi_by_hand():
    # One pair {0, 1} seen three times, one pair {2, 3} once: 8 places in all.
    counts_NN = co_occurrence(histories([0, 1], [1, 0], [0, 1], [2, 3]), num_items=4, window=1)
    # Unsmoothed: p(0, 1) = 3/8, p(0) = p(1) = 3/8; p(2, 3) = 1/8 = p(2) = p(3).
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = np.log((3 / 8) / (3 / 8) ** 2)
    expected[2, 3] = expected[3, 2] = np.log((1 / 8) / (1 / 8) ** 2)
    np.testing.assert_allclose(ppmi(counts_NN, smoothing=1.0).toarray(), expected, rtol=1e-6)
    smoothed = ppmi(counts_NN, smoothing=0.75).toarray()
    share = 1 / (2 * 3**0.75 + 2)
    assert smoothed[2, 3] == pytest.approx(np.log((1 / 8) / (1 / 8 * share)))
    assert smoothed[2, 3] < expected[2, 3], "a rare context counts less"


def make_histories(num_users=400, num_groups=3, group_size=8):
    """Users stay within one of three groups of items."""
    draws = np.random.default_rng(0)
    return [
        draws.integers(group_size, size=6).astype(np.int32) + group_size * (user % num_groups)
        for user in range(num_users)
    ]


def test_items_chosen_by_the_same_users_lie_together():
    modality = PpmiSvd(PpmiConfig(dim=3, window=10, smoothing=0.75, text_prior=0)).encode(make_histories(), 24, None)
    cosine_NN = modality.vectors_ND @ modality.vectors_ND.T
    same_NN = np.arange(24)[:, None] // 8 == np.arange(24) // 8
    assert cosine_NN[same_NN].min() > cosine_NN[~same_NN].max()
    np.testing.assert_allclose(np.linalg.norm(modality.vectors_ND, axis=1), 1.0, rtol=1e-5)


def test_an_item_without_train_events_has_no_vector():
    encoder = PpmiSvd(PpmiConfig(dim=64, window=10, smoothing=0.75, text_prior=0))
    modality = encoder.encode([*make_histories(), np.array([25], np.int32)], 27, None)
    assert modality.present_N.tolist() == [True] * 24 + [False] * 3, "25 is alone, 24 and 26 in no history"
    assert (modality.vectors_ND[24:] == 0).all()
    assert encoder.notes == ["collaborative vectors are 24 wide, not 64: so many items co-occur"]


def test_a_prior_of_texts_by_hand():
    """0 was chosen three times and 1 once; 2 is new and has a text alone; 3 has none and keeps what it has."""
    own = Modality(np.array([[1, 0], [0, 1], [0, 0], [0, 1]], np.float32), np.array([True, True, False, True]))
    text = Modality(np.array([[1, 0], [1, 0.1], [1, 0], [0, 0]], np.float32), np.array([True, True, True, False]))
    found = shrink(own, text, np.array([3, 1, 0, 1]), prior=1.0)
    half = 1 / np.sqrt(2)
    expected = [[3 / np.sqrt(10), 1 / np.sqrt(10)], [half, half], [half, half], [0, 1]]
    np.testing.assert_allclose(found.vectors_ND, expected, rtol=1e-6)
    assert found.present_N.all()


def test_of_many_equals_ten_others_are_neighbours():
    own, text = np.eye(14, dtype=np.float32), np.ones((14, 2), np.float32)
    found = shrink(*(Modality(vectors, np.ones(14, bool)) for vectors in (own, text)), np.zeros(14, int), prior=4.0)
    assert (np.diag(found.vectors_ND) == 0).all()
    assert ((found.vectors_ND > 0).sum(axis=1) == 10).all()


def test_seldom_chosen_items_move_and_often_chosen_ones_hardly():
    given, draws = make_histories(), np.random.default_rng(1)
    seldom = [np.array([24, item], np.int32) for item in draws.integers(8, size=2)]  # 24 next to the first group
    text = Modality((np.arange(25)[:, None] // 8 == np.arange(4)).astype(np.float32), np.ones(25, bool))
    text.vectors_ND[24] = [0, 1, 0, 0]  # and its text is that of the second
    before, after = (
        PpmiSvd(PpmiConfig("", 8, 10, 0.75, prior)).encode([*given, *seldom], 25, text) for prior in (0, 10)
    )
    moved = 1.0 - (before.vectors_ND * after.vectors_ND).sum(axis=1)
    assert moved[24] > 0.5 > 0.05 > moved[:24].max()


def test_the_order_of_users_changes_nothing_and_the_result_is_the_same_twice():
    given = make_histories()
    one, same, other = (
        PpmiSvd(PpmiConfig("", 8, 10, 0.75, 0)).encode(h, 24, None).vectors_ND for h in (given, given, given[::-1])
    )
    assert (one == same).all()
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-4)


def test_twelve_thousand_items_take_seconds():
    draws = np.random.default_rng(0)
    popularity = draws.zipf(1.3, size=(22_000, 9)) % 12_000
    modality = PpmiSvd(PpmiConfig("", 32, 10, 0.75, 0)).encode(list(popularity.astype(np.int32)), 12_000, None)
    assert modality.vectors_ND.shape == (12_000, 32)
    assert np.isfinite(modality.vectors_ND).all()


def test_what_cannot_be_used_is_refused():
    with pytest.raises(DataError, match="no two items are in one") as raised:
        PpmiSvd(PpmiConfig("", 8, 10, 0.75, 0)).encode(histories([0], [1], [2, 2]), 3, None)
    assert "embed/collaborative=none" in raised.value.remedy
    with pytest.raises(DataError, match="no two items"):
        PpmiSvd(PpmiConfig("", 8, 10, 0.75, 0)).encode([], 3, None)


@pytest.mark.parametrize("override", ["embed.collaborative.text_prior=-1", "embed/text=none"])
def test_a_prior_without_texts_is_refused_before_any_work(override):
    with pytest.raises(ConfigError, match=r"embed\.collaborative\.text_prior="):
        compose("embed", ["run=unused", "embed/collaborative=ppmi_and_text", override])


def prepared(folder: Path, lists: dict[str, list[int]]) -> Path:
    folder.mkdir()
    (folder / "inter.json").write_text(json.dumps(lists))
    item = {"description": "", "brand": "", "categories": ""}
    (folder / "item.json").write_text(
        json.dumps({str(n): {"title": f"thing {n % 3} of kind{n % 2}"} | item for n in range(24)})
    )
    own = ["data=interjson", "data.interactions=inter.json", "data.items=item.json", f"data.root={folder}"]
    run = [f"run={folder / 'run'}", *own, "embed/image=none", "embed/collaborative=ppmi"]
    script("prepare")(compose("prepare", run))
    script("embed")(compose("embed", run))
    return folder / "run"


def test_held_out_events_change_nothing(tmp_path):
    """Two shops whose users differ in the last two events alone, which validation and test hold."""
    trained = {f"u{user}": items.tolist() for user, items in enumerate(make_histories(60))}
    one = prepared(tmp_path / "one", {user: [*items, 3, 9] for user, items in trained.items()})
    other = prepared(tmp_path / "other", {user: [*items, 20, 11] for user, items in trained.items()})
    assert [h.tolist() for h in Dataset(one / "prepare").evaluation("test").targets] == [[9]] * 60
    for name in ("collaborative.npy", "collaborative.present.npy"):
        assert (one / "embed" / name).read_bytes() == (other / "embed" / name).read_bytes()
