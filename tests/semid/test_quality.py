import json

import numpy as np
import pytest

from trialign.semid.assign import Assignment
from trialign.semid.quality import category_labels, quality


def describe(codes_NL, categories, codebook_size=4):
    codes_NL = np.asarray(codes_NL)
    return quality(codes_NL, Assignment(codes_NL, 0.0, 0, 0.0), codebook_size, categories=categories, health={})


def test_hand_worked_figures():
    before = np.array([[0, 0], [0, 0], [1, 3], [1, 3]])
    after = np.array([[0, 0], [0, 1], [1, 3], [1, 2]])
    found = quality(before, Assignment(after, 0.5, 2, 0.25), 4, categories=[[]] * 4, health={"usage": [0.5]})
    assert found["distinct_tuples"] == {"before": 2, "after": 4}
    assert found["collisions"] == {"before": 0.5, "after": 0.0}
    assert (found["items_moved"], found["added_distortion"], found["load"]) == (2, 0.25, 4 / 16)
    assert found["usage"] == [0.5, 1.0]
    assert found["perplexity"] == pytest.approx([2.0, 4.0])
    assert found["quantizer"] == {"usage": [0.5]}
    assert "category" not in found
    json.dumps(found)


def test_codes_that_are_the_category_agree_with_it_and_random_codes_do_not():
    numbers = np.arange(64)
    codes_NL = np.stack([numbers // 16, numbers // 4 % 4, numbers % 4], axis=1)
    found = describe(codes_NL, [["root", f"c{n // 16}"] for n in numbers])["category"]
    assert (found["num_categories"], found["num_items"]) == (4, 64)
    assert found["adjusted_mutual_information"]["prefix_1"] == pytest.approx(1.0)
    assert 0.1 < found["adjusted_mutual_information"]["prefix_2"] < 1.0
    assert abs(found["random_codes"]["prefix_1"]) < 0.1
    assert abs(found["random_codes"]["prefix_2"]) < 0.1


def test_items_without_a_category_are_left_out():
    codes_NL = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    found = describe(codes_NL, [["a"], ["a"], ["b"], ["b"], [], []])["category"]
    assert found["num_items"] == 4
    assert found["adjusted_mutual_information"]["prefix_1"] == pytest.approx(1.0)


def test_labels_come_from_the_first_depth_that_divides_the_items():
    assert category_labels([["all", "b"], ["all", "a", "x"], ["all"]]).tolist() == [1, 0, -1]
    assert category_labels([["all"], ["all"]]) is None
    assert category_labels([[], []]) is None
