"""The CPU backend of attention against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmt_rela.attention import backends
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.availability import assume_processor
from nmt_rela.kernels.cpu.dropout import dropout_mask
from nmt_rela.kernels.cpu.rela_attention import rela_attention_cpu
from tests.attention_sites import (
    SITES,
    assert_zero_where_masked,
    inputs,
    padding,
    reference,
    with_gradients,
)

EVERY_SITE = pytest.mark.parametrize("site", SITES)


def bias_of(query: Tensor, key: Tensor, mask: AttentionMask | None) -> Tensor | None:
    return None if mask is None else mask.as_bias(query.shape[2], key.shape[2], query.dtype, query.device)


def rela(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None) -> Tensor:
    return rela_attention_cpu(query, key, value, bias_of(query, key, mask), dropout=0.0)


@EVERY_SITE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_and_gradients_are_those_of_the_reference_in_float64(site: str, dtype: torch.dtype) -> None:
    *shape, mask = SITES[site]
    given = inputs(*shape, dtype)
    actual = with_gradients(lambda *x: rela(*x, mask), *given)
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
    actual = with_gradients(lambda *x: rela(*x, mask), *given[:3], upstream)
    assert [found.dtype for found in actual] == [torch.float32, dtype, dtype, dtype]
    for found, usual, wanted in zip(actual, plain, exact, strict=True):
        assert (found.double() - wanted).norm() <= 2 * (usual.double() - wanted).norm()


def test_masked_keys_and_rows_without_a_key_have_weights_and_gradients_of_exactly_zero() -> None:
    *shape, mask = SITES["encoder"]
    assert_zero_where_masked(*with_gradients(lambda *x: rela(*x, mask), *inputs(*shape, torch.float32)))


@pytest.mark.parametrize("score", [float("inf"), float("nan")])
def test_non_finite_scores_give_non_finite_outputs(score: float) -> None:
    query, value = torch.ones(1, 1, 1, 4), torch.ones(1, 1, 2, 4)
    key = torch.tensor([score, 1.0]).view(1, 1, 2, 1).expand(-1, -1, -1, 4)
    assert not rela(query, key, value, padding([2], 2)).isfinite().any()


@EVERY_SITE
def test_dropout_is_that_of_the_reference_forward_and_backward(site: str) -> None:
    *shape, mask = SITES[site]
    given = inputs(*shape, torch.float32)
    torch.manual_seed(5)
    actual = with_gradients(lambda *x: rela_attention_cpu(*x, bias_of(*x[:2], mask), dropout=0.4), *given)
    torch.manual_seed(5)
    kept, scale = dropout_mask(torch.empty(*shape[:4]), 0.4)
    expected = with_gradients(lambda *x: reference("rela-g", *x, mask, kept * scale), *given)
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_the_cpu_backend_agrees_with_the_reference_in_training(variant: str) -> None:
    query, key = inputs(1, 2, 3, 5, 8, torch.float32)[:2]
    assert backends.choose_backend(ATTENTION_VARIANTS[variant], query, key) == "cpu"
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2, variant=variant, dropout=0.1, cross_attention=False)
    attention.hook_z.register_forward_hook(lambda _module, _inputs, z: z * torch.tensor([[1.0], [0.5]]))
    states = torch.randn(3, 6, 16)

    def results(mask: AttentionMask) -> list[Tensor]:
        torch.manual_seed(1)
        leaf = states.clone().requires_grad_()
        output = attention(leaf, mask)[0]
        return [output, *torch.autograd.grad(output.square().sum(), [leaf, *attention.parameters()])]

    for mask in (CAUSAL_MASK, padding([6, 2, 0], 6)):
        found = results(mask)
        with assume_processor("none"):
            expected = results(mask)
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@EVERY_SITE
@torch.no_grad()
def test_the_cpu_backend_agrees_with_the_reference_at_inference(site: str, variant: str) -> None:
    *shape, mask = SITES[site]
    query, key, value, _ = inputs(*shape, torch.float32)
    found = backends.attend(ATTENTION_VARIANTS[variant], query, key, value, mask)
    torch.testing.assert_close(found, reference(variant, query, key, value, mask), atol=1e-5, rtol=1e-5)
