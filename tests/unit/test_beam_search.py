"""Search on small scorers whose best sequences are found by enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from toy_search import TableState, best_by_trying, score_of, table

from nmt_rela.data.tokenizer import BOS, EOS, PAD, UNK
from nmt_rela.generation.beam_search import beam_search, shortlist, top_candidates
from nmt_rela.generation.decoding_step import (
    SUPPRESSED_TOKENS,
    Hypothesis,
    NextTokenLogProbs,
    SearchConstraints,
    length_penalty_factor,
)
from nmt_rela.generation.ensemble import EnsembleDecoder
from nmt_rela.generation.options import SamplingOptions
from nmt_rela.generation.sampling import greedy_search, sample
from nmt_rela.kernels.availability import assume_processor
from nmt_rela.kernels.cpu.native_library import native_library
from nmt_rela.kernels.cpu.topk import blockwise_shortlist, supports_blockwise_shortlist
from nmt_rela.utils.errors import ConfigError


@pytest.fixture(autouse=True, params=["native", "plain"])
def step_form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test holds for the compiled step and for the plain one."""
    if request.param == "native" and native_library() is None:
        pytest.skip("no C++ compiler")
    with assume_processor("cpu" if request.param == "native" else "none"):
        yield


def search(
    tables: Tensor,
    *,
    beams: int = 4,
    max_length: int | Sequence[int] = 6,
    n_best: int = 1,
    early_stopping: bool = False,
    memory: float = 0.1,
    **constraints: object,
) -> list[list[Hypothesis]]:
    sentences = len(tables)
    lengths = [max_length] * sentences if isinstance(max_length, int) else list(max_length)
    return beam_search(
        TableState(tables, beams=beams, memory=memory),
        SearchConstraints(max_lengths=torch.tensor(lengths), **constraints),  # type: ignore[arg-type]
        beam_size=beams, n_best=n_best, early_stopping=early_stopping,
    )  # fmt: skip


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("min_length", [0, 2])
def test_a_wide_beam_equals_enumeration(exponent: float, min_length: int) -> None:
    tables = table(sentences=5, vocabulary=7, seed=3)
    found = search(tables, beams=64, max_length=4, n_best=5, length_penalty=exponent, min_length=min_length)
    for sentence, hypotheses in enumerate(found):
        expected = best_by_trying(
            tables[sentence], max_length=4, exponent=exponent, min_length=max(1, min_length), count=5
        )
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for tokens, _ in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


def test_scores_equal_those_of_forced_decoding() -> None:
    tables = table(sentences=6, vocabulary=9, seed=1)
    for sentence, hypotheses in enumerate(search(tables, n_best=4, max_length=8)):
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            token_log_probs = score_of(tables[sentence], hypothesis.tokens)
            assert hypothesis.token_log_probabilities == pytest.approx(token_log_probs, abs=1e-5)
            assert hypothesis.log_probability == pytest.approx(sum(token_log_probs), abs=1e-5)
            assert hypothesis.score == pytest.approx(
                sum(token_log_probs) / length_penalty_factor(len(token_log_probs), 0.6), abs=1e-5
            )


def test_beam_of_one_is_greedy() -> None:
    tables = table(sentences=20, vocabulary=11, seed=5)
    lengths = torch.arange(20) % 5 + 3
    expected = greedy_search(TableState(tables, beams=1), SearchConstraints(max_lengths=lengths))
    assert search(tables, beams=1, max_length=lengths.tolist()) == expected
    for sentence, (hypothesis,) in enumerate(expected):
        previous = BOS
        for position, token in enumerate(hypothesis.tokens):
            logits = tables[sentence, previous].clone()
            logits[[PAD, UNK, BOS] + ([EOS] if position == 0 else [])] = -math.inf
            assert token == int(logits.argmax())
            previous = token
        assert hypothesis.tokens[-1] == EOS or len(hypothesis.tokens) == lengths[sentence]


@pytest.mark.parametrize("beams", [1, 4])
def test_results_do_not_depend_on_the_batch(beams: int) -> None:
    tables = table(sentences=13, vocabulary=12, seed=8)
    lengths = [3 + (5 * i) % 9 for i in range(13)]
    batched = search(tables, beams=beams, max_length=lengths)
    order = list(reversed(range(13)))
    reversed_batch = search(tables[order], beams=beams, max_length=[lengths[i] for i in order])
    for sentence in range(13):
        assert search(tables[sentence : sentence + 1], beams=beams, max_length=[lengths[sentence]]) == [
            batched[sentence]
        ]
        assert reversed_batch[order.index(sentence)] == batched[sentence]


def test_finished_sentences_leave_the_batch() -> None:
    tables = table(sentences=8, vocabulary=9, seed=2)
    tables[:7, :, EOS] += 50.0  # seven sentences end at once
    state = TableState(tables, beams=4)
    beam_search(state, SearchConstraints(max_lengths=torch.full((8,), 30)), beam_size=4)
    assert state.rows_seen[0] == 8
    assert max(state.rows_seen[4:], default=0) <= 1


