"""Training falls along the same curve whichever path attention takes and whatever the precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.availability import assume_processor
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.cross_entropy import fused_linear_cross_entropy
from tests.triton_interpreter import repair_bfloat16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def losses(
    variant: str, *, updates: int, sentences: int = 16, dropout: float = 0.1, precision: torch.dtype = torch.float32
) -> Tensor:
    """Loss a token of each update of a tiny model that learns to turn sequences round."""
    torch.manual_seed(1)
    model = Transformer(
        16, 16, attention=variant, encoder_layers=1, decoder_layers=1, d_model=32, ffn_dim=64, num_heads=2,
        norm_order="pre",
        dropout=dropout, embedding_dropout=0.0, attention_dropout=dropout, ffn_dropout=0.0,
        tied_embeddings="all",
    ).to(DEVICE)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    random = torch.Generator().manual_seed(2)
    curve = []
    for _ in range(updates):
        source = torch.randint(4, 16, (sentences, 6), generator=random)
        target = source.flip(1).to(DEVICE)
        source[: sentences // 2, 5] = 0  # padding
        with torch.autocast(DEVICE, dtype=precision, enabled=precision != torch.float32):
            states = model.decode(model.shift_right(target), model.encode(source.to(DEVICE))).flatten(0, 1)
            loss, _ = fused_linear_cross_entropy(states, model.output_embedding, target.flatten(), label_smoothing=0.1)
        (loss / target.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(loss.detach() / target.numel())
    return torch.stack(curve).cpu()


def assert_coinciding(first: Tensor, second: Tensor) -> None:
    """Both fall, and no stretch of 50 updates differs by more than the curves' own noise there."""
    assert first[-50:].mean() < 0.9 * first[0]
    for one, other in zip(first.split(50), second.split(50), strict=True):
        noise = (one.diff().std() + other.diff().std()) / 2
        assert abs(one.mean() - other.mean()) < noise


@pytest.mark.parametrize("variant", ["entmax15", "rela-g"])
def test_bfloat16_and_float32(variant: str) -> None:
    assert_coinciding(losses(variant, updates=200), losses(variant, updates=200, precision=torch.bfloat16))


# Softmax's fast path is PyTorch's and runs anywhere; the kernels of the others are slow when interpreted.
@pytest.mark.parametrize(
    "variant",
    [pytest.param(variant, marks=[] if variant == "softmax" else pytest.mark.gpu) for variant in ATTENTION_VARIANTS],
)
def test_fast_path_and_reference_over_200_updates(variant: str) -> None:
    with assume_processor("gpu" if DEVICE == "cuda" else "cpu"):
        fast = losses(variant, updates=200)
    with assume_processor("none"):
        assert_coinciding(fast, losses(variant, updates=200))


@pytest.mark.skipif(DEVICE != "cpu", reason="there are CUDA devices: the test above runs the kernels on one")
@pytest.mark.parametrize("variant", ["rela-i", "rela-g"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rectified_heads_and_reference_over_200_updates(variant: str, precision: torch.dtype) -> None:
    fast = losses(variant, updates=200, precision=precision)
    with assume_processor("none"):
        assert_coinciding(fast, losses(variant, updates=200, precision=precision))


@pytest.mark.slow
@pytest.mark.skipif(DEVICE != "cpu", reason="there are CUDA devices: the test above runs the kernels on one")
@pytest.mark.parametrize(
    "variant", ["sparsemax", "entmax15", "rela-g"]
)  # minutes each; rela-i is rela-g without the gate
def test_interpreted_kernels_and_reference_over_200_updates(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; the package does without its kernels")
    repair_bfloat16(monkeypatch)
    with assume_processor("gpu"):
        fast = losses(variant, updates=200, sentences=2)
    with assume_processor("none"):
        assert_coinciding(fast, losses(variant, updates=200, sentences=2))


@pytest.mark.parametrize("variant", ["sparsemax", "rela-g"])
def test_fast_path_and_reference_over_a_few_updates(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed; the package does without its kernels")
    if DEVICE == "cpu":
        repair_bfloat16(monkeypatch)
    with assume_processor("gpu"):
        fast = losses(variant, updates=2, sentences=2, dropout=0.0)
    with assume_processor("none"):
        torch.testing.assert_close(fast, losses(variant, updates=2, sentences=2, dropout=0.0), atol=1e-4, rtol=1e-4)
