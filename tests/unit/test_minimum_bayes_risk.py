"""Minimum-Bayes-risk decoding: the candidate that agrees most with all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sacrebleu
from toy_translator import sentences, toy_translator

from nmt_rela.generation.minimum_bayes_risk import Utility, rank_by_expected_utility
from nmt_rela.generation.options import EMPTY, SamplingOptions, TranslationHypothesis
from nmt_rela.utils.errors import ConfigError

CANDIDATES = ["the cat sits here", "a cat sits here", "the cat sits", "dogs run", "the cat sits here", "the cats sit"]


def hypothesis(text: str, log_probability: float = -1.0) -> TranslationHypothesis:
    return replace(EMPTY, text=text, log_probability=log_probability)


@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_candidates_are_ranked_by_their_mean_score_against_all(utility: Utility) -> None:
    found = rank_by_expected_utility([hypothesis(text) for text in CANDIDATES], utility)
    score = sacrebleu.sentence_chrf if utility == "chrf" else sacrebleu.sentence_bleu
    expected = {
        text: sum(score(text, [other]).score for other in CANDIDATES) / len(CANDIDATES) for text in set(CANDIDATES)
    }
    assert {one.text: one.score for one in found} == pytest.approx(expected)
    assert [one.score for one in found] == pytest.approx(sorted(expected.values(), reverse=True))
    assert found[0].text == "the cat sits here"


def test_ties_go_to_the_more_probable_one() -> None:
    assert [one.text for one in rank_by_expected_utility([hypothesis("ab", -3.0), hypothesis("xy", -2.0)], "chrf")] == [
        "xy",
        "ab",
    ]


def test_one_candidate_has_its_mean_score_too() -> None:
    (found,) = rank_by_expected_utility([hypothesis("the cat sits here")] * 3, "chrf")
    assert found.score == pytest.approx(100.0)


def test_bleu_counts_characters_in_languages_written_without_spaces() -> None:
    candidates = [hypothesis(text) for text in ("他明天去北京大学", "我今天去北京大学", "我今天去上海大学看书")]
    assert rank_by_expected_utility(candidates, "bleu", spaced=False)[0].text == "我今天去北京大学"


def test_samples_and_beams_are_candidates() -> None:
    translator, lines = toy_translator(), [*sentences(5, seed=3, longest=6), ""]
    sampling = SamplingOptions(seed=4)
    samples = translator.translate(lines, sampling=sampling, n_best=12)
    chosen = translator.translate(lines, sampling=sampling, mbr="chrf", candidates=12)
    for among, best in zip(samples, chosen, strict=True):
        assert [best.hypotheses[0].text] == [one.text for one in rank_by_expected_utility(among.hypotheses, "chrf")[:1]]
        assert len(best.hypotheses) == 1
    beam = translator.translate(lines, beam_size=4, n_best=4)
    for among, best in zip(beam, translator.translate(lines, beam_size=4, n_best=3, mbr="bleu"), strict=True):
        texts = [one.text for one in rank_by_expected_utility(among.hypotheses, "bleu")]
        assert [one.text for one in best.hypotheses] == texts[:3]


def test_more_translations_than_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"n_best \(--n-best\): found 9; accepted: 1 up to 8 candidates"):
        toy_translator().translate(["a"], sampling=SamplingOptions(), mbr="chrf", candidates=8, n_best=9)
