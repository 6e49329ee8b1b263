"""The loss of guided alignment against its definition, in float64 and by other means than the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import ROW_ORACLES
from torch import Tensor

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.data.data_loader import Batch, pad_sequences
from nmt_rela.data.tokenizer import PAD
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.models.transformer import Transformer
from nmt_rela.training.guided_alignment import GuidedHeads, alignment_loss, guided_scores
from nmt_rela.training.objective import TranslationObjective

SHAPE = (2, 3, 4, 5)  # sentences, heads, target length, source length
#: Rows with one link, two links and none; the last key of sentence 1 is masked.
LINKS = [(0, 0, 0), (0, 1, 2), (0, 1, 4), (0, 3, 1), (1, 0, 3), (1, 2, 0), (1, 2, 1)]
FLAT = torch.tensor([(b * SHAPE[2] + t) * SHAPE[3] + s for b, t, s in LINKS])
Row = NDArray[np.float64]

#: Ω of each weight function.
NEGENTROPY = {
    "softmax": lambda w: sum(x * np.log(x) for x in w if x > 0),
    "sparsemax": lambda w: sum(x * x for x in w) / 2,
    "entmax15": lambda w: sum(x * np.sqrt(x) for x in w) * 4 / 3,
    "rela-i": lambda w: sum(x * x for x in w) / 2,
    "rela-g": lambda w: sum(x * x for x in w) / 2,
}


def masked_scores(scale: float = 2.0) -> Tensor:
    scores = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * scale
    scores[1, ..., 4] = torch.finfo(torch.float32).min
    return scores


def loss_of(variant: str, scores: Tensor, **options: Any) -> Tensor:
    return alignment_loss(ATTENTION_VARIANTS[variant].weight_fn, scores, FLAT, **options)


def row_loss(variant: str, scores: Row, q: Row) -> float:
    weights = ROW_ORACLES[variant](scores)
    omega = NEGENTROPY[variant]

    if not variant.startswith("rela"):
        return float(omega(q) - q @ scores + weights @ scores - omega(weights))
    scale = np.linspace(1, 20, 200_001)  # of the links; Ω is quadratic
    return float(np.min(scale * omega(q) - q @ scores + (weights @ scores - omega(weights)) / scale))


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_the_loss_is_its_definition_row_by_row(variant: str) -> None:
    scores, weights = masked_scores(), np.array([1.0, 0.25])
    expected = 0.0
    for b, t in {(b, t) for b, t, _ in LINKS}:
        keys = 5 - b  # the visible ones
        q = np.array([float((b, t, s) in LINKS) for s in range(keys)])
        rows = scores[b, :, t, :keys].numpy()
        expected += weights[b] * np.mean([row_loss(variant, row, q / q.sum()) for row in rows])
    assert loss_of(variant, scores, sentence_weights=torch.tensor(weights)).item() == pytest.approx(expected, rel=1e-9)


def test_for_softmax_it_is_the_divergence_of_the_weights_from_the_links() -> None:
    q = torch.zeros(2, 1, 4, 5, dtype=torch.float64)
    for b, t, s in LINKS:
        q[b, 0, t, s] = 1.0
    q = q / q.sum(dim=-1, keepdim=True).clamp(min=1.0)
    divergence = torch.nn.functional.kl_div(masked_scores().log_softmax(dim=-1), q.expand(SHAPE), reduction="sum") / 3
    torch.testing.assert_close(loss_of("softmax", masked_scores()), divergence)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_gradients_are_those_of_finite_differences(variant: str) -> None:
    scores = masked_scores()
    scores[0, :, 0] = -scores[0, :, 0].abs()  # null rows of ReLA

    def loss(visible: Tensor) -> Tensor:
        return loss_of(variant, torch.where(scores > -1e9, visible, scores))

    assert torch.autograd.gradcheck(loss, torch.where(scores > -1e9, scores, 0.0).requires_grad_())


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_masked_keys_and_rows_without_links_have_no_gradient(variant: str) -> None:
    scores = masked_scores().float().requires_grad_()
    loss_of(variant, scores).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[1, ..., 4].any()
    assert not scores.grad[0, :, 2].any()
    assert not scores.grad[1, :, 1].any()


def test_a_null_row_is_penalized_until_its_linked_keys_have_weight() -> None:
    scores = torch.full((1, 1, 1, 3), -5.0, requires_grad=True)
    links = torch.tensor([1])
    relu = ATTENTION_VARIANTS["rela-g"].weight_fn
    first = alignment_loss(relu, scores, links).item()
    assert first == pytest.approx(5.5)
    optimizer = torch.optim.SGD([scores], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        alignment_loss(relu, scores, links).backward()
        optimizer.step()
    weights = relu(scores).detach().flatten().tolist()
    assert weights[0] == weights[2] == 0.0
    assert weights[1] > 1 - 1e-3
    assert alignment_loss(relu, scores, links).item() < 1e-6


def test_rows_of_rela_learn_the_links_at_the_scale_that_they_have() -> None:
    relu, links = ATTENTION_VARIANTS["rela-i"].weight_fn, torch.tensor([0, 2])
    for scale in (1.0, 15.0):
        scores = scale * torch.tensor([[[[0.5, -3.0, 0.5]]]])
        assert alignment_loss(relu, scores, links).item() == pytest.approx(0.0, abs=1e-5)
    short = torch.tensor([[[[0.25, -3.0, 0.25]]]], requires_grad=True)
    alignment_loss(relu, short, links).backward()
    torch.testing.assert_close(short.grad, torch.tensor([[[[-0.25, 0.0, -0.25]]]]))
    long = torch.tensor([[[[30.0, -3.0, 40.0]]]], requires_grad=True)
    alignment_loss(relu, long, links).backward()
    torch.testing.assert_close(
        long.grad, torch.tensor([[[[30.0, 0.0, 40.0]]]]) / (50 * 2**0.5) - short.new_tensor([0.5, 0.0, 0.5])
    )


def guided_model(variant: str) -> Transformer:
    torch.manual_seed(1)
    return Transformer(
        19, 19, attention=variant, encoder_layers=1, decoder_layers=2, d_model=16, ffn_dim=16, num_heads=4, dropout=0.0,
        embedding_dropout=0.0, attention_dropout=0.5, ffn_dropout=0.0,
    )  # fmt: skip


def guided_batch(sources: list[list[int]], targets: list[list[int]], links: list[tuple[int, int, int]]) -> Batch:
    source, target = pad_sequences(sources), pad_sequences(targets)
    flat = [(b * target.shape[1] + t) * source.shape[1] + s for b, t, s in links]
    return Batch(
        source=source, target=target, target_positions=(target.flatten() != PAD).nonzero()[:, 0],
        indices=np.arange(len(sources)), source_tokens=sum(map(len, sources)), target_tokens=sum(map(len, targets)),
        links=torch.tensor(flat, dtype=torch.int64),
    )  # fmt: skip


SOURCES, TARGETS = [[5, 6, 7, 2], [8, 9, 2]], [[11, 12, 2], [12, 13, 14, 15, 2]]
OF_PAIR = [[(0, 0, 1), (0, 1, 0)], [(0, 3, 1)]]


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_the_guided_scores_are_those_of_the_weights_before_dropout(variant: str) -> None:
    model, seen = guided_model(variant).train(), list[Tensor]()
    module = model.attention_modules()["cross", 1]
    source, target = pad_sequences(SOURCES), pad_sequences(TARGETS)
    with capture_attention(model) as captured, guided_scores(module, 2, seen):
        model.decode(target, model.encode(source))
    (scores,) = seen
    torch.testing.assert_close(ATTENTION_VARIANTS[variant].weight_fn(scores), captured["cross", 1][:, :2])


@pytest.mark.parametrize("normalization", ["tokens", "sentences"])
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_the_loss_of_a_batch_is_the_sum_over_its_pairs(variant: str, normalization: Any) -> None:
    objective = TranslationObjective(
        guided_model(variant).eval(), label_smoothing=0.1, normalization=normalization, guided=GuidedHeads(1, 2)
    )
    both = [(b, t, s) for b, of_pair in enumerate(OF_PAIR) for _, t, s in of_pair]
    _, _, whole = objective(guided_batch(SOURCES, TARGETS, both))
    parts = [objective(guided_batch([SOURCES[i]], [TARGETS[i]], OF_PAIR[i]))[2] for i in (0, 1)]
    torch.testing.assert_close(whole, parts[0] + parts[1])
    assert whole > 0
    assert objective(guided_batch(SOURCES, TARGETS, []))[2] == 0


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_bfloat16_gives_the_gradient_of_float32(variant: str) -> None:
    model = guided_model(variant).eval()
    objective = TranslationObjective(model, label_smoothing=0.1, guided=GuidedHeads(1, 1))
    projection = model.attention_modules()["cross", 1].q_proj.weight
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            *_, loss = objective(guided_batch(SOURCES, TARGETS, [(0, 0, 1), (1, 3, 1)]))
        (gradient,) = torch.autograd.grad(loss, projection)
        gradients.append(gradient)
    assert gradients[0].any()
    assert (gradients[1] - gradients[0]).norm() < 0.15 * gradients[0].norm()
