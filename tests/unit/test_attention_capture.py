"""Capture on a real, small model."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.models.attention_capture import capture_attention, observe_attention
from nmt_rela.models.transformer import Transformer


def small_model(attention: str = "rela-g") -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        11, 13, attention=attention, encoder_layers=2, decoder_layers=3, d_model=16, ffn_dim=16, num_heads=4
    ).eval()


SOURCE = torch.tensor([[4, 5, 6, 7, 2], [4, 5, 2, 0, 0]])
TARGET = torch.tensor([[5, 6, 2, 0], [7, 8, 9, 2]])


def test_weights_are_captured_by_site_and_layer_with_the_documented_shapes() -> None:
    model = small_model()
    with capture_attention(model) as attention:
        model(SOURCE, model.shift_right(TARGET))
    assert {key: tuple(weights.shape) for key, weights in attention.items()} == {
        **{("encoder", layer): (2, 4, 5, 5) for layer in range(2)},
        **{("decoder", layer): (2, 4, 4, 4) for layer in range(3)},
        **{("cross", layer): (2, 4, 4, 5) for layer in range(3)},
    }
    assert all(weights.dtype == torch.float32 and not weights.requires_grad for weights in attention.values())


@pytest.mark.parametrize("variant", ["softmax", "sparsemax", "entmax15", "rela-i", "rela-g"])
def test_padding_and_the_future_have_weight_zero(variant: str) -> None:
    model = small_model(variant)
    with capture_attention(model) as attention:
        model(SOURCE, model.shift_right(TARGET))
    assert (attention["cross", 1][1, :, :, 3:] == 0).all()
    assert (attention["encoder", 0][1, :, :, 3:] == 0).all()
    assert (attention["decoder", 2].triu(1) == 0).all()
    if not variant.startswith("rela"):
        torch.testing.assert_close(attention["cross", 0].sum(-1), torch.ones(2, 4, 4))


def test_capturing_does_not_change_the_output() -> None:
    model = small_model()
    plain = model(SOURCE, model.shift_right(TARGET))
    with capture_attention(model):
        watched = model(SOURCE, model.shift_right(TARGET))
    torch.testing.assert_close(watched, plain)


def test_the_last_pass_is_kept() -> None:
    model = small_model()
    with capture_attention(model) as attention:
        model(SOURCE, model.shift_right(TARGET))
        model(SOURCE[:1], model.shift_right(TARGET[:1, :3]))
    assert attention["cross", 0].shape == (1, 4, 3, 5)


def test_hooks_are_removed_also_after_an_exception_and_others_stay() -> None:
    model = small_model()
    hook_pattern = model.attention_modules()["cross", 0].hook_pattern
    own = hook_pattern.register_forward_hook(lambda _module, _inputs, _weights: None)
    with pytest.raises(RuntimeError, match="stop"), capture_attention(model):
        raise RuntimeError("stop")
    assert not model.attention_modules()["encoder", 1].hook_pattern.is_active
    assert hook_pattern.is_active
    own.remove()
    assert not hook_pattern.is_active


def test_observing_streams_every_layer_in_order() -> None:
    model = small_model()
    seen: list[tuple[str, int]] = []
    with observe_attention(model, lambda site, layer, weights: seen.append((site, layer))):
        model(SOURCE, model.shift_right(TARGET))
    assert seen == [
        ("encoder", 0), ("encoder", 1),
        ("decoder", 0), ("cross", 0), ("decoder", 1), ("cross", 1), ("decoder", 2), ("cross", 2),
    ]  # fmt: skip
