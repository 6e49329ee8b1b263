"""Heads that are switched off, their ranking, and the rise of the loss."""

from __future__ import annotations

import pytest
import torch

from nmt_rela.analysis.head_ablation import ablate_heads, measure_heads, rank_heads, reference_loss
from nmt_rela.analysis.statistics import AttentionStatistics, LayerStatistics
from nmt_rela.analysis.teacher_forcing import EncodedPair, teacher_forced_pass
from nmt_rela.models.transformer import Transformer

PAIRS = [
    EncodedPair(0, (4, 5, 6, 2), (5, 6, 2)),
    EncodedPair(1, (7, 2), (8, 9, 10, 11, 2)),
    EncodedPair(2, (5, 5, 5, 5, 5, 2), (2,)),
]


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        11, 13, attention="rela-g", encoder_layers=1, decoder_layers=2, d_model=16, ffn_dim=16, num_heads=4
    ).eval()


def statistics_of(model: Transformer) -> list[LayerStatistics]:
    statistics = AttentionStatistics()
    teacher_forced_pass(model, PAIRS, [statistics])
    return statistics.layers()


def test_a_switched_off_head_equals_a_head_with_zero_values(model: Transformer) -> None:
    source, target = torch.tensor([PAIRS[0].source]), torch.tensor([PAIRS[0].target])
    module = model.attention_modules()["cross", 1]
    with ablate_heads(model, [("cross", 1, 2)]):
        masked = model(source, model.shift_right(target))
    with torch.no_grad():
        module.kv_proj.weight[16 + 8 : 16 + 12] = 0  # the values of head 2
        module.kv_proj.bias[16 + 8 : 16 + 12] = 0
    torch.testing.assert_close(masked, model(source, model.shift_right(target)))


def test_blocks_nest_and_leave_no_hook(model: Transformer) -> None:
    hook_z = model.attention_modules()["encoder", 0].hook_z

    def silenced() -> list[bool]:
        return [bool((head == 0).all()) for head in hook_z(torch.ones(1, 1, 4, 4)).unbind(2)]

    with ablate_heads(model, [("encoder", 0, 0)]):
        with ablate_heads(model, [("encoder", 0, 3)]):
            assert silenced() == [True, False, False, True]
        assert silenced() == [True, False, False, False]
    assert not hook_z.is_active
    with (
        pytest.raises(ValueError, match="no head 4 at encoder layer 0"),
        ablate_heads(model, [("encoder", 0, 4)]),
    ):
        pass
    assert not hook_z.is_active


def test_heads_are_ranked_and_ablated_in_that_order(model: Transformer) -> None:
    layers = statistics_of(model)
    ranking = rank_heads(layers)
    assert len(ranking) == len(set(ranking)) == 20
    rates = {(x.site, x.layer, h): (x.null_rate[h], x.sparsity[h]) for x in layers for h in range(4)}
    assert [rates[head] for head in ranking] == sorted(rates.values(), reverse=True)

    study = measure_heads(model, PAIRS, layers, num_steps=4, bleu=lambda: 7.0)
    assert study["loss"] == pytest.approx(reference_loss(model, PAIRS))
    assert [(e["site"], e["layer"], e["head"]) for e in study["effects"]] == ranking
    first = study["effects"][0]
    with ablate_heads(model, ranking[:1]):
        assert first["loss_change"] == pytest.approx(reference_loss(model, PAIRS) - study["loss"], abs=1e-6)
    assert [step["heads_off"] for step in study["steps"]] == [0, 5, 10, 15, 20]
    assert study["steps"][0]["loss"] == pytest.approx(study["loss"])
    assert {step["bleu"] for step in study["steps"]} == {7.0}


def test_a_head_of_null_rows_can_be_removed_without_loss(model: Transformer) -> None:
    module = model.attention_modules()["decoder", 0]
    with torch.no_grad():  # head 1: equal queries and opposite keys, so that every score is negative
        for start, value in ((4, 1.0), (20, -1.0)):
            module.qkv_proj.weight[start : start + 4] = 0
            module.qkv_proj.bias[start : start + 4] = value
    layers = statistics_of(model)
    assert rank_heads(layers)[0] == ("decoder", 0, 1)
    with ablate_heads(model, [("decoder", 0, 1)]):
        without = reference_loss(model, PAIRS)
    assert without == reference_loss(model, PAIRS)
