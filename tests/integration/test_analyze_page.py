"""The page in a real browser: what it shows, and what mouse and keys do. Skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium

from nmt_rela.analysis.html_page import PageRun, PageSentence, pack_weights, write_page
from nmt_rela.analysis.statistics import AttentionStatistics
from nmt_rela.models.transformer import ATTENTION_SITES

SOURCE = ("▁The", "▁old", "▁house", "▁sta", "nds", "</s>")
TARGET = ("▁Das", "▁alte", "▁Haus", "▁steht", "</s>")
LAYERS, HEADS = 2, 3


def weights(seed: int, source: Sequence[str] = SOURCE, target: Sequence[str] = TARGET) -> dict[str, np.ndarray]:
    """Sparse weights; cross-attention layer 1 has a diagonal (head 1) and a null head (head 2)."""
    lengths = {
        "encoder": (len(source), len(source)),
        "decoder": (len(target),) * 2,
        "cross": (len(target), len(source)),
    }
    generator = np.random.default_rng(seed)
    found = {site: np.maximum(generator.normal(size=(LAYERS, HEADS, *shape)), 0) for site, shape in lengths.items()}
    found["decoder"] = np.tril(found["decoder"])
    found["cross"][1, 1] = 0.5 * np.eye(*lengths["cross"])
    found["cross"][1, 2] = 0
    return found


def page_run(name: str, sentences: Sequence[dict[str, np.ndarray] | None]) -> PageRun:
    statistics = AttentionStatistics()
    for site in ATTENTION_SITES:
        for layer in range(LAYERS):
            shown = torch.tensor(next(s for s in sentences if s is not None)[site][layer : layer + 1]).float()
            statistics.add(site, layer, shown, torch.ones(1, *shown.shape[2:], dtype=torch.bool))
    return PageRun(
        name=name,
        attention=dict.fromkeys(ATTENTION_SITES, "rela-g"),
        sentences=[
            None
            if s is None
            else PageSentence(source=SOURCE, target=TARGET, log_probability=-1.5, weights=pack_weights(s))
            for s in sentences
        ],
        statistics=statistics.layers(),
        head_measures={"AER normal": {"cross": [[0.1, 0.2, None]] * LAYERS}},
    )


TEXTS = [("The old house stands", "Das alte Haus steht"), ("A </script> & ‹b›", "Ein $ & <i>"), ("Long", "Lang")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    find_chromium()
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [
        page_run("first", [weights(1), weights(2), weights(3)]),
        page_run("second", [weights(4), weights(5), None]),
    ]
    return write_page(
        tmp_path_factory.mktemp("page") / "attention.html", runs, TEXTS, title="Attention", subtitle="test"
    )


def texts(browser: Chromium, selector: str) -> list[str]:
    found: list[str] = browser.evaluate(f"[...document.querySelectorAll('{selector}')].map((e) => e.textContent)")
    return found


def pressed(browser: Chromium, group: str) -> str:
    found: str = browser.evaluate(f"document.querySelector('#{group} [aria-pressed=true]').textContent")
    return found


def test_hovering_a_token_shades_its_weights_in_every_run(browser: Chromium, page: Path) -> None:
    browser.open(page, "#site=cross&layer=1&head=1")
    browser.hover("[data-run='0'] .reading[data-side=query] .token[data-index='2']")
    said = texts(browser, ".says")
    assert said == ["reading alte, predicting Haus → house 0.50 · 5 of 6 are 0"] * 2
    shaded = browser.evaluate(
        "[...document.querySelectorAll('.reading[data-side=key] .token')]"
        ".filter((e) => e.style.background).map((e) => e.textContent)"
    )
    assert shaded == ["house", "house"]


def test_hovering_shows_the_weight_of_a_field(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=1&head=1")
    place = browser.evaluate(
        "(() => { const b = document.querySelector('.matrix canvas').getBoundingClientRect();"
        " return [b.x + b.width * 1.5 / 6, b.y + b.height * 1.5 / 5]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert texts(browser, ".says") == ["reading Das, predicting alte → old 0.50 · 100 % of the row"]


def test_the_canvas_shows_weights_where_they_are(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=1&head=1")
    filled = browser.evaluate(
        "(() => { const c = document.querySelector('.matrix canvas'), x = c.getContext('2d');"
        " const at = (q, k) => [...x.getImageData((k + .5) * c.width / 6, (q + .5) * c.height / 5, 1, 1).data].join();"
        " return [...Array(5).keys()].map((q) => [...Array(6).keys()].map((k) => at(q, k) !== at(0, 5) ? 1 : 0)); })()"
    )
    assert filled == np.eye(5, 6, dtype=int).tolist()


def test_null_rows_are_marked_and_counted(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=1&head=2")
    assert texts(browser, ".says") == ["Hover a token. 5 of 5 rows are null."]
    assert browser.evaluate("document.querySelectorAll('.matrix .void').length") == 5
    browser.hover(".reading[data-side=query] .token[data-index='0']")
    assert texts(browser, ".says") == ["reading ‹start›, predicting Das attends to nothing: a null row"]


def test_keys_walk_through_heads_layers_sites_sentences_and_tokens(browser: Chromium, page: Path) -> None:
    browser.open(page, "#site=cross")
    for key, group, expected in (
        ("ArrowRight", "head", "1"),
        ("ArrowDown", "layer", "1"),
        ("ArrowUp", "layer", "0"),
        ("ArrowLeft", "head", "0"),
        ("1", "site", "Encoder"),
        ("2", "site", "Decoder"),
        ("m", "shade", "Row"),
    ):
        browser.press(key)
        browser.wait_for(f"document.querySelector('#{group} [aria-pressed=true]').textContent === '{expected}'")
    browser.press("j")
    browser.wait_for("location.hash.includes('sentence=1')")
    browser.press(".")
    browser.press(".")
    browser.wait_for("location.hash.includes('query=1')")
    assert "predicting alte" in texts(browser, "#status")[0]
    browser.press("Escape")
    assert "query" not in browser.evaluate("location.hash")


def test_all_heads_of_the_overview_can_be_selected_and_mean_is_their_mean(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=0")
    assert browser.evaluate("document.querySelectorAll('.heads button').length") == LAYERS * (HEADS + 1)
    browser.hover(".heads button[aria-label='layer 1, mean of heads']", click=True)
    browser.wait_for("location.hash.includes('head=mean') && location.hash.includes('layer=1')")
    assert pressed(browser, "head") == "mean"


def test_the_overview_can_show_measures(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&map=AER+normal")
    assert texts(browser, ".heads button")[:4] == ["0.10", "0.20", "", ""]


def test_a_pinned_token_is_restored_from_the_address(browser: Chromium, page: Path) -> None:
    browser.open(page, "#runs=0&site=cross&layer=1&head=1&query=3")
    assert texts(browser, ".says")[0].startswith("reading Haus, predicting steht → sta 0.50")


def test_text_is_shown_unchanged(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert texts(browser, "#sentence-list .text") == [source for source, _ in TEXTS]


def test_a_sentence_without_weights_is_reported_as_missing(browser: Chromium, page: Path) -> None:
    browser.open(page, "#sentence=2")
    assert texts(browser, ".absent") == ["This sentence is too long for the page of this run."]
    assert browser.evaluate("document.querySelectorAll('.matrix').length") == 1


def test_sentences_can_be_searched(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.getElementById('filter').focus()")
    for letter in "haus":
        browser.press(letter)
    browser.wait_for("document.querySelectorAll('#sentence-list li:not([hidden])').length === 1")


def test_runs_can_be_chosen(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.hover("#runs input[value='0']", click=True)
    browser.wait_for("document.querySelectorAll('.view').length === 1")
    assert texts(browser, ".title h2") == ["second"]
    assert browser.evaluate("document.querySelector(\"#runs input[value='1']\").disabled")


def test_the_page_fetches_nothing_and_fits_every_width(browser: Chromium, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("performance.getEntriesByType('resource').length") == 0
    for width in (1360, 1100, 700, 380):
        browser.resize(width, 850)
        browser.wait_for("document.documentElement.scrollWidth <= window.innerWidth")
    browser.resize(1360, 850)


def test_dark_and_paper_have_their_own_colours(browser: Chromium, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(paper)
    browser.dark(True)
    browser.wait_for(f"{paper} !== '{light}'")
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert not browser.evaluate("document.documentElement.classList.contains('paper')")
    browser.dark(False)


@pytest.mark.slow
def test_a_large_page_opens_in_under_two_seconds(browser: Chromium, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    length, sentences = 25, 100
    pieces = (*(f"▁w{i}" for i in range(length - 1)), "</s>")

    def softmax() -> str:
        scores = generator.normal(size=(3, 6, 8, length, length)) * 2
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        return pack_weights(dict(zip(ATTENTION_SITES, weights, strict=True)))

    statistics = AttentionStatistics()
    for site in ATTENTION_SITES:
        for layer in range(6):
            statistics.add(site, layer, torch.rand(1, 8, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
    sentence = [
        PageSentence(source=pieces, target=pieces, log_probability=-1.0, weights=softmax()) for _ in range(sentences)
    ]
    run = PageRun(
        name="base",
        attention=dict.fromkeys(ATTENTION_SITES, "softmax"),
        sentences=sentence,
        statistics=statistics.layers(),
    )
    page = write_page(tmp_path / "large.html", [run], [("a b c", "d e f")] * sentences, title="Attention")
    assert page.stat().st_size < 15e6
    assert min(browser.open(page) for _ in range(2)) < 2.0
