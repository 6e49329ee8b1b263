"""Exported models: the same numbers and words from CTranslate2, the same weights from safetensors, refusals in full."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_translator import sentences, toy_run, toy_tokenizers, varied_run

from nmt_rela import Translator
from nmt_rela.checkpoints.run_directory import RunDirectory, build_model
from nmt_rela.commands import export
from nmt_rela.config.schema import AttentionBySite, ModelConfig
from nmt_rela.data.tokenizer import EOS
from nmt_rela.export.ctranslate2 import unsupported_reasons
from nmt_rela.utils.errors import CheckpointError

PIECES = {
    piece: i
    for i, piece in enumerate(toy_tokenizers().target.convert_ids_to_pieces(range(toy_tokenizers().target.size)))
}
LINES = sentences(30, seed=12, longest=9)
#: What CTranslate2 must be told for the search to be ours without a length penalty.
OPTIONS = {"disable_unk": True, "suppress_sequences": [["<pad>"], ["<s>"]], "length_penalty": 0}


@pytest.fixture
def ctranslate2() -> Any:
    return pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed: pip install -e '.[export]'")


@pytest.fixture
def safetensors() -> Any:
    return pytest.importorskip("safetensors", reason="safetensors is not installed: pip install -e '.[export]'")


def exported(run: RunDirectory, output: Path, form: str, *arguments: str) -> Path:
    assert export.main(["--model", str(run.path), "--format", form, "--output", str(output), *arguments]) == 0
    return output


def pieces(lines: list[str]) -> list[list[str]]:
    source = toy_tokenizers().source
    return [source.convert_ids_to_pieces(ids) for ids in source.encode(lines)]


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_order": "post", "tied_embeddings": "none"},
        {"norm_order": "pre", "tied_embeddings": "all"},
        {"norm_order": "post", "tied_embeddings": "target", "embedding_bias": True, "decoder_start": "zero"},
        {
            "activation": "swish",
            "output_bias": True,
            "positions": "marian",
            "layer_norm_epsilon": 1e-2,
            "scale_embeddings": False,
        },
    ],
    ids=["post-norm", "pre-norm, tied", "embedding bias, zero start", "as Marian"],
)
def test_ctranslate2_gives_the_same_scores_and_tokens(
    tmp_path: Path, ctranslate2: Any, changes: dict[str, object]
) -> None:
    run = varied_run(tmp_path / "run", **changes)
    theirs = ctranslate2.Translator(str(exported(run, tmp_path / "out", "ctranslate2")), intra_threads=1)
    ours = Translator.load(run.path, device="cpu")

    for beam in (1, 4):
        translations = ours.translate(LINES, beam_size=beam, length_penalty=0.0)
        assert len({translation.text for translation in translations}) > 10
        for line, translation in zip(pieces(LINES), translations, strict=True):
            longest = len(line) + 1 + ours.options.max_length_offset
            (found,) = theirs.translate_batch([line], beam_size=beam, max_decoding_length=longest, **OPTIONS)
            assert found.hypotheses[0] == [token for token in translation.hypotheses[0].tokens if token != "</s>"]

    scored = theirs.score_batch(pieces(LINES), pieces(LINES[::-1]))
    for score, own in zip(scored, ours.score(LINES, LINES[::-1]), strict=True):
        assert score.tokens == list(own.tokens)
        assert score.log_probs == pytest.approx(own.token_log_probabilities, abs=1e-4)


def test_ctranslate2_aligns_words_by_the_same_layer(tmp_path: Path, ctranslate2: Any) -> None:
    run = varied_run(tmp_path / "run")
    theirs = ctranslate2.Translator(str(exported(run, tmp_path / "out", "ctranslate2")), intra_threads=1)
    line = pieces(LINES[:1])[0]
    (found,) = theirs.translate_batch([line], beam_size=1, return_attention=True, max_decoding_length=8, **OPTIONS)
    target = [PIECES[piece] for piece in found.hypotheses[0]]
    model = run.load_model()
    weights: list[torch.Tensor] = []
    hook_pattern = model.attention_modules()["cross", 1].hook_pattern  # of three layers, the one at five sixths
    hook_pattern.register_forward_hook(lambda _module, _inputs, pattern: weights.append(pattern))
    with torch.no_grad():
        source = torch.tensor([[PIECES[piece] for piece in line] + [EOS]])
        model(source, model.shift_right(torch.tensor([[*target, EOS]])))
    expected = weights[0][0].mean(dim=0)[: len(target), : len(line)]
    assert torch.allclose(torch.tensor(found.attention)[:, : len(line)], expected, atol=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "float16"])
def test_ctranslate2_models_may_be_smaller(tmp_path: Path, ctranslate2: Any, quantization: str) -> None:
    run = varied_run(tmp_path / "run")
    sizes = []
    for quantization_type in ("float32", quantization):
        folder = exported(run, tmp_path / quantization_type, "ctranslate2", "--quantization", quantization_type)
        sizes.append((folder / "model.bin").stat().st_size)
        assert ctranslate2.Translator(str(folder), intra_threads=1).translate_batch(pieces(LINES[:2]), **OPTIONS)
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("form", ["ctranslate2", "safetensors"])
def test_the_readme_of_an_export_works(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, form: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    request.getfixturevalue(form)
    folder = exported(varied_run(tmp_path / "run"), tmp_path / "out", form)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text(code.replace("One sentence in the source language.", LINES[0]), encoding="utf-8")
    monkeypatch.chdir(folder)
    runpy.run_path(str(script))
    assert capsys.readouterr().out.strip()


def test_every_unsupported_reason_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unsupported_reasons(ModelConfig(attention="softmax", embedding_bias=True, decoder_start="zero")) == []
    mixed = AttentionBySite(encoder="softmax", decoder="sparsemax", cross="rela-i")
    reasons = unsupported_reasons(ModelConfig(attention=mixed))
    assert [reason.split(" uses")[0].split(" has")[0] for reason in reasons] == [
        "self-attention of the decoder", "cross-attention", "cross-attention",
    ]  # fmt: skip
    run = toy_run(tmp_path / "run")  # rela-g
    output = tmp_path / "out"
    assert export.main(["--model", str(run), "--format", "ctranslate2", "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for site in ("self-attention of the encoder", "self-attention of the decoder", "cross-attention"):
        assert f"{site} uses rela-g" in message
        assert f"{site} has a norm" in message
    assert not output.exists()


@pytest.mark.parametrize("attention", ["softmax", "rela-g", "entmax15"])
def test_safetensors_are_the_same_weights(tmp_path: Path, safetensors: Any, attention: str) -> None:
    run = varied_run(tmp_path / "run", attention=attention, tied_embeddings="all")
    folder = exported(run, tmp_path / "out", "safetensors")
    expected, found = run.load_model().state_dict(), RunDirectory(folder).load_model().state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    size = sum(parameter.numel() for parameter in run.load_model().parameters())  # tied ones counted once
    assert (folder / "model.safetensors").stat().st_size < 4 * size + 20_000
    # Moved to another place, it translates as the run does, without the run.
    lines = LINES[:4]
    folder = folder.rename(tmp_path / "elsewhere")
    expected_lines = [t.text for t in Translator.load(run.path, device="cpu").translate(lines)]
    assert [t.text for t in Translator.load(folder, device="cpu").translate(lines)] == expected_lines


def test_training_may_start_from_safetensors(tmp_path: Path, safetensors: Any) -> None:
    run = RunDirectory(toy_run(tmp_path / "run"))
    folder = RunDirectory(exported(run, tmp_path / "out", "safetensors"))
    model = build_model(run.config().model, toy_tokenizers())
    assert folder.load_weights_into(model) == folder.path / "model.safetensors"
    expected = run.load_model().state_dict()
    assert all(torch.equal(expected[name], found) for name, found in model.state_dict().items())


def test_a_safetensors_folder_that_does_not_fit(tmp_path: Path, safetensors: Any) -> None:
    run = RunDirectory(toy_run(tmp_path / "run"))
    folder = RunDirectory(exported(run, tmp_path / "out", "safetensors", "--quantization", "bfloat16"))
    (folder.path / "SHA256SUMS").unlink()
    weights = folder.path / "model.safetensors"
    config, whole = folder.config_file.read_text(encoding="utf-8"), weights.read_bytes()
    folder.config_file.write_text(config.replace("ffn_dim: 64", "ffn_dim: 48"), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*feed_forward"):
        folder.load_model()
    folder.config_file.write_text(config, encoding="utf-8")
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        folder.load_model()
    weights.write_bytes(whole)
    with open(folder.tokenizer / "joint.model", "ab") as model:
        model.write(b"\x1a\x05\x0a\x03abc")  # another name of the normalizer: the same pieces, another model
    with pytest.raises(CheckpointError, match="another vocabulary"):
        folder.load_model()


def test_a_user_error_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = varied_run(tmp_path / "run")

    def refused(form: str, *arguments: str) -> str:
        output = str(tmp_path / "out")
        assert export.main(["--model", str(run.path), "--format", form, "--output", output, *arguments]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "accepted for safetensors: float32, float16, bfloat16" in refused("safetensors", "--quantization", "int8")
    for form, package, extra in (
        ("ctranslate2", "ctranslate2.specs", "export"),
        ("safetensors", "safetensors.torch", "export"),
        ("huggingface", "transformers", "huggingface"),
    ):
        with monkeypatch.context() as absent:
            absent.setitem(sys.modules, package, None)
            assert f"pip install 'nmt_rela[{extra}]'" in refused(form)
    pytest.importorskip("safetensors", reason="safetensors is not installed: pip install -e '.[export]'")
    assert "did you mean 'last'?" in refused("safetensors", "--checkpoint", "lost")
    (tmp_path / "out").mkdir()
    assert "exists already" in refused("safetensors")
