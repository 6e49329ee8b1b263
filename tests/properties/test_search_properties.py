"""Properties of search, segmentation and word grouping."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import TableState, best_by_trying, found_by_the_book, score_of, table

from nmt_rela.data.tokenizer import EOS
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.decoding_step import Hypothesis, SearchConstraints, length_penalty_factor
from nmt_rela.generation.segmentation import split_tokens
from nmt_rela.metrics.word_alignment import NO_WORD, format_pharaoh, parse_pharaoh, word_ids

seeds = st.integers(0, 2**20)
exponents = st.sampled_from([0.0, 0.3, 0.6, 1.0, 1.7, 3.0])


def search(
    tables: torch.Tensor,
    lengths: list[int],
    *,
    beams: int,
    n_best: int = 1,
    exponent: float = 0.6,
    min_length: int = 0,
    early_stopping: bool = False,
) -> list[list[Hypothesis]]:
    return beam_search(
        TableState(tables, beams=beams),
        SearchConstraints(max_lengths=torch.tensor(lengths), length_penalty=exponent, min_length=min_length),
        beam_size=beams, n_best=n_best, early_stopping=early_stopping,
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    seed=seeds, exponent=exponents, vocabulary=st.integers(5, 7), length=st.integers(1, 3), minimum=st.integers(0, 3)
)
def test_a_wide_beam_is_exact(seed: int, exponent: float, vocabulary: int, length: int, minimum: int) -> None:
    tables = table(sentences=1, vocabulary=vocabulary, seed=seed)
    (found,) = search(tables, [length], beams=30, n_best=3, exponent=exponent, min_length=minimum)
    expected = best_by_trying(tables[0], max_length=length, exponent=exponent, min_length=max(1, minimum), count=3)
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    exponent=exponents,
    beams=st.integers(2, 5),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    early=st.booleans(),
)
def test_n_best_is_a_prefix_of_the_whole_pool(
    seed: int, exponent: float, beams: int, lengths: list[int], early: bool
) -> None:
    """The search runs longer for the whole pool; its first n are the n best."""
    tables = table(sentences=len(lengths), vocabulary=9, seed=seed)
    whole = search(tables, lengths, beams=beams, n_best=beams, exponent=exponent, early_stopping=early)
    for n_best in range(1, beams):
        some = search(tables, lengths, beams=beams, n_best=n_best, exponent=exponent, early_stopping=early)
        assert some == [hypotheses[:n_best] for hypotheses in whole]


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    exponent=exponents,
    beams=st.integers(2, 5),
    ends=st.floats(-1.0, 4.0),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    minimum=st.integers(0, 4),
)
def test_early_stopping_equals_a_plain_implementation(
    seed: int, exponent: float, beams: int, ends: float, lengths: list[int], minimum: int
) -> None:
    tables = table(sentences=len(lengths), vocabulary=9, seed=seed)
    tables[:, :, EOS] += ends
    found = search(
        tables, lengths, beams=beams, n_best=beams, exponent=exponent, min_length=minimum, early_stopping=True
    )
    for sentence, hypotheses in enumerate(found):
        expected = found_by_the_book(
            tables[sentence], beams=beams, max_length=lengths[sentence], exponent=exponent, min_length=max(1, minimum)
        )
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for tokens, _ in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    beams=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    early=st.booleans(),
    data=st.data(),
)
def test_batch_and_order_do_not_matter(
    seed: int, beams: int, lengths: list[int], early: bool, data: st.DataObject
) -> None:
    tables = table(sentences=len(lengths), vocabulary=9, seed=seed)
    batched = search(tables, lengths, beams=beams, early_stopping=early)
    order = data.draw(st.permutations(range(len(lengths))))
    shuffled = search(tables[list(order)], [lengths[i] for i in order], beams=beams, early_stopping=early)
    assert [shuffled[order.index(i)] for i in range(len(lengths))] == batched
    alone = data.draw(st.integers(0, len(lengths) - 1))
    assert search(tables[alone : alone + 1], [lengths[alone]], beams=beams, early_stopping=early) == [batched[alone]]


@settings(max_examples=25, deadline=None)
@given(seed=seeds, exponent=exponents, beams=st.integers(1, 5), length=st.integers(1, 15), minimum=st.integers(0, 6))
def test_every_hypothesis_is_well_formed(seed: int, exponent: float, beams: int, length: int, minimum: int) -> None:
    tables = table(sentences=3, vocabulary=10, seed=seed)
    found = search(tables, [length] * 3, beams=beams, n_best=beams, exponent=exponent, min_length=minimum)
    for sentence, hypotheses in enumerate(found):
        assert len({hypothesis.tokens for hypothesis in hypotheses}) == len(hypotheses) >= 1
        for hypothesis in hypotheses:
            tokens = hypothesis.tokens
            finished = tokens[-1] == EOS
            assert EOS not in tokens[:-1]
            assert finished or len(tokens) == length
            assert not finished or len(tokens) - 1 >= max(1, minimum)
            token_log_probs = score_of(tables[sentence], tokens)
            assert hypothesis.token_log_probabilities == pytest.approx(token_log_probs, abs=1e-5)
            assert hypothesis.score == pytest.approx(
                sum(token_log_probs) / length_penalty_factor(len(tokens), exponent), abs=1e-4
            )


pieces = st.lists(st.sampled_from(["▁a", "b", "▁", ".", "▁c.", "。", "”", "▁“", "!"]), max_size=60)


@given(pieces=pieces, limit=st.integers(1, 20))
def test_segmentation_keeps_every_piece(pieces: list[str], limit: int) -> None:
    parts = [pieces[part] for part in split_tokens(pieces, limit)]
    assert list(itertools.chain(*parts)) == pieces
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or parts == [[]]


@given(pieces=pieces)
def test_words_are_separated_by_white_space(pieces: list[str]) -> None:
    groups = word_ids(pieces)
    assert 1 + max(groups, default=NO_WORD) == len("".join(pieces).replace("▁", " ").split())
    words = [group for group in groups if group != NO_WORD]
    assert words == sorted(words)


@given(links=st.frozensets(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=40))
def test_pharaoh_lines_read_back(links: frozenset[tuple[int, int]]) -> None:
    parsed = parse_pharaoh(format_pharaoh(links))
    assert parsed.sure == parsed.possible == links
