"""Translation of text: independence of batch and order, hostile lines, streams, word alignments, threads."""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_translator import sentences, toy_model, toy_tokenizers, toy_translator

from nmt_rela.data.tokenizer import EOS, PAD, SentencePieceTokenizer
from nmt_rela.generation.device import resolve_device
from nmt_rela.generation.formatting import format_jsonl, format_moses, format_text, strip_newlines
from nmt_rela.generation.options import (
    AlignmentOptions,
    SamplingOptions,
    Translation,
    TranslationHypothesis,
    TranslationOptions,
)
from nmt_rela.generation.segmentation import count_given_words, segment_lines, split_tokens
from nmt_rela.generation.streaming import read_chunks
from nmt_rela.generation.translator import Translator
from nmt_rela.metrics.word_alignment import word_ids
from nmt_rela.utils.errors import CheckpointError, ConfigError, DataError

ATTENTION_VARIANTS = ("softmax", "sparsemax", "entmax15", "rela-i", "rela-g")
LINES = sentences(14, seed=5, longest=9)
PIECES = {
    piece: i
    for i, piece in enumerate(toy_tokenizers().target.convert_ids_to_pieces(range(toy_tokenizers().target.size)))
}


def assert_same(left: list[Translation], right: list[Translation]) -> None:
    """Equal strings, and scores equal to 1e-5."""
    for a, b in zip(left, right, strict=True):
        assert [h.text for h in a.hypotheses] == [h.text for h in b.hypotheses]
        assert [h.tokens for h in a.hypotheses] == [h.tokens for h in b.hypotheses]
        assert [h.score for h in a.hypotheses] == pytest.approx([h.score for h in b.hypotheses], abs=1e-5)


