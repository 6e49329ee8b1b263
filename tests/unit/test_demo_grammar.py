"""The grammar of the demo corpus: paradigms and word order against tables typed independently of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from german_nouns import CASES, GENDER
from tools.demo_corpus.grammar import Clause, english_clause, german_clause
from tools.demo_corpus.lexicon import ADJECTIVES, BE, HAVE, NAMES, NOUNS, VERBS, Noun
from tools.demo_corpus.meaning import noun_named
from tools.demo_corpus.paradigms import IT, MODALS, PRONOUNS, Person
from tools.demo_corpus.phrases import NounPhrase, Pronoun, Word, fixed, links, prepositional, written

PERSONS: tuple[Person, ...] = ("1", "2", "3", "p")


def text(words: list[Word] | tuple[Word, ...]) -> str:
    return " ".join(word.text for word in words)


# Paradigms: every cell, as a grammar book prints it

PARADIGMS = """
the old dog      | der alte Hund / den alten Hund / dem alten Hund / des alten Hundes
the old cat      | die alte Katze / die alte Katze / der alten Katze / der alten Katze
the old horse    | das alte Pferd / das alte Pferd / dem alten Pferd / des alten Pferdes
the old dogs     | die alten Hunde / die alten Hunde / den alten Hunden / der alten Hunde
a old dog        | ein alter Hund / einen alten Hund / einem alten Hund / eines alten Hundes
a old cat        | eine alte Katze / eine alte Katze / einer alten Katze / einer alten Katze
a old horse      | ein altes Pferd / ein altes Pferd / einem alten Pferd / eines alten Pferdes
my old dog       | mein alter Hund / meinen alten Hund / meinem alten Hund / meines alten Hundes
your old cat     | deine alte Katze / deine alte Katze / deiner alten Katze / deiner alten Katze
his old horse    | sein altes Pferd / sein altes Pferd / seinem alten Pferd / seines alten Pferdes
her old dogs     | ihre alten Hunde / ihre alten Hunde / ihren alten Hunden / ihrer alten Hunde
our old dog      | unser alter Hund / unseren alten Hund / unserem alten Hund / unseres alten Hundes
their old cat    | ihre alte Katze / ihre alte Katze / ihrer alten Katze / ihrer alten Katze
- fresh cheese   | frischer Käse / frischen Käse / frischem Käse / frischen Käses
- fresh milk     | frische Milch / frische Milch / frischer Milch / frischer Milch
- fresh bread    | frisches Brot / frisches Brot / frischem Brot / frischen Brotes
- old dogs       | alte Hunde / alte Hunde / alten Hunden / alter Hunde
two old cats     | zwei alte Katzen / zwei alte Katzen / zwei alten Katzen / zwei alter Katzen
Anna's old dog   | Annas alter Hund / Annas alten Hund / Annas altem Hund / Annas alten Hundes
the expensive car | das teure Auto / das teure Auto / dem teuren Auto / des teuren Autos
the tired boy    | der müde Junge / den müden Jungen / dem müden Jungen / des müden Jungen
the young neighbour | der junge Nachbar / den jungen Nachbarn / dem jungen Nachbarn / des jungen Nachbarn
a young student  | ein junger Student / einen jungen Studenten / einem jungen Studenten / eines jungen Studenten
the old doctors  | die alten Ärztinnen / die alten Ärztinnen / den alten Ärztinnen / der alten Ärztinnen
the new radios   | die neuen Radios / die neuen Radios / den neuen Radios / der neuen Radios
the small window | das kleine Fenster / das kleine Fenster / dem kleinen Fenster / des kleinen Fensters
the small windows | die kleinen Fenster / die kleinen Fenster / den kleinen Fenstern / der kleinen Fenster
"""


@pytest.mark.parametrize("row", PARADIGMS.strip().splitlines())
def test_noun_phrases_decline_as_in_the_grammar_book(row: str) -> None:
    english, german = (column.strip() for column in row.split("|"))
    determiner, adjective, word = english.split()
    noun = next(noun for noun in NOUNS if word in (*noun.english, *noun.english_plural))
    determiner = "" if determiner == "-" else determiner
    phrase = NounPhrase(noun, determiner, ADJECTIVES[adjective], plural=word not in noun.english)
    assert [text(phrase.german(case)) for case in CASES] == german.split(" / ")


def test_kein_absorbs_the_negation() -> None:
    dog = NounPhrase(noun_named("dog"), "a", ADJECTIVES["old"], negation=(None, "not"))
    cats = NounPhrase(noun_named("cat"), "", plural=True, negation=(None, "not"))
    assert [text(dog.german(case)) for case in CASES] == [
        "kein alter Hund", "keinen alten Hund", "keinem alten Hund", "keines alten Hundes",
    ]  # fmt: skip
    assert [text(cats.german(case)) for case in CASES] == [
        "keine Katzen", "keine Katzen", "keinen Katzen", "keiner Katzen",
    ]  # fmt: skip


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.german)
def test_every_noun_has_its_gender_and_regular_forms(noun: Noun) -> None:
    assert noun.gender == GENDER[noun.german]
    assert noun.german[0].isupper()
    singular = [noun.decline(case, plural=False) for case in CASES]
    if noun.gender == "f":
        assert singular == [noun.german] * 4
    elif noun.german in ("Junge", "Nachbar", "Student"):
        assert singular[1] == singular[2] == singular[3] == noun.german + ("n" if noun.german[-1] in "er" else "en")
    else:
        assert singular[:3] == [noun.german] * 3
        assert singular[3] in (noun.german + "s", noun.german + "es", noun.german + "ses")
    if noun.plural:
        plural = [noun.decline(case, plural=True) for case in CASES]
        assert plural[0] == plural[1] == plural[3]
        assert plural[2][-1] in "ns"
    assert bool(noun.plural) == bool(noun.english_plural)


def test_names_have_no_article_and_no_ending() -> None:
    for name in NAMES:
        assert {text(NounPhrase(name, "").german(case)) for case in CASES[:3]} == {name.german}


PRONOUN_TABLE = "I ich mich mir, you du dich dir, he er ihn ihm, she sie sie ihr, we wir uns uns, they sie sie ihnen"


def test_pronouns() -> None:
    for row in PRONOUN_TABLE.split(", "):
        english, *german = row.split()
        assert [PRONOUNS[english].german[case] for case in CASES[:3]] == german
    assert {gender: list(it.german.values()) for gender, it in IT.items()} == {
        "m": ["er", "ihn", "ihm"], "f": ["sie", "sie", "ihr"], "n": ["es", "es", "ihm"], "p": ["sie", "sie", "ihnen"],
    }  # fmt: skip


# The finite forms of strong and irregular verbs (du, er), the participle and the auxiliary, typed independently.
STRONG = """
sleep schläfst schläft hat geschlafen | run läufst läuft ist gelaufen | drive fährst fährt ist gefahren
read liest liest hat gelesen | eat isst isst hat gegessen | see siehst sieht hat gesehen
forget vergisst vergisst hat vergessen | carry trägst trägt hat getragen | wear trägst trägt hat getragen
bake bäckst bäckt hat gebacken | help hilfst hilft hat geholfen | give gibst gibt hat gegeben
invite lädst lädt hat eingeladen | throw/away wirfst wirft hat weggeworfen | come/back kommst kommt ist zurückgekommen
get/up stehst steht ist aufgestanden | wake/up wachst wacht ist aufgewacht | arrive kommst kommt ist angekommen
swim schwimmst schwimmt ist geschwommen | stay bleibst bleibt ist geblieben | follow folgst folgt ist gefolgt
bring/along bringst bringt hat mitgebracht | know kennst kennt hat gekannt | write schreibst schreibt hat geschrieben
receive bekommst bekommt hat bekommen | sell verkaufst verkauft hat verkauft | find findest findet hat gefunden
work arbeitest arbeitet hat gearbeitet | repair reparierst repariert hat repariert | begin beginnst beginnt hat begonnen
"""


def test_verbs_conjugate() -> None:
    for row in re.split(r"[|\n]", STRONG.strip()):
        head, second, third, auxiliary, participle = row.split()
        verb = VERBS[head]
        assert (verb.present["2"], verb.present["3"], verb.german_participle) == (second, third, participle)
        assert verb.auxiliary == ("sein" if auxiliary == "ist" else "haben"), head
    for head, verb in VERBS.items():
        assert verb.infinitive == verb.present["p"], head
        assert verb.present["1"] == verb.infinitive.removesuffix("n"), head
        assert verb.present["2"].endswith(("st", "zt")), head
        assert verb.present["3"].endswith("t"), head
        inner = verb.german_participle.removeprefix(verb.german_prefix)
        bare = inner.startswith(("ver", "be", "ge", "repar", "probier"))
        assert bare, f"{head}: a participle begins with ge- unless the verb has an unstressed first syllable"


def test_modals_and_auxiliaries_agree() -> None:
    assert [MODALS["can"].german[p] for p in PERSONS] == ["kann", "kannst", "kann", "können"]
    assert [MODALS["want"].german[p] for p in PERSONS] == ["will", "willst", "will", "wollen"]
    assert [MODALS["must"].german[p] for p in PERSONS] == ["muss", "musst", "muss", "müssen"]
    assert [BE.present[p] for p in PERSONS] == ["bin", "bist", "ist", "sind"]
    assert [HAVE.present[p] for p in PERSONS] == ["habe", "hast", "hat", "haben"]


# Word order: one derivation, all the places of the verb

ANNA = NounPhrase(NAMES[0], "")
WINDOW = NounPhrase(noun_named("window"))
OPENING = Clause(subject=ANNA, verb=VERBS["open"], direct=WINDOW)


def pharaoh(english: list[Word], german: list[Word]) -> str:
    pairs = links(written(english, ".")[1], written(german, ".")[1])
    return " ".join(f"{i}-{j}" for i, j in pairs)


def test_the_places_of_a_separable_verb() -> None:
    past, want = replace(OPENING, tense="past"), replace(OPENING, modal=MODALS["want"])
    assert text(german_clause(OPENING)) == "Anna macht das Fenster auf"
    assert text(german_clause(OPENING, "first")) == "macht Anna das Fenster auf"
    assert text(german_clause(OPENING, "final")) == "Anna das Fenster aufmacht"
    assert text(german_clause(OPENING, "zu")) == "das Fenster aufzumachen"
    assert text(german_clause(past)) == "Anna hat das Fenster aufgemacht"
    assert text(german_clause(past, "final")) == "Anna das Fenster aufgemacht hat"
    assert text(german_clause(want)) == "Anna will das Fenster aufmachen"
    assert text(english_clause(want, "question")) == "does Anna want to open the window"
    assert text(english_clause(replace(past, negated=True))) == "Anna did not open the window"


def test_gold_links_of_known_sentences() -> None:
    yesterday = fixed("yesterday", "gestern", "0-0")
    past = replace(OPENING, tense="past", front=yesterday)
    assert text(german_clause(past)) == "gestern hat Anna das Fenster aufgemacht"
    assert pharaoh(english_clause(past), german_clause(past)) == "0-0 1-2 2-1 2-5 3-3 4-4"
    # do-support says nothing of its own: it has no link.
    never = replace(OPENING, negated=True)
    assert pharaoh(english_clause(never), german_clause(never)) == "0-0 2-4 3-1 3-5 4-2 5-3"
    # "not … a" is kein, a compound is one word, and "picks up" divides like "holt … ab".
    juice = Clause(subject=ANNA, verb=VERBS["drink"], direct=NounPhrase(noun_named("apple juice"), ""), negated=True)
    assert text(german_clause(juice)) == "Anna trinkt keinen Apfelsaft"
    assert pharaoh(english_clause(juice), german_clause(juice)) == "0-0 2-2 3-1 4-3 5-3"
    him = Clause(subject=ANNA, verb=VERBS["pick/up"], direct=Pronoun(PRONOUNS["he"]))
    assert text(english_clause(him)) == "Anna picks him up"
    assert pharaoh(english_clause(him), german_clause(him)) == "0-0 1-1 2-2 3-3"
    # "likes" is gern with "to", but gefallen with a noun, where the person is a dative.
    likes = Clause(subject=NounPhrase(noun_named("man")), verb=VERBS["like"], direct=WINDOW)
    assert text(german_clause(likes)) == "dem Mann gefällt das Fenster"


def test_contractions_express_two_words() -> None:
    expected = {
        ("in", "in", "dative", "garden"): "im Garten", ("into", "in", "accusative", "house"): "ins Haus",
        ("to", "zu", "dative", "library"): "zur Bibliothek", ("to", "zu", "dative", "station"): "zum Bahnhof",
        ("at", "an", "dative", "station"): "am Bahnhof", ("into", "in", "accusative", "kitchen"): "in die Küche",
    }  # fmt: skip
    for (english, german, case, noun), result in expected.items():
        block = prepositional(english, german, case, NounPhrase(noun_named(noun)))  # type: ignore[arg-type]
        assert text(block.german) == result
    garden = prepositional("in", "in", "dative", NounPhrase(noun_named("garden")))
    assert pharaoh(list(garden.english), list(garden.german)) == "0-0 1-0 2-1"
