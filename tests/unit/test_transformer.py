"""The Transformer: shapes, padding, positions, sharing, and the decoder one token at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.models.embedding import TokenEmbedding, sinusoidal_positions
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer

SMALL: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 16, "ffn_dim": 32, "num_heads": 4}
PAD, BOS = 0, 3


def small_model(**changes: Any) -> Transformer:
    torch.manual_seed(7)
    return Transformer(40, 50, **{**SMALL, **changes}).eval()


def sentences(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    return torch.randint(4, vocabulary, (rows, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("start", ["bos", "zero"])
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@torch.no_grad()
def test_step_by_step_gives_the_logits_of_the_whole_target(variant: str, norm: str, start: str) -> None:
    model = small_model(attention=variant, norm_order=norm, decoder_start=start, embedding_bias=True)
    source, target = sentences(3, 6, 40), sentences(3, 7, 50)
    source[1, 4:] = PAD
    memory = model.encode(source)
    shifted = model.shift_right(target)
    whole = model.output_projection(model.decode(shifted, memory))
    state = IncrementalDecoder(model, memory, num_beams=2, max_length=7)
    steps = [state.step(shifted[:, i : i + 1].expand(3, 2)) for i in range(7)]
    for beam in range(2):
        torch.testing.assert_close(torch.stack(steps, dim=2)[:, beam], whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_beams_reorder_and_sentences_leave_as_if_decoded_from_scratch() -> None:
    model = small_model()
    source = sentences(3, 6, 40)
    source[0, 3:] = PAD
    state = IncrementalDecoder(model, model.encode(source), num_beams=2, max_length=5)
    prefixes = torch.full((3, 2, 1), BOS)
    state.step(prefixes[:, :, -1])
    order = torch.tensor([[1, 1], [0, 1], [1, 0]])
    for step in range(3):
        token = torch.arange(4 + 6 * step, 10 + 6 * step).view(3, 2)[: len(prefixes)]
        prefixes = torch.cat([prefixes, token[..., None]], dim=2)
        logits = state.step(token)
        for row, sentence in enumerate(range(3 - len(prefixes), 3)):
            memory = model.encode(source[sentence : sentence + 1])
            for beam in range(2):
                expected = model.output_projection(model.decode(prefixes[row, beam][None], memory))[0, -1]
                torch.testing.assert_close(logits[row, beam], expected, atol=1e-5, rtol=1e-4)
        state.reorder(order)
        prefixes = prefixes.gather(1, order[..., None].expand_as(prefixes))
        if step == 1:
            state.select_sentences(torch.tensor([1, 2]))
            prefixes, order = prefixes[1:], order[1:]


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@torch.no_grad()
def test_padding_of_either_side_changes_nothing(variant: str) -> None:
    model = small_model(attention=variant)
    source, target = sentences(2, 5, 40), sentences(2, 6, 50)
    plain = model(source, model.shift_right(target))
    padded_source = torch.nn.functional.pad(source, (0, 4), value=PAD)
    padded_target = torch.nn.functional.pad(model.shift_right(target), (0, 3), value=PAD)
    torch.testing.assert_close(model(padded_source, padded_target)[:, :6], plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_target_token_does_not_see_those_after_it() -> None:
    model = small_model()
    source, shifted = sentences(1, 5, 40), sentences(1, 6, 50)
    changed = shifted.clone()
    changed[0, 4:] = 9
    before, after = model(source, shifted), model(source, changed)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


@torch.no_grad()
def test_ids_of_padding_and_of_the_first_token_are_arguments() -> None:
    model = small_model(pad_id=7, bos_id=2)
    source, target = torch.tensor([[4, 5, 6]]), torch.tensor([[8, 9, 1]])
    padded = torch.tensor([[4, 5, 6, 7, 7]])
    assert model.shift_right(target).tolist() == [[2, 8, 9]]
    torch.testing.assert_close(model(padded, model.shift_right(target)), model(source, model.shift_right(target)))


def test_each_site_has_its_own_variant() -> None:
    model = small_model(attention={"encoder": "softmax", "decoder": "entmax15", "cross": "rela-i"})
    variants = {site: module.variant for (site, _), module in model.attention_modules().items()}
    assert variants == {"encoder": "softmax", "decoder": "entmax15", "cross": "rela-i"}
    assert set(model.attention_modules()) == {(site, i) for site in variants for i in range(2)}


def test_tied_embeddings() -> None:
    def distinct(**changes: Any) -> int:
        model = Transformer(50, 50, **{**SMALL, **changes})
        return len({model.source_embedding.weight, model.target_embedding.weight, model.output_embedding})

    assert [distinct(tied_embeddings=t) for t in ("none", "target", "all")] == [3, 2, 1]
    with pytest.raises(ValueError, match="one vocabulary for both sides"):
        Transformer(40, 50, tied_embeddings="all", **SMALL)


def test_parameters_of_the_papers_base_model() -> None:
    with torch.device("meta"):
        model = Transformer(27_510, 27_510, attention="softmax", embedding_bias=True)
    # The paper's 72.31 M at 55,020 sub-words on the two sides together: six layers of each, the embeddings, one bias.
    assert sum(p.numel() for p in model.parameters()) == 6 * (3_152_384 + 4_204_032) + 512 * 55_020 + 512
    with torch.device("meta"):
        gated = Transformer(27_510, 27_510, attention="rela-g", embedding_bias=True)
    extra = sum(p.numel() for p in gated.parameters()) - sum(p.numel() for p in model.parameters())
    assert extra == 18 * 2 * 512


def test_embedding_is_scaled_positioned_and_grows() -> None:
    weight = torch.nn.Parameter(torch.randn(10, 8))
    embedding = TokenEmbedding(weight, bias=None, dropout=0.0)
    tokens = torch.tensor([[4, 5, 6]])
    expected = weight[4:7] * math.sqrt(8) + sinusoidal_positions(1003, 8)[1000:]
    torch.testing.assert_close(embedding.add_positions(embedding(tokens), offset=1000)[0], expected)
    unscaled = TokenEmbedding(weight, bias=None, dropout=0.0, scaled=False)
    torch.testing.assert_close(unscaled(tokens)[0], weight[4:7])
    model = Transformer(10, 10, d_model=8, num_heads=2, decoder_start="zero")
    assert not model.embed_target(tokens)[0, 0].any()
    torch.testing.assert_close(model.embed_target(tokens)[:, 1:], model.target_embedding(tokens)[:, 1:])
    torch.testing.assert_close(model.embed_target(tokens, offset=1), model.target_embedding(tokens))


def test_sinusoids_are_half_sine_half_cosine_from_wavelength_2pi_to_10000_times_that() -> None:
    signal = sinusoidal_positions(50, 6)
    for position in (0, 1, 49):
        rates = [1.0, 10_000**-0.5, 1e-4]
        expected = [math.sin(position * r) for r in rates] + [math.cos(position * r) for r in rates]
        torch.testing.assert_close(signal[position], torch.tensor(expected))
    assert sinusoidal_positions(3, 5).shape == (3, 5)


@pytest.mark.parametrize("width", [5, 6])
def test_positions_of_marian_are_those_of_the_paper_sines_first(width: int) -> None:
    angle = [[position * 10_000 ** (-2 * (i // 2) / width) for i in range(width)] for position in range(40)]
    expected = [[math.sin(a) for a in row[0::2]] + [math.cos(a) for a in row[1::2]] for row in angle]
    torch.testing.assert_close(sinusoidal_positions(40, width, "marian"), torch.tensor(expected))


def test_output_bias_activation_and_epsilon_are_where_they_belong() -> None:
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "num_heads": 2, "ffn_dim": 4}
    model = Transformer(10, 10, **sizes, output_bias=True, activation="swish", layer_norm_epsilon=0.5).eval()
    source, target = torch.tensor([[4, 5, 2]]), torch.tensor([[3, 6]])
    before = model(source, target)
    with torch.no_grad():
        model.output_bias.copy_(torch.arange(10.0))
    torch.testing.assert_close(model(source, target), before + torch.arange(10.0))
    block = model.encoder[0].feed_forward
    x = torch.randn(3, 8)
    torch.testing.assert_close(block(x), block.fc2(torch.nn.functional.silu(block.fc1(x))))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {0.5}
