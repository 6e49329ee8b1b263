"""The live page in a real browser, from a file: it translates, and shows what heads do. Skipped without Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from firefox import Firefox
from odd_text import ODD, odd_lines
from small_run import ENGLISH, write_run, write_text
from test_live_engine import dequantize
from test_page_layout import CHECKS
from tools.live_demo import render

from nmt_rela.analysis.head_ablation import ablate_heads
from nmt_rela.checkpoints.run_directory import RunDirectory
from nmt_rela.commands import analyze
from nmt_rela.config.schema import DataConfig
from nmt_rela.data.normalization import normalization_for
from nmt_rela.generation.options import TranslationOptions
from nmt_rela.generation.translator import Translator

SOURCE = " ".join(ENGLISH[2:8])
RUNS = {"first": "rela-g", "second": "softmax"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    base = tmp_path_factory.mktemp("runs")
    return [write_run(base / name, attention=variant, seed=seed) for seed, (name, variant) in enumerate(RUNS.items())]


@pytest.fixture(scope="module")
def page(runs: list[RunDirectory], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("text")
    source, target, gold = write_text(base)
    options = ["--source", source, "--target", target, "--gold", gold, "--output", base, "--no-plots", "--live"]
    models = [argument for run in runs for argument in ("--model", run.path)]
    assert analyze.main([*map(str, models), *map(str, options)]) == 0
    return base / "live.html"


@pytest.fixture(scope="module")
def translators(runs: list[RunDirectory]) -> list[Translator]:
    """The runs with the weights that the page carries."""
    loaded = []
    for run in runs:
        model, options = run.load_model(), TranslationOptions.from_config(run.config().decoding)
        dequantize(model)
        loaded.append(Translator(model, run.load_tokenizers(), options=options))
    return loaded


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    find_chromium()
    with Chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def open_at(browser: Chromium, page: Path, address: str) -> None:
    """Open the page and wait for every shown run's translation."""
    browser.open(page, address)
    wait(browser)


def wait(browser: Chromium) -> None:
    browser.wait_for(
        "document.querySelectorAll('.view .text').length === document.querySelectorAll('.view').length"
        " && !document.querySelector('.translation.working')"
    )


def translations(browser: Chromium) -> list[str]:
    found: list[str] = browser.evaluate("[...document.querySelectorAll('.view .text')].map((e) => e.textContent)")
    return found


def facts(browser: Chromium, run: int = 0) -> str:
    selector = f"[data-run='{run}'] .facts"
    found: str = browser.evaluate(f"[...document.querySelectorAll(\"{selector}\")].map((e) => e.textContent).join(' ')")
    return found.replace("−", "-")


def test_the_page_translates_as_python_does(browser: Chromium, page: Path, translators: list[Translator]) -> None:
    open_at(browser, page, f"#source={SOURCE}")
    wanted = [translator.translate([SOURCE], n_best=4)[0].hypotheses for translator in translators]
    assert translations(browser) == [hypotheses[0].text for hypotheses in wanted]
    assert f"log-probability {wanted[0][0].log_probability:.2f}" in facts(browser)
    alternatives = browser.evaluate(
        "[...document.querySelectorAll(\"[data-run='1'] .alternatives button\")].map((e) => e.firstChild.data.trim())"
    )
    assert alternatives == [hypothesis.text or "(empty)" for hypothesis in wanted[1]]
    assert (
        browser.evaluate("performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('blob:')).length")
        == 0
    )


def test_a_head_is_switched_off_and_on_again(browser: Chromium, page: Path, translators: list[Translator]) -> None:
    open_at(browser, page, f"#runs=0&source={SOURCE}&site=cross&layer=1&head=2")
    before, whole = translations(browser), facts(browser)
    browser.press("x")
    browser.wait_for("document.querySelector('.facts:nth-of-type(3)')?.textContent.includes('1 head is off')")
    translator = translators[0]
    with ablate_heads(translator.models[0], [("cross", 1, 2)]):
        (found,) = translator.translate([SOURCE])
    assert translations(browser) == [found.text]
    assert f"log-probability {found.hypotheses[0].log_probability:.2f}" in facts(browser)
    assert "off=0.cross.1.2" in browser.evaluate("location.hash")
    browser.press("x")
    browser.wait_for("!location.hash.includes('off=') && !document.querySelector('.translation.working')")
    assert (translations(browser), facts(browser)) == (before, whole)


