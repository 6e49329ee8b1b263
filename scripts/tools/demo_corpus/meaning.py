"""What the demo corpus talks about: who does what, with what, where and when.

Meaning is typed (people read books, cats sleep under tables), so that sentences make sense; every choice comes from a
:class:`Draw`, so that a seed gives the same sentences everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeVar

from .grammar import Clause, Tense
from .lexicon import ADJECTIVES, HAVE, NAMES, NOUNS, VERBS, Noun
from .paradigms import IT, MODALS, NUMERALS, PRONOUNS, Case, PersonalPronoun
from .phrases import Adverbial, NounPhrase, Phrase, Pronoun, fixed, linked, prepositional

Item = TypeVar("Item")


class Draw:
    """Reproducible choices: only ``random()`` of a seeded generator, whose sequence Python guarantees."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._random.random() * len(items))]

    def weighted(self, weights: dict[Item, int]) -> Item:
        point = self._random.random() * sum(weights.values())
        for item, weight in weights.items():
            point -= weight
            if point < 0:
                return item
        return next(reversed(weights))


@cache
def with_tag(tags: str) -> tuple[Noun, ...]:
    """The nouns that have one of the uses."""
    wanted = tags.split()
    return tuple(noun for noun in NOUNS if any(tag in noun.tags for tag in wanted))


# The adjectives that go with a noun, by the first of its uses.
FITTING = {
    "person": "young old friendly tall", "minor": "small tall friendly", "kin": "young old friendly",
    "animal": "small big old young beautiful",
    "text": "new old", "food": "fresh warm", "drink": "cold warm fresh", "opening": "small big old new",
    "garment": "new old red blue beautiful expensive cheap", "device": "new old expensive cheap",
    "vehicle": "new old red blue expensive", "transport": "", "surface": "new old big small", "flat": "new small",
    "thing": "small beautiful expensive", "luggage": "heavy big small", "painted": "beautiful small",
    "place": "beautiful small big old", "owner": "young old friendly",
}  # fmt: skip

# English and German time adverbials with their links, by the tenses that they go with.
TIMES: dict[Tense, tuple[tuple[str, str, str], ...]] = {
    "present": (
        ("today", "heute", "0-0"),
        ("every day", "jeden Tag", "0-0 1-1"),
        ("every evening", "jeden Abend", "0-0 1-1"),
        ("in the evening", "am Abend", "0-0 1-0 2-1"),
        ("in the morning", "am Morgen", "0-0 1-0 2-1"),
        ("on Sunday", "am Sonntag", "0-0 1-1"),
        ("in summer", "im Sommer", "0-0 1-1"),
        ("in winter", "im Winter", "0-0 1-1"),
    ),
    "progressive": (("now", "jetzt", "0-0"),),
    "past": (
        ("yesterday", "gestern", "0-0"),
        ("last week", "letzte Woche", "0-0 1-1"),
        ("on Sunday", "am Sonntag", "0-0 1-1"),
        ("in the morning", "am Morgen", "0-0 1-0 2-1"),
    ),
    "perfect": (("today", "heute", "0-0"),),
    "future": (
        ("tomorrow", "morgen", "0-0"),
        ("next week", "nächste Woche", "0-0 1-1"),
        ("on Sunday", "am Sonntag", "0-0 1-1"),
        ("today", "heute", "0-0"),
    ),
}
TENSES: dict[str, Tense] = {tense: tense for tense in TIMES}
# Times that a negation does not turn into something else ("not every day").
POINTS = ("today", "yesterday", "tomorrow", "now")
FREQUENCIES: dict[str, tuple[tuple[str, str], ...]] = {
    "present": (("often", "oft"), ("always", "immer"), ("never", "nie")),
    "perfect": (("already", "schon"), ("never", "noch nie")),
}


@dataclass(frozen=True, slots=True)
class Action:
    """A verb with its objects and adverbials.

    ``objects`` are uses of nouns, or ``somebody``; of ``complements`` one is drawn ("" is none, two names are two
    phrases). A ``deed`` can be wanted or ordered, an ``event`` only happens, a ``state`` is told in the present tense.
    ``being`` says that animals do it too, ``makes`` that the object is only coming into being.
    """

    verb: str
    objects: str = ""
    complements: tuple[str, ...] = ("",)
    kind: Literal["deed", "event", "state"] = "deed"
    recipient: bool = False
    being: bool = False
    makes: bool = False