@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
@pytest.mark.parametrize("beam_size", [1, 4])
def test_results_do_not_depend_on_batch_or_order(attention: str, beam_size: int) -> None:
    translator = toy_translator(attention=attention)
    options = replace(translator.options, beam_size=beam_size, n_best=min(beam_size, 2))
    batched = translator.translate(LINES, options)
    assert len({translation.text for translation in batched}) > 5
    assert_same([translator.translate([line], options)[0] for line in LINES[:4]], batched[:4])
    order = list(range(len(LINES)))
    random.Random(1).shuffle(order)
    shuffled = translator.translate([LINES[i] for i in order], options, batch_tokens=90)
    assert_same([shuffled[order.index(i)] for i in range(len(LINES))], batched)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_batches_that_do_not_fit_are_halved_down_to_one_sentence(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator, search, fitting = toy_translator(), Translator._search, 3
    expected = translator.translate(LINES)

    def limited(self: Translator, segments: Any, options: TranslationOptions) -> Any:
        if len(segments) > fitting:
            raise error
        return search(self, segments, options)

    monkeypatch.setattr(Translator, "_search", limited)
    assert_same(translator.translate(LINES), expected)
    fitting = 0
    with pytest.raises(ConfigError, match=r"cpu lacks the memory for one sentence of \d+ sub-words with 4 hyp"):
        translator.translate(LINES, beam_size=4)


@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
def test_cached_decoding_equals_teacher_forcing(attention: str) -> None:
    """Token scores of the search, computed step by step from caches, equal those of the whole target at once."""
    translator = toy_translator(attention=attention)
    ids = toy_tokenizers().source.encode(LINES)
    for translation, source in zip(translator.translate(LINES, n_best=3), ids, strict=True):
        for hypothesis in translation.hypotheses:
            target = torch.tensor([[PIECES[piece] for piece in hypothesis.tokens]])
            model = translator.models[0]
            with torch.no_grad():
                states = model.decode(model.shift_right(target), model.encode(torch.tensor([[*source, EOS]])))
                token_log_probs = (
                    model.output_projection(states).log_softmax(-1).gather(2, target.unsqueeze(2)).flatten()
                )
            assert hypothesis.token_log_probabilities == pytest.approx(token_log_probs.tolist(), abs=4e-5)
            assert hypothesis.log_probability == pytest.approx(float(token_log_probs.sum()), abs=1e-4)


def test_scores_of_given_translations_equal_those_of_the_search() -> None:
    translator = toy_translator()
    texts = ["der Hund läuft.", "die Katze schläft heute.", ""]
    scored = translator.score(LINES[:3], texts)
    assert [score.tokens[-1] for score in scored] == ["</s>"] * 3
    for line, text, score in zip(LINES, texts, scored, strict=False):
        assert score.log_probability == pytest.approx(sum(score.token_log_probabilities), abs=1e-6)
        if text:
            # Searched with the text as a forced prefix, its tokens have the same log-probabilities.
            found = translator.translate([line], prefixes=[text], beam_size=1)[0].hypotheses[0]
            count = len(score.tokens) - 1
            assert found.tokens[:count] == score.tokens[:count]
            assert found.token_log_probabilities[:count] == pytest.approx(
                score.token_log_probabilities[:count], abs=1e-5
            )
    assert translator.score([], []) == []


def test_beam_of_one_takes_the_most_probable_token_at_every_step() -> None:
    translator = toy_translator()
    model = translator.models[0]
    for line in LINES[:6]:
        source = torch.tensor([[*toy_tokenizers().source.encode([line])[0], EOS]])
        ids: list[int] = []
        while len(ids) < source.shape[1] + 5 and ids[-1:] != [EOS]:
            with torch.no_grad():
                logits = model(source, model.shift_right(torch.tensor([[*ids, PAD]])))[0, -1]
            logits[[0, 1, 3] + ([EOS] if not ids else [])] = -torch.inf
            ids.append(int(logits.argmax()))
        assert translator.translate([line], beam_size=1)[0].hypotheses[0].tokens == tuple(
            toy_tokenizers().target.convert_ids_to_pieces(ids)
        )


HOSTILE = [
    "", "   ", "\t", "\u2028", "\u0085", "\u00a0",
    "der Hund\u2028läuft", "der\u0085Hund", "🎉 🎉🎉", "\x00\x01", "\ufffd",
    "der Hund\r", "\u200b", "ne\u0301e", "a" * 300, " ".join(["Hund"] * 100),
    "漢字。漢字。", "|||", "<s> </s> <pad>", "▁ ▁▁",
]  # fmt: skip


def test_hostile_lines_do_not_shift_other_lines() -> None:
    translator = toy_translator(max_source_length=32)
    ordinary = sentences(len(HOSTILE), seed=9, longest=5)
    mixed = [line for pair in zip(HOSTILE, ordinary, strict=True) for line in pair]
    translations = translator.translate(mixed, beam_size=2, alignment=AlignmentOptions())
    assert [translation.source for translation in translations] == mixed
    assert_same(translations[1::2], translator.translate(ordinary, beam_size=2))
    assert [translation.text for translation in translations[0:12:2]] == [""] * 6
    assert all("\n" not in translation.text for translation in translations)


def test_a_blank_line_does_not_touch_the_model() -> None:
    translator = Translator(toy_model(), toy_tokenizers())
    translator.models[0].encode = None  # type: ignore[assignment, method-assign]
    for translation in translator.translate(["", " ", "\u3000\t"], n_best=3, alignment=AlignmentOptions()):
        assert translation.text == ""
        assert translation.hypotheses[0].score == 0.0
        assert len(translation.hypotheses) == 1
        assert translation.hypotheses[0].alignment == frozenset()


def test_long_lines_are_translated_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    translator = toy_translator(max_source_length=40, max_length_offset=0)
    line = " ".join(sentences(12, seed=3))
    with caplog.at_level(logging.WARNING):
        short, long = translator.translate(["ein Hund", line], n_best=2, alignment=AlignmentOptions())
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("line 2: ")
    best = long.hypotheses[0]
    assert best.log_probability == pytest.approx(sum(best.token_log_probabilities), abs=1e-4)
    assert len(best.text.split()) > len(short.text.split())
    words = len(line.split())
    assert best.alignment is not None
    assert max(source for source, _ in best.alignment) > words // 2
    assert all(source < words and target < len(best.text.split()) for source, target in best.alignment)


def test_every_part_of_a_long_line_has_the_tags_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    joint = toy_tokenizers().source
    joint.save(tmp_path / "joint.model")
    vocabulary = [*joint.vocabulary, ">>b<<"]
    model = (tmp_path / "joint.model").read_bytes()
    tokenizer = SentencePieceTokenizer(model, name="toy", vocabulary=vocabulary)
    text = " ".join(sentences(4, seed=3))
    (ids,) = joint.encode([text])
    parts = list(segment_lines([f">>b<< {text}"], None, tokenizer, max_length=20, first_line=0))
    assert len(parts) > 2
    assert all(len(part.ids) <= 20 and part.ids[0] == joint.size and part.ids[-1] == EOS for part in parts)
    assert [i for part in parts for i in part.ids[1:-1]] == ids
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        list(segment_lines([">>b<< a", "a", ">>c<< a", ">>d<< a"], None, tokenizer, max_length=20, first_line=4))
    assert caplog.messages == ["line 7: the model has no tag >>c<<; did you mean '>>b<<'?"]


def test_long_lines_are_cut_after_sentences_then_words() -> None:
    pieces = ["▁der", "▁Hund", ".", "▁die", "▁Kat", "ze", "▁läuft", ".", "”", "▁und", "▁weg"]

    def parts(limit: int) -> list[list[str]]:
        return [pieces[part] for part in split_tokens(pieces, limit)]

    assert parts(11) == [pieces]
    assert parts(10) == [pieces[:9], pieces[9:]]
    assert (
        parts(5) == [pieces[:3], pieces[3:6], pieces[6:9], pieces[9:]][:0] or list(itertools.chain(*parts(5))) == pieces
    )
    assert parts(5)[0] == pieces[:3]
    assert split_tokens(["a"] * 7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert split_tokens(["▁我", "来", "。", "你", "去", "吗"], 4)[0] == slice(0, 3)
    assert split_tokens([], 4) == [slice(0, 0)]
    for limit in range(1, 12):
        assert all(0 < len(part) <= limit for part in parts(limit))
        assert list(itertools.chain(*parts(limit))) == pieces


def test_a_translation_begins_with_its_prefix() -> None:
    translator = toy_translator()
    free = translator.translate(LINES[:4])
    forced = translator.translate(LINES[:4], prefixes=["", "die Katze", "heute", "ein Haus mit Frau " * 20])
    assert_same(free[:1], forced[:1])
    assert forced[1].text.startswith("die Katze")
    assert forced[2].text.startswith("heute")
    assert forced[3].text.startswith("ein Haus mit Frau ein Haus")


@pytest.mark.parametrize("prefix", ["☃", "die ☃☃ Katze", "  ☃  die"])
def test_a_prefix_keeps_characters_that_the_vocabulary_lacks(prefix: str) -> None:
    (translation,) = toy_translator().translate(LINES[:1], prefixes=[prefix], alignment=AlignmentOptions())
    assert translation.text.startswith(" ".join(prefix.split()))
    assert "⁇" not in translation.text
    words = len(translation.text.split())
    assert max(target for _, target in translation.hypotheses[0].alignment or ()) < words


@pytest.mark.parametrize("odd", ["der\u00a0Hund", "der\u200bHund", "▁", "der▁Hund", "\u200b", "der\u2003\u2003Hund"])
def test_word_alignments_count_the_words_that_blanks_separate(odd: str) -> None:
    tokenizer = toy_tokenizers().source
    line = f"{odd}  sieht {odd}\tdas Haus"
    numbers = count_given_words(line, tokenizer, str)
    (ids,) = tokenizer.encode([line])
    assert len(numbers) == 1 + max(word_ids(tokenizer.convert_ids_to_pieces(ids)))
    assert [numbers.count(word) for word in (1, 3, 4)] == [1, 1, 1]
    assert numbers == sorted(numbers)
    links = toy_translator().translate([line] * 2, alignment=AlignmentOptions())[1].hypotheses[0].alignment
    assert links
    assert all(source < len(line.encode().split()) for source, _ in links)


def test_characters_that_the_vocabulary_lacks_count_one_by_one_without_spaces() -> None:
    tokenizer, line = toy_tokenizers().source, "漢字Hund漢 字字"
    assert count_given_words(line, tokenizer, str, spaced=False) == [0, 1, 2, 3, 4, 5]
    (segment,) = segment_lines(
        [line], None, tokenizer, max_length=30, given_words=[range(6)], spaced=False, first_line=0
    )
    assert list(dict.fromkeys(itertools.chain(*segment.words))) == [0, 1, 2, 3, 4, 5]


def test_samples_do_not_depend_on_the_batch() -> None:
    translator = toy_translator()
    drawn = translator.translate(LINES, n_best=3, sampling=SamplingOptions(seed=7))
    assert_same(drawn, translator.translate(LINES, n_best=3, sampling=SamplingOptions(seed=7), batch_tokens=40))
    assert_same(drawn, list(translator.translate_stream(LINES, n_best=3, sampling=SamplingOptions(seed=7))))
    other = translator.translate(LINES, n_best=3, sampling=SamplingOptions(seed=8))
    assert [t.text for t in drawn] != [t.text for t in other]


def test_an_ensemble_averages_its_models() -> None:
    first, second = toy_model(seed=1), toy_model(seed=2)
    options = TranslationOptions(max_length_offset=5)

    def translated(*models: object) -> list[Translation]:
        return Translator(list(models), toy_tokenizers(), options=options).translate(
            LINES, alignment=AlignmentOptions()
        )  # type: ignore[arg-type]

    assert_same(translated(first), translated(first, first))
    assert [t.text for t in translated(first, second)] != [t.text for t in translated(first)]
    translator = Translator([first, second], toy_tokenizers(), options=options)
    best = translator.translate(LINES[:1], prefixes=["der Hund"], beam_size=1)[0].hypotheses[0]
    scored = translator.score(LINES[:1], ["der Hund"])[0]
    count = len(scored.tokens) - 1
    assert best.token_log_probabilities[:count] == pytest.approx(scored.token_log_probabilities[:count], abs=1e-5)


def test_word_alignments_are_read_from_the_guided_heads_by_default() -> None:
    model, line = toy_model(seed=1), LINES[:1]
    options = TranslationOptions(max_length_offset=5)
    guided = Translator(model, toy_tokenizers(), options=options, alignment_heads=[(0, 1)])
    plain = Translator(model, toy_tokenizers(), options=options)
    for given, expected in (
        ({}, {"layer": 0, "head": 0}),
        ({"head": 2}, {"layer": 0, "head": 2}),
        ({"layer": 1}, {"layer": 1}),
    ):
        assert_same(
            guided.translate(line, alignment=AlignmentOptions(**given)),
            plain.translate(line, alignment=AlignmentOptions(**expected)),
        )


@pytest.mark.parametrize("choice", [{}, {"layer": 0}, {"head": 2}, {"layer": 1, "head": 0, "shifted": True}])
def test_word_alignments_link_existing_words(choice: dict[str, int]) -> None:
    translator = toy_translator(attention="rela-g")
    for translation in translator.translate(LINES, n_best=2, alignment=AlignmentOptions(**choice)):  # type: ignore[arg-type]
        for hypothesis in translation.hypotheses:
            assert hypothesis.alignment is not None
            targets = [target for _, target in hypothesis.alignment]
            assert len(targets) == len(set(targets))  # one link a target word at most
            assert all(target < max(1, len(hypothesis.text.split())) for target in targets)
            assert all(source < len(translation.source.split()) for source, _ in hypothesis.alignment)
    assert translator.models[0].attention_modules()["cross", 0].hook_pattern.is_active is False


def test_options_out_of_range_are_refused() -> None:
    translator = toy_translator()
    beyond = ({"n_best": 5}, {"n_best": 0}, {"beam_size": 0}, {"max_length_offset": 10**6})
    for wrong in (*beyond, {"beam_size": "4"}, {"length_penalty": math.nan}, {"length_penalty": math.inf}):
        with pytest.raises(ConfigError, match="accepted"):
            translator.translate(LINES, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_length: found 7; accepted: up to max_length_offset \\+ 1, which is 6"):
        translator.translate(LINES, min_length=7)
    with pytest.raises(ConfigError, match="beam_sise: unknown option; did you mean 'beam_size'"):
        translator.translate(LINES, beam_sise=2)
    with pytest.raises(ConfigError, match="layer: found 2; accepted: 0 to 1"):
        translator.translate(LINES, alignment=AlignmentOptions(layer=2))
    with pytest.raises(ConfigError, match="head: found 4; accepted: 0 to 3"):
        translator.translate(LINES, alignment=AlignmentOptions(head=4))
    with pytest.raises(ConfigError, match="accepted: auto, cpu"):
        resolve_device("gpu")
    with pytest.raises(ConfigError, match="CUDA devices are visible"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_line": "x"}, "first_line: found 'x'; accepted: a whole number from 0"),
        ({"first_line": -1}, "first_line: found -1; accepted: a whole number from 0"),
        ({"progress": 5}, "progress: found 5; accepted: a function"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_translator().translate(LINES, **arguments)


def test_a_prefix_longer_than_a_line_may_be_is_refused_with_its_line() -> None:
    translator = toy_translator(max_source_length=32)
    with pytest.raises(DataError, match=r"^line 12: its prefix has \d+ sub-words; accepted: up to 31"):
        translator.translate(LINES[:2], prefixes=["", "ein Haus " * 40], first_line=10)


def test_lines_that_are_no_list_or_have_no_partner_are_refused() -> None:
    translator = toy_translator()
    with pytest.raises(DataError, match="lines: found one str; accepted: a list"):
        translator.translate("Hund")
    for wrong in (None, 5, b"Hund"):
        with pytest.raises(DataError, match="lines: found one"):
            translator.translate(wrong)  # type: ignore[arg-type]
    for line in (5, b"Hund", None, "\ud800"):
        with pytest.raises(DataError, match=r"lines\[1\]: found"):
            translator.translate(["Hund", line])  # type: ignore[list-item]
    for runs in ([], None, "", 5):
        with pytest.raises(CheckpointError, match=r"runs: found .*; accepted: the path of a run directory"):
            Translator.load(runs)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="prefixes: found one str"):
        next(translator.translate_stream(LINES, prefixes="die"))
    for prefixes in (["die"], ["die"] * 3):
        with pytest.raises(DataError, match=f"prefixes: found {len(prefixes)} for 2 lines; accepted: one per line"):
            translator.translate(LINES[:2], prefixes=prefixes)
    with pytest.raises(DataError, match="targets: found 1 for 2 sources"):
        translator.score(LINES[:2], LINES[:1])


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 1},
        {"beam_size": 4},
        *({"sampling": SamplingOptions(**truncated)} for truncated in ({}, {"top_k": 3}, {"top_p": 0.5})),
    ],
)
def test_non_finite_predictions_are_an_error(options: Any) -> None:
    translator = toy_translator()
    with torch.no_grad():
        translator.models[0].output_embedding.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        translator.translate(LINES, **options)


def test_lines_may_be_any_iterable() -> None:
    translator = toy_translator()
    expected = translator.translate(LINES[:3], prefixes=["die", "", ""])
    assert translator.translate(iter(LINES[:3]), prefixes=iter(["die", "", ""])) == expected


def test_a_stream_is_translated_before_its_end() -> None:
    translator = toy_translator()
    answered = threading.Event()

    def slow() -> Iterator[str]:
        yield from LINES[:2]
        assert answered.wait(20.0), "no answer before the end of the stream"
        yield from LINES[2:4]

    stream = translator.translate_stream(slow())
    found = [next(stream), next(stream)]
    answered.set()
    found += stream
    assert_same(found, translator.translate(LINES[:4]))


def test_chunks_grow_and_keep_order() -> None:
    lines = [str(i) for i in range(1000)]
    sizes = [len(chunk) for chunk in read_chunks(iter(lines), initial=8, maximum=64)]
    assert sizes[:5] == [8, 16, 32, 64, 64]
    assert [line for chunk in read_chunks(iter(lines), initial=8, maximum=64) for line in chunk] == lines
    assert list(read_chunks(iter([]))) == []


def test_a_pair_that_is_too_long_to_be_scored_is_named() -> None:
    with pytest.raises(DataError, match=r"^line 2: a pair of \d\d,\d{3} sub-words, whose source begins 'der Hund der"):
        toy_translator().score(["a", "der Hund " * 5_001], ["a", "b"])


def test_chunks_of_long_lines_have_few_of_them() -> None:
    line = "x" * (1 << 20)
    assert [len(chunk) for chunk in read_chunks(iter([line] * 12), initial=64)] == [5, 5, 2]


def test_chunks_raise_the_exception_of_the_input_after_the_lines_before_it() -> None:
    def failing() -> Iterator[str]:
        yield "a"
        raise OSError("gone")

    stream = read_chunks(failing())
    assert next(stream) == ["a"]
    with pytest.raises(OSError, match="gone"):
        next(stream)


def test_chunks_read_a_bounded_number_of_lines_ahead() -> None:
    taken = itertools.count()

    def endless() -> Iterator[str]:
        for number in taken:
            yield str(number)

    stream = read_chunks(endless(), initial=4, maximum=16)
    next(stream)
    time.sleep(0.2)
    assert next(taken) <= 4 + 16 + 3
    stream.close()  # type: ignore[attr-defined]
    time.sleep(0.3)
    assert not [thread for thread in threading.enumerate() if thread.name == "nmt-rela-prefetch"]


def test_threads_may_use_one_translator() -> None:
    """Concurrent calls of one translator return what single calls return."""
    translator = toy_translator(attention="rela-g")
    requests: list[Callable[[], list[Translation]]] = [
        lambda: translator.translate(LINES),
        lambda: translator.translate(LINES, alignment=AlignmentOptions()),
        lambda: translator.translate(LINES, beam_size=1),
        lambda: translator.translate(LINES, n_best=2, sampling=SamplingOptions(seed=4)),
        lambda: list(translator.translate_stream(LINES, beam_size=2, n_best=2, length_penalty=1.0)),
        lambda: translator.translate(LINES, prefixes=["die Katze"] * len(LINES), alignment=AlignmentOptions(layer=0)),
    ]
    expected = [request() for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        for _ in range(2):
            for alone, future in zip(expected, [pool.submit(request) for request in requests], strict=True):
                concurrent = future.result()
                assert_same(alone, concurrent)
                assert [t.hypotheses[0].alignment for t in alone] == [t.hypotheses[0].alignment for t in concurrent]


def test_output_formats() -> None:
    first = TranslationHypothesis(
        text="ein\nHund", score=-0.5, log_probability=-1.0, tokens=("▁ein", "▁Hund"),
        token_log_probabilities=(-0.5, -0.5), alignment=frozenset({(1, 1), (0, 0)}),
    )  # fmt: skip
    second = TranslationHypothesis(text="Hund", score=-1.5, log_probability=-2.0, tokens=(), token_log_probabilities=())
    translation = Translation(source="a \u2028dog", hypotheses=(first, second))
    assert list(format_text(translation, 7, False)) == ["ein Hund ||| 0-0 1-1"]
    assert list(format_text(translation, 7, True)) == ["ein Hund ||| -0.500000 ||| 0-0 1-1"]
    assert list(format_moses(translation, 7, False)) == [
        "7 ||| ein Hund ||| -0.500000 ||| 0-0 1-1",
        "7 ||| Hund ||| -1.500000",
    ]
    (line,) = format_jsonl(translation, 7, False)
    assert "\n" not in line
    values = json.loads(line)
    assert values["source"] == translation.source
    assert values["translation"] == "ein\nHund"
    assert values["hypotheses"][0]["alignment"] == [[0, 0], [1, 1]]
    assert "alignment" not in values["hypotheses"][1]
    assert strip_newlines("a\r\nb") == "a  b"
