"""Codes of languages, in every usual spelling, lead to the same decisions."""

from __future__ import annotations

import pytest

from nmt_rela.data.languages import is_known_language, language_tag, primary_language, writing_system


@pytest.mark.parametrize(
    ("code", "primary"),
    [("zh", "zh"), ("ZH_tw", "zh"), ("zho_Hans", "zh"), ("cmn", "zh"), ("ger", "de"), ("deu_Latn", "de"), ("iw", "he"),
     ("hsb", "hsb"), ("pes_Arab", "fa")],
)  # fmt: skip
def test_codes_of_two_and_three_letters_are_the_same_language(code: str, primary: str) -> None:
    assert primary_language(code) == primary
    assert is_known_language(code)


def test_regions_are_kept_in_tags() -> None:
    assert language_tag("por_BR") == language_tag("pt-br") == "pt-br" != language_tag("pt-PT")


@pytest.mark.parametrize("code", ["zh", "cmn", "zho_Hant", "yue", "ja", "jpn", "tha_Thai", "shn_Mymr", "dz"])
def test_languages_without_spaces(code: str) -> None:
    assert not writing_system(code).spaced


@pytest.mark.parametrize("code", ["en", "kor", "vi", "zh-Latn-pinyin", "fa"])
def test_languages_with_spaces(code: str) -> None:
    assert writing_system(code).spaced


def test_sentences_of_chinese_and_japanese_follow_one_another_without_a_space() -> None:
    assert {writing_system(code).sentence_joiner for code in ("cmn", "jpn")} == {""}
    assert {writing_system(code).sentence_joiner for code in ("de", "th", "ko", "xx")} == {" "}


def test_words_of_a_language_that_is_not_known_are_counted_by_their_characters() -> None:
    assert not is_known_language("chinese")
    assert not writing_system("chinese").spaced
    assert writing_system("chinese").bleu_tokenizer == "13a"
