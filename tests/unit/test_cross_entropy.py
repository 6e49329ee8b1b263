"""The loss against its definition, written with full logits in float64."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nmt_rela.training import cross_entropy
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy


def written_out(
    states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, bias: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Per-token Kullback-Leibler divergence from the smoothed target, and −log p(gold)."""
    log_p = torch.log_softmax(states @ weight.t() + bias, dim=-1)
    outputs = weight.shape[0]
    wanted = torch.full_like(log_p, smoothing / (outputs - 1)).scatter(1, targets[:, None], 1 - smoothing)
    divergence = (torch.special.xlogy(wanted, wanted) - wanted * log_p).sum(dim=1)
    return divergence, -log_p.gather(1, targets[:, None])[:, 0]


@given(
    tokens=st.integers(1, 30),
    outputs=st.integers(2, 60),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    weighted=st.booleans(),
    biased=st.booleans(),
    slice_logits=st.integers(1, 300),
    cached_logits=st.integers(1, 300),
    seed=st.integers(0, 999),
)
@settings(max_examples=50, deadline=None)
def test_loss_and_gradients_are_the_definitions_whatever_the_slices(
    tokens: int,
    outputs: int,
    smoothing: float,
    weighted: bool,
    biased: bool,
    slice_logits: int,
    cached_logits: int,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, 8, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, 8, generator=random, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, outputs, (tokens,), generator=random)
    token_weights = torch.rand(tokens, generator=random) if weighted else None
    inputs = [states, weight]
    if biased:
        inputs.append(torch.randn(outputs, generator=random, dtype=torch.float64, requires_grad=True))
    losses, negative = written_out(states, weight, targets, smoothing, *inputs[2:])
    expected = (losses * (1.0 if token_weights is None else token_weights)).sum()
    wanted_gradients = torch.autograd.grad(expected * 3, inputs)

    low = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with patch.object(cross_entropy, "_CACHED_LOGITS", cached_logits):
        actual, nll = fused_linear_cross_entropy(
            low[0], low[1], targets, label_smoothing=smoothing, bias=low[2] if biased else None,
            token_weights=token_weights, slice_logits=slice_logits,
        )  # fmt: skip
    gradients = torch.autograd.grad(actual * 3, low)
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(nll, negative.sum(), atol=1e-4, rtol=1e-4)
    for gradient, wanted in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, atol=1e-4, rtol=1e-4)


def test_a_perfect_model_reaches_zero() -> None:
    outputs, smoothing = 5, 0.1
    # Logits that are exactly the logarithm of the smoothed target.
    wanted = torch.full((outputs, outputs), smoothing / (outputs - 1)).fill_diagonal_(1 - smoothing)
    loss, _ = fused_linear_cross_entropy(
        wanted.log(), torch.eye(outputs), torch.arange(outputs), label_smoothing=smoothing
    )
    assert abs(float(loss)) < 1e-5


@pytest.mark.parametrize("weighted", [False, True])
def test_under_autocast_matmuls_are_bfloat16_and_the_rest_float32(weighted: bool) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(size, requires_grad=True) for size in ((64, 32), (100, 32), (100,))]
    targets, token_weights = torch.randint(0, 100, (64,)), torch.rand(64) if weighted else None

    def loss_and_gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        states, weight, bias = inputs
        loss, _ = fused_linear_cross_entropy(
            states, weight, targets, label_smoothing=0.1, bias=bias, token_weights=token_weights
        )
        return loss, torch.autograd.grad(loss, inputs)

    exact, exact_gradients = loss_and_gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16), patch.object(cross_entropy, "_CACHED_LOGITS", 1000):
        low, gradients = loss_and_gradients()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=5e-3)
    for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 0.02
