"""On a GPU: the same weights, the same updates, the same translations as on the CPU, within the precision asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nmt_rela.attention.backends import attend
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


@pytest.mark.parametrize(
    ("variant", "precision"),
    [*((variant, "bf16") for variant in ATTENTION_VARIANTS), ("rela-g", "fp16"), ("rela-g", "float32")],
)
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


def test_softmax_drops_a_tenth_of_the_weights_in_bf16_without_cudnn() -> None:
    """cuDNN's attention would round the probability to a multiple of 1/16; PyTorch's own rounds it to one of 1/256."""
    torch.manual_seed(0)
    torch.backends.cuda.enable_cudnn_sdp(True)
    query, key = torch.zeros(2, 16, 8, 512, 64, device="cuda", dtype=torch.bfloat16).unbind()
    value = torch.zeros_like(key)
    value[:, :, :64] = 512 * torch.eye(64, device="cuda")  # the output is then 64 of the 512 weights of each query
    z = attend(ATTENTION_VARIANTS["softmax"], query, key, value, None, dropout=0.1)
    rate = (z == 0).double().mean().item()
    assert rate == pytest.approx(0.1, abs=1 / 256 + 6 * (0.1 * 0.9 / z.numel()) ** 0.5)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
