"""The Triton kernels of a beam-search step against a full sort, and whole searches with them and without."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_search import TableState, table

from nmt_rela.data.tokenizer import EOS
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.decoding_step import SUPPRESSED_TOKENS, Hypothesis, SearchConstraints
from nmt_rela.generation.ensemble import EnsembleDecoder
from nmt_rela.generation.kernel_check import check_candidates
from nmt_rela.kernels.availability import Processor, assume_processor

topk = pytest.importorskip("nmt_rela.kernels.triton.topk", reason="Triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")


def full_sort(scores: Tensor, logits: Tensor, suppressed: Tensor, count: int) -> tuple[Tensor, ...]:
    """The best ``count`` of all beams and tokens; among equals the better beam, then the smaller token."""
    log_probs = logits.double().log_softmax(dim=2).index_fill(2, suppressed, -math.inf)
    totals, best = (scores.double().unsqueeze(2) + log_probs).flatten(1).sort(dim=1, descending=True, stable=True)
    best = best[:, :count]
    return totals[:, :count], best // logits.shape[2], best % logits.shape[2], log_probs.flatten(1).gather(1, best)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("beams", "vocabulary", "block"), [(2, 50, 64), (1, 64, 64), (3, 150, 64), (3, 40, 8), (2, 4, 8)]
)
def test_candidates_equal_a_full_sort(
    beams: int, vocabulary: int, block: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of less than a block, of whole blocks, of a part of one at the end; blocks with fewer tokens than wanted."""
    monkeypatch.setattr(topk, "_BLOCK", block)
    count = min(10, beams * vocabulary)
    random = torch.Generator().manual_seed(vocabulary)
    # Whole numbers, so that many logits are equal in every dtype.
    logits = torch.randn(2, beams, vocabulary, generator=random).mul(8).round().to(DEVICE, dtype)
    logits = logits[:, :1].expand_as(logits)
    scores = torch.randn(2, beams, generator=random).to(DEVICE)
    scores[1] = scores[1, 0]  # beams with the same hypotheses
    scores[0, -1] = -math.inf if beams > 1 else 0.0  # a beam without a hypothesis
    suppressed = torch.tensor([*SUPPRESSED_TOKENS, EOS], device=DEVICE)[: vocabulary - 2]
    found = topk.fused_candidates(scores, logits, suppressed, count)
    wanted = full_sort(scores, logits, suppressed, count)
    for index in (0, 3):  # totals and log-probabilities
        torch.testing.assert_close(found[index].double(), wanted[index], atol=1e-5, rtol=1e-5)
    exists = wanted[0] > -math.inf
    for index in (1, 2):  # beams and tokens
        assert torch.equal(found[index][exists], wanted[index][exists])
    assert (found[0][:, :-1] == found[0][:, 1:]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_and_rows_of_minus_infinity(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block without probability has no candidate. A row without any has no log-probabilities: all see it."""
    monkeypatch.setattr(topk, "_BLOCK", 16)
    logits, scores = torch.randn(2, 2, 40).to(DEVICE, dtype), torch.zeros(2, 2, device=DEVICE)
    logits[0, :, :16] = -math.inf
    logits[1, 1] = -math.inf
    none = torch.tensor([], dtype=torch.long, device=DEVICE)
    totals, _, tokens, _ = topk.fused_candidates(scores, logits, none, 6)
    torch.testing.assert_close(totals[0].double(), full_sort(scores, logits, none, 6)[0][0], atol=1e-5, rtol=1e-5)
    assert (tokens[0] >= 16).all()
    assert (totals[1] == math.inf).all()
    logits[0, 1, 7] = math.nan
    assert topk.fused_candidates(scores, logits, none, 6)[0][0].isposinf().all()


def test_what_is_missing_has_no_probability() -> None:
    """Two beams with one token each are all that there is."""
    suppressed = torch.tensor([*SUPPRESSED_TOKENS, EOS], device=DEVICE)
    found = topk.fused_candidates(torch.zeros(1, 2, device=DEVICE), torch.zeros(1, 2, 5, device=DEVICE), suppressed, 12)
    assert found[0].isfinite().sum() == 2
    assert found[2][0, :2].tolist() == [4, 4]
    assert found[2][0, 10:].tolist() == [0, 0]
    assert torch.equal(found[0], found[3])


def test_wide_beams_and_large_vocabularies_take_the_plain_form() -> None:
    def supported(beams: int, vocabulary: int, count: int) -> bool:
        return topk.supports_fused_candidates(torch.empty(1, beams, vocabulary, device="meta"), count)

    assert supported(5, 32_000, 10)
    assert supported(16, 32_000, 32)
    assert not supported(16, 64_000, 32)
    assert not supported(20, 1000, 40)


def search(processor: Processor, dtype: torch.dtype, beams: int, **options: Any) -> list[list[Hypothesis]]:
    class Decoder(TableState):
        def step(self, tokens: Tensor) -> Tensor:
            return super().step(tokens).to(dtype)

    tables = table(sentences=3, vocabulary=40, seed=2)
    tables[:, :, EOS] += 2.0
    decoder: Any = Decoder(tables, beams=beams)
    if options.pop("ensemble", False):
        decoder = EnsembleDecoder([decoder])
    early_stopping = options.pop("early_stopping", False)
    constraints = SearchConstraints(max_lengths=torch.tensor([5, 1, 8]), **options)
    with assume_processor(processor):
        return beam_search(decoder, constraints, beam_size=beams, n_best=beams, early_stopping=early_stopping)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the table is on the CPU")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16, "early_stopping": True, "suppress_tokens": (0, 1, 3, 30, 31)},
        {"beams": 2, "min_length": 4},
        {"prefixes": [[5], [], [7, 7]]},
        {"ensemble": True, "length_penalty": 1.5},
    ],
)
def test_the_hypotheses_are_those_of_the_plain_form(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(topk, "_BLOCK", 32)
    fused = topk.fused_candidates
    monkeypatch.setattr(topk, "fused_candidates", lambda *given: calls.append(given) or fused(*given))
    given = {"dtype": torch.float32, "beams": 4, **options}
    plain = search("none", **given)
    assert not calls
    for found, wanted in zip(search("gpu", **given), plain, strict=True):
        assert [hypothesis.tokens for hypothesis in found] == [hypothesis.tokens for hypothesis in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-5)
    assert len(calls) >= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_candidates_are_found_before_they_are_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with assume_processor("gpu"):
        assert check_candidates(dtype, DEVICE) is None
        fused = topk.fused_candidates
        monkeypatch.setattr(topk, "fused_candidates", lambda scores, *given: fused(scores + 1e-3, *given))
        assert (
            check_candidates(dtype, DEVICE)
            == f"candidates of beam search in {dtype}: they err by 1.0e-03, more than 1e-04"
        )
        monkeypatch.setattr(topk, "fused_candidates", lambda *_: 1 / 0)
        assert check_candidates(dtype, DEVICE) == "candidates of beam search: division by zero"
