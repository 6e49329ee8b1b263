"""The probe of attention: what is measured of weights, and of a run as a whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from tools import attention_probe
from tools.attention_probe import LayerProbe, attention_residuals, probe

from nmt_rela.data.prepared_data import EvaluationSet
from nmt_rela.models.transformer import ATTENTION_SITES, Transformer
from tests.integration.small_run import write_run, write_text


def test_measures_of_weights_by_hand() -> None:
    # One sentence, one head, three queries over four keys of which the last is padding.
    weights = torch.tensor([[[[3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [19.0, 1.0, 0.0, 0.0]]]])
    valid = torch.tensor([[[True, True, True, False]] * 3])
    layer = LayerProbe(gate=torch.tensor([2.0, -1.0]))
    layer.add_weights(weights, valid)
    heads = torch.tensor([[[3.0, 3.0], [-3.0, 3.0], [1.0, 5.0]]])
    layer.keep_heads(torch.nn.Identity(), (heads,))
    heads.zero_()  # as a norm may
    layer.add_branch(torch.full((1, 3, 2), 2.0), torch.full((1, 3, 2), 1.0))
    found = layer.result()
    assert found["mass"] == pytest.approx(24 / 3)
    assert found["mass_by_visible_keys"] == {"1-4": pytest.approx(24 / 3)}
    # All rows see three keys, so that their common mean is 8.
    assert found["mass_spread"] == pytest.approx(math.sqrt((4**2 + 8**2 + 12**2) / 3) / 8, abs=1e-5)
    entropies = [torch.special.entr(torch.tensor(row)).sum() for row in ([0.75, 0.25], [0.95, 0.05])]
    assert found["effective_keys"] == pytest.approx(sum(float(each.exp()) for each in entropies) / 2, abs=1e-5)
    assert found["weak_weights"] == pytest.approx(
        0.05 / 2, abs=1e-5
    )  # only 0.05 lies below a tenth of its row's largest
    assert found["null_rows"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["dead_keys"] == pytest.approx(1 / 3, abs=1e-5)  # the third key; padding is none
    assert found["head_scale"] == pytest.approx(math.sqrt((4 * 9 + 1 + 25) / 6), abs=1e-5)
    assert found["hard_gates"] == pytest.approx(3 / 6)  # of ±6, -3 and 2, -5
    assert found["branch"] == pytest.approx(0.5)


def layer_of(weights: torch.Tensor, valid: torch.Tensor) -> dict[str, Any]:
    layer = LayerProbe(gate=None)
    layer.add_weights(weights, valid)
    layer.keep_heads(torch.nn.Identity(), (torch.ones(*valid.shape[:2], 2),))
    layer.add_branch(torch.ones(*valid.shape[:2], 2), torch.ones(*valid.shape[:2], 2))
    return layer.result()


def test_rows_are_grouped_by_the_keys_they_see() -> None:
    found = layer_of(torch.ones(1, 2, 6, 6).tril(), torch.ones(1, 6, 6, dtype=torch.bool).tril())
    assert found["mass_by_visible_keys"] == {"1-4": pytest.approx(2.5), "5-8": pytest.approx(5.5)}
    assert found["mass_spread"] == 0  # rows that see as many keys are alike


def test_rows_of_padding_count_nowhere() -> None:
    # The second query is padding; its row is not 0, since only keys are masked.
    valid = torch.tensor([[[True, True], [False, False]]])
    found = layer_of(torch.tensor([[[[1.0, 0.0], [0.0, 9.0]]]]), valid)
    assert found["dead_keys"] == 0.5
    assert (found["mass"], found["effective_keys"], found["null_rows"]) == (1, 1, 0)


def test_a_head_without_any_weight_has_no_spread() -> None:
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    assert layer_of(torch.zeros(1, 1, 2, 2), valid)["mass_spread"] is None
    weights = torch.stack([torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [3.0, 0.0]])])[None]
    assert layer_of(weights, valid)["mass_spread"] == pytest.approx(0.5)


@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_the_branch_of_a_site_is_the_output_of_its_attention(norm_order: Literal["pre", "post"]) -> None:
    torch.manual_seed(1)
    model = Transformer(
        9, 9, encoder_layers=2, decoder_layers=2, d_model=8, ffn_dim=8, num_heads=2, norm_order=norm_order
    )
    seen: dict[tuple[str, int], list[torch.Tensor]] = {key: [] for key in model.attention_modules()}
    for key, attention in model.attention_modules().items():
        attention.register_forward_hook(lambda _, __, output, found=seen[key]: found.append(output[0]))
    for key, connection in attention_residuals(model.eval()):
        connection.register_forward_pre_hook(lambda _, inputs, found=seen[key]: found.append(inputs[1]))
    model(torch.tensor([[4, 5, 6]]), torch.tensor([[4, 5]]))
    assert len(seen) == 6
    for output, update in seen.values():
        assert output is update


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A run of softmax and one of rela-g; the numbers that are kept go to ``tmp_path``."""
    source, target, _ = write_text(tmp_path)
    dev = EvaluationSet(name="dev", source=source, target=target, bleu_tokenizer="13a", gold_alignments=None)
    monkeypatch.setattr(attention_probe, "load_prepared", lambda _: SimpleNamespace(dev=dev))
    monkeypatch.setattr(attention_probe, "MEASUREMENTS", tmp_path)
    return [write_run(tmp_path / attention, attention=attention).path for attention in ("softmax", "rela-g")]