def test_a_layer_and_a_site_are_switched_by_buttons_that_keep_the_focus(browser: Chromium, page: Path) -> None:
    open_at(browser, page, f"#runs=0&source={SOURCE}&site=encoder&layer=0&head=0")
    for control, count in (("0 off layer", 4), ("0 off site", 8)):
        browser.evaluate(f"document.querySelector(\"[data-control='{control}']\").focus()")
        browser.press("Enter")
        browser.wait_for(f"document.querySelector('.view .translation').textContent.includes('{count} heads are off')")
        assert browser.evaluate("document.activeElement.dataset.control") == control
    assert browser.evaluate("document.querySelectorAll('.heads button.off').length") == 8
    assert browser.evaluate("document.querySelectorAll('.heads [aria-label*=\"switched off\"]').length") == 8


def test_a_click_with_shift_switches_a_head_of_one_run_off(browser: Chromium, page: Path) -> None:
    open_at(browser, page, f"#source={SOURCE}&site=cross&layer=0&head=0")
    browser.evaluate(
        "document.querySelector(\"[data-run='1'] .heads button[aria-label='layer 1, head 3']\")"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true, shiftKey: true}))"
    )
    browser.wait_for("document.querySelectorAll(\"[data-run='1'] .heads button.off\").length === 1")
    assert "off=1.cross.1.3" in browser.evaluate("location.hash")


def test_a_target_of_ones_own_is_scored(browser: Chromium, page: Path, translators: list[Translator]) -> None:
    target = "das haus hund"
    open_at(browser, page, f"#source={SOURCE}&target={target}")
    wanted = [translator.score([SOURCE], [target])[0].log_probability for translator in translators]
    assert translations(browser) == [target] * 2
    for run, value in enumerate(wanted):
        assert f"log-probability {value:.2f}" in facts(browser, run)


def test_heads_are_ranked_by_what_the_target_loses_without_them(
    browser: Chromium, page: Path, translators: list[Translator]
) -> None:
    text = "das haus hund"
    open_at(browser, page, f"#runs=1&source={SOURCE}&target={text}")
    browser.wait_for("document.querySelector('.ranking').textContent.includes('24 heads tried')")
    label = browser.evaluate("document.querySelector('.ranking li button').getAttribute('aria-label')")
    translator, values = translators[1], {}
    for (site, layer), module in translator.models[0].attention_modules().items():
        for head in range(module.num_heads):
            with ablate_heads(translator.models[0], [(site, layer, head)]):
                values[site, layer, head] = translator.score([SOURCE], [text])[0].log_probability
    (site, layer, head), lowest = min(values.items(), key=lambda item: item[1])
    cost = translator.score([SOURCE], [text])[0].log_probability - lowest
    assert label == f"{site} layer {layer} head {head}, cost {cost:.2f}"


def test_typing_translates_and_the_address_keeps_it(browser: Chromium, page: Path) -> None:
    open_at(browser, page, "#runs=0")
    browser.evaluate("document.getElementById('source').select()")
    browser.call("Input.insertText", text=f"{ENGLISH[3]} {ENGLISH[5]}")
    browser.press("Enter")
    browser.wait_for("location.hash.includes('source=')")
    wait(browser)
    shown, address = translations(browser), browser.evaluate("location.hash")
    open_at(browser, page, address)
    assert translations(browser) == shown


@pytest.mark.parametrize(
    "source", ["</script><img src=x onerror=document.title='bad'>", "\u202eabc \u2067def", "a\\ud800b"]
)
def test_hostile_text_is_shown_as_text(browser: Chromium, page: Path, source: str) -> None:
    open_at(browser, page, "#runs=0")
    browser.evaluate(f"document.getElementById('source').value = {json.dumps(source)}.replace('\\\\ud800', '\\ud800')")
    browser.evaluate("document.getElementById('source').dispatchEvent(new Event('input'))")
    browser.wait_for("location.hash.includes('source=')")
    wait(browser)
    assert "bad" not in browser.evaluate("document.title")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate("document.querySelectorAll('.matrix').length") == 1


