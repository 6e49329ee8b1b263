"""The Triton kernels against the reference path in float64: compiled on a GPU, interpreted on a CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from nmt_rela.attention import backends
from nmt_rela.attention.mask import CAUSAL_MASK, AttentionMask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.rela_norm import EPSILON, ReLANorm
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.models.transformer import Transformer
from tests.attention_sites import (
    SITES,
    assert_zero_where_masked,
    inputs,
    padding,
    reference,
    with_gradients,
)
from tests.triton_interpreter import repair_bfloat16

pytest.importorskip("triton", reason="Triton is not installed; the package does without its kernels")
from nmt_rela.kernels.availability import Processor, assume_processor
from nmt_rela.kernels.triton.cross_entropy import cross_entropy_forward_backward
from nmt_rela.kernels.triton.dropout_add_norm import dropout_add_norm_triton
from nmt_rela.kernels.triton.gated_rms_norm import gated_rms_norm_triton
from nmt_rela.kernels.triton.relu_dropout import relu_dropout_triton
from nmt_rela.kernels.triton.sparse_attention import sparse_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED_VARIANTS = ["rela-g", "sparsemax", "entmax15"]  # rela-i differs in its norm only

pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _bfloat16_like_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        repair_bfloat16(monkeypatch)


def on_device(mask: AttentionMask | None) -> AttentionMask | None:
    if mask is None or mask.bias is None:
        return mask
    return AttentionMask(
        mask.bias.to(DEVICE), None if mask.fully_masked_rows is None else mask.fully_masked_rows.to(DEVICE)
    )


def fused(
    variant: str, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None, dropout: float = 0.0
) -> Tensor:
    bias, causal = (None, False) if mask is None else (mask.bias, mask.causal)
    return sparse_attention(
        ATTENTION_VARIANTS[variant].weight_fn.__name__, query, key, value, bias=bias, causal=causal, dropout=dropout
    )


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("variant", FUSED_VARIANTS)
def test_float32_agrees_with_the_reference_in_float64(variant: str, site: str) -> None:
    *shape, mask = SITES[site]
    mask = on_device(mask)
    given = inputs(*shape, torch.float32, DEVICE)
    actual = with_gradients(lambda *x: fused(variant, *x, mask), *given)
    expected = with_gradients(lambda *x: reference(variant, *x, mask), *(x.double() for x in given))
    for found, wanted in zip(actual, expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("variant", "site"), [("rela-g", "encoder"), ("sparsemax", "cross"), ("entmax15", "encoder")])
def test_half_precision_errs_at_most_twice_as_much_as_the_plain_path(
    variant: str, site: str, dtype: torch.dtype
) -> None:
    *shape, mask = SITES[site]
    mask = on_device(mask)
    given = inputs(*shape, dtype, DEVICE)
    exact = with_gradients(lambda *x: reference(variant, *x, mask), *(x.double() for x in given))
    plain = with_gradients(lambda *x: reference(variant, *x, mask), *given)
    actual = with_gradients(lambda *x: fused(variant, *x, mask), *given)
    for found, usual, wanted in zip(actual, plain, exact, strict=True):
        assert found.dtype == dtype
        assert (found.double() - wanted).norm() <= 2 * (usual.double() - wanted).norm()


@pytest.mark.parametrize("variant", FUSED_VARIANTS)
def test_masked_keys_have_gradients_of_exactly_zero(variant: str) -> None:
    *shape, mask = SITES["encoder"]
    given = inputs(*shape, torch.float32, DEVICE)
    assert_zero_where_masked(*with_gradients(lambda *x: fused(variant, *x, on_device(mask)), *given))


@pytest.mark.parametrize("variant", ["sparsemax", "entmax15"])
def test_rows_sum_to_one_at_any_scale_of_scores(variant: str) -> None:
    query, key, _, _ = inputs(1, 1, 32, 45, 16, torch.float32, DEVICE)
    ones = torch.ones_like(key)
    scales = torch.logspace(-4, 4, 32, device=DEVICE)[:, None]
    sums = fused(variant, query * scales, key, ones, None)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", FUSED_VARIANTS)
def test_dropout_is_the_same_forward_and_backward(variant: str) -> None:
    query, key, value, upstream = inputs(1, 2, 9, 40, 64, torch.float32, DEVICE)
    value = torch.eye(40, 64, device=DEVICE).expand_as(value)  # the output is then the dropped weights

    def dropped(*x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return fused(variant, *x, None, 0.4)

    weights = reference(variant, query.double(), key.double(), value.double(), None)[..., :40].transpose(1, 2)
    kept = dropped(query, key, value)[..., :40].transpose(1, 2).double() / weights
    kept = torch.where(weights > 1e-5, kept, 0.0)
    is_kept = kept > 0
    torch.testing.assert_close(kept[is_kept], torch.full_like(kept[is_kept], 1 / 0.6), atol=1e-2, rtol=0)
    assert (~is_kept & (weights > 1e-5)).any()
    actual = with_gradients(dropped, query, key, value, upstream)
    expected = with_gradients(
        lambda *x: reference(variant, *x, None, is_kept / 0.6), *(x.double() for x in (query, key, value, upstream))
    )
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


def test_dropout_has_the_right_rate_and_no_pattern() -> None:
    # All scores are 1, all weights too, and the values pick the keys out.
    queries, keys, heads, probability = 96, 64, 3, 0.3
    query = torch.ones(1, heads, queries, 64, device=DEVICE) / 8
    key, value = torch.ones(1, heads, keys, 64, device=DEVICE), torch.eye(keys, device=DEVICE).expand(1, heads, -1, -1)

    def draw() -> Tensor:  # [queries, heads, keys]
        return fused("rela-i", query, key, value, None, probability)[0]

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)
    torch.testing.assert_close(first.unique(), torch.tensor([0, 1 / (1 - probability)], device=DEVICE))
    kept = (first > 0).float()
    deviation = math.sqrt(probability * (1 - probability) / kept.numel())
    assert kept.mean().item() == pytest.approx(1 - probability, abs=5 * deviation)
    for other in ((second > 0).float(), *(kept.roll(1, axis) for axis in range(3))):
        agreement = (kept == other).float().mean().item()
        assert agreement == pytest.approx(probability**2 + (1 - probability) ** 2, abs=5 * deviation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("gated", "width"), [(True, 12), (False, 64), (True, 600)])
@pytest.mark.parametrize("path", ["kernel", "cpu", "reference"])
def test_the_norm_agrees_with_the_equation(path: str, gated: bool, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    norm = ReLANorm(width, gated=gated).double()
    heads, upstream = torch.randn(2, 3, 2, width, dtype=torch.float64).unbind()
    heads[1, 1] = 0  # a row of null attention
    if path == "kernel":  # nothing but its output is rounded; otherwise, no more than what comes in is already
        heads, upstream = heads.to(dtype).double(), upstream.to(dtype).double()

    def run(function, number_type: torch.dtype, device: str) -> list[Tensor]:
        gate_type = torch.float64 if number_type == torch.float64 else torch.float32
        leaves = [heads.to(device, number_type)]
        if norm.gate is not None:
            leaves.append(norm.gate.detach().to(device, gate_type))
        leaves = [leaf.requires_grad_() for leaf in leaves]
        output = function(leaves[0], leaves[1] if gated else None)
        gradients = torch.autograd.grad(output, leaves, upstream.to(device, number_type))
        return [x.detach().cpu() for x in (output, *gradients)]

    def plain(z: Tensor, gate: Tensor | None) -> Tensor:
        normed = z * (z.square().mean(dim=-1, keepdim=True) + EPSILON).rsqrt()
        return normed if gate is None else (z * gate).sigmoid() * normed

    exact = run(plain, torch.float64, "cpu")
    usual = run(lambda *x: plain(x[0].float(), *x[1:]).to(dtype), dtype, "cpu")
    if path == "kernel":
        actual = run(lambda *x: gated_rms_norm_triton(*x, epsilon=EPSILON), dtype, DEVICE)
    else:
        with assume_processor("cpu" if path == "cpu" else "none"):
            actual = run(lambda z, gate: functional_call(norm, {"gate": gate} if gated else {}, z), dtype, "cpu")
    for found, ordinary, wanted in zip(actual, usual, exact, strict=True):
        assert found.dtype == ordinary.dtype
        error, allowed = (found.double() - wanted).norm(), (ordinary.double() - wanted).norm()
        assert error <= 2 * allowed + 1e-6 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [2, 50, 5000])
def test_the_loss_agrees_with_the_plain_one(outputs: int, dtype: torch.dtype) -> None:
    torch.manual_seed(outputs)
    logits, targets = (torch.randn(4, outputs) * 4).to(dtype), torch.randint(outputs, (4,))
    settings = {"smoothing": 0.1, "with_gradient": True}
    exact = logits.double().requires_grad_()
    log_probs = exact.log_softmax(dim=1)
    smoothed = torch.full_like(exact, 0.1 / (outputs - 1)).scatter_(1, targets[:, None], 0.9).detach()
    losses = -(smoothed * log_probs).sum(dim=1)
    (gradient,) = torch.autograd.grad(losses.sum(), exact)
    nlls = -log_probs.gather(1, targets[:, None])[:, 0]
    actual = logits.to(DEVICE)
    found = cross_entropy_forward_backward(actual, targets.to(DEVICE), smoothing=0.1, with_gradient=False)
    assert torch.equal(actual.cpu(), logits)
    found_again = cross_entropy_forward_backward(actual, targets.to(DEVICE), **settings)
    for values in (found, found_again):
        torch.testing.assert_close(values[0].cpu(), losses.float(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values[1].cpu(), nlls.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        actual.cpu(), gradient.to(dtype), atol=1e-6, rtol=1e-5 if dtype == torch.float32 else 8e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("width", "has_update", "upstream"), [(12, True, "both"), (64, False, "low"), (600, True, "sums")]
)
def test_the_layer_norm_of_a_sum_agrees_with_the_equation(
    width: int, has_update: bool, upstream: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(width)
    x, update, high, low = torch.randn(4, 3, 5, width, dtype=torch.float64)
    weight, bias = torch.randn(2, width, dtype=torch.float64)
    x, update, low = x.float().double(), update.to(dtype).double(), low.to(dtype).double()

    def run(function: Any, types: tuple[torch.dtype, torch.dtype], device: str) -> list[Tensor]:
        wide, narrow = types
        given = [x.to(wide), update.to(narrow) if has_update else None, weight.to(wide), bias.to(wide)]
        given = [None if each is None else each.to(device).requires_grad_() for each in given]
        sums, matmul_input = function(*given)
        total = 0.0
        if upstream != "low":
            total = total + (sums * high.to(device, sums.dtype)).sum()
        if upstream != "sums":
            total = total + (matmul_input * low.to(device, matmul_input.dtype)).sum()
        gradients = torch.autograd.grad(total, [each for each in given if each is not None])
        return [each.detach().cpu() for each in (sums, matmul_input, *gradients)]

    def plain(x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        sums = F.layer_norm(x if update is None else x + update, (width,), weight, bias, 1e-8)
        return sums, sums if x.dtype == torch.float64 else sums.to(dtype)

    def kernel(*given: Any) -> tuple[Tensor, Tensor]:
        return dropout_add_norm_triton(*given, epsilon=1e-8, dropout=0.0, dtype=dtype)

    exact = run(plain, (torch.float64, torch.float64), "cpu")
    usual, actual = run(plain, (torch.float32, dtype), "cpu"), run(kernel, (torch.float32, dtype), DEVICE)
    for found, ordinary, wanted in zip(actual, usual, exact, strict=True):
        assert found.dtype == ordinary.dtype
        error, allowed = (found.double() - wanted).norm(), (ordinary.double() - wanted).norm()
        assert error <= 2 * allowed + 1e-6 * wanted.norm()


def test_the_dropout_before_a_layer_norm_is_the_same_forward_and_backward() -> None:
    torch.manual_seed(3)
    x, update = torch.zeros(40, 100, device=DEVICE), torch.rand(40, 100, device=DEVICE) + 1.0
    weight, bias = torch.ones(100, device=DEVICE), torch.zeros(100, device=DEVICE)
    leaves = [x.requires_grad_(), update.requires_grad_()]
    sums, again = dropout_add_norm_triton(*leaves, weight, bias, epsilon=1e-8, dropout=0.3, dtype=torch.float32)
    assert sums is again
    # Dropped elements of a row all have its lowest value, which no kept one has.
    kept = sums > sums.amin(dim=1, keepdim=True) + 1e-4
    assert kept.float().mean().item() == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / kept.numel()))
    upstream = torch.randn(40, 100, device=DEVICE)
    found = torch.autograd.grad(sums, leaves, upstream)
    exact = [each.detach().double().requires_grad_() for each in (x, update)]
    wanted = F.layer_norm(exact[0] + exact[1] * kept / 0.7, (100,), eps=1e-8)
    torch.testing.assert_close(sums.double(), wanted, atol=1e-5, rtol=1e-5)
    for each, right in zip(found, torch.autograd.grad(wanted, exact, upstream.double()), strict=True):
        torch.testing.assert_close(each.double(), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 7, 12), (5, 2500), (0, 4)])
def test_relu_and_dropout_in_one_pass(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    x = torch.randn(shape, device=DEVICE).to(dtype).requires_grad_()
    upstream = torch.randn(shape, device=DEVICE).to(dtype)
    plain = relu_dropout_triton(x, dropout=0.0)
    assert torch.equal(plain, x.relu())
    assert torch.equal(torch.autograd.grad(plain, x, upstream)[0], upstream * (x > 0))
    output = relu_dropout_triton(x, dropout=0.25)
    (gradient,) = torch.autograd.grad(output, x, upstream)
    kept = output > 0
    scale = {"atol": 0.0, "rtol": 1e-5 if dtype == torch.float32 else 1e-2}
    torch.testing.assert_close(output[kept], (x / 0.75)[kept], **scale)
    torch.testing.assert_close(gradient[kept], (upstream / 0.75)[kept], **scale)
    assert not gradient[~kept].any()
    if x.numel() > 1000:
        positive = int((x > 0).sum())
        assert int(kept.sum()) / positive == pytest.approx(0.75, abs=5 * math.sqrt(0.1875 / positive))


@pytest.mark.parametrize("variant", FUSED_VARIANTS)
def test_what_is_not_a_number_stays_none(variant: str) -> None:
    query, key, value, _ = inputs(1, 1, 3, 4, 16, torch.float32, DEVICE)
    query[0, 0, 1, 5] = math.nan
    assert fused(variant, query, key, value, None).isnan().all(dim=-1).flatten().tolist() == [False, True, False]
    hidden = torch.tensor([[math.nan, -1.0, 2.0]], device=DEVICE)
    assert relu_dropout_triton(hidden, dropout=0.0).isnan().tolist() == [[True, False, False]]


@pytest.mark.parametrize("norm_order", ["post", "pre"])
@pytest.mark.parametrize("variant", ["rela-g", "softmax"])
def test_a_model_is_the_same_with_kernels_and_without(variant: str, norm_order: Any) -> None:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "ffn_dim": 48, "num_heads": 2}
    off = dict.fromkeys(("dropout", "embedding_dropout", "attention_dropout", "ffn_dropout"), 0.0)
    model = Transformer(20, 20, attention=variant, norm_order=norm_order, **sizes, **off).to(DEVICE)  # type: ignore[arg-type]
    source, target = torch.randint(4, 20, (2, 3, 7), device=DEVICE)
    source[1, 4:] = 0

    def results(processor: Processor) -> list[Tensor]:
        with assume_processor(processor):
            output = model(source, model.shift_right(target))
            return [output, *torch.autograd.grad(output.square().mean(), list(model.parameters()))]

    for found, wanted in zip(results("gpu"), results("none"), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_the_gradient_of_a_projection_is_not_copied_where_a_kernel_packs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = MultiHeadAttention(32, 2, variant="rela-g", dropout=0.0, cross_attention=False).to(DEVICE)
    states = torch.randn(3, 6, 32, device=DEVICE)

    def gradient() -> Tensor:
        with assume_processor("gpu"):
            return torch.autograd.grad(attention(states, CAUSAL_MASK)[0].square().sum(), attention.qkv_proj.weight)[0]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "stack", None)
        packed = gradient()
    attention.hook_z.register_forward_hook(lambda _module, _inputs, z: z)  # changes nothing
    torch.testing.assert_close(gradient(), packed)
    with assume_processor("none"):
        torch.testing.assert_close(gradient(), packed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@pytest.mark.parametrize("site", ["encoder", "decoder"])
def test_attention_is_the_same_with_kernels_and_without(variant: str, site: str) -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(32, 2, variant=variant, dropout=0.0, cross_attention=False).to(DEVICE)
    factors = torch.tensor([[1.0], [0.5]], device=DEVICE)
    attention.hook_z.register_forward_hook(lambda _module, _inputs, z: z * factors)
    states = torch.randn(3, 6, 32, device=DEVICE)
    mask = CAUSAL_MASK if site == "decoder" else on_device(padding([6, 2, 0], 6))

    def results(processor: Processor) -> list[Tensor]:
        leaf = states.detach().requires_grad_()
        with assume_processor(processor):
            output = attention(leaf, mask)[0]
            return [output, *torch.autograd.grad(output.square().sum(), [leaf, *attention.parameters()])]

    for found, wanted in zip(results("gpu"), results("none"), strict=True):
        # Sums of numbers as large as the largest.
        torch.testing.assert_close(found, wanted, atol=1e-5 * max(1.0, float(wanted.detach().abs().max())), rtol=1e-4)


def test_a_kernel_is_chosen_for_supported_inputs_only() -> None:
    def chosen(variant: str, head_dim: int, dtype: torch.dtype, keys: int = 5) -> str:
        query, key, _, _ = inputs(1, 1, 3, keys, head_dim, dtype, DEVICE)
        with assume_processor("gpu"):
            return backends.choose_backend(ATTENTION_VARIANTS[variant], query, key)

    assert chosen("rela-g", 16, torch.float32) == "triton"
    assert chosen("rela-g", 24, torch.float32) == "reference"
    assert chosen("entmax15", 16, torch.float64) == "reference"
    assert chosen("sparsemax", 16, torch.float32, keys=0) == "reference"
    assert chosen("softmax", 24, torch.float64) == "sdpa"


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_weights_are_available_where_the_kernel_has_none(variant: str) -> None:
    attention = MultiHeadAttention(16, 1, variant=variant, dropout=0.0, cross_attention=False).to(DEVICE)
    seen: list[Tensor] = []
    states = torch.randn(2, 4, 16, device=DEVICE)
    with assume_processor("gpu"):
        _, weights = attention(states, None, need_weights=True)
        assert attention(states, None)[1] is None
        attention.hook_pattern.register_forward_hook(lambda _module, _inputs, pattern: seen.append(pattern))
        attention(states, None)
    assert weights.shape == (2, 1, 4, 4)
    assert torch.equal(seen[0], weights)


def test_softmax_drops_at_the_right_rate() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 64, 64, device=DEVICE), torch.zeros(1, 1, 64, 64, device=DEVICE)
    value = torch.eye(64, device=DEVICE)[None, None]
    with assume_processor("gpu"):
        z = backends.attend(ATTENTION_VARIANTS["softmax"], query, key, value, None, dropout=0.25)
    assert (z == 0).float().mean().item() == pytest.approx(0.25, abs=0.04)
