"""The attention contract: what holds for every variant, at every site, for every input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt_rela.attention.backends import attend, attention_scores, attention_weights
from nmt_rela.attention.mask import CAUSAL_MASK, attention_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from tests.oracles import attention_weights as exact_weights

EVERY_VARIANT = pytest.mark.parametrize("variant", ATTENTION_VARIANTS)


@st.composite
def masked_scores(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [rows, keys] of any scale, some of them tied, and which keys are visible: some rows see none."""
    seed = draw(st.integers(0, 2**32 - 1))
    rows, keys = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    random = np.random.default_rng(seed)
    scores = random.standard_normal((rows, keys)) * 10.0 ** draw(st.integers(-5, 3))
    if draw(st.booleans()):
        scores = scores.round(1)
    visible = random.random((rows, keys)) < draw(st.sampled_from([0.2, 0.7, 1.0]))
    return torch.from_numpy(scores), torch.from_numpy(visible)


def weights_of(variant: str, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The package's weights, through its one path: with one-dimensional queries of 1 the keys are the scores."""
    rows = scores.shape[0]
    query = torch.ones(rows, 1, 1, 1, dtype=scores.dtype)  # [batch, heads, queries, width]
    key = scores[:, None, :, None]
    mask = attention_mask(visible[:, None, None], scores.dtype)
    return attention_weights(ATTENTION_VARIANTS[variant], attention_scores(query, key, mask), mask)[:, 0, 0]


@EVERY_VARIANT
@given(case=masked_scores())
@settings(max_examples=60, deadline=None)
def test_weights_are_those_of_an_independent_float64_oracle(
    variant: str, case: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scores, visible = case
    expected = exact_weights(variant, scores.numpy(), visible.numpy())
    np.testing.assert_allclose(weights_of(variant, scores, visible), expected, atol=1e-12, rtol=1e-12)
    if float(scores.abs().max()) < 100:  # float32 itself rounds larger scores by more than the tolerance
        np.testing.assert_allclose(weights_of(variant, scores.float(), visible), expected, atol=1e-5, rtol=1e-5)


@EVERY_VARIANT
@given(case=masked_scores())
@settings(max_examples=40, deadline=None)
def test_masked_keys_have_weight_and_gradient_exactly_zero(
    variant: str, case: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scores, visible = case
    scores.requires_grad_()
    weights = weights_of(variant, scores, visible)
    (gradient,) = torch.autograd.grad((weights * torch.randn_like(weights)).sum(), scores)
    assert weights.isfinite().all()
    assert gradient.isfinite().all()
    assert (weights[~visible] == 0).all()
    assert (gradient[~visible] == 0).all()


@EVERY_VARIANT
@given(case=masked_scores())
@settings(max_examples=40, deadline=None)
def test_rows_sum_to_one_or_are_rectified(variant: str, case: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, visible = case
    weights = weights_of(variant, scores.float(), visible)
    assert (weights >= 0).all()
    if ATTENTION_VARIANTS[variant].sums_to_one:
        expected = visible.any(dim=-1).float()
        torch.testing.assert_close(weights.sum(dim=-1), expected, atol=1e-5, rtol=0)


@EVERY_VARIANT
@given(seed=st.integers(0, 10_000), extra=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_more_masked_keys_and_permuted_keys_change_nothing(variant: str, seed: int, extra: int) -> None:
    random = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(3, 2, n, 4, generator=random, dtype=torch.float64) * 3 for n in (5, 7, 7))
    visible = torch.rand(3, 1, 1, 7, generator=random) < 0.6
    expected = attend(ATTENTION_VARIANTS[variant], query, key, value, attention_mask(visible, torch.float64))
    junk = torch.randn(3, 2, extra, 4, generator=random, dtype=torch.float64) * 100
    order = torch.randperm(7 + extra, generator=random)
    actual = attend(
        ATTENTION_VARIANTS[variant],
        query,
        torch.cat([key, junk], dim=2)[:, :, order],
        torch.cat([value, junk], dim=2)[:, :, order],
        attention_mask(
            torch.cat([visible, torch.zeros(3, 1, 1, extra, dtype=torch.bool)], dim=-1)[..., order], torch.float64
        ),
    )
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


@EVERY_VARIANT
def test_gradients_of_the_weight_function_are_right_in_float64(variant: str) -> None:
    # Random scores keep clear of the kinks, where a weight function has no derivative.
    torch.manual_seed(3)
    scores = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ATTENTION_VARIANTS[variant].weight_fn, (scores,), eps=1e-7)


@EVERY_VARIANT
def test_gradients_of_whole_attention_are_right_in_float64(variant: str) -> None:
    torch.manual_seed(5)
    attention = MultiHeadAttention(8, 2, variant=variant, dropout=0.0, cross_attention=False).double()
    states = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)

    def output(x: torch.Tensor) -> torch.Tensor:
        return attention(x, CAUSAL_MASK)[0]

    assert torch.autograd.gradcheck(output, (states,), eps=1e-7, atol=1e-4)


@EVERY_VARIANT
def test_a_fully_masked_row_gives_only_the_output_bias(variant: str) -> None:
    attention = MultiHeadAttention(8, 2, variant=variant, dropout=0.0, cross_attention=True)
    torch.nn.init.normal_(attention.out_proj.bias)
    states = torch.randn(2, 3, 8, requires_grad=True)
    memory = torch.randn(2, 5, 8, requires_grad=True)
    nothing = attention_mask(torch.zeros(2, 1, 1, 5, dtype=torch.bool), torch.float32)
    output = attention(states, nothing, key_value=attention.project_kv(memory))[0]
    torch.testing.assert_close(output, attention.out_proj.bias.expand_as(output))
    gradients = torch.autograd.grad(output.square().sum(), [states, memory, *attention.parameters()], allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert gradients[0].abs().max() == 0
    assert gradients[1].abs().max() == 0


@EVERY_VARIANT
def test_a_fully_masked_row_has_finite_gradients_in_half_precision(variant: str) -> None:
    attention = MultiHeadAttention(8, 2, variant=variant, dropout=0.0, cross_attention=True)
    states = torch.randn(2, 3, 8, requires_grad=True)
    memory = torch.randn(2, 5, 8, requires_grad=True)
    nothing = attention_mask(torch.zeros(2, 1, 1, 5, dtype=torch.bool), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attention(states, nothing, key_value=attention.project_kv(memory))[0]
    gradients = torch.autograd.grad(output.float().square().sum(), [states, memory])
    assert all(gradient.abs().max() == 0 for gradient in gradients)


@pytest.mark.parametrize("variant", ["sparsemax", "entmax15"])
def test_the_sparse_weight_functions_agree_with_the_published_library(variant: str) -> None:
    entmax = pytest.importorskip("entmax", reason="the entmax library is not installed; the oracle above still holds")
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(500, 37, generator=random, dtype=torch.float64)
    scores = (scores * torch.logspace(-4, 3, 500, dtype=torch.float64)[:, None]).requires_grad_()
    upstream = torch.randn(500, 37, generator=random, dtype=torch.float64)
    results = []
    for function in (ATTENTION_VARIANTS[variant].weight_fn, getattr(entmax, variant)):
        weights = function(scores)
        (gradient,) = torch.autograd.grad((weights * upstream).sum(), scores)
        results.append((weights.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-12, rtol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-9, rtol=1e-9)


@EVERY_VARIANT
def test_weight_functions_work_in_float32_under_autocast_and_return_the_inputs_dtype(variant: str) -> None:
    scores = (torch.randn(16, 12) * 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = ATTENTION_VARIANTS[variant].weight_fn(scores)
    assert weights.dtype == torch.bfloat16
    exact = ATTENTION_VARIANTS[variant].weight_fn(scores.double())
    # Rounded once, at the end: half a unit in the last place of bfloat16.
    torch.testing.assert_close(weights.double(), exact, atol=1e-6, rtol=2**-8)
