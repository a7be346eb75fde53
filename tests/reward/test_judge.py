"""A judge that answers as told: its verdicts become labels, are kept, and are refused where they say nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trialign.config.reward import AnnotatorJudgeConfig
from trialign.enrich.cache import ReplyCache
from trialign.enrich.protocol import Failure, Reply, Requests
from trialign.errors import DataError, StageError
from trialign.reward.judge import judged_labels, parse_verdicts
from trialign.reward.labels import GENERIC, KINDS, Labels, builtin_labels

USES = ["brewing tea", "winter walks", "slicing bread", "fixing bikes"]
NUM_ITEMS = 40
EVIDENCE = [{"title": f"thing {item} {{interests}}", "description": USES[item % 4]} for item in range(NUM_ITEMS)]


class Judge:
    """A backend that says what a function of (number of the question, evidence, phrases) says; None is no reply."""

    source = "a judge"
    identity = "judge 1"

    def __init__(self, says: Callable[[int, str, list[str]], str | None]) -> None:
        self.says, self.questions = says, list[str]()

    def answer(self, requests: Requests, keep: Callable[[str, Reply | Failure], None]) -> None:
        for key, request in requests:
            evidence, phrases = re.findall(r"^(?:EVIDENCE|INTERESTS)\n(.*)\nEND$", request.text, re.MULTILINE)
            # Brackets of the evidence are escaped, those of the list are its own.
            text = self.says(len(self.questions), evidence, json.loads(phrases))
            self.questions.append(request.text)
            keep(key, Failure("timeout") if text is None else Reply(text, 1, 0.0))


def fair(_: int, evidence: str, phrases: list[str]) -> str:
    return json.dumps([int(phrase in evidence) for phrase in phrases])


@pytest.fixture
def labels() -> Labels:
    interests = [[USES[item % 4]] for item in range(NUM_ITEMS)]
    interests[0].append("slicing bread")  # mined, and wrong
    return builtin_labels(interests, [found["description"] for found in EVIDENCE], seed=0)


def ask(labels: Labels, judge: Judge, folder: Path, max_failure_rate: float = 0.05) -> tuple[Labels, dict]:
    cache = ReplyCache(folder, "judge")
    try:
        return judged_labels(labels, EVIDENCE, judge, cache, AnnotatorJudgeConfig(1, max_failure_rate), seed=0)
    finally:
        cache.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1, 0, 1]", (True, False, True)),
        ("[]", ()),
        ("", "empty"),
        ("1, 0", "not_json"),
        ("Sure: [1]", (True,)),
        ("```json\n[1, 0]\n```", (True, False)),
        ("[1] or [0]", "not_json"),
        ("[1, 0.0]", "wrong_shape"),
        ("[true]", "wrong_shape"),
        ("[2]", "wrong_shape"),
        ('{"verdicts": [1]}', "wrong_shape"),
    ],
)
def test_a_reply_is_a_list_of_0_and_1_or_refused_by_cause(text: str, found: tuple | str) -> None:
    read = parse_verdicts(text)
    assert (read.cause if isinstance(read, Failure) else read) == found


def test_verdicts_take_the_place_of_the_construction(labels: Labels, tmp_path: Path) -> None:
    judge = Judge(fair)
    judged, counts = ask(labels, judge, tmp_path)
    assert judged.interests == labels.interests
    assert (judged.kinds_M == labels.kinds_M).all()
    assert judged.good_M.tolist() == [
        phrase == USES[item % 4] for item, phrase in zip(judged.items_M, judged.interests, strict=True)
    ]
    wrong = [row for row, found in enumerate(judged.interests) if judged.items_M[row] == 0 and found == "slicing bread"]
    assert labels.good_M[wrong].all()
    assert not judged.good_M[wrong].any()
    assert len(judge.questions) == counts["found"] == NUM_ITEMS
    assert set(counts["called_good"]) == set(KINDS)
    again = Judge(lambda *_: None)
    assert (ask(labels, again, tmp_path)[0].good_M == judged.good_M).all()
    assert again.questions == []


def test_the_order_of_phrases_does_not_tell_which_are_own(labels: Labels, tmp_path: Path) -> None:
    own_first = []

    def says(number: int, evidence: str, phrases: list[str]) -> str:
        own_first.append(phrases[0] in evidence)
        return fair(number, evidence, phrases)

    ask(labels, Judge(says), tmp_path)
    assert 0 < sum(own_first) < 0.6 * NUM_ITEMS


@pytest.mark.parametrize("verdict", [0, 1])
def test_a_judge_that_says_the_same_of_everything_is_refused(verdict: int, labels: Labels, tmp_path: Path) -> None:
    judge = Judge(lambda _, __, phrases: json.dumps([verdict] * len(phrases)))
    with pytest.raises(DataError, match=f"calls good: own {verdict:.0%}, .*generic {verdict:.0%}"):
        ask(labels, judge, tmp_path)


def test_a_judge_that_falls_for_what_fits_everything_is_refused(labels: Labels, tmp_path: Path) -> None:
    """It tells own interests from those of unlike items, and yet says nothing of an item."""

    def says(_: int, evidence: str, phrases: list[str]) -> str:
        return json.dumps([int(phrase in evidence or phrase in GENERIC) for phrase in phrases])

    with pytest.raises(DataError, match=r"calls good: own \d+%, .*far 0%, generic 100%"):
        ask(labels, Judge(says), tmp_path)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (None, "questions for judge got no reply from a judge: timeout"),
        ("I like it", "items have no usable reply from a judge: not_json"),
        ("[1]", "items have no usable reply from a judge: wrong_number"),
    ],
)
def test_a_judge_that_fails_half_the_time_is_refused(
    reply: str | None, told: str, labels: Labels, tmp_path: Path
) -> None:
    def says(_: int, evidence: str, phrases: list[str]) -> str | None:
        number = int(re.findall(r"thing (\d+)", evidence)[0])
        return reply if number % 2 else fair(0, evidence, phrases)

    with pytest.raises(StageError, match=told) as refused:
        ask(labels, Judge(says), tmp_path)
    assert "reward.judge.max_failure_rate=0.05" in refused.value.rule


def test_few_failures_are_counted_and_their_pairs_left_out(labels: Labels, tmp_path: Path) -> None:
    judged, counts = ask(labels, Judge(lambda n, e, p: "no" if "thing 3 " in e else fair(n, e, p)), tmp_path)
    assert counts["failures"] == {"not_json": 1}
    assert counts["retried"] == 1
    assert set(np.unique(labels.items_M)) - set(np.unique(judged.items_M)) == {3}
