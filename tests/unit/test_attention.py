"""Multi-head attention against the equations of the paper, written out."""

from __future__ import annotations

import math

import pytest
import torch

from nmt_rela.attention.backends import attend, attention_scores, attention_weights
from nmt_rela.attention.mask import CAUSAL_MASK, key_padding_mask
from nmt_rela.attention.multi_head_attention import MultiHeadAttention
from nmt_rela.attention.rela_norm import ReLANorm
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.kernels.cpu.attention_scores import matmul_few_queries
from nmt_rela.kernels.cpu.dropout import dropout


def written_out(
    attention: MultiHeadAttention, states: torch.Tensor, memory: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Cross-attention of ReLA, sentence by sentence, head by head, query by query (paper, section 3)."""
    dimension, heads = attention.embed_dim, attention.num_heads
    width = dimension // heads
    w_k, w_v = attention.kv_proj.weight.chunk(2)
    b_k, b_v = attention.kv_proj.bias.chunk(2)
    output = torch.zeros_like(states)
    for sentence in range(len(states)):
        q = states[sentence] @ attention.q_proj.weight.t() + attention.q_proj.bias
        k = memory[sentence] @ w_k.t() + b_k
        v = memory[sentence] @ w_v.t() + b_v
        for i in range(len(q)):
            z = []
            for h in range(heads):
                part = slice(h * width, (h + 1) * width)
                alphas = [
                    max(float(q[i, part] @ k[j, part]) / math.sqrt(width), 0.0) if valid[sentence, j] else 0.0
                    for j in range(len(k))
                ]
                z.append(sum(alpha * v[j, part] for j, alpha in enumerate(alphas)))
            concat = torch.cat(z)
            norm = attention.output_norm
            normed = norm.weight * concat / math.sqrt(float((concat**2).mean()) + 1e-8)
            if norm.gate is not None:
                normed = torch.sigmoid(norm.gate * concat) * normed
            output[sentence, i] = attention.out_proj.weight @ normed + attention.out_proj.bias
    return output


@pytest.mark.parametrize("variant", ["rela-i", "rela-g"])
def test_rela_is_the_papers_equations(variant: str) -> None:
    torch.manual_seed(1)
    attention = MultiHeadAttention(12, 3, variant=variant, dropout=0.1, cross_attention=True).double().eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    states, memory = torch.randn(2, 4, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    with torch.no_grad():
        mask = key_padding_mask(valid, torch.float64)
        actual = attention(states, mask, key_value=attention.project_kv(memory))[0]
        torch.testing.assert_close(actual, written_out(attention, states, memory, valid))


@pytest.mark.parametrize("variant", list(ATTENTION_VARIANTS))
@pytest.mark.parametrize("keys", [1, 5, 15, 16, 17])
def test_results_do_not_depend_on_the_grad_mode(variant: str, keys: int) -> None:
    torch.manual_seed(1)
    attention = MultiHeadAttention(32, 2, variant=variant, dropout=0.0, cross_attention=True).eval()
    states, memory = torch.randn(3, 4, 32), torch.randn(3, keys, 32)
    with_gradients = attention(states, None, key_value=attention.project_kv(memory))[0]
    with torch.no_grad():
        without = attention(states, None, key_value=attention.project_kv(memory))[0]
    assert with_gradients.requires_grad
    # ReLA's paths differ in where they scale.
    torch.testing.assert_close(
        without, with_gradients, **({"atol": 0, "rtol": 0} if ATTENTION_VARIANTS[variant].sums_to_one else {})
    )


def test_a_causal_mask_cached_by_inference_works_in_training() -> None:
    length = 41  # asked for by no other test
    with torch.inference_mode():
        assert not CAUSAL_MASK.as_bias(length, length, torch.float32, torch.device("cpu")).is_inference()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 4), (4, 16), (4, 15), (5, 40), (30, 30), (0, 8)])
def test_every_query_times_every_key(queries: int, keys: int, dtype: torch.dtype) -> None:
    query, key = torch.randn(2, queries, 3, 8).to(dtype).transpose(1, 2), torch.randn(2, 3, keys, 8).to(dtype)
    expected = torch.einsum("bhqd,bhkd->bhqk", query.double(), key.double())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.02}[dtype]
    actual = matmul_few_queries(query, key)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)


def test_rela_i_draws_its_gain_and_rela_g_its_gate() -> None:
    bound = math.sqrt(3 / 4096)
    plain, gated = (ReLANorm(4096, gated=g) for g in (False, True))
    assert plain.gate is None
    assert (gated.weight == 1).all()
    for drawn in (plain.weight.detach(), gated.gate.detach()):
        assert float(drawn.abs().max()) <= bound
        # The standard deviation of a uniform distribution is its half-width over √3.
        assert float(drawn.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(float(drawn.mean())) < 0.1 * bound


@pytest.mark.parametrize("variant", ["softmax", "sparsemax", "entmax15"])
def test_the_other_variants_have_no_output_norm(variant: str) -> None:
    attention = MultiHeadAttention(8, 2, variant=variant, dropout=0.0, cross_attention=False)
    assert not list(attention.output_norm.parameters())


def test_initial_weights_are_xavier_uniform_fused_in_self_attention_and_apart_in_cross() -> None:
    own = MultiHeadAttention(64, 4, variant="softmax", dropout=0.0, cross_attention=False)
    cross = MultiHeadAttention(64, 4, variant="softmax", dropout=0.0, cross_attention=True)
    for weight, bound in (
        (own.qkv_proj.weight, math.sqrt(6 / (64 + 3 * 64))),
        (cross.q_proj.weight, math.sqrt(6 / 128)),
        (cross.kv_proj.weight, math.sqrt(6 / 128)),
    ):
        assert bound * 0.98 < weight.abs().max().item() <= bound


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_dropout_acts_on_weights_without_renormalizing(variant: str) -> None:
    torch.manual_seed(0)
    variant = ATTENTION_VARIANTS[variant]
    query, key = torch.randn(1, 1, 6, 8), torch.randn(1, 1, 8, 8)
    value = torch.eye(8)[None, None]  # the output is then the weights themselves
    kept = attention_weights(variant, attention_scores(query, key, None), None)[0, 0]
    dropped = attend(variant, query, key, value, None, dropout=0.5)[0, :, 0]
    is_zero, is_doubled = dropped == 0, torch.isclose(dropped, 2 * kept)
    assert (is_zero | is_doubled).all()
    assert (is_zero & (kept > 0)).any()
    assert (is_doubled & (kept > 0)).any()
    torch.testing.assert_close(attend(variant, query, key, value, None)[0, :, 0], kept)


def test_hook_points_have_the_documented_shapes_and_replace_what_they_return() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, variant="softmax", dropout=0.5, cross_attention=False)
    seen: dict[str, torch.Tensor] = {}
    states = torch.randn(2, 5, 8)
    handles = [
        getattr(attention, name).register_forward_hook(lambda _module, _inputs, x, name=name: seen.update({name: x}))
        for name in ("hook_scores", "hook_pattern", "hook_z")
    ]
    attention(states, None)
    assert {name: x.shape for name, x in seen.items()} == {
        "hook_scores": (2, 2, 5, 5), "hook_pattern": (2, 2, 5, 5), "hook_z": (2, 5, 2, 4)
    }  # fmt: skip
    torch.testing.assert_close(seen["hook_scores"].softmax(-1), seen["hook_pattern"])  # before dropout
    for handle in handles:
        handle.remove()
    attention.eval()
    with attention.hook_z.register_forward_hook(lambda _module, _inputs, z: torch.zeros_like(z)):
        torch.testing.assert_close(attention(states, None)[0], attention.out_proj.bias.expand(2, 5, 8))
    uniform = torch.full((2, 2, 5, 5), 0.2)
    with attention.hook_pattern.register_forward_hook(lambda _module, _inputs, _pattern: uniform):
        _, weights = attention(states, None, need_weights=True)
    assert torch.equal(weights, uniform)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_has_the_right_rate_scale_and_seed(probability: float) -> None:
    ones = torch.ones(500, 1001, requires_grad=True)  # not a multiple of the four elements a draw serves
    torch.manual_seed(3)
    dropped = dropout(ones, probability, True)
    (gradient,) = torch.autograd.grad(dropped.sum(), ones)
    assert torch.equal(gradient, dropped)
    kept = dropped > 0
    assert dropped[kept].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-4)
    # Five standard deviations of the mean of half a million draws.
    tolerance = 5 * math.sqrt(probability * (1 - probability) / ones.numel())
    assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=tolerance)
    neighbours = (kept[:, 1:] == kept[:, :-1]).float().mean()
    assert float(neighbours) == pytest.approx(probability**2 + (1 - probability) ** 2, abs=0.005)
    torch.manual_seed(3)
    assert torch.equal(dropout(ones, probability, True), dropped)
    assert dropout(ones, probability, False) is ones


def test_half_precision_scores_are_scaled_in_float32() -> None:
    values = torch.randn(17, generator=torch.Generator().manual_seed(1)).bfloat16()
    query, key = torch.eye(17).bfloat16().view(1, 1, 17, 17), values.diag().view(1, 1, 17, 17)
    scores = attention_scores(query, key, CAUSAL_MASK)
    assert torch.equal(scores[0, 0].diagonal(), (values.double() * 17**-0.5).bfloat16())