def test_a_run_is_measured_by_site_and_layer(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    softmax, rela = (probe(run, sentences=2) for run in runs)
    assert softmax["sentences"] == 2
    assert [(layer["site"], layer["layer"]) for layer in softmax["layers"]] == [
        (site, layer) for site in ATTENTION_SITES for layer in (0, 1)
    ]
    for layer in softmax["layers"]:
        assert layer["mass"] == pytest.approx(1)
        assert layer["null_rows"] == layer["dead_keys"] == 0
        assert layer["branch"] > 0
        assert layer["head_scale"] > 0
        assert layer["hard_gates"] is None
    assert all(0 <= layer["hard_gates"] <= 1 for layer in rela["layers"])
    assert any(layer["dead_keys"] > 0 for layer in rela["layers"])

    options = ["--sentences", "2", "--to", "kept", "--plot", str(tmp_path / "scale.png")]
    monkeypatch.setattr("sys.argv", ["attention_probe", *map(str, runs), *options])
    assert attention_probe.main() == 0
    assert json.loads((tmp_path / "kept" / "rela-g.json").read_text("utf-8")) == rela
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_untrained_models_have_the_settings_of_the_run_but_the_attention(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["attention_probe", str(runs[0]), "--untrained", "softmax,rela-i", "--to", "kept"])
    assert attention_probe.main() == 0
    softmax, rela = (
        json.loads((tmp_path / "kept" / f"{name}-untrained.json").read_text("utf-8")) for name in ("softmax", "rela-i")
    )
    assert (rela["attention"], rela["checkpoint"]) == ("rela-i", "untrained")
    assert softmax["layers"] == probe(runs[0], sentences=300)["layers"]  # whose weights are drawn with the same seed
    assert rela["layers"][0]["branch"] < softmax["layers"][0]["branch"]  # the gain of rela-i starts near 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "kept", "--sentences", "0"], "--sentences"),
        (["--to", "other"], "--to other: holds records of another kind"),
        (["--to", "kept", "--plot", "scale"], "accepted: names that end in .png, .svg or .pdf"),
        (["RUN", "--to", "kept"], "the names of the runs"),
        (["RUN", "--to", "kept", "--untrained", "softmax"], "--untrained takes the settings of one run"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.json").write_text('{"validations": []}', "utf-8")
    given = [str(runs[0]) if each == "RUN" else each for each in arguments]
    monkeypatch.setattr("sys.argv", ["attention_probe", str(runs[0]), *given])
    with pytest.raises(SystemExit) as end:
        attention_probe.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
