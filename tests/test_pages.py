"""Every page shows text from outside as text, fetches nothing, and closes what it opens."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import trialign.html
from trialign.data.dataset import Evaluation
from trialign.enrich.evidence import Caption, ItemInterests
from trialign.enrich.html import PAGE, write_page
from trialign.evaluate import record as records
from trialign.evaluate.comparison import compare, comparison_page
from trialign.evaluate.html import evaluation_page
from trialign.evaluate.protocol import Rankings
from trialign.evaluate.runs import Run
from trialign.foreign import LINES, harmless
from trialign.html import thumbnail
from trialign.ranking import METRICS
from trialign.reward.train import _page
from trialign.semid.assign import Assignment
from trialign.semid.html import page
from trialign.semid.quality import quality
from trialign.semid.record import Health
from trialign.semid.table import SIDTable

WORDS = "</style><script>alert(1)</script></b>{{ 7 * 7 }}\u202e\x1b'\""
FIGURES = dict.fromkeys(METRICS, 0.5)


def photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (400, 100), "red").save(out, "PNG")
    return out.getvalue()


def dataset() -> Any:
    """Three items, each with the same words and a picture."""
    items = pa.table({name: [WORDS] * 3 for name in ("title", "description")} | {"has_image": [True] * 3})
    return SimpleNamespace(
        items=items, keys=[WORDS] * 3, num_items=3, images=lambda: ((item, photo()) for item in range(3))
    )


def record(num_users: int, details: records.Details) -> records.EvaluationRecord:
    results = records.Results(False, FIGURES, {}, {}, 0.0)
    return records.EvaluationRecord("test", num_users, num_users, num_users, results, results, details)


def evaluation(folder: Path) -> str:
    details = records.Details(
        recall_by_seen={WORDS: {"0": records.SeenSlice(1, 0.5)}, "model": {"0": records.SeenSlice(0, 0.0)}},
        spread={"model": records.Spread(0.5, 0.5, 0.5)},
        prefix_recall_at_10={"prefix_1": 0.5},
        unconstrained_decoding=records.UnconstrainedDecoding(0.5, 0.5, [0.25, 0.75], 1, by_construction=False),
        grounding=records.Grounding(
            3,
            {WORDS: records.Found(1, 0.5, 0.5, 0.5, 0.5, through=WORDS)},
            {WORDS: records.Written(1, 0.5, 0.5, [(0, WORDS, WORDS)])},
        ),
    )
    users = Evaluation([WORDS], [np.array([0], np.int32)], [np.array([1], np.int32)], older=[np.array([2], np.int32)])
    rankings = Rankings(np.array([[1, 2]], np.int32), np.zeros((1, 2), np.float32), 0.0)
    return evaluation_page(
        record(1, details), dataset(), SIDTable(np.arange(3)[:, None], 3, list("abc"), "suffix"), users, rankings
    )


def comparison(folder: Path) -> str:
    one = Run(
        name=WORDS,
        record=record(2, records.Details({}, {}, {})),
        config={WORDS: WORDS},
        lost=[WORDS],
        users=[("u", ""), ("v", "")],
        values_UC=np.full((2, len(METRICS)), 0.5),
        curves={f"loss {WORDS}": [(1.0, 2.0), (2.0, 1.0)]},
        generator="one",
        execution={WORDS: WORDS},
    )
    other = replace(one, name=WORDS * 2, config={WORDS: "x"}, generator="two", execution={WORDS: "x"})
    apart = replace(other, name=WORDS * 3, users=[("w", "")], generator="three")
    return comparison_page(compare([one, other, apart], [WORDS]))


def reward(folder: Path) -> str:
    aucs = {name: {WORDS: 0.5} for name in ("model", "interest_only", "overlap")}
    found = {"pairs": 2, "items": 1, "model": {"accuracy": 0.5, "ece": 0.5}}
    return _page(found, aucs, {"model": {WORDS: 0.5}}, [(0.5, 0.5, 1)])


def enrichment(folder: Path) -> str:
    captions = [Caption(WORDS, WORDS), Caption(failure=WORDS), Caption()]
    read = ItemInterests([WORDS, "b"], [0.5, 0.25], ["description", WORDS], WORDS, reasoning=WORDS)
    write_page(folder, dataset(), captions, [read, ItemInterests(failure=WORDS), ItemInterests()])
    return (folder / PAGE).read_text()


def semantic_ids(folder: Path) -> str:
    codes_NL = np.array([[0, 0], [0, 1], [1, 0]])
    categories = [[WORDS], [WORDS], ["c"]]
    report = quality(
        Assignment(codes_NL, codes_NL),
        2,
        evidence_N=np.arange(3),
        categories=categories,
        pairs_P2=np.array([[0, 1]]),
        quantizer={},
    )
    report = replace(report, health=Health(0.25, 4.0, [WORDS]))
    return page(codes_NL, report, [WORDS, WORDS, ""], categories, dataset().images())


class Reader(HTMLParser):
    """Collects what is shown and checks that what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("make", [evaluation, comparison, reward, enrichment, semantic_ids])
def test_every_page_shows_text_from_outside_as_text(make: Callable[[Path], str], tmp_path: Path) -> None:
    shown, reader = make(tmp_path), Reader()
    reader.feed(shown)
    assert reader.open == []
    assert "script" not in reader.seen
    assert shown.count("</style>") == 1
    assert harmless(WORDS, keep=LINES) in reader.text
    assert harmless(shown, keep=LINES) == shown
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?([^'\">)]*)", shown)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len(sources) == shown.count("<img")
    assert "<built-in" not in reader.text


def test_no_template_lets_text_pass_unescaped() -> None:
    templates = [*Path(trialign.html.__file__).with_name("templates").glob("*.html")]
    assert templates
    assert not [path.name for path in templates if re.search(r"safe|autoescape|Markup", path.read_text())]


def test_pictures_are_small() -> None:
    assert len(thumbnail(photo())) < 1500
