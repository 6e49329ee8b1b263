"""Sentences of two clauses in the demo corpus: reasons, reports, relative clauses, purposes, sequels."""

from __future__ import annotations

from dataclasses import replace

from .grammar import Clause, Tense, english_clause, german_clause, subordinate
from .lexicon import KNOW_THAT, VERBS
from .meaning import (
    ACTIONS,
    DEEDS,
    FITTING,
    LASTING,
    Draw,
    act,
    animal,
    noun_named,
    person,
    pronoun_for,
    somebody_else,
    tell,
    with_tag,
)
from .paradigms import IT, MODALS, NUMERALS, PersonalPronoun
from .phrases import (
    COMMA,
    Adverbial,
    NounPhrase,
    Phrase,
    Pronoun,
    RelativePronoun,
    linked,
    prepositional,
)
from .sentences import Sentence, anything, finished, joined, state, weather

# A state: what it makes people do; "not" before what it keeps them from, which they do although they are in it.
STATES = {
    "tired": (
        "rest",
        "go home",
        "drink coffee",
        "stay at home",
        "not work",
        "not dance",
        "not tidy up",
        "not run home",
    ),
    "hungry": ("eat", "buy food", "cook", "bake", "not rest", "not play", "not wait", "not work"),
    "ill": ("stay at home", "go to the doctor", "rest", "not work", "not swim", "not dance", "not go to", "not sing"),
    "happy": ("laugh", "sing", "dance"),
    "rain": (
        "stay at home",
        "wear a coat",
        "close a window",
        "go home",
        "not play outside",
        "not wait outside",
        "not swim",
    ),
    "cold": ("stay at home", "wear a coat", "close a window", "drink coffee", "not swim", "not wait outside"),
    "warm": ("swim", "open a window", "play outside", "not close a window"),
}
WEATHER = ("rain", "cold", "warm")
CONJUNCTIONS = {"because": "weil", "although": "obwohl", "if": "wenn"}


def _somebody(draw: Draw) -> tuple[Phrase, PersonalPronoun]:
    """A person whom a pronoun can take up in the next clause, and the pronoun."""
    subject = person(draw)
    pronoun = pronoun_for(subject)
    return (subject, pronoun) if pronoun else _somebody(draw)


def reason(draw: Draw) -> Sentence:
    """The woman goes home because she is tired. Although it is raining, they play in the garden."""
    condition = draw.pick(tuple(STATES))
    deed = draw.pick(STATES[condition])
    hindered = deed.startswith("not ")
    deed = deed.removeprefix("not ")
    subject, own = _somebody(draw)
    if ACTIONS[deed].being and draw.chance(0.5):
        subject = animal(draw)
        own = IT[subject.gender]
    main = act(draw, deed, subject)
    conjunction = draw.pick(("because", "if", "although") if hindered else ("because", "if"))
    if hindered and conjunction != "although":
        main = replace(main, negated=True)
        if condition not in WEATHER or draw.chance(0.5):
            main = replace(main, modal=MODALS["can"])
        if isinstance(main.direct, NounPhrase) and main.direct.determiner in NUMERALS:
            main = replace(main, direct=replace(main.direct, determiner="the"))
    elif not hindered and ACTIONS[deed].kind == "deed" and draw.chance(0.4):
        main = replace(main, modal=MODALS[draw.pick(("must", "should", "want", "want"))])
    fronted = draw.chance(0.45)
    if condition in WEATHER:
        cause = weather(condition)
    elif fronted:  # the name comes first, wherever that is
        cause, main = state(subject, condition), replace(main, subject=Pronoun(own))
    else:
        cause = state(Pronoun(own), condition)
    return _with_subordinate(main, conjunction, CONJUNCTIONS[conjunction], cause, fronted=fronted)


def _with_subordinate(main: Clause, english: str, german: str, clause: Clause, *, fronted: bool) -> Sentence:
    block = subordinate(english, german, clause, fronted=fronted)
    return finished(replace(main, front=block)) if fronted else joined(main, block)


# What people do with things of some quality, and in spite of which.
QUALITIES = {
    "buy": (("cheap", "beautiful", "new"), ("expensive", "old")),
    "sell": (("old",), ("beautiful", "new")),
    "throw away": (("old",), ("new", "beautiful")),
    "repair": (("old", "broken"), ("old", "cheap")),
    "wear": (("beautiful", "new"), ("old",)),
    "try on": (("beautiful", "cheap"), ("expensive",)),
    "carry": (("heavy",), ("heavy", "big")),
}


