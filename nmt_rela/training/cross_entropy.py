"""Label-smoothed cross-entropy of hidden states, computed in slices so that the logits are never held at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nmt_rela.kernels.availability import matmul_dtype, triton_is_available_for

# Logits per slice: as many as matrix multiplication is fast with on a CPU, and as many as keep a GPU busy.
_CPU_SLICE_LOGITS = 1 << 22
_GPU_SLICE_LOGITS = 1 << 27
# Logits per part of a slice on a CPU: as many as stay in a core's cache from one function of PyTorch to the next.
_CACHED_LOGITS = 1 << 18


def fused_linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float,
    bias: Tensor | None = None,
    token_weights: Tensor | None = None,
    slice_logits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed loss and summed negative log-likelihood of the targets, in nats.

    With V outputs, the target distribution has 1 − ε at the reference token and ε / (V − 1) at every other. The loss is
    the cross-entropy to it minus its entropy, so that a perfect model reaches 0 (as in the released code of ReLA). The
    second result is the plain −Σ log p(reference), for perplexity; it has no gradient.

    ``hidden_states`` is [tokens, d_model], ``weight`` [V, d_model], ``bias`` [V], ``targets`` [tokens] without padding,
    ``token_weights`` [tokens] weights the tokens in the loss (default: all 1). All gradients are computed in the
    forward pass, in slices of about ``slice_logits`` logits (default: by device), unless gradients are disabled. Matrix
    multiplication uses the autocast dtype.
    """
    with_gradient = torch.is_grad_enabled()  # always off inside a Function
    if slice_logits is None:
        slice_logits = _CPU_SLICE_LOGITS if hidden_states.device.type == "cpu" else _GPU_SLICE_LOGITS
    loss, nll = _SmoothedCrossEntropy.apply(
        hidden_states, weight, bias, targets, label_smoothing, token_weights, slice_logits, with_gradient
    )
    return loss, nll


class _SmoothedCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        smoothing: float,
        token_weights: Tensor | None,
        slice_logits: int,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = matmul_dtype(states)
        outputs = weight.shape[0]
        size = max(slice_logits // outputs, 1)
        entropy = _entropy(smoothing, outputs)
        needs_gradient = with_gradient and any(ctx.needs_input_grad[:3])
        low_states, low_weight = states.to(dtype), weight.to(dtype)
        states_gradient = torch.empty_like(states) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_gradient else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_gradient and bias is not None else None
        # float64 sums on the device: millions of tokens add up without loss, and nothing is synchronized.
        loss = states.new_zeros((), dtype=torch.float64)
        nll = states.new_zeros((), dtype=torch.float64)
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), size):
                rows = slice(start, start + size)
                logits = low_states[rows] @ low_weight.t()  # [slice, outputs]
                if bias is not None:
                    logits += bias.to(dtype)
                scale = None if token_weights is None else token_weights[rows]
                losses, nlls = _cross_entropy_slice(
                    logits, targets[rows], scale, smoothing=smoothing, with_gradient=needs_gradient
                )
                losses -= entropy
                nll += nlls.sum(dtype=torch.float64)
                loss += (losses if scale is None else losses * scale).sum(dtype=torch.float64)
                if states_gradient is not None and weight_gradient is not None:
                    gradient = logits  # which it has replaced
                    if bias_gradient is not None:
                        bias_gradient += gradient.sum(dim=0, dtype=torch.float32)
                    states_gradient[rows] = gradient @ low_weight
                    weight_gradient += gradient.t() @ low_states[rows]
        ctx.save_for_backward(states_gradient, weight_gradient, bias_gradient)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(nll)
        return loss.float(), nll

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        states_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        return (
            states_gradient * gradient.to(states_gradient.dtype),
            (weight_gradient * gradient).to(ctx.weight_dtype),
            None if bias_gradient is None else (bias_gradient * gradient).to(ctx.weight_dtype),
            *(None,) * 5,
        )


def _cross_entropy_slice(
    logits: Tensor, targets: Tensor, scale: Tensor | None, *, smoothing: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Cross-entropy (entropy not subtracted) and −log p(reference) of each row.

    ``with_gradient`` replaces the logits, [rows, outputs], by their gradient: p − q, times ``scale``, [rows].
    """
    if triton_is_available_for(logits):
        from nmt_rela.kernels.triton.cross_entropy import cross_entropy_forward_backward

        found = cross_entropy_forward_backward(logits, targets, smoothing=smoothing, with_gradient=with_gradient)
        if with_gradient and scale is not None:
            logits.mul_(scale[:, None])
        return found
    size = max(_CACHED_LOGITS // logits.shape[1], 1)
    parts = []
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        part = logits[rows], targets[rows], None if scale is None else scale[rows]
        parts.append(_cross_entropy_rows(*part, smoothing=smoothing, with_gradient=with_gradient))
    losses, nlls = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(nlls)


def _cross_entropy_rows(
    logits: Tensor, targets: Tensor, scale: Tensor | None, *, smoothing: float, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """`_cross_entropy_slice` in float32 by PyTorch's functions, for rows that fit a cache."""
    outputs = logits.shape[1]
    spread = smoothing / (outputs - 1)
    reference = targets[:, None]
    shifted = logits.float() - logits.amax(dim=1, keepdim=True)
    reference_logits = shifted.gather(1, reference)[:, 0]
    summed_logits = shifted.sum(dim=1)
    probabilities = shifted.exp_()
    normalizers = probabilities.sum(dim=1)
    log_normalizers = normalizers.log()
    reference_log_probs = reference_logits - log_normalizers
    # −Σ_v q_v log p_v with q = 1 − ε at the reference token, spread elsewhere
    losses = -(1.0 - smoothing - spread) * reference_log_probs
    losses -= spread * (summed_logits - outputs * log_normalizers)
    if with_gradient:
        probabilities.div_(normalizers[:, None]).sub_(spread)
        probabilities.scatter_add_(1, reference, probabilities.new_full(reference.shape, spread + smoothing - 1.0))
        logits.copy_(probabilities if scale is None else probabilities.mul_(scale[:, None]))
    return losses, -reference_log_probs


def _entropy(smoothing: float, outputs: int) -> float:
    """Entropy of the smoothed target, in nats."""
    if smoothing == 0.0:
        return 0.0
    return -(1.0 - smoothing) * math.log(1.0 - smoothing) - smoothing * math.log(smoothing / (outputs - 1))
