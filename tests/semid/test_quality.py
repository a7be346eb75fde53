import json

import numpy as np
import pyarrow as pa
import pytest

from trialign.data.dataset import Evaluation
from trialign.record import from_json, to_json
from trialign.semid.assign import Assignment
from trialign.semid.quality import category_labels, evidence_numbers, held_out_pairs, neighbour_lift, quality
from trialign.semid.record import Quality


def describe(codes_NL, categories, codebook_size=4, **changes):
    codes_NL = np.asarray(codes_NL)
    given = {"evidence_N": np.arange(len(codes_NL)), "pairs_P2": np.empty((0, 2), np.int64), "quantizer": {}}
    return quality(Assignment(codes_NL, codes_NL), codebook_size, categories=categories, **(given | changes))


def test_hand_worked_figures():
    before = np.array([[0, 0], [0, 0], [1, 3], [1, 3]])
    after = np.array([[0, 0], [0, 1], [1, 3], [1, 2]])
    found = quality(
        Assignment(after, before, 2, 0.25),
        4,
        evidence_N=np.array([0, 0, 1, 2]),
        categories=[[]] * 4,
        pairs_P2=np.empty((0, 2), np.int64),
        quantizer={"usage": [0.5]},
    )
    written = to_json(found)
    assert written["distinct_tuples"] == {"before": 2, "after": 4}
    # Items 0 and 1 are twins, so of the two collisions one is nobody's fault: 2 tuples, 3 distinct things.
    assert written["collisions"] == {"before": 0.5, "before_without_twins": pytest.approx(1 / 3), "after": 0.0}
    assert found.twins == 1
    assert (found.items_moved, found.added_distortion, found.load) == (2, 0.25, 4 / 16)
    assert (found.usage, found.dead_codes) == ([0.5, 1.0], [2, 0])
    assert found.perplexity == pytest.approx([2.0, 4.0])
    assert found.perplexity_before == pytest.approx([2.0, 2.0])
    assert found.quantizer == {"usage": [0.5]}
    assert not {"category", "category_path", "neighbours"} & set(written)
    assert from_json(Quality, json.loads(json.dumps(written))) == found


def test_codes_that_are_the_category_agree_with_it_and_random_codes_do_not():
    numbers = np.arange(64)
    codes_NL = np.stack([numbers // 16, numbers // 4 % 4, numbers % 4], axis=1)
    found = describe(codes_NL, [["root", f"c{n // 16}"] for n in numbers]).category
    assert (found.num_categories, found.num_items) == (4, 64)
    assert found.adjusted_mutual_information["prefix_1"] == pytest.approx(1.0)
    assert 0.1 < found.adjusted_mutual_information["prefix_2"] < 1.0
    assert abs(found.random_codes["prefix_1"]) < 0.1
    assert abs(found.random_codes["prefix_2"]) < 0.1


def test_items_without_a_category_are_left_out():
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [1, 2]])
    found = describe(codes_NL, [["a"], ["a"], ["b"], ["b"], [], []]).category
    assert found.num_items == 4
    assert found.adjusted_mutual_information["prefix_1"] == pytest.approx(1.0)


def test_the_whole_path_is_told_from_its_root():
    """Codes that are the leaf agree with the path entirely, with the root in part."""
    numbers = np.arange(64)
    codes_NL = np.stack([numbers // 4 % 4, numbers % 4], axis=1)
    found = describe(codes_NL, [[f"r{n // 8 % 2}", f"c{n // 4 % 4}"] for n in numbers])
    assert found.category_path.adjusted_mutual_information["prefix_1"] == pytest.approx(1.0)
    assert found.category.adjusted_mutual_information["prefix_1"] < 0.9


def test_neighbour_lift_by_hand():
    """One of four pairs agrees; by chance a = (3, 1) / 4 meets b = (2, 2) / 4, so 6/16 + 2/16 = 1/2 would."""
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [0, 2]])
    pairs_P2 = np.array([[0, 1], [1, 2], [3, 2], [2, 1]])
    assert neighbour_lift(codes_NL, pairs_P2) == {"prefix_1": pytest.approx((1 / 4) / (8 / 16)), "prefix_2": 0.0}


def test_a_popular_item_earns_no_lift():
    """Everybody continues to item 0, whatever came before: the prefix that holds it tells nothing."""
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    pairs_P2 = np.array([[1, 0], [2, 0], [3, 0]] * 5)
    assert neighbour_lift(codes_NL, pairs_P2)["prefix_1"] == pytest.approx(1.0)


def test_held_out_pairs_are_what_stood_last_and_what_came_next():
    histories = [np.array([4, 2]), np.array([], int), np.array([7]), np.array([1, 3])]
    targets = [np.array([5, 6]), np.array([1]), np.array([], int), np.array([3])]  # the last chooses 3 again
    found = held_out_pairs(Evaluation(["a", "b", "c", "d"], histories, targets, [histories[0][:0]] * 4))
    assert found.tolist() == [[2, 5]]


def test_evidence_is_identical_in_text_and_picture():
    columns = {"title": ["a", "a", "a", "a", "b"], "description": [""] * 5, "brand": [""] * 5, "categories": [[]] * 5}
    items = pa.table(columns | {"has_image": [True, True, True, False, True]})
    images = [(0, b"one"), (1, b"one"), (2, b"other"), (4, b"one")]
    assert evidence_numbers(items, iter(images)).tolist() == [0, 0, 1, 2, 3]


def test_labels_come_from_the_first_depth_that_divides_the_items():
    assert category_labels([["all", "b"], ["all", "a", "x"], ["all"]]).tolist() == [1, 0, -1]
    assert category_labels([["all"], ["all"]]) is None
    assert category_labels([[], []]) is None
