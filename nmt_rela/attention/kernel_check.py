"""The safety net of GPUs: the backends of a model, compared with the reference in float64 on small tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from nmt_rela.attention.backends import (
    ATTENTION_BACKENDS,
    NORM_BACKENDS,
    AttentionBackend,
    attend,
    choose_backend,
    choose_norm_backend,
)
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask, key_padding_mask
from nmt_rela.attention.rela_norm import EPSILON
from nmt_rela.attention.variants import ATTENTION_VARIANTS, AttentionVariant
from nmt_rela.kernels.availability import VARIABLE, GPUBackend, disable_backend, kernel_mode, triton_problem
from nmt_rela.utils.errors import first_line

#: Relative error ‖found − exact‖ / ‖exact‖ above which a result is wrong. float32 leaves room for TF32.
TOLERANCES = {torch.float32: 5e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}

#: The probability of dropout at which its rate is measured. PyTorch's flash attention rounds it to 1/256.
DROPOUT = 0.1
_DROPOUT_RESOLUTION = 1 / 256
_STANDARD_DEVIATIONS = 6.0


@cache
def check_attention(
    variants: frozenset[str], *, head_dim: int, dtype: torch.dtype, device: torch.device, backward: bool
) -> Mapping[GPUBackend, str]:
    """Why backends of a GPU cannot be trusted: an exception, or a result that misses the reference. Empty: all can.

    Args:
        variants: those of the model: keys of ``ATTENTION_VARIANTS``.
        head_dim: width of a head.
        dtype: that of queries, keys and values.
        device: a GPU.
        backward: compare the gradients too, and the rate of dropout.
    """
    if kernel_mode() == "off":
        return {"sdpa": f"{VARIABLE} is off", "triton": f"{VARIABLE} is off"}
    problems: dict[GPUBackend, str] = {}
    if (backward or variants != {"softmax"}) and (reason := triton_problem(device)):  # the loss has a kernel too
        problems["triton"] = reason
    for name in sorted(variants):
        backend: GPUBackend = "sdpa" if name == "softmax" else "triton"
        if backend in problems:
            continue
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            try:
                problem = _check_variant(name, head_dim=head_dim, dtype=dtype, device=device, backward=backward)
            except Exception as error:  # of any type: whatever a kernel raises, the reference can go on
                problem = f"{name}: {first_line(error)}"
        if problem:
            problems[backend] = problem
    return problems


def disable_untrusted(variants: Collection[str], *, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    """Before inference on a GPU: use no backend that `check_attention` finds at fault. Elsewhere nothing is checked.

    Raises ConfigError if the environment requires a backend that is at fault.
    """
    if device.type == "cuda":
        problems = check_attention(frozenset(variants), head_dim=head_dim, dtype=dtype, device=device, backward=False)
        for backend, reason in problems.items():
            disable_backend(backend, device, reason)


def _check_variant(name: str, *, head_dim: int, dtype: torch.dtype, device: torch.device, backward: bool) -> str | None:
    """Where a variant's backend misses the reference: a sentence with the numbers, None where it does not."""
    variant = ATTENTION_VARIANTS[name]
    valid = torch.ones(2, 150, dtype=torch.bool, device=device)
    valid[1, 31:] = False
    for site, queries, keys, mask in (  # fewer keys than a tile of the kernels has, and more
        ("encoder", 70, 70, key_padding_mask(valid[:, :70], torch.float32)),
        ("decoder", 70, 70, CAUSAL_MASK),
        ("cross", 7, 150, key_padding_mask(valid, torch.float32)),
    ):
        given = [torch.randn(2, 2, length, head_dim, device=device).to(dtype) for length in (queries, keys, keys)]
        backends = (choose_backend(variant, given[0], given[1]), "reference")
        chosen, exact = (_call(ATTENTION_BACKENDS[each], variant, mask) for each in backends)
        if problem := compare(chosen, exact, given, backward=backward):
            return f"{name}, {site} attention in {dtype}: {problem}"
    if variant.output_norm != "none":
        z = torch.randn(5, 2 * head_dim, device=device).to(dtype)
        gate = torch.randn(2 * head_dim, device=device) if variant.output_norm == "gated_rms" else None
        norm = NORM_BACKENDS[choose_norm_backend(z)]
        given = [z] if gate is None else [z, gate]
        if problem := compare(
            lambda z, gate=None: norm(z, gate, epsilon=EPSILON),
            lambda z, gate=None: NORM_BACKENDS["reference"](z, gate, epsilon=EPSILON),
            given,
            backward=backward,
        ):
            return f"{name}, output norm in {dtype}: {problem}"
    return _check_dropout(name, head_dim, dtype, device) if backward else None


def _call(backend: AttentionBackend, variant: AttentionVariant, mask: AttentionMask) -> Callable[..., Tensor]:
    return lambda query, key, value: backend(variant, query, key, value, mask, dropout=0.0)


def compare(
    found: Callable[..., Tensor], exact: Callable[..., Tensor], given: Sequence[Tensor], *, backward: bool
) -> str | None:
    """Where ``found(*given)``, or a gradient of it, misses ``exact`` of the same numbers in float64."""
    dtype = given[0].dtype
    results = []
    for function, inputs in ((found, given), (exact, [x.double() for x in given])):
        leaves = [x.detach().clone().requires_grad_(backward) for x in inputs]
        output = function(*leaves)
        gradients: Sequence[Tensor] = ()
        if backward:
            # Any fixed gradient that is not constant.
            upstream = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output).to(dtype)
            gradients = torch.autograd.grad(output, leaves, upstream.to(output.dtype))
        results.append([output, *gradients])
    for number, (x, wanted) in enumerate(zip(*results, strict=True)):
        error = float((x.detach().double() - wanted.detach()).norm() / wanted.detach().norm())
        if not error <= TOLERANCES[dtype]:
            what = "the output" if number == 0 else f"gradient {number}"
            return f"{what} errs by {error:.1e}, more than {TOLERANCES[dtype]:.0e}"
    return None


def _check_dropout(name: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Equal scores give equal weights, and the identity as values shows each weight: how many are 0?"""
    keys = min(head_dim, 64)
    ones = torch.ones(8, 8, 64, head_dim, device=device).to(dtype)
    value = torch.eye(keys, head_dim, device=device).to(dtype).expand(8, 8, keys, head_dim)
    z = attend(ATTENTION_VARIANTS[name], ones, ones[:, :, :keys], value, None, dropout=DROPOUT)
    problem = check_rate(z[..., :keys] == 0)  # [batch, queries, heads, keys]
    return f"{name}: {problem}" if problem else None


def check_rate(dropped: Tensor) -> str | None:
    """How the fraction that is true misses `DROPOUT` by more than chance; None where it does not."""
    rate = float(dropped.double().mean())
    bound = _DROPOUT_RESOLUTION + _STANDARD_DEVIATIONS * (DROPOUT * (1 - DROPOUT) / dropped.numel()) ** 0.5
    return f"dropout {DROPOUT} drops a fraction of {rate:.4f}" if abs(rate - DROPOUT) > bound else None
