"""The compiled decoder computes what PyTorch computes, whatever the beams do, and is left out where it cannot."""

from __future__ import annotations

import copy
import logging
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from toy_translator import sentences, toy_model, toy_run, toy_tokenizers

from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.data.tokenizer import BOS, EOS
from nmt_rela.generation.device import Precision, prepare_for_inference
from nmt_rela.generation.translator import Translator
from nmt_rela.kernels.availability import assume_processor
from nmt_rela.kernels.cpu import native_library as library
from nmt_rela.models.decoders import DECODERS, Decoder, choose_decoder, start_decoder
from nmt_rela.models.transformer import Transformer
from nmt_rela.utils.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")
VOCABULARY = 70

needs_compiler = pytest.mark.skipif(library.native_library() is None, reason="no C++ compiler, or no AVX2")


def model_of(precision: Precision = "float32", **changes: object) -> Transformer:
    """A model whose vectors all differ from what they were set to at first."""
    torch.manual_seed(2)
    config = {"d_model": 32, "ffn_dim": 48, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2, **changes}
    model = Transformer(VOCABULARY, VOCABULARY, **config).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return prepare_for_inference(model, precision, CPU)


def padded_source(count: int) -> Tensor:
    """Sentences of different lengths, one of which is empty."""
    source = torch.randint(4, VOCABULARY, (count, 7), generator=torch.Generator().manual_seed(1))
    for row in range(count):
        source[row, 7 - 2 * (row % 4) :] = 0
    source[-1] = 0
    return source


def logits_of(name: str, model: Transformer, source: Tensor) -> list[Tensor]:
    """The logits of some steps in which beams are re-ordered at random and sentences leave."""
    draw = torch.Generator().manual_seed(0)
    beams, steps = 3, 9
    decoder: Decoder = DECODERS[name](model, source, beams, steps)
    tokens, found = torch.full((len(source), 1), BOS), []
    for step in range(steps):
        found.append(decoder.step(tokens).clone())
        active = len(tokens)
        if step in (3, 4) and active > 1:
            kept = torch.randperm(active, generator=draw)[: active - active // 3].sort().values
            decoder.select_sentences(kept)
            active = len(kept)
        decoder.reorder(torch.randint(0, tokens.shape[1], (active, beams), generator=draw))
        tokens = torch.randint(4, VOCABULARY, (active, beams), generator=draw)
    return found


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("norm_order", ["post", "pre"])
@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
@torch.inference_mode()
def test_any_reordering_and_leaving_is_as_in_pytorch(attention: str, norm_order: str, precision: Precision) -> None:
    model, source = model_of(precision, attention=attention, norm_order=norm_order), padded_source(6)
    for native, pytorch in zip(logits_of("native", model, source), logits_of("pytorch", model, source), strict=True):
        if precision == "float32":
            torch.testing.assert_close(native, pytorch, atol=2e-5, rtol=1e-5)
        else:  # a number between two levels may be rounded either way
            assert float((native - pytorch).norm() / pytorch.norm()) < 0.03


@needs_compiler
@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 128, "num_heads": 2},  # heads of whole vectors
        {"d_model": 30, "ffn_dim": 41, "num_heads": 3},  # rows of broken vectors
        {"activation": "swish", "embedding_bias": True, "output_bias": True},
        {"activation": "gelu", "tied_embeddings": "none", "scale_embeddings": False, "layer_norm_epsilon": 1e-3},
        {"decoder_start": "zero", "positions": "marian", "tied_embeddings": "all", "decoder_layers": 3},
        {"attention": {"encoder": "sparsemax", "decoder": "rela-g", "cross": "entmax15"}},
    ],
    ids=str,
)
@torch.inference_mode()
def test_every_setting_of_a_model_is_known(changes: dict[str, object]) -> None:
    model, source = model_of(**changes), padded_source(4)
    for native, pytorch in zip(logits_of("native", model, source), logits_of("pytorch", model, source), strict=True):
        torch.testing.assert_close(native, pytorch, atol=2e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int8"])
@torch.inference_mode()
def test_a_sentence_does_not_depend_on_its_batch(precision: Precision) -> None:
    model, source = model_of(precision), padded_source(30)[:, :5]
    tokens = torch.randint(4, VOCABULARY, (30, 4), generator=torch.Generator().manual_seed(5))
    start = torch.full((30, 1), BOS)
    joint: Decoder = DECODERS["native"](model, source, 4, 8)
    joint.step(start)
    joint.reorder(torch.zeros(30, 4, dtype=torch.long))
    wanted = joint.step(tokens)
    for row in range(30):
        alone: Decoder = DECODERS["native"](model, source[row : row + 1, : int((source[row] != 0).sum())], 4, 8)
        alone.step(start[:1])
        alone.reorder(torch.zeros(1, 4, dtype=torch.long))
        assert torch.equal(alone.step(tokens[row : row + 1])[0], wanted[row])


@needs_compiler
def test_scores_are_those_of_forced_decoding(tmp_path: Path) -> None:
    translator = Translator.load(toy_run(tmp_path / "run"), device="cpu")
    (model,), lines = translator.models, sentences(8, seed=4)
    assert choose_decoder(model) == "native"
    with torch.inference_mode():
        for line, translation in zip(lines, translator.translate(lines, n_best=3), strict=True):
            (source,) = translator.tokenizers.source.encode([line])
            for hypothesis in translation.hypotheses:
                target = torch.tensor([toy_tokenizers().target.convert_pieces_to_ids(hypothesis.tokens)])
                logits = model(torch.tensor([[*source, EOS]]), model.shift_right(target))
                wanted = logits.log_softmax(2).gather(2, target.unsqueeze(2)).flatten()
                assert hypothesis.token_log_probabilities == pytest.approx(wanted.tolist(), abs=1e-4)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("attention", ATTENTION_VARIANTS)
@pytest.mark.parametrize("where", ["cross_attention.q_proj", "feed_forward.fc2"])
def test_weights_that_are_not_finite_are_an_error(where: str, attention: str, precision: Precision) -> None:
    model = toy_model(attention=attention)
    with torch.no_grad():
        model.get_submodule(f"decoder.1.{where}").weight[3, 5] = torch.nan  # type: ignore[operator,index]
    translator = Translator(prepare_for_inference(model, precision, CPU), toy_tokenizers())
    with pytest.raises(CheckpointError, match="not finite"):
        translator.translate(["Hund und Katze"])


@needs_compiler
@torch.inference_mode()
def test_memory_that_is_lacking_is_an_exception_of_pytorch() -> None:
    decoder = start_decoder(model_of(), padded_source(1), num_beams=1, max_length=3)
    decoder.step(torch.full((1, 1), BOS))
    parents = torch.zeros(1, 1 << 22, dtype=torch.long)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 25), before[1]))
    try:
        with pytest.raises(torch.OutOfMemoryError, match="compiled decoder"):
            decoder.reorder(parents)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@needs_compiler
