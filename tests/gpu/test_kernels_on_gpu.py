"""What only a GPU shows of the kernels; that they are right is tested in unit/test_kernels.py, there compiled."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.attention.backends import attend, attention_scores
from nmt_rela.attention.mask import CAUSAL_MASK
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_memory_is_linear_in_length(variant: str) -> None:
    def peak(length: int) -> int:
        given = [torch.randn(1, 8, length, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        heads = attend(ATTENTION_VARIANTS[variant], *given, CAUSAL_MASK, dropout=0.1)
        torch.autograd.grad(heads.sum(), given)
        return torch.cuda.max_memory_allocated() - before

    peak(1024)  # warm-up
    assert peak(8192) < 2.2 * peak(4096)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_an_update_never_waits_for_the_device(variant: str) -> None:
    model = Transformer(100, 100, attention=variant, encoder_layers=1, decoder_layers=1, d_model=64, num_heads=2).cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    source, target = (torch.randint(4, 100, (8, 40), device="cuda") for _ in range(2))
    source[3, 20:] = 0

    def update() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            states = model.decode(model.shift_right(target), model.encode(source)).flatten(0, 1)
            loss, _ = fused_linear_cross_entropy(states, model.output_embedding, target.flatten(), label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    update()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [variant for variant in ATTENTION_VARIANTS if variant != "rela-i"])
def test_long_rows_err_at_most_twice_as_much_as_the_plain_path(variant: str, dtype: torch.dtype) -> None:
    """Lengths and batches that fill many tiles and a whole GPU."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 700, 64, device="cuda") for _ in range(3))
    upstream = torch.randn(2, 700, 4, 64, device="cuda")

    def run(number_type: torch.dtype, fast: bool) -> list[torch.Tensor]:
        given = [x.to(dtype).to(number_type).requires_grad_() for x in (query, key, value)]
        if fast:
            heads = attend(ATTENTION_VARIANTS[variant], *given, CAUSAL_MASK, dropout=0.0)
        else:
            scores = attention_scores(given[0], given[1], CAUSAL_MASK)
            heads = (ATTENTION_VARIANTS[variant].weight_fn(scores) @ given[2]).transpose(1, 2)
        return [heads, *torch.autograd.grad(heads, given, upstream.to(dtype).to(number_type))]

    for found, usual, exact in zip(run(dtype, True), run(dtype, False), run(torch.float64, False), strict=True):
        assert (found.double() - exact).norm() <= 2 * (usual.double() - exact).norm()
