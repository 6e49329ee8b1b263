"""The demo corpus: its files as promised, and its German against rules written here."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from german_nouns import CASES, GENDER
from tools.demo_corpus.corpus import CONSTRUCTIONS, Pair, generate, write_demo_corpus
from tools.demo_corpus.lexicon import BE, HAVE, NAMES, NOUNS, VERBS
from tools.demo_corpus.meaning import Draw
from tools.demo_corpus.paradigms import MODALS
from tools.demo_corpus.phrases import links, written

Parts = dict[str, list[Pair]]


# The corpus as a whole

COMMITTED = Path(__file__).parents[2] / "data" / "demo"
SCRIPTS = Path(__file__).parents[2] / "scripts"
#: SHA-256 over the names and bytes of the nine uncompressed files, in the order of their names.
DIGEST = "b66146cf6fe66efd4ceedb85d9073e6a3d64b4e989e6846b70c1dccaa13cf0ef"


def text(directory: Path) -> dict[str, bytes]:
    """The uncompressed files of a corpus, by name without ``.gz``."""
    return {
        path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in sorted(directory.iterdir())
    }


def digest(directory: Path) -> str:
    content = hashlib.sha256()
    for name, data in text(directory).items():
        content.update(name.encode() + data)
    return content.hexdigest()


def test_the_generator_reproduces_the_committed_files(corpus: Path) -> None:
    assert text(corpus) == text(COMMITTED)
    assert digest(COMMITTED) == DIGEST


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    write_demo_corpus(directory)
    return directory


@pytest.fixture(scope="module")
def parts(corpus: Path) -> Parts:
    def read(name: str) -> list[str]:
        data = text(corpus)[name].decode()
        assert data.endswith("\n")
        assert "\r" not in data
        return data[:-1].split("\n")

    def pairs(part: str) -> Iterator[Pair]:
        rows = zip(read(f"{part}.en"), read(f"{part}.de"), read(f"{part}.align"), strict=True)
        for source, target, align in rows:
            points = [tuple(map(int, link.split("-"))) for link in align.split()]
            yield Pair(source=source, target=target, links=tuple((i, j) for i, j in points))

    return {part: list(pairs(part)) for part in ("train", "dev", "test")}


@pytest.fixture(scope="module")
def everything(parts: Parts) -> list[Pair]:
    return [pair for pairs in parts.values() for pair in pairs]


def test_sizes_and_disjoint_splits(parts: Parts, everything: list[Pair]) -> None:
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 8000, "dev": 300, "test": 500}
    assert len({pair.source for pair in everything}) == len(everything)
    assert len({pair.target for pair in everything}) == len(everything)


def test_a_few_hundred_words_and_no_rare_ones_held_out(parts: Parts) -> None:
    def forms(pairs: list[Pair]) -> Counter[str]:
        texts = [("en", pair.source) for pair in pairs] + [("de", pair.target) for pair in pairs]
        return Counter(f"{side}:{word}" for side, words in texts for word in re.findall(r"[\w']+", words.lower()))

    train, held_out = forms(parts["train"]), forms(parts["dev"] + parts["test"])
    assert min(train[form] for form in held_out) >= 10
    assert 300 <= sum(form.startswith("en:") for form in train) <= 500
    assert 400 <= sum(form.startswith("de:") for form in train) <= 720


def test_lengths_capitals_and_punctuation(everything: list[Pair]) -> None:
    for pair in everything:
        for side in (pair.source, pair.target):
            assert 3 <= len(side.split(" ")) <= 16
            assert re.fullmatch(r"[A-ZÄÖÜ][\w']*(,? [\w']+)*[.?]", side), side
        assert pair.source[-1] == pair.target[-1]


def test_links_are_exact_positions_and_leave_only_empty_words_alone(everything: list[Pair]) -> None:
    alone: Counter[str] = Counter()
    for pair in everything:
        source, target = pair.source.split(" "), pair.target.split(" ")
        assert list(pair.links) == sorted(set(pair.links))
        assert all(0 <= i < len(source) and 0 <= j < len(target) for i, j in pair.links)
        linked_source = {i for i, _ in pair.links}
        alone.update(word.lower() for i, word in enumerate(source) if i not in linked_source)
        assert {j for _, j in pair.links} == set(range(len(target))), pair
    # do-support, the progressive, and "to" in "wants to", "likes to" and "gives it to"; never a content word.
    assert set(alone) == {"do", "does", "did", "am", "is", "are", "to"} & set(alone)
    assert {"do", "does", "is", "to"} <= set(alone)


def test_names_are_linked_to_themselves(everything: list[Pair]) -> None:
    names = "|".join(name.german for name in NAMES)
    for pair in everything:
        source, target = pair.source.split(), pair.target.split()
        for i, j in pair.links:
            one, other = (re.match(rf"({names})\b|({names})s\b", word) for word in (source[i], target[j]))
            if one:
                assert other, (pair, i, j)


def test_reordering_is_real(everything: list[Pair]) -> None:
    crossing = sum(any(a < c and b > d for a, b in pair.links for c, d in pair.links) for pair in everything)
    assert crossing / len(everything) >= 0.4
    jumps = [max(abs(i - j) for i, j in pair.links) for pair in everything]
    assert sum(jump >= 3 for jump in jumps) / len(jumps) >= 0.15


def test_every_phenomenon_occurs_often(everything: list[Pair]) -> None:
    german = "\n".join(pair.target for pair in everything)
    english = "\n".join(pair.source for pair in everything)
    phenomena = {
        r", weil ": 150, r", obwohl ": 50, r"[Ww]enn ": 100, r", dass ": 200, r", ob ": 100, r"[Ww]ährend ": 100,
        r"[Bb]evor ": 50, r", (der|die|das|den|dem|denen) ": 300, r", um .* zu ": 80, r", .*zu\w{4,}en": 30,
        r"\bgern\b": 100, r"\bkein": 30, r"\bnicht\b": 300, r"\bgefäll": 100, r"\bgehör": 20, r"\bgibt es\b": 50,
        r"\bals\b": 50, r"(macht|holt|ruft|lädt|räumt|wirft|bringt|probiert) .* (auf|zu|an|aus|ab|ein|weg|mit)\b": 100,
        r"^(Morgen|Gestern|Heute|Am \w+|Im \w+|Jeden \w+|Letzte Woche|Nächste Woche) \w+ ": 300,
    }  # fmt: skip
    for pattern, least in phenomena.items():
        assert len(re.findall(pattern, german, flags=re.MULTILINE)) >= least, pattern
    assert len(re.findall(r"\b[Dd](?:o|oes|id)\b", english)) >= 500


# An independent reading of the German text

ARTICLES = {
    "m": {
        "nominative": "der ein kein",
        "accusative": "den einen keinen",
        "dative": "dem einem keinem",
        "genitive": "des",
    },
    "f": {
        "nominative": "die eine keine",
        "accusative": "die eine keine",
        "dative": "der einer keiner",
        "genitive": "der",
    },
    "n": {"nominative": "das ein kein", "accusative": "das ein kein", "dative": "dem einem keinem", "genitive": "des"},
    "p": {"nominative": "die keine", "accusative": "die keine", "dative": "den keinen", "genitive": "der"},
}
POSSESSIVES = ("mein", "dein", "sein", "ihr", "unser")
for _cases in ARTICLES.values():
    for _case, _words in _cases.items():
        endings = [word.removeprefix("kein") for word in _words.split() if word.startswith("kein")]
        _cases[_case] = " ".join([_words, *(own + ending for own in POSSESSIVES for ending in endings)])
NOUN_FORMS: dict[str, set[tuple[str, str]]] = {}
for _noun in NOUNS:
    for _case in CASES:
        NOUN_FORMS.setdefault(_noun.decline(_case, plural=False), set()).add((GENDER[_noun.german], _case))
        if _noun.plural:
            NOUN_FORMS.setdefault(_noun.decline(_case, plural=True), set()).add(("p", _case))
DETERMINERS = {word for cases in ARTICLES.values() for words in cases.values() for word in words.split()}


def readings(phrase: list[str]) -> set[tuple[str, str]]:
    """The genders and cases that an article, an optional adjective and a noun can have together."""
    article, *adjectives, noun = phrase
    fits = {(g, c) for g, c in NOUN_FORMS[noun] if article in ARTICLES[g][c].split()}
    if not adjectives:
        return fits
    weak = article in "der die das den dem des".split()
    allowed = set()
    for gender, case in fits:
        plain = (gender != "p" and case == "nominative") or (gender in ("f", "n") and case == "accusative")
        ending = "en"
        if plain:
            ending = "e" if weak or gender == "f" else {"m": "er", "n": "es"}[gender]
        if adjectives[0].endswith(ending) and (ending != "e" or not adjectives[0].endswith("en")):
            allowed.add((gender, case))
    return allowed


def noun_phrases(target: str) -> Iterator[tuple[str, list[str]]]:
    """The word before each article + (adjective) + noun, and these words."""
    words = [word.strip(".,?") for word in target.split()]
    words[0] = words[0] if words[0] in NOUN_FORMS else words[0][0].lower() + words[0][1:]
    stops = [word.endswith((",", ".", "?")) for word in target.split()]
    for i, word in enumerate(words):
        for length in (2, 3):
            phrase = words[i : i + length]
            inner_stop = any(stops[i : i + length - 1])
            if word in DETERMINERS and len(phrase) == length and phrase[-1] in NOUN_FORMS and not inner_stop:
                if length == 2 or phrase[1].islower():
                    yield (words[i - 1] if i and not stops[i - 1] else ""), phrase
                break


def test_articles_adjectives_and_nouns_agree(everything: list[Pair]) -> None:
    governed = {"mit": "dative", "zu": "dative", "von": "dative", "für": "accusative", "ohne": "accusative"}
    seen: Counter[str] = Counter()
    relative = re.compile(r"der|die|das|den|dem")
    for pair in everything:
        for before, phrase in noun_phrases(pair.target):
            if relative.fullmatch(phrase[0]) and not readings(phrase) and before == "":
                continue  # ", der Milch trinkt": a relative pronoun before a bare noun
            possible = readings(phrase)
            assert possible, (phrase, pair)
            if before in governed:
                assert any(case == governed[before] for _, case in possible), (before, phrase, pair)
                seen[before] += 1
    assert all(seen[preposition] > 10 for preposition in ("mit", "zu", "für", "ohne", "von")), seen


FINITE = {form for verb in (*VERBS.values(), BE, HAVE) for form in (*verb.present.values(), *verb.preterite.values())}
FINITE |= {verb.german_prefix + form for verb in VERBS.values() for form in verb.present.values()}
FINITE |= {form for modal in MODALS.values() for form in modal.german.values()}
FINITE |= {"werde", "wirst", "wird", "werden"}
ZU_INFINITIVES = {verb.german_prefix + "zu" + verb.infinitive for verb in VERBS.values() if verb.german_prefix}
SEPARABLE = {
    verb.german_prefix + form for verb in VERBS.values() if verb.german_prefix for form in verb.present.values()
}


def test_subordinate_clauses_end_in_their_finite_verb(everything: list[Pair]) -> None:
    clauses = r", (?:weil|obwohl|wenn|dass|ob|während|bevor|der|die|das|den|dem|denen) ([^,.?]+)"
    found = 0
    for pair in everything:
        sentence = pair.target[0].lower() + pair.target[1:]
        fronted = re.findall(r"^(?:weil|obwohl|wenn|während|bevor) ([^,]+),", sentence)
        for clause in re.findall(clauses, sentence) + fronted:
            *others, last = clause.split()
            infinitive = others[-1:] == ["zu"] or last in ZU_INFINITIVES  # ", die Tür aufzumachen"
            assert infinitive != (last in FINITE and others[-1:] != ["zu"]), pair
            found += not infinitive
    assert found > 2000


def test_main_clauses_have_the_verb_second(everything: list[Pair]) -> None:
    """After a fronted clause or adverb the finite verb comes at once; a separated prefix is never left in place."""
    adverb = r"(?:Morgen|Gestern|Heute|Jetzt|Am \w+|Im (?:Sommer|Winter)|Jeden \w+|Letzte Woche|Nächste Woche) (\w+)"
    clause = r"(?:Weil|Obwohl|Wenn|Während|Bevor) [^,]+, (\w+)"
    found = 0
    for pair in everything:
        match = re.match(rf"{adverb}|{clause}", pair.target)
        if match:
            finite = match[1] or match[2]
            assert finite in FINITE - SEPARABLE, pair
            found += 1
    assert found > 800


def test_subject_pronouns_agree_with_what_they_take_up(everything: list[Pair]) -> None:
    pattern = re.compile(
        r"(?:einen|den|eine|die|ein|das) ([A-ZÄÖÜ]\w+)(?: \w+)?, (?:weil|obwohl) (er|sie|es) \w+ ist\."
    )
    found = 0
    for pair in everything:
        match = pattern.search(pair.target)
        if match and re.search(r"\w (because|although) it is (?!warm|cold|raining|tired|hungry|ill)\w+\.", pair.source):
            assert match[2] == {"m": "er", "f": "sie", "n": "es"}[GENDER[match[1]]], pair
            found += 1
    assert found > 50


def test_a_source_has_one_translation_and_one_alignment() -> None:
    draw = Draw(12)
    translations: dict[str, tuple[str, tuple[tuple[int, int], ...]]] = {}
    for _ in range(10000):
        english, german, end = draw.weighted(CONSTRUCTIONS)(draw)
        source, source_ideas = written(english, end)
        target, target_ideas = written(german, end)
        found = (" ".join(target), links(source_ideas, target_ideas))
        assert translations.setdefault(" ".join(source), found) == found, (source, found)


def test_bytes_do_not_depend_on_the_process(corpus: Path, tmp_path: Path) -> None:
    digests = {digest(corpus)}
    for seed in ("1", "99"):
        directory = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "tools.demo_corpus", str(directory)]
        subprocess.run(command, check=True, env=environment, cwd=SCRIPTS)
        digests.add(digest(directory))
    assert len(digests) == 1


def test_writing_needs_no_heavy_module() -> None:
    program = "import sys, tools.demo_corpus.corpus; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=SCRIPTS).returncode == 0


def test_generate_gives_distinct_pairs_of_the_seed() -> None:
    assert generate(200, seed=3) == generate(200, seed=3)
    assert generate(200, seed=3) != generate(200, seed=4)