def test_early_stopping_ends_where_the_bound_would_continue() -> None:
    """Where the penalty outweighs the cost of a token, the exact rule must search to the maximum length."""
    tables = table(sentences=6, vocabulary=9, seed=2)
    tables[:, :, EOS] += 3.0
    steps = {}
    for early in (False, True):
        state = TableState(tables, beams=4)
        constraints = SearchConstraints(max_lengths=torch.full((6,), 40), length_penalty=3.0)
        beam_search(state, constraints, beam_size=4, early_stopping=early)
        steps[early] = len(state.rows_seen)
    assert steps[False] == 40
    assert steps[True] < 15


def test_early_stopping_does_not_depend_on_when_finished_sentences_leave() -> None:
    tables = table(sentences=6, vocabulary=9, seed=2)
    expected = search(tables, max_length=20, n_best=4, length_penalty=2.0, early_stopping=True)
    rarely = search(tables, max_length=20, n_best=4, length_penalty=2.0, early_stopping=True, check_every=4)
    assert rarely == expected


def test_every_sentence_has_its_own_maximum_length() -> None:
    tables = table(sentences=3, vocabulary=9, seed=2)
    tables[:, :, EOS] -= 50.0
    assert [len(hypotheses[0].tokens) for hypotheses in search(tables, max_length=[2, 9, 5])] == [2, 9, 5]
    assert [len(hypotheses[0].tokens) for hypotheses in search(tables, beams=1, max_length=[2, 9, 5])] == [2, 9, 5]


@pytest.mark.parametrize("beams", [1, 4])
def test_minimum_length_counts_tokens_before_the_end(beams: int) -> None:
    tables = table(sentences=4, vocabulary=9, seed=4)
    tables[:, :, EOS] += 20.0
    for minimum in (0, 1, 3):
        for hypotheses in search(tables, beams=beams, max_length=8, min_length=minimum):
            assert len(hypotheses[0].tokens) == max(1, minimum) + 1
            assert hypotheses[0].tokens[-1] == EOS


@pytest.mark.parametrize("beams", [1, 3])
def test_forced_prefix(beams: int) -> None:
    tables = table(sentences=4, vocabulary=9, seed=6)
    prefixes = [[], [5], [8, 4, 6], [7, 7]]
    found = search(tables, beams=beams, max_length=7, prefixes=prefixes)
    free = search(tables, beams=beams, max_length=7)
    assert found[0] == free[0]
    for sentence, prefix in enumerate(prefixes):
        hypothesis = found[sentence][0]
        assert list(hypothesis.tokens[: len(prefix)]) == prefix
        assert hypothesis.token_log_probabilities == pytest.approx(
            score_of(tables[sentence], hypothesis.tokens), abs=1e-5
        )


def test_suppressed_tokens_never_appear() -> None:
    tables = table(sentences=6, vocabulary=9, seed=9)
    tables[:, :, [PAD, UNK, BOS, 5]] += 9.0
    for hypotheses in search(tables, n_best=4, suppress_tokens=(PAD, UNK, BOS, 5)):
        for hypothesis in hypotheses:
            assert not {PAD, UNK, BOS, 5} & set(hypothesis.tokens)


def test_ties_go_to_the_smaller_token() -> None:
    tables = torch.full((3, 200, 200), -5.0)
    tables[:, :, [30, 170, 6]] = 2.0
    for beams in (1, 2, 5):
        for hypotheses in search(tables, beams=beams, max_length=4, min_length=9, memory=0.0):
            assert hypotheses[0].tokens == (6, 6, 6, 6)


def test_ties_do_not_depend_on_the_batch() -> None:
    tables = torch.zeros(9, 200, 200)  # everything is tied
    for beams in (1, 4):
        batched = search(tables, beams=beams, max_length=5)
        assert batched == search(tables[:1], beams=beams, max_length=5) * 9


@pytest.mark.parametrize("vocabulary", [40, 64, 1024, 1087])
def test_top_candidates_equal_a_full_sort(vocabulary: int) -> None:
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 2, generator=random).mul(4).round().div(4)
    scores[0, 1] = -torch.inf  # a beam that is dead
    log_probs = torch.randn(5, 2, vocabulary, generator=random).mul(8).round().div(8)  # with ties
    log_probs[:, :, :4] = -torch.inf
    totals, beam_indices, tokens, token_log_probs = top_candidates(scores, log_probs, 6)
    every = (scores.unsqueeze(2) + log_probs).flatten(1)
    assert torch.equal(totals, every.sort(dim=1, descending=True).values[:, :6])
    assert torch.equal(token_log_probs, log_probs[torch.arange(5).unsqueeze(1), beam_indices, tokens])
    assert torch.equal(totals, scores.gather(1, beam_indices) + token_log_probs)
    flat_indices = beam_indices * vocabulary + tokens
    tied = totals[:, 1:] == totals[:, :-1]
    assert tied.any()
    assert bool((flat_indices[:, 1:] > flat_indices[:, :-1])[tied].all())


