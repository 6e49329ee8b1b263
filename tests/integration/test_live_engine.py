"""The live page's engine against Python: SentencePiece against its library, models against the same int8 weights."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from javascript import Engine
from odd_text import odd_lines

from nmt_rela.analysis.head_ablation import ablate_heads
from nmt_rela.analysis.live_model import pack_model, quantize_rows
from nmt_rela.attention.variants import ATTENTION_VARIANTS
from nmt_rela.data.tokenizer import SentencePieceTokenizer
from nmt_rela.generation.beam_search import beam_search
from nmt_rela.generation.decoding_step import SearchConstraints
from nmt_rela.models.attention_capture import capture_attention
from nmt_rela.models.incremental_decoder import IncrementalDecoder
from nmt_rela.models.transformer import Transformer


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("profile")) as started:
        yield started


# ---------------------------------------------------------------- sub-words
RULES = ("identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"byte_fallback": True},
    {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    {"treat_whitespace_as_suffix": True},
)


TOKENIZE = """
const bytes = Uint8Array.from(atob(given.model), (character) => character.charCodeAt(0));
const tokenizer = new SentencePieceTokenizer(bytes, given.vocabulary);
const ids = given.text.map((line) => tokenizer.encode(line));
return {ids, text: given.ids.map((line) => tokenizer.decode(line))};
"""


def train_tokenizer(directory: Path, model_type: str, rule: str, **options: Any) -> bytes:
    corpus = [" ".join(line.split()) for line in odd_lines(1200, seed=1)]
    (directory / "corpus").write_text("".join(f"{line}\n" for line in corpus if line), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "corpus"), model_prefix=str(directory / "model"), vocab_size=2400, model_type=model_type,
        normalization_rule_name=rule, character_coverage=0.985, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, unk_id=1, eos_id=2, bos_id=3, user_defined_symbols=["<2de>", "foo_bar"], **options,
    )  # fmt: skip
    return (directory / "model.model").read_bytes()


def given_tokenizer(
    model: bytes, text: list[str], ids: list[list[int]], vocabulary: list[str] | None = None
) -> dict[str, Any]:
    return {"model": base64.b64encode(model).decode(), "text": text, "ids": ids, "vocabulary": vocabulary}


def check_tokenizer(engine: Engine, directory: Path, model_type: str, rule: str, lines: int, **options: Any) -> None:
    """Ids of lines, and their text again, are those of the library."""
    model, text = train_tokenizer(directory, model_type, rule, **options), odd_lines(lines, seed=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    wanted = processor.encode(text, out_type=int)
    found = engine.run(TOKENIZE, given_tokenizer(model, text, wanted))
    differing = [line for line, ours, theirs in zip(text, found["ids"], wanted, strict=True) if ours != theirs]
    assert differing == []
    assert found["text"] == processor.decode(wanted)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_tokenization_equals_the_library(engine: Engine, tmp_path: Path, model_type: str) -> None:
    check_tokenizer(engine, tmp_path, model_type, "nmt_nfkc", 500)


def test_ids_of_a_vocabulary_beside_the_model_equal_python(engine: Engine, tmp_path: Path) -> None:
    """As in runs of imported Marian models: other ids, sub-words that the model lacks, a tag before the line."""
    train_tokenizer(tmp_path, "unigram", "nmt_nfkc")
    own = SentencePieceTokenizer.load(tmp_path / "model.model")
    vocabulary = ["<pad>", "<unk>", "</s>", "<s>", ">>de<<", "▁elsewhere", *reversed(own.vocabulary[4:1500])]
    tokenizer = SentencePieceTokenizer(own.model, name="test", vocabulary=vocabulary)
    text = [">>de<< " + line if i % 3 else line for i, line in enumerate(odd_lines(200, seed=2))]
    ids = [[*line, 5] for line in tokenizer.encode(text)]
    found = engine.run(TOKENIZE, given_tokenizer(own.model, text, ids, vocabulary))
    assert [[*line, 5] for line in found["ids"]] == ids
    assert found["text"] == tokenizer.decode(ids)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_tokenization_of_5000_lines_equals_the_library(
    engine: Engine, tmp_path: Path, model_type: str, rule: str, options: dict[str, Any]
) -> None:
    check_tokenizer(engine, tmp_path, model_type, rule, 5000, **options)


# ---------------------------------------------------------------- models
VOCABULARY = 60
LAYOUTS: dict[str, dict[str, Any]] = {
    "pre-norm": {"norm_order": "pre", "tied_embeddings": "all", "activation": "gelu"},
    "post-norm": {
        "norm_order": "post", "tied_embeddings": "none", "embedding_bias": True, "decoder_start": "zero"
    },
    "Marian": {
        "norm_order": "post", "tied_embeddings": "all", "activation": "swish", "output_bias": True,
        "scale_embeddings": False, "positions": "marian", "layer_norm_epsilon": 0.01, "decoder_start": "zero",
    },
}  # fmt: skip
#: Searches as the engine's options.
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"beamSize": 1, "lengthPenalty": 0.6},
    "beam": {"beamSize": 4, "lengthPenalty": 0.6},
    "early stopping": {"beamSize": 5, "lengthPenalty": 1.2, "earlyStopping": True, "minLength": 3},
    "without heads": {
        "beamSize": 4, "lengthPenalty": 0.6,
        "off": [["encoder", 0, 1], ["decoder", 1, 2], ["cross", 0, 0], ["cross", 1, 3]],
    },
}  # fmt: skip
TRANSLATE = """
const model = new Transformer(given.header, Uint8Array.from(atob(given.weights), (c) => c.charCodeAt(0)).buffer);
const found = [];
for (const source of given.sources) {
  const searches = {}, weights = {};
  for (const [name, options] of Object.entries(given.searches)) {
    const off = headsOff(options.off ?? []);
    const decoder = new IncrementalDecoder(model, model.encode(source, off), off);
    searches[name] = await beamSearch(decoder, {...options, maxLength: source.length + 8});
  }
  const record = (site, layer, query, head, slots, row) => {
    ((weights[`${site} ${layer}`] ??= [])[head] ??= [])[query] = [...row];
  };
  const target = searches.beam[0].tokens, hidden = model.encode(source, NOTHING_OFF, record);
  const logits = new IncrementalDecoder(model, hidden).read([BOS, ...target.slice(0, -1)], record);
  found.push({searches, weights, logProbs: logits.map((values, i) => logSoftmax(values)[target[i]])});
}
return found;
"""


def random_model(variant: str, layout: str) -> Transformer:
    """A model whose predictions are far from uniform, with the weights that its int8 form stands for."""
    torch.manual_seed(3)
    shape = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32, "ffn_dim": 48, "num_heads": 4}
    model = Transformer(VOCABULARY, VOCABULARY, attention=variant, **shape, **LAYOUTS[layout]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(1.5)
            elif "norm" not in name:
                parameter.normal_(0, 0.3)
    return model


@torch.no_grad()
def dequantize(model: Transformer) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            codes, scales = quantize_rows(parameter.numpy())
            parameter.copy_(torch.from_numpy(codes * scales[:, None]))


@torch.no_grad()
def check_model(engine: Engine, variant: str, layout: str, sentences: int) -> None:
    """Translations agree in 99.5 % of the sentences; scores and weights to 1e-3, those of equal translations."""
    model = random_model(variant, layout)
    packed = pack_model(model)
    dequantize(model)
    sources = [[*torch.randint(4, VOCABULARY, (1 + i % 13,)).tolist(), 2] for i in range(sentences)]
    found = engine.run(
        TRANSLATE,
        {
            "header": packed.header,
            "weights": base64.b64encode(packed.weights).decode(),
            "sources": sources,
            "searches": SEARCHES,
        },
    )
    agreeing = 0
    for source, ours in zip(sources, found, strict=True):
        for name, options in SEARCHES.items():
            off = [tuple(head) for head in options.get("off", ())]
            with ablate_heads(model, off):
                theirs = python_search(model, source, options)
            if [list(h.tokens) for h in theirs] == [h["tokens"] for h in ours["searches"][name]]:
                agreeing += 1
                scores = [h["score"] for h in ours["searches"][name]]
                np.testing.assert_allclose(scores, [h.score for h in theirs], atol=1e-3)
        compare_reading(model, source, ours)
    assert agreeing >= 0.995 * len(SEARCHES) * sentences


def python_search(model: Transformer, source: list[int], options: dict[str, Any]) -> list[Any]:
    length = len(source) + 8
    encoded = model.encode(torch.tensor([source]))
    beam = options["beamSize"]
    constraints = SearchConstraints(
        max_lengths=torch.tensor([length]),
        min_length=options.get("minLength", 0),
        length_penalty=options["lengthPenalty"],
    )
    decoder = IncrementalDecoder(model, encoded, num_beams=beam, max_length=length)
    (found,) = beam_search(
        decoder, constraints, beam_size=beam, n_best=beam, early_stopping=options.get("earlyStopping", False)
    )
    return found


def compare_reading(model: Transformer, source: list[int], ours: dict[str, Any]) -> None:
    """Weights and log-probabilities of the teacher-forced pass over the engine's own translation."""
    inputs, target = torch.tensor([source]), torch.tensor([ours["searches"]["beam"][0]["tokens"]])
    with capture_attention(model) as attention:
        logits = model(inputs, model.shift_right(target))
    wanted = logits.log_softmax(2).gather(2, target.unsqueeze(2)).flatten()
    np.testing.assert_allclose(ours["logProbs"], wanted, atol=1e-3)
    for (site, layer), wanted in attention.items():
        keys = wanted.shape[3]  # of a prefix in the decoder: the engine has no later positions
        rows = [[[*row, *[0] * (keys - len(row))] for row in head] for head in ours["weights"][f"{site} {layer}"]]
        np.testing.assert_allclose(rows, wanted[0], atol=1e-3)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_searches_scores_and_weights_equal_python(engine: Engine, variant: str) -> None:
    layouts = {"softmax": "Marian", "rela-g": "pre-norm"}
    check_model(engine, variant, layouts.get(variant, "post-norm"), 4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_searches_of_500_sentences_equal_python(engine: Engine, variant: str, layout: str) -> None:
    check_model(engine, variant, layout, 500)


def test_int8_rows_are_within_half_a_step() -> None:
    matrix = np.random.default_rng(1).normal(size=(7, 50)).astype(np.float32)
    matrix[3] = 0
    for bits in (8, 5):
        codes, scales = quantize_rows(matrix, bits=bits)
        assert np.abs(codes.astype(int)).max() == 2 ** (bits - 1) - 1
        assert np.all(np.abs(codes * scales[:, None] - matrix) <= scales[:, None] * 0.501)


def test_tied_matrices_are_packed_once() -> None:
    packed, separate = (
        pack_model(
            Transformer(50, 50, encoder_layers=1, decoder_layers=1, d_model=16, num_heads=2, tied_embeddings=tied)
        )
        for tied in ("all", "none")
    )
    assert len(separate.weights) - len(packed.weights) == 2 * 50 * (16 + 4)
    assert [t["name"] for t in packed.header["tensors"] if "same_as" in t] == [
        "source_embedding.weight", "target_embedding.weight"
    ]  # fmt: skip
