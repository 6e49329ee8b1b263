"""Sentences of one clause in the demo corpus: statements, questions, orders, descriptions."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .grammar import Clause, english_clause, german_clause
from .lexicon import ADJECTIVES, BE, IMPERATIVES, VERBS
from .meaning import (
    ACTIONS,
    FITTING,
    Draw,
    act,
    animal,
    described,
    noun_named,
    person,
    pronoun_for,
    somebody_else,
    tell,
    thing,
    with_tag,
)
from .paradigms import PRONOUNS, PersonalPronoun
from .phrases import (
    Adverbial,
    Interrogative,
    NounPhrase,
    Phrase,
    Pronoun,
    Word,
    genitive,
    linked,
    prepositional,
)


class Sentence(NamedTuple):
    """The words of both languages, before they are written, and the final punctuation."""

    english: list[Word]
    german: list[Word]
    end: str = "."


def state(subject: Phrase, adjective: str, *, negated: bool = False) -> Clause:
    """She is tired."""
    quality = linked(adjective, ADJECTIVES[adjective].german)
    return Clause(subject=subject, verb=BE, complements=(quality,), negated=negated)


def weather(kind: str) -> Clause:
    """It is raining, it is cold: the same "it" is "es" whatever was spoken of before."""
    it = Pronoun(PersonalPronoun(("it", "it"), "", {"nominative": "es"}, "3"))
    return Clause(subject=it, verb=VERBS["rain"], tense="progressive") if kind == "rain" else state(it, kind)


def finished(clause: Clause, end: str = ".") -> Sentence:
    """The clause as a statement, or as a question where ``end`` is a question mark."""
    if end == "?":
        wh = clause.front is not None or clause.extracted or isinstance(clause.subject, Interrogative)
        return Sentence(english_clause(clause, "question"), german_clause(clause, "second" if wh else "first"), end)
    return Sentence(english_clause(clause), german_clause(clause))


def joined(main: Clause, tail: Adverbial) -> Sentence:
    """A main clause and what follows both its English and its German words."""
    return Sentence([*english_clause(main), *tail.english], [*german_clause(main), *tail.german])


def anything(draw: Draw, *, plain: bool = False, question: bool = False) -> Clause:
    """Any action by whoever can do it; see :func:`tell` for the options."""
    name = draw.pick(tuple(ACTIONS))
    subject = person(draw)
    if ACTIONS[name].being and draw.chance(0.4):
        subject = animal(draw)
    elif name == "arrive" and draw.chance(0.6):
        subject = described(draw, draw.pick(with_tag("transport")))
    return tell(draw, act(draw, name, subject), ACTIONS[name].kind, plain=plain, question=question)


def statement(draw: Draw) -> Sentence:
    """Tomorrow Anna will open the window."""
    return finished(anything(draw))


def question(draw: Draw) -> Sentence:
    """Did Anna open the window? Where does the cat sleep? What does she buy?"""
    clause = anything(draw, question=True)
    while clause.subject.person == "1":  # one rarely asks oneself
        clause = anything(draw, question=True)
    kind = draw.weighted({"yes or no": 5, "why": 2, "when": 2, "where": 3, "who": 2, "what": 4})
    if kind in ("why", "when"):
        word = {"why": "warum", "when": "wann"}[kind]
        tense = "past" if clause.tense == "perfect" and kind == "when" else clause.tense  # never "when has she"
        return finished(replace(clause, front=linked(kind, word), time=None, tense=tense), "?")
    if kind == "where":
        # German asks where something is (wo) and where it goes (wohin): the verb decides.
        name = draw.pick(("sleep", "work", "dance", "play", "wait", "live", "go", "run", "drive"))
        where = linked("where", "wohin" if name in ("go", "run", "drive") else "wo")
        actor = animal(draw) if ACTIONS[name].being and draw.chance(0.5) else person(draw)
        clause = replace(act(draw, name, actor), complements=(), front=where)
        return finished(replace(tell(draw, clause, ACTIONS[name].kind, question=True), gladly=False), "?")
    if kind == "who" and pronoun_for(clause.subject) and clause.subject.person == "3" and not clause.modal:
        return finished(replace(clause, subject=Interrogative("who")), "?")
    if kind in ("who", "what") and isinstance(clause.direct, NounPhrase) and not clause.gladly:
        asked = Interrogative("who" if clause.direct.noun.human else "what")
        return finished(replace(clause, direct=asked, extracted=True), "?")
    return finished(clause, "?")


def order(draw: Draw) -> Sentence:
    """Please open the window. Do not open the window."""
    name = draw.pick([name for name, action in ACTIONS.items() if action.verb in IMPERATIVES])
    you = Pronoun(PRONOUNS["you"])
    negated = draw.chance(0.25)
    clause = replace(act(draw, name, you), complements=(), negated=negated)
    if isinstance(clause.direct, NounPhrase) and clause.direct.determiner not in ("the", "your"):
        clause = replace(clause, direct=replace(clause.direct, determiner="the" if clause.direct.determiner else ""))
    if not negated:
        clause = replace(clause, front=linked("please", "bitte"))
    return Sentence(english_clause(clause, "imperative"), german_clause(clause, "imperative"))


def description(draw: Draw) -> Sentence:
    """My uncle is not ill. The lamp was not expensive. The owner of the dog is friendly. Is Anna your friend?"""
    subject = person(draw)
    kind = draw.weighted({"person": 4, "thing": 3, "possessor": 3, "role": 1})
    if kind == "role" and pronoun_for(subject) is PRONOUNS["he"] and not subject.is_pronoun:
        friend = NounPhrase(noun_named("friend"), draw.pick(("my", "your", "our")))
        role = Adverbial(friend.english(subject=False), friend.german("nominative"))
        return finished(Clause(subject=subject, verb=BE, complements=(role,)))
    quality = draw.pick(("tired", "ill", "happy", "hungry"))
    if kind == "thing":
        uses = draw.pick(("garment", "vehicle", "device", "surface", "opening", "luggage"))
        noun_phrase = thing(draw, subject, uses)
        subject = noun_phrase if noun_phrase.definite else replace(noun_phrase, determiner="the")
        quality = draw.pick(FITTING[uses].split())
    elif kind == "possessor":
        head = draw.pick(("owner", "mother", "father", "friend", "door", "window"))
        uses = {"owner": "animal vehicle house", "door": "house", "window": "room"}.get(head, "person")
        possessor = described(draw, draw.pick(with_tag(uses)), often=0.15)
        subject = NounPhrase(noun_named(head), tail=genitive(possessor))
        quality = draw.pick(FITTING[subject.noun.tags[0]].split())
    asked = draw.chance(0.15) and subject.person != "1"
    clause = state(subject, quality, negated=draw.chance(0.25) and not asked)
    return finished(replace(clause, tense=draw.pick(("present", "past"))), "?" if asked else ".")


def comparison(draw: Draw) -> Sentence:
    """Paul is taller than his sister. The car is more expensive than the bicycle."""
    one: Phrase = person(draw)
    other = somebody_else(draw, one)
    qualities: tuple[str, ...] = ("old", "young", "tall")
    if draw.chance(0.6) or not other.definite:
        uses = draw.pick(("garment", "vehicle", "device", "text", "place"))
        first = draw.pick(with_tag(uses))
        second = draw.pick([noun for noun in with_tag(uses) if noun is not first])
        one, other = NounPhrase(first), NounPhrase(second)
        qualities = tuple(q for q in FITTING[uses].split() if ADJECTIVES[q].german_comparative)
    adjective = ADJECTIVES[draw.pick(qualities)]
    comparative = linked(" ".join(adjective.english_comparative), adjective.german_comparative)
    than = linked("than", "als")
    english = (*comparative.english, *than.english, *other.english(subject=False))
    german = (*comparative.german, *than.german, *other.german("nominative"))
    return finished(Clause(subject=one, verb=BE, complements=(Adverbial(english, german),)))


def liking(draw: Draw) -> Sentence:
    """The teacher likes the picture: Dem Lehrer gefällt das Bild. The car belongs to my aunt."""
    subject = person(draw)
    if draw.chance(0.3):
        owned = described(draw, draw.pick(with_tag("goods thing animal")), plural=draw.chance(0.2))
        owner = somebody_else(draw, subject)
        owner = NounPhrase(draw.pick(with_tag("person"))) if not owner.definite else owner
        clause = Clause(subject=owned, verb=VERBS["belong+to"], direct=owner, negated=draw.chance(0.15))
        return finished(clause, draw.pick((".", ".", ".", "?")))
    noun = draw.pick(with_tag("painted text garment place vehicle"))
    plural = draw.chance(0.25) and "place" not in noun.tags
    liked = described(draw, noun, plural=plural, often=0.4)
    return finished(Clause(subject=subject, verb=VERBS["like"], direct=liked, negated=draw.chance(0.25)))


# What there can be in a place.
FURNISHED = {
    "city": "building stop outside",
    "village": "building outside",
    "kitchen": "surface device",
    "living room": "surface device painted",
    "garden": "painted animal surface",
    "library": "text surface",
}


def existence(draw: Draw) -> Sentence:
    """There is an old museum in the city: In der Stadt gibt es ein altes Museum."""
    place = draw.pick(tuple(FURNISHED))
    noun = draw.pick(with_tag(FURNISHED[place]))
    if "goods" in noun.tags and draw.chance(0.4):
        phrase = described(draw, noun, draw.pick(("two", "three")), plural=True, often=0.15)
    else:
        phrase = described(draw, noun, "a", often=0.5)
    where = prepositional("in", "in", "dative", NounPhrase(noun_named(place)))
    there = linked("there", "es")
    verb = linked("are" if phrase.plural else "is", "gibt")
    english = [*there.english, *verb.english, *phrase.english(subject=False), *where.english]
    return Sentence(english, [*where.german, *verb.german, *there.german, *phrase.german("accusative")])
