"""The page in a real browser: timeline, versions, search, answers, undo, hostile text, keys, and a phone's width."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from memory_r1.inspector.store import Answer, StoreFile, answering
from tests.inspector.chromium import BROWSER, Chromium
from tests.inspector.stores import HOSTILE, SAID, answer_agent, open_system, serving, write_long_store, write_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

LOADED = "shown && list && list.total === shown.total"


@contextmanager
def opened(
    path: Path, *, writable: bool = False, answer: Answer | None = None, fragment: str = "", width: int = 1280
) -> Iterator[Chromium]:
    """Open the page of a store; the browser must have met no error at the end."""
    with (
        closing(StoreFile(path, writable=writable, answer=answer)) as store,
        serving(store) as server,
        Chromium(path.with_name("profile"), width=width) as browser,
    ):
        browser.open(server.url + fragment, LOADED)
        yield browser
        assert browser.errors == []
        assert browser.run("document.title") == "memory.db · memory-r1" and not browser.run("document.images.length")


def text(browser: Chromium, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).innerText")).strip()


def click(browser: Chromium, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


def at(browser: Chromium, number: int) -> None:
    browser.wait(f"shown.at === {number} && at('where').textContent.startsWith({json.dumps(f'Record {number} ')})")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_store(tmp_path / "memory.db", *SAID)


def test_keys_step_through_the_turns_and_what_each_changed(path: Path) -> None:
    with opened(path) as browser:
        at(browser, 8)
        browser.press("Home")
        browser.wait("shown.at === 0")
        assert "Nothing has been said yet" in text(browser, "#turn")
        for _ in range(3):
            browser.press("ArrowRight")
        at(browser, 3)
        assert "Ann: lives in Oslo" in text(browser, "#turn")
        assert text(browser, "#changed .updated del") == "Ann lives in Rome"
        assert text(browser, "#changed .updated ins") == "Ann lives in Oslo"
        assert text(browser, "[aria-current=true] .number") == "3"
        browser.press("ArrowRight")
        at(browser, 4)
        assert "I shall remember that" in text(browser, "#turn pre")
        browser.press("ArrowRight")
        at(browser, 5)
        assert "unknown id" in text(browser, "#turn .refusals") and '"id": 99' in text(browser, "#turn .refusals")
        browser.press("ArrowRight")
        at(browser, 6)
        assert "Ann has a cat" in text(browser, "#changed .added") and "Ann lives in Oslo" in text(browser, "#rest")
        browser.press("End")
        at(browser, 8)
        assert browser.run("document.querySelectorAll('#changed .deleted del').length") == 1
        # The slider moves with its own keys, and the address opens the same record again.
        browser.run("at('slider').focus()")
        browser.press("ArrowLeft")
        at(browser, 7)
        browser.wait("location.hash === '#scope=ann&at=7'")


def test_the_address_opens_a_record_and_an_entrys_versions(path: Path) -> None:
    with opened(path, fragment="#scope=ann&at=6&entry=1") as browser:
        at(browser, 6)
        browser.wait("dialog.open")
        versions = text(browser, "#versions")
        assert versions.index("Ann lives in Rome") < versions.index("Ann: lives in Oslo")
        click(browser, "#versions li:nth-child(2) .link")
        at(browser, 3)
        assert not browser.run("dialog.open")
        click(browser, "#changed button")
        browser.wait("dialog.open")
        browser.press("Escape")
        browser.wait("!dialog.open && location.hash === '#scope=ann&at=3'")


def test_an_address_of_a_record_that_is_gone_opens_the_last(path: Path) -> None:
    with closing(StoreFile(path)) as store, serving(store) as server, Chromium(path.with_name("profile")) as browser:
        browser.open(server.url + "#scope=ann&at=99", LOADED)
        at(browser, 8)


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    path = write_store(tmp_path / "memory.db", f"keeps {HOSTILE}", "noise", scope=HOSTILE)
    with opened(path, answer=answering(open_system(path), answer_agent())) as browser:
        browser.press("Home")
        browser.press("ArrowRight")
        at(browser, 1)
        for selector in ("#turn", "#changed", "#records", "#scope"):
            assert HOSTILE in text(browser, selector)
        click(browser, "#changed button")
        browser.wait("dialog.open")
        assert HOSTILE in text(browser, "#versions")
        browser.run(f"dialog.close(); at('query').value = {json.dumps(HOSTILE)}; ask()")
        browser.wait("at('found').textContent.startsWith('Recalled 1')")
        assert HOSTILE in text(browser, "#results")


def test_search_and_answers_show_what_is_recalled_and_distilled(path: Path) -> None:
    with opened(path, answer=answering(open_system(path), answer_agent())) as browser:
        browser.press("/")
        browser.type("cat")
        browser.press("Enter")
        browser.wait("at('results').innerText")
        assert text(browser, "#results li").startswith("Ann has a cat")
        browser.run("at('query').value = 'What does Ann have, a cat?'")
        click(browser, "#answer")
        browser.wait("at('found').textContent === 'Recalled 2, relied on 1'")
        assert text(browser, "#results .said") == "Ann has a cat"
        assert "distilled" in text(browser, "#results .distilled")
        browser.run("at('text').value = 'oslo'; at('text').dispatchEvent(new Event('input'))")
        browser.wait("at('count').textContent === '1 of 8 records'")
        assert text(browser, "#records .number") == "3"
        browser.run(
            "at('text').value = ''; at('show').value = 'refusals'; at('show').dispatchEvent(new Event('change'))"
        )
        browser.wait("at('count').textContent === '2 of 8 records'")


def test_undo_only_when_allowed(path: Path) -> None:
    with opened(path) as browser:
        assert browser.run("at('undoing').hidden && at('answer').hidden")
    path.with_name("profile").rename(path.with_name("before"))
    with opened(path, writable=True) as browser:
        assert "in record 8" in text(browser, "#next")
        click(browser, "#undo")
        at(browser, 9)
        assert "undo" in text(browser, "#turn")
        assert browser.run("document.querySelectorAll('#changed button.added').length") == 1
        assert "in record 7" in text(browser, "#next")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(path: Path, width: int) -> None:
    too_wide = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
    with opened(path, writable=True, width=width, answer=answering(open_system(path), answer_agent())) as browser:
        browser.run("at('query').value = 'cat'")
        for step in ("go(7)", "ask()", "open(1)"):
            browser.run(step)
            assert browser.run(too_wide) == 0
        unnamed = (
            "[...document.querySelectorAll('button, input, select')].filter((node) => !node.labels?.length"
            " && !node.ariaLabel && !node.innerText.trim() && node.checkVisibility()).map((node) => node.id)"
        )
        assert browser.run(unnamed) == []


def test_ten_thousand_records_open_at_once(tmp_path: Path) -> None:
    with opened(write_long_store(tmp_path / "memory.db", 10_000)) as browser:
        assert browser.run("document.querySelectorAll('#records li').length") == 50
        assert browser.run("document.querySelectorAll('.entries li').length") <= 51
        browser.run("go(5012)")
        browser.wait("shown.at === 5012")
        browser.wait("document.querySelector('[aria-current=true] .number')?.innerText === '5,012'")
        click(browser, "#later")
        browser.wait("list.page === 101")
        click(browser, "#more")
        browser.wait("document.querySelectorAll('#rest li').length === 100")