@pytest.mark.parametrize("vocabulary", [1024, 1087])
def test_the_blockwise_shortlist_holds_the_best_of_the_plain_one(vocabulary: int) -> None:
    random = torch.Generator().manual_seed(2)
    scores, log_probs = torch.randn(5, 3, generator=random), torch.randn(5, 3, vocabulary, generator=random)
    assert supports_blockwise_shortlist(log_probs, 6)
    assert not supports_blockwise_shortlist(log_probs[:, :, :700], 6)
    best = []
    for totals, flat_indices in (shortlist(scores, log_probs, 6), blockwise_shortlist(scores, log_probs, 6)):
        assert torch.equal(totals, (scores.unsqueeze(2) + log_probs).flatten(1).gather(1, flat_indices))
        best.append(flat_indices.gather(1, totals.topk(6, dim=1).indices))
    assert torch.equal(*best)


def test_a_forced_token_keeps_its_probability_and_excludes_all_others() -> None:
    logits = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(1))
    expected = logits.log_softmax(2)
    constraints = SearchConstraints(max_lengths=torch.full((3,), 5), prefixes=[[UNK], [], [7]])
    found = NextTokenLogProbs(constraints)(logits, 0, torch.arange(3))
    for sentence, token in ((0, UNK), (2, 7)):
        assert torch.equal(found[sentence, :, token], expected[sentence, :, token])
        assert (found[sentence].isfinite().sum(dim=1) == 1).all()
    assert torch.equal(
        found[1].isfinite(), torch.ones(2, 10).index_fill(1, torch.tensor([*SUPPRESSED_TOKENS, EOS]), 0).bool()
    )


def test_a_vocabulary_smaller_than_the_beam() -> None:
    tables = table(sentences=2, vocabulary=5, seed=0)  # one real token
    for hypotheses in search(tables, beams=6, max_length=4, n_best=6):
        assert len(hypotheses) == 4  # x, xx, xxx ended, xxxx cut
        assert len({hypothesis.tokens for hypothesis in hypotheses}) == 4


def test_no_sentence() -> None:
    assert search(torch.zeros(0, 5, 5)) == []


def test_an_ensemble_averages_probabilities() -> None:
    first, second = table(sentences=4, vocabulary=8, seed=1), table(sentences=4, vocabulary=8, seed=2)
    mean = (first.log_softmax(-1).exp() + second.log_softmax(-1).exp()).div(2).log()
    state = EnsembleDecoder([TableState(first, beams=3, memory=0.0), TableState(second, beams=3, memory=0.0)])
    constraints = SearchConstraints(max_lengths=torch.full((4,), 6))
    batched = beam_search(state, constraints, beam_size=3)
    alone = beam_search(TableState(mean, beams=3, memory=0.0), constraints, beam_size=3)
    for left, right in zip(batched, alone, strict=True):
        assert left[0].tokens == right[0].tokens
        assert left[0].score == pytest.approx(right[0].score, abs=1e-5)


def draw(
    tables: Tensor, sampling: SamplingOptions, *, samples: int = 3, seeds: Sequence[int] | None = None
) -> list[list[Hypothesis]]:
    return sample(
        TableState(tables, beams=samples), SearchConstraints(max_lengths=torch.full((len(tables),), 7)), sampling,
        num_samples=samples, seeds=list(range(len(tables))) if seeds is None else seeds,
    )  # fmt: skip


def test_samples_depend_only_on_the_seeds() -> None:
    tables = table(sentences=6, vocabulary=20, seed=1)
    drawn = draw(tables, SamplingOptions(seed=3))
    assert drawn == draw(tables, SamplingOptions(seed=3))
    assert drawn != draw(tables, SamplingOptions(seed=4))
    for seed in range(6):
        assert draw(tables[seed : seed + 1], SamplingOptions(seed=3), seeds=[seed]) == [drawn[seed]]
    for sentence, hypotheses in enumerate(drawn):
        for hypothesis in hypotheses:
            assert hypothesis.token_log_probabilities == pytest.approx(
                score_of(tables[sentence], hypothesis.tokens), abs=1e-5
            )


def test_samples_follow_the_distribution() -> None:
    tables = table(sentences=1, vocabulary=8, seed=3).repeat(400, 1, 1)
    firsts = torch.tensor(
        [h.tokens[0] for hypotheses in draw(tables, SamplingOptions(), samples=10) for h in hypotheses]
    )
    logits = tables[0, BOS].clone()
    logits[:4] = -math.inf
    frequencies = torch.bincount(firsts, minlength=8) / len(firsts)
    assert torch.allclose(frequencies, logits.softmax(0), atol=0.035)


def test_narrow_samples_are_greedy() -> None:
    tables = table(sentences=5, vocabulary=20, seed=1)
    best = [hypotheses[0].tokens for hypotheses in search(tables, beams=1, max_length=7)]
    for narrow in (SamplingOptions(top_k=1), SamplingOptions(top_p=1e-6), SamplingOptions(temperature=1e-3)):
        assert all(h.tokens == best[i] for i, hypotheses in enumerate(draw(tables, narrow)) for h in hypotheses)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        SamplingOptions(**wrong)  # type: ignore[arg-type]
