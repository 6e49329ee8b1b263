"""Normalization of text by language: the same for training text, references and text to be translated."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

RomanianDiacritics = Literal["none", "cedilla", "remove"]

_COMBINING = re.compile("[\u0300-\u036f]")
_CEDILLA = str.maketrans("ŞşŢţ", "ȘșȚț")
_DIACRITICS = str.maketrans("ŞşŢţȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi")


def normalization_for(language: str, *, romanian_diacritics: RomanianDiacritics) -> Callable[[str], str]:
    """The function that normalizes text of a language; the identity for all languages but Romanian."""
    if primary_language(language) == "ro" and romanian_diacritics != "none":
        return lambda text: normalize_romanian(text, romanian_diacritics)
    return lambda text: text


def normalize_romanian(text: str, mode: RomanianDiacritics) -> str:
    """Romanian text with uniform letters: ``cedilla`` writes ş ţ with a comma below; ``remove`` removes all diacritics.

    Base letters followed by combining marks are composed first (NFC). ``none`` returns the text unchanged.
    """
    if mode == "none":
        return text
    if _COMBINING.search(text):
        text = unicodedata.normalize("NFC", text)
    return text.translate(_CEDILLA if mode == "cedilla" else _DIACRITICS)


def primary_language(code: str) -> str:
    """The language of a code, without region or script: ``zh`` of ``zh-Hant`` and ``ZH_tw``."""
    return code.lower().replace("_", "-").split("-")[0]
