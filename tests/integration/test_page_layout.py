"""The page at every width, light and dark, with one to five runs, by keyboard alone: in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from test_analyze_page import TEXTS, page_run, weights

from nmt_rela.analysis.html_page import write_page

NAMES = ("rela-g", "a-run-with-a-long-name-of-seed-4711-and-label-smoothing-0.1", "sparsemax", "entmax15", "rela-i")

CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


def check(browser: Chromium, name: str) -> Any:
    """The result of a function of page_checks.js in the open page."""
    return browser.evaluate(f"({CHECKS}).{name}()")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    find_chromium()
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs on a text of 60 sentences."""
    runs = [page_run(name, [weights(seed + i % 3) for i in range(60)]) for seed, name in enumerate(NAMES)]
    return write_page(
        tmp_path_factory.mktemp("page") / "attention.html", runs, TEXTS[:2] * 30, title="Attention of five runs on text"
    )


def check_layout(browser: Chromium, page: Path, width: int, runs: int, *, dark: bool) -> None:
    browser.resize(width, 800)
    browser.dark(dark)
    browser.open(page, f"#runs={','.join(map(str, range(runs)))}&site=cross&layer=1&head=2")  # null rows
    browser.evaluate("document.getElementById('terms').open = true")
    assert check(browser, "overprinted") == []
    assert check(browser, "cut") == []
    assert check(browser, "faint") == []
    assert check(browser, "keysInSight") or width < 960  # a narrow page is one column, the keys at its end


@pytest.mark.parametrize(("width", "runs", "dark"), [(390, 2, False), (1280, 5, True)])
def test_nothing_overlaps_is_cut_or_is_faint(
    browser: Chromium, page: Path, width: int, runs: int, *, dark: bool
) -> None:
    check_layout(browser, page, width, runs, dark=dark)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 720, 1280])
@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5])
def test_nothing_overlaps_at_any_width(browser: Chromium, page: Path, width: int, runs: int, *, dark: bool) -> None:
    check_layout(browser, page, width, runs, dark=dark)


def test_tab_reaches_every_control_by_its_name(browser: Chromium, page: Path) -> None:
    browser.resize(1280, 800)
    browser.open(page, "#runs=0&site=cross&layer=1&head=2")
    found = []
    for _ in range(60):
        browser.press("Tab")
        found.append(check(browser, "focused"))
        if found[-1].startswith("summary"):
            break
    lists = [stop for stop in found if stop.startswith("sentence-list")]
    assert len(lists) == 1, "the list of sentences is one stop"
    assert [stop for stop in found if stop.startswith(("site", "layer", "map"))] == [
        "site: Encoder", "site: Decoder", "site: Cross", "layer: 0", "layer: 1", "map: Map",
    ]  # fmt: skip
    assert all(stop.split(": ")[1] for stop in found), found


def test_the_focus_stays_where_a_control_was_pressed(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=0")
    browser.evaluate("document.querySelector('#layer button:last-child').focus()")
    browser.press("Enter")
    browser.wait_for("location.hash.includes('layer=1')")
    assert check(browser, "focused") == "layer: 1"


def test_arrows_walk_through_the_sentences_while_their_list_has_the_focus(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&sentence=0&layer=0")
    browser.evaluate("document.querySelector('#sentence-list [aria-current=true]').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.wait_for("location.hash.includes('sentence=2')")
    assert browser.evaluate("location.hash.includes('layer=0')")
    assert browser.evaluate("document.activeElement.value") == "2"


def test_the_page_opens_at_the_best_aligned_head(browser: Chromium, tmp_path: Path) -> None:
    run = page_run("run", [weights(1)])
    run = replace(run, head_measures={"AER normal": {"cross": [[0.3, 0.2, 0.4], [0.6, None, 0.1]]}})
    page = write_page(tmp_path / "page.html", [run], TEXTS[:1], title="Attention of run on text")
    browser.open(page)
    assert "layer=1&head=2" in browser.evaluate("location.hash")
    assert browser.evaluate("document.title") == "Attention of run on text"


def test_numbers_and_the_target_are_explained(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross")
    terms = browser.evaluate("[...document.querySelectorAll('#terms dt')].map((e) => e.textContent)")
    assert {"reference", "Mass", "Diversity", "AER normal", "Null rate", "Entropy", "Sparsity"} <= set(terms)
    assert "Predicting the reference" in browser.evaluate("document.querySelector('.view').textContent")
