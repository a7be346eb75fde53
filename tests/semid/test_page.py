import io
import re

import numpy as np
from PIL import Image

from trialign.semid.assign import Assignment
from trialign.semid.html import page
from trialign.semid.quality import quality

CODES = np.array([[0, 0], [0, 1], [2, 0], [2, 3], [3, 3]])
TITLES = ["<script>alert(1)</script>", "\"quoted' & more", "", "red shoe", "blue shoe"]


def make_page(images=(), categories=(("a <b>", "b"), ("a <b>", "b"), (), (), ("c", "d"))):
    report = quality(
        Assignment(CODES, CODES),
        4,
        evidence_N=np.arange(5),
        categories=categories,
        pairs_P2=np.array([[0, 1], [2, 3]]),
        quantizer={},
    )
    return page(CODES, report, TITLES, categories, images)


def picture(color):
    out = io.BytesIO()
    Image.new("RGBA", (300, 500), color).save(out, "PNG")
    return out.getvalue()


def test_words_from_outside_are_never_markup():
    html = make_page([(1, picture("red"))])
    assert "<script" not in html
    assert "a <b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert 'title="&#34;quoted&#39; &amp; more"' in html


def test_the_page_needs_nothing_but_itself():
    html = make_page([(3, picture("blue"))])
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?([^'\">)]*)", html)
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_every_first_code_is_shown_with_its_items_and_pictures():
    html = make_page([(3, picture("blue")), (4, picture("red"))])
    for code, count in ((0, "2 items"), (2, "2 items"), (3, "1 item")):
        assert f'<b>{code}</b> <span class="dim">{count}</span>' in html
    assert "100% a &lt;b&gt; \u203a b" in html
    assert len(html) < 40_000  # thumbnails, not pictures


def test_one_item_without_anything_is_a_page():
    codes = np.array([[0, 0]])
    report = quality(
        Assignment(codes, codes),
        1,
        evidence_N=np.zeros(1, np.int64),
        categories=[[]],
        pairs_P2=np.empty((0, 2), np.int64),
        quantizer={},
    )
    assert "Semantic IDs of 1 items" in page(codes, report, [""], [[]], [])