ACTIONS = {
    "sleep": Action("sleep", complements=("", "in", "near"), being=True),
    "rest": Action("sleep", being=True),
    "laugh": Action("laugh", kind="event"),
    "work": Action("work", complements=("in", "with", "")),
    "dance": Action("dance", complements=("", "in", "with")),
    "sing": Action("sing", complements=("", "in", "with")),
    "play": Action("play", complements=("in", "with", "animal", "animal in")),
    "play outside": Action("play", complements=("outside", "animal outside")),
    "wait outside": Action("wait", complements=("outside", "at")),
    "wait": Action("wait", complements=("in", "at", "await", "await", "somebody")),
    "swim": Action("swim", complements=("", "with", "without")),
    "stay": Action("stay", complements=("at-home", "in", "with at-home")),
    "stay at home": Action("stay", complements=("at-home",)),
    "sit": Action("sit", complements=("on", "room", "near"), being=True),
    "live": Action("live", complements=("town", "with town"), kind="state"),
    "go": Action("go", complements=("to", "into", "home", "visit", "with into", "with to", "without home")),
    "go home": Action("go", complements=("home",)),
    "go to the doctor": Action("go", complements=("doctor",)),
    "go to": Action("go", complements=("to", "visit", "into-town")),
    "run home": Action("run", complements=("home",), being=True),
    "run": Action("run", complements=("into", "home"), being=True),
    "drive": Action("drive", complements=("to", "into-town", "home", "with into-town", "visit", "without home")),
    "come back": Action("come/back", kind="event"),
    "get up": Action("get/up", complements=("early",)),
    "wake up": Action("wake/up", kind="event", being=True),
    "arrive": Action("arrive", kind="event"),
    "read": Action("read", "text", ("", "", "in")),
    "write": Action("write", "written", makes=True),
    "buy": Action("buy", "goods food", ("", "", "benefit")),
    "buy food": Action("buy", "food"),
    "sell": Action("sell", "goods"),
    "eat": Action("eat", "food", ("", "", "room")),
    "drink": Action("drink", "drink", ("", "", "room")),
    "drink coffee": Action("drink", "drink"),
    "bake": Action("bake", "baked", ("", "benefit"), makes=True),
    "cook": Action("cook", "cooked", ("", "benefit"), makes=True),
    "see": Action("see", "somebody animal", kind="event"),
    "find": Action("find", "flat thing luggage", kind="event"),
    "look for": Action("look+for", "flat thing animal luggage"),
    "look at": Action("look+at", "somebody animal"),
    "visit": Action("visit", "somebody"),
    "know": Action("know", "somebody", kind="state"),
    "love": Action("love", "animal", kind="state"),
    "need": Action("need", "goods thing flat", kind="state"),
    "have": Action("have", "goods animal siblings", kind="state"),
    "forget": Action("forget", "flat thing luggage", kind="event"),
    "paint": Action("paint", "painted animal"),
    "repair": Action("repair", "device vehicle"),
    "carry": Action("carry", "luggage", ("", "into")),
    "wear": Action("wear", "garment", kind="state"),
    "wear a coat": Action("wear", "coat", kind="state"),
    "receive": Action("receive", "written gift", ("from",), kind="event"),
    "put": Action("put", "flat", ("onto",)),
    "open": Action("open", "opening"),
    "close": Action("close", "opening"),
    "open a window": Action("open", "window"),
    "close a window": Action("close", "window"),
    "turn on": Action("turn/on", "device"),
    "turn off": Action("turn/off", "device"),
    "call": Action("call", "somebody"),
    "invite": Action("invite", "somebody"),
    "pick up": Action("pick/up", "somebody"),
    "bring along": Action("bring/along", "food thing text"),
    "tidy up": Action("tidy/up", "room"),
    "throw away": Action("throw/away", "garment device text"),
    "try on": Action("try/on", "garment"),
    "help": Action("help", "somebody"),
    "thank": Action("thank", "somebody"),
    "follow": Action("follow", "somebody animal"),
    "give": Action("give", "gift painted text", recipient=True),
    "show": Action("show", "painted text room", recipient=True),
    "send": Action("send", "written gift", recipient=True),
}
DEEDS = tuple(name for name, action in ACTIONS.items() if action.kind == "deed")
# What nobody makes.
UNMADE = (ADJECTIVES["old"], ADJECTIVES["fresh"], ADJECTIVES["warm"])
LASTING = tuple(name for name in DEEDS if VERBS[ACTIONS[name].verb].progressive)


def noun_named(english: str) -> Noun:
    """The noun with this English singular."""
    return next(noun for noun in NOUNS if " ".join(noun.english) == english)


def pronoun_for(phrase: Phrase) -> PersonalPronoun | None:
    """The pronoun that takes a phrase up again; None for child and girl, where the two languages would differ."""
    if isinstance(phrase, Pronoun):
        return phrase.pronoun
    if not isinstance(phrase, NounPhrase):
        return None
    if phrase.plural:
        return PRONOUNS["they"]
    if not phrase.noun.human:
        return IT[phrase.gender]
    return next((PRONOUNS[tag] for tag in ("he", "she") if tag in phrase.noun.tags), None)


