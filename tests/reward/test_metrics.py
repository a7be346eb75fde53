"""AUC, calibration and quality worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from trialign.errors import DataError
from trialign.reward.labels import Labels
from trialign.reward.loss import balanced_loss
from trialign.reward.metrics import accuracy, auc, auc_by_kind, ece, reliability
from trialign.reward.quality import item_quality, load_probabilities, load_quality, write_quality


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores, good = np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert auc(scores, good) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert np.isnan(auc(scores, np.ones(4, bool)))
    draws = np.random.default_rng(0)
    scores, good = draws.normal(size=200).round(1), draws.random(200) < 0.3
    assert auc(scores, good) == pytest.approx(roc_auc_score(good, scores))


def test_auc_by_kind_holds_the_good_ones_against_one_kind_at_a_time() -> None:
    kinds = np.array([0, 0, 1, 2, 3])
    labels = Labels(np.arange(5), [""] * 5, kinds == 0, kinds)
    found = auc_by_kind(np.array([0.5, 0.7, 0.6, 0.1, 0.9]), labels)
    assert found == {"all": pytest.approx(0.5), "near": 0.5, "far": 1.0, "generic": 0.0}


def test_calibration_by_hand() -> None:
    chances, good = np.array([0.05, 0.05, 0.85, 0.85, 1.0]), np.array([False, True, True, True, True])
    assert [size for *_, size in reliability(chances, good)] == [2, 2, 1]
    assert ece(chances, good) == pytest.approx((2 * 0.45 + 2 * 0.15 + 0) / 5)
    assert accuracy(chances, good) == pytest.approx(4 / 5)


def test_quality_is_the_mean_by_confidence_and_nothing_is_invented(tmp_path: Path) -> None:
    found = item_quality([[0.9, 0.3], [], [0.5]], [[0.75, 0.25], [], [0.0]])
    assert found == [pytest.approx(0.75), None, None]
    write_quality(tmp_path, found, [[0.5, 0.25], [], [1.0]])
    assert load_probabilities(tmp_path) == [[0.5, 0.25], [], [1.0]]
    np.testing.assert_allclose(load_quality(tmp_path), [0.75, 0, 0])
    with pytest.raises(DataError, match=r"quality\.parquet does not exist"):
        load_quality(tmp_path / "elsewhere")


def test_good_and_bad_pairs_weigh_the_same_in_all() -> None:
    good = torch.tensor([True, False, False, False])
    assert balanced_loss(torch.zeros(4), good, 0.25).item() == pytest.approx(4 * np.log(2))
    logits = torch.zeros(4, requires_grad=True)
    balanced_loss(logits, good, 0.25).backward()
    assert logits.grad is not None
    assert logits.grad.sum().item() == pytest.approx(0.0, abs=1e-6)
