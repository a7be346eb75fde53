from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trialign.data.dataset import Evaluation
from trialign.errors import DataError
from trialign.evaluate.protocol import Measured, Rankings
from trialign.evaluate.record import Details, EvaluationRecord, FilteredTargets, SeenPlaces
from trialign.evaluate.report import WIDTH, Compared, best_baseline, metrics_record, oracle_means
from trialign.evaluate.report import report_text as text_of
from trialign.evaluate.topk import filtered_targets
from trialign.ranking import METRICS, measure
from trialign.record import from_json, to_json


def rankings(items_UK: np.ndarray, invalid_rate: float = 0.0) -> Rankings:
    return Rankings(items_UK, np.zeros(items_UK.shape, np.float32), invalid_rate)


def measured(places: list[int], invalid_rate: float = 0.0) -> Measured:
    """Users whose single target is at these places, counted from 0; -1 for a target not found."""
    items = np.tile(np.arange(1, 51, dtype=np.int32), (len(places), 1))
    for user, place in enumerate(places):
        if place >= 0:
            items[user, place] = 0
    return Measured(measure(items, [np.zeros(1, np.int32)] * len(places)), rankings(items, invalid_rate))


def record(**changes: Any) -> dict[str, Any]:
    """What metrics.json holds, as it is read."""
    found = {
        "model": measured([0, 0, 3, -1] * 10, 0.125),
        "baselines": {"popularity": measured([-1, 20, 3, -1] * 10), "item_knn": measured([0, 7, 3, -1] * 10)},
        "split": "test",
        "num_samples": 500,
        "users": None,
        **changes,
    }
    exclude_seen = found.pop("exclude_seen", False)
    stated = Compared(exclude_seen, found.pop("model"), found.pop("baselines"), found.pop("seen_places", None))
    other = Compared(not exclude_seen, found.pop("other", stated.model), stated.baselines)
    users = found.pop("users") or [str(user) for user in range(len(stated.model.values_UC))]
    return dict(to_json(metrics_record(stated, other, users, details=Details({}, {}, {}), **found)))


def report_text(found: dict[str, Any]) -> str:
    return text_of(from_json(EvaluationRecord, found))