def described(
    draw: Draw, noun: Noun, determiner: str = "the", *, plural: bool = False, often: float = 0.2
) -> NounPhrase:
    """The noun phrase, with an adjective that suits it in some cases."""
    fitting = FITTING[noun.tags[0]].split() if draw.chance(often) else []
    return NounPhrase(noun, determiner, ADJECTIVES[draw.pick(fitting)] if fitting else None, plural=plural)


def person(draw: Draw, *, pronouns: bool = True) -> Phrase:
    """Somebody who can act."""
    kind = draw.weighted({"name": 28, "the": 26, "plural": 10, "pronoun": 20 if pronouns else 0, "kin": 9, "'s": 7})
    if kind == "name":
        return NounPhrase(draw.pick(NAMES), "")
    if kind == "pronoun":
        return Pronoun(PRONOUNS[draw.weighted({"I": 1, "you": 1, "he": 3, "she": 3, "we": 3, "they": 3})])
    if kind == "kin":
        return NounPhrase(draw.pick(with_tag("kin")), draw.pick(("my", "your", "our")))
    if kind == "'s":
        return NounPhrase(draw.pick(with_tag("kin")), draw.pick(NAMES).german + "'s")
    return described(draw, draw.pick(with_tag("person")), plural=kind == "plural")


def animal(draw: Draw) -> NounPhrase:
    """An animal that can act."""
    return described(draw, draw.pick(with_tag("animal")), plural=draw.chance(0.2))


def somebody_else(draw: Draw, subject: Phrase) -> Phrase:
    """Another person than the subject, maybe of its own family."""
    own = pronoun_for(subject)
    taken = subject if isinstance(subject, NounPhrase) else None
    # "Anna's sister" visits no "her brother": one could not tell whose.
    family = 6 if own and own.possessive and not (taken and taken.determiner not in ("", "the")) else 0
    kind = draw.weighted({"pronoun": 3, "name": 4, "the": 5, "plural": 1, "a": 1, "kin": family})
    if kind == "pronoun":
        third = own is None or own.person in ("3", "p")
        return Pronoun(PRONOUNS[draw.pick(("I", "you") if third else ("he", "she", "they"))])
    if kind == "name":
        names = [n for n in NAMES if not taken or (n is not taken.noun and not taken.determiner.startswith(n.german))]
        return NounPhrase(draw.pick(names), "")
    nouns = [n for n in with_tag("kin" if kind == "kin" else "person") if not taken or n is not taken.noun]
    if kind == "kin":
        return NounPhrase(draw.pick(nouns), own.possessive if own else "")
    return described(draw, draw.pick(nouns), "a" if kind == "a" else "the", plural=kind == "plural")


def thing(draw: Draw, subject: Phrase, uses: str, *, new: bool = False) -> NounPhrase:
    """A thing or an animal that can be used in one of the ways of ``uses``; ``new`` ones are not known yet."""
    noun = draw.pick(with_tag(uses))
    own = pronoun_for(subject)
    if "drink" in noun.tags or "mass" in noun.tags:
        return described(draw, noun, "" if draw.chance(0.75) else "the")
    known = 0 if new else 1
    own_share = 6 if own and own.possessive and not {"food", "place", "opening"}.intersection(noun.tags) else 0
    several = 0 if {"place", "opening"}.intersection(noun.tags) or uses in ("garment", "coat") else 3
    shares = {"the": 14 * known, "a": 12, "own": own_share * known, "these": 3 * known, "": several * known}
    kind = draw.weighted({**shares, "two": several, "three": several})
    determiner = {"own": own.possessive if own else "", "these": "the"}.get(kind, kind)
    plural = kind in ("these", "", "two", "three")
    return described(draw, noun, determiner, plural=plural, often=0.1 if determiner in NUMERALS else 0.3)


