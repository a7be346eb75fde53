"""The driver: nothing is asked twice, what cannot be used is asked anew, what gets no reply is told."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from trialign.config.enrich import AnnotatorConfig
from trialign.enrich.asking import Annotator, Part
from trialign.enrich.cache import ReplyCache
from trialign.enrich.pictures import scaled
from trialign.enrich.protocol import Failure, Reply, Request
from trialign.errors import StageError


class Model:
    """Answers by a function of the request; remembers what it was asked."""

    source = identity = "a model"

    def __init__(self, says: Callable[[Request], str | Failure]) -> None:
        self.says = says
        self.asked: list[Request] = []

    def answer(self, requests, keep):
        for name, request in requests:
            self.asked.append(request)
            told = self.says(request)
            keep(name, told if isinstance(told, Failure) else Reply(told, 3, 0.5, cut=told == "cut"))


def picture(width, height, form="PNG", color=(200, 10, 10)):
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, form)
    return file.getvalue()


def read(text):
    return text if text.startswith("good") else Failure("bad")


def ask(model, folder, requests, *, retries=1, max_failure_rate=0.0, max_side=64, part=None):
    part = part or Part()
    cache = ReplyCache(folder, part.name)
    try:
        annotator = Annotator(
            what="captions",
            backend=model,
            questions=lambda items: ((item, requests[item]) for item in sorted(items)),
            read=read,
            prompt_hash="p",
            max_side=max_side,
            settings=AnnotatorConfig(retries, max_failure_rate),
        )
        return annotator.ask([item for item in range(len(requests)) if item in part], cache)
    finally:
        cache.close()


def test_what_was_answered_is_not_asked_again(tmp_path):
    model = Model(lambda request: f"good {request.text}")
    requests = [Request(str(number)) for number in range(6)]
    first = ask(model, tmp_path, requests)
    assert first.answers == {number: f"good {number}" for number in range(6)}
    requests[4] = Request("4", picture(4, 4))
    again = ask(model, tmp_path, requests)
    assert again.answers == first.answers
    assert model.asked[6:] == [requests[4]]
    assert (again.asked, again.replies, again.tokens, again.seconds) == (1, 6, 18, 3.0)


def test_alike_questions_wait_for_one_reply(tmp_path):
    """A backend that reads all questions before it answers the first, as one that asks several at once does."""

    class Patient(Model):
        def answer(self, requests, keep):
            super().answer(list(requests), keep)

    model = Patient(lambda request: f"good {request.text}")
    found = ask(model, tmp_path, [Request("same"), Request("other"), Request("same")])
    assert found.answers == {0: "good same", 1: "good other", 2: "good same"}
    assert [request.text for request in model.asked] == ["same", "other"]


def test_shards_divide_a_catalogue():
    parts = [Part(shard, 3) for shard in range(3)]
    assert [[item for item in range(8) if item in part] for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_alike_questions_are_asked_once(tmp_path):
    model = Model(lambda request: f"good {request.text}")
    found = ask(model, tmp_path, [Request("same"), Request("other"), Request("same")])
    assert len(model.asked) == 2
    assert found.answers == {0: "good same", 1: "good other", 2: "good same"}


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_cannot_be_used_is_asked_anew_a_stated_number_of_times(tmp_path, retries):
    model = Model(lambda request: "good" if request.text == "easy" else "nonsense")
    requests = [Request("easy"), Request("hard")]
    found = ask(model, tmp_path, requests, retries=retries)
    assert len(model.asked) == 2 + retries
    assert found.answers == {0: "good", 1: Failure("bad")}
    assert found.counts()["failures"] == {"bad": 1}
    assert found.retried == retries
    # No two tries are the same question, so a model that answers the same to the same gets another chance.
    assert len({request.text for request in model.asked}) == 2 + retries
    assert ask(model, tmp_path, requests, retries=retries).answers == found.answers
    assert len(model.asked) == 2 + retries


def test_a_second_try_can_be_good(tmp_path):
    model = Model(lambda request: "good at last" if "could not be used" in request.text else "bad")
    found = ask(model, tmp_path, [Request("a"), Request("b")])
    assert set(found.answers.values()) == {"good at last"}
    assert (found.replies, found.retried, found.tokens) == (4, 2, 12)


def test_a_reply_that_ends_early_cannot_be_used(tmp_path):
    found = ask(Model(lambda _: "cut"), tmp_path, [Request("a")], retries=0)
    assert found.answers[0].cause == "cut_off"


def test_too_many_without_a_reply_stop_the_stage_and_nothing_is_lost(tmp_path):
    requests = [Request(str(number)) for number in range(10)]
    flaky = Model(lambda request: Failure("http_500", "no") if request.text in "37" else "good")
    with pytest.raises(StageError, match=r"2 questions for captions got no reply from a model: http_500 2 \(no\)"):
        ask(flaky, tmp_path, requests, max_failure_rate=0.1)
    found = ask(flaky, tmp_path, requests, max_failure_rate=0.2)
    assert found.counts()["failures"] == {"http_500": 2}
    well = Model(lambda _: "good")
    assert set(ask(well, tmp_path, requests).answers.values()) == {"good"}
    assert sorted(request.text for request in well.asked) == ["3", "7"]


def test_a_dead_server_is_not_asked_a_million_times(tmp_path):
    dead = Model(lambda _: Failure("connection"))
    with pytest.raises(StageError, match="connection 20"):
        ask(dead, tmp_path, [Request(str(number)) for number in range(1000)], max_failure_rate=1.0)
    assert len(dead.asked) == 20


def test_parts_are_disjoint_and_merge(tmp_path):
    requests = [Request(str(number)) for number in range(11)]
    model = Model(lambda request: f"good {request.text}")
    for shard in range(3):
        ask(model, tmp_path, requests, part=Part(shard, 3))
    assert sorted(int(request.text) for request in model.asked) == list(range(11))
    assert len(ask(model, tmp_path, requests).answers) == 11
    assert len(model.asked) == 11


@pytest.mark.parametrize("data", [b"", b"GIF89a", picture(9, 9)[:40], b"<svg/>"])
def test_a_damaged_picture_costs_its_own_item(tmp_path, data):
    found = ask(Model(lambda _: "good"), tmp_path, [Request("a", picture(4, 4)), Request("a", data)])
    assert found.answers[0] == "good"
    assert found.answers[1].cause == "broken_picture"
    assert found.lost == set()


def test_an_enormous_picture_is_scaled_down_others_go_as_they_are(tmp_path):
    model = Model(lambda _: "good")
    small = picture(64, 10)
    ask(model, tmp_path, [Request("a", picture(3000, 900)), Request("b", small)])
    with Image.open(io.BytesIO(model.asked[0].image)) as sent:
        assert sent.size == (64, 19)
    assert model.asked[1].image == small
    # Beyond what memory should be asked for, by the header alone.
    bomb = picture(8, 8, "BMP").replace((8).to_bytes(4, "little"), (60_000).to_bytes(4, "little"))
    found = ask(model, tmp_path, [Request("c", bomb)])
    assert found.answers[0].cause == "broken_picture"
    assert "60000 x 60000" in found.answers[0].detail


def test_other_formats_are_sent_as_png():
    assert scaled(picture(8, 8, "WEBP"), 64).startswith(b"\x89PNG")
