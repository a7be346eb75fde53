"""The page in a headless Chromium: what a person does, and what may never happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.serve.browser import Browser, find_chromium
from tests.serve.conftest import make_served
from tests.serve.site import answering
from trialign.serve.catalogue import Catalogue
from trialign.serve.served import RunSource

RANKED = "document.querySelector('#cards').getAttribute('aria-busy') === 'false'"
WALKED = "document.querySelector('#levels').getAttribute('aria-busy') === 'false'"
CARDS = "[...document.querySelectorAll('#cards .card')].map(card => card.dataset.item)"
CHIPS = "document.querySelectorAll('#history .chip').length"
PICTURES = "[...document.images].every(image => image.loading === 'lazy' || (image.complete && image.naturalWidth))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, skip_for: Callable[[str, str], None]) -> Iterator[Browser]:
    if (binary := find_chromium()) is None:
        skip_for("chromium", "there is no chromium on the PATH")
    assert binary is not None
    with Browser(binary, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def shop(finished: Path) -> Iterator[str]:
    """Return the address of the page of a finished run."""
    settings: dict[str, Any] = {"from_stage": {}, "generator": "train", "accelerator": "cpu"}
    with answering(RunSource(finished, **settings, num_beams=20, batch_size=8).load(), num_beams=20) as address:
        yield address


@pytest.fixture
def page(browser: Browser, shop: str) -> Iterator[Browser]:
    """Return the browser with the page open; nothing may go wrong and nothing may be asked elsewhere."""
    browser.open(shop)
    browser.wait(f"{CARDS}.length === 10 && {RANKED}")
    yield browser
    assert browser.errors == []
    assert {url for url in browser.requests if not url.startswith(shop)} == set()


def test_a_person_picks_items_by_the_keyboard_and_sees_why_others_come_next(page: Browser) -> None:
    page.click("#clear")
    page.wait(f"{CHIPS} === 0 && {RANKED} && {CARDS}.length === 10")
    assert "nothing is known" in page.text("#told")
    for taken, key in enumerate(("item-0000007", "item-0000010"), start=1):
        page.type("#search", key)
        page.wait(f"document.querySelector('#found').innerText.includes('{key}')")
        page.press("ArrowDown")
        page.press("Enter")
        page.wait(f"{CHIPS} === {taken}")
    page.wait(f"{RANKED} && {WALKED} && {CARDS}.length === 10")
    cards = page.evaluate(CARDS)
    assert not {"item-0000007", "item-0000010"} & set(cards)
    leads = "[...document.querySelectorAll('#levels .level:last-child .leads')].map(row => row.dataset.leads)"
    assert sorted(map(int, page.evaluate(leads))) == list(range(1, 11))
    page.click("#exclude")
    page.wait(f"{RANKED} && {WALKED} && {CARDS}.length === 10")
    page.click("#history .chip button:last-child")
    page.wait(f"{CHIPS} === 1 && {RANKED}")


def test_a_click_on_a_code_shows_its_items_and_an_item_joins_the_history(page: Browser) -> None:
    before = page.evaluate(CHIPS)
    page.click("#cards .card .code")
    code = page.evaluate("document.querySelector('#cards .card .code').textContent")
    page.wait(f"location.hash === '#/codes/{code}' && document.querySelector('#prefix .tile')")
    assert f"begin with {code}" in page.text("#prefix h2")
    assert page.evaluate("document.querySelector('#recommend').hidden")
    tiles = page.evaluate("document.querySelectorAll('#prefix .tile').length")
    page.click("#prefix .row")
    page.wait(f"document.querySelectorAll('#prefix .tile').length < {tiles} && document.querySelector('#prefix .tile')")
    page.click("#prefix .tile button")
    page.click("#tab-codes")
    page.press("ArrowLeft")
    page.wait(f"!document.querySelector('#recommend').hidden && {CHIPS} === {before + 1}")
    assert page.evaluate("document.activeElement.id") == "tab-recommend"


def test_what_the_user_chose_next_is_marked(page: Browser) -> None:
    program = """(async () => {
      for (let number = 0; number < 40; number += 1) {
        const key = `user-${String(number).padStart(7, "0")}`;
        const answer = await fetch(`users/${key}`);
        const { items, next } = await answer.json();
        const body = JSON.stringify({ items: items.map((item) => item.item) });
        const headers = { "Content-Type": "application/json" };
        const found = await (await fetch("recommend", { method: "POST", headers, body })).json();
        if (found.items.some((item) => item.item === next[0].item)) return [key, next[0].item];
      }
    })()"""
    user, chosen_next = page.evaluate(program)
    page.evaluate("document.querySelector('#user').value = ''")
    page.type("#user", user)
    page.press("Enter")
    page.wait(
        f"document.querySelector('#source').innerText.includes('{user}') && {RANKED} && document.querySelector('.hit')"
    )
    assert page.evaluate("[...document.querySelectorAll('.hit')].map(card => card.dataset.item)") == [chosen_next]
    assert "at place" in page.text("#told")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_nothing_sideways(browser: Browser, shop: str, dark: bool) -> None:
    for view, there in (
        ("", f"{CARDS}.length === 10 && {WALKED}"),
        ("#/codes/", "document.querySelector('#prefix .row')"),
    ):
        browser.open(shop + view, width=390, dark=dark)
        browser.wait(f"{there} && {PICTURES}")
        assert browser.overflow() == 0
        assert browser.errors == []


def test_markup_in_a_title_stays_text(browser: Browser) -> None:
    title = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    plain = make_served()
    titles = pa.array([title] * len(plain.catalogue.keys))
    served = make_served(catalogue=Catalogue(plain.catalogue.keys, titles, plain.catalogue.codes_NL))
    with answering(served) as address:
        browser.open(address)
        browser.wait(f"{CARDS}.length > 0 && {RANKED}")
        assert title in browser.text("#cards")
        assert title in browser.text("#history")
        browser.type("#search", "bold")
        browser.wait("document.querySelectorAll('#found [role=option]').length > 1")
        assert title in browser.text("#found")
        browser.open(f"{address}#/codes/0")
        browser.wait("document.querySelector('#prefix .tile')")
        assert title in browser.text("#prefix")
        assert browser.evaluate("document.title") == "trialign"
        assert browser.evaluate("document.querySelectorAll('img').length") == 0
        assert browser.errors == []


def test_a_bundle_hides_what_it_does_not_have_and_an_error_is_told_in_words(browser: Browser) -> None:
    with answering(make_served(), empty_history="refuse") as address:
        browser.open(address)
        browser.wait(f"{CARDS}.length > 0 && {RANKED}")
        hidden = (
            "['user-form', 'walk', 'allowed-line', 'blocked-line'].map(name => document.getElementById(name).hidden)"
        )
        assert browser.evaluate(hidden) == [True] * 4
        browser.click("#clear")
        browser.wait("document.querySelector('#problem .error')")
        told = browser.text("#problem")
        assert "a history without known items" in told
        assert "Rule: a history holds an item" in told
        assert "What to do: send items that the catalogue has" in told
        assert browser.evaluate(CARDS) == []


def test_named_lists_filter(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "sold-out.txt").write_text("k0\nk1\nk2\nk3\n")
    with answering(make_served(), stock=str(tmp_path)) as address:
        browser.open(address)
        browser.wait(f"{CARDS}.length > 0 && {RANKED}")
        assert browser.evaluate("[...document.querySelector('#blocked').options].map(option => option.value)") == [
            "",
            "sold-out",
        ]
        browser.evaluate("document.querySelector('#blocked').value = 'sold-out'")
        browser.evaluate("document.querySelector('#blocked').dispatchEvent(new Event('change'))")
        browser.wait(f"{RANKED} && {CARDS}.length > 0 && {CARDS}.every(key => !['k0', 'k1', 'k2', 'k3'].includes(key))")
