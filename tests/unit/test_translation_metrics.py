"""Metrics of translations: figures of sacreBLEU itself, with signatures, and clear refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from nmt_rela.config.schema import EvaluationConfig
from nmt_rela.metrics import translation
from nmt_rela.metrics.translation import TOKENIZERS, compute_scores, default_tokenizer, score_lines
from nmt_rela.utils.errors import ConfigError, DataError

ALL = EvaluationConfig(metrics=("bleu", "chrf", "chrf++", "ter"))
HYPOTHESES = ["The cat sat on the mat.", "Hello, world!"]
REFERENCES = ["The cat sat on a mat.", "Hello, world!"]


@pytest.mark.parametrize("more", [[], [["A cat lay on the mat.", "Hello world."]]])
@pytest.mark.parametrize(
    ("name", "oracle"), [("bleu", BLEU()), ("chrf", CHRF()), ("chrf++", CHRF(word_order=2)), ("ter", TER())]
)
def test_each_metric_is_that_of_sacrebleu(name: str, oracle: Any, more: list[list[str]]) -> None:
    scores = compute_scores(HYPOTHESES, REFERENCES, ALL, more_references=more)
    expected = oracle.corpus_score(HYPOTHESES, [REFERENCES, *more])
    assert scores[name] == pytest.approx(expected.score)
    assert scores[f"{name}_signature"] == f"{expected.name}|{oracle.get_signature()}"
    assert json.loads(json.dumps(scores)) == scores


def test_only_what_is_chosen_is_there_and_the_length_ratio_always() -> None:
    scores = compute_scores(HYPOTHESES, REFERENCES, EvaluationConfig(metrics=("ter",)))
    assert set(scores) == {"sentences", "bleu_tokenizer", "length_ratio", "ter", "ter_signature"}
    (line,) = score_lines(scores, ["ter"])
    assert line == f"{scores['ter_signature']} = {scores['ter']:.2f}"


def test_bleu_by_hand() -> None:
    scores = compute_scores(HYPOTHESES, REFERENCES)
    assert scores["bleu"] == pytest.approx(100 * (10 / 11 * 7 / 9 * 4 / 7 * 2 / 5) ** 0.25)
    assert score_lines(scores, ["bleu"])[0].startswith(f"{scores['bleu_signature']} = 63.40 ")


def test_the_length_ratio_shows_translations_that_are_too_long() -> None:
    # BLEU's brevity penalty says nothing of them.
    scores = compute_scores(["the cat sat on the mat on the mat on the mat"], ["the cat sat on the mat"])
    assert (scores["brevity_penalty"], scores["length_ratio"]) == (1.0, 2.0)
    assert score_lines(scores, ["bleu"])[0].endswith("(BP 1.000, length 2.000)")
    assert compute_scores(["the cat sat"], ["the cat sat on the mat"])["length_ratio"] == 0.5


@pytest.mark.parametrize("tokenizer", [name for name in TOKENIZERS if "mecab" not in name])
def test_a_perfect_translation_scores_100(tokenizer: str) -> None:
    text = ["ein Hund läuft über die grüne Wiese ."]
    scores = compute_scores(text, text, ALL, tokenizer=tokenizer)
    assert [scores[name] for name in ALL.metrics] == pytest.approx([100.0, 100.0, 100.0, 0.0])
    assert f"tok:{tokenizer}" in scores["bleu_signature"]


def test_chinese_is_split_into_characters() -> None:
    hypothesis, reference = ["我喜欢大的红苹果"], ["我喜欢大的绿苹果"]
    split, whole = (compute_scores(hypothesis, reference, ALL, tokenizer=name) for name in ("zh", "13a"))
    assert split["bleu"] > 30.0 > whole["bleu"]
    assert split["ter"] == pytest.approx(100 / 8)  # one character of eight
    assert whole["ter"] == 100.0


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
    monkeypatch.setattr(translation, "find_spec", lambda name: None)
    assert default_tokenizer.__wrapped__(language) == "char"
    assert "pip install 'sacrebleu[" in caplog.text
    monkeypatch.setattr(translation, "find_spec", lambda name: True)
    assert default_tokenizer.__wrapped__(language) == tokenizer


def test_bleu_is_case_sensitive() -> None:
    assert compute_scores(["a b c d e"], ["A B C D E"])["bleu"] < 1.0


def test_unequal_or_empty_texts_and_unknown_tokenizers_are_refused() -> None:
    with pytest.raises(DataError, match="2 translations for 1 references"):
        compute_scores(["a", "b"], ["a"])
    with pytest.raises(DataError, match="no line"):
        compute_scores([], [])
    with pytest.raises(ConfigError, match="did you mean '13a'"):
        compute_scores(["a"], ["a"], tokenizer="13")