def quality(draw: Draw) -> Sentence:
    """Anna buys the coat because it is cheap: it, er."""
    name = draw.pick(tuple(QUALITIES))
    uses = "garment" if name in ("wear", "try on") else "goods" if name == "buy" else ACTIONS[name].objects
    subject = person(draw)
    noun = draw.pick(with_tag(uses))
    direct = NounPhrase(noun, draw.weighted({"the": 3, "a": 2}))
    main = replace(act(draw, name, subject), direct=direct, complements=())
    because, although = QUALITIES[name]
    it, own = IT[direct.gender], pronoun_for(subject)
    if name == "buy" and own and draw.chance(0.35):
        likes = Clause(subject=Pronoun(own), verb=VERBS["like"], direct=Pronoun(it))
        return _with_subordinate(main, "because", "weil", likes, fronted=False)
    against = draw.chance(0.35)
    conjunction = "although" if against else "because"
    if name == "carry" and not against:
        main = replace(main, negated=True, modal=MODALS["can"], direct=replace(direct, determiner="the"))
    elif draw.chance(0.3) and ACTIONS[name].kind == "deed":
        main = replace(main, modal=MODALS[draw.pick(("want", "wanted"))])
    cause = state(Pronoun(it), draw.pick(although if against else because))
    return _with_subordinate(main, conjunction, CONJUNCTIONS[conjunction], cause, fronted=False)


def meanwhile(draw: Draw) -> Sentence:
    """While the mother is cooking, the children play in the garden."""
    first, second = person(draw), person(draw, pronouns=False)
    while isinstance(first, NounPhrase) and isinstance(second, NounPhrase) and first.noun is second.noun:
        second = person(draw, pronouns=False)
    name = draw.pick(LASTING)
    here = replace(act(draw, name, first), tense="progressive")
    there = act(draw, draw.pick([other for other in LASTING if ACTIONS[other].verb != ACTIONS[name].verb]), second)
    return _with_subordinate(there, "while", "während", here, fronted=draw.chance(0.5))


def beforehand(draw: Draw) -> Sentence:
    """Before Anna goes home, she closes the window."""
    fronted = draw.chance(0.5)
    subject, own = _somebody(draw)
    later = act(draw, draw.pick(("rest", "go home", "go to", "work", "read", "eat", "drive")), subject)
    earlier = act(draw, draw.pick(("drink", "close", "call", "tidy up", "turn off", "look for", "help")), subject)
    if fronted:
        earlier = replace(earlier, subject=Pronoun(own))
    else:
        later = replace(later, subject=Pronoun(own))
    return _with_subordinate(earlier, "before", "bevor", later, fronted=fronted)


SAYING = (
    ("that", VERBS["say"]),
    ("that", VERBS["believe"]),
    ("that", VERBS["hope"]),
    ("that", KNOW_THAT),
    ("whether", VERBS["ask"]),
    ("whether", KNOW_THAT),
)


def reported(draw: Draw) -> Sentence:
    """Peter knows that the train arrives today. We do not know whether she is ill."""
    conjunction, verb = draw.pick(SAYING)
    asked = conjunction == "whether"
    speaker = person(draw)
    main = Clause(subject=speaker, verb=verb, negated=asked and verb is KNOW_THAT)
    own = pronoun_for(speaker)
    content = anything(draw, plain=True, question=asked)
    if own and draw.chance(0.35):
        name = draw.pick(DEEDS)
        content = tell(draw, act(draw, name, Pronoun(own)), ACTIONS[name].kind, plain=True, question=asked)
    elif draw.chance(0.2):
        content = state(person(draw), draw.pick(("tired", "hungry", "ill", "happy")))
    return _with_subordinate(main, conjunction, "ob" if asked else "dass", content, fronted=False)


# What one does to people and to things.
FACES = ("know", "help", "invite", "visit", "call", "thank")
FINDS = ("buy", "see", "look for", "need")


