"""Label-smoothed cross-entropy straight from decoder states, without ever holding all the logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.availability import triton_is_available_for

# Logits are made and used up in slices of about this many numbers: what suits a CPU's cache, and what fills a GPU.
_SLICE_NUMBERS = 1 << 22
_GPU_SLICE_NUMBERS = 1 << 27


def fused_linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    smoothing: float,
    token_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed loss and summed negative log-likelihood of the targets, in nats.

    With V outputs, the gold token is wanted with probability 1 − ε and every other with ε / (V − 1); the loss is the
    cross-entropy to that, less its own entropy, so that a perfect model reaches 0 (as in the released code of ReLA).
    The second result is the plain −Σ log p(gold), for perplexity; it carries no gradient.

    ``states`` is [tokens, dimension], ``weight`` [V, dimension], ``targets`` [tokens] (no padding among them),
    ``token_weights`` [tokens] weighs the tokens in the loss (default: all 1).
    Both gradients are computed on the way forward, slice by slice; the matrix products follow the autocast state.
    """
    loss, likelihood = _SmoothedCrossEntropy.apply(states, weight, targets, smoothing, token_weights)
    return loss, likelihood


class _SmoothedCrossEntropy(Function):
    @staticmethod
    def forward(
        context: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, token_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dtype = _product_dtype(states)
        outputs = weight.shape[0]
        size = max((_SLICE_NUMBERS if states.device.type == "cpu" else _GPU_SLICE_NUMBERS) // outputs, 1)
        entropy = _entropy(smoothing, outputs)
        needs_gradient = any(context.needs_input_grad[:2])
        low_states, low_weight = states.to(dtype), weight.to(dtype)
        states_gradient = torch.empty_like(states) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        # float64 sums on the device: millions of tokens add up without loss, and nothing waits for the host.
        loss = states.new_zeros((), dtype=torch.float64)
        likelihood = states.new_zeros((), dtype=torch.float64)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), size):
                rows = slice(start, start + size)
                logits = low_states[rows] @ low_weight.t()  # [slice, outputs]
                losses, likelihoods, gradient = _of_logits(
                    logits, targets[rows], smoothing=smoothing, with_gradient=needs_gradient
                )
                losses -= entropy
                likelihood += likelihoods.sum(dtype=torch.float64)
                scale = None if token_weights is None else token_weights[rows]
                loss += (losses if scale is None else losses * scale).sum(dtype=torch.float64)
                if states_gradient is not None and weight_gradient is not None:
                    if scale is not None:
                        gradient.mul_(scale[:, None])
                    low_gradient = gradient.to(dtype)
                    states_gradient[rows] = low_gradient @ low_weight
                    weight_gradient += low_gradient.t() @ low_states[rows]
        context.save_for_backward(states_gradient, weight_gradient)
        context.weight_dtype = weight.dtype
        context.mark_non_differentiable(likelihood)
        return loss.float(), likelihood

    @staticmethod
    def backward(context: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        states_gradient, weight_gradient = context.saved_tensors
        return (
            states_gradient * gradient.to(states_gradient.dtype),
            (weight_gradient * gradient).to(context.weight_dtype),
            None,
            None,
            None,
        )


def _of_logits(
    logits: Tensor, targets: Tensor, *, smoothing: float, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (its entropy not taken off) and −log p(gold) of each row, and the gradient p − q of the logits.

    The logits, [rows, outputs], are used up.
    """
    if triton_is_available_for(logits):
        from nmt_rela.kernels.triton.cross_entropy import cross_entropy_forward_backward

        return (
            *cross_entropy_forward_backward(logits, targets, smoothing=smoothing, with_gradient=with_gradient),
            logits,
        )
    outputs = logits.shape[1]
    spread = smoothing / (outputs - 1)
    gold = targets[:, None]
    logits = logits.float()
    logits.sub_(logits.amax(dim=1, keepdim=True))
    gold_logits = logits.gather(1, gold)[:, 0]
    summed_logits = logits.sum(dim=1)
    probabilities = logits.exp_()
    normalisers = probabilities.sum(dim=1)
    log_normalisers = normalisers.log()
    gold_log_probabilities = gold_logits - log_normalisers
    # −Σ_v q_v log p_v with q = 1 − ε at the gold token, spread elsewhere
    losses = -(1.0 - smoothing - spread) * gold_log_probabilities
    losses -= spread * (summed_logits - outputs * log_normalisers)
    if with_gradient:
        probabilities.div_(normalisers[:, None]).sub_(spread)
        probabilities.scatter_add_(1, gold, probabilities.new_full(gold.shape, spread + smoothing - 1.0))
    return losses, -gold_log_probabilities, probabilities


def _product_dtype(states: Tensor) -> torch.dtype:
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _entropy(smoothing: float, outputs: int) -> float:
    """Entropy of the smoothed target, in nats."""
    if smoothing == 0.0:
        return 0.0
    return -(1.0 - smoothing) * math.log(1.0 - smoothing) - smoothing * math.log(smoothing / (outputs - 1))
