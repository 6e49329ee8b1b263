"""Clauses of the demo corpus: the word order and the verb forms of English and German.

German puts the finite verb second, first (questions) or last (subordinate clauses); what else belongs to the verb
closes the clause: the separable prefix, the participle, the infinitive.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .lexicon import BE, HAVE, IMPERATIVES, Verb
from .paradigms import BE_PAST, BE_PRESENT, WERDEN, Modal
from .phrases import (
    COMMA,
    Adverbial,
    Interrogative,
    Key,
    NounPhrase,
    Phrase,
    RelativePronoun,
    Word,
    linked,
)

Tense = Literal["present", "progressive", "past", "perfect", "future"]
EnglishOrder = Literal["statement", "question", "infinitive", "imperative"]
GermanOrder = Literal["second", "first", "final", "zu", "imperative"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clause:
    """Who does what to whom: the common derivation of an English and a German clause.

    ``front`` opens the clause (a fronted adverbial, a question word, a subordinate clause); if ``extracted``, the
    direct object does (a relative pronoun, a question word). ``complements`` are in the German order, which English
    reverses (``mit dem Hund in den Park``). ``frequency`` stands before the English main verb. ``gladly`` is English
    ``likes to``, German ``gern``. The English simple past is the German perfect, but for verbs with a preterite.
    """

    subject: Phrase
    verb: Verb
    tense: Tense = "present"
    modal: Modal | None = None
    direct: Phrase | None = None
    recipient: Phrase | None = None
    complements: tuple[Adverbial, ...] = ()
    time: Adverbial | None = None
    frequency: Adverbial | None = None
    front: Adverbial | None = None
    extracted: bool = False
    negated: bool = False
    gladly: bool = False
    owner: object = field(default_factory=object)

    def key(self, idea: str) -> Key:
        return (self.owner, idea)


def english_clause(clause: Clause, order: EnglishOrder = "statement") -> list[Word]:
    """The English words; ``infinitive`` and ``imperative`` leave the subject out."""
    verb, subject = clause.verb, list(clause.subject.english(subject=True))
    inverted = order == "question" and not isinstance(clause.subject, Interrogative)
    negation = [Word("not", (clause.key("not"),))] if clause.negated else []
    frequency = list(clause.frequency.english) if clause.frequency else []
    words = list(clause.front.english) if clause.front else []
    if clause.direct and clause.extracted:
        words += clause.direct.english(subject=False)
    if order in ("statement", "question"):
        auxiliary, main = _english_verbs(clause, support=inverted or clause.negated)
        if negation and auxiliary[0].text == "can":
            auxiliary, negation = [Word("cannot", auxiliary[0].keys + negation[0].keys)], []
        words += auxiliary + subject if inverted else subject + auxiliary
        words += negation + frequency + main
    elif order == "infinitive":
        words += [Word("to", (clause.key("zu"),)), Word(verb.base, (clause.key("verb"),))]
    else:
        words += [*([Word("do")] if negation else []), *negation, Word(verb.base, (clause.key("verb"),))]
    return words + _english_tail(clause)


def _english_tail(clause: Clause) -> list[Word]:
    """What follows the main verb."""
    obj, recipient = None if clause.extracted else clause.direct, clause.recipient
    idea = clause.key("particle" if clause.verb.german_prefix else "verb")
    words = [Word(clause.verb.preposition, (idea,))] if clause.verb.preposition else []
    particle = [Word(clause.verb.particle, (idea,))] if clause.verb.particle else []
    shifted = obj is not None and obj.is_pronoun
    if recipient and not shifted:
        words += recipient.english(subject=False)
    words += [] if shifted else particle
    words += obj.english(subject=False) if obj else []
    words += particle if shifted else []
    if recipient and shifted:
        words += [Word("to"), *recipient.english(subject=False)]
    for complement in reversed(clause.complements):
        words += complement.english
    return words + list(clause.time.english if clause.time else ())


def _english_verbs(clause: Clause, *, support: bool) -> tuple[list[Word], list[Word]]:
    """What can stand before the subject in a question (do-support where asked for), and the rest of the verbs."""
    verb, person, modal = clause.verb, clause.subject.person, clause.modal
    third = person == "3"
    idea, tense = clause.key("verb"), clause.key("tense")
    base = Word(verb.base, (idea,))
    do = Word("does" if third else "do")
    if modal and not modal.to:
        return [Word(modal.english, (clause.key("modal"),))], [base]
    if modal or clause.gladly:
        # "to" in "wants to" and "likes to" has no German counterpart.
        key = clause.key("modal" if modal else "gern")
        plain, inflected = (modal.english, modal.english3) if modal else ("like", "likes")
        if plain in ("wanted", "had"):
            stem = {"wanted": "want", "had": "have"}[plain]
            head = [Word("did", (key,))] if support else []
            return head, [Word(stem if support else plain, (key,)), Word("to"), base]
        head = [do] if support else []
        return head, [Word(inflected if third and not support else plain, (key,)), Word("to"), base]
    if clause.tense == "future":
        return [Word("will", (tense,))], [base]
    if clause.tense == "perfect":
        return [Word("has" if third else "have", (tense,))], [Word(verb.participle, (idea,))]
    if clause.tense == "progressive":
        return [Word(BE_PRESENT[person])], [Word(verb.progressive, (idea,))]
    if verb is BE:
        return [Word((BE_PAST if clause.tense == "past" else BE_PRESENT)[person], (idea,))], []
    if clause.tense == "past":
        # A German preterite is one word; otherwise the past stands in the auxiliary and the idea in the participle.
        keys = (idea,) if verb.preterite else (idea, tense)
        if support:
            return [Word("did", () if verb.preterite else (tense,))], [base]
        return [], [Word(verb.past, keys)]
    if support:
        return [do], [base]
    return [], [Word(verb.present3 if third else verb.base, (idea,))]


def german_clause(clause: Clause, order: GermanOrder = "second") -> list[Word]:
    """The German words with the finite verb second, first or last, or as an infinitive with zu or an imperative."""
    prefield, middle = _german_fields(clause, order)
    finite, prefix, cluster = _german_verbs(clause, order)
    if order == "zu":
        return middle + _zu_infinitive(clause)
    if order == "final":
        if prefix:
            finite = Word(prefix.text + finite.text, finite.keys + prefix.keys)
        return [*prefield, *middle, *cluster, finite]
    return [*prefield, finite, *middle, *([prefix] if prefix else []), *cluster]


def _german_fields(clause: Clause, order: GermanOrder) -> tuple[list[Word], list[Word]]:
    """The words before the finite verb (or at the head of a relative clause), and those in the middle field."""
    subject, direct, recipient, negated = clause.subject, clause.direct, clause.recipient, clause.negated
    # The person who likes something is its dative in German, and that which pleases is the subject.
    pleases = clause.verb.base == "like"
    subject_words = list(subject.german("dative" if pleases else "nominative"))
    if negated and isinstance(direct, NounPhrase) and not direct.definite:
        direct, negated = replace(direct, negation=clause.key("not")), False
    direct_words = list(direct.german("nominative" if pleases else clause.verb.case)) if direct else []
    prefield = list(clause.front.german) if clause.front else []
    if clause.extracted:
        prefield, direct, direct_words = direct_words, None, []
    if order in ("zu", "imperative"):
        subject_words = []
    if (order == "second" and not prefield) or isinstance(subject, RelativePronoun):
        prefield, subject_words = subject_words, []
    pronoun = direct is not None and direct.is_pronoun
    known = direct is not None and direct.definite
    recipient_words = list(recipient.german("dative")) if recipient else []
    recipient_early = recipient is not None and recipient.is_pronoun
    no = [Word("nicht", (clause.key("not"),))] if negated else []
    gladly = [*no, Word("gern", (clause.key("gern"),))] if clause.gladly else []
    middle = [
        *(direct_words if pronoun and pleases else []),
        *subject_words,
        *(direct_words if pronoun and not pleases else []),
        *(recipient_words if recipient_early else []),
        *(clause.time.german if clause.time else ()),
        *(recipient_words if not recipient_early else []),
        *(direct_words if known and not pronoun else []),
        *(clause.frequency.german if clause.frequency else ()),
        *gladly,
        *(direct_words if not known else []),
        *(no if not clause.gladly else []),
    ]
    for complement in clause.complements:
        middle += complement.german
    return prefield, middle


def _german_verbs(clause: Clause, order: GermanOrder) -> tuple[Word, Word | None, list[Word]]:
    """The finite verb, the separated prefix if there is one, and the verbs that close the clause."""
    verb = clause.verb
    pleased = clause.direct if verb.base == "like" else None
    person = (pleased or clause.subject).person
    idea, tense, modal = clause.key("verb"), clause.key("tense"), clause.key("modal")
    whole = (idea, clause.key("particle"))
    infinitive = Word(verb.full_infinitive, whole)
    if clause.modal:
        return Word(clause.modal.german[person], (modal,)), None, [infinitive]
    if clause.tense == "future":
        return Word(WERDEN[person], (tense,)), None, [infinitive]
    if clause.tense == "perfect" or (clause.tense == "past" and not verb.preterite):
        auxiliary = (BE if verb.auxiliary == "sein" else HAVE).present[person]
        return Word(auxiliary, (tense,)), None, [Word(verb.german_participle, whole)]
    finite = verb.preterite[person] if clause.tense == "past" else verb.present[person]
    if order == "imperative":
        finite = IMPERATIVES[verb.head]
    # "macht … auf" is all "opens", while "holt … ab" divides like "picks … up".
    divided = verb.particle or verb.preposition
    prefix = Word(verb.german_prefix, (clause.key("particle") if divided else idea,)) if verb.german_prefix else None
    return Word(finite, (idea,)), prefix, []


def _zu_infinitive(clause: Clause) -> list[Word]:
    """``zu lesen`` in two words, ``aufzumachen`` in one."""
    zu, idea = clause.key("zu"), clause.key("verb")
    if clause.verb.german_prefix:
        return [Word(clause.verb.zu_infinitive, (zu, idea, clause.key("particle")))]
    return [Word("zu", (zu,)), Word(clause.verb.infinitive, (idea,))]


def subordinate(english: str, german: str, clause: Clause, *, fronted: bool = False) -> Adverbial:
    """A clause behind a conjunction; ``fronted`` adds the English comma of a clause that comes first."""
    conjunction = linked(english, german)
    comma = (COMMA,) if fronted else ()
    return Adverbial(
        (*conjunction.english, *english_clause(clause), *comma),
        (COMMA, *conjunction.german, *german_clause(clause, "final"), COMMA),
    )
