"""ReLA's heads on a CPU, in few passes, against the reference path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmt_rela.attention import backends
from nmt_rela.attention.mask import CAUSAL, Mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.cpu.dropout import dropout_mask
from nmt_rela.kernels.cpu.rela_attention import relu_attention_cpu
from tests.attention_sites import (
    SITES,
    assert_zero_where_masked,
    inputs,
    padding,
    reference,
    take_reference,
    with_gradients,
)

EVERY_SITE = pytest.mark.parametrize("site", SITES)


def rectified(query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
    return relu_attention_cpu(query, key, value, mask, dropout=0.0)


@EVERY_SITE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_and_gradients_are_those_of_the_reference_in_float64(site: str, dtype: torch.dtype) -> None:
    *shape, mask = SITES[site]
    given = inputs(*shape, dtype)
    actual = with_gradients(lambda *x: rectified(*x, mask), *given)
    expected = with_gradients(lambda *x: reference("rela-g", *x, mask), *(x.double() for x in given))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for found, wanted in zip(actual, expected, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@EVERY_SITE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_at_most_twice_as_much_as_the_reference(site: str, dtype: torch.dtype) -> None:
    *shape, mask = SITES[site]
    given = inputs(*shape, dtype)
    exact = with_gradients(lambda *x: reference("rela-g", *x, mask), *(x.double() for x in given))
    plain = with_gradients(lambda *x: reference("rela-g", *x, mask), *given)
    upstream = given[3].float()  # of what comes out widened
    actual = with_gradients(lambda *x: rectified(*x, mask), *given[:3], upstream)
    assert [found.dtype for found in actual] == [torch.float32, dtype, dtype, dtype]
    for found, usual, wanted in zip(actual, plain, exact, strict=True):
        assert (found.double() - wanted).norm() <= 2 * (usual.double() - wanted).norm()


def test_masked_keys_and_rows_without_a_key_have_weights_and_gradients_of_exactly_zero() -> None:
    *shape, mask = SITES["encoder"]
    assert_zero_where_masked(*with_gradients(lambda *x: rectified(*x, mask), *inputs(*shape, torch.float32)))


@pytest.mark.parametrize("score", [float("inf"), float("nan")])
def test_scores_that_are_no_numbers_are_not_hidden(score: float) -> None:
    query, value = torch.ones(1, 1, 1, 4), torch.ones(1, 1, 2, 4)
    key = torch.tensor([score, 1.0]).view(1, 1, 2, 1).expand(-1, -1, -1, 4)
    assert not rectified(query, key, value, padding([2], 2)).isfinite().any()


@EVERY_SITE
def test_dropout_is_that_of_the_reference_forward_and_backward(site: str) -> None:
    *shape, mask = SITES[site]
    given = inputs(*shape, torch.float32)
    torch.manual_seed(5)
    actual = with_gradients(lambda *x: relu_attention_cpu(*x, mask, dropout=0.4), *given)
    torch.manual_seed(5)
    kept, scale = dropout_mask(torch.empty(*shape[:4]), 0.4)
    expected = with_gradients(lambda *x: reference("rela-g", *x, mask, kept * scale), *given)
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ATTENTION_VARIANTS)
def test_on_a_cpu_rela_takes_this_path_and_the_other_kinds_the_reference(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(1, 2, 3, 5, 8, torch.float32)[:3]
    assert (backends.fused_backend(kind, *given, None, dropout=0.0) is not None) == (
        not ATTENTION_VARIANTS[kind].normalised
    )
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2, kind=kind, dropout=0.1, cross=False)
    attention.head_mask = torch.tensor([1.0, 0.5])
    states = torch.randn(3, 6, 16)

    def results(mask: Mask) -> list[Tensor]:
        torch.manual_seed(1)
        leaf = states.clone().requires_grad_()
        output = attention.attend(*attention.project_self(leaf), mask)
        return [output, *torch.autograd.grad(output.square().sum(), [leaf, *attention.parameters()])]

    masks = (CAUSAL, padding([6, 2, 0], 6))
    found = [results(mask) for mask in masks]
    take_reference(monkeypatch)
    for mask, results_here in zip(masks, found, strict=True):
        for actual, expected in zip(results_here, results(mask), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