def test_record_holds_the_contract() -> None:
    found = record(oracle=dict.fromkeys(METRICS, 0.9))
    assert list(found) == [
        *(
            "split",
            "num_users",
            "num_users_in_split",
            "num_examples",
            "exclude_seen",
            "model",
            "baselines",
            "paired",
            "invalid_rate",
        ),
        *("oracle", "share_of_oracle", "other_protocol", "recall_by_seen", "spread", "prefix_recall@10"),
    ]
    assert found["num_users"] == 40
    assert found["model"]["recall@1"] == 0.5
    assert found["model"]["recall@5"] == 0.75
    assert found["model"]["ndcg@5"] == pytest.approx((1 + 1 + 1 / np.log2(5)) / 4)
    assert found["model"]["invalid_rate"] == found["invalid_rate"] == 0.125
    assert found["share_of_oracle"]["recall@1"] == pytest.approx(0.5 / 0.9)
    for row in (found["model"], *found["baselines"].values()):
        assert set(row) == {*METRICS, "invalid_rate"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "oracle" not in record()


def test_paired_differences_are_of_the_named_baseline_and_metric() -> None:
    found = record()
    for name, row in found["paired"].items():
        assert set(row) == set(METRICS)
        for metric, entry in row.items():
            assert entry["difference"] == pytest.approx(found["model"][metric] - found["baselines"][name][metric])
            assert entry["low"] <= entry["difference"] <= entry["high"]
    assert found["paired"]["item_knn"]["recall@1"]["low"] > 0
    assert found["paired"]["item_knn"]["recall@10"] == {"difference": 0, "low": 0, "high": 0}


def test_one_user_gets_a_reason_instead_of_an_interval() -> None:
    found = record(model=measured([0]), baselines={"popularity": measured([4])})
    entry = found["paired"]["popularity"]["recall@1"]
    assert entry == {"difference": 1.0, "low": None, "high": None, "reason": "one user has no spread to resample"}
    assert "1.0000 above" not in report_text(found)
    assert "the model's N@10 is 0.6131 above; no interval: one user has no spread to resample." in report_text(found)
    assert "1 user," in report_text(found)


def test_both_rules_for_seen_items_are_reported_and_never_mixed() -> None:
    found = record(other=measured([0] * 40))
    other = found["other_protocol"]
    assert (found["exclude_seen"], other["exclude_seen"]) == (False, True)
    assert (found["model"]["recall@1"], other["model"]["recall@1"]) == (0.5, 1.0)
    assert other["paired"]["popularity"]["recall@1"]["difference"] == 1.0
    first, second = report_text(found).split("the same, ")
    assert "seen items kept" in first
    assert second.startswith("seen items filtered")


def test_the_oracle_stands_under_both_rules_with_what_the_model_reaches_there() -> None:
    """Its world has no repeats: it never ranks a seen item, so filtering is what makes others comparable with it."""
    found = record(other=measured([0] * 40), oracle=dict.fromkeys(METRICS, 0.9))
    other = found["other_protocol"]
    assert found["oracle"] == other["oracle"] == dict.fromkeys(METRICS, 0.9)
    assert found["share_of_oracle"]["recall@1"] == pytest.approx(0.5 / 0.9)
    assert other["share_of_oracle"]["recall@1"] == pytest.approx(1.0 / 0.9)
    for text, share in zip(report_text(found).split("the same, "), ("67.5%", "111.1%"), strict=True):
        assert "oracle (best attainable)" in text
        assert f"The model reaches {share} of the oracle's N@10." in text
    assert "oracle" not in report_text(record())


def test_intervals_are_over_users_not_over_their_examples() -> None:
    """Forty examples of ten users, four alike each, are worth ten observations."""
    places = [0, 3, -1, 0, 8, 30, 0, -1, 2, 5]
    known = {
        "model": measured([place for place in places for _ in range(4)]),
        "users": [str(n // 4) for n in range(40)],
    }
    baselines = {"popularity": measured([20, 7, 3, -1] * 10)}
    alike = {"popularity": measured([place for place in places[::-1] for _ in range(4)])}
    single = record(model=measured(places), baselines={"popularity": measured(places[::-1])})
    found = record(**known, baselines=alike)
    for metric, entry in single["paired"]["popularity"].items():
        assert found["paired"]["popularity"][metric] == pytest.approx(entry), metric
    apart = record(**known | {"users": None}, baselines=alike)["paired"]["popularity"]["ndcg@10"]
    entry = found["paired"]["popularity"]["ndcg@10"]
    assert apart["high"] - apart["low"] < 0.7 * (entry["high"] - entry["low"])
    assert record(**known, baselines=baselines)["num_users"] == 10


def test_examples_of_one_user_are_counted_as_such() -> None:
    users = [str(example // 4) for example in range(40)]
    found = record(users=users)
    assert (found["num_users"], found["num_examples"]) == (10, 40)
    assert report_text(found).startswith("test split, 40 examples of 10 users, full ranking")


def test_report_names_the_protocol_the_best_baseline_and_its_interval() -> None:
    found = record(oracle=dict.fromkeys(METRICS, 0.9))
    text = report_text(found)
    lines = text.splitlines()
    assert max(map(len, lines)) == WIDTH
    assert "\x1b" not in text
    assert lines[0] == "test split, 40 users, full ranking, seen items kept"
    assert [label in text for label in ("R@1 ", "R@5 ", "R@10 ", "R@50 ", "N@5 ", "N@10 ")] == [True] * 6
    row = next(line for line in lines if "item_knn (best baseline)" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        *("0.2500", "0.5000", "0.7500", "0.7500", "0.3577", "0.4365"),
    ]
    assert best_baseline(from_json(EvaluationRecord, found).stated) == "item_knn"
    entry = found["paired"]["item_knn"]["ndcg@10"]
    said = f"the model's N@10 is {entry['difference']:.4f} above, interval {entry['low']:+.4f} to {entry['high']:+.4f}."
    assert said in text
    assert "the model's R@10 is 0.0000 above, interval +0.0000 to +0.0000 holds 0: no difference shown." in text
    assert "oracle (best attainable)" in text
    assert "67.5% of the oracle's N@10" in text
    assert "12.5000% of the places the model owed hold no item" in text


def test_places_of_seen_items_are_told_of_the_model_and_the_best_baseline() -> None:
    places = {"model": SeenPlaces(0.25, 0.5), "popularity": SeenPlaces(3.0, 0.0), "item_knn": SeenPlaces(1.5, 0.125)}
    said = "items of the user's history hold 0.25 of the model's (50.0% of them right) and 1.50 of item_knn's (12.5%"
    assert said in " ".join(report_text(record(seen_places=places)).split())
    places["model"] = SeenPlaces(0.0, 0.0)
    assert "hold none of the model's and 1.50 of" in " ".join(report_text(record(seen_places=places)).split())
    assert "items of the user's history hold" not in report_text(record(exclude_seen=True))


def test_report_says_when_seen_items_are_struck_and_when_the_model_loses() -> None:
    text = report_text(record(exclude_seen=True, model=measured([-1] * 40)))
    assert "seen items filtered" in text
    assert "0.4365 below, interval -0." in text
    assert "holds 0" not in text, "an interval below 0 is a difference"
    assert "no item of the catalogue" not in text


def test_a_tiny_invalid_rate_is_not_rounded_away() -> None:
    assert "0.0001% of the places" in report_text(record(model=measured([0] * 40, 1e-9)))


def test_oracle_averages_over_the_evaluated_users_only() -> None:
    table = pa.table({"user": ["a", "b"], **{name: [0.25, 0.75] for name in METRICS}})
    assert oracle_means(table, ["b", "a"]) == dict.fromkeys(METRICS, 0.5)
    with pytest.raises(DataError, match="the oracle knows 2 users, the split has 1"):
        oracle_means(table, ["a"])
    with pytest.raises(DataError, match="they are not the same"):
        oracle_means(table, ["a", "c"])


def test_targets_that_the_filter_takes_away_are_counted_and_told() -> None:
    lists = {"histories": [[1, 2], [3], [4]], "targets": [[2, 2, 5], [9], [7]], "older": [[], [9], []]}
    arrays = {name: [np.array(found, np.int32) for found in rows] for name, rows in lists.items()}
    filtered = filtered_targets(Evaluation(users=["a", "b", "c"], **arrays))
    assert filtered == FilteredTargets(count=2, targets=4, share=0.5)
    told = "2 of 4 targets (50.00%) had been chosen by their user before"
    for exclude_seen in (False, True):
        found = record(filtered=filtered, exclude_seen=exclude_seen)
        filters, keeps = (found, found["other_protocol"]) if exclude_seen else (found["other_protocol"], found)
        assert filters["filtered_targets"] == to_json(filtered)
        assert "filtered_targets" not in keeps
        assert told in " ".join(report_text(found).split())
    none = FilteredTargets(0, 4, 0.0)
    assert "filtered with" not in " ".join(report_text(record(filtered=none)).split())