def _relative(draw: Draw, antecedent: NounPhrase, *, unlike: str = "") -> Adverbial:
    """who buys the car, den der Mann kauft: a clause that hangs on a noun, with another verb than the main clause."""
    pronoun = RelativePronoun(antecedent)
    people = antecedent.noun.human
    if people and draw.chance(0.6):
        name = draw.pick([name for name in ACTIONS if name not in ("get up", "wake up", unlike)])
        told = tell(draw, act(draw, name, pronoun), ACTIONS[name].kind, plain=True)
        clause = replace(told, negated=False, time=None)
    else:
        finds = FINDS if "goods" in antecedent.noun.tags else FINDS[1:]
        name = draw.pick([name for name in (FACES if people else finds) if name != unlike])
        subject = person(draw)
        while isinstance(subject, NounPhrase) and subject.noun is antecedent.noun:
            subject = person(draw)
        clause = replace(act(draw, name, subject), direct=pronoun, extracted=True)
        if ACTIONS[name].kind != "state":
            clause = replace(clause, tense=draw.pick(("past", "past", "present", "perfect")))
    german = (COMMA, *german_clause(clause, "final"), COMMA)
    return Adverbial(tuple(english_clause(clause)), german)


def relative_subject(draw: Draw) -> Sentence:
    """The man who bought the car is tired."""
    people = draw.chance(0.6)
    noun = draw.pick(with_tag("person" if people else "goods animal"))
    subject = NounPhrase(noun, "the", plural=draw.chance(0.2))
    subject = replace(subject, tail=_relative(draw, subject))
    if people and draw.chance(0.4):
        name = draw.pick(("laugh", "sleep", "work", "dance", "sing", "live", "wait", "come back"))
        return finished(act(draw, name, subject))
    qualities = FITTING[noun.tags[0]].split()
    qualities += ["tired", "ill", "happy", "hungry"] if people else []
    clause = state(subject, draw.pick(qualities), negated=draw.chance(0.15))
    return finished(replace(clause, tense="past") if draw.chance(0.25) else clause)


def relative_object(draw: Draw) -> Sentence:
    """Anna hat den Mann angerufen, der den Hund sucht: German moves the relative clause behind the verb."""
    name = draw.pick(("know", "see", "help", "call", "visit", "thank", "read", "buy", "find", "look for", "sell"))
    uses = "person" if ACTIONS[name].objects.startswith("somebody") else ACTIONS[name].objects.split()[0]
    subject = person(draw)
    nouns = [noun for noun in with_tag(uses) if not isinstance(subject, NounPhrase) or noun is not subject.noun]
    direct = NounPhrase(draw.pick(nouns), "the", plural=draw.chance(0.2))
    main = replace(act(draw, name, subject), direct=direct, complements=())
    if ACTIONS[name].kind != "state":
        main = replace(main, tense=draw.pick(("present", "perfect", "future")))
    return joined(main, _relative(draw, direct, unlike=name))


ATTEMPTS = {
    "try": ("open", "close", "repair", "find", "call", "help", "read", "sell"),
    "forget": ("close", "call", "turn off", "invite", "buy", "bring along", "thank", "pick up"),
    "begin": ("read", "write", "cook", "bake", "paint", "repair", "tidy up"),
    "hope": ("find", "see", "buy", "receive", "sell"),
}
ERRANDS = {
    "kitchen": ("cook", "bake", "eat", "drink"),
    "garden": ("work", "read", "paint", "sleep"),
    "city": ("buy", "visit", "sell", "work"),
    "library": ("read", "work", "write"),
    "park": ("dance", "paint", "read"),
    "village": ("visit", "sell", "help", "pick up"),
}


def purpose(draw: Draw) -> Sentence:
    """She tries to open the window. He goes into the kitchen in order to bake a cake."""
    subject = person(draw)
    tense: Tense = draw.weighted({"present": 3, "past": 3, "perfect": 1})
    opening = Adverbial((), (COMMA,))
    if draw.chance(0.5):
        verb = draw.pick(tuple(ATTEMPTS))
        deed = draw.pick(ATTEMPTS[verb])
        tense = "present" if verb == "hope" else tense
        main = Clause(subject=subject, verb=VERBS[verb], tense=tense)
    else:
        place = draw.pick(tuple(ERRANDS))
        deed = draw.pick(ERRANDS[place])
        goal = prepositional("into", "in", "accusative", NounPhrase(noun_named(place)))
        main = Clause(subject=subject, verb=VERBS["go"], tense=tense, complements=(goal,))
        um = linked("in order", "um")
        opening = Adverbial(um.english, (COMMA, *um.german))
    inner = replace(act(draw, deed, subject), complements=())
    english, german = english_clause(inner, "infinitive"), german_clause(inner, "zu")
    return joined(main, Adverbial((*opening.english, *english), (*opening.german, *german)))