def test_a_long_sentence_can_be_stopped_and_the_page_stays_alive(browser: Chromium, page: Path) -> None:
    open_at(browser, page, "#runs=0")
    browser.evaluate(
        f"document.getElementById('source').value = {json.dumps(' '.join(ENGLISH * 20))};"
        "document.getElementById('source').dispatchEvent(new Event('input'))"
    )
    working = "document.getElementById('working').textContent"
    browser.wait_for(f"{working}.includes('translating')")
    waited = browser.evaluate(
        "new Promise((done) => { let longest = 0, last = performance.now(), count = 0;"
        " const tick = () => { longest = Math.max(longest, performance.now() - last); last = performance.now();"
        " if (++count < 20) setTimeout(tick, 10); else done(longest); }; tick(); })"
    )
    assert waited < 1000, "the page froze"
    for _ in range(2):  # what was stopped can be asked for again
        browser.wait_for(f"{working}.includes('translating')")
        browser.hover("#stop", click=True)
        browser.wait_for(f"{working}.includes('Stopped')")
        browser.hover("#translate", click=True)
    open_at(browser, page, "#runs=0&sentence=1")


def test_many_weights_are_drawn_a_pixel_each_and_trials_of_heads_can_be_stopped(browser: Chromium, page: Path) -> None:
    """A larger canvas of 300 sub-words would stop the page for seconds."""
    text = " ".join(ENGLISH * 7)
    open_at(browser, page, f"#runs=0&source={text}&target={text}")
    browser.hover("#stop", click=True)
    browser.wait_for("document.querySelector('.ranking').textContent.includes('heads tried')")
    assert "24 heads" not in browser.evaluate("document.querySelector('.ranking').textContent")
    assert browser.evaluate("document.getElementById('stop').disabled")
    sizes = "['width', 'height'].map((side) => document.querySelector('.matrix canvas')[side])"
    tokens = "['key', 'query'].map((side) => document.querySelectorAll(`.token[data-side=${side}]`).length)"
    assert browser.evaluate(sizes) == browser.evaluate(tokens)
    browser.wait_for("document.querySelectorAll('.heads canvas').length === 10")


@pytest.mark.parametrize(
    "address", ["off=length.cross.0.0", "off=0.cross.-1.0&choice=-3", "choice=x&beam=7&runs=9,x&sentence=-5", "%E0=%"]
)
def test_a_garbled_address_leaves_a_page_that_translates(browser: Chromium, page: Path, address: str) -> None:
    open_at(browser, page, f"#{address}")
    assert len(translations(browser)) == 2
    assert "off" not in facts(browser)


def test_text_that_is_typed_outlives_another_choice_and_gives_way_to_a_link(browser: Chromium, page: Path) -> None:
    open_at(browser, page, f"#runs=0&source={SOURCE}")
    browser.evaluate(
        "document.getElementById('source').value = 'red house';"
        "document.getElementById('source').dispatchEvent(new Event('input'));"
        "document.getElementById('beam').dispatchEvent(new Event('change'))"
    )
    browser.wait_for("location.hash.includes('source=red+house')")
    browser.evaluate("document.getElementById('source').focus(); location.hash = '#runs=0&source=old'")
    browser.wait_for("document.getElementById('source').value === 'old'")


def test_normalization_equals_python(browser: Chromium, page: Path) -> None:
    open_at(browser, page, "#runs=0")
    source = (Path(analyze.__file__).parents[1] / "analysis/page/normalization.js").read_text(encoding="utf-8")
    entities = ["&amp;lt;b", "&amp;#38;amp;x", "&eacute;&nbsp;&NewLine;&Tab;", "&#0;&#150;&#x1F600;&#xD800;&#x110000;"]
    entities += [
        "&#1;&#127;&#64976;&#65534;&#11;",
        "&notin;&notit;&unknown;",
        "Ţară şi ţ",
        "e\u0301\u200c\u200dx",
        *ODD,
    ]
    lines = [*odd_lines(300, seed=3), *entities]
    for language, rule in (("ro", "nmt_nfkc"), ("fa", "identity")):
        data = DataConfig(
            task="demo",
            source_language=language,
            target_language="de",
            normalization=rule,
            romanian_diacritics="cedilla",
        )
        rules = {"keeps_joiners": rule == "identity", "romanian_diacritics": "cedilla" if language == "ro" else "none"}
        normalize = f"(line) => normalizeText(line, {json.dumps(rules)})"
        found = browser.evaluate(f"(() => {{ {source}; return {json.dumps(lines)}.map({normalize}); }})()")
        assert found == list(map(normalization_for(language, data), lines))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 720, 1280])
