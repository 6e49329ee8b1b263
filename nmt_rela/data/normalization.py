"""Repair and normalization of all text that the model reads: for training, as a reference, or to be translated."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Literal

from nmt_rela.config.schema import DataConfig
from nmt_rela.data.languages import NORMALIZATIONS, primary_language, writing_system

RomanianDiacritics = Literal["none", "cedilla", "remove"]

_DECOMPOSED = "\u0300-\u036f\u1100-\u11ff\u3099\u309a"
_COMBINING = re.compile(f"[{_DECOMPOSED}]")
_PARTS = re.compile(r".{1,1000}(?=\s)|.{1,1000}", re.DOTALL)
_CEDILLA = str.maketrans("ŞşŢţ", "ȘșȚț")
_DIACRITICS = str.maketrans("ŞşŢţȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi")

_SUSPECT = re.compile(
    f"[\x00-\x1f\x7f-\xa0\xad\u1680\u2000-\u200b\u200e-\u200f\u2028-\u202f\u205f\u2060\u2066-\u2069\ufeff&{_DECOMPOSED}]"
)
_INVISIBLE = re.compile("[\xad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
_JOINERS = re.compile("[\u200c\u200d]+")
#: An ampersand that was escaped any number of times.
_AMPERSAND = re.compile(r"&(?:(?:amp|#0{0,5}38|#x0{0,4}26);)+", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
#: Entities inside entities inside …: more than anyone writes, and a bound on the time.
_MAX_PASSES = 16
_SPACES = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f]")
_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_CONTROLS = re.compile("[\x00-\x08\x0a\x0d-\x1b\x1f\x7f-\x84\x86-\x9f]+")


def normalization_rule(*languages: str, data: DataConfig) -> str:
    """SentencePiece's rule for a model of these languages: ``data.normalization``, or the gentlest of theirs."""
    if data.normalization != "auto":
        return data.normalization
    return min((writing_system(language).normalization for language in languages), key=NORMALIZATIONS.index)


def normalization_for(language: str, data: DataConfig) -> Callable[[str], str]:
    """The function that repairs and normalizes text of a language. Doing it twice changes nothing more."""
    keeps_joiners, romanian = language_rules(language, data)
    return partial(_normalize, keeps_joiners=keeps_joiners, romanian=romanian)  # can be pickled


def _normalize(text: str, *, keeps_joiners: bool, romanian: RomanianDiacritics) -> str:
    text, _ = repair_text(text)
    return normalize_romanian(text if keeps_joiners else _JOINERS.sub("", text), romanian)


def language_rules(language: str, data: DataConfig) -> tuple[bool, RomanianDiacritics]:
    """What ``normalization_for`` does beside repairs: whether zero-width joiners stay, and to Romanian letters."""
    keeps_joiners = normalization_rule(language, data=data) != "nmt_nfkc"
    return keeps_joiners, data.romanian_diacritics if primary_language(language) == "ro" else "none"


def repair_text(text: str) -> tuple[str, str]:
    """Repaired text, and the name of the repair made ("" for none, or for spaces only).

    Entities are resolved, invisible characters removed and decomposed letters composed (NFC). Separators, control
    characters and unusual spaces become spaces; the ideographic space stays.
    """
    reason = ""
    if not _SUSPECT.search(text):
        return text, reason
    for _ in range(_MAX_PASSES):  # a repair may complete an entity
        before = text
        for name, repair in _REPAIRS:
            repaired = repair(text)
            if repaired != text:
                text, reason = repaired, name or reason
        if text == before:
            break
    return text, reason


def _resolve_entities(text: str) -> str:
    return _ENTITY.sub(lambda found: html.unescape(found[0]), _AMPERSAND.sub("&", text))


def _compose(text: str) -> str:
    """NFC. Its time grows with the square of the marks on one letter, so that long words are composed in parts."""
    if not _COMBINING.search(text):
        return text
    return "".join(unicodedata.normalize("NFC", part) for part in _PARTS.findall(text))


_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", lambda text: _SPACES.sub(" ", text)),
    ("decomposed letters", _compose),
    ("invisible characters", lambda text: _INVISIBLE.sub("", text)),
    ("entities", _resolve_entities),
    ("separators", lambda text: _SEPARATORS.sub(" ", text)),
    ("control characters", lambda text: _CONTROLS.sub(" ", text)),
)


def normalize_romanian(text: str, mode: RomanianDiacritics) -> str:
    """Romanian text with uniform letters: ``cedilla`` writes ş ţ with a comma below; ``remove`` removes all diacritics.

    Base letters followed by combining marks are composed first (NFC). ``none`` returns the text unchanged.
    """
    return text if mode == "none" else _compose(text).translate(_CEDILLA if mode == "cedilla" else _DIACRITICS)
