"""Packed linear layers: float32 and bf16 change nothing, int8 rounds each row by itself."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_translator import sentences, toy_model, toy_run

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.generation.device import Precision, prepare_for_inference
from nmt_rela.generation.options import AlignmentOptions
from nmt_rela.generation.translator import Translator
from nmt_rela.kernels.availability import supports_packed_linear
from nmt_rela.kernels.cpu.packed_linear import DynamicInt8Linear
from nmt_rela.utils.errors import ConfigError

needs_packed = pytest.mark.skipif(not supports_packed_linear(torch.float32), reason="PyTorch without oneDNN")
needs_bf16 = pytest.mark.skipif(not supports_packed_linear(torch.bfloat16), reason="no bf16 products on this CPU")
needs_int8 = pytest.mark.skipif(not supports_packed_linear(torch.int8), reason="no int8 products on this CPU")


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_packed
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@torch.no_grad()
def test_a_packed_model_gives_the_same_logits(variant: str) -> None:
    model = toy_model(attention=variant)
    packed = copy.deepcopy(model)
    prepare_for_inference(packed, "float32", torch.device("cpu"))
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    source, target = torch.randint(4, 90, (3, 7)), torch.randint(4, 90, (3, 5))
    torch.testing.assert_close(packed(source, target), model(source, target))


@needs_bf16
@torch.no_grad()
def test_bf16_packed_is_bf16() -> None:
    model = toy_model().to(torch.bfloat16)
    packed = copy.deepcopy(model)
    prepare_for_inference(packed, "bf16", torch.device("cpu"))
    source, target = torch.randint(4, 90, (3, 7)), torch.randint(4, 90, (3, 5))
    left, right = packed(source, target), model(source, target)
    assert left.dtype == torch.bfloat16
    torch.testing.assert_close(left, right, atol=0.15, rtol=0.05)


@needs_int8
@torch.no_grad()
def test_int8_equals_the_matmul_of_rounded_numbers() -> None:
    weight, bias, x = (
        numbers(24, 16),
        numbers(24, seed=2),
        numbers(5, 16, seed=3) * torch.tensor([[1e-3, 1, 9, 0, 40]]).T,
    )
    found = DynamicInt8Linear(weight, bias)(x)
    rows = [(127 * row / largest).round() * largest / 127 for row in weight.double() for largest in [row.abs().max()]]
    exact = nn.functional.linear(x.double(), weight.double(), bias.double())
    for row, result, wanted in zip(x.double(), found, exact, strict=True):
        largest = row.abs().max().clamp(min=1e-30)
        # On CPUs without VNNI half as many levels.
        candidates = [
            torch.stack(rows) @ ((levels * row / largest).round() * largest / levels) + bias.double()
            for levels in (127, 63)
        ]
        errors = [float((result - candidate).abs().max() / wanted.abs().max()) for candidate in candidates]
        assert min(errors) < 1e-5
    torch.testing.assert_close(found[3], bias)  # of a row of zeros
    assert float((found - exact).norm() / exact.norm()) < 0.02


@needs_int8
@torch.no_grad()
def test_int8_rows_do_not_depend_on_one_another() -> None:
    layer, x = DynamicInt8Linear(numbers(40, 16), None), numbers(3, 7, 16, seed=4)
    whole = layer(x)
    for row in range(3):
        assert torch.equal(layer(x[row : row + 1]), whole[row : row + 1])


@needs_packed
@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=needs_int8)])
def test_copies_use_the_same_packed_weights_until_they_are_changed(precision: Precision) -> None:
    model = prepare_for_inference(toy_model(), precision, torch.device("cpu"))
    copied = copy.deepcopy(model)
    assert copied.packed_output_projection is model.packed_output_projection
    hidden_states = torch.randn(3, model.output_embedding.shape[1])
    wanted = model.output_projection(hidden_states)
    assert torch.equal(copied.output_projection(hidden_states), wanted)
    with torch.no_grad():
        copied.output_embedding.mul_(2.0)
    assert torch.equal(copied.output_projection(hidden_states), 2.0 * wanted)
    assert torch.equal(model.output_projection(hidden_states), wanted)


@needs_int8
def test_a_translator_in_int8(tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run")
    translator = Translator.load(run, precision="int8", device="cpu")
    lines = sentences(9, seed=5)
    joint = translator.translate(lines)
    assert [translator.translate([line])[0].text for line in lines] == [one.text for one in joint]
    assert translator.translate(lines[:2], alignment=AlignmentOptions())[0].hypotheses[0].alignment is not None


def test_int8_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"precision: found 'int8'.*--device cpu"):
        prepare_for_inference(toy_model(), "int8", torch.device("cuda"))