@torch.inference_mode()
def test_tokens_outside_the_vocabulary_are_an_error() -> None:
    model, beyond = model_of(), torch.tensor([[VOCABULARY]])
    first = beyond - 1
    with pytest.raises(IndexError, match="not in the vocabulary"):
        start_decoder(model, beyond, num_beams=1, max_length=3)
    with pytest.raises(IndexError, match="not in the vocabulary"):
        start_decoder(model, first, num_beams=1, max_length=3).step(beyond)


@needs_compiler
def test_the_default_dtype_changes_nothing() -> None:
    translator = Translator(prepare_for_inference(toy_model(), "float32", CPU), toy_tokenizers())
    wanted = translator.translate(["Hund und Katze"], n_best=3)
    torch.set_default_dtype(torch.float64)
    try:
        assert translator.translate(["Hund und Katze"], n_best=3) == wanted
    finally:
        torch.set_default_dtype(torch.float32)


@needs_compiler
def test_pytorch_decodes_what_compiled_code_cannot() -> None:
    model = model_of()
    assert choose_decoder(model) == "native"
    with assume_processor("none"):
        assert choose_decoder(model) == "pytorch"
    with torch.autocast("cpu"):
        assert choose_decoder(model) == "pytorch"
    handle = model.attention_modules()["cross", 0].hook_z.register_forward_hook(lambda *_: None)
    assert choose_decoder(model) == "pytorch"
    handle.remove()
    assert choose_decoder(model) == "native"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert choose_decoder(model) == "pytorch"
    handle.remove()
    assert choose_decoder(copy.deepcopy(model)) == "pytorch"
    assert choose_decoder(model) == "native"
    assert prepare_for_inference(toy_model(), "bf16", CPU).native is None


def scale_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda _module, inputs: (3.0 * inputs[0],))


CHANGES: dict[str, Callable[[Transformer], object]] = {
    "a weight": lambda model: model.decoder[0].self_attention_residual.layer_norm.weight.mul_(3.0),
    "a weight through .data": lambda model: model.decoder[0].feed_forward.fc1.bias.data.add_(3.0),
    "a gate": lambda model: model.decoder[1].cross_attention.output_norm.gate.zero_(),
    "all embeddings": lambda model: model.output_embedding.neg_(),
    "an embedding through .data": lambda model: model.source_embedding.weight.data[5:].neg_(),
    "positions": lambda model: model.source_embedding.positions.zero_(),
    "a new parameter": lambda model: setattr(model, "output_bias", nn.Parameter(torch.randn(VOCABULARY))),
    "a state dict": lambda model: model.load_state_dict({k: 2.0 * v for k, v in model.state_dict().items()}),
    "a module": lambda model: setattr(model.decoder[0], "feed_forward", model.decoder[1].feed_forward),
    "a layer less": lambda model: model.decoder.pop(0),
    "an attribute": lambda model: setattr(model.decoder[0].feed_forward, "activation", "gelu"),
    "a method": lambda model: setattr(model.decoder[0].feed_forward, "forward", torch.sin),
    "a method of the model": lambda model: setattr(model, "output_projection", lambda x: x[..., :9]),
    "a hook": lambda model: scale_hook(model.encoder[1].feed_forward),
    "a parametrization": lambda model: parametrize.register_parametrization(
        model.decoder[1].feed_forward_residual.layer_norm, "weight", nn.Tanh()
    ),
}


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_decodes_as_it_now_is(change: str) -> None:
    source = padded_source(5)
    outputs = []
    for decoders in ("native", "pytorch"):
        model = model_of()
        before = first_logits(model, source)
        with torch.no_grad():
            CHANGES[change](model)
        if decoders == "pytorch":
            model.native = None
        outputs.append(first_logits(model, source))
    assert before.shape != outputs[1].shape or not torch.allclose(before, outputs[1], atol=1e-2)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def first_logits(model: Transformer, source: Tensor) -> Tensor:
    decoder = start_decoder(model, source, num_beams=1, max_length=3)
    return decoder.step(torch.full((len(source), 1), BOS)).clone()


