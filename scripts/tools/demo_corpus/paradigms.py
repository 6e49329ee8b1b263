"""The closed classes of the demo corpus: articles, pronouns, adjective endings, auxiliaries and modals.

Genders are ``m``, ``f``, ``n``, and ``p`` for the plural, which German declines like a fourth gender. Persons are
``1`` (I), ``2`` (you, always one friend: *du*), ``3`` (he, she, it) and ``p`` (we, they).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Case = Literal["nominative", "accusative", "dative", "genitive"]
Gender = Literal["m", "f", "n", "p"]
Person = Literal["1", "2", "3", "p"]
Forms = dict[Person, str]

DEFINITE: dict[Case, dict[Gender, str]] = {
    "nominative": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
    "genitive": {"m": "des", "f": "der", "n": "des", "p": "der"},
}
# A relative pronoun is the article, but for the dative plural (its genitive is not used here).
RELATIVE: dict[Case, dict[Gender, str]] = {**DEFINITE, "dative": {**DEFINITE["dative"], "p": "denen"}}
# Endings of ein, kein and the possessives.
INDEFINITE_ENDINGS: dict[Case, dict[Gender, str]] = {
    "nominative": {"m": "", "f": "e", "n": "", "p": "e"},
    "accusative": {"m": "en", "f": "e", "n": "", "p": "e"},
    "dative": {"m": "em", "f": "er", "n": "em", "p": "en"},
    "genitive": {"m": "es", "f": "er", "n": "es", "p": "er"},
}
INDEFINITE_STEMS = {
    "a": "ein", "not": "kein", "my": "mein", "your": "dein", "his": "sein", "her": "ihr", "our": "unser",
    "their": "ihr",
}  # fmt: skip
NUMERALS = {"two": "zwei", "three": "drei"}

Declension = Literal["weak", "mixed", "strong"]
ADJECTIVE_ENDINGS: dict[Declension, dict[Case, dict[Gender, str]]] = {
    "weak": {  # after der, die, das
        "nominative": {"m": "e", "f": "e", "n": "e", "p": "en"},
        "accusative": {"m": "en", "f": "e", "n": "e", "p": "en"},
        "dative": {"m": "en", "f": "en", "n": "en", "p": "en"},
        "genitive": {"m": "en", "f": "en", "n": "en", "p": "en"},
    },
    "mixed": {  # after ein, kein and the possessives
        "nominative": {"m": "er", "f": "e", "n": "es", "p": "en"},
        "accusative": {"m": "en", "f": "e", "n": "es", "p": "en"},
        "dative": {"m": "en", "f": "en", "n": "en", "p": "en"},
        "genitive": {"m": "en", "f": "en", "n": "en", "p": "en"},
    },
    "strong": {  # where no article shows the case
        "nominative": {"m": "er", "f": "e", "n": "es", "p": "e"},
        "accusative": {"m": "en", "f": "e", "n": "es", "p": "e"},
        "dative": {"m": "em", "f": "er", "n": "em", "p": "en"},
        "genitive": {"m": "en", "f": "er", "n": "en", "p": "er"},
    },
}


@dataclass(frozen=True, slots=True)
class PersonalPronoun:
    """English subject and object form, the possessive, the German cases, and what a verb agrees with."""

    english: tuple[str, str]
    possessive: str
    german: dict[Case, str]
    person: Person


def _pronoun(english: str, possessive: str, german: str, person: Person) -> PersonalPronoun:
    subject, other = english.split()
    nominative, accusative, dative = german.split()
    cases: dict[Case, str] = {"nominative": nominative, "accusative": accusative, "dative": dative}
    return PersonalPronoun((subject, other), possessive, cases, person)


PRONOUNS = {
    "I": _pronoun("I me", "my", "ich mich mir", "1"),
    "you": _pronoun("you you", "your", "du dich dir", "2"),
    "he": _pronoun("he him", "his", "er ihn ihm", "3"),
    "she": _pronoun("she her", "her", "sie sie ihr", "3"),
    "we": _pronoun("we us", "our", "wir uns uns", "p"),
    "they": _pronoun("they them", "their", "sie sie ihnen", "p"),
}
# "it" takes the gender of the German noun that it stands for.
IT: dict[Gender, PersonalPronoun] = {
    "m": _pronoun("it it", "", "er ihn ihm", "3"),
    "f": _pronoun("it it", "", "sie sie ihr", "3"),
    "n": _pronoun("it it", "", "es es ihm", "3"),
    "p": PRONOUNS["they"],
}


def person_forms(first: str, second: str, third: str, plural: str) -> Forms:
    return {"1": first, "2": second, "3": third, "p": plural}


BE_PRESENT = person_forms("am", "are", "is", "are")
BE_PAST = person_forms("was", "were", "was", "were")
WERDEN = person_forms("werde", "wirst", "wird", "werden")


@dataclass(frozen=True, slots=True)
class Modal:
    """A modal. ``english`` is an auxiliary (``can``) or, with ``to``, a verb that needs do-support (``want to``)."""

    english: str
    english3: str
    to: bool
    german: Forms


MODALS = {
    "can": Modal("can", "can", False, person_forms("kann", "kannst", "kann", "können")),
    "must": Modal("must", "must", False, person_forms("muss", "musst", "muss", "müssen")),
    "should": Modal("should", "should", False, person_forms("sollte", "solltest", "sollte", "sollten")),
    "want": Modal("want", "wants", True, person_forms("will", "willst", "will", "wollen")),
    "could": Modal("could", "could", False, person_forms("konnte", "konntest", "konnte", "konnten")),
    "wanted": Modal("wanted", "wanted", True, person_forms("wollte", "wolltest", "wollte", "wollten")),
    "had": Modal("had", "had", True, person_forms("musste", "musstest", "musste", "mussten")),
}