def test_nothing_overlaps_on_the_live_page(browser: Chromium, page: Path, width: int, *, dark: bool) -> None:
    browser.resize(width, 800)
    browser.dark(dark)
    open_at(browser, page, f"#source={SOURCE}&off=0.cross.1.2")
    browser.wait_for("!document.querySelector('#views').textContent.includes('trying')")
    for name in ("overprinted", "cut", "faint"):
        assert browser.evaluate(f"({CHECKS}).{name}()") == [], name
    browser.dark(False)
    browser.resize(1360, 850)


def test_two_runs_print_on_one_sheet(browser: Chromium, page: Path, tmp_path: Path) -> None:
    open_at(browser, page, f"#source={SOURCE}")
    browser.print_pdf(tmp_path / "page.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 1


DEMO = Path(__file__).parents[2] / "docs/live-demo.html"


def test_the_demo_page_is_up_to_date() -> None:
    page = DEMO.read_text(encoding="utf-8")
    assert render(page) == page, "docs/live-demo.html is out of date: make docs"
    assert DEMO.stat().st_size <= 2_000_000


def test_the_demo_page_translates_and_a_head_is_worth_a_word(browser: Chromium) -> None:
    """As the picture in the README shows it."""
    open_at(browser, DEMO, "#sentence=0&site=cross&layer=1&head=2&off=1.cross.1.2")
    whole = "Die Ärztin sagt, dass dein Freund den Schlüssel braucht."
    assert translations(browser) == [whole, whole.replace("Schlüssel", "Tisch")]
    assert browser.evaluate("[...document.querySelectorAll('mark')].map((e) => e.textContent)") == ["Tisch"]
    assert f"With all heads: {whole}" in facts(browser, 1)


def test_the_page_searches_with_the_decoding_overrides(runs: list[RunDirectory], tmp_path: Path) -> None:
    source, target, _ = write_text(tmp_path)
    options = [
        "--model",
        runs[0].path,
        "--source",
        source,
        "--target",
        target,
        "--output",
        tmp_path / "o",
        "--no-plots",
    ]
    live = ["--live", "--no-plots", "--page-sentences", "0", "decoding.beam_size=3", "decoding.length_penalty=0.25"]
    assert analyze.main([*map(str, options), *live]) == 0
    assert '"search":{"beamSize":3,"lengthPenalty":0.25,' in (tmp_path / "o" / "live.html").read_text(encoding="utf-8")


def test_a_page_over_the_limit_names_its_size(
    runs: list[RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nmt_rela.analysis.html_page import LivePart

    source, target, _ = write_text(tmp_path)
    monkeypatch.setattr(LivePart, "size", 34_100_000)
    options = [
        "--source",
        str(source),
        "--target",
        str(target),
        "--no-plots",
        "--live",
        "--output",
        str(tmp_path / "o"),
    ]
    assert analyze.main(["--model", str(runs[0].path), *options]) == 2
    assert "--live: the page takes 34.1 MB; accepted: up to --live-limit, 20 MB" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert analyze.main(["--model", str(runs[0].path), *options, "--live-limit", "35"]) == 0
    assert (tmp_path / "o" / "live.html").exists()


@pytest.mark.slow
def test_firefox_translates_as_chromium_does(tmp_path: Path) -> None:
    with Firefox(tmp_path) as browser:
        browser.open(DEMO, "#sentence=0&site=cross&layer=1&head=2&off=1.cross.1.2")
        browser.wait_for("document.querySelectorAll('.view .text').length === 2")
        shown = browser.evaluate("[...document.querySelectorAll('.view .text')].map((e) => e.textContent)")
        whole = "Die Ärztin sagt, dass dein Freund den Schlüssel braucht."
        assert shown == [whole, whole.replace("Schlüssel", "Tisch")]
        browser.wait_for("document.querySelectorAll('.ranking li').length === 16")
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
