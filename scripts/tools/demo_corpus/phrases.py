"""Words and phrases of the demo corpus, written in English and in German from one derivation.

A word carries the keys of the ideas it expresses. Two words are linked when they share a key, so the word alignment
is exact by construction: ``picks … up`` and ``holt … ab`` pairwise, ``an apple juice`` with ``einen Apfelsaft``, while
*do* in ``does not sleep`` expresses no idea of its own and stays unaligned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .lexicon import Adjective, Noun
from .paradigms import (
    ADJECTIVE_ENDINGS,
    DEFINITE,
    INDEFINITE_ENDINGS,
    INDEFINITE_STEMS,
    NUMERALS,
    RELATIVE,
    Case,
    Declension,
    Gender,
    Person,
    PersonalPronoun,
)

Key = tuple[object, str]


class Word(NamedTuple):
    """A written word and the ideas it expresses; a comma is a word without ideas, joined to its left when written."""

    text: str
    keys: tuple[Key, ...] = ()


COMMA = Word(",")


@dataclass(frozen=True, slots=True)
class Adverbial:
    """Words of both languages that move as one block: an adverb, a prepositional phrase, a subordinate clause."""

    english: tuple[Word, ...]
    german: tuple[Word, ...]


def fixed(english: str, german: str, links: str) -> Adverbial:
    """A block from plain text; ``links`` are 0-based ``i-j`` pairs as in a Pharaoh file."""
    owner = object()
    pairs = [tuple(map(int, link.split("-"))) for link in links.split()]

    def side(text: str, which: int) -> tuple[Word, ...]:
        return tuple(
            Word(word, tuple((owner, str(pair)) for pair in pairs if pair[which] == position))
            for position, word in enumerate(text.split())
        )

    return Adverbial(side(english, 0), side(german, 1))


def linked(english: str, german: str) -> Adverbial:
    """A block in which every English word expresses the same as every German word."""
    key = (object(), "")
    return Adverbial(tuple(Word(w, (key,)) for w in english.split()), tuple(Word(w, (key,)) for w in german.split()))


class Phrase:
    """Anything that can be the subject or an object."""

    __slots__ = ()

    @property
    def is_pronoun(self) -> bool:
        return False

    @property
    def definite(self) -> bool:
        return True

    @property
    def person(self) -> Person:
        return "3"

    def english(self, *, subject: bool) -> tuple[Word, ...]:
        raise NotImplementedError

    def german(self, case: Case) -> tuple[Word, ...]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class NounPhrase(Phrase):
    """Determiner, adjective, noun, and what follows it.

    ``determiner`` is ``the``, ``a``, a possessive, a numeral, a name with ``'s``, or empty (plurals,
    mass nouns, names).
    ``negation`` is the key of *not* where a German ``kein`` absorbs it.
    """

    noun: Noun
    determiner: str = "the"
    adjective: Adjective | None = None
    plural: bool = False
    tail: Adverbial | None = None
    negation: Key | None = None
    owner: object = field(default_factory=object)

    @property
    def person(self) -> Person:
        return "p" if self.plural else "3"

    @property
    def gender(self) -> Gender:
        return "p" if self.plural else self.noun.gender

    @property
    def definite(self) -> bool:
        return self.determiner not in ("a", "", *NUMERALS) or "name" in self.noun.tags

    def english(self, *, subject: bool) -> tuple[Word, ...]:
        words = [Word(self.adjective.english, ((self.owner, "adjective"),))] if self.adjective else []
        parts = self.noun.english_plural if self.plural else self.noun.english
        words += [Word(part, ((self.owner, "noun"),)) for part in parts]
        if self.determiner:
            vowel = self.determiner == "a" and words[0].text[0] in "aeiou"
            words.insert(0, Word("an" if vowel else self.determiner, ((self.owner, "determiner"),)))
        return (*words, *(self.tail.english if self.tail else ()))

    def german(self, case: Case) -> tuple[Word, ...]:
        words = []
        article, declension = self._article(case)
        if article:
            negation = (self.negation,) if self.negation else ()
            words.append(Word(article, ((self.owner, "determiner"), *negation)))
        if self.adjective:
            ending = ADJECTIVE_ENDINGS[declension][case][self.gender]
            words.append(Word(self.adjective.stem + ending, ((self.owner, "adjective"),)))
        words.append(Word(self.noun.decline(case, plural=self.plural), ((self.owner, "noun"),)))
        return (*words, *(self.tail.german if self.tail else ()))

    def _article(self, case: Case) -> tuple[str, Declension]:
        if self.determiner == "the":
            return DEFINITE[case][self.gender], "weak"
        stem = INDEFINITE_STEMS["not"] if self.negation else INDEFINITE_STEMS.get(self.determiner, "")
        if stem:
            return stem + INDEFINITE_ENDINGS[case][self.gender], "mixed"
        return NUMERALS.get(self.determiner, self.determiner.replace("'", "")), "strong"


@dataclass(frozen=True, slots=True)
class Pronoun(Phrase):
    """A personal pronoun."""

    pronoun: PersonalPronoun
    owner: object = field(default_factory=object)

    @property
    def is_pronoun(self) -> bool:
        return True

    @property
    def person(self) -> Person:
        return self.pronoun.person

    def english(self, *, subject: bool) -> tuple[Word, ...]:
        return (Word(self.pronoun.english[0 if subject else 1], ((self.owner, ""),)),)

    def german(self, case: Case) -> tuple[Word, ...]:
        return (Word(self.pronoun.german[case], ((self.owner, ""),)),)


@dataclass(frozen=True, slots=True)
class RelativePronoun(Phrase):
    """who, whom or that, for a noun phrase."""

    antecedent: NounPhrase
    owner: object = field(default_factory=object)

    @property
    def person(self) -> Person:
        return self.antecedent.person

    def english(self, *, subject: bool) -> tuple[Word, ...]:
        human = "who" if subject else "whom"
        return (Word(human if self.antecedent.noun.human else "that", ((self.owner, ""),)),)

    def german(self, case: Case) -> tuple[Word, ...]:
        return (Word(RELATIVE[case][self.antecedent.gender], ((self.owner, ""),)),)


@dataclass(frozen=True, slots=True)
class Interrogative(Phrase):
    """who, whom (wer, wen, wem) or what (was)."""

    english_word: Literal["who", "what"]
    owner: object = field(default_factory=object)

    def english(self, *, subject: bool) -> tuple[Word, ...]:
        whom = self.english_word == "who" and not subject
        return (Word("whom" if whom else self.english_word, ((self.owner, ""),)),)

    def german(self, case: Case) -> tuple[Word, ...]:
        who: dict[Case, str] = {"nominative": "wer", "accusative": "wen", "dative": "wem"}
        return (Word("was" if self.english_word == "what" else who[case], ((self.owner, ""),)),)


CONTRACTIONS = {"in dem": "im", "zu dem": "zum", "zu der": "zur", "von dem": "vom", "an dem": "am", "in das": "ins"}


def prepositional(english: str, german: str, case: Case, phrase: Phrase) -> Adverbial:
    """A preposition with its phrase; German contracts it with an article (``in dem`` → ``im``, linked to both)."""
    key: Key = (object(), "preposition")
    first, *others = phrase.german(case)
    contraction = "" if phrase.is_pronoun else CONTRACTIONS.get(f"{german} {first.text}", "")
    opening = [Word(contraction, (key, *first.keys))] if contraction else [Word(german, (key,)), first]
    before = tuple(Word(word, (key,)) for word in english.split())
    return Adverbial((*before, *phrase.english(subject=False)), (*opening, *others))


def genitive(possessor: NounPhrase) -> Adverbial:
    """``of the dog``, ``des Hundes``: the article expresses *of* as well."""
    key: Key = (object(), "of")
    article, *others = possessor.german("genitive")
    german = (Word(article.text, (key, *article.keys)), *others)
    return Adverbial((Word("of", (key,)), *possessor.english(subject=False)), german)


def written(words: Iterable[Word], end: str) -> tuple[list[str], list[set[Key]]]:
    """The written words, capitalised at the start, commas and ``end`` attached to their left; and their keys."""
    texts: list[str] = []
    keys: list[set[Key]] = []
    for word in words:
        if word.text != COMMA.text:
            texts.append(word.text)
            keys.append(set(word.keys))
        elif texts:  # a clause that opens the sentence has no comma before it
            texts[-1] = texts[-1].rstrip(",") + ","
    texts[0] = texts[0][0].upper() + texts[0][1:]
    texts[-1] = texts[-1].rstrip(",") + end
    return texts, keys


def links(source: Sequence[set[Key]], target: Sequence[set[Key]]) -> tuple[tuple[int, int], ...]:
    """All pairs of positions that share an idea, in order."""
    return tuple((i, j) for i, here in enumerate(source) for j, there in enumerate(target) if here & there)
