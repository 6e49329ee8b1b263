"""Properties of the demo corpus that hold for every seed and for every phrase the grammar can build."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tools.demo_corpus.corpus import generate
from tools.demo_corpus.grammar import Clause, english_clause, german_clause
from tools.demo_corpus.lexicon import ADJECTIVES, NOUNS, VERBS, Noun
from tools.demo_corpus.paradigms import MODALS, PRONOUNS, Case
from tools.demo_corpus.phrases import NounPhrase, Pronoun, links, written

SEEDS = st.integers(min_value=0, max_value=2**63)
COUNTABLE = [noun for noun in NOUNS if noun.plural]
DEFINITE_FORMS = {"der", "die", "das", "den", "dem", "des"}


@given(seed=SEEDS, short=st.integers(0, 12), more=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_more_pairs_only_continue_the_list(seed: int, short: int, more: int) -> None:
    pairs = generate(short + more, seed=seed)
    assert generate(short, seed=seed) == pairs[:short]
    assert len({pair.source for pair in pairs}) == len({pair.target for pair in pairs}) == short + more


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_pairs_are_well_formed(seed: int) -> None:
    for pair in generate(25, seed=seed):
        source, target = pair.source.split(" "), pair.target.split(" ")
        assert "" not in source + target
        assert pair.links == tuple(sorted(set(pair.links)))
        assert {j for _, j in pair.links} == set(range(len(target)))
        assert all(0 <= i < len(source) for i, _ in pair.links)
        assert pair.source[0].isupper()
        assert pair.target[0].isupper()
        assert pair.source[-1] == pair.target[-1]
        assert pair.source[-1] in ".?"
        assert pair.pharaoh.split() == [f"{i}-{j}" for i, j in pair.links]


@given(
    noun=st.sampled_from(COUNTABLE),
    adjective=st.sampled_from(sorted(ADJECTIVES)),
    determiner=st.sampled_from(["the", "a", "my", "her", "our", "two", "Anna's"]),
    plural=st.booleans(),
    case=st.sampled_from(["nominative", "accusative", "dative", "genitive"]),
)
@settings(max_examples=100, deadline=None)
def test_a_noun_phrase_shows_its_case_once(
    noun: Noun, adjective: str, determiner: str, plural: bool, case: Case
) -> None:
    """Strong endings stand on the article if it has an ending, and on the adjective otherwise: never on both."""
    plural = plural if determiner not in ("a", "two") else determiner == "two"
    article, described, _ = NounPhrase(noun, determiner, ADJECTIVES[adjective], plural=plural).german(case)
    definite = NounPhrase(noun, "the", plural=plural).german(case)[0].text
    assert definite in DEFINITE_FORMS
    signal = {"die": "e", "das": "es"}.get(definite, definite.removeprefix("d"))
    inflected = article.text == definite if determiner == "the" else article.text.endswith(signal)
    bare = determiner in ("two", "Anna's") or article.text in ("ein", "mein", "ihr", "unser")
    genitive_noun = case == "genitive" and signal == "es"
    if bare:
        assert described.text.endswith("en" if genitive_noun else signal)
    else:
        assert inflected
        assert described.text.endswith(("e", "en"))


@given(
    head=st.sampled_from(sorted(head for head in VERBS if head not in ("like", "rain"))),
    pronoun=st.sampled_from(sorted(PRONOUNS)),
    tense=st.sampled_from(["present", "past", "perfect", "future"]),
    modal=st.sampled_from([None, *sorted(MODALS)]),
    negated=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_every_order_says_the_same_words(head: str, pronoun: str, tense: str, modal: str | None, negated: bool) -> None:
    """Verb-second, verb-first and verb-final clauses differ in order only; a prefix joins its verb at the end."""
    clause = Clause(
        subject=Pronoun(PRONOUNS[pronoun]),
        verb=VERBS[head],
        tense=tense,  # type: ignore[arg-type]
        modal=MODALS[modal] if modal else None,
        negated=negated,
    )
    orders = [german_clause(clause, order) for order in ("second", "first", "final")]
    letters = {"".join(sorted("".join(word.text for word in words))) for words in orders}
    assert len(letters) == 1
    statement, question = english_clause(clause), english_clause(clause, "question")
    for english, words in zip((statement, question, statement), orders, strict=True):
        aligned = links(written(english, ".")[1], written(words, ".")[1])
        assert {j for _, j in aligned} == set(range(len(words)))