@pytest.fixture
def compiled() -> Path:
    """The library of this machine."""
    return library._compiled()


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache directory, and a PATH without programs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    library.native_library.cache_clear()
    yield tmp_path
    library.native_library.cache_clear()


def test_without_a_compiler_one_line_is_logged(no_library: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nmt_rela")
    assert choose_decoder(model_of()) == choose_decoder(model_of()) == "pytorch"
    (line,) = caplog.messages
    assert "found no C++ compiler (g++, clang++, c++)" in line


def test_a_compiler_that_fails_is_named(no_library: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nmt_rela")
    fake_compiler(no_library, "echo 'In file:'; echo 'error: no room' >&2; exit 1")
    assert library.native_library() is None
    assert "g++ failed: error: no room" in caplog.messages[-1]


def fake_compiler(folder: Path, script: str) -> None:
    (folder / "g++").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "g++").chmod(0o755)


def test_a_compiler_that_hangs_is_given_up(
    no_library: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="nmt_rela")
    fake_compiler(no_library, "/bin/sleep 9 & wait")
    monkeypatch.setattr(library, "_TIMEOUT", 0.2)
    start = time.monotonic()
    assert library.native_library() is None
    assert time.monotonic() - start < 5.0
    assert "g++ takes more than 0.2 seconds" in caplog.messages[-1]


def test_a_cache_to_which_others_may_write_is_not_used(no_library: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nmt_rela")
    fake_compiler(no_library, "exit 0")
    (no_library / "nmt_rela").mkdir()
    (no_library / "nmt_rela").chmod(0o770)
    assert library.native_library() is None
    assert "other users may write to" in caplog.messages[-1]


@needs_compiler
def test_a_damaged_library_is_compiled_again(compiled: Path, no_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(no_library, f'for last; do :; done; echo "$1" >> "{no_library}/calls"; /bin/cp "{compiled}" "$last"')
    monkeypatch.setenv("CXX", "g++ -DARGUMENT")
    for _ in range(2):
        assert library.native_library.__wrapped__() is not None
    (path,) = (no_library / "nmt_rela").iterdir()
    damaged = path.read_bytes()[:5000]
    path.unlink()  # this process still uses it
    path.write_bytes(damaged)
    assert library.native_library.__wrapped__() is not None
    assert (no_library / "calls").read_text().split() == 2 * ["-DARGUMENT"]


def test_a_cpu_without_vectors_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nmt_rela")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert library.native_library.__wrapped__() is None
    assert "PyTorch sees no AVX2 on this CPU" in caplog.messages[-1]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["haswell", "skylake-avx512"])
@torch.inference_mode()
def test_int8_needs_no_vnni(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older CPUs sum pairs in 16 bits, and numbers have half as many levels."""
    if cpu == "skylake-avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("no AVX-512 on this CPU")
    monkeypatch.setattr(library, "_OPTIONS", tuple(option.replace("native", cpu) for option in library._OPTIONS))
    monkeypatch.setattr("nmt_rela.models.native_decoder.native_library", library.native_library.__wrapped__)
    for module, name, value in (("models.native_decoder", "LEVELS", 63), ("kernels.cpu.packed_linear", "LEVELS", 63)):
        monkeypatch.setattr(f"nmt_rela.{module}.{name}", value)
    monkeypatch.setattr("nmt_rela.kernels.cpu.packed_linear._ZERO", 64)
    model, source = model_of("int8"), padded_source(6)
    for native, pytorch in zip(logits_of("native", model, source), logits_of("pytorch", model, source), strict=True):
        assert float((native - pytorch).norm() / pytorch.norm()) < 0.03


def test_the_environment_decides(no_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMT_RELA_KERNELS", "require")
    with pytest.raises(ConfigError, match=r"NMT_RELA_KERNELS: found 'require', but .*no C\+\+ compiler"):
        library.native_library()
    monkeypatch.setenv("NMT_RELA_KERNELS", "off")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled"))
    assert library.native_library() is None