# English preposition, German preposition, case, uses of the noun.
PLACES: dict[str, tuple[tuple[str, str, Case, str], ...]] = {
    "in": (("in", "in", "dative", "outside indoors town building"),),
    "room": (("in", "in", "dative", "room outside"),),
    "outside": (("in", "in", "dative", "outside"),),
    "town": (("in", "in", "dative", "town"),),
    "into": (("into", "in", "accusative", "outside indoors town"),),
    "into-town": (("into", "in", "accusative", "town"),),
    "at": (("at", "an", "dative", "stop"),),
    "to": (("to", "zu", "dative", "building stop"),),
    "doctor": (("to", "zu", "dative", "doctor"),),
    "await": (("for", "auf", "accusative", "transport"),),
    "on": (("on", "auf", "dative", "seat"),),
    "onto": (("on", "auf", "accusative", "surface"),),
    "animal": (("with", "mit", "dative", "animal"),),
    "near": (
        ("under", "unter", "dative", "surface"),
        ("next to", "neben", "dative", "surface"),
        ("behind", "hinter", "dative", "house"),
        ("in front of", "vor", "dative", "house"),
    ),
}
PEOPLE: dict[str, tuple[str, str, Case]] = {
    "with": ("with", "mit", "dative"),
    "without": ("without", "ohne", "accusative"),
    "visit": ("to", "zu", "dative"),
    "from": ("from", "von", "dative"),
    "benefit": ("for", "für", "accusative"),
    "somebody": ("for", "auf", "accusative"),
}
PHRASES = {
    "home": ("home", "nach Hause", "0-0 0-1"),
    "at-home": ("at home", "zu Hause", "0-0 1-1"),
    "early": ("early", "früh", "0-0"),
}


def complement(draw: Draw, kind: str, subject: Phrase) -> Adverbial:
    """One of the phrases that close the middle field."""
    if kind in PEOPLE:
        return prepositional(*PEOPLE[kind], somebody_else(draw, subject))
    if kind in PLACES:
        english, german, case, uses = draw.pick(PLACES[kind])
        return prepositional(english, german, case, described(draw, draw.pick(with_tag(uses)), often=0.12))
    return fixed(*PHRASES[kind])


def act(draw: Draw, name: str, subject: Phrase) -> Clause:
    """The clause of an action, in the present tense and with nothing added."""
    action = ACTIONS[name]
    direct: Phrase | None = None
    if action.objects:
        human, uses = "somebody" in action.objects, action.objects.removeprefix("somebody").strip()
        if human and (not uses or draw.chance(0.6)):
            direct = somebody_else(draw, subject)
        else:
            direct = thing(draw, subject, uses, new=name == "have")
    if action.makes and isinstance(direct, NounPhrase) and direct.adjective in UNMADE:
        direct = replace(direct, adjective=None)
    recipient = somebody_else(draw, subject) if action.recipient else None
    kinds = draw.pick(action.complements).split()
    complements = tuple(complement(draw, kind, subject) for kind in kinds)
    verb = HAVE if name == "have" else VERBS[action.verb]
    return Clause(subject=subject, verb=verb, direct=direct, recipient=recipient, complements=complements)


def tell(draw: Draw, clause: Clause, kind: str = "deed", *, plain: bool = False, question: bool = False) -> Clause:
    """The clause in a tense or with a modal, with a time or a frequency, negated or not.

    ``plain`` keeps to what subordinate clauses say best; a ``question`` is not negated and has no frequency.
    """
    verb, who = clause.verb, clause.subject.person
    bare = isinstance(clause.direct, NounPhrase) and clause.direct.determiner == "" and not clause.direct.definite
    deed, doing = kind == "deed", kind != "state"
    # The endings of "I" and "you" (ich kaufe, du kaufst) are many and rare: modals and auxiliaries carry most of them.
    present = 6 if doing and who in ("1", "2") else 24 if deed else 9
    how = draw.weighted(
        {
            "present": present,
            "progressive": 8 if verb.progressive and doing else 0,
            "past": 22 if doing else 0,
            "perfect": 10 if doing else 0,
            "future": 12 if doing else 0,
            "modal": 22 if deed else 0,
            "gladly": 12 if deed and (clause.direct is None or bare) else 0,
        }
    )
    # "They put" and "they read" would not show their tense.
    how = "perfect" if how == "past" and verb.past == verb.base and who != "3" else how
    negated = draw.chance(0.14) and not question and how in ("present", "past", "future", "modal", "gladly")
    tense = TENSES.get(how, "present")
    direct = clause.direct
    if negated and isinstance(direct, NounPhrase) and direct.determiner in NUMERALS:
        direct = replace(direct, determiner="the")
    told = replace(clause, tense=tense, direct=direct, negated=negated, gladly=how == "gladly")
    when = TIMES[tense]
    if how == "modal":
        name = draw.pick(("can", "want", "could", "wanted") if negated else tuple(MODALS))
        told = replace(told, modal=MODALS[name])
        when = TIMES["past" if name in ("could", "wanted", "had") else "future"]
    when = tuple(entry for entry in when if entry[0] in POINTS) if negated else when
    if not doing:
        return told
    habitual = how in FREQUENCIES and not (negated or question or clause.recipient)
    if habitual and draw.chance(0.25):
        return replace(told, frequency=linked(*draw.pick(FREQUENCIES[how])))
    if draw.chance(0.12 if plain else 0.4):
        time = fixed(*draw.pick(when))
        fronted = draw.chance(0.5) and not plain and not question
        return replace(told, front=time) if fronted else replace(told, time=time)
    return told
