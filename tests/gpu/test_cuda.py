"""On a GPU: the same weights, the same updates, the same translations as on the CPU, within the precision asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.commands import train, translate
from nmt_rela.models.transformer import Transformer
from tests.digits import write_digits

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@torch.no_grad()
def test_the_decoder_states_are_those_of_the_cpu(variant: str) -> None:
    torch.manual_seed(1)
    model = Transformer(50, 50, attention=variant, encoder_layers=2, decoder_layers=2, d_model=64, num_heads=4).eval()
    source, target = torch.randint(4, 50, (8, 17)), torch.randint(4, 50, (8, 15))
    source[3, 9:] = 0
    expected = model(source, model.shift_right(target))
    model.cuda()
    actual = model(source.cuda(), model.shift_right(target.cuda()))
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_copying_is_learned(variant: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_digits(tmp_path, reverse=False, variant=variant)
    settings = ["training.device=cuda", f"training.precision={precision}", "training.max_updates=600"]
    assert train.main(["--config", str(config), "--quiet", *settings]) == 0
    capsys.readouterr()
    given = ["--model", str(tmp_path / "run"), "--input", str(tmp_path / "test.plain"), "--device", "cuda", "--quiet"]
    assert translate.main(given) == 0
    outputs = capsys.readouterr().out.split("\n")[:-1]
    references = (tmp_path / "test.turned").read_text(encoding="utf-8").split("\n")[:-1]
    assert sum(o == r for o, r in zip(outputs, references, strict=True)) > 0.97 * len(references)
