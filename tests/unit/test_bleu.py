"""BLEU and chrF: figures of sacreBLEU itself, with signatures, and clear refusals."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from nmt_rela.metrics import bleu
from nmt_rela.metrics.bleu import TOKENIZERS, compute_scores, default_tokenizer
from nmt_rela.utils.errors import ConfigError, DataError


def test_scores_come_with_signatures() -> None:
    scores = compute_scores(["The cat sat on the mat.", "Hello, world!"], ["The cat sat on a mat.", "Hello, world!"])
    assert scores.bleu == pytest.approx(100 * (10 / 11 * 7 / 9 * 4 / 7 * 2 / 5) ** 0.25)
    assert scores.sentences == 2
    assert "tok:13a" in scores.bleu_signature
    assert "case:mixed" in scores.bleu_signature
    assert "nc:6" in scores.chrf_signature
    assert scores.lines()[0].startswith(f"{scores.bleu_signature} = 63.40 ")
    assert json.loads(json.dumps(asdict(scores)))["chrf"] == scores.chrf


def test_the_length_ratio_shows_translations_that_are_too_long() -> None:
    # BLEU's brevity penalty says nothing of them.
    scores = compute_scores(["the cat sat on the mat on the mat on the mat"], ["the cat sat on the mat"])
    assert (scores.brevity_penalty, scores.length_ratio) == (1.0, 2.0)
    assert scores.lines()[0].endswith("(BP 1.000, length 2.000)")
    assert compute_scores(["the cat sat"], ["the cat sat on the mat"]).length_ratio == 0.5


@pytest.mark.parametrize("tokenizer", [name for name in TOKENIZERS if "mecab" not in name])
def test_a_perfect_translation_scores_100(tokenizer: str) -> None:
    scores = compute_scores(
        ["ein Hund läuft über die grüne Wiese ."], ["ein Hund läuft über die grüne Wiese ."], tokenizer=tokenizer
    )
    assert scores.bleu == pytest.approx(100.0)
    assert scores.chrf == pytest.approx(100.0)
    assert f"tok:{tokenizer}" in scores.bleu_signature


def test_chinese_is_split_into_characters() -> None:
    hypothesis, reference = ["我喜欢大的红苹果"], ["我喜欢大的绿苹果"]
    assert (
        compute_scores(hypothesis, reference, tokenizer="zh").bleu > 30.0 > compute_scores(hypothesis, reference).bleu
    )


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("de", "13a"), ("zho_Hans", "zh"), ("cmn", "zh"), ("yue-Hant", "zh"), ("tha", "char"), ("zh-Latn", "13a")],
)
def test_the_language_decides_the_tokenizer(language: str, tokenizer: str) -> None:
    assert default_tokenizer(language) == tokenizer


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("ja", "ja-mecab"), ("jpn_Jpan", "ja-mecab"), ("kor_Hang", "ko-mecab")]
)
def test_a_tokenizer_that_is_not_installed_is_replaced_by_characters(
    language: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bleu, "find_spec", lambda name: None)
    assert default_tokenizer.__wrapped__(language) == "char"
    assert "pip install 'sacrebleu[" in caplog.text
    monkeypatch.setattr(bleu, "find_spec", lambda name: True)
    assert default_tokenizer.__wrapped__(language) == tokenizer


def test_bleu_is_case_sensitive() -> None:
    assert compute_scores(["a b c d e"], ["A B C D E"]).bleu < 1.0


def test_unequal_or_empty_texts_and_unknown_tokenizers_are_refused() -> None:
    with pytest.raises(DataError, match="2 translations for 1 references"):
        compute_scores(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no line"):
        compute_scores([], [])
    with pytest.raises(ConfigError, match="did you mean '13a'"):
        compute_scores(["a"], ["a"], tokenizer="13")