# What is bought is then given away, and so on (the second is a verb of the lexicon).
SEQUELS = {
    "buy": ("give", "send", "show", "sell", "bring/along"),
    "find": ("give", "show"),
    "bake": ("eat", "give", "bring/along"),
    "write": ("send", "read", "show"),
    "paint": ("show", "give", "sell"),
    "repair": ("sell", "give"),
    "open": ("close",),
    "turn on": ("turn/off", "repair"),
    "look for": ("find",),
    "try on": ("buy", "throw/away"),
    "invite": ("pick/up", "call"),
    "see": ("follow",),
    "call": ("invite", "visit"),
}


def sequel(draw: Draw) -> Sentence:
    """Peter buys a coat and gives it to his brother: the pronoun has the gender of the German noun."""
    name = draw.pick(tuple(SEQUELS))
    subject = person(draw)
    first = replace(act(draw, name, subject), complements=())
    mass = isinstance(first.direct, NounPhrase) and "mass" in first.direct.noun.tags
    taken_up = pronoun_for(first.direct) if first.direct and not mass else None
    if taken_up is None or taken_up.english[0] in ("I", "you", "we"):
        return finished(first)
    verb = VERBS[draw.pick(SEQUELS[name])]
    recipient = None
    if verb.base in ("give", "send", "show"):
        recipient = somebody_else(draw, subject)
        recipient = NounPhrase(draw.pick(with_tag("person"))) if recipient.is_pronoun else recipient
    second = Clause(subject=subject, verb=verb, direct=Pronoun(taken_up), recipient=recipient)
    tense: Tense = draw.weighted({"present": 3, "past": 2}) if ACTIONS[name].kind != "state" else "present"
    first, second = replace(first, tense=tense), replace(second, tense=tense)
    conjunction = linked("and", "und")
    english = english_clause(second)[len(subject.english(subject=True)) :]
    german = german_clause(second)[len(subject.german("nominative")) :]
    if tense == "past" and first.verb.auxiliary == second.verb.auxiliary:
        german = german[1:]  # hat gekauft und verkauft: said once
    return joined(first, Adverbial((*conjunction.english, *english), (*conjunction.german, *german)))


# One quality, but another (or not that one).
CONTRASTS = (
    ("old", "beautiful", False),
    ("old", "expensive", False),
    ("old", "cheap", True),
    ("new", "beautiful", True),
    ("new", "expensive", True),
    ("new", "cheap", False),
    ("small", "beautiful", False),
    ("big", "beautiful", True),
    ("beautiful", "expensive", False),
    ("beautiful", "new", True),
    ("beautiful", "old", False),
    ("cheap", "beautiful", False),
    ("expensive", "beautiful", True),
    ("expensive", "old", False),
)


def contrast(draw: Draw) -> Sentence:
    """The coat is beautiful, but it is expensive."""
    one, other, negated = draw.pick(CONTRASTS)
    subjects = ("garment", "vehicle", "device", "surface", "place", "text")
    uses = draw.pick([uses for uses in subjects if {one, other} <= set(FITTING[uses].split())])
    subject = NounPhrase(draw.pick(with_tag(uses)), plural=draw.chance(0.2) and uses != "place")
    but, it = linked("but", "aber"), IT[subject.gender]
    second = state(Pronoun(it), other, negated=negated)
    english, german = english_clause(second), german_clause(second)
    return joined(state(subject, one), Adverbial((COMMA, *but.english, *english), (COMMA, *but.german, *german)))


def pair_of_actions(draw: Draw) -> Sentence:
    """Anna bakes a cake and Paul reads the newspaper."""
    first_name, second_name = draw.pick(DEEDS), draw.pick(DEEDS)
    conjunction = linked("and", "und")
    first, second = act(draw, first_name, person(draw)), act(draw, second_name, person(draw))
    english, german = english_clause(second), german_clause(second)
    return joined(first, Adverbial((*conjunction.english, *english), (*conjunction.german, *german)))
