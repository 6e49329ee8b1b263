"""Before the first update on GPUs: the kernels of the run are compared with the reference, on every rank."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import torch

from nmt_rela.attention.kernel_check import check_attention, compare
from nmt_rela.config.schema import ModelConfig
from nmt_rela.generation.kernel_check import check_candidates
from nmt_rela.kernels.availability import GPUBackend, disable_backend
from nmt_rela.models.kernel_check import check_layers
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy
from nmt_rela.training.distributed import DistributedContext
from nmt_rela.utils.errors import first_line


def check_kernels(model: ModelConfig, dtype: torch.dtype, context: DistributedContext) -> dict[GPUBackend, str]:
    """Compare the GPU kernels that a model's training uses with the reference in float64, and disable those at fault.

    All ranks must call it. They disable the same backends, so that all compute alike. Returns why each of these is
    disabled; nothing where the ranks have no GPU. Raises ConfigError if the environment requires one of them.
    """
    found: dict[GPUBackend, str] = {}
    if context.device.type == "cuda":
        attention = model.attention
        variants = frozenset({attention} if isinstance(attention, str) else asdict(attention).values())
        found = dict(
            check_attention(
                variants,
                head_dim=model.d_model // model.num_heads,
                dtype=dtype,
                device=context.device,
                backward=True,
            )
        )
        width = model.d_model
        for check in (partial(check_layers, width=width, training=True), check_loss, check_candidates):
            if "triton" not in found and (problem := check(dtype, context.device)):
                found["triton"] = problem
    problems: dict[GPUBackend, str] = {}
    for rank, of_rank in enumerate(context.all_gather_object(found)):
        for backend, reason in of_rank.items():
            problems.setdefault(backend, reason if context.world_size == 1 else f"rank {rank}: {reason}")
    for backend, reason in problems.items():
        disable_backend(backend, context.device, reason)
    return problems


def check_loss(dtype: torch.dtype, device: torch.device) -> str | None:
    """Where the loss and its gradients miss those of float64; None where they do not."""

    def loss(hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return fused_linear_cross_entropy(hidden_states, weight, targets, label_smoothing=0.1)[0]

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        targets = torch.randint(5000, (37,), device=device)  # more outputs than the kernel reads at once
        given = [torch.randn(rows, 64, device=device).mul(0.3).to(dtype) for rows in (37, 5000)]
        try:
            problem = compare(loss, loss, given, backward=True)
        except Exception as error:  # of any type: whatever a kernel raises, the reference can go on
            problem = first_line(error)
    return f"loss in {dtype}: {problem}" if problem else None
